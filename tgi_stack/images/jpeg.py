"""JPEG data taken apart, freed of what codes no pixels, decoded strictly and no larger than needed.

Pillow's own decoder repairs broken data without a word; libjpeg-turbo, asked through `simplejpeg`, tells, and
scales while it decodes: it leaves out the high frequencies of each block. It tells only the first of its
warnings, and some cost no pixel. So these are made impossible first, see `read`: of what is left any warning
is one of pixels.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

import simplejpeg
from PIL import Image

from tgi_stack.errors import ImageError

HALVINGS = 3
COEFFICIENTS = 64  # of a block
MOST_REPEATED = 100_000  # tables that stand before scans once these have changed places
# A filter needs more pixels than it gives: with fewer than this times the wanted ones, what is sent falls
# below 38 dB (PSNR) of what the whole would give.
MARGIN = 1.5

# ITU-T T.81, table B.1
SOF2, DHT, SOI, EOI, SOS, DQT, DNL, DRI = 0xC2, 0xC4, 0xD8, 0xD9, 0xDA, 0xDB, 0xDC, 0xDD
APP0, APP1, APP2, APP14 = 0xE0, 0xE1, 0xE2, 0xEE
TABLES = (DHT, DQT, DRI)
FRAMES = {*range(0xC0, 0xD0)} - {DHT, 0xC8, 0xCC}
STANDALONE = {0x01, *range(0xD0, 0xD8)}
# Any number of FF may stand before a marker. In coded data FF is followed by 00 or a restart marker.
_MARKER = re.compile(rb"\xff+[^\x00\xff]")
_END_OF_SCAN = re.compile(rb"\xff+[\x01-\xcf\xd8-\xfe]")
_JFIF = b"JFIF\0\1\1\0\0\1\0\1\0\0"  # version 1.01; what it says of density codes no pixel
_ADOBE_TRANSFORM = 11  # the byte's place
_WHOLE_SPECTRUM = b"\0\x3f\0"  # the only scan parameters that a sequential frame has
_ICC = b"ICC_PROFILE\0"
_PADDING = b"\0\n\r "
ROUNDING = 4  # times that a scan's padding is told short: a part of it lies in the decoder's own buffer
_EXTRANEOUS = re.compile(r"(\d+) extraneous bytes before marker")


@dataclass(frozen=True, slots=True)
class Scan:
    """A scan: the tables (segments) right before it; how many are before it in all; its header; its data."""

    new: tuple[bytes, ...]
    tables: int
    header: bytes
    data: bytes

    @property
    def components(self) -> bytes:
        return self.header[1 : 1 + 2 * self.header[0] : 2] if self.header else b""

    @property
    def is_dc(self) -> bool:
        """Whether it begins at the constant coefficient."""
        return self.header[-3:-2] == b"\0"


@dataclass(frozen=True, slots=True)
class Stream:
    """A JPEG file taken apart.

    Attributes:
        head: segments that say how to read the pixels: JFIF, Adobe, EXIF and XMP (how they lie), the frame.
        has_end: whether the end marker stands where the segments end; what follows it does not matter.
        profile: the colour profile; empty where parts of it are missing, None where there is none.
        is_set: whether it says that it holds several pictures.
    """

    head: tuple[bytes, ...]
    scans: tuple[Scan, ...]
    has_end: bool
    profile: bytes | None
    is_set: bool

    @property
    def is_coarse(self) -> bool:
        """Whether scans are missing that would have refined it: a progressive picture is whole without."""
        if not any(segment[1] == SOF2 for segment in self.head):
            return False
        known: dict[int, set[int]] = {one: set() for scan in self.scans for one in scan.components}
        for scan in self.scans:
            start, end, bits = scan.header[-3:]
            if bits & 15 == 0:  # to the last bit
                for component in scan.components:
                    known[component].update(range(start, end + 1))
        return any(len(found) < COEFFICIENTS for found in known.values())

    @property
    def data(self) -> bytes:
        """The file without what codes no pixels."""
        parts = [b"\xff\xd8", *self.head]
        for scan in self.scans:
            parts += [*scan.new, _segment(SOS, scan.header), scan.data]
        return b"".join([*parts, b"\xff\xd9" if self.has_end else b""])


def read(content: bytes, name: str) -> Stream:
    """Takes a JPEG file apart, and leaves out or mends what decoders stumble over though it costs no pixel.

    Left out: bytes between segments, comments, unknown segments, all after the end. Mended: the version of
    JFIF, Adobe's transform where it is none, the parameters of scans of a sequential frame, a height that
    only DNL tells, scans of high frequencies before the one of the constant.

    Raises:
        ImageError: `image.unsupported` for a process or depth that no browser shows.
    """
    segments = list(_segments(content))
    has_end = bool(segments) and segments[-1][0] == EOI
    frame = next((data for marker, data, _ in segments if marker in FRAMES), b"")
    process = next((marker for marker, _, _ in segments if marker in FRAMES), None)
    _refuse_unsupported(process, frame, name)
    head, scans = _head(segments, frame, process), _scans(segments, sequential=process != SOF2)
    return Stream(tuple(head), tuple(scans), has_end, _profile(segments), _is_set(segments))


def _segments(content: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Each marker, what its segment holds, and the coded data behind it."""
    place = 2
    while (found := _MARKER.search(content, place)) is not None:
        marker, place = content[found.end() - 1], found.end()
        if marker in STANDALONE:
            continue
        if marker in (SOI, EOI):  # the beginning of another picture: this one has no end
            if marker == EOI:
                yield EOI, b"", b""
            return
        end = place + max(2, int.from_bytes(content[place : place + 2], "big"))
        data, place, coded = content[place + 2 : end], end, b""
        if marker == SOS:
            stop = _END_OF_SCAN.search(content, place)
            place = len(content) if stop is None else stop.start()
            coded = content[end:place]
        yield marker, data, coded


