"""Tables on the terminal, at most 80 columns wide."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

WIDTH = 80
NARROWEST = 8  # columns that text is wrapped to at least


def show(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], width: int = WIDTH) -> None:
    """Print these columns of rows, and below them, once each, their notes."""
    print("\n".join(lines(rows, columns, width)))
    for note in dict.fromkeys(str(row["note"]) for row in rows if row.get("note")):
        print(paragraph(f"Note: {note}", width))


def paragraph(text: str, width: int = WIDTH) -> str:
    """Text in lines of at most `width` characters, words left whole."""
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)


def lines(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], width: int = WIDTH) -> list[str]:
    """A table in lines of at most `width` characters: long texts are wrapped, numbers have four digits."""
    cells = [list(columns), *([_text(row.get(name)) for name in columns] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    while sum(widths) + 2 * (len(widths) - 1) > width and max(widths) > NARROWEST:
        widths[widths.index(max(widths))] -= 1
    right = [all(not isinstance(row.get(name), str) for row in rows) for name in columns]
    out = []
    for row in cells:
        wrapped = [textwrap.wrap(cell, size) or [""] for cell, size in zip(row, widths)]
        for i in range(max(map(len, wrapped))):
            parts = [cell[i] if i < len(cell) else "" for cell in wrapped]
            fitted = (p.rjust(size) if r else p.ljust(size) for p, size, r in zip(parts, widths, right))
            out.append("  ".join(fitted).rstrip())
        if row is cells[0]:
            out.append("  ".join("-" * size for size in widths))
    return out


def _text(value: Any) -> str:
    if value is None or value != value:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
