"""How a product and its background are coloured: jittered, and never so far that a colour loses its name."""

from __future__ import annotations

import colorsys
import math
import random
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from painters import Point
from tiny_world import Look

Colour: TypeAlias = tuple[float, float, float]
Field: TypeAlias = NDArray[np.float32]

SUPERSAMPLING = 2
SEEN = 256  # a network sees about 256 x 256 pixels of a picture, however large that is
SMALLEST_OBJECT = 50.0  # seen pixels of the longer side; below it handles and hands are lost
FINEST_PATTERN = 7.0  # seen pixels; below it stripes and dots become one mixed colour

# Hue in degrees, saturation, value. The gaps between the ranges are wider than what `camera` moves.
RANGES: dict[str, tuple[Point, Point, Point]] = {
    "red": ((-8, 3), (0.80, 0.96), (0.70, 0.88)),
    "orange": ((23, 31), (0.86, 1.00), (0.93, 1.00)),
    "yellow": ((49, 56), (0.76, 0.94), (0.93, 1.00)),
    "green": ((108, 145), (0.60, 0.88), (0.45, 0.70)),
    "blue": ((208, 226), (0.68, 0.92), (0.58, 0.86)),
    "purple": ((273, 290), (0.52, 0.80), (0.48, 0.70)),
    "black": ((0, 360), (0.00, 0.20), (0.05, 0.12)),
    "grey": ((0, 360), (0.00, 0.05), (0.46, 0.56)),
}


# ----------------------------------------------------------------------------------- colours


def _hsv(hue: float, saturation: float, value: float) -> Colour:
    """An RGB colour from degrees and shares."""
    return colorsys.hsv_to_rgb(hue % 360 / 360, saturation, value)


def _mix(a: Colour, b: Colour, share: float) -> Colour:
    """`a` with a share of `b`."""
    return (
        a[0] + (b[0] - a[0]) * share,
        a[1] + (b[1] - a[1]) * share,
        a[2] + (b[2] - a[2]) * share,
    )


def rgb(colour: Colour) -> tuple[int, int, int]:
    """The colour in bytes."""
    r, g, b = (round(255 * min(1.0, max(0.0, c))) for c in colour)
    return r, g, b


def _luma(colour: Colour) -> float:
    """How bright the colour looks."""
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def _second_colour(name: str, colour: Colour, rng: random.Random) -> Colour:
    """What stripes and dots are drawn in: near white, or a tint that has no name here."""
    white = _mix((1.0, 1.0, 1.0), colour, rng.uniform(0.0, 0.06))
    if name in ("black", "grey"):
        return white
    if name == "yellow":  # white on yellow is faint, so mostly a deep ochre
        return white if rng.random() < 0.4 else _hsv(rng.uniform(37, 42), 0.95, 0.58)
    return white if rng.random() < 0.7 else _mix(white, colour, rng.uniform(0.12, 0.25))


@dataclass(frozen=True)
class Style:
    """What all objects of one picture share: colours, pattern, outline and light."""

    pattern: str
    colour: Colour
    second: Colour
    backdrop: tuple[Colour, Colour]
    angle: float
    spacing: float
    share: float
    outline: float
    light: float
    contrast: float
    pixel: float  # how long a seen pixel is in the picture


def _backdrops(name: str, colour: Colour, rng: random.Random) -> tuple[Colour, Colour]:
    """Quiet colours of wall and table, often one, that the product stands out from."""
    hue = RANGES[name][0]
    found: list[Colour] = []
    while len(found) < 2:
        tone = rng.choice(((0.80, 0.99), (0.80, 0.99), (0.10, 0.26), (0.35, 0.75)))
        h, s, v = rng.uniform(0, 360), rng.uniform(0.0, 0.16), rng.uniform(*tone)
        away = min(abs((h - x + 180) % 360 - 180) for x in hue)
        candidate = _hsv(h, s if away > 50 else min(s, 0.04), v)
        distance = math.dist(candidate, colour)
        if distance > (0.56 if name in ("grey", "black") else 0.5):
            found.append(candidate)
    return (found[0], found[1]) if rng.random() < 0.3 else (found[0], found[0])


def choose_style(look: Look, rng: random.Random, size: tuple[int, int]) -> Style:
    """A style for the look in a picture of the size."""
    hue, saturation, value = (rng.uniform(*span) for span in RANGES[look.colour])
    colour = _hsv(hue, saturation, value)
    plain = look.pattern == "plain"
    return Style(
        pattern=look.pattern,
        colour=colour,
        second=_second_colour(look.colour, colour, rng),
        backdrop=_backdrops(look.colour, colour, rng),
        angle=rng.choice((0, 90, 45, -45)) + rng.uniform(-6, 6),
        spacing=rng.uniform(0.16, 0.30),
        share=rng.uniform(0.34, 0.48) if look.pattern == "striped" else rng.uniform(0.27, 0.36),
        # A white pattern would eat into the silhouette on a white ground, hence the outline.
        outline=rng.uniform(0.010, 0.020) if not plain or rng.random() < 0.45 else 0.0,
        light=rng.uniform(0, 2 * math.pi),
        contrast=rng.uniform(0.02, 0.14),
        pixel=max(1.0, math.sqrt(size[0] * size[1]) / SEEN),
    )


