"""The claims of all sections in one list, and the ledger of them as a table and a csv file."""

from __future__ import annotations

import importlib
from pathlib import Path

from repro.base.files import repo_root, write_atomically
from repro.sections.effects import Claim, Tables, order_of
from repro.sections.ledger import ledger as judged
from repro.sections.types import DataFrame

_MODULES = [
    importlib.import_module(f"repro.sections.{path.parent.name}.claims")
    for path in sorted(Path(__file__).parent.glob("*/claims.py"))
]

CLAIMS: list[Claim] = sorted((c for module in _MODULES for c in module.CLAIMS), key=lambda claim: order_of(claim.id))
"""Every claim of every section, C1a first."""
SENTENCES: dict[str, str] = {k: v for module in _MODULES for k, v in getattr(module, "SENTENCES", {}).items()}
"""Claim without its parts -> one sentence of ours."""


def ledger(scale: str, tables: Tables | None = None) -> DataFrame:
    """All claims with their verdicts at one scale; tables are read where none are given."""
    return judged(CLAIMS, scale, tables)


def write(scale: str) -> Path:
    """Write data/results/claims/<scale>.csv."""
    table = ledger(scale)
    path = repo_root() / "data" / "results" / "claims" / f"{scale}.csv"
    return write_atomically(path, lambda p: table.to_csv(p, index=False))
