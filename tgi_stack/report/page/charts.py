"""Charts as SVG: drawn here once, coloured by the page's style sheet in light and dark.

Each has a `<title>` and stands beside a table of its numbers. ElementTree escapes attributes and texts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

from tgi_stack.report.figures import MOST_PLACES, Bias, Calibration
from tgi_stack.report.run import Pace
from tgi_stack.scoring.metrics import Estimate

WIDTH, HEIGHT = 440, 240
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 14, 36
MOST_BARS = 220
MOST_LETTERS = 10  # of a label


class Chart:
    """An SVG picture with two axes; coordinates are given in units of the data.

    Args:
        title: what the picture shows, for those who can't see it.
        x, y: the bounds of the data.
    """

    def __init__(
        self,
        title: str,
        x: tuple[float, float],
        y: tuple[float, float],
        height: int = HEIGHT,
        left: int = LEFT,
    ) -> None:
        box = f"0 0 {WIDTH} {height}"
        self.svg = ElementTree.Element(
            "svg", {"viewBox": box, "role": "img", "aria-label": title, "class": "chart"}
        )
        ElementTree.SubElement(self.svg, "title").text = title
        self._x, self._y, self._height, self._left = x, y, height, left

    def x(self, value: float) -> float:
        """Pixels from the left."""
        low, high = self._x
        return round(self._left + (value - low) / (high - low) * (WIDTH - self._left - RIGHT), 2)

    def y(self, value: float) -> float:
        """Pixels from the top."""
        low, high = self._y
        return round(self._height - BOTTOM - (value - low) / (high - low) * (self._height - TOP - BOTTOM), 2)

    def add(self, name: str, said: str | None = None, **attributes: Any) -> ElementTree.Element:
        """An element; `said` is what hovering tells."""
        named = {key.rstrip("_").replace("_", "-"): str(value) for key, value in attributes.items()}
        one = ElementTree.SubElement(self.svg, name, named)
        if said is not None:
            ElementTree.SubElement(one, "title").text = said
        return one

    def text(self, x: float, y: float, value: str, anchor: str = "middle", class_: str = "tick") -> None:
        """A word, by pixels."""
        self.add("text", x=x, y=y, text_anchor=anchor, class_=class_).text = value

    def bar(self, low: float, high: float, bottom: float, top: float, class_: str, said: str) -> None:
        """A bar from `bottom` to `top`, in units of the data."""
        up, down = sorted((self.y(bottom), self.y(top)))
        wide = max(0.5, self.x(high) - self.x(low))
        tall = max(0.75, down - up)
        self.add(
            "rect", said, x=self.x(low), y=up, width=round(wide, 2), height=round(tall, 2), class_=class_
        )

    def tile(self, column: float, row: float, depth: float, said: str) -> None:
        """A field of a heat map whose columns and rows are counted by ones; `depth` is from 0 to 1."""
        wide, tall = abs(self.x(2) - self.x(1)), abs(self.y(2) - self.y(1))
        box = {"width": round(wide - 1, 2), "height": round(tall - 1, 2)}
        left, top = self.x(column - 0.5), self.y(row - 0.5)
        self.add("rect", said, x=left, y=top, class_="bar", fill_opacity=round(0.06 + 0.94 * depth, 3), **box)

    def line(self, points: Sequence[tuple[float, float]], class_: str) -> None:
        """A line through points, in units of the data."""
        path = " ".join(f"{self.x(x)},{self.y(y)}" for x, y in points)
        self.add("polyline", points=path, class_=class_)

    def grid(self, ticks: Sequence[float], form: str) -> None:
        """Lines across, each with its value at the left."""
        for value in ticks:
            y = self.y(value)
            self.add("line", x1=self._left, x2=WIDTH - RIGHT, y1=y, y2=y, class_="grid")
            self.text(self._left - 6, y + 4, form.format(value), "end")

    def below(self, ticks: Sequence[tuple[float, str]], name: str) -> None:
        """Values under the axis, and what the axis is."""
        for value, word in ticks:
            self.text(self.x(value), self._height - BOTTOM + 15, word)
        self.text((self._left + WIDTH - RIGHT) / 2, self._height - 4, name, class_="axis")

    def drawn(self) -> str:
        """The markup."""
        return ElementTree.tostring(self.svg, encoding="unicode", short_empty_elements=False)


def nice(most: float, steps: int = 4) -> list[float]:
    """Round values from 0 to `most` or a little above."""
    if most <= 0:
        return [0.0, 1.0]
    raw = most / steps
    size = 10 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= raw * 0.999)
    return [step * count for count in range(math.ceil(most / step - 1e-9) + 1)]


def every(count: int, most: int) -> int:
    """Each how-many-th of `count` ticks has room."""
    return max(1, math.ceil(count / most))


def position_bars(found: Bias) -> str:
    """The mean probability of each place in the prompt, and what it would be if places did not matter."""
    places = found.places
    ticks = nice(max(max(place.mean, place.fair) for place in places))
    chart = Chart(f"Mean probability by place in {found.where}", (0.5, len(places) + 0.5), (0, ticks[-1]))
    chart.grid(ticks, "{:.3g}")
    for place in places:
        said = f"place {place.number}, label {place.label}: {place.mean:.3f}; fair {place.fair:.3f}"
        chart.bar(place.number - 0.38, place.number + 0.38, 0, place.mean, "bar", said)
    chart.line([(place.number, place.fair) for place in places], "fair")
    step = every(len(places), 26)
    named = [(place.number, short(place.label)) for place in places[::step]]
    chart.below(named, f"label, by its place in {found.where}")
    return chart.drawn()


def heat_map(found: Bias) -> str:
    """Where candidates of each place in the prompt came to be ranked: darker is more often."""
    size = len(found.heat)
    chart = Chart(f"Rank by place in {found.where}", (0.5, size + 0.5), (size + 0.5, 0.5))
    most = max((count / max(1, sum(row)) for row in found.heat for count in row), default=1.0) or 1.0
    for place, row in enumerate(found.heat, 1):
        for rank, count in enumerate(row, 1):
            if count:
                share = count / sum(row)
                said = f"place {place} in {found.where} came to rank {rank}: {count:,} times ({share:.0%})"
                chart.tile(place, rank, share / most, said)
    step = every(size, 13)
    for rank in range(1, size + 1, step):
        chart.text(LEFT - 6, chart.y(rank) + 4, str(rank), "end")
    chart.below([(place, str(place)) for place in range(1, size + 1, step)], f"place in {found.where}")
    chart.text(0, TOP - 5, "rank", "start", "axis")
    return chart.drawn()


def label_map(found: Bias) -> str:
    """Each label at each place: darker is likelier than is fair."""
    reads: Counter[str] = Counter()
    for cell in found.cells:
        reads[cell.label] += cell.reads
    kept = {label for label, _ in reads.most_common(MOST_PLACES)}
    shown = [cell for cell in found.cells if cell.label in kept and cell.place <= MOST_PLACES]
    rows = {label: row for row, label in enumerate(dict.fromkeys(cell.label for cell in shown), 1)}
    wide = max(cell.place for cell in shown)
    height = max(HEIGHT, TOP + BOTTOM + 15 * len(rows))
    chart = Chart(
        f"Probability of each label by its place in {found.where}",
        (0.5, wide + 0.5), (len(rows) + 0.5, 0.5), height=height, left=84,
    )  # fmt: skip
    most = max(cell.mean / cell.fair for cell in shown) or 1.0
    for cell in shown:
        said = (
            f"{cell.label} at place {cell.place}: {cell.mean:.3f}, fair {cell.fair:.3f}, "
            f"the likeliest in {cell.first:.0%} of {cell.reads:,} reads"
        )
        chart.tile(cell.place, rows[cell.label], cell.mean / cell.fair / most, said)
    for label, row in rows.items():
        chart.text(78, chart.y(row) + 4, short(label), "end")
    step = every(wide, 13)
    chart.below([(place, str(place)) for place in range(1, wide + 1, step)], f"place in {found.where}")
    return chart.drawn()


def short(label: str) -> str:
    """A label that fits beside a chart."""
    return label if len(label) <= MOST_LETTERS else label[: MOST_LETTERS - 1] + "\u2026"


def reliability(found: Calibration) -> str:
    """The share that is right by the probability that was read; the page's slider moves the points."""
    chart = Chart("Reliability: share that is right by probability", (0, 1), (0, 1), height=300)
    chart.grid([0, 0.25, 0.5, 0.75, 1], "{:.2f}")
    chart.line([(0, 0), (1, 1)], "fair")
    most = max(one.count for one in found.bins)
    for name, value in (("x0", chart.x(0)), ("x1", chart.x(1)), ("y0", chart.y(0)), ("y1", chart.y(1))):
        chart.svg.set(f"data-{name}", str(value))  # what the slider needs
    for place, one in enumerate(found.bins):
        x = chart.x((one.low + one.high) / 2)
        height = 0.16 * one.count / most
        bar = chart.add(
            "rect", x=chart.x(one.low + 0.01), width=round(chart.x(0.08) - chart.x(0), 2), y=chart.y(height),
            height=round(chart.y(0) - chart.y(height), 2), class_="faint",
        )  # fmt: skip
        bar.set("data-bar", str(place))
        at = (
            (x, chart.y(0))
            if one.mean is None or one.right is None
            else (chart.x(one.mean), chart.y(one.right))
        )
        point = chart.add("circle", cx=at[0], cy=at[1])
        point.set("r", str(radius(one.count, most)))
        point.set("class", "point")
        point.set("data-bin", str(place))
    chart.below([(value / 4, f"{value / 4:.2f}") for value in range(5)], "probability that was read")
    return chart.drawn()