def palette(style: Style) -> dict[str, Colour]:
    """The paints of a sketch; a black product's tones go up, as nothing is darker than it."""
    c, white, black = style.colour, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)
    dark = _luma(c) < 0.16
    grounds = sorted(map(_luma, style.backdrop))
    on_light = grounds[0] + grounds[1] > 1.0
    between = grounds[1] - grounds[0] > 0.4  # a dark table under a light wall, or the reverse
    return {
        "own": c,
        "shade": _mix(c, white, 0.14) if dark else _mix(c, black, 0.22),
        "deep": _mix(c, white, 0.24) if dark else _mix(c, black, 0.55),
        "tint": _mix(c, white, 0.10) if dark else _mix(c, white, 0.22),
        "line": _mix(c, white, 0.30) if dark else _mix(c, black, 0.48),
        "band": _mix(c, white, 0.32) if dark else _mix(c, black, 0.60),
        "sole": (0.30, 0.27, 0.25) if dark else (0.14, 0.13, 0.13),
        "fitting": _mix((0.26, 0.24, 0.23), (0.74, 0.73, 0.70), 0.5 if between else not on_light),
        "stem": _mix((0.36, 0.42, 0.30), (0.56, 0.62, 0.48), 0.5 if between else not on_light),
        "stone": (0.66, 0.64, 0.60),
        "pale": (0.97, 0.96, 0.91),
        "ink": (0.13, 0.12, 0.13),
        "glow": (1.0, 0.97, 0.80),
        "gloss": white,
    }


# -------------------------------------------------------------------------------- background


def _noise(shape: tuple[int, int], size: tuple[int, int], rng: random.Random) -> Field:
    """Soft noise of about +-1: random values on a coarse grid, spread over the picture."""
    grid = np.random.default_rng(rng.getrandbits(64)).random(shape, dtype=np.float32) * 2 - 1
    spread = Image.fromarray(grid).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(spread, dtype=np.float32)


def _gradient(size: tuple[int, int], rng: random.Random) -> Field:
    """Brighter towards one side, or in a third of the cases an even light."""
    angle, strength = rng.uniform(0, 2 * math.pi), max(0.0, rng.uniform(-0.05, 0.10))
    x = np.linspace(-1, 1, size[0], dtype=np.float32)[None, :] * math.cos(angle)
    y = np.linspace(-1, 1, size[1], dtype=np.float32)[:, None] * math.sin(angle)
    return np.asarray((x + y) * strength, dtype=np.float32)


def _vignette(size: tuple[int, int], rng: random.Random) -> Field:
    """Brighter around one place."""
    cx, cy, strength = rng.uniform(-0.5, 0.5), rng.uniform(-0.5, 0.5), rng.uniform(0.03, 0.08)
    x = np.linspace(-1, 1, size[0], dtype=np.float32)[None, :] - cx
    y = np.linspace(-1, 1, size[1], dtype=np.float32)[:, None] - cy
    return np.asarray((0.6 - (x * x + y * y)) * strength, dtype=np.float32)


def _cloth(size: tuple[int, int], rng: random.Random) -> Field:
    """Soft blotches with a fine grain over them."""
    cells = rng.randint(3, 24)
    soft = _noise((cells, cells), size, rng) * rng.uniform(0.02, 0.06)
    return soft + _noise((max(8, size[1] // 2), max(8, size[0] // 2)), size, rng) * 0.02


def _wood(size: tuple[int, int], rng: random.Random) -> Field:
    """A low-contrast grain along one side, as in planks."""
    fine, strength = rng.randint(20, 60), rng.uniform(0.02, 0.05)
    along = (fine, rng.randint(2, 5)) if rng.random() < 0.6 else (rng.randint(2, 5), fine)
    return _noise(along, size, rng) * strength


_TEXTURES = (_gradient, _gradient, _vignette, _cloth, _wood)


def background(size: tuple[int, int], style: Style, rng: random.Random) -> Image.Image:
    """A wall over a table, often of one colour, with one of the textures."""
    ground = np.empty((size[1], size[0], 3), dtype=np.float32)
    ground[:] = style.backdrop[0]
    light = rng.choice(_TEXTURES)(size, rng)
    ground[round(size[1] * rng.uniform(0.45, 0.8)) :] = style.backdrop[1]
    ground += light[:, :, None]
    ground *= 255
    return to_picture(ground)


def to_picture(pixels: Field) -> Image.Image:
    """The pixels as a picture; overwrites them."""
    return Image.fromarray(np.clip(pixels, 0, 255, out=pixels).astype(np.uint8))