def _refuse_unsupported(process: int | None, frame: bytes, name: str) -> None:
    if process is None or not frame:
        return
    if process > SOF2:
        kind = (
            "a lossless" if process == 0xC3 else "a hierarchical" if process < 0xC9 else "an arithmetic-coded"
        )
        raise ImageError("image.unsupported", f"{name} is {kind} JPEG, which is not read; save it anew")
    if frame[0] != 8:
        message = f"{name} is a JPEG of {frame[0]} bits a sample; save it with 8, or as PNG"
        raise ImageError("image.unsupported", message)


def _head(segments: list[tuple[int, bytes, bytes]], frame: bytes, process: int | None) -> Iterator[bytes]:
    first = next((i for i, one in enumerate(segments) if one[0] == SOS), len(segments))
    for marker, data, _ in segments[:first]:
        if marker == APP0 and data.startswith(b"JFIF\0") and len(data) >= len(_JFIF):
            yield _segment(APP0, _JFIF)
        elif marker == APP14 and data.startswith(b"Adobe") and len(data) > _ADOBE_TRANSFORM:
            yield _segment(APP14, _adobe(data, components=frame[5] if len(frame) > 5 else 0))
        elif marker == APP1:
            yield _segment(APP1, data)
        elif marker in FRAMES:
            yield _segment(marker, _with_height(data, segments))


def _adobe(data: bytes, components: int) -> bytes:
    """Adobe's segment, with the transform that decoders assume where it names none that there is."""
    ycc = 2 if components == 4 else 1
    if data[_ADOBE_TRANSFORM] in (0, ycc):
        return data
    return data[:_ADOBE_TRANSFORM] + bytes([ycc])


def _with_height(frame: bytes, segments: list[tuple[int, bytes, bytes]]) -> bytes:
    if frame[1:3] != b"\0\0":
        return frame
    told = next((data for marker, data, _ in segments if marker == DNL and len(data) == 2), b"\0\0")
    return frame[:1] + told + frame[3:]


def _scans(segments: list[tuple[int, bytes, bytes]], *, sequential: bool) -> list[Scan]:
    found: list[Scan] = []
    tables: list[bytes] = []
    told = 0
    for marker, data, coded in segments:
        if marker in TABLES:
            tables.append(_segment(marker, data))
        elif marker == SOS and len(data) > 3:
            header = data[:-3] + _WHOLE_SPECTRUM if sequential else data
            found.append(Scan(tuple(tables[told:]), len(tables), header, coded))
            told = len(tables)
    return found if sequential else _dc_first(found, tables)


def _dc_first(scans: list[Scan], tables: list[bytes]) -> list[Scan]:
    """The scans of constant coefficients before all others, each with all tables that it is to be read by."""
    if len(scans) * len(tables) > MOST_REPEATED:  # no picture's: what they would take together has no bound
        return scans
    ordered = sorted(scans, key=lambda scan: not scan.is_dc)
    started: set[int] = set()
    for scan in scans:
        if scan.is_dc:
            started.update(scan.components)
        elif not started.issuperset(scan.components):
            return [replace(one, new=tuple(tables[: one.tables])) for one in ordered]
    return scans


