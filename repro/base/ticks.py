"""Ticks of logarithmic axes at round numbers."""

from __future__ import annotations

import math
from typing import Any

DECADES = (1.3, 2.5, 6)
"""Spans up to which an axis has ticks at 1, 2, 5, at 1, 3, and at powers of ten that are written out."""


def round_ticks(figure: Any) -> None:
    """Label logarithmic axes that say nothing of their own at 1, 2, 5; at 1, 3; or at powers of ten."""
    for letter, select in (("x", figure.select_xaxes), ("y", figure.select_yaxes)):
        axes = {axis.plotly_name.replace("axis", ""): axis for axis in select()}
        values: dict[str, list[float]] = {}
        for trace in figure.data:
            name = getattr(trace, f"{letter}axis", None) or letter
            group = axes[name].matches or name if name in axes else name
            values.setdefault(group, []).extend(v for v in _numbers(getattr(trace, letter, None)) if v > 0)
        for name, axis in axes.items():
            numbers = values.get(axis.matches or name)
            if axis.type == "log" and axis.dtick is None and axis.tickvals is None and numbers:
                axis.update(_ticks(math.log10(min(numbers)), math.log10(max(numbers))))


def _ticks(low: float, high: float) -> dict[str, Any]:
    """dtick or tickvals of an axis from 10^low to 10^high."""
    span = high - low
    if span > DECADES[2]:
        return {"dtick": 2 if span > DECADES[2] * 1.5 else 1, "exponentformat": "power"}
    digits = (1, 2, 5) if span <= DECADES[0] else (1, 3) if span <= DECADES[1] else (1,)
    exponents = range(math.floor(low) - 1, math.ceil(high) + 1)
    places = [(digit, exponent) for exponent in exponents for digit in digits]
    return {"tickvals": [float(f"{d}e{e}") for d, e in places], "ticktext": [_written(d, e) for d, e in places]}


def _written(digit: int, exponent: int) -> str:
    """digit · 10^exponent as people write it."""
    if -4 <= exponent <= 5:
        return f"{float(f'{digit}e{exponent}'):,g}"
    return f"{'' if digit == 1 else f'{digit}·'}10<sup>{exponent}</sup>"


def _numbers(values: Any) -> Any:
    """Those entries of a trace's coordinates that are numbers."""
    return (v for v in (() if values is None else values) if isinstance(v, int | float) or hasattr(v, "dtype"))
