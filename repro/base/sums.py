"""Records of sums, which add up field by field: streaming, merging and leaving out a part are + and −."""

from __future__ import annotations

from collections.abc import Callable
from operator import add, sub
from typing import Any, Self


class Sums:
    """Base of frozen dataclasses of sums: `a + b` is the record of both sets of tokens, `a - b` takes b's out of a."""

    def __add__(self, other: Self) -> Self:
        return self._by_field(add, other)

    def __sub__(self, other: Self) -> Self:
        return self._by_field(sub, other)

    def _by_field(self, operation: Callable[[Any, Any], Any], other: Self) -> Self:
        return type(self)(*map(operation, vars(self).values(), vars(other).values()))