def radius(count: int, most: int) -> float:
    """Of a point that stands for so many answers."""
    return round(3.5 + 7 * math.sqrt(count / most), 2) if count else 0


def histogram(counts: Sequence[int], name: str, title: str) -> str:
    """How many answers fall between two bounds of 0 to 1."""
    ticks = nice(max(counts))
    chart = Chart(title, (0, 1), (0, ticks[-1]))
    chart.grid(ticks, "{:,.0f}" if ticks[1] >= 1 else "{:.2g}")
    for place, count in enumerate(counts):
        low, high = place / len(counts), (place + 1) / len(counts)
        if count:
            chart.bar(low + 0.004, high - 0.004, 0, count, "bar", f"{low:.2f} to {high:.2f}: {count:,}")
    chart.below([(value / 4, f"{value / 4:.2f}") for value in range(5)], name)
    return chart.drawn()


def pace(points: Sequence[Pace]) -> str:
    """Rows a second over time, and how many of them came from the cache."""
    ticks = nice(max(one.rows for one in points))
    end = points[-1].ends
    chart = Chart("Rows a second, as the run went on", (0, end), (0, ticks[-1]))
    chart.grid(ticks, "{:,.4g}")
    for value, class_ in (("rows", "area"), ("cached", "area cached")):
        corners = [(points[0].begins, 0.0)]
        for one in points:
            corners += [(one.begins, getattr(one, value)), (one.ends, getattr(one, value))]
        path = " ".join(f"{chart.x(x)},{chart.y(y)}" for x, y in (*corners, (end, 0.0)))
        chart.add("polygon", points=path, class_=class_)
    step = nice(end, 5)
    chart.below([(value, duration(value)) for value in step if value <= end], "time since the run began")
    return chart.drawn()


