"""`repro claims`: the ledger of claims at one scale, from tables that are there or from notebooks run first."""

from __future__ import annotations

import textwrap
from pathlib import Path

from repro.base.errors import TasksFailed
from repro.base.files import cache_dir
from repro.book import runner
from repro.book.contents import notebooks
from repro.commands.flags import Claims
from repro.commands.show import WIDTH, show
from repro.sections import claims as ledger
from repro.sections.verdict import RULE, WHOLE


def claims(config: Claims) -> Path:
    """Print the ledger and write it as csv; with `recompute`, run the notebooks that its tables come from first."""
    failed = _recompute(config) if config.recompute else ""
    table = ledger.ledger(config.scale)
    show(table.to_dict("records"), ("claim", "statement", "as_released", "corrected", "verdict"))
    print(textwrap.fill(f"{RULE} {WHOLE}", WIDTH, initial_indent="\n"))
    for _, row in ledger.summary(table).iterrows():
        print(textwrap.fill(f"{row['claim']} {row['verdict']}. {row['sentence']}", WIDTH, initial_indent="\n"))
    written = ledger.write(config.scale)
    if failed:
        raise TasksFailed(f"{written} reads earlier tables, where there are any, of what failed: {failed}")
    return written


def _recompute(config: Claims) -> str:
    """Run the notebooks whose tables the ledger reads -> what failed, in a sentence each."""
    names = notebooks()
    sections = {names[0]} | {claim.section for claim in ledger.CLAIMS}
    parameters = {name: {"recompute": True} for name in names if name in sections}
    failed = runner.execute_all(parameters, config.scale, config.fanout, cache_dir() / "claims" / config.scale)
    return " ".join(failed.values())
