"""`repro train` in several processes: every SAE gets the same bits as in one, and one that fails takes none with it."""

import dataclasses
import hashlib

import numpy as np
import pandas as pd
import pytest
import torch

from repro.base.files import repo_root
from repro.cli import main
from repro.commands.train import memory_of, run, training_bytes
from repro.commands.training_flags import TrainConfig
from repro.jobs.task import Fanout, status

PROCESS = 350 * 2**20  # a process that has loaded what the benchmark needs
SHORT = {"m": 24, "steps": 12, "batch_size": 64, "held_out_tokens": 32, "device": "cpu"}


@pytest.fixture
def acts(tmp_path):
    path = tmp_path / "acts.npy"
    np.save(path, np.random.default_rng(3).normal(size=(700, 16)).astype("float32"))
    return path


def flags(acts, out, *more):
    named = [word for key, value in SHORT.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    return ["train", "--acts", str(acts), "--output-dir", str(out), *named, *more]


def weights(out):
    files = sorted(p for p in out.rglob("*") if p.suffix in (".pt", ".safetensors"))
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_two_workers_train_the_same_bits(acts, tmp_path, capsys):
    together, apart = tmp_path / "together", tmp_path / "apart"
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        paths = run(TrainConfig(str(acts), str(together), ("topk", "gated"), seeds=(0, 5), **SHORT), progress=False)
    finally:
        torch.set_num_threads(before)
    split = ("--variant", "topk", "gated", "--seeds", "0", "5", "--workers", "2", "--threads", "1")
    main(flags(acts, apart, *split, "--stage", str(tmp_path / "disk")))
    assert len([p for p in (tmp_path / "disk").iterdir() if p.is_dir()]) == 1  # one copy, which both have read
    made = [apart / path.relative_to(together) for path in paths]
    assert capsys.readouterr().out.split() == [str(path) for path in made] and len(made) >= 12
    assert weights(apart) == weights(together) and len(weights(apart)) > len(made)
    for one, other in zip(paths, made, strict=True):
        for name in ("eval_results.json", "config.json"):
            assert (one / name).read_text() == (other / name).read_text()
    assert {s["state"] for s in status(apart)} == {"done"} and len(status(apart)) == len(made)


def test_the_estimated_memory_holds_what_benchmarks_took(acts, tmp_path):
    table = pd.read_csv(repo_root() / "data" / "bench" / "train.csv")
    ours = table[(table["implementation"] == "repro") & table["device"].str.contains("threads")]
    for _, row in ours.iterrows():
        taken = row["peak_mib"] * 2**20
        estimate = training_bytes(row["d"], row["m"], row["batch"]) + PROCESS
        assert taken < estimate < 2 * taken
    config = TrainConfig(str(acts), str(tmp_path), m=24, batch_size=64, device="cpu")
    assert memory_of(config) == training_bytes(16, 24, 64)
    assert memory_of(dataclasses.replace(config, fanout=Fanout(gpus=1))) == 0


def test_an_sae_that_cannot_be_trained_is_told_and_the_others_are(acts, tmp_path, capsys, no_processes):
    out = tmp_path / "out"
    foreign = out / "standard/resid_post_layer_None/trainer_0/config.json"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("{}")
    with pytest.raises(SystemExit) as stopped:
        main(flags(acts, out, "--variant", "standard", "--sparsity", "1", "0.1", "--workers", "2", "--threads", "1"))
    said = capsys.readouterr().err
    assert stopped.value.code == 1
    assert f"1 of 2 SAEs were not trained. standard trainer_0: {foreign.parent} holds another run" in said
    assert (out / "standard/resid_post_layer_None/trainer_1/ae.pt").is_file()


def test_a_mistake_is_told_before_any_worker_starts(acts, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(flags(acts, tmp_path / "out", "--variant", "topk", "--sparsity", "99", "--workers", "2"))
    assert stopped.value.code == 2 and not (tmp_path / "out").exists()
