"""Runs of the long commands on tiny data, in processes of their own that a test may kill, and what they leave behind.

Processes are forked from one that has imported everything and computed nothing, so that one takes a second, not ten.
"""

import functools
import hashlib
import json
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file

from repro import cli
from repro.base.files import repo_root

CLOCK = {"seconds", "tokens_per_second", "tokens_per_s", "time", "pid"}
PRELOAD = [
    *("repro.cli", "repro.activations.collect", "repro.commands.one", "repro.commands.train", "repro.loca.phases"),
    "repro.checkpoints.index",  # a child must not read sources that somebody is editing
    *("repro.book.runner", "tyro", "pandas", "sklearn.linear_model", "papermill", "nbclient", "jupyter_client"),
    *("transformers.models.gpt_neox.modeling_gpt_neox", "transformers.models.auto.tokenization_auto"),
]


def start(function, *args, log=None):
    """Call function(*args) in a process of its own, stderr into the file `log`; returns the process."""
    process = _context().Process(target=_call, args=(function, args, log))
    process.start()
    return process


def finish(process, status=0):
    """Wait for the end and check the exit status."""
    process.join(240)
    assert process.exitcode == status


def wait_for(process, folder, pattern):
    """Until the process has begun to write."""
    while not any(folder.glob(pattern)) and process.is_alive():
        time.sleep(0.001)


@functools.cache
def _context():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


def _call(function, args, log):
    if log is not None:
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    torch.set_num_threads(1)
    function(*args)


def command(*args):
    """`repro ARGS`; the exit status is that of the process."""
    cli.main([str(a) for a in args])


def flags(options):
    """{"m": 3} -> ["--m", 3]."""
    return [word for key, value in options.items() for word in (f"--{key}", *np.atleast_1d(value).tolist())]


# --- what each run is -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One kind of run. `prepare(shared, out)` makes what it starts from, in a new folder, and returns its arguments."""

    prepare: Callable[[Path, Path], list]
    begun: str
    """A file that this pattern finds says that the work has begun."""
    function: Callable = command
    parts: tuple[str, ...] = (".",)
    """Folders of `out` that hold its results."""


def collect(shared, out):
    options = {"output-dir": out, "dataset.max-tokens": 6000, "dataset.seq-len": 60, "dataset.batch-size": 8}
    return ["collect", *flags(options), "--device", "cpu"]


def train(shared, out):
    options = {"acts": shared / "acts_layer2.npy", "output-dir": out, "sparsity": [3, 5], "m": 48, "steps": 150}
    options |= {"batch-size": 64, "ce-tokens": 0, "device": "cpu", "state-every": 20}
    return ["train", "--variant", "topk", "batch_topk", *flags(options)]


def loca(shared, out):
    options = {"acts": shared / "acts_layer2.npy", "output-dir": out, "m": 48, "k": 6, "n-groups": 2, "steps": 100}
    options |= {"batch-size": 64, "ce-tokens": 0, "device": "cpu", "state-every": 20, "train-tokens": 640}
    return ["loca", "train", *flags(options)]


def evaluate(shared, out):
    out.mkdir(parents=True)
    (out / "acts_layer2.npy").symlink_to(shared / "acts_layer2.npy")
    args = ["--config", shared / "config.yaml", "--output-dir", out]
    finish(start(command, "index", *args))
    return ["evaluate", *args]


def notebooks(shared, out):
    return [shared / "notebooks", out]


def execute_both(folder, out):
    from repro.book.runner import execute

    for name in "ab":
        execute(name, notebooks_dir=folder, out_dir=out)


def checkout(shared, out):
    """A checkout of its own with two small notebooks and a book of three pages."""
    root, book, source = repo_root(), out / "book", shared / "source"
    if not source.exists():  # what others change in the meantime changes no run
        for name in ("repro", "book/_static"):
            shutil.copytree(root / name, source / name)
        for name in ("book/_config.yml", "book/favicon.svg"):
            shutil.copyfile(root / name, source / name)
    shutil.copytree(source, out)
    shutil.copytree(shared / "notebooks", out / "notebooks")
    (out / "data").symlink_to(root / "data")
    (book / "vendor").symlink_to(root / "book" / "vendor")
    (book / "index.md").write_text("# A small book\n\nOf two notebooks.\n")
    (book / "_toc.yml").write_text("format: jb-book\nroot: index\nchapters: [{file: executed/a}, {file: executed/b}]\n")
    return [out]


