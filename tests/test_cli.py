"""The commands on saved activations and on a checkpoint of dictionary_learning: files, keys, exit statuses."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from repro.cli import main

SAES = Path(__file__).parent / "golden" / "checkpoints" / "dictionary_learning"
SAE = SAES / "BatchTopK" / "resid_post_layer_8" / "trainer_0"
SEED_KEYS = {"NMSE", "DeadRate", "DenseRate@0.1", "DenseRate@0.2", "F1@1", "F1@2", "ΔF1", "AbsorptionRate"}


@pytest.fixture(scope="module")
def acts(tmp_path_factory):
    path = tmp_path_factory.mktemp("acts") / "acts.npy"
    rng = np.random.default_rng(0)
    np.save(path, rng.standard_normal((12, 25, 16)).astype(np.float32) * 0.5)
    return path


def run(*args):
    """Exit status of `repro ARGS`."""
    try:
        main([str(a) for a in args])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_compare_writes_the_released_keys(acts, tmp_path):
    out = tmp_path / "o"
    args = ["compare", "--model-name", "toy", "--sae-variant", "batch_topk", "--sae-path", SAE, "--acts", acts]
    assert run(*args, "--out-dir", out, "--exclude", "pad") == 0
    result = json.loads((out / "toy_batch_topk_3modes.json").read_text())
    for mode in ("amortized", "semi_amortized", "non_amortized"):
        assert set(result[mode]) == SEED_KEYS
        assert {"FVE", "L0", "F1@1_low"} <= set(result["corrected"][mode])
    corrected = result["corrected"]
    for mode in ("semi_amortized", "non_amortized"):  # matched to 2 % on the sample
        assert corrected[mode]["L0"] == pytest.approx(corrected["amortized"]["L0"], rel=0.05)
    assert corrected["amortized"]["amort_gap_lower"] <= corrected["amortized"]["amort_gap_upper"]
    assert str(tmp_path) not in json.dumps(result)
    first = (out / "toy_batch_topk_3modes.json").read_text()
    assert run(*args, "--out-dir", out, "--exclude", "pad") == 0
    again = json.loads((out / "toy_batch_topk_3modes.json").read_text())
    for value in (again, result):
        for part in (*value["as_released"].values(), *value["corrected"].values()):
            part.pop("seconds")
        value["provenance"].pop("finished")
    assert again == result, first


def test_sweep(acts, tmp_path):
    args = ["sweep", "--model-name", "toy", "--sae-variant", "batch_topk", "--sae-path", SAE, "--acts", acts]
    assert run(*args, "--steps", "5,1", "--out-dir", tmp_path) == 0
    result = json.loads((tmp_path / "toy_batch_topk_semi_sweep.json").read_text())
    assert list(result["semi_amortized"]) == ["1", "5"]
    assert set(result["semi_amortized"]["5"]) > SEED_KEYS
    assert set(result["corrected"]) == {"0", "1", "5", "certified"}


@pytest.fixture(scope="module")
def workflow(tmp_path_factory):
    """index and evaluate on a trajectory with a final, as the released workflow mixes them."""
    out = tmp_path_factory.mktemp("workflow")
    rng = np.random.default_rng(0)
    np.save(out / "acts_layer8.npy", rng.standard_normal((10, 20, 16)).astype(np.float32))
    config = out / "config.yaml"
    config.write_text(
        f"output_dir: {out}\nmodel: {{layer_index: 8}}\n"
        f"sae_checkpoints:\n  topk: {{name: topk, roots: ['{SAES / 'TopKTrajectory'}']}}\n"
        "metrics: {max_tokens: 150, exclude: [pad], bootstrap: 10}\n"
    )
    assert run("index", "--config", config) == 0
    assert run("evaluate", "--config", config) == 0
    return out, config


def test_evaluate_writes_a_row_per_checkpoint_mode_and_protocol(workflow):
    out, config = workflow
    index = pd.read_parquet(out / "checkpoint_index.parquet")
    table = pd.read_parquet(out / "metrics.parquet")
    assert len(index) == 4 and len(table) == 4 * 3 * 2
    assert set(table["mode"]) == {"amortized", "semi_amortized", "non_amortized"}
    wanted = (
        "variant trainer step sparsity mode protocol NMSE FVE L0 dead_rate dense@0.1 dense@0.2 F1@1 F1@2 dF1 absorption"
    )
    wanted += " amort_gap_mean amort_gap_median amort_gap_lower amort_gap_upper lam n_tokens seed"
    assert set(wanted.split()) <= set(table.columns)
    assert set(table["step"].dropna()) == {0, 244, 772}
    before = {p: p.stat().st_mtime_ns for p in (out / "rows").iterdir()}
    assert run("evaluate", "--config", config) == 0
    assert {p: p.stat().st_mtime_ns for p in (out / "rows").iterdir()} == before  # nothing was computed again


def test_visualize(workflow, monkeypatch, capsys):
    pytest.importorskip("plotly")
    out, config = workflow
    monkeypatch.setitem(sys.modules, "kaleido", None)
    assert run("visualize", "--config", config) == 2  # says that PNG needs an extra, after writing the HTML
    assert "pip install 'repro[png]'" in capsys.readouterr().err
    drawn = {p.stem for p in out.glob("fig_*.html")}
    for metric in ("NMSE", "L0", "dead_rate", "dense@0.1", "dense@0.2", "F1@1", "dF1", "absorption", "amort_gap_mean"):
        for protocol in ("as_released", "corrected"):
            assert {f"fig_{metric}_{protocol}_by_{along}" for along in ("step", "sparsity")} <= drawn


def test_claims_prints_and_writes(capsys, tmp_path, monkeypatch):
    from repro import claims

    monkeypatch.setattr(claims.verdicts, "repo_root", lambda: tmp_path)
    assert run("claims", "--scale", "paper") == 0
    assert "not yet run" in capsys.readouterr().out
    assert (tmp_path / "data" / "results" / "claims" / "paper.csv").is_file()


@pytest.mark.parametrize(
    "args, sentence",
    [
        (["collect", "--model.name", "tinny"], "did you mean 'tiny'"),
        (["collect", "--config", "none.yaml"], "No config file at none.yaml"),
        (["collect", "--config"], "--config needs the path"),
        (["collect", "--dataset.name", "none.txt"], "none.txt"),
        (["collect", "--model.layer-index", "9"], "layer"),
        (["evaluate", "--output-dir", "none"], "run `repro index`"),
        (["visualize", "--output-dir", "none"], "run `repro evaluate`"),
        (["index"], "No sae_checkpoints in the config"),
        (["compare", "--sae-path", "none.pt", "--acts", "ACTS"], "none.pt"),
        (["compare", "--sae-path", str(SAE), "--acts", "none.npy"], "none.npy"),
        (["compare", "--model-name", "smollm2-135m"], "Give --sae-path"),
        (["sweep", "--steps", "a,b", "--sae-path", str(SAE), "--acts", "ACTS"], "whole numbers separated by commas"),
        (["compare", "--sae-path", str(SAE), "--acts", "WIDE"], "width 16"),
        (["compare", "--sae-path", str(SAE), "--acts", "NAN"], "NaN"),
        (["notebook", "50_comparsion"], "did you mean '50_comparison'"),
        (["notebook", "50_comparison", "-p", "sale", "tiny"], "did you mean 'scale'"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(args, sentence, acts, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wide, nan = tmp_path / "wide.npy", tmp_path / "nan.npy"
    np.save(wide, np.ones((30, 17), np.float32))
    bad = np.ones((30, 16), np.float32)
    bad[3, 4] = np.nan
    np.save(nan, bad)
    names = {"ACTS": acts, "WIDE": wide, "NAN": nan}
    assert run(*[names.get(a, a) for a in args]) == 2
    error = capsys.readouterr().err.strip()
    assert sentence in error and "Traceback" not in error
    assert error.startswith("repro: ") and "\n" not in error


def test_unknown_flag_and_command():
    assert run("compare", "--nam", "x") == 2
    assert run("compute") == 2


def test_help_documents_every_flag(capsys):
    for command in ("collect", "compare", "sweep", "train", "notebook", "report", "claims", "index", "check"):
        assert run(command, "--help") == 0
        text = capsys.readouterr().out
        assert "--help" in text and len(text) > 200
