"""Strict papermill: refuse unknown parameters, keep a failed draft apart, redo only what changed."""

from __future__ import annotations

import contextlib
import datetime
import importlib.util
import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from repro.base.errors import BadInput, NotebookFailed, missing_extra, nearest, optional
from repro.base.files import cache_dir, digest, file_sha256, repo_root
from repro.base.machine import versions
from repro.base.parameters import checked, declared_parameters, of_scale
from repro.book.kernel import machine, own_kernel, peak_memory
from repro.jobs.run import fan_out
from repro.jobs.task import Fanout, Task

LIBRARIES = ("torch", "numpy", "scikit-learn", "pandas", "plotly", "transformers")
"""A new version of one of these makes every notebook run again."""
NOT_RUN = ("repro/cli.py", "repro/__main__.py", "repro/book/", "repro/commands/")
"""Code that no result depends on."""


@dataclass(frozen=True)
class Plan:
    """A run that has passed every check: what `execute` would do."""

    name: str
    """Name of the notebook, without .ipynb."""
    scale: str
    """Scale whose parameters are used."""
    notebook: Any
    """The notebook, as nbformat reads it."""
    parameters: dict[str, Any]
    """Values that replace the defaults of the parameters cell."""
    folder: Path
    """Where the notebook lies and runs."""
    key: str
    """Hash of everything the run depends on."""


@dataclass(frozen=True)
class Executed:
    """One executed notebook."""

    path: Path
    """The executed notebook."""
    seconds: float
    """Wall time of the run, kernel start included; that of the earlier run if this one was skipped."""
    peak_mb: float
    """Largest resident memory of the kernel, MB."""
    skipped: bool
    """True if an earlier run was still valid."""


def plan(
    name: str,
    scale: str = "tiny",
    parameters: Mapping[str, Any] | None = None,
    notebooks_dir: Path | None = None,
) -> Plan:
    """Read a notebook and settle its parameters: those of the scale, then `parameters`; nothing is executed.

    A notebook that declares `scale` is given it. Raises BadInput for an unknown notebook, scale or parameter and for
    a value of another type than the default's.
    """
    with optional():
        import nbformat
    folder = notebooks_dir or repo_root() / "notebooks"
    path = folder / f"{name}.ipynb"
    if not path.is_file():
        known = sorted(p.stem for p in folder.glob("*.ipynb"))
        raise BadInput(f"No notebook '{name}'{nearest(name, known)} in {folder}.")
    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        declared = declared_parameters(notebook)
    except Exception as error:  # nbformat trusts that old formats are sound
        why = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise BadInput(f"{path} is damaged or no notebook ({why}): restore it, or save it again in Jupyter.") from None
    values = of_scale(name, scale, declared, folder) | dict(parameters or {})
    if "scale" in declared:
        values.setdefault("scale", scale)
    values = {key: checked(key, value, declared, name) for key, value in values.items()}
    return Plan(name, scale, notebook, values, folder, run_key(notebook, values, scale))


def execute(
    name: str,
    scale: str = "tiny",
    parameters: Mapping[str, Any] | None = None,
    notebooks_dir: Path | None = None,
    out_dir: Path | None = None,
    force: bool = False,
    progress: bool = True,
) -> Executed:
    """Run a notebook into out_dir/{name}.ipynb (book/executed if not given); the name appears when every cell ran.

    Skipped when nothing the run depends on has changed since the last one, unless `force`. A failed run leaves
    {name}.failed.ipynb. Raises BadInput as `plan` does, and NotebookFailed.
    """
    todo = plan(name, scale, parameters, notebooks_dir)
    out = out_dir or repo_root() / "book" / "executed"
    final, draft, failed = (out / f"{name}{end}.ipynb" for end in ("", ".draft", ".failed"))
    if importlib.util.find_spec("papermill") is None:
        raise missing_extra("papermill", "book")

    out.mkdir(parents=True, exist_ok=True)
    lock = cache_dir() / "locks" / f"notebook-{name}-{digest(str(final.resolve()))}"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):  # a run whose parent was killed may still be on its way: wait for it, and take its result
        earlier = record(final)
        if not force and earlier.get("key") == todo.key:
            return Executed(final, earlier["seconds"], earlier["peak_mb"], skipped=True)
        return _execute(todo, final, draft, failed, progress)