def report(folder):
    """`repro report` of that checkout; without a browser, which no figure of it needs."""
    os.chdir(folder)
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    env = os.environ | {"PYTHONPATH": str(folder), "REPRO_CACHE": str(folder / "cache"), "PATH": str(tools)}
    os.execve(sys.executable, [sys.executable, "-m", "repro", "report"], env)


GROWS = ("log.jsonl", "training_state.pt", "tasks/a.json", "tasks/b.json")
"""By the line; by the step, and gone when the run is done; from running to done."""
ROW = "rows/[!.]*.json"
RUNS = {
    "collect": Run(collect, "*"),
    "train": Run(train, "*/*/*/config.json"),
    "evaluate": Run(evaluate, ROW),
    "loca": Run(loca, "config.json"),
    "notebooks": Run(notebooks, "*", execute_both),
    "report": Run(checkout, "book/executed", report, ("book/executed", "book/_build")),
}


def prepare(folder):
    """What the runs share: activations, two SAEs trained on them, a config that evaluates these, two notebooks."""
    acts = folder / "acts_layer2.npy"
    np.save(acts, np.random.default_rng(0).standard_normal((40, 20, 16)).astype(np.float32))
    options = {"acts": acts, "output-dir": folder / "saes", "sparsity": 4, "m": 48, "steps": 30, "batch-size": 64}
    options |= {"ce-tokens": 0, "device": "cpu"}
    finish(start(command, "train", "--variant", "topk", "batch_topk", *flags(options)))
    roots = f"sae_checkpoints: {{a: {{roots: {[str(p) for p in sorted((folder / 'saes').rglob('ae.pt'))]}}}}}"
    metrics = "metrics: {max_tokens: 300, exclude: [pad]}"
    (folder / "config.yaml").write_text(f"model: {{layer_index: 2}}\n{roots}\n{metrics}\ndevice: cpu\n")
    (folder / "notebooks" / "params").mkdir(parents=True)
    (folder / "notebooks" / "params" / "tiny.yaml").write_text("a: {n: 3}\nb:\n")
    for name in "ab":
        cells = [
            nbformat.v4.new_markdown_cell(f"# Section {name}", id="title"),
            nbformat.v4.new_code_cell("n: int = 1", id="given", metadata={"tags": ["parameters"]}),
            *(nbformat.v4.new_code_cell(f"n = n * 7 % 101\nprint({i}, n)", id=f"cell{i}") for i in range(8)),
        ]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "notebooks" / f"{name}.ipynb")


# --- what a run leaves ----------------------------------------------------------------------------------


def contents(out, parts=(".",), hidden=True):
    """Every file of a run by name, in a form to compare, without what the clock says. Fails on broken ones.

    hidden=False: only those under final names, no draft.
    """
    found = {}
    for part in parts:
        for path in sorted(p for p in (out / part).rglob("*") if p.is_file() and p.name != ".lock"):
            name = path.relative_to(out)
            if not hidden and (any(p.startswith(".") for p in name.parts) or ".draft." in name.name):
                continue
            try:
                found[str(name)] = _content(path)
            except Exception as error:
                raise AssertionError(f"{name} is broken: {error}") from error
    return found


def _content(path):
    if path.suffix == ".json" and "_static" not in path.parts:
        return _without_clock(json.loads(path.read_text()))
    if path.suffix == ".jsonl":
        return [_without_clock(json.loads(line)) for line in path.read_text().splitlines()]
    if path.suffix == ".ipynb":
        cells = nbformat.read(path, 4).cells
        return [
            (c.source, "".join(o.get("text", "?") for o in c.get("outputs", [])))
            for c in cells
            if "injected" not in str(c)
        ]
    if path.suffix == ".parquet":
        table = pd.read_parquet(path).drop(columns=list(CLOCK), errors="ignore")
        return list(table), pd.util.hash_pandas_object(table.astype(str)).tolist()
    if path.suffix == ".npy":
        np.load(path, mmap_mode="r")
    if path.suffix == ".pt":
        torch.load(path, weights_only=True)
    if path.suffix == ".safetensors":
        load_file(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _without_clock(value):
    return {k: v for k, v in value.items() if k not in CLOCK} if isinstance(value, dict) else value
