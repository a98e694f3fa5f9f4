"""Charts as inline SVG, drawn for a box of 420 x 300 that scales: lines with intervals, and a bar of parts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 420, 300
LEFT, RIGHT, TOP, BOTTOM = 50, 10, 12, 42
MARKS = {
    "circle": "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0",
    "square": "M-3.6-3.6h7.2v7.2h-7.2z",
    "diamond": "M0-5L5 0L0 5L-5 0z",
    "up": "M0-5L4.8 3.8H-4.8z",
    "down": "M0 5L4.8-3.8H-4.8z",
    "cross": "M-4-4L4 4M-4 4L4-4",
    "ring": "M-3.4 0a3.4 3.4 0 1 0 6.8 0a3.4 3.4 0 1 0-6.8 0",
}
OPEN = ("cross", "ring")  # drawn as a line


@dataclass(frozen=True)
class Point:
    """A point, its interval (low, high) where there is one, and the words that a pointer shows."""

    x: float
    y: float
    interval: tuple[float, float] | None
    words: str


@dataclass(frozen=True)
class Line:
    """Points of one colour and mark, joined by a line unless there is one or `joined` is False."""

    name: str
    points: Sequence[Point]
    color: str
    mark: str
    joined: bool = True


@dataclass(frozen=True)
class Axis:
    """Values low … high, in equal steps or in equal factors, over `size` pixels from `start` on."""

    low: float
    high: float
    log: bool
    start: float
    size: float

    @classmethod
    def over(cls, values: Sequence[float], log: bool, start: float, size: float) -> Axis:
        """An axis with room around the values; positive ones only where it is in factors."""
        usable = [v for v in values if math.isfinite(v) and (v > 0 or not log)] or [1.0]
        low, high = min(usable), max(usable)
        if log:
            room = max((high / low) ** 0.06, 1.06)
            return cls(low / room, high * room, True, start, size)
        room = 0.06 * (high - low) or abs(high) or 1.0
        return cls(max(low - room, 0.0) if low >= 0 else low - room, high + room, False, start, size)

    def at(self, value: float) -> float:
        """The pixel of a value, inside the axis."""
        if self.log:
            share = math.log(max(value, 1e-300) / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + self.size * min(max(share, 0.0), 1.0)

    def ticks(self) -> list[float]:
        """Round values, four to nine of them: 1, 2, 5 times powers of ten."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for digits in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), tuple(d / 2 for d in range(2, 20))):
                found = [d * 10.0**p for p in powers for d in digits if self.low <= d * 10.0**p <= self.high]
                if len(found) >= 4:
                    return found[:: -(-len(found) // 9)]
        step = 10.0 ** math.floor(math.log10((self.high - self.low) / 3))
        step *= next(f for f in (5, 2, 1) if (self.high - self.low) / (f * step) >= 3)
        return [i * step for i in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]


def short(value: float) -> str:
    """A number in three digits, with k and M for thousands and millions."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def mark(name: str, color: str, x: float = 0, y: float = 0, words: str = "") -> str:
    """A mark at a place."""
    paint = f'fill="none" stroke="{color}" stroke-width="2"' if name in OPEN else f'fill="{color}"'
    title = f"<title>{escape(words)}</title>" if words else ""
    return f'<path d="{MARKS[name]}" transform="translate({x:.1f} {y:.1f})" {paint}>{title}</path>'


def chart(lines: Sequence[Line], x_title: str, y_title: str, log: tuple[bool, bool] = (True, True)) -> str:
    """Lines in one frame, and their names below it."""
    points = [p for line in lines for p in line.points]
    x = Axis.over([p.x for p in points], log[0], LEFT, WIDTH - LEFT - RIGHT)
    spans = [v for p in points for v in (p.y, *(p.interval or ()))]
    y = Axis.over(spans, log[1], HEIGHT - BOTTOM, TOP + BOTTOM - HEIGHT)
    out = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(f"{y_title} against {x_title}")}">']
    for tick in x.ticks():
        out.append(f'<path class="grid" d="M{x.at(tick):.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        out.append(f'<text x="{x.at(tick):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{short(tick)}</text>')
    for tick in y.ticks():
        out.append(f'<path class="grid" d="M{LEFT} {y.at(tick):.1f}H{WIDTH - RIGHT}"/>')
        out.append(f'<text x="{LEFT - 6}" y="{y.at(tick) + 4:.1f}" text-anchor="end">{short(tick)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    out.append(f'<text class="title" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_title)}</text>')
    for line in lines:
        out += _line(line, x, y)
    names = "".join(f"<li>{swatch(line.mark, line.color)}{escape(line.name)}</li>" for line in lines)
    return (
        f'<figure><figcaption>{escape(y_title)}</figcaption>{"".join(out)}</svg><ul class="names">{names}</ul></figure>'
    )


def _line(line: Line, x: Axis, y: Axis) -> list[str]:
    places = [(x.at(p.x), y.at(p.y)) for p in line.points]
    out = []
    if line.joined and len(places) > 1:
        path = "L".join(f"{a:.1f} {b:.1f}" for a, b in places)
        out.append(f'<path d="M{path}" fill="none" stroke="{line.color}" stroke-width="1.8"/>')
    for point, (a, b) in zip(line.points, places):
        if point.interval:
            low, high = (y.at(v) for v in point.interval)
            out.append(f'<path d="M{a:.1f} {low:.1f}V{high:.1f}" stroke="{line.color}" stroke-width="1.3"/>')
        out.append(mark(line.mark, line.color, a, b, point.words))
    return out


def swatch(name: str, color: str) -> str:
    """A mark for a list of names."""
    return f'<svg class="swatch" viewBox="-7 -7 14 14" aria-hidden="true">{mark(name, color)}</svg>'
