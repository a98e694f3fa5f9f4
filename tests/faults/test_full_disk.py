"""A disk that fills up, a size limit, a read-only folder: one sentence, and nothing half-written under a final name."""

import json
import os
import resource
import shutil
import subprocess

import language_models
import numpy as np
import pandas as pd
import pytest

from repro import cli
from repro.activations.store import open_store

pytest.importorskip("transformers")
FAMILY = "full disk, size limit, read-only disk"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": language_models.TEXT}) + "\n" for _ in range(200)))
    return path


@pytest.fixture
def disk(tmp_path):
    """A file system of its own in memory, and how to change it: (folder, resize(options))."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", folder]).returncode:
        pytest.skip("needs the right to mount a tmpfs")

    def change(options):
        subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)

    yield folder, change
    subprocess.run(["umount", "-l", folder], check=True)


def run(capsys, *args):
    """(exit status, what it says)."""
    try:
        cli.main([str(a) for a in args])
        status = 0
    except SystemExit as stop:
        status = stop.code
    return status, [line for line in capsys.readouterr().err.splitlines() if line.startswith("repro:")]


def collecting(lm, corpus, out, *more):
    options = {"output-dir": out, "model.name": lm, "model.layer-index": 1, "device": "cpu"}
    options |= {"dataset.name": corpus, "dataset.max-tokens": 3000, "dataset.seq-len": 32, "dataset.batch-size": 4}
    return ["collect", *(w for k, v in options.items() for w in (f"--{k}", v)), *more]


def visible(out):
    return sorted(p.name for p in out.glob("[!.]*"))


@pytest.mark.parametrize("size", ["8k", "200k"])  # no room for the tokens; none for the activations
def test_a_disk_too_small(disk, lm, corpus, capsys, size):
    folder, change = disk
    change(f"size={size}")
    status, said = run(capsys, *collecting(lm, corpus, folder / "out"))
    assert status in (1, 2) and len(said) == 1 and ("no room for" in said[0] or "No space left" in said[0])
    assert visible(folder / "out") == []
    change("size=32m")
    assert run(capsys, *collecting(lm, corpus, folder / "out")) == (0, [])
    open_store(folder / "out", verify=True)


def test_files_that_may_not_grow(lm, corpus, tmp_path, capsys):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, before[1]))
    try:
        status, said = run(capsys, *collecting(lm, corpus, tmp_path / "out"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert status in (1, 2) and len(said) == 1 and ("File too large" in said[0] or "No space left" in said[0])
    assert visible(tmp_path / "out") == []


def test_a_read_only_folder(disk, lm, corpus, capsys):
    folder, change = disk
    assert run(capsys, *collecting(lm, corpus, folder / "out")) == (0, [])
    change("ro")
    assert run(capsys, *collecting(lm, corpus, folder / "out")) == (0, [])  # there is nothing to do
    for out in (folder / "out", folder / "new"):
        status, said = run(capsys, *collecting(lm, corpus, out, "--dataset.max-tokens", 500))
        assert status == 2 and len(said) == 1 and "Read-only file system; choose another output_dir" in said[0]


def test_an_evaluation_on_a_full_or_closed_disk(disk, capsys, tmp_path):
    folder, change = disk
    np.save(folder / "acts_layer2.npy", np.random.default_rng(0).standard_normal((20, 10, 16)).astype(np.float32))
    options = {"acts": folder / "acts_layer2.npy", "output-dir": tmp_path / "saes", "sparsity": 4, "m": 32}
    options |= {"steps": 10, "batch-size": 32, "ce-tokens": 0, "device": "cpu", "variant": "topk"}
    assert run(capsys, "train", *(w for k, v in options.items() for w in (f"--{k}", v)))[0] == 0
    config = tmp_path / "config.yaml"
    ae = next((tmp_path / "saes").rglob("ae.pt"))
    config.write_text(
        f"output_dir: {folder}\nmodel: {{layer_index: 2}}\nsae_checkpoints: {{a: {{roots: ['{ae}']}}}}\n"
        "metrics: {max_tokens: 100, exclude: [pad]}\ndevice: cpu\nprotocol: corrected\n"
        "eval_modes: [amortized]\n"
    )
    assert run(capsys, "index", "--config", config)[0] == 0
    for closed, opened, word in [("ro", "rw", "Read-only file system"), ("size=1k", "size=32m", "No space left")]:
        if closed == "size=1k":  # a tmpfs cannot shrink below what it holds
            free = shutil.disk_usage(folder).free
            with open(folder / "filler", "wb") as f:
                os.posix_fallocate(f.fileno(), 0, free)
        else:
            change(closed)
        status, said = run(capsys, "evaluate", "--config", config)
        assert status in (1, 2) and len(said) == 1 and word in said[0]
        assert not (folder / "metrics.parquet").exists() and not list(folder.rglob(".*draft*"))
        (folder / "filler").unlink(missing_ok=True) if closed == "size=1k" else change(opened)
    assert run(capsys, "evaluate", "--config", config) == (0, [])
    assert len(pd.read_parquet(folder / "metrics.parquet")) == 1
