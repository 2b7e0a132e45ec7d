"""Images: sizes are the processor's own, every format comes out upright and right, faults are named."""

from __future__ import annotations

import contextlib
import io
import os
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageDraw
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from tgi_stack import images
from tgi_stack.errors import ImageError, MachineError
from tgi_stack.images import Grid, fit, prepare, read_file
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
def test_without_a_cap_the_size_is_where_the_processor_comes_to_rest(
    width: int, height: int, grid: Grid
) -> None:
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
def test_a_size_is_a_fixed_point_that_nobody_resizes_again(
    width: int, height: int, grid: Grid, cap: int
) -> None:
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
def test_exif_orientation_is_undone(orientation: int) -> None:
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


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_a_16_bit_grey_keeps_its_levels(mode: str) -> None:
    gradient = np.tile(np.linspace(0, 65535, 256), (256, 1))
    image = Image.fromarray(gradient.astype(np.uint16 if mode == "I;16" else np.int32))
    row = pixels(prepare(encoded(image, "TIFF"), "x", TINY_GRID)).mean(axis=(0, 2))
    assert len(np.unique(row.round())) >= 200
    assert np.all(np.diff(row) > -2)  # rises, but for JPEG's rounding


def test_cmyk_is_not_inverted() -> None:
    red = Image.new("RGB", (64, 64), (220, 30, 40))
    out = pixels(prepare(encoded(red.convert("CMYK"), "JPEG", quality=95), "x", TINY_GRID))
    assert np.abs(out.reshape(-1, 3).mean(0) - [220, 30, 40]).max() < 12


def test_alpha_is_laid_on_white() -> None:
    clear = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    assert pixels(prepare(encoded(clear), "x", TINY_GRID)).min() >= 250


def test_the_first_frame_of_an_animation_is_taken_and_flagged() -> None:
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    prepared = prepare(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), "x.gif", TINY_GRID)
    assert prepared.flags == ("image.frames",)
    assert pixels(prepared)[..., 0].mean() > 240


def test_metadata_does_not_leave(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "a private name"
    sent = prepare(encoded(picture(), "JPEG", exif=exif), "x", TINY_GRID).jpeg
    assert b"private" not in sent
    commented = encoded(picture(), "JPEG", comment=b"a private place")
    assert b"private" not in prepare(commented, "x", TINY_GRID).jpeg
    assert not dict(Image.open(io.BytesIO(sent)).getexif())


def test_a_tiny_image_is_brought_to_the_models_floor() -> None:
    prepared = prepare(encoded(Image.new("RGB", (1, 1))), "x", TINY_GRID)
    assert prepared.sent_width * prepared.sent_height >= TINY_GRID.min_pixels


# -- faults --------------------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises that many pixels and holds next to none."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(9)))


JPEG = encoded(picture(400, 300), "JPEG")
PNG = encoded(picture(400, 300))


@pytest.mark.parametrize(
    ("content", "type"),
    [
        (b"<!DOCTYPE html><html>404</html>", "image.unrecognised"),  # I02
        (JPEG[: len(JPEG) // 2], "image.truncated"),  # I03
        (JPEG[:-2], "image.truncated"),  # I04
        (PNG[:60] + bytes(20) + PNG[80:], "image.corrupt"),  # I05
        (png_header(9_000, 9_000), "image.too_large"),  # I07
        (png_header(15_000, 15_000), "image.too_large"),  # I08
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "image.unrecognised"),  # I18
        (b"%PDF-1.7\n", "image.unrecognised"),  # I18
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image.unrecognised"),  # I20
    ],
)
def test_what_is_no_sound_image_is_refused(content: bytes, type: str) -> None:
    with pytest.raises(ImageError) as caught:
        prepare(content, "picture.jpg", TINY_GRID)
    assert caught.value.type == type
    assert "picture.jpg" in str(caught.value)
    assert "0x" not in str(caught.value)  # no object addresses


@pytest.mark.parametrize("trailer", [b"\n", b"SEFT" + bytes(40), b"\0\0\0\x18ftypmp42" + bytes(500)])
def test_what_cameras_append_to_a_jpeg_does_no_harm(trailer: bytes) -> None:
    assert prepare(JPEG + trailer, "x", TINY_GRID).flags == ()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_a_damaged_file_is_an_image_or_an_image_error(format: str) -> None:
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


def test_a_uniform_16_bit_grey_is_as_bright_as_it_says() -> None:
    grey = Image.fromarray(np.full((64, 64), 60_000, np.int32))
    assert abs(pixels(prepare(encoded(grey, "TIFF"), "x", TINY_GRID)).mean() - 233) < 3


def test_a_jpeg_without_its_end_marker_is_taken_where_allowed_and_flagged() -> None:
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
    }.items():
        with pytest.raises(ImageError) as caught:
            read_file(tmp_path / name)
        assert caught.value.type == type, name


def test_a_file_over_the_cap_is_refused_before_it_is_read(tmp_path: Path) -> None:  # I23
    path = tmp_path / "huge.jpg"
    with path.open("wb") as file:
        file.truncate(images.MAX_BYTES + 1)
    with pytest.raises(ImageError) as caught:
        read_file(path)
    assert caught.value.type == "image.too_large"
