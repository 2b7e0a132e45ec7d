"""Draws product pictures of a `Look`, and what a camera and a shop's upload make of them.

A painter writes one object down as a list of vector parts in its own units; only then is the
object turned, fitted into its cell and filled, so that it is certain to stay inside the picture.
"""

from __future__ import annotations

import io
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from looks import (
    FINEST_PATTERN,
    SMALLEST_OBJECT,
    SUPERSAMPLING,
    Colour,
    Style,
    background,
    choose_style,
    palette,
    rgb,
    to_picture,
)
from painters import PAINTERS, Box, Part, Point, Points, Sketch, bounds
from tiny_world import Look

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
    skin = Image.new("RGB", size, rgb(style.colour))
    pen, second = ImageDraw.Draw(skin), rgb(style.second)
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
        for image, ink in ((self.colour, rgb(paint)), (self.alpha, 255)):
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
    inks = palette(style)
    # Starting from the product's colour keeps the half covered edge pixels free of a black fringe.
    layer = Layer(Image.new("RGB", size, rgb(style.colour)), Image.new("L", size, 0), zoom)
    skin: Image.Image | None = None
    for part in posed.sketch.parts:
        points = [((x - x0) * zoom, (y - y0) * zoom) for x, y in part.points]
        if part.paint == "skin" and style.pattern != "plain":
            skin = skin or _skin(size, bounds(points), posed.angle, style)
            layer.through(points, part.width, skin, 255)
        elif part.paint == "gloss":
            layer.through(points, part.width, Image.new("RGB", size, "white"), 90)
        else:
            layer.cover(points, part.width, inks.get(part.paint, style.colour))
        if not part.width and part.paint != "gloss":
            edge = style.outline or (0.010 if part.paint == "pale" else 0.0)
            if edge:
                layer.cover([*points, points[0]], edge, inks["line"])
    return _lit(layer.colour.reduce(SUPERSAMPLING), style, posed.sketch.ball), layer.alpha.reduce(
        SUPERSAMPLING
    )


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
    return to_picture(pixels * (1 + light[:, :, None]) + 40 * np.maximum(light, 0)[:, :, None])


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
    style = choose_style(look, rng, size)
    placed = _arrange(look, style, rng, size)
    picture = background(size, style, rng)
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
    style = replace(choose_style(look, rng, size), backdrop=(white, white))
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
        shot = to_picture(np.asarray(shot, dtype=np.float32) + grain * rng.uniform(1, 7))
    upload = io.BytesIO()
    shot.save(upload, "JPEG", quality=rng.randint(35, 95))
    return Image.open(upload).convert("RGB")
