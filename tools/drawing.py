"""Draws product pictures of a `Look`, and what a camera and a shop's upload make of them.

A painter writes one object down as a list of vector parts in its own units; only then is the
object turned, fitted into its cell and filled, so that it is certain to stay inside the picture.
"""

from __future__ import annotations

import colorsys
import io
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from tiny_world import Look

Point: TypeAlias = tuple[float, float]
Points: TypeAlias = list[Point]
Colour: TypeAlias = tuple[float, float, float]
Field: TypeAlias = NDArray[np.float32]
Box: TypeAlias = tuple[float, float, float, float]

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


# ---------------------------------------------------------------------------------- geometry


def oval(
    x: float, y: float, rx: float, ry: float, start: float = 0, end: float = 360, steps: int = 36
) -> Points:
    """Points along an ellipse from `start` to `end` degrees, clockwise from the right."""
    angles = [math.radians(start + (end - start) * i / steps) for i in range(steps + 1)]
    return [(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles]


def mirrored(right: Points) -> Points:
    """A closed outline from its right half, given from top to bottom."""
    return right + [(-x, y) for x, y in reversed(right)]


def rounded(x0: float, y0: float, x1: float, y1: float, radius: float) -> Points:
    """A rectangle with round corners."""
    corners = ((x1, y1, 0), (x0, y1, 90), (x0, y0, 180), (x1, y0, 270))
    outline: Points = []
    for x, y, start in corners:
        cx = x - radius if x == x1 else x + radius
        cy = y - radius if y == y1 else y + radius
        outline += oval(cx, cy, radius, radius, start, start + 90, 6)
    return outline


def smooth(knots: Sequence[Point], steps: int = 6) -> Points:
    """An open Catmull-Rom curve through the knots."""
    padded = [knots[0], *knots, knots[-1]]
    curve: Points = []
    for p0, p1, p2, p3 in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        for i in range(steps):
            t = i / steps
            weights = (
                -0.5 * t + t * t - 0.5 * t**3,
                1 - 2.5 * t * t + 1.5 * t**3,
                0.5 * t + 2 * t * t - 1.5 * t**3,
                -0.5 * t * t + 0.5 * t**3,
            )
            x, y = (sum(w * p[k] for w, p in zip(weights, (p0, p1, p2, p3), strict=True)) for k in (0, 1))
            curve.append((x, y))
    return [*curve, knots[-1]]


def ring_point(x: float, y: float, radius: float, degrees: float) -> Point:
    """The point of a circle at a clock's angle: 0 is up, 90 is right."""
    a = math.radians(degrees - 90)
    return x + radius * math.cos(a), y + radius * math.sin(a)


def bounds(points: Points) -> Box:
    """Left, top, right and bottom of the points."""
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    return min(xs), min(ys), max(xs), max(ys)


# ---------------------------------------------------------------------------------- sketches


@dataclass(frozen=True)
class Part:
    """A filled outline, or with a `width` a stroke, in one paint of the palette."""

    points: Points
    paint: str
    width: float = 0.0


@dataclass
class Sketch:
    """One object as parts from back to front, about 1 unit large, y down.

    Paints: `skin` carries the pattern; `own`, `shade`, `deep`, `tint` and `line` are tones of the
    product's colour; `pale` is paper or enamel, `fitting` metal or rubber, `gloss` a reflection.
    """

    rng: random.Random
    patterned: bool
    parts: list[Part] = field(default_factory=list)
    ball: bool = False

    def fill(self, points: Points, paint: str = "skin") -> None:
        """Adds a filled outline."""
        self.parts.append(Part(points, paint))

    def stroke(self, points: Points, width: float, paint: str = "own") -> None:
        """Adds a line with round ends."""
        self.parts.append(Part(points, paint, width))

    def vary(self, value: float, share: float = 0.15) -> float:
        """The value, up to `share` of it smaller or larger."""
        return value * self.rng.uniform(1 - share, 1 + share)

    def chance(self, probability: float) -> bool:
        """True with the probability."""
        return self.rng.random() < probability


def paint_mug(s: Sketch) -> None:
    """A cup with straight or tapered sides and one large handle."""
    top, h = s.vary(0.34), s.vary(0.42, 0.12)
    foot = top * s.rng.uniform(0.78, 1.0)
    hx, hy = top * 0.97, s.rng.uniform(-0.04, 0.02)
    s.stroke(oval(hx, hy, s.vary(0.23), s.vary(0.25), -95, 95), s.vary(0.085))
    lip = s.rng.uniform(0.05, 0.10)
    base = [(-x, y) for x, y in oval(0, h, foot, lip, 180, 0, 16)]
    s.fill([*base, (-top, -h), (top, -h)][::-1])
    s.fill(oval(0, -h, top, lip), "tint")
    s.fill(oval(0, -h + 0.006, top * 0.88, lip * 0.75), "deep")


def paint_bottle(s: Sketch) -> None:
    """A slender body, sloping shoulders, a narrow neck and a cap."""
    w, neck = s.vary(0.165, 0.12), s.vary(0.062, 0.12)
    shoulder, top = s.rng.uniform(-0.20, -0.10), -0.44
    side = smooth([(neck, top), (neck, shoulder - 0.16), (w, shoulder), (w, 0.0), (w, 0.44)])
    s.fill(mirrored([*side, (w * 0.9, 0.49)]))
    cap = neck * s.rng.uniform(1.15, 1.4)
    s.fill(rounded(-cap, top - s.vary(0.06), cap, top + 0.03, 0.015), "fitting")
    s.stroke([(-neck, top + 0.07), (neck, top + 0.07)], 0.018, "shade")
    if s.chance(0.5):
        x = -w * 0.62
        s.stroke([(x, shoulder + 0.06), (x, shoulder + s.rng.uniform(0.2, 0.35))], 0.03, "gloss")


def paint_teapot(s: Sketch) -> None:
    """A round belly with a spout, a handle, and a lid with a knob."""
    rx, ry = s.vary(0.33, 0.1), s.vary(0.28, 0.1)
    s.stroke(oval(rx * 0.9, 0.0, s.vary(0.19), ry * 0.7, -100, 100), s.vary(0.06))
    tip = (-rx - s.vary(0.24), -ry * s.rng.uniform(0.55, 0.85))
    upper = smooth([(-rx * 0.75, -0.06), (-rx - 0.09, -0.06), tip])
    lower = smooth([(tip[0] + 0.085, tip[1] - 0.015), (-rx - 0.02, 0.10), (-rx * 0.6, 0.18)])
    s.fill(upper + lower, "own")
    s.fill(rounded(-rx * 0.55, ry * 0.8, rx * 0.55, ry + 0.05, 0.02), "shade")
    s.fill(oval(0, 0, rx, ry, steps=48))
    knob = s.vary(0.05)
    s.fill(oval(0, -ry - 0.10, knob, knob), "shade")
    s.fill([*oval(0, -ry * 0.86, rx * 0.58, s.vary(0.11), 180, 360)], "own")
    s.stroke([(-rx * 0.6, -ry * 0.84), (rx * 0.6, -ry * 0.84)], 0.025, "line")
    if s.chance(0.5):
        s.fill(oval(-rx * 0.5, -ry * 0.3, 0.05, 0.04), "gloss")


def _flower(s: Sketch, x: float, y: float, radius: float) -> None:
    """A flower's head: pale petals, so that it never names a second colour."""
    turn, petals = s.rng.uniform(0, 72), 5
    for i in range(petals):
        px, py = ring_point(x, y, radius * 0.6, turn + i * 360 / petals)
        s.fill(oval(px, py, radius * 0.5, radius * 0.5, steps=10), "pale")
    s.fill(oval(x, y, radius * 0.35, radius * 0.35, steps=10), "fitting")


def paint_vase(s: Sketch) -> None:
    """A belly, a short neck and a flared lip, with stems or flowers in it."""
    belly, neck, lip = s.vary(0.25), s.vary(0.10), s.vary(0.17)
    for x in (-0.16, 0.0, 0.16)[: 3 if s.chance(0.7) else 2]:
        head = (x * s.vary(1.2) + s.rng.uniform(-0.03, 0.03), -s.rng.uniform(0.36, 0.48))
        s.stroke(smooth([(x * 0.2, 0.0), (x * 0.4, -0.2), head]), 0.018, "stem")
        if s.chance(0.75):
            _flower(s, *head, s.vary(0.075))
        else:
            s.fill(oval(*head, 0.035, 0.075, steps=16), "stem")
    y = s.rng.uniform(0.18, 0.30)
    side = [(lip, -0.1), (neck, 0.0), (belly, y), (belly * 0.85, 0.40), (belly * 0.5, 0.5)]
    s.fill(mirrored(smooth(side)))
    s.fill(oval(0, -0.1, lip, 0.03), "deep")


def _desk_lamp(s: Sketch) -> None:
    """A jointed arm on a round foot with a cone-shaped shade at its end."""
    elbow = (s.vary(-0.30), s.rng.uniform(-0.10, 0.04))
    s.fill(oval(-0.02, 0.44, s.vary(0.24), 0.055), "shade")
    s.stroke([(0.0, 0.42), elbow, (0.06, -0.34)], s.vary(0.04), "fitting")
    s.fill(oval(*elbow, 0.04, 0.04, steps=16), "shade")
    tilt, wide, long = math.radians(s.rng.uniform(-55, -25)), s.vary(0.26), s.vary(0.38, 0.1)

    def place(points: Points) -> Points:
        c, d = math.cos(tilt), math.sin(tilt)
        return [(0.04 + x * c - y * d, -0.36 + x * d + y * c) for x, y in points]

    s.fill(place(oval(0, long, wide * 0.42, 0.09)), "glow")
    s.fill(place(mirrored(smooth([(0.07, -0.04), (0.09, 0.05), (wide, long)]))))
    s.fill(place(oval(0, -0.05, 0.06, 0.05, steps=16)), "shade")


def _table_lamp(s: Sketch) -> None:
    """A wide shade over a slim stem on a foot."""
    top, low, y = s.vary(0.17), s.vary(0.35, 0.1), s.rng.uniform(0.02, 0.08)
    s.stroke([(0, y), (0, 0.44)], s.vary(0.05), "fitting")
    s.fill([*oval(0, 0.48, s.vary(0.19), s.vary(0.09), 180, 360)], "shade")
    s.fill(oval(0, y, low * 0.3, 0.07), "glow")
    s.fill([(-top, -0.46), (top, -0.46), (low, y), *oval(0, y, low, 0.03, 0, 180, 12), (-low, y)])
    s.stroke([(low * 0.5, y + 0.03), (low * 0.5, y + 0.2)], 0.014, "fitting")
    s.fill(oval(low * 0.5, y + 0.21, 0.025, 0.025, steps=12), "fitting")


def paint_lamp(s: Sketch) -> None:
    """A desk lamp with a jointed arm, or a table lamp."""
    (_desk_lamp if s.chance(0.6) else _table_lamp)(s)


def paint_chair(s: Sketch) -> None:
    """A chair seen from the front and a little from the side: back, seat and four legs."""
    w, dx, dy = s.vary(0.27, 0.1), s.vary(0.13), s.vary(0.13)
    front, rear, leg = s.rng.uniform(0.06, 0.13), 0.0, s.vary(0.048)
    rear = front - dy
    for x in (-w + dx, w + dx):
        s.stroke([(x, rear), (x * 1.05, 0.36)], leg, "shade")
    back = s.rng.uniform(0.02, 0.07)
    post = [(-w + dx + 0.02, rear), (-w + dx, -0.47)]
    s.stroke(post, leg, "own")
    s.stroke([(w + dx - 0.02, rear), (w + dx, -0.47)], leg, "own")
    s.fill(rounded(-w + dx, -0.5, w + dx, rear - back - 0.02, s.rng.uniform(0.02, 0.09)))
    seat = [(-w - 0.02, front), (w + 0.02, front), (w + dx, rear), (-w + dx, rear)]
    s.fill(seat)
    edge = s.vary(0.05)
    s.fill([seat[0], seat[1], (seat[1][0], front + edge), (seat[0][0], front + edge)], "shade")
    for x in (-w, w):
        s.stroke([(x, front + edge), (x * s.rng.uniform(1.0, 1.12), 0.5)], leg, "own")


def paint_clock(s: Sketch) -> None:
    """A round dial: a pale ring with twelve ticks around a coloured face with two hands."""
    ring, face = s.rng.uniform(0.43, 0.45), s.rng.uniform(0.315, 0.345)
    if s.chance(0.4):
        for side in (-1, 1):
            s.stroke([(0, 0), (side * 0.34, 0.50)], 0.07, "shade")
            s.fill(oval(side * 0.30, -0.42, 0.14, 0.11), "own")
    s.fill(oval(0, 0, 0.48, 0.48, steps=48), "own")
    s.fill(oval(0, 0, ring, ring, steps=48), "pale")
    s.fill(oval(0, 0, face, face, steps=48))
    for mark in range(12):
        inner = face + (0.02 if mark % 3 else 0.0)
        tick = [ring_point(0, 0, r, mark * 30) for r in (inner + 0.015, ring - 0.02)]
        s.stroke(tick, 0.028 if mark % 3 else 0.045, "ink")
    hour = s.rng.uniform(0, 12)
    for degrees, length, width in ((hour * 30, 0.18, 0.055), (hour % 1 * 360, 0.28, 0.04)):
        hand = [(0.0, 0.0), ring_point(0, 0, s.vary(length, 0.06), degrees)]
        s.stroke(hand, width + 0.045, "pale")
        s.stroke(hand, width, "ink")
    s.fill(oval(0, 0, 0.045, 0.045, steps=16), "ink")


def _closed_book(s: Sketch) -> None:
    """A thick book lying aslant: cover, spine and the pages below."""
    w, h, thick, skew = s.vary(0.31, 0.1), s.vary(0.40, 0.1), s.vary(0.10), s.rng.uniform(0.02, 0.1)
    low = [(-w - skew, h), (w - skew, h), (w, -h), (-w, -h)]
    drop = [(x + thick * 0.9, y + thick) for x, y in low]
    s.fill([low[0], drop[0], drop[1], drop[2], low[2]], "own")
    inset = 0.018
    pages = [
        low[0],
        (drop[0][0], drop[0][1] - inset),
        (drop[1][0] - inset, drop[1][1] - inset),
        (drop[2][0] - inset, drop[2][1] + inset),
        low[2],
        low[1],
    ]
    s.fill(pages, "pale")
    for t in (0.35, 0.65):
        sheet = [(x + thick * 0.9 * t, y + thick * t) for x, y in (low[0], low[1], low[2])]
        s.stroke(sheet, 0.01, "stone")
    s.fill(low)
    spine = [low[0], low[3], (low[3][0] + 0.09, -h), (low[0][0] + 0.09, h)]
    s.fill(spine, "shade")
    _label(s, -w * 0.45, -h * 0.62, w * 0.7, -h * 0.2)


def _label(s: Sketch, x0: float, y0: float, x1: float, y1: float) -> None:
    """A title plate with two lines of writing."""
    s.fill([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], "pale")
    for t, share in ((0.36, 0.85), (0.68, 0.6)):
        y, slack = y0 + (y1 - y0) * t, (x1 - x0) * (1 - share) / 2
        s.stroke([(x0 + slack, y), (x1 - slack, y)], 0.022, "ink")


def _standing_book(s: Sketch) -> None:
    """A book that stands ajar, its pages fanned between the two covers."""
    h, w, spread = s.vary(0.42, 0.1), s.vary(0.40, 0.1), s.vary(0.22)
    lift = s.rng.uniform(0.05, 0.12)
    s.fill([(0, -h), (0, h), (-spread, h - lift * 1.3), (-spread, -h - lift * 1.3)], "shade")
    for t in (0.92, 0.7, 0.48):
        x, y = -spread * t, h - 0.03
        s.fill([(0, -y), (0, y), (x, y - lift * t), (x, -y - lift * t)], "pale")
    s.fill([(0, -h), (0, h), (w, h + lift), (w, -h + lift)])
    s.stroke([(0, -h), (0, h)], 0.05, "shade")
    if s.chance(0.6):
        _label(s, w * 0.25, -h * 0.45, w * 0.85, -h * 0.05)


def paint_book(s: Sketch) -> None:
    """A thick closed book, or one that stands ajar."""
    (_closed_book if s.chance(0.6) else _standing_book)(s)


def paint_backpack(s: Sketch) -> None:
    """A tall rounded bag with a loop on top, straps at the sides and a front pocket."""
    w, top, low = s.vary(0.30, 0.1), -0.40, 0.47
    s.stroke(oval(0, top, s.vary(0.09), 0.085, 180, 360), 0.04, "line")
    for side in (-1, 1):
        strap = [(side * w * 0.75, -0.28), (side * (w + s.vary(0.12)), 0.05), (side * w, 0.38)]
        s.stroke(smooth(strap), s.vary(0.06), "shade")
    if s.chance(0.5):
        for side in (-1, 1):
            s.fill(oval(side * w, 0.24, 0.07, 0.17), "shade")
    side_seam = [(w * 0.62, top + 0.03), (w * 0.97, -0.16), (w, 0.15), (w * 0.97, low - 0.06)]
    s.fill(mirrored([*smooth([(0.0, top), *side_seam]), (w * 0.85, low)]))
    zip_line = mirrored([(w * 0.72, -0.08), (w * 0.5, -0.25), (0, -0.3)])
    s.stroke(smooth(zip_line), 0.022, "line")
    px, py = w * s.rng.uniform(0.62, 0.75), s.rng.uniform(0.10, 0.16)
    s.fill(rounded(-px, py, px, low - 0.05, 0.06), "shade")
    s.stroke([(-px * 0.8, py + 0.07), (px * 0.8, py + 0.07)], 0.024, "line")
    s.stroke([(px * 0.6, py + 0.07), (px * 0.6, py + 0.14)], 0.03, "pale")


def paint_umbrella(s: Sketch) -> None:
    """An open umbrella from the side: a scalloped canopy, a shaft and a hooked handle."""
    w, rise, rim = s.vary(0.5, 0.08), s.vary(0.38, 0.12), s.rng.uniform(-0.10, -0.04)
    s.stroke([(0, rim - rise - 0.07), (0, 0.40)], 0.032, "fitting")
    turn = s.vary(0.07)
    s.stroke([(0, 0.28), *oval(-turn, 0.40, turn, turn, 0, 180, 16)], 0.05, "fitting")
    scallops = s.rng.choice((4, 5))
    step = 2 * w / scallops
    outline = oval(0, rim, w, rise, 180, 360)
    for i in range(scallops):
        outline += oval(w - step * (i + 0.5), rim, step / 2, 0.055, 0, -180, 10)
    s.fill(outline)
    for i in range(1, 1 if s.patterned else scallops):
        x = w - step * i
        s.stroke(smooth([(0, rim - rise), (x * 0.75, rim - rise * 0.62), (x, rim)]), 0.012, "line")


def paint_hat(s: Sketch) -> None:
    """A crown with a band over a wide brim."""
    brim, crown, h = s.vary(0.52, 0.1), s.vary(0.27, 0.1), s.vary(0.34)
    sag = s.rng.uniform(0.03, 0.10)
    tip, low, foot = 0.10 + sag * 0.4, 0.20 + sag, 0.15 + sag * 0.4
    far = smooth([(-brim, tip), (0, 0.04), (brim, tip)])
    s.fill(far + smooth(mirrored([(brim, tip + 0.03), (brim * 0.5, low), (0, low + 0.02)])))
    dent = s.rng.uniform(0.0, 0.06) if s.chance(0.5) else -0.05
    right = smooth([(0.0, dent - h), (crown * 0.55, -h), (crown * 0.88, -h * 0.7), (crown, foot)])
    s.fill(mirrored([*right, *oval(0, foot, crown, 0.04, 0, 90, 8)]))
    upper = oval(0, foot - s.rng.uniform(0.07, 0.11), crown * 0.985, 0.04, 0, 180, 12)
    s.fill(oval(0, foot, crown * 1.01, 0.04, 180, 0, 12) + upper, "band")


def paint_shirt(s: Sketch) -> None:
    """A T-shirt spread flat: short sleeves, a round or pointed neck."""
    chest, hem, low = s.vary(0.27, 0.08), s.vary(0.28, 0.08), s.rng.uniform(0.40, 0.48)
    neck, reach, drop = s.vary(0.11), s.vary(0.50, 0.08), s.rng.uniform(-0.16, -0.08)
    collar = s.vary(0.10) if s.chance(0.6) else s.vary(0.17)
    sleeve = [(chest, -0.38), (reach, drop), (reach - 0.12, drop + 0.12), (chest, -0.13)]
    s.fill(oval(0, -0.43, neck, 0.03), "deep")
    slope = [(neck, -0.44), (neck * 0.6, collar * 0.75 - 0.44), (0, collar - 0.44)]
    dip = smooth(mirrored(slope))
    s.fill(mirrored([(neck, -0.44), *sleeve, (hem, low)]) + dip[::-1])
    s.stroke(dip, 0.03, "shade")
    for side in (-1, 1):
        s.stroke([(side * chest * 1.02, -0.34), (side * chest, -0.13)], 0.012, "line")
        cuff = [(side * (reach - 0.01), drop + 0.005), (side * (reach - 0.12), drop + 0.11)]
        s.stroke(cuff, 0.025, "shade")


def paint_boot(s: Sketch) -> None:
    """A tall boot from the side: shaft, ankle, toe, a dark sole with a heel."""
    w, toe, top = s.vary(0.17, 0.1), s.vary(0.46, 0.1), s.rng.uniform(-0.50, -0.38)
    heel = -0.22
    shin = heel + 2 * w
    ankle = [(shin, top), (shin - 0.02, -0.02), (shin + 0.06, 0.12)]
    front = smooth([*ankle, (toe - 0.08, 0.18), (toe, 0.30), (toe - 0.01, 0.41)])
    rear = smooth([(heel - 0.01, 0.41), (heel - 0.01, 0.36), (heel + 0.03, 0.0), (heel, top)])
    s.fill(front + rear)
    sole = [(heel - 0.03, 0.39), (toe + 0.02, 0.39), (toe, 0.47)]
    s.fill([*sole, (0.06, 0.47), (0.03, 0.52), (heel - 0.02, 0.52)], "sole")
    s.fill(oval(heel + w, top, w, 0.035), "deep")
    if s.chance(0.5):
        for i in range(3):
            y = -0.16 + 0.10 * i
            s.stroke([(shin - 0.09, y + 0.03), (shin + 0.02, y)], 0.03, "pale")
    else:
        s.stroke([(heel, top + 0.09), (shin, top + 0.09)], 0.03, "shade")


def paint_ball(s: Sketch) -> None:
    """A ball: a bright spot, a dark far side and, unless a pattern is there, thin curved seams."""
    s.ball = True
    s.fill(oval(0, 0, 0.5, 0.5, steps=56))
    if not s.patterned:
        _seams(s)
    s.fill(oval(-0.18, -0.22, s.vary(0.10), s.vary(0.075), steps=20), "gloss")


def _seams(s: Sketch) -> None:
    """A basketball's cross and bows, or a tennis ball's two bows; too thin to pass for stripes."""
    if s.chance(0.5):
        s.stroke([(-0.5, 0.0), (0.5, 0.0)], 0.018, "line")
        s.stroke([(0.0, -0.5), (0.0, 0.5)], 0.018, "line")
    reach = s.vary(0.2)
    for side in (-1, 1):
        bow = [(side * 0.32, -0.37), (side * reach, 0.0), (side * 0.32, 0.37)]
        s.stroke(smooth(bow), 0.018, "line")


PAINTERS: dict[str, Callable[[Sketch], None]] = {
    "mug": paint_mug,
    "bottle": paint_bottle,
    "teapot": paint_teapot,
    "vase": paint_vase,
    "lamp": paint_lamp,
    "chair": paint_chair,
    "clock": paint_clock,
    "book": paint_book,
    "backpack": paint_backpack,
    "umbrella": paint_umbrella,
    "hat": paint_hat,
    "shirt": paint_shirt,
    "boot": paint_boot,
    "ball": paint_ball,
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


def _rgb(colour: Colour) -> tuple[int, int, int]:
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


def _style(look: Look, rng: random.Random, size: tuple[int, int]) -> Style:
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


def _palette(style: Style) -> dict[str, Colour]:
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


# ----------------------------------------------------------------------------------- objects


@dataclass(frozen=True)
class Posed:
    """A sketch that has been turned and whose extent is known, strokes and outlines included."""

    sketch: Sketch
    angle: float
    box: Box


def _pose(look: Look, rng: random.Random, style: Style) -> Posed:
    """Sketches one object, perhaps mirrors it, and turns it."""
    sketch = Sketch(rng, look.pattern != "plain")
    PAINTERS[look.category](sketch)
    angle = math.radians(rng.triangular(-25, 25, 0))
    flip, stretch = rng.choice((-1, 1)), rng.uniform(0.92, 1.08)
    c, d = math.cos(angle), math.sin(angle)
    reach: Points = []
    for i, part in enumerate(sketch.parts):
        turned = [(x * flip * stretch * c - y * d, x * flip * stretch * d + y * c) for x, y in part.points]
        sketch.parts[i] = Part(turned, part.paint, part.width)
        x0, y0, x1, y1 = bounds(turned)
        edge = part.width / 2 + style.outline
        reach += [(x0 - edge, y0 - edge), (x1 + edge, y1 + edge)]
    return Posed(sketch, angle, bounds(reach))


def _skin(size: tuple[int, int], area: Box, angle: float, style: Style) -> Image.Image:
    """The product's colour with its stripes or dots, as large as the layer."""
    skin = Image.new("RGB", size, _rgb(style.colour))
    pen, second = ImageDraw.Draw(skin), _rgb(style.second)
    extent = math.sqrt((area[2] - area[0]) * (area[3] - area[1]))
    step = max(style.spacing * extent, FINEST_PATTERN * style.pixel * SUPERSAMPLING)
    turn = angle + math.radians(style.angle)
    c, d = math.cos(turn), math.sin(turn)
    cx, cy = (area[0] + area[2]) / 2, (area[1] + area[3]) / 2
    reach = math.ceil(math.hypot(*size) / step / 2) + 2
    far, thick = reach * step * 2, step * style.share / 2
    for i in range(-reach, reach + 1):
        v = (i + 0.5) * step
        if style.pattern == "striped":
            corners = ((-far, v - thick), (far, v - thick), (far, v + thick), (-far, v + thick))
            pen.polygon([(cx + x * c - y * d, cy + x * d + y * c) for x, y in corners], fill=second)
            continue
        for j in range(-reach, reach + 1):
            u, radius = (j + i % 2 / 2) * step, step * style.share
            x, y = cx + u * c - v * d, cy + u * d + v * c
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=second)
    return skin


@dataclass
class Layer:
    """One object's own supersampled picture and its mask."""

    colour: Image.Image
    alpha: Image.Image
    scale: float

    def cover(self, points: Points, width: float, paint: Colour) -> None:
        """Draws an outline's inside, or with a width a stroke with round ends, and its mask."""
        for image, ink in ((self.colour, _rgb(paint)), (self.alpha, 255)):
            pen = ImageDraw.Draw(image)
            if width:
                _line(pen, points, width * self.scale, ink)
            else:
                pen.polygon(points, fill=ink)

    def through(self, points: Points, width: float, source: Image.Image, opacity: int) -> None:
        """Lays the source over the part, with the opacity."""
        mask = Image.new("L", self.alpha.size, 0)
        pen = ImageDraw.Draw(mask)
        if width:
            _line(pen, points, width * self.scale, opacity)
        else:
            pen.polygon(points, fill=opacity)
        self.colour.paste(source, mask=mask)
        self.alpha.paste(255, mask=mask)


def _line(pen: ImageDraw.ImageDraw, points: Points, width: float, ink: int | tuple[int, int, int]) -> None:
    """A line with round ends, at least 1.5 supersampled pixels wide."""
    thick = max(2, round(width))
    pen.line(points, fill=ink, width=thick, joint="curve")
    r = thick / 2 - 0.5
    for x, y in (points[0], points[-1]):
        pen.ellipse((x - r, y - r, x + r, y + r), fill=ink)


def _render(posed: Posed, scale: float, style: Style) -> tuple[Image.Image, Image.Image]:
    """Fills the parts at `scale` pixels a unit; returns the colours and the mask."""
    x0, y0, x1, y1 = posed.box
    zoom = scale * SUPERSAMPLING
    size = (2 * math.ceil(zoom * (x1 - x0) / 2), 2 * math.ceil(zoom * (y1 - y0) / 2))
    palette = _palette(style)
    # Starting from the product's colour keeps the half covered edge pixels free of a black fringe.
    layer = Layer(Image.new("RGB", size, _rgb(style.colour)), Image.new("L", size, 0), zoom)
    skin: Image.Image | None = None
    for part in posed.sketch.parts:
        points = [((x - x0) * zoom, (y - y0) * zoom) for x, y in part.points]
        if part.paint == "skin" and style.pattern != "plain":
            skin = skin or _skin(size, bounds(points), posed.angle, style)
            layer.through(points, part.width, skin, 255)
        elif part.paint == "gloss":
            layer.through(points, part.width, Image.new("RGB", size, "white"), 90)
        else:
            layer.cover(points, part.width, palette.get(part.paint, style.colour))
        if not part.width and part.paint != "gloss":
            edge = style.outline or (0.010 if part.paint == "pale" else 0.0)
            if edge:
                layer.cover([*points, points[0]], edge, palette["line"])
    return _lit(layer.colour.reduce(SUPERSAMPLING), style, posed.sketch.ball), layer.alpha.reduce(
        SUPERSAMPLING
    )


def _picture(pixels: Field) -> Image.Image:
    """The pixels as a picture; overwrites them."""
    return Image.fromarray(np.clip(pixels, 0, 255, out=pixels).astype(np.uint8))


def _lit(colour: Image.Image, style: Style, ball: bool) -> Image.Image:
    """Light from one side; a ball is darker towards its rim, which tells it from a disc."""
    w, h = colour.size
    x = np.linspace(-1, 1, w, dtype=np.float32)[None, :]
    y = np.linspace(-1, 1, h, dtype=np.float32)[:, None]
    if ball:
        rim = np.minimum((x + 0.25) ** 2 + (y + 0.3) ** 2, 2.0)
        light = 0.10 - (0.14 + style.contrast) * rim
    else:
        light = style.contrast * (x * math.cos(style.light) + y * math.sin(style.light)) / 1.4
    pixels = np.asarray(colour, dtype=np.float32)
    return _picture(pixels * (1 + light[:, :, None]) + 40 * np.maximum(light, 0)[:, :, None])


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


def _background(size: tuple[int, int], style: Style, rng: random.Random) -> Image.Image:
    """A wall over a table, often of one colour, with one of the textures."""
    ground = np.empty((size[1], size[0], 3), dtype=np.float32)
    ground[:] = style.backdrop[0]
    light = rng.choice(_TEXTURES)(size, rng)
    ground[round(size[1] * rng.uniform(0.45, 0.8)) :] = style.backdrop[1]
    ground += light[:, :, None]
    ground *= 255
    return _picture(ground)


# ------------------------------------------------------------------------------- composition


def _split(box: Box, upright: bool, share: float) -> tuple[Box, Box]:
    """The two parts of a box, side by side or one over the other."""
    x0, y0, x1, y1 = box
    if upright:
        y = y0 + (y1 - y0) * share
        return (x0, y0, x1, y), (x0, y, x1, y1)
    x = x0 + (x1 - x0) * share
    return (x0, y0, x, y1), (x, y0, x1, y1)


def _layouts(frame: Box, count: int, rng: random.Random) -> list[list[Box]]:
    """The ways to give each of up to three objects a cell of its own."""
    if count == 1:
        return [[frame]]
    if count == 2:
        return [list(_split(frame, upright, rng.uniform(0.44, 0.56))) for upright in (False, True)]
    layouts: list[list[Box]] = []
    for upright in (False, True):
        first, rest = _split(frame, upright, rng.uniform(0.31, 0.36))
        layouts.append([first, *_split(rest, upright, rng.uniform(0.46, 0.54))])
        one, other = _split(frame, upright, rng.uniform(0.45, 0.55))
        halved, whole = (one, other) if rng.random() < 0.5 else (other, one)
        layouts.append([whole, *_split(halved, not upright, rng.uniform(0.45, 0.55))])
    return layouts


def _largest(cell: Box, posed: Posed) -> float:
    """The scale at which the object fills the cell."""
    x0, y0, x1, y1 = posed.box
    return min((cell[2] - cell[0]) / (x1 - x0), (cell[3] - cell[1]) / (y1 - y0))


def _cells(size: tuple[int, int], objects: Sequence[Posed], rng: random.Random) -> list[Box]:
    """One of the layouts that do not cost the objects much of their size."""
    margin = max(1.5, 0.025 * min(size))
    frame = _inset((0.0, 0.0, float(size[0]), float(size[1])), margin / 2)
    layouts = _layouts(frame, len(objects), rng)
    room = [min(map(_largest, cells, objects)) for cells in layouts]
    good = [cells for cells, r in zip(layouts, room, strict=True) if r > 0.75 * max(room)]
    return [_inset(cell, margin) for cell in rng.choice(good)]


def _inset(cell: Box, margin: float) -> Box:
    """The cell without its margin, so that neighbours keep a gap and count as two."""
    return cell[0] + margin, cell[1] + margin, cell[2] - margin, cell[3] - margin


def _scale(cell: Box, posed: Posed, share: float, smallest: float) -> float:
    """Pixels a unit: `share` of the cell, but large enough to be recognised where there is room."""
    x0, y0, x1, y1 = posed.box
    largest = _largest(cell, posed) * 0.98
    return min(largest, max(largest * share, smallest / max(x1 - x0, y1 - y0)))


def _shadow(
    picture: Image.Image, alpha: Image.Image, corner: tuple[int, int], offset: Point, depth: float
) -> None:
    """Darkens the ground where the object keeps the light off, softly."""
    w, h = alpha.size
    pad = max(4, max(w, h) // 8)
    small = 4 if max(w, h) > 64 else 2
    mask = Image.new("L", (w + 2 * pad, h + 2 * pad), 0)
    mask.paste(alpha.point([round(depth * i) for i in range(256)]), (pad, pad))
    soft = mask.reduce(small).filter(ImageFilter.GaussianBlur(pad / small / 2.5))
    at = corner[0] - pad + round(offset[0] * pad), corner[1] - pad + round(offset[1] * pad)
    picture.paste((18, 16, 20), at, soft.resize(mask.size, Image.Resampling.BILINEAR))


@dataclass(frozen=True)
class Placed:
    """One finished object: its colours, its mask and where its upper left corner goes."""

    colours: Image.Image
    alpha: Image.Image
    corner: tuple[int, int]


def _arrange(look: Look, style: Style, rng: random.Random, size: tuple[int, int]) -> list[Placed]:
    """The look's objects, each drawn and somewhere in a cell of its own."""
    objects = [_pose(look, rng, style) for _ in range(look.count)]
    share = math.sqrt(rng.uniform(0.15, 0.85))
    placed: list[Placed] = []
    for cell, posed in zip(_cells(size, objects, rng), objects, strict=True):
        scale = _scale(cell, posed, share * rng.uniform(0.85, 1), SMALLEST_OBJECT * style.pixel)
        colours, alpha = _render(posed, scale, style)
        x = cell[0] + (cell[2] - cell[0] - alpha.width) * rng.random()
        y = cell[1] + (cell[3] - cell[1] - alpha.height) * rng.random()
        placed.append(Placed(colours, alpha, (round(x), round(y))))
    return placed


def draw(look: Look, rng: random.Random, size: tuple[int, int]) -> Image.Image:
    """An RGB picture of the look, `size` being its width and height."""
    style = _style(look, rng, size)
    placed = _arrange(look, style, rng, size)
    picture = _background(size, style, rng)
    if rng.random() < 0.5:
        offset, depth = (rng.uniform(-0.6, 0.6), rng.uniform(0.1, 0.8)), rng.uniform(0.2, 0.5)
        if look.colour == "black":  # a deep shadow would melt into the silhouette
            depth *= 0.5
        for item in placed:
            _shadow(picture, item.alpha, item.corner, offset, depth)
    for item in placed:
        picture.paste(item.colours, item.corner, item.alpha)
    return picture


def cutout(look: Look, rng: random.Random, size: tuple[int, int]) -> Image.Image:
    """An RGBA picture of the look on a transparent ground, meant for a white page."""
    white = (1.0, 1.0, 1.0)
    style = replace(_style(look, rng, size), backdrop=(white, white))
    picture, mask = Image.new("RGB", size, "white"), Image.new("L", size, 0)
    for item in _arrange(look, style, rng, size):
        # Edge pixels keep the full colour, as a viewer multiplies them with the mask itself.
        inside = item.alpha.point([0] + [255] * 255)
        picture.paste(item.colours, item.corner, inside)
        mask.paste(item.alpha, item.corner)
    picture.putalpha(mask)
    return picture


# ------------------------------------------------------------------------------------ camera


def camera(image: Image.Image, rng: random.Random) -> Image.Image:
    """The picture after a camera and an upload: exposure, tint, blur, sensor noise and JPEG."""
    gain, lift = rng.uniform(0.90, 1.10), rng.uniform(-8, 8)
    balance = np.array([[gain * rng.uniform(0.965, 1.035)] for _ in range(3)])
    table = np.clip((np.arange(256) - 128) * balance + 128 + lift, 0, 255)
    shot = image.convert("RGB").point(table.astype(np.uint8).ravel().tolist())
    if rng.random() < 0.3:
        shot = shot.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.9) * min(shot.size) / 256))
    if rng.random() < 0.6:
        noise = np.random.default_rng(rng.getrandbits(64))
        grain = noise.standard_normal((shot.height, shot.width, 1), dtype=np.float32)
        shot = _picture(np.asarray(shot, dtype=np.float32) + grain * rng.uniform(1, 7))
    upload = io.BytesIO()
    shot.save(upload, "JPEG", quality=rng.randint(35, 95))
    return Image.open(upload).convert("RGB")
