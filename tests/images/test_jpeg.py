"""JPEGs: oddities that cost no pixel pass with all their pixels; what costs pixels is refused."""

from __future__ import annotations

import io
import itertools
import random
import struct
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from tgi_stack.errors import ImageError
from tgi_stack.images.grid import Grid
from tgi_stack.images.prepare import prepare
from tgi_stack.tiny import TINY

GRID = Grid.from_checkpoint(TINY / "vision")
SIDE = 256  # on the grid, so that nothing is resized


def scene() -> Image.Image:
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    bands = (x + 10 * np.sin(y / 9), y / 2 + 60 * (x > 90), 128 + 80 * np.cos((x + y) / 31))
    return Image.fromarray(np.stack(bands, -1).clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **{"quality": 90, **options})
    return buffer.getvalue()


SOUND = encoded(scene())
PROGRESSIVE = encoded(scene(), progressive=True)
RESTARTS = encoded(scene(), restart_marker_blocks=4)


def sent(content: bytes, **options: bool) -> np.ndarray:
    prepared = prepare(content, "x.jpg", GRID, **options)
    assert prepared.flags == ()
    return np.asarray(Image.open(io.BytesIO(prepared.jpeg)))


def segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def put(content: bytes, place: int, new: bytes, instead: int = 0) -> bytes:
    return content[:place] + new + content[place + instead :]


def segments(content: bytes) -> list[bytes]:
    """The segments before the first scan, and the rest from there."""
    parts, place = [], 2
    while content[place + 1] != 0xDA:
        end = place + 2 + int.from_bytes(content[place + 2 : place + 4], "big")
        parts.append(content[place:end])
        place = end
    return [*parts, content[place:]]


def spliced(content: bytes, between: bytes) -> bytes:
    """The file with these bytes before each segment."""
    return content[:2] + b"".join(between + part for part in segments(content))


def parameters(three: bytes) -> bytes:
    scan = SOUND.index(b"\xff\xda")
    return put(SOUND, scan + 5 + 2 * SOUND[scan + 4], three, 3)


def before_end(padding: bytes) -> bytes:
    return put(SOUND, len(SOUND) - 2, padding)


def adobe(transform: int, *, jfif: bool) -> bytes:
    content = put(SOUND, SOUND.index(b"\xff\xdb"), segment(14, b"Adobe\0d\0\0\0\0" + bytes([transform])))
    content = content.replace(b"\xff\x0e", b"\xff\xee", 1)
    return content if jfif else content[:2] + content[20:]


def adobe_of_inks(transform: int) -> bytes:
    content = encoded(cmyk())
    return put(content, content.index(b"Adobe") + 11, bytes([transform]), 1)


def cmyk() -> Image.Image:
    return Image.merge("CMYK", (*scene().split(), Image.linear_gradient("L")))


def jfif(version: bytes) -> bytes:
    return put(SOUND, SOUND.index(b"JFIF\0") + 5, version, 2)


def wide_tables() -> bytes:
    """Quantisation tables of 16 bits, as 8-bit encoders may write them."""
    out = []
    for part in segments(SOUND):
        if part[1] == 0xDB:
            for at in range(4, len(part), 65):
                values = struct.pack(">64H", *part[at + 1 : at + 65])
                out.append(segment(0xDB, bytes([0x10 | part[at]]) + values))
        else:
            out.append(part)
    return SOUND[:2] + b"".join(out)


def dnl() -> bytes:
    frame = SOUND.index(b"\xff\xc0")
    without = put(SOUND, frame + 5, b"\0\0", 2)
    return without[:-2] + segment(0xDC, struct.pack(">H", SIDE)) + without[-2:]


def high_frequencies_first() -> bytes:
    """The scan of constants after the first scan of the rest, each with its tables."""
    first = PROGRESSIVE.index(b"\xff\xc4")  # the tables of the first scan
    second = PROGRESSIVE.index(b"\xff\xc4", PROGRESSIVE.index(b"\xff\xda"))
    third = PROGRESSIVE.index(b"\xff\xc4", PROGRESSIVE.index(b"\xff\xda", second))
    return PROGRESSIVE[:first] + PROGRESSIVE[second:third] + PROGRESSIVE[first:second] + PROGRESSIVE[third:]