def duration(seconds: float) -> str:
    """As people say it: `90 s` is `1:30`."""
    if seconds < 60:
        return f"{seconds:g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def waterfall(deltas: Sequence[float], noise: float | None) -> str:
    """Each row's difference, from the largest win to the largest loss."""
    ordered = sorted(deltas, reverse=True)
    groups = _grouped(ordered)
    most = max(0.05, *(abs(value) for value in groups)) if groups else 1.0
    chart = Chart("Difference of each row, won to lost", (0, len(ordered)), (-most, most))
    if noise is not None:
        band = min(noise, most)
        up, down = chart.y(band), chart.y(-band)
        chart.add(
            "rect",
            f"noise: {noise:.4f}",
            x=LEFT,
            width=WIDTH - LEFT - RIGHT,
            y=up,
            height=round(down - up, 2),
            class_="faint",
        )
    chart.grid([-most, 0, most], "{:+.2f}")
    wide = len(ordered) / max(1, len(groups))
    for place, value in enumerate(groups):
        if value:
            chart.bar(
                place * wide, (place + 0.85) * wide, 0, value, "won" if value > 0 else "lost", f"{value:+.4f}"
            )
    chart.below([(0, "1"), (len(ordered), f"{len(ordered):,}")], "rows, the largest win first")
    return chart.drawn()


def _grouped(values: Sequence[float]) -> list[float]:
    size = max(1, math.ceil(len(values) / MOST_BARS))
    parts = [values[start : start + size] for start in range(0, len(values), size)]
    return [math.fsum(part) / len(part) for part in parts]


def intervals(runs: Sequence[tuple[str, dict[str, Estimate]]]) -> str:
    """Measures with their 95 % intervals, one line each, the runs one below the other."""
    names = list(runs[0][1])
    height = TOP + BOTTOM + len(names) * 18 * len(runs) + 10 * (len(names) - 1)
    chart = Chart("Measures with 95 % intervals", (0, 1), (0, 1), height=height, left=84)
    for value in (0, 0.25, 0.5, 0.75, 1):
        chart.add("line", x1=chart.x(value), x2=chart.x(value), y1=TOP, y2=height - BOTTOM, class_="grid")
    y = TOP + 9.0
    for name in names:
        chart.text(76, y + 4 + 9 * (len(runs) - 1), name, "end")
        for turn, (run, found) in enumerate(runs):
            one, class_ = found[name], "whisker other" if turn else "whisker"
            said = f"{run}: {name} {one.mean:.4f} ({one.low:.4f} to {one.high:.4f})"
            chart.add("line", x1=chart.x(one.low), x2=chart.x(one.high), y1=y, y2=y, class_=class_)
            chart.add(
                "circle", said, cx=chart.x(one.mean), cy=y, r=4.5, class_="point other" if turn else "point"
            )
            y += 18
        y += 10
    chart.below([(value / 4, f"{value / 4:.2f}") for value in range(5)], "")
    return chart.drawn()
