"""`repro notebook` and `repro report`: run notebooks with papermill, build the book."""

from __future__ import annotations

import os
import time

from repro.base.errors import NotebookFailed
from repro.base.files import repo_root
from repro.book import pdf
from repro.book.build import build
from repro.book.contents import notebooks
from repro.book.pictures import browser
from repro.book.runner import execute, execute_all, told
from repro.commands.flags import Notebook, Report


def notebook(config: Notebook) -> None:
    """Execute one notebook, and print where the result lies."""
    executed = execute(config.name, config.scale, dict(config.parameter), force=config.force)
    print(told(config.name, executed), executed.path, sep="\n", flush=True)


def report(config: Report) -> None:
    """Execute all notebooks, then build the book and print it if asked to; prints times and where the book is.

    A notebook that fails does not stop the others, but there is no book then: raises NotebookFailed. Raises BadInput
    before anything runs where a PDF is asked for and there is no browser.
    """
    if config.pdf:
        browser()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    started = time.perf_counter()
    out = repo_root() / "book" / "executed"
    failed = execute_all({name: {} for name in notebooks()}, config.scale, config.fanout, out, force=config.force)
    if failed:
        raise NotebookFailed("No book was built: " + " ".join(failed.values()))
    html = build()
    print(f"together {time.perf_counter() - started:.1f} s\nBook: {html / 'index.html'}", flush=True)
    if config.pdf:
        print(f"Printed: {pdf.write()}")