def _profile(segments: list[tuple[int, bytes, bytes]]) -> bytes | None:
    """ICC.1, annex B.4: parts with their number, from 1, and how many there are."""
    parts = [data[len(_ICC) :] for marker, data, _ in segments if marker == APP2 and data.startswith(_ICC)]
    if not parts:
        return None
    distinct = {part for part in parts if len(part) > 2}
    numbered = {part[0]: part[2:] for part in distinct}
    count = parts[0][1] if len(parts[0]) > 1 else 0
    agree = len(numbered) == len(distinct) and {part[1] for part in distinct} == {count}
    if not agree or sorted(numbered) != list(range(1, count + 1)):
        return b""
    return b"".join(numbered[number] for number in sorted(numbered))


def _is_set(segments: list[tuple[int, bytes, bytes]]) -> bool:
    return any(marker == APP2 and data.startswith(b"MPF\0") for marker, data, _ in segments)


def _segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


# -- decoding ------------------------------------------------------------------------------------------


def reduced_size(size: tuple[int, int], wanted: tuple[int, int]) -> tuple[int, int]:
    """The smallest (width, height) of a decoding that serves an image to be resized to `wanted`.

    Sides are halved only where nothing is left over: a decoder rounds up, and by other ratios too all pixels
    shift a little, which costs 3 to 8 dB.
    """
    width, height = size
    for _ in range(HALVINGS):
        if width % 2 or height % 2 or width < 2 * MARGIN * wanted[0] or height < 2 * MARGIN * wanted[1]:
            break
        width, height = width // 2, height // 2
    return width, height


class UnknownSamplingError(Exception):
    """Sampling factors that the strict decoder does not know."""


def decode(stream: Stream, name: str, size: tuple[int, int], mode: str) -> Image.Image:
    """The pixels of a JPEG at one of the sizes that `reduced_size` gives.

    Args:
        mode: `RGB`, or for four components `CMYK` or `CMYK;I`, which inverts them.

    Raises:
        ImageError: `image.truncated` for a file without its end or without any data of a component;
            `image.corrupt`, with what the decoder says of the data.
        UnknownSamplingError: see there.
    """
    if not stream.has_end:
        raise ImageError("image.truncated", f"{name} ends early: its end marker is missing")
    if len({one for scan in stream.scans for one in scan.components}) < _components(stream):
        raise ImageError("image.truncated", f"{name} ends early: a component has no data")
    for _ in range(len(stream.scans) + ROUNDING):
        try:
            return _decoded(stream.data, size, mode)
        except ValueError as error:
            if "subsampling" in str(error):
                raise UnknownSamplingError from error
            found = _EXTRANEOUS.search(str(error))
            mended = None if found is None else _without_padding(stream, int(found[1]))
            if mended is None:
                raise ImageError("image.corrupt", f"{name}: {error}") from error
            stream = mended
    raise ImageError("image.corrupt", f"{name}: bytes between its scans")


def _components(stream: Stream) -> int:
    frames = [segment for segment in stream.head if segment[1] in FRAMES]
    return frames[0][9] if frames and len(frames[0]) > 9 else 0


def _decoded(data: bytes, size: tuple[int, int], mode: str) -> Image.Image:
    width, height = size
    space = "RGB" if mode == "RGB" else "CMYK"
    pixels = simplejpeg.decode_jpeg(data, space, min_width=width, min_height=height, min_factor=1)
    if space == "RGB":
        return Image.fromarray(pixels)
    shape = (pixels.shape[1], pixels.shape[0])
    return Image.frombytes("CMYK", shape, pixels.tobytes(), "raw", mode)


def _without_padding(stream: Stream, count: int) -> Stream | None:
    """The stream without that many bytes at the end of a scan, where they are padding; None where none are.

    What is left over once all pixels are there is padding if it is blank. Else damage may have left it over.
    """
    for place, scan in enumerate(stream.scans):
        tail = scan.data[-count:]
        if len(tail) == count and (len(set(tail)) == 1 or not tail.strip(_PADDING)):
            mended = replace(scan, data=scan.data[:-count])
            return replace(stream, scans=(*stream.scans[:place], mended, *stream.scans[place + 1 :]))
    return None
