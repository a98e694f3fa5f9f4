"""`repro notebook` and `repro report` as dataclasses that the command line fills; each has a run()."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal

import tyro
import yaml
from tqdm import tqdm

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
    jobs: int = 2
    """Notebooks at a time once the first has prepared what they share; the cores are divided among them."""

    def run(self) -> Path:
        """All notebooks, then the book; prints the wall time of each and where the book is.

        A notebook that fails does not stop the others, but there is no book then: raises NotebookFailed.
        """
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        started = time.perf_counter()
        names = list(scale_parameters(self.scale))
        for name in names:
            plan(name, self.scale)  # a mistake in any of them is told before the first one runs
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        jobs = max(1, min(self.jobs, len(names) - 1))
        failures = []
        bar = tqdm(total=len(names), desc=f"notebooks at scale {self.scale}", unit="notebook")
        with bar, ThreadPoolExecutor(jobs) as pool:
            first = self._execute(names[0], cores)
            others = pool.map(lambda name: self._execute(name, max(1, cores // jobs)), names[1:])
            for done in chain([first], others):
                said = done.stderr if done.returncode else done.stdout
                line = next(filter(None, said.splitlines() if not done.returncode else said.splitlines()[::-1]), "")
                failures += [line] if done.returncode else []
                bar.write(line)
                bar.update()
        if failures:
            raise NotebookFailed("No book was built: " + " ".join(failures))
        html = build()
        print(f"together {time.perf_counter() - started:.1f} s\nBook: {html / 'index.html'}")
        return html

    def _execute(self, name: str, threads: int) -> subprocess.CompletedProcess[str]:
        """`repro notebook` in a process of its own: environment, memory gauge and crashes are its own too."""
        command = [sys.executable, "-m", "repro", "notebook", name, "--scale", self.scale]
        env = {"OMP_NUM_THREADS": str(threads), "NUMBA_NUM_THREADS": str(threads)} | os.environ
        return subprocess.run([*command, *["--force"] * self.force], capture_output=True, text=True, env=env)


def _tell(name: str, done: Executed) -> None:
    what = "nothing changed since a run of" if done.skipped else "executed in"
    print(f"{name:20s} {what} {done.seconds:6.1f} s, {done.peak_mb:5.0f} MB", flush=True)
