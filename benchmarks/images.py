"""Images a second per core, beside the optimisation guide's recipe, and how far apart the pixels are.

    python benchmarks/images.py [--side 1500] [--repeats 12] [--images FOLDER]

The recipe: open, convert to RGB, resize to 448 x 448 by Lanczos, save as JPEG of quality 90. Without a folder
of your own the pictures are drawn: a scene (soft light, edges, a fine texture) as product photographs are,
one with heavy texture everywhere, and noise of all frequencies, which no camera gives. Each is a JPEG of
quality 92. The last lines send the scenes through the processes that a run uses.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table

from tgi_stack.images import VERSION
from tgi_stack.images.grid import Grid
from tgi_stack.images.pool import ImagePool
from tgi_stack.images.prepare import prepare

SIDE = 448
GRID = Grid(factor=32, min_pixels=65_536, max_pixels=16_777_216)  # Qwen3-VL's


def noise(side: int, slope: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """A field of mean 0 and deviation 1 whose amplitudes fall with frequency ** -slope."""
    across, down = np.fft.rfftfreq(side)[None], np.fft.fftfreq(side)[:, None]
    frequency = np.hypot(across, down)
    frequency[0, 0] = 1.0
    phases = np.exp(2j * np.pi * rng.random(frequency.shape))
    field: NDArray[np.float64] = np.fft.irfft2(phases / frequency**slope, s=(side, side))
    field -= field.mean()
    field /= field.std()
    return field


def scene(side: int, slope: float, contrast: float, seed: int) -> Image.Image:
    """Light that falls off over a field of noise, and shapes with edges at many angles before it."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side] / side
    light = 210 - 80 * np.hypot(x - 0.4, y - 0.3)
    shades = np.stack([light, 0.95 * light, 0.85 * light], -1) + contrast * noise(side, slope, rng)[..., None]
    image = Image.fromarray(shades.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x0, y0 = map(int, rng.integers(0, side, 2))
        size = int(rng.integers(side // 20, side // 4))
        draw.regular_polygon(
            (x0, y0, size), int(rng.integers(3, 9)), fill=tuple(map(int, rng.integers(0, 256, 3)))
        )
    textured = np.asarray(image) + 0.4 * contrast * noise(side, slope, rng)[..., None]
    return Image.fromarray(textured.clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def recipe(content: bytes) -> bytes:
    """What the optimisation guide does with an image."""
    image = Image.open(io.BytesIO(content)).convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return encoded(image, 90)


def ours(content: bytes) -> bytes:
    return prepare(content, "picture", GRID, max_side_px=SIDE).jpeg


def per_second(make: Callable[[bytes], bytes], contents: list[bytes], repeats: int) -> list[float]:
    """Images a second of one core's time, once for each repeat."""
    rates = []
    for _ in range(repeats + 1):
        began = time.process_time()
        for content in contents:
            make(content)
        rates.append(len(contents) / (time.process_time() - began))
    return rates[1:]  # the first one warms up


def psnr(a: bytes, b: bytes) -> float:
    one, other = (np.asarray(Image.open(io.BytesIO(content)), dtype=np.float64) for content in (a, b))
    if one.shape != other.shape:
        return float("nan")  # not square: the recipe distorts it
    return float(10 * np.log10(255**2 / np.mean((one - other) ** 2)))


def drawn(side: int) -> dict[str, list[bytes]]:
    kinds = {"a scene": (1.6, 12.0), "heavy texture": (1.3, 30.0), "noise of all frequencies": (1.0, 50.0)}
    return {
        name: [encoded(scene(side, slope, contrast, seed), 92) for seed in range(4)]
        for name, (slope, contrast) in kinds.items()
    }


async def pooled(contents: list[bytes], processes: int, count: int) -> float:
    """Images a second, by the clock, through as many processes."""
    pool = ImagePool(processes)
    asked = [contents[i % len(contents)] for i in range(count)]
    await asyncio.gather(*(pool.prepare(content, "picture", GRID) for content in contents * processes))
    began = time.perf_counter()
    await asyncio.gather(*(pool.prepare(content, "picture", GRID) for content in asked))
    rate = count / (time.perf_counter() - began)
    await pool.aclose()
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=int, default=1500, help="of the drawn pictures, in pixels")
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--images", type=Path, help="JPEGs of your own")
    args = parser.parse_args()
    kinds = drawn(args.side)
    if args.images is not None:
        kinds = {str(args.images): [path.read_bytes() for path in sorted(args.images.glob("*.jp*g"))]}
    title = f"images/s of one core, median of {args.repeats} (range); preparation {VERSION}"
    table = Table("pictures", "kB", "the recipe", "fastqwen", "times", "PSNR dB, least", title=title)
    for name, contents in kinds.items():
        theirs, own = (per_second(make, contents, args.repeats) for make in (recipe, ours))
        apart = min(psnr(recipe(content), ours(content)) for content in contents)
        size = statistics.mean(map(len, contents)) / 1e3
        cells = [
            f"{statistics.median(rates):.1f} ({min(rates):.1f}-{max(rates):.1f})" for rates in (theirs, own)
        ]
        times = statistics.median(own) / statistics.median(theirs)
        table.add_row(name, f"{size:.0f}", *cells, f"{times:.2f}", f"{apart:.1f}")
    console = Console(width=120)
    console.print(table)
    contents = next(iter(kinds.values()))
    for processes in sorted({1, os.cpu_count() or 1}):
        rate = asyncio.run(pooled(contents, processes, 40 * processes))
        console.print(f"through {processes} process(es): {rate:.1f} images/s by the clock")


if __name__ == "__main__":
    main()