ODDITIES: dict[str, tuple[bytes, bytes]] = {
    "no oddity": (SOUND, SOUND),
    "scan parameters 0 0 0": (parameters(b"\0\0\0"), SOUND),
    "scan parameters 1 63 0": (parameters(b"\x01\x3f\0"), SOUND),
    "scan parameters 0 63 0x12": (parameters(b"\0\x3f\x12"), SOUND),
    "scan parameters in restarts": (RESTARTS.replace(b"\0\x3f\0", b"\0\0\0", 1), RESTARTS),
    **{
        f"{len(padding)} x {padding[:1]!r} before the end": (before_end(padding), SOUND)
        for padding in (bytes(1), bytes(16), bytes(5000), b"\r\n\r\n", b"\x55" * 9, b"\xff" * 7, b"  \0\0\0")
    },
    "zeros before the end of a progressive one": (
        PROGRESSIVE[:-2] + bytes(9) + PROGRESSIVE[-2:],
        PROGRESSIVE,
    ),
    **{f"JFIF {v[0]}.{v[1]:02}": (jfif(v), SOUND) for v in (b"\x02\x01", b"\0\0", b"\x01\x63", b"\xff\xff")},
    "Adobe's transform 7": (adobe(7, jfif=True), SOUND),
    "Adobe's transform 255 without JFIF": (adobe(255, jfif=False), SOUND),
    "Adobe's transform of four inks": (adobe(2, jfif=False), SOUND),
    "Adobe's transform of three colours": (adobe_of_inks(1), adobe_of_inks(2)),
    "bytes before segments": (SOUND[:20] + spliced(SOUND, b"junk\0")[25:], SOUND),
    "stuffed bytes before segments": (spliced(SOUND, b"\xff\0\xff\0"), SOUND),
    "fill bytes before segments": (spliced(SOUND, b"\xff\xff\xff"), SOUND),
    "comments before segments": (spliced(SOUND, segment(0xFE, b"a comment")), SOUND),
    "empty segments": (spliced(SOUND, segment(0xE5, b"") + segment(0xFE, b"")), SOUND),
    "a segment of length 0": (put(SOUND, 2, b"\xff\xe7\0\0"), SOUND),
    "reserved segments": (spliced(SOUND, segment(0xF3, b"\1\2\3")), SOUND),
    "markers without data": (spliced(SOUND, b"\xff\x01\xff\xd3"), SOUND),
    "a preview inside": (
        put(SOUND, 2, segment(0xE1, b"Exif\0\0II*\0" + encoded(scene().resize((9, 9))))),
        SOUND,
    ),
    "a trailer": (SOUND + b"\0" * 99 + SOUND + b"trailer", SOUND),
    "tables of 16 bits": (wide_tables(), SOUND),
    "a height by DNL": (dnl(), SOUND),
    "extended sequential": (SOUND.replace(b"\xff\xc0", b"\xff\xc1", 1), SOUND),
    "high frequencies first": (high_frequencies_first(), PROGRESSIVE),
    "restart markers": (RESTARTS, RESTARTS),
}


@pytest.mark.parametrize("name", ODDITIES)
def test_oddities_that_cost_no_pixel_pass(name: str) -> None:
    odd, sound = ODDITIES[name]
    assert np.array_equal(sent(odd), sent(sound))
    again = encoded(Image.open(io.BytesIO(sound)).convert("RGB"))
    right = np.asarray(Image.open(io.BytesIO(again)))
    assert np.abs(sent(odd).astype(int) - right).max() <= 8  # another rounding at most


def in_scans(image: Image.Image, ids: bytes, sampling: int, *, progressive: bool, left_out: int = 3) -> bytes:
    """Three grey JPEGs as the components of one, in scans of their own."""
    greys = [segments(encoded(band, progressive=progressive)) for band in image.split()]
    (tables,) = (part for part in greys[0] if part[1] == 0xDB)
    (frame,) = (part for part in greys[0] if part[1] in (0xC0, 0xC2))
    components = b"".join(bytes([id, sampling, 0]) for id in ids)
    out = [b"\xff\xd8", tables, segment(frame[1], frame[4:9] + b"\x03" + components)]
    for place, (id, parts) in enumerate(zip(ids, greys, strict=True)):
        if place != left_out:
            out += [part for part in parts[:-1] if part[1] == 0xC4]
            out.append(parts[-1][:-2].replace(b"\xff\xda\0\x08\x01\x01", b"\xff\xda\0\x08\x01" + bytes([id])))
    return b"".join(out) + b"\xff\xd9"


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("sampling", [0x11, 0x22, 0x31, 0x44])
def test_components_in_scans_of_their_own_pass(sampling: int, progressive: bool) -> None:
    content = in_scans(scene(), b"RGB", sampling, progressive=progressive)
    right = np.stack([np.asarray(Image.open(io.BytesIO(encoded(band)))) for band in scene().split()], -1)
    assert np.abs(sent(content).astype(int) - right).mean() < 2.5


@pytest.mark.parametrize("progressive", [False, True])
def test_a_component_without_data_is_refused(progressive: bool) -> None:
    with pytest.raises(ImageError) as caught:
        prepare(in_scans(scene(), b"RGB", 0x11, progressive=progressive, left_out=2), "x.jpg", GRID)
    assert caught.value.type == "image.truncated"


@pytest.mark.parametrize("y", [0x11, 0x12, 0x21, 0x22, 0x41, 0x14])
def test_usual_sampling_factors_pass(y: int) -> None:
    names = {0x11: "4:4:4", 0x21: "4:2:2", 0x22: "4:2:0"}
    if y in names:
        assert sent(encoded(scene(), subsampling=names[y])).shape == (SIDE, SIDE, 3)


