"""The index: one row a checkpoint whatever lies around it, and never a crash."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from test_variants import random_sae

from repro.base.errors import BadInput
from repro.checkpoints import CheckpointError, index_checkpoints, load_sae, save_dictionary_learning, save_sae
from repro.checkpoints.runs import run_of
from repro.sae import Source

GOLDEN = Path(__file__).parent / "golden" / "checkpoints"
COLUMNS = [
    "name",
    "variant",
    "family",
    "path",
    "trainer",
    "seed",
    "step",
    "final",
    "sparsity",
    "k",
    "d",
    "m",
    "layer",
    "site",
    "lm_name",
    "format",
    "sha256",
    "bytes",
    "status",
    "reason",
    "notes",
]


def test_a_row_for_every_golden_checkpoint():
    rows = index_checkpoints({"all": [GOLDEN]}, progress=False)
    weights = [p for s in ("ae*.pt", "sae*.safetensors") for p in GOLDEN.rglob(s)]
    assert sorted(r["path"] for r in rows) == sorted(map(str, weights))
    assert all(r["status"] == "ok" and list(r) == COLUMNS for r in rows)
    for row in rows:
        sae = load_sae(row["path"])
        told = (row["variant"], row["d"], row["m"], row["sha256"], row["sparsity"], row["step"], row["layer"])
        source = sae.source
        assert told == (
            sae.name,
            sae.config.d,
            sae.config.m,
            source.sha256,
            source.sparsity,
            source.step,
            source.layer,
        )
        assert row["bytes"] == Path(row["path"]).stat().st_size
    steps = [r["step"] for r in rows if "TopKTrajectory" in r["path"]]
    assert sorted(steps, key=str) == [0, 244, 772, None]


@pytest.fixture
def tree(tmp_path):
    """Two trainers with trajectories, among everything else that training leaves behind."""
    for i, k in enumerate((2, 4)):
        sae = random_sae("topk", k=k)
        sae.source = Source(family="top_k", layer=3, lm_name="tiny")
        folder = tmp_path / "runs" / "resid_post_layer_3" / f"trainer_{i}"
        for step in (None, 0, 50):
            save_dictionary_learning(sae, folder, step=step)
        (folder / "eval_results.json").write_text("{}")
        torch.save({"state": {}, "param_groups": []}, folder / "training_state.pt")
        torch.save({"lr": 1.0}, folder / "optimizer_0.pt")
        torch.save({"weight": torch.zeros(2)}, folder / "something.pt")
    return tmp_path / "runs"


def test_ignores_what_is_no_sae(tree):
    rows = index_checkpoints({"topk": [tree]}, progress=False)
    assert len(rows) == 6
    assert {(r["trainer"], r["k"]) for r in rows} == {(0, 2), (1, 4)}
    assert [r["final"] for r in rows].count(True) == 2
    frame = pd.DataFrame(rows)
    frame.to_parquet(tree / "index.parquet")  # finals and trajectories in one table
    assert pd.read_parquet(tree / "index.parquet").step.dropna().unique().tolist() == [0, 50]


def panel(root: Path) -> dict[str, tuple]:
    """As decoderesearch/sae-snapshot-panels lays out SAEs of SAELens for inference -> (k, seed, step) by path."""
    rows = {}
    for k, seed, steps in ((50, 0, (1, 122070)), (100, 0, (1, 122070)), (100, 1, (1, 122070))):
        run = root / "cross-arch-panel" / "gemma-2-2b" / "batchtopk" / f"k-{k}" / f"seed-{seed}"
        for step in steps:
            folder = run / "snapshots" / f"step-{step}-tokens-{step * 4096 // 1000 * 1000}"
            folder.mkdir(parents=True)
            weights = {"W_enc": torch.randn(4, 9), "b_enc": torch.zeros(9), "b_dec": torch.zeros(4)}
            weights |= {"W_dec": torch.randn(9, 4), "threshold": torch.ones(9)}
            save_file(weights, folder / "sae_weights.safetensors")
            save_file({"sparsity": torch.zeros(9)}, folder / "sparsity.safetensors")
            place = {"model_name": "google/gemma-2-2b", "hook_name": "blocks.12.hook_resid_post"}
            config = {"architecture": "jumprelu", "d_in": 4, "d_sae": 9, "metadata": place}
            (folder / "cfg.json").write_text(json.dumps(config))
            (folder / "core_eval_results.json").write_text("{}")
            rows[str(folder / "sae_weights.safetensors")] = (k, seed, step)
    return rows


def test_a_snapshot_panel_is_trajectories(tmp_path):
    expected = panel(tmp_path)
    rows = index_checkpoints({"batchtopk": [tmp_path]}, progress=False)
    assert {r["path"]: (r["sparsity"], r["seed"], r["step"]) for r in rows} == expected
    assert all(r["status"] == "ok" and not r["final"] and (r["layer"], r["site"]) == (12, "resid_post") for r in rows)
    assert len({run_of(r["path"]) for r in rows}) == 3
    run = tmp_path / "cross-arch-panel" / "gemma-2-2b" / "batchtopk" / "k-100" / "seed-1"
    assert load_sae(run, step=1).source.step == 1

    shutil.copytree(run / "snapshots" / "step-122070-tokens-499998000", tmp_path / "end")
    for file in (tmp_path / "end").iterdir():  # the final SAE and its runner's config in the folder of the run
        shutil.copy(file, run)
    (run / "runner_cfg.json").write_text(json.dumps({"seed": 7}))
    assert load_sae(run).source.step is None and load_sae(run, step=122070).source.step == 122070
    with pytest.raises(CheckpointError, match="its steps are 1, 122070"):
        load_sae(run, step=2)
    rows = index_checkpoints({"batchtopk": [run]}, progress=False)
    assert [(r["step"], r["final"], r["seed"]) for r in rows] == [(None, True, 7), (1, False, 7), (122070, False, 7)]
    (run / "runner_cfg.json").write_text("{")  # damaged: the folder says the seed, and nothing that of the final
    assert {r["seed"] for r in index_checkpoints({"a": [run]}, progress=False) if not r["final"]} == {1}


def test_a_panel_is_evaluated_and_drawn_run_by_run(tmp_path):
    """Two SAEs of the same k differ in their seed alone: two lines, not one through the points of both."""
    pytest.importorskip("plotly")
    from repro.base.config import MetricsConfig
    from repro.commands.visualize import by_step, with_steps
    from repro.evaluate import EvalOptions, evaluate_checkpoints, open_data

    panel(tmp_path / "panel")
    np.save(tmp_path / "acts.npy", torch.randn(40, 4).numpy())
    data = open_data(tmp_path / "acts.npy", MetricsConfig(exclude=()))
    listed = index_checkpoints({"batchtopk": [tmp_path / "panel"]}, progress=False)
    options = EvalOptions(modes=("amortized",), protocols=("as_released",))
    rows = evaluate_checkpoints(listed, data, options, tmp_path / "rows", progress=False)
    assert [(r["sparsity"], r["sae_seed"], r["step"]) for r in rows] == [
        (r["sparsity"], r["seed"], r["step"]) for r in listed
    ]
    assert {r["seed"] for r in rows} == {options.seed}  # that of the evaluation
    lines = by_step(with_steps(pd.DataFrame(rows)), "NMSE").data
    assert sorted((t.name, *t.x) for t in lines) == [("100", 1, 122070)] * 2 + [("50", 1, 122070)]
    assert {text.rpartition("seed ")[2][:1] for t in lines for text in t.hovertext} == {"0", "1"}


@pytest.mark.parametrize(
    "folders",
    [
        "k-100/seed-3/step-5-tokens-9/run",  # a step above the run
        "k-100/seed-3/122070",  # a number that nothing names
        "k-100/seed-3/snapshots/122070",
        "k-100/seed-3/snapshots/0123456789abcdef",  # as the hub's cache keeps a commit
        "k-100/seed-3/tokens-500000000",
    ],
)
def test_numbers_of_other_folders_are_no_facts(tmp_path, folders):
    folder = tmp_path / folders
    save_sae(random_sae("jumprelu"), folder / "sae.safetensors")
    (row,) = index_checkpoints({"a": [tmp_path]}, progress=False)
    assert (row["step"], row["seed"], row["sparsity"], row["final"]) == (None, None, None, True)


def test_the_seed_of_a_trainer_is_in_its_config(tmp_path):
    save_dictionary_learning(random_sae("topk", k=2), tmp_path / "trainer_0", trainer_config={"seed": 5})
    assert [r["seed"] for r in index_checkpoints({"a": [tmp_path]}, progress=False)] == [5]


def test_a_run_has_one_folder_in_every_layout():
    for path in (
        "x/trainer_0/ae.pt",
        "x/trainer_0/checkpoints/ae_5.pt",
        "x_checkpoints/trainer_0_step_5/ae.pt",
        "x/trainer_0/snapshots/step-5-tokens-20480/sae_weights.safetensors",
        "x/trainer_0/step_5/sae.safetensors",
    ):
        assert run_of(path) == Path("x/trainer_0"), path


def test_one_bad_file_is_a_row_with_its_reason(tree):
    bad = tree / "resid_post_layer_3" / "trainer_0" / "ae.pt"
    bad.write_bytes(bad.read_bytes()[:1000])
    (tree / "resid_post_layer_3" / "trainer_1" / "config.json").write_text("{")
    lone = tree / "lone"
    lone.mkdir()
    torch.save({"W_enc": torch.zeros(9, 4), "W_dec": torch.zeros(4, 9)}, lone / "ae.pt")
    rows = index_checkpoints({"topk": [tree]}, progress=False)
    refused = {Path(r["path"]).parent.name: r["reason"] for r in rows if r["status"] == "refused"}
    assert len(rows) == 7 and sum(r["status"] == "refused" for r in rows) == 5
    assert "is not a complete PyTorch file" in refused["trainer_0"]
    assert "is not valid JSON" in refused["trainer_1"]
    assert "pass as_released=True" in refused["lone"]


def test_a_loca_folder_is_one_sae(tmp_path):
    w = {f"encoders.{i}.weight": torch.randn(4, 3) for i in range(2)}
    w |= {f"encoders.{i}.bias": torch.randn(4) for i in range(2)}
    w |= {f"decoders.{i}.weight": torch.randn(3, 4) for i in range(2)}
    torch.save(w, tmp_path / "multi_encoder_sae.pt")
    torch.save({"W_enc": torch.zeros(8, 3), "W_dec": torch.zeros(3, 8)}, tmp_path / "ae.pt")
    torch.save({"group_ks": [1, 2]}, tmp_path / "loc_angular_meta.pt")
    (tmp_path / "config.json").write_text(json.dumps({"group_ks": [1, 2]}))
    (row,) = index_checkpoints({"loca": [tmp_path]}, progress=False)
    assert (row["variant"], row["d"], row["m"], row["k"]) == ("loca", 3, 8, 3)


def test_names_in_paths_count_only_below_the_root(tmp_path):
    root = tmp_path / "k_999" / "x"
    folder = root / "l0_40"
    save_sae(random_sae("jumprelu"), folder / "ckpt_step500.safetensors")
    (row,) = index_checkpoints({"a": [root]}, progress=False)
    assert (row["sparsity"], row["format"], row["variant"]) == (40, "repro", "jumprelu")
    (row,) = index_checkpoints({"a": [folder / "ckpt_step500.safetensors"]}, hashes=False, progress=False)
    assert row["sha256"] is None and row["status"] == "ok"


def test_says_when_a_root_holds_another_variant():
    rows = index_checkpoints({"topk": [GOLDEN / "dictionary_learning" / "JumpRelu"]}, progress=False)
    assert rows[0]["notes"] == "Listed under topk, but it is jumprelu."


def test_the_same_file_counts_once(tree):
    shutil.copytree(tree, tree.parent / "copy")
    (tree.parent / "link").symlink_to(tree)
    rows = index_checkpoints({"topk": [tree, tree / "resid_post_layer_3", tree.parent / "link"]}, progress=False)
    assert len(rows) == 6


def test_refuses_roots_without_checkpoints(tmp_path):
    with pytest.raises(BadInput, match=r"There is no .*none to search"):
        index_checkpoints({"a": [tmp_path / "none"]})
    with pytest.raises(BadInput, match="No SAE checkpoint below"):
        index_checkpoints({"a": [tmp_path]})
