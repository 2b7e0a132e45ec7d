"""The products of the small world as vector parts, each in its painter's own units."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

Point: TypeAlias = tuple[float, float]
Points: TypeAlias = list[Point]
Box: TypeAlias = tuple[float, float, float, float]


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