def damaged(place: int, new: bytes, instead: int) -> Callable[[], bytes]:
    return lambda: put(SOUND, place, new, instead)


END = len(SOUND)
DAMAGE: dict[str, tuple[bytes, str]] = {
    "cut in half": (SOUND[: END // 2], "image.truncated"),
    "without its end": (SOUND[:-2], "image.truncated"),
    "cut, with an end": (SOUND[: END // 2] + b"\xff\xd9", "image.corrupt"),
    "cut in its last bytes": (SOUND[:-12] + b"\xff\xd9", "image.corrupt"),
    "a hole": (SOUND[: END // 2] + SOUND[END // 2 + 300 :], "image.corrupt"),
    "zeros in the middle": (put(SOUND, END // 2, bytes(200), 200), "image.corrupt"),
    "noise before the end": (
        before_end(random.Random(1).randbytes(40).replace(b"\xff", b"")),
        "image.corrupt",
    ),
    "restarts out of order": (RESTARTS.replace(b"\xff\xd1", b"\xff\xd5", 1), "image.corrupt"),
    "a restart missing": (RESTARTS.replace(b"\xff\xd1", b"", 1), "image.corrupt"),
    "another picture from the middle on": (SOUND[: END // 2] + SOUND, "image.truncated"),
    "an odd version, and cut": (jfif(b"\2\1")[: END // 2] + b"\xff\xd9", "image.corrupt"),
    "odd parameters, and a hole": (
        parameters(bytes(3))[: END // 2] + SOUND[END // 2 + 300 :],
        "image.corrupt",
    ),
    "a progressive one cut, with an end": (PROGRESSIVE[: END // 2] + b"\xff\xd9", "image.corrupt"),
    "arithmetic": (SOUND.replace(b"\xff\xc0", b"\xff\xc9", 1), "image.unsupported"),
    "lossless": (SOUND.replace(b"\xff\xc0", b"\xff\xc3", 1), "image.unsupported"),
    "hierarchical": (SOUND.replace(b"\xff\xc0", b"\xff\xc5", 1), "image.unsupported"),
    "12 bits": (SOUND.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc1\0\x11\x0c", 1), "image.unsupported"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_costs_pixels_is_refused(name: str) -> None:
    content, type = DAMAGE[name]
    with pytest.raises(ImageError) as caught:
        prepare(content, "x.jpg", GRID)
    assert caught.value.type == type
    assert "x.jpg" in str(caught.value)
    if type != "image.unsupported":
        assert prepare(content, "x.jpg", GRID, allow_truncated=True).flags == ("image.truncated",)


@pytest.mark.parametrize("size", [SIDE, 4 * SIDE])
def test_four_inks_decode_as_pillow_has_them(size: int) -> None:
    image = cmyk().resize((size, size))
    content = encoded(image, subsampling=0)
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB").resize((SIDE, SIDE)), int)
    found = np.asarray(Image.open(io.BytesIO(prepare(content, "x", GRID, max_side_px=SIDE).jpeg)), int)
    assert np.abs(found - expected).mean() < 4


def test_damage_to_four_inks_is_refused() -> None:
    content = encoded(cmyk())
    cut = content[: len(content) // 2] + b"\xff\xd9"
    with pytest.raises(ImageError) as caught:
        prepare(cut, "x.jpg", GRID)
    assert caught.value.type == "image.corrupt"


def test_the_first_of_several_pictures_is_taken() -> None:
    buffer = io.BytesIO()
    scene().save(buffer, "MPO", save_all=True, append_images=[Image.new("RGB", (99, 99))], quality=90)
    prepared = prepare(buffer.getvalue(), "x.jpg", GRID)
    assert prepared.flags == ("image.frames",)
    assert (prepared.width, prepared.height) == (SIDE, SIDE)


def test_missing_refinements_are_flagged() -> None:
    starts = [place for place in range(len(PROGRESSIVE)) if PROGRESSIVE.startswith(b"\xff\xda", place)]
    for start, after in itertools.pairwise(starts):
        tables = PROGRESSIVE.find(b"\xff\xc4", start, after)
        end = tables if tables > 0 else after
        if PROGRESSIVE[start + 4] == 3:  # with all components at once: the first one alone is a picture
            coarse = prepare(PROGRESSIVE[:end] + b"\xff\xd9", "x.jpg", GRID)
            assert coarse.flags == ("image.coarse",)
    coarse = prepare(PROGRESSIVE[: starts[-1]] + b"\xff\xd9", "x.jpg", GRID)
    assert coarse.flags == ("image.coarse",)
    grey = encoded(scene().convert("L"), progressive=True)
    assert sent(grey).shape == sent(PROGRESSIVE).shape  # nothing is missing
