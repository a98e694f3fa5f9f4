"""The index: one row a checkpoint whatever lies around it, and never a crash."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from test_variants import random_sae

from repro.base.errors import BadInput
from repro.checkpoints import index_checkpoints, load_sae, save_dictionary_learning, save_sae
from repro.sae import Source

GOLDEN = Path(__file__).parent / "golden" / "checkpoints"
COLUMNS = [
    "name",
    "variant",
    "family",
    "path",
    "trainer",
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
