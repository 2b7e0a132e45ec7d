"""Images: sizes are the processor's own, every format comes out upright and right, faults are named."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import math
import os
import random
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms, ImageDraw

try:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize
except ImportError:  # transformers 4
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from tgi_stack.errors import ImageError, MachineError
from tgi_stack.images import files, jpeg
from tgi_stack.images import prepare as prepare_module
from tgi_stack.images.files import read_file
from tgi_stack.images.grid import Grid, fit
from tgi_stack.images.prepare import prepare
from tgi_stack.tiny import TINY
from tgi_stack.types import PreparedImage

QWEN3_VL = Grid(32, 65_536, 16_777_216)
QWEN2_5_VL = Grid(28, 3_136, 12_845_056)
TINY_GRID = Grid.from_checkpoint(TINY / "vision")
grids = st.sampled_from([QWEN3_VL, QWEN2_5_VL, TINY_GRID])
sides = st.integers(1, 6000)


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def pixels(prepared: PreparedImage) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(prepared.jpeg)))


def picture(width: int = 64, height: int = 64) -> Image.Image:
    """No two corners alike, so that any turn or flip shows."""
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, width // 2, height // 2), fill="red")
    draw.rectangle((width // 2, 0, width, height // 2), fill="blue")
    draw.rectangle((0, height // 2, width // 2, height), fill="green")
    return image


# -- sizes ---------------------------------------------------------------------------------------------


def fitted(width: int, height: int, grid: Grid, cap: int | None = None) -> tuple[int, int]:
    try:
        return fit(width, height, grid, cap)
    except ImageError:
        assert max(width, height) > 150 * min(width, height)
        return reject()


@given(sides, sides, grids)
def test_without_a_cap_sizes_are_the_processors(width: int, height: int, grid: Grid) -> None:
    sent = fitted(width, height, grid)
    expected = width, height
    for _ in range(40):
        h, w = smart_resize(expected[1], expected[0], grid.factor, grid.min_pixels, grid.max_pixels)
        expected = w, h
    assert sent == expected


@given(sides, sides)
def test_at_ordinary_aspects_the_processor_rests_at_once(width: int, height: int) -> None:
    if max(width, height) > 20 * min(width, height):
        return
    expected = smart_resize(height, width, 32, QWEN3_VL.min_pixels, QWEN3_VL.max_pixels)
    assert fit(width, height, QWEN3_VL) == tuple(reversed(expected))


@given(sides, sides, grids, st.sampled_from([28, 200, 448, 1000]))
def test_a_prepared_size_is_a_fixed_point(width: int, height: int, grid: Grid, cap: int) -> None:
    w, h = fitted(width, height, grid, cap)
    assert w % grid.factor == h % grid.factor == 0
    assert smart_resize(h, w, grid.factor, grid.min_pixels, grid.max_pixels) == (h, w)


@given(sides, sides)
def test_the_cap_holds_unless_the_floor_wins(width: int, height: int) -> None:
    if max(width, height) > 190 * min(width, height):
        return
    w, h = fit(width, height, TINY_GRID, 448)
    over = max(w, h) > 448
    assert not over or w * h <= TINY_GRID.min_pixels + TINY_GRID.factor * (w + h)


@pytest.mark.parametrize(
    ("size", "sent"),
    [((1500, 1500), (448, 448)), ((1600, 400), (512, 128)), ((2000, 100), (1152, 64)), ((1, 1), (256, 256))],
)
def test_sizes_at_448_for_qwen3_vl(size: tuple[int, int], sent: tuple[int, int]) -> None:
    assert fit(*size, QWEN3_VL, 448) == sent


def test_an_aspect_that_the_processor_refuses_is_refused() -> None:
    with pytest.raises(ImageError) as caught:
        fit(2010, 10, QWEN3_VL)
    assert caught.value.type == "image.aspect"


def test_a_folder_without_a_processor_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="Qwen-VL"):
        Grid.from_checkpoint(tmp_path)


# -- pixels --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation: int) -> None:  # I11
    upright = picture(96, 160)
    stored = {
        1: upright,
        2: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: upright.transpose(Image.Transpose.ROTATE_180),
        4: upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: upright.transpose(Image.Transpose.TRANSPOSE),
        6: upright.transpose(Image.Transpose.ROTATE_90),
        7: upright.transpose(Image.Transpose.TRANSVERSE),
        8: upright.transpose(Image.Transpose.ROTATE_270),
    }[orientation]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    turned = prepare(encoded(stored, exif=exif), "x", TINY_GRID)
    plain = prepare(encoded(upright), "x", TINY_GRID)
    assert np.array_equal(pixels(turned), pixels(plain))
    assert (turned.width, turned.height) == (96, 160)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", [6, 8])
def test_orientation_is_undone_once_in_every_format(format: str, orientation: int) -> None:  # I11
    upright = picture(96, 160)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    method = Image.Transpose.ROTATE_90 if orientation == 6 else Image.Transpose.ROTATE_270
    turned = prepare(encoded(upright.transpose(method), format, exif=exif), "x", TINY_GRID)
    assert (turned.width, turned.height) == (96, 160)
    assert psnr(pixels(turned), pixels(prepare(encoded(upright), "x", TINY_GRID))) > 30


def test_an_orientation_in_xmp_is_undone() -> None:  # I11
    upright = picture(200, 400)
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    stored = encoded(upright.transpose(Image.Transpose.ROTATE_90), "JPEG", xmp=xmp)
    turned = prepare(stored, "x", TINY_GRID)
    assert (turned.width, turned.height) == (200, 400)
    assert psnr(pixels(turned), pixels(prepare(encoded(upright), "x", TINY_GRID))) > 30


def test_unreadable_metadata_does_no_harm() -> None:
    content = encoded(picture(), "JPEG", exif=b"Exif\0\0garbagegarbage")
    assert prepare(content, "x", TINY_GRID).width == 64


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_a_16_bit_grey_keeps_its_levels(mode: str) -> None:  # I12
    gradient = np.tile(np.linspace(0, 65535, 256), (256, 1))
    image = Image.fromarray(gradient.astype(np.uint16 if mode == "I;16" else np.int32))
    row = pixels(prepare(encoded(image, "TIFF"), "x", TINY_GRID)).mean(axis=(0, 2))
    assert len(np.unique(row.round())) >= 200
    assert np.all(np.diff(row) > -2)  # rises, but for JPEG's rounding


def test_cmyk_is_not_inverted() -> None:  # I13
    red = Image.new("RGB", (64, 64), (220, 30, 40))
    out = pixels(prepare(encoded(red.convert("CMYK"), "JPEG", quality=95), "x", TINY_GRID))
    assert np.abs(out.reshape(-1, 3).mean(0) - [220, 30, 40]).max() < 12


def test_a_16_bit_colour_png_keeps_its_levels() -> None:  # I12
    """Pillow writes none, so it is written by hand: one row of 256 columns, 256 times."""
    levels = np.linspace(0, 65535, 256).astype(">u2")
    line = b"\0" + np.repeat(levels[:, None], 3, axis=1).tobytes()
    head = struct.pack(">IIBBBBB", 256, 256, 16, 2, 0, 0, 0)
    data = zlib.compress(line * 256)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    row = pixels(prepare(content, "x", TINY_GRID)).mean(axis=(0, 2))
    assert len(np.unique(row.round())) >= 200


def test_a_float_image_keeps_its_levels() -> None:  # I12
    gradient = np.tile(np.linspace(-3.0, 5.0, 256, dtype=np.float32), (256, 1))
    row = pixels(prepare(encoded(Image.fromarray(gradient), "TIFF"), "x", TINY_GRID)).mean(axis=(0, 2))
    assert len(np.unique(row.round())) >= 200


@pytest.mark.parametrize("colour", [(220, 30, 40), (20, 160, 60), (240, 240, 235)])
def test_an_adobe_jpeg_is_not_inverted(colour: tuple[int, ...]) -> None:  # I13
    """YCCK, ITU-T T.872: cyan, magenta, yellow as luminance and chrominance; Adobe stores them inverted."""
    inks = Image.new("RGB", (64, 64), tuple(255 - part for part in colour)).convert("YCbCr")
    stored = Image.merge(
        "CMYK", [*(band.point(lambda v: 255 - v) for band in inks.split()), Image.new("L", (64, 64))]
    )
    content = bytearray(encoded(stored, "JPEG", quality=95, subsampling=0))
    content[content.index(b"Adobe") + 11] = 2  # the transform: these three are YCbCr
    out = pixels(prepare(bytes(content), "x", TINY_GRID))
    assert np.abs(out.reshape(-1, 3).mean(0) - colour).max() < 12


def test_a_colour_profile_is_applied() -> None:
    """With a profile whose red and green primaries have changed places, so that it can't be overlooked."""
    srgb = Image.new("RGB", (64, 64), (200, 60, 50))
    swapped = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for old, new in (
        (b"rXYZ", b"?"),
        (b"gXYZ", b"rXYZ"),
        (b"?", b"gXYZ"),
        ("sRGB".encode("utf-16-be"), bytes(8)),
    ):
        swapped = swapped.replace(old, new)
    sent = pixels(prepare(encoded(srgb, "JPEG", quality=95, icc_profile=swapped), "x", TINY_GRID))
    assert np.abs(sent.reshape(-1, 3).mean(0) - [60, 200, 50]).max() < 12
    broken = pixels(prepare(encoded(srgb, "JPEG", quality=95, icc_profile=b"no profile"), "x", TINY_GRID))
    assert np.abs(broken.reshape(-1, 3).mean(0) - [200, 60, 50]).max() < 12


