"""kill -9 of `repro collect` and `repro evaluate` at random moments: the same command again ends in the same files."""

import hashlib
import json
import multiprocessing
import random
import sys
import time

import numpy as np
import pandas as pd
import pytest

from repro import cli

pytest.importorskip("transformers")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs a fork server and SIGKILL")
QUICK = [pytest.param(seed) for seed in range(1)]
EVERY = [*QUICK, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 10))]
CLOCK = {"seconds", "tokens_per_second"}


@pytest.fixture(scope="module")
def start():
    """Start `repro ARGS` in a process of its own, forked from one that has imported everything and computed nothing."""
    context = multiprocessing.get_context("forkserver")
    ours = ["repro.cli", "repro.activations.collect", "repro.workflow", "tyro", "pandas", "sklearn.linear_model"]
    theirs = ["transformers.models.gpt_neox.modeling_gpt_neox", "transformers.models.auto.tokenization_auto"]
    context.set_forkserver_preload(ours + theirs)

    def start(*args):
        process = context.Process(target=cli.main, args=([str(a) for a in args],))
        process.start()
        return process

    return start


def finish(process):
    process.join(120)
    assert process.exitcode == 0


def wait_for(process, folder, pattern):
    """Until the process has begun to write."""
    while not any(folder.glob(pattern)) and process.is_alive():
        time.sleep(0.001)


def kill_at(start, args, begun, moment):
    """Start, wait until a file of begun = (folder, pattern) exists, and kill so many seconds later; was it running?"""
    process = start(*args)
    wait_for(process, *begun)
    time.sleep(moment)
    running = process.is_alive()
    process.kill()
    process.join(60)
    return running


def seconds_of(start, args, begun):
    """Run undisturbed; returns the seconds from the first such file to the end."""
    process = start(*args)
    wait_for(process, *begun)
    begin = time.perf_counter()
    finish(process)
    return time.perf_counter() - begin


# --- collect --------------------------------------------------------------------------------------------

FORMS = {"npy": [], "shards": ["--shard-tokens", 2500]}


def collect_args(out, form):
    options = {"output-dir": out, "dataset.max-tokens": 6000, "dataset.seq-len": 60, "dataset.batch-size": 8}
    return ["collect", *(w for k, v in options.items() for w in (f"--{k}", v)), "--device", "cpu", *FORMS[form]]


def contents(out):
    """Every file below a folder: the hash of arrays, JSON without what the clock says."""
    found = {}
    for path in sorted(p for p in out.rglob("*") if p.is_file()):
        value = path.read_bytes()
        name = str(path.relative_to(out))
        if path.suffix == ".json":
            found[name] = {k: v for k, v in json.loads(value).items() if k not in CLOCK}
        else:
            found[name] = hashlib.sha256(value).hexdigest()
    return found


@pytest.fixture(scope="module")
def collected(start, tmp_path_factory):
    """Form -> (files of an undisturbed run, the seconds it took)."""
    folder, done = tmp_path_factory.mktemp("whole"), {}
    for form in FORMS:
        out = folder / form
        seconds = seconds_of(start, collect_args(out, form), (out, "*"))
        done[form] = contents(out), seconds
        assert len(done[form][0]) == (6 if form == "npy" else 4)
    return done


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", EVERY)
def test_killed_collections_end_in_the_same_files(start, collected, tmp_path, form, seed):
    whole, seconds = collected[form]
    out = tmp_path / "out"
    moment = random.Random(f"collect {form} {seed}").uniform(0, seconds)
    running = kill_at(start, collect_args(out, form), (out, "*"), moment)
    left = {p.name for p in out.iterdir() if not p.name.startswith(".")}
    print(f"killed after {moment:.3f} of {seconds:.3f} s (running: {running}); left: {sorted(left)}")
    finish(start(*collect_args(out, form)))
    assert contents(out) == whole


# --- evaluate -------------------------------------------------------------------------------------------

ROW = "[!.]*.json"


@pytest.fixture(scope="module")
def prepared(start, tmp_path_factory):
    """A folder with activations, two SAEs that `repro train` made of them, their index and a config."""
    folder = tmp_path_factory.mktemp("evaluate")
    acts = folder / "acts_layer2.npy"
    np.save(acts, np.random.default_rng(0).standard_normal((40, 20, 16)).astype(np.float32))
    options = {"acts": acts, "output-dir": folder / "saes", "sparsity": 4, "m": 48, "steps": 30, "batch-size": 64}
    options |= {"ce-tokens": 0, "device": "cpu"}
    finish(start("train", "--variant", "topk", "batch_topk", *(w for k, v in options.items() for w in (f"--{k}", v))))
    roots = f"sae_checkpoints: {{a: {{roots: {[str(p) for p in sorted((folder / 'saes').rglob('ae.pt'))]}}}}}"
    metrics = "metrics: {max_tokens: 300, exclude: [pad], bootstrap: 20}"
    (folder / "config.yaml").write_text(f"model: {{layer_index: 2}}\n{roots}\n{metrics}\ndevice: cpu\n")
    return folder


def evaluation(start, prepared, out):
    """The arguments of an evaluation in a new folder."""
    out.mkdir()
    (out / "acts_layer2.npy").symlink_to(prepared / "acts_layer2.npy")
    args = ["--config", prepared / "config.yaml", "--output-dir", out]
    finish(start("index", *args))
    return ["evaluate", *args]


def table(out):
    """metrics.parquet without the seconds."""
    return pd.read_parquet(out / "metrics.parquet").drop(columns=list(CLOCK), errors="ignore")


@pytest.fixture(scope="module")
def evaluated(start, prepared, tmp_path_factory):
    """(table of an undisturbed run, the seconds it took from its first row on)."""
    out = tmp_path_factory.mktemp("whole") / "out"
    seconds = seconds_of(start, evaluation(start, prepared, out), (out / "rows", ROW))
    whole = table(out)
    assert len(whole) == 12 and whole["NMSE"].notna().all()
    return whole, seconds


@pytest.mark.parametrize("seed", EVERY)
def test_killed_evaluations_end_in_the_same_table(start, prepared, evaluated, tmp_path, seed):
    whole, seconds = evaluated
    out = tmp_path / "out"
    args = evaluation(start, prepared, out)
    moment = random.Random(f"evaluate {seed}").uniform(0, seconds)
    running = kill_at(start, args, (out / "rows", ROW), moment)
    kept = {p.name: p.read_bytes() for p in (out / "rows").glob(ROW)}
    print(f"killed after {moment:.3f} of {seconds:.3f} s (running: {running}); {len(kept)} rows were kept")
    finish(start(*args))
    pd.testing.assert_frame_equal(table(out), whole, check_exact=True)
    assert all((out / "rows" / name).read_bytes() == text for name, text in kept.items())  # none was done again
