"""The log of a training run as TensorBoard and Weights & Biases have it, read back by their own readers."""

import importlib.util
import json

import pytest
import torch

from repro.base.errors import BadInput
from repro.training.recipe import Job, Recipe
from repro.training.train import train
from repro.training.watchers import watcher


class Stream:
    """Four batches of noise."""

    n, d = 256, 8

    def batches(self, batch_size, seed, start_batch=0):
        g = torch.Generator().manual_seed(seed)
        for _ in range(start_batch):
            torch.randn(batch_size, self.d, generator=g)
        while True:
            yield torch.randn(batch_size, self.d, generator=g)

    def take(self, n, seed=None):
        return type("Rows", (), {"x": torch.randn(64, self.d, generator=torch.Generator().manual_seed(0))})

    def describe(self):
        return {}


def trained(folder, *services):
    recipe = Recipe.scaled(4, 32, checkpoints=(1.0,))
    jobs = [Job("topk", 2, 16), Job("topk", 4, 16)]
    return train(Stream(), jobs, recipe, folder, watch=watcher(services), device="cpu", progress=False)


def lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_tensorboard_has_every_line(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for folder in trained(tmp_path, "tensorboard"):
        events = EventAccumulator(str(folder / "tensorboard")).Reload()
        for name in ("loss", "FVE", "L0", "dead", "lr"):
            seen = {e.step: e.value for e in events.Scalars(name)}
            assert seen == pytest.approx({line["step"]: line[name] for line in lines(folder)}, rel=1e-5)


def test_wandb_gets_a_run_an_sae(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_PROJECT", "test")
    for folder in trained(tmp_path, "wandb"):
        runs = list((folder / "wandb").glob("offline-run-*/run-*.wandb"))
        assert len(runs) == 1
        assert runs[0].name == "run-" + "-".join(folder.parts[-3:]) + ".wandb"


def test_a_service_that_is_not_there(monkeypatch):
    with pytest.raises(BadInput, match="Cannot log to 'mlflow'; there are tensorboard, wandb"):
        watcher(["mlflow"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None)
    with pytest.raises(BadInput, match=r"wandb is not installed: pip install 'repro\[wandb\]'"):
        watcher(["wandb"])
