"""`repro notebook`, `repro report`, `repro claims`: run notebooks, build the book, print the ledger."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pandas as pd
import yaml

from repro.base.errors import NotebookFailed, TasksFailed
from repro.base.files import cache_dir, repo_root
from repro.book.build import build
from repro.book.runner import execute, execute_all, scale_parameters, told
from repro.commands.flags import Claims, Notebook, Report
from repro.sections import ledger


def notebook(config: Notebook) -> None:
    """Execute one notebook, and print where the result lies."""
    values = {key: yaml.safe_load(value) for key, value in config.parameter}
    executed = execute(config.name, config.scale, values, force=config.force)
    print(told(config.name, executed), executed.path, sep="\n", flush=True)


def report(config: Report) -> None:
    """Execute all notebooks, then build the book; prints the wall time of each and where the book is.

    A notebook that fails does not stop the others, but there is no book then: raises NotebookFailed.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    started = time.perf_counter()
    names = list(scale_parameters(config.scale))
    out = repo_root() / "book" / "executed"
    failed = execute_all({name: {} for name in names}, config.scale, config.fanout, out, force=config.force)
    if failed:
        raise NotebookFailed("No book was built: " + " ".join(failed.values()))
    html = build()
    print(f"together {time.perf_counter() - started:.1f} s\nBook: {html / 'index.html'}")


def claims(config: Claims) -> Path:
    """Print the ledger and write it as csv; with `recompute`, run the notebooks that its tables come from first."""
    failed = _recompute(config) if config.recompute else ""
    table = ledger.ledger(config.scale)
    with pd.option_context("display.max_colwidth", 60, "display.width", 200):
        print(table[["claim", "statement", "as_released", "corrected", "verdict"]].to_string(index=False))
    written = ledger.write(config.scale)
    if failed:
        raise TasksFailed(f"{written} reads earlier tables, where there are any, of what failed: {failed}")
    return written


def _recompute(config: Claims) -> str:
    """Run the notebooks whose tables the ledger reads -> what failed, in a sentence each."""
    names = list(scale_parameters(config.scale))
    sections = {names[0]} | {claim.section for claim in ledger.CLAIMS}
    parameters = {name: {"recompute": True} for name in names if name in sections}
    failed = execute_all(parameters, config.scale, config.fanout, cache_dir() / "claims" / config.scale)
    return " ".join(failed.values())
