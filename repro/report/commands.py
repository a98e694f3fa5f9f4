"""`repro notebook` and `repro report` as dataclasses that the command line fills; each has a run()."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
import yaml

from repro.config import repo_root, write_atomically
from repro.report.book import build
from repro.report.runner import Executed, NotebookFailed, execute, plan, scale_parameters

Scale = Literal["tiny", "small", "paper"]


@dataclass(frozen=True)
class Notebook:
    """Execute one notebook; the result lies under book/executed."""

    name: Annotated[str, tyro.conf.Positional]
    """Name of the notebook, such as 50_comparison."""
    scale: Scale = "tiny"
    """Which parameters to start from: notebooks/params/{scale}.yaml."""
    parameter: Annotated[
        tyro.conf.UseAppendAction[tuple[tuple[str, str], ...]], tyro.conf.arg(aliases=["-p"], metavar="KEY VALUE")
    ] = ()
    """A parameter and its value, over those of the scale; may be given several times."""
    force: bool = False
    """Execute even if nothing has changed since the last time."""

    def run(self) -> Executed:
        """Execute, and print where the result lies."""
        values = {key: yaml.safe_load(value) for key, value in self.parameter}
        done = execute(self.name, self.scale, values, force=self.force)
        _tell(self.name, done)
        print(done.path)
        return done


@dataclass(frozen=True)
class Report:
    """Execute every notebook of a scale, then build the book in book/_build/html."""

    scale: Scale = "tiny"
    """Which parameters the notebooks get; notebooks/params/{scale}.yaml also says which ones run, in what order."""
    force: bool = False
    """Execute even what has not changed since the last time."""

    def run(self) -> Path:
        """All notebooks, then the book; prints the wall time of each and where the book is.

        A notebook that fails does not stop the others, but there is no book then: raises NotebookFailed.
        """
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        started, failures = time.perf_counter(), []
        names = list(scale_parameters(self.scale))
        for name in names:
            plan(name, self.scale)  # a mistake in any of them is told before the first one runs
        for name in names:
            try:
                _tell(name, execute(name, self.scale, force=self.force))
            except NotebookFailed as failure:
                failures.append(str(failure))
                print(failure)
        if failures:
            raise NotebookFailed("No book was built: " + " ".join(failures))
        write_verdicts()
        html = build()
        print(f"together {time.perf_counter() - started:.1f} s\nBook: {html / 'index.html'}")
        return html


def write_verdicts() -> None:
    """book/_generated/verdicts.md: the ledger over all scales whose tables are at hand."""
    from repro import claims

    path = repo_root() / "book" / "_generated" / "verdicts.md"
    write_atomically(path, lambda draft: draft.write_text(claims.markdown()))


def _tell(name: str, done: Executed) -> None:
    what = "nothing changed since a run of" if done.skipped else "executed in"
    print(f"{name:20s} {what} {done.seconds:6.1f} s, {done.peak_mb:5.0f} MB", flush=True)
