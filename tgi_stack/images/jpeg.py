"""JPEG data decoded strictly and no larger than needed.

Pillow's own decoder repairs broken data without a word; libjpeg-turbo, asked through `simplejpeg`, tells, and
scales while it decodes: it leaves out the high frequencies of each block.
"""

from __future__ import annotations

from collections.abc import Iterator

import simplejpeg
from PIL import Image

from tgi_stack.errors import ImageError

HALVINGS = 3
# A filter needs more pixels than it gives: with fewer than this times the wanted ones, what is sent falls
# below 38 dB (PSNR) of what the whole would give.
MARGIN = 1.5


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


def decode(content: bytes, name: str, size: tuple[int, int]) -> Image.Image:
    """The RGB image of a grey or colour JPEG at one of the sizes that `reduced_size` gives.

    Raises:
        ImageError: `image.corrupt`, with what the decoder says of the data.
    """
    width, height = size
    try:
        pixels = simplejpeg.decode_jpeg(content, "RGB", min_width=width, min_height=height, min_factor=1)
    except ValueError as error:
        raise ImageError("image.corrupt", f"{name}: {error}") from error
    return Image.fromarray(pixels)


def has_end(content: bytes) -> bool:
    """Whether the end marker stands where the segments end; what follows it (a trailer) does not matter.

    ITU-T T.81, annex B: segments carry their length; in coded data FF is followed by 00 or a restart marker.
    """
    return any(marker == 0xD9 for marker in _markers(content))


def _markers(content: bytes) -> Iterator[int]:
    place = 2
    while (place := content.find(b"\xff", place)) >= 0 and place + 1 < len(content):
        marker = content[place + 1]
        if marker == 0xFF:
            place += 1
        elif marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:
            place += 2
        else:
            yield marker
            place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
