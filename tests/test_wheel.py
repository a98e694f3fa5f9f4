"""The wheel in an empty environment and an empty folder, with no clone in sight: a user's own files go through."""

import os
import shutil
import subprocess
import venv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).parent.parent
PACKED = ("repro", "pyproject.toml", "README.md", "LICENSE")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The bin folder of an environment that holds the wheel with the extras cpu and lm."""
    folder = tmp_path_factory.mktemp("wheel")
    (folder / "source").mkdir()
    for name in PACKED:  # a copy, because building leaves files beside the sources
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / "source" / name)
    venv.create(folder / "env", with_pip=True)
    pip = [folder / "env" / "bin" / "python", "-m", "pip", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", folder, folder / "source"], check=True)
    (wheel,) = folder.glob("repro-*.whl")
    subprocess.run([*pip, "install", "-c", ROOT / "constraints.txt", f"{wheel}[cpu,lm]"], check=True)
    return folder / "env" / "bin"


@pytest.fixture(scope="module")
def repro(environment, tmp_path_factory):
    """Run `repro ARGS` in one folder that begins empty -> (exit status, what it said)."""
    folder = tmp_path_factory.mktemp("empty")
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "REPRO_CACHE", "XDG_CACHE_HOME")}
    settings = kept | {"HOME": str(tmp_path_factory.mktemp("home")), "HF_HUB_OFFLINE": "1"}

    def run(*args):
        done = subprocess.run(
            [environment / "repro", *map(str, args)], cwd=folder, env=settings, capture_output=True, text=True
        )
        assert "Traceback" not in done.stderr, done.stderr[-2000:]
        return done.returncode, done.stdout + done.stderr

    run.folder = folder
    return run


@pytest.fixture(scope="module")
def sae(repro):
    """A small SAE of the command's own making, on activations that a user brings."""
    activations = np.random.default_rng(0).standard_normal((12, 25, 16)).astype(np.float32)
    np.save(repro.folder / "acts_layer8.npy", activations)
    recipe = ("--variant", "topk", "--sparsity", 4, "--m", 32, "--steps", 4, "--batch-size", 64)
    tokens = ("--held-out-tokens", 32, "--ce-tokens", 0, "--exclude", "pad")
    status, said = repro("train", "--acts", "acts_layer8.npy", "--output-dir", "saes", *recipe, *tokens)
    assert status == 0, said
    (weights,) = repro.folder.glob("saes/topk/*/trainer_0/ae.pt")
    return weights.parent


def test_one_sae(repro, sae):
    one = ("--model-name", "mine", "--sae-path", sae, "--acts", "acts_layer8.npy", "--exclude", "pad")
    assert repro("compare", *one, "--sae-variant", "topk")[0] == 0
    assert repro("sweep", *one, "--sae-variant", "topk", "--steps", "1,5")[0] == 0
    assert {p.name for p in (repro.folder / "outputs").glob("*.json")} == {
        "mine_topk_3modes.json",
        "mine_topk_semi_sweep.json",
    }
    status, said = repro("check", sae, "--acts", "acts_layer8.npy")
    assert status in (0, 1) and "L0" in said  # four steps of training make no good SAE


@pytest.fixture(scope="module")
def table(repro, sae):
    """What `repro evaluate` writes for that SAE."""
    config = "output_dir: .\nmodel: {layer_index: 8}\nsae_checkpoints: {topk: {roots: [saes]}}\n"
    (repro.folder / "config.yaml").write_text(config + "metrics: {exclude: [pad]}\n")
    assert repro("index", "--config", "config.yaml")[0] == 0
    status, said = repro("evaluate", "--config", "config.yaml")
    assert status == 0, said
    return pd.read_parquet(repro.folder / "metrics.parquet")


def test_many_checkpoints(table):
    assert len(table) == 6 * table["path"].nunique() and table["NMSE"].notna().all()


@pytest.mark.parametrize(
    "args, sentence",
    [
        (("report",), "pip install 'repro[book]'"),
        (("notebook", "50_comparison"), "pip install 'repro[book]'"),
        (("visualize", "--output-dir", "."), "pip install 'repro[book]'"),
        (
            ("train", "--acts", "acts_layer8.npy", "--output-dir", "x", "--engine", "dask"),
            "pip install 'repro[cluster]'",
        ),
        (("collect",), "work in a clone"),
        (("compare",), "work in a clone"),
        (("claims",), "work in a clone"),
        (("bench", "evaluate"), "work in a clone"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_is_not_there_is_named_in_a_sentence(args, sentence, repro, table):
    status, said = repro(*args)
    assert status == 2 and sentence in said.splitlines()[-1]


def test_nothing_is_written_where_it_does_not_belong(table, repro, environment):
    assert not (environment.parent / "lib" / "data").exists() and not list(repro.folder.glob("~*"))
