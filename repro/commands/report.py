"""`repro notebook` and `repro report` as dataclasses that the command line fills; each has a run()."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
import yaml

from repro.base.errors import NotebookFailed
from repro.base.files import repo_root
from repro.book.build import build
from repro.book.runner import Executed, execute, execute_all, scale_parameters, told
from repro.jobs.run import Fanout

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
        print(told(self.name, done), done.path, sep="\n", flush=True)
        return done


@dataclass(frozen=True)
class Report:
    """Execute every notebook of a scale, then build the book in book/_build/html."""

    scale: Scale = "tiny"
    """Which parameters the notebooks get; notebooks/params/{scale}.yaml also says which ones run, in what order."""
    force: bool = False
    """Execute even what has not changed since the last time."""
    fanout: Fanout = field(default_factory=lambda: Fanout(workers=2, retries=0))
    """Where notebooks run side by side, once the first has prepared what they share."""

    def run(self) -> Path:
        """All notebooks, then the book; prints the wall time of each and where the book is.

        A notebook that fails does not stop the others, but there is no book then: raises NotebookFailed.
        """
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        started = time.perf_counter()
        names = list(scale_parameters(self.scale))
        out = repo_root() / "book" / "executed"
        failed = execute_all({name: {} for name in names}, self.scale, self.fanout, out, force=self.force)
        if failed:
            raise NotebookFailed("No book was built: " + " ".join(failed.values()))
        html = build()
        print(f"together {time.perf_counter() - started:.1f} s\nBook: {html / 'index.html'}")
        return html
