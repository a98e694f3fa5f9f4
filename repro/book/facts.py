"""Numbers in prose: each is read from a committed table when a page is built, by a selection or by a name in FACTS.

    {fact}`small/sweep.csv protocol=as_released variant=batch_topk steps=5: NMSE .3f`     one cell
    {fact}`small/comparison.csv protocol=corrected mode=non: max(dead_rate) .0%`          of all rows selected
    {fact}`released density`                                                             computed, see FACTS

Tables are named relative to data/, or to data/results/ for short. README.md holds the same text in a comment:
`<!-- fact: released density -->82 %<!-- /fact -->`, which `make readme` makes new.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from repro.base.errors import BadInput, nearest
from repro.base.files import repo_root

if TYPE_CHECKING:
    import pandas as pd

AGGREGATES = ("min", "max", "mean", "median", "count", "nunique")


class Fact(NamedTuple):
    """A number as prose prints it, and the table that it comes from."""

    text: str
    source: str
    """Path of the table relative to the repository, and the selection."""


def fact(words: str) -> Fact:
    """The fact of a name in FACTS, or of a selection "table key=value …: column format".

    Raises BadInput for an unknown name, table, key or column, and for a selection that leaves no row, or more than
    one where no aggregate is asked for, or no finite number.
    """
    words = " ".join(words.split())
    if ":" in words:
        return _selected(words)
    if words not in FACTS:
        raise BadInput(f"There is no fact '{words}'{nearest(words, FACTS)}; FACTS has {', '.join(FACTS)}.")
    return FACTS[words]()


def verdict(claim: str) -> Fact:
    """The verdict on a claim (P1) or a part of one (P1a) on SmolLM2-135M, as the committed ledger has it.

    The source has the claim's sentence, or the part's effect. Raises BadInput for a claim that is not in the ledger.
    """
    part = not claim[-1:].isdigit()
    table, about = ("claims/small.csv", "corrected") if part else ("claims/small_sentences.csv", "sentence")
    row = rows(table, claim=claim).iloc[0]
    return Fact(str(row["verdict"]), f"{claim} on SmolLM2-135M, {_path(table)}: {row[about]}")


def rows(table: str, **where: str) -> pd.DataFrame:
    """The rows of a committed table whose columns have these values (numbers are compared as numbers)."""
    found = _table(table)
    for key, value in where.items():
        _column(found, key, table)
        found = found[found[key].map(lambda cell, value=value: _same(cell, value))]
    if found.empty:
        raise BadInput(f"No row of {table} has {', '.join(f'{k} = {v}' for k, v in where.items())}.")
    return found


def number(table: str, column: str, **where: str) -> float:
    """One cell; `column` may be an aggregate such as max(NMSE). BadInput where that is not one finite number."""
    name, how = column, None
    if match := re.fullmatch(r"(\w+)\((.+)\)", column):
        how, name = match.groups()
        if how not in AGGREGATES:
            raise BadInput(f"'{how}' is no aggregate{nearest(how, AGGREGATES)}; there are {', '.join(AGGREGATES)}.")
    values = _column(rows(table, **where), name, table)
    if how is None and len(values) > 1:
        raise BadInput(
            f"{len(values)} rows of {table} match; name more columns, or say which: max({name}), mean({name})."
        )
    value = float(values.agg(how) if how else values.iloc[0])
    if not abs(value) < float("inf"):
        raise BadInput(f"{column} of that selection of {table} is not a finite number.")
    return value


def spelled(value: float, how: str) -> str:
    """The value under a format, with a true minus sign and a space that does not break before the per cent sign."""
    try:
        text = format(value, how)
    except ValueError:
        raise BadInput(f"'{how}' is no format of a number; write .3f, .2g, ,.0f or .0%.") from None
    return text.replace("-", "−").replace("%", "\N{NO-BREAK SPACE}%")


def _selected(words: str) -> Fact:
    left, _, right = words.rpartition(":")
    table, *pairs = shlex.split(left)
    if not all("=" in pair for pair in pairs):
        raise BadInput(f"'{left}' must be a table and then key=value, with quotes around a pair that holds spaces.")
    column, _, how = right.strip().rpartition(" ")
    if not column:
        raise BadInput(f"'{words}' must end with a column and a format, such as NMSE .3f.")
    where = dict(pair.split("=", 1) for pair in pairs)
    return Fact(spelled(number(table, column, **where), how), f"{_path(table)}, {' '.join([*pairs, column])}")


def _path(table: str) -> str:
    data = repo_root() / "data"
    return next((f"data/{p}{table}" for p in ("", "results/") if (data / p / table).is_file()), f"data/{table}")


@cache
def _read(path: Path, _changed: float) -> pd.DataFrame:
    import pandas as pd

    return pd.read_csv(path)


def _table(table: str) -> pd.DataFrame:
    path = repo_root() / _path(table)
    if not path.is_file():
        known = [
            str(p.relative_to(repo_root() / "data/results")) for p in (repo_root() / "data/results").rglob("*.csv")
        ]
        raise BadInput(f"There is no committed table data/{table} or data/results/{table}{nearest(table, known)}.")
    return _read(path, path.stat().st_mtime)


def _column(table: pd.DataFrame, name: str, of: str) -> pd.Series:
    if name not in table:
        raise BadInput(f"{of} has no column '{name}'{nearest(name, table.columns)}.")
    return table[name]


def _same(cell: object, value: str) -> bool:
    try:
        return float(str(cell)) == float(value)
    except ValueError:
        return str(cell) == value


def _density(how: str) -> Fact:
    """Share of all latents that the released semi-amortized codes use on an average token, over SAEs."""
    where = {"protocol": "as_released", "mode": "semi"}
    used = rows("small/comparison.csv", **where)
    share = float((used["L0"] / used["m"]).median())
    return Fact(spelled(share, how), f"{_path('small/comparison.csv')}, median of L0 / m where {where}")


def _pursuit_over_encoder(how: str) -> Fact:
    """NMSE of greedy pursuit with the encoder's own number of latents over the encoder's; median over SAEs."""
    key = ["variant", "sparsity"]
    encoder = rows("small/comparison.csv", protocol="corrected", mode="amortized").groupby(key)["NMSE"].mean()
    pursuit = rows("small/controls.csv", protocol="corrected", mode="pursuit").groupby(key)["NMSE"].mean()
    share = float((pursuit / encoder).median())
    return Fact(
        spelled(share, how), f"{_path('small/controls.csv')} over {_path('small/comparison.csv')}, median of NMSE"
    )


def _error_ratio(column: str, how: str) -> Fact:
    """An error of the certified optimum over the encoder's at the encoder's L0, median over SAEs."""
    part = rows("small/comparison.csv", protocol="corrected")
    part = part.pivot_table(index=["variant", "sparsity"], columns="mode", values=column)
    ratio = float((part["non"] / part["amortized"]).median())
    return Fact(spelled(ratio, how), f"{_path('small/comparison.csv')}, corrected, median of {column} non / amortized")


def _absorption_ratio(how: str) -> Fact:
    """Absorption over its density null under the corrected protocol, median over SAEs and modes."""
    part = rows("small/comparison.csv", protocol="corrected")
    ratio = float((part["absorption"] / part["absorption_null"]).median())
    return Fact(spelled(ratio, how), f"{_path('small/comparison.csv')}, corrected, median of absorption over its null")


FACTS: dict[str, Callable[[], Fact]] = {
    "released density": lambda: _density(".0%"),
    "absorption over null": lambda: _absorption_ratio(".2f"),
    "optimum error": lambda: _error_ratio("NMSE", ".2f"),
    "optimum error after least squares": lambda: _error_ratio("NMSE_refit", ".2f"),
    "pursuit error": lambda: _pursuit_over_encoder(".0%"),
}
"""Facts that are more than a cell or an aggregate of cells."""