def test_alpha_is_laid_on_white() -> None:
    clear = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    assert pixels(prepare(encoded(clear), "x", TINY_GRID)).min() >= 250


def test_metadata_does_not_leave() -> None:  # I30
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "a private name"
    sent = prepare(encoded(picture(), "JPEG", exif=exif), "x", TINY_GRID).jpeg
    assert b"private" not in sent
    commented = encoded(picture(), "JPEG", comment=b"a private place")
    assert b"private" not in prepare(commented, "x", TINY_GRID).jpeg
    assert not dict(Image.open(io.BytesIO(sent)).getexif())


def test_a_tiny_image_grows_to_the_minimum() -> None:  # I10
    for side in (1, 2):
        prepared = prepare(encoded(Image.new("RGB", (side, side))), "x", TINY_GRID)
        assert prepared.sent_width * prepared.sent_height >= TINY_GRID.min_pixels


# -- JPEGs decoded no larger than needed ----------------------------------------------------------------


def scene(width: int, height: int) -> Image.Image:
    """Light that falls off, edges at all angles and a fine texture: what photographs are made of."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    light = 200 - 90 * np.hypot(x / width - 0.4, y / height - 0.3)
    rng = np.random.default_rng(1)
    texture = np.repeat(np.repeat(rng.normal(0, 6, (height // 4 + 1, width // 4 + 1)), 4, 0), 4, 1)
    shades = np.stack([light, light * 0.9, light * 0.7], -1) + texture[:height, :width, None]
    image = Image.fromarray(shades.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for turn in range(0, 360, 24):
        dx, dy = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        end = (width / 2 + 0.4 * width * dx, height / 2 + 0.4 * height * dy)
        draw.line((width / 2, height / 2, *end), fill=(turn % 256, 90, 180), width=9)
    return image


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(np.mean((a.astype(float) - b) ** 2), 1e-9)))


def as_the_seed_does(content: bytes, size: tuple[int, int]) -> np.ndarray:
    image = Image.open(io.BytesIO(content)).convert("RGB").resize(size, Image.Resampling.LANCZOS)
    return np.asarray(Image.open(io.BytesIO(encoded(image, "JPEG", quality=90))))


@pytest.mark.parametrize(
    "size", [(1500, 1500), (1501, 1499), (3000, 1700), (900, 880), (600, 420), (448, 448)]
)
def test_reduced_decoding_stays_within_38_db(size: tuple[int, int]) -> None:
    content = encoded(scene(*size), "JPEG", quality=92)
    sent = prepare(content, "x", QWEN3_VL, max_side_px=448)
    assert (sent.width, sent.height) == size
    assert psnr(pixels(sent), as_the_seed_does(content, (sent.sent_width, sent.sent_height))) >= 38


@pytest.mark.parametrize(
    ("size", "wanted", "decoded"),
    [
        ((1500, 1500), (448, 448), (750, 750)),
        ((1342, 1500), (448, 448), (1342, 1500)),  # half is one pixel short
        ((3002, 3002), (448, 448), (1501, 1501)),  # not halved again: a pixel is left over
        ((5376, 5376), (448, 448), (672, 672)),
        ((9600, 9600), (32, 32), (1200, 1200)),  # an eighth at most
        ((448, 448), (448, 448), (448, 448)),
    ],
)
def test_how_far_a_decoding_is_reduced(
    size: tuple[int, int], wanted: tuple[int, int], decoded: tuple[int, int]
) -> None:
    assert jpeg.reduced_size(size, wanted) == decoded


def test_a_rotated_jpeg_is_reduced_when_upright() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    upright = scene(1200, 2400)
    content = encoded(upright.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif, quality=92)
    sent = prepare(content, "x", QWEN3_VL)
    assert (sent.width, sent.height) == (1200, 2400)
    plain = prepare(encoded(upright, "JPEG", quality=92), "x", QWEN3_VL)
    assert psnr(pixels(sent), pixels(plain)) >= 38


def test_pillows_filter_differs_by_rounding_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = encoded(scene(1500, 1100), "JPEG", quality=92)
    fast = pixels(prepare(content, "x", QWEN3_VL))
    monkeypatch.setattr(prepare_module, "pic_scale", None)
    assert psnr(fast, pixels(prepare(content, "x", QWEN3_VL))) >= 42


# -- faults --------------------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises that many pixels and holds next to none."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(9)))


JPEG = encoded(picture(400, 300), "JPEG")
PNG = encoded(picture(400, 300))
PNG64 = encoded(picture())


@pytest.mark.parametrize(
    ("content", "type"),
    [
        (b"<!DOCTYPE html><html>404</html>", "image.unrecognised"),  # I02
        (JPEG[: len(JPEG) // 2], "image.truncated"),  # I03
        (JPEG[:-2], "image.truncated"),  # I04
        (PNG[:60] + bytes(20) + PNG[80:], "image.corrupt"),  # I05
        (b"RIFF\x20\0\0\0WEBPVP8 " + bytes(20), "image.corrupt"),  # I05
        (png_header(13_000, 13_000), "image.too_large"),  # I06
        (png_header(9_000, 9_000), "image.too_large"),  # I07
        (png_header(15_000, 15_000), "image.too_large"),  # I08
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "image.unrecognised"),  # I18
        (b"%PDF-1.7\n", "image.unrecognised"),  # I18
        (b"8BPS\0\1" + bytes(40), "image.unrecognised"),  # I18
        (b"SIMPLE  =                    T" + bytes(2850), "image.unrecognised"),  # I18
        (b"DDS |\0\0\0" + bytes(140), "image.unrecognised"),  # I18
        (b"icns\0\0\1\0" + bytes(250), "image.unrecognised"),  # I18
        (b"\xd7\xcd\xc6\x9a" + bytes(60), "image.unrecognised"),  # I18
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image.unrecognised"),  # I20
        (b"\xff\x0a" + bytes(60), "image.unsupported"),  # I17
        (png_header(0, 64), "image.corrupt"),
        (png_header(64, 0), "image.corrupt"),
        (b"GIF89a" + bytes(7) + b";", "image.corrupt"),
        (b"BM" + bytes(12) + b"\x28\0\0\0" + bytes(40), "image.corrupt"),
    ],
)
def test_what_is_no_sound_image_is_refused(content: bytes, type: str) -> None:
    with pytest.raises(ImageError) as caught:
        prepare(content, "picture.jpg", TINY_GRID)
    assert caught.value.type == type
    assert "picture.jpg" in str(caught.value)
    assert "0x" not in str(caught.value)  # no object addresses


def test_a_jpegs_damaged_middle_is_refused() -> None:  # I05
    """A JPEG has no checksum: some damage decodes to other pixels. What the decoder notices is not sent."""
    sound = encoded(scene(400, 300), "JPEG")
    refused = 0
    for seed in range(40):
        rng = random.Random(seed)
        damaged = bytearray(sound)
        place = rng.randrange(len(sound) // 3, len(sound) - 60)
        damaged[place : place + 40] = rng.randbytes(40)
        flags = prepare(bytes(damaged), "x", TINY_GRID, allow_truncated=True).flags
        if flags:
            refused += 1
            with pytest.raises(ImageError, match=r"x\.jpg") as caught:
                prepare(bytes(damaged), "x.jpg", TINY_GRID)
            assert caught.value.type in ("image.corrupt", "image.truncated")
    assert refused >= 20


def test_a_polyglot_is_treated_as_its_image() -> None:  # I20
    gif = encoded(picture(), "GIF")
    assert prepare(gif + b"<html><script>alert(1)</script></html>", "x.gif", TINY_GRID).flags == ()


def test_a_bomb_takes_no_memory() -> None:  # I06, I07, I08
    tracemalloc.start()
    for side in (9_000, 13_000, 15_000):
        with pytest.raises(ImageError):
            prepare(png_header(side, side), "x", TINY_GRID)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_avif_and_heic_are_decoded() -> None:  # I17
    assert prepare(encoded(picture(), "AVIF"), "x.avif", TINY_GRID).width == 64
    pillow_heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    pillow_heif.from_pillow(picture()).save(buffer)
    assert (
        psnr(pixels(prepare(buffer.getvalue(), "x.heic", TINY_GRID)), pixels(prepare(PNG64, "x", TINY_GRID)))
        > 25
    )


def test_heic_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:  # I17
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImageError, match=r"fastqwen\[heif\]") as caught:
        prepare(b"\0\0\0\x18ftypheic" + bytes(40), "x.heic", TINY_GRID)
    assert caught.value.type == "image.unsupported"


@pytest.mark.parametrize(
    ("format", "name"), [("GIF", "x.gif"), ("WEBP", "x.webp"), ("PNG", "x.png"), ("TIFF", "x.tif")]
)
def test_the_first_of_several_frames_is_flagged(format: str, name: str) -> None:  # I15
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    prepared = prepare(encoded(frames[0], format, save_all=True, append_images=frames[1:]), name, TINY_GRID)
    assert prepared.flags == ("image.frames",)
    assert pixels(prepared)[..., 0].mean() > 240


@pytest.mark.parametrize("trailer", [b"\n", b"SEFT" + bytes(40), b"\0\0\0\x18ftypmp42" + bytes(500)])
def test_data_appended_by_cameras_does_no_harm(trailer: bytes) -> None:
    assert prepare(JPEG + trailer, "x", TINY_GRID).flags == ()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_a_damaged_file_raises_only_image_errors(format: str) -> None:
    frames = [picture(60, 40), picture(60, 40).rotate(90)]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    more = {"save_all": True, "append_images": frames[1:]} if format in ("GIF", "WEBP", "TIFF") else {}
    sound = encoded(frames[0], format, exif=exif, **more)
    rng = random.Random(format)
    for _ in range(150):
        damaged = bytearray(sound[: rng.randint(1, len(sound))] if rng.random() < 0.3 else sound)
        for _ in range(rng.randint(0, 3)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        with contextlib.suppress(ImageError):  # anything else would stop a whole run
            assert prepare(bytes(damaged), "x", TINY_GRID).sent_width >= 32


def test_pixels_that_are_no_numbers_are_refused() -> None:
    bad = Image.fromarray(np.array([[0.0, np.nan], [1.0, np.inf]], np.float32))
    with pytest.raises(ImageError) as caught:
        prepare(encoded(bad, "TIFF"), "x", TINY_GRID)
    assert caught.value.type == "image.corrupt"


def test_a_uniform_16_bit_grey_keeps_brightness() -> None:
    grey = Image.fromarray(np.full((64, 64), 60_000, np.int32))
    assert abs(pixels(prepare(encoded(grey, "TIFF"), "x", TINY_GRID)).mean() - 233) < 3


def test_allow_truncated_takes_and_flags_a_jpeg() -> None:  # I04
    assert prepare(JPEG[:-2], "x", TINY_GRID, allow_truncated=True).flags == ("image.truncated",)


def test_the_extension_does_not_matter() -> None:  # I19
    assert prepare(encoded(picture()), "really-a-png.jpg", TINY_GRID).width == 64


def test_files_that_are_no_files(tmp_path: Path) -> None:  # I21, I01, I29
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").touch()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name, type in {
        "pipe": "image.not_a_file",
        "empty": "image.empty",
        "loop": "image.unreadable",
        "dangling": "image.missing",
        "gone": "image.missing",
        ".": "image.not_a_file",
        "/dev/zero": "image.not_a_file",
        "a\0b": "image.unreadable",
        "/proc/self/mem": "image.unreadable",  # EIO
    }.items():
        with pytest.raises(ImageError) as caught:
            read_file(tmp_path / name)
        assert caught.value.type == type, name


def test_a_file_over_the_cap_stays_unread(tmp_path: Path) -> None:  # I23
    path = tmp_path / "huge.jpg"
    with path.open("wb") as file:
        file.truncate(files.MAX_BYTES + 1)
    with pytest.raises(ImageError) as caught:
        read_file(path)
    assert caught.value.type == "image.too_large"


def test_masks_that_no_reader_knows_are_unsupported() -> None:
    """A bitmap of 10 bits a band."""
    info = struct.pack("<IiiHHIIiiIIIII", 40, 8, 8, 1, 32, 3, 256, 0, 0, 0, 0, 0x3FF00000, 0xFFC00, 0x3FF)
    content = b"BM" + struct.pack("<IHHI", 14 + len(info) + 256, 0, 0, 14 + len(info)) + info + bytes(256)
    with pytest.raises(ImageError, match="save it as PNG") as caught:
        prepare(content, "x.bmp", TINY_GRID)
    assert caught.value.type == "image.unsupported"