def _execute(todo: Plan, final: Path, draft: Path, failed: Path, progress: bool) -> Executed:
    import nbformat
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    name = todo.name
    failed.unlink(missing_ok=True)
    started = time.perf_counter()
    try:
        with own_kernel(), peak_memory() as peak:
            how = {"kernel_name": "python3", "language": "python", "cwd": todo.folder, "progress_bar": progress}
            papermill.execute_notebook(todo.notebook, draft, todo.parameters, **how)
    except PapermillExecutionError as error:
        os.replace(draft, failed)
        line = next((text.strip() for text in error.source.splitlines() if text.strip()), "")
        why = f"{error.ename}: {' '.join(str(error.evalue).split())}"
        raise NotebookFailed(f"{name} failed in cell [{error.exec_count}] `{line}`: {why} (see {failed}).") from None
    except DeadKernelError:
        os.replace(draft, failed)
        raise NotebookFailed(f"{name}: the kernel died, most often for want of memory (see {failed}).") from None
    seconds = round(time.perf_counter() - started, 1)

    notebook = nbformat.read(draft, as_version=4)
    slim_tables(notebook)
    notebook.metadata["repro"] = {
        "key": todo.key,
        "scale": todo.scale,
        "parameters": todo.parameters,
        "seconds": seconds,
        "peak_mb": peak[0],
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(LIBRARIES),
    }
    nbformat.write(notebook, draft)
    os.replace(draft, final)
    return Executed(final, seconds, peak[0], skipped=False)


def execute_all(
    parameters: Mapping[str, Mapping[str, Any]],
    scale: str,
    how: Fanout,
    out_dir: Path,
    notebooks_dir: Path | None = None,
    force: bool = False,
) -> dict[str, str]:
    """Execute notebooks, {name: parameters} -> {name: why} of those that failed; out_dir/tasks says how far it is.

    The first one runs alone, on all cores: it prepares what the others read. A mistake in any of them is told before
    it starts (BadInput).
    """
    if how.stage is not None:
        raise BadInput("Notebooks make their own activations: set REPRO_CACHE to a fast disk, and leave out --stage.")
    for name, values in parameters.items():
        plan(name, scale, values, notebooks_dir)
    out = out_dir.resolve()
    tasks = []
    for name, values in parameters.items():
        args = name, scale, dict(values), notebooks_dir, out, force
        tasks.append(Task(name, name, _worker, args, _memory(out / f"{name}.ipynb")))
    failed = fan_out(tasks[:1], replace(how, workers=1), out_dir)
    if tasks[1:]:
        failed |= fan_out(tasks[1:], how, out_dir)
    return {name: why.removeprefix("NotebookFailed: ") for name, why in failed.items()}


def _memory(earlier: Path) -> int:
    """Bytes that the kernel took the last time; 0 where there is no earlier run."""
    return int(1e6 * record(earlier).get("peak_mb", 0))


def _worker(name: str, scale: str, values: Mapping[str, Any], notebooks_dir: Path, out_dir: Path, force: bool) -> str:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    return told(name, execute(name, scale, values, notebooks_dir, out_dir, force, progress=False))


def told(name: str, done: Executed) -> str:
    """A line about an executed notebook."""
    what = "nothing changed since a run of" if done.skipped else "executed in"
    return f"{name:20s} {what} {done.seconds:6.1f} s, {done.peak_mb:5.0f} MB"


def slim_tables(notebook: Any) -> None:
    """Take the white space between tags and the scoped style out of pandas' tables: a third of what a page weighs."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            table = output.get("data", {}).get("text/html", "")
            if 'class="dataframe"' in table:
                table = re.sub(r"<style scoped>.*?</style>", "", table, flags=re.S)
                output["data"]["text/html"] = re.sub(r">\s+<", "><", table)


def record(path: Path) -> dict[str, Any]:
    """What `execute` wrote into an executed notebook about its run; empty if there is none."""
    if not path.is_file():
        return {}
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return dict(json.loads(path.read_text())["metadata"].get("repro", {}))
    return {}


def run_key(notebook: Any, parameters: Mapping[str, Any], scale: str) -> str:
    """Hash of what a run depends on: cells, parameters, source of the package, data, library versions."""
    hashes = {str(path): file_sha256(path) for path in _inputs(scale) if path.is_file()}
    cells = [(c.cell_type, c.source, c.metadata.get("tags", [])) for c in notebook.cells]
    return digest(cells, dict(parameters), hashes, versions(LIBRARIES), os.environ.get("REPRO_PNG", "0"))


def _inputs(scale: str) -> list[Path]:
    """Files a run may read: code, descriptions of data, committed tables, and fresh tables of the other scales.

    Fresh tables of this scale are what the run itself writes, and so is the ledger.
    """
    root, fresh = repo_root(), cache_dir() / "results"
    code = [p for p in (root / "repro").rglob("*.py") if not str(p.relative_to(root)).startswith(NOT_RUN)]
    committed = [p for p in (root / "data" / "results").rglob("*") if p.parent.name != "claims"]
    bench = (root / "data" / "bench").glob("*.csv")
    others = [p for p in fresh.rglob("*") if p.relative_to(fresh).parts[0] != scale]
    return [*code, *(root / "data").glob("*.*"), *bench, *committed, *others]
