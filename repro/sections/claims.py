"""The claims of all sections in one list, and the ledger of them as a table, as sentences and as csv files."""

from __future__ import annotations

import importlib
from pathlib import Path

from repro.base.files import repo_root, write_atomically
from repro.sections.effects import Tables, group_of, order_of
from repro.sections.ledger import ledger as judged
from repro.sections.ledger import summary as summed_up
from repro.sections.types import DataFrame
from repro.sections.verdict import Claim

_MODULES = [
    importlib.import_module(f"repro.sections.{path.parent.name}.claims")
    for path in sorted(Path(__file__).parent.glob("*/claims.py"))
]

CLAIMS: list[Claim] = sorted((c for module in _MODULES for c in module.CLAIMS), key=lambda claim: order_of(claim.id))
"""Every claim of every section, C1a first."""
SENTENCES: dict[str, str] = {k: v for module in _MODULES for k, v in getattr(module, "SENTENCES", {}).items()}
"""Claim without its parts -> what the paper says, in one sentence of ours."""
LEADS: dict[str, str] = {k: v for module in _MODULES for k, v in getattr(module, "LEADS", {}).items()}
"""Claim without its parts -> how the computed sentence about it begins."""


def ledger(scale: str, tables: Tables | None = None) -> DataFrame:
    """All parts of all claims with their verdicts at one scale; tables are read where none are given."""
    return judged(CLAIMS, scale, tables)


def summary(table: DataFrame) -> DataFrame:
    """A row a claim of a ledger: its word and computed sentence, as the first page and `repro claims` print them."""
    return summed_up(table, CLAIMS, {group_of(c.id): LEADS.get(group_of(c.id), c.statement) for c in CLAIMS})


def write(scale: str) -> Path:
    """Write data/results/claims/<scale>.csv, and beside it <scale>_sentences.csv."""
    table = ledger(scale)
    folder = repo_root() / "data" / "results" / "claims"
    write_atomically(folder / f"{scale}_sentences.csv", lambda p: summary(table).to_csv(p, index=False))
    return write_atomically(folder / f"{scale}.csv", lambda p: table.to_csv(p, index=False))
