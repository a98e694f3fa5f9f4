"""Part of a split by name, as the datasets library writes it: train[1000:2000], train[:5%]."""

from __future__ import annotations

import re
from dataclasses import dataclass

from repro.base.errors import BadInput


@dataclass(frozen=True)
class Split:
    """A split and which of its rows: from `start` up to, not including, `stop` (None = its end)."""

    name: str
    start: int = 0
    stop: int | None = None
    percent: bool = False
    """start and stop are percentages."""

    def rows(self, total: int | None) -> tuple[int, int | None]:
        """(start, stop) in rows, of `total`; neighbouring percentages neither overlap nor leave a row out.

        Raises BadInput for percentages of a split whose length is unknown.
        """
        if not self.percent:
            return self.start, self.stop
        if total is None:
            raise BadInput(
                f"The length of split '{self.name}' is unknown, so it cannot be cut by percentages; "
                f"give rows: {self.name}[:1000]."
            )
        stop = 100 if self.stop is None else self.stop
        return round(total * self.start / 100), round(total * stop / 100)


def parse_split(text: str) -> Split:
    """ "train", "train[1000:2000]", "train[:5%]" -> Split. Raises BadInput for what is neither."""
    name, bracket, part = text.partition("[")
    if not bracket:
        return Split(text)
    match = re.fullmatch(r"([\d_]*)(%?):([\d_]*)(%?)\]", part)
    if not match or not name:
        raise BadInput(f"dataset.split '{text}' is no part of a split; write {name or 'train'}[1000:2000] or [:5%].")
    first, first_unit, last, last_unit = match.groups()
    units = {unit for number, unit in ((first, first_unit), (last, last_unit)) if number}
    start, stop = int(first or 0), int(last) if last else None
    if len(units) > 1 or (stop is not None and stop <= start) or (units == {"%"} and max(start, stop or 0) > 100):
        raise BadInput(f"dataset.split '{text}' is empty or mixed: two rows, or two percentages, the smaller first.")
    return Split(name, start, stop, units == {"%"})
