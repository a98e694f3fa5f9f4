"""The commands on saved activations and on a checkpoint of dictionary_learning: files, keys, exit statuses."""

import json
import resource
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from repro.cli import COMMANDS, load, main

SAES = Path(__file__).parent / "golden" / "checkpoints" / "dictionary_learning"
SAE = SAES / "BatchTopK" / "resid_post_layer_8" / "trainer_0"
TRAIN = ("--steps", 4, "--batch-size", 64, "--held-out-tokens", 32, "--ce-tokens", 0)
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


def test_documents_of_saved_activations_can_be_skipped(acts, tmp_path):
    """As if they were not in the file; a bare file has a document a sequence."""
    rest = tmp_path / "rest.npy"
    np.save(rest, np.load(acts)[5:])
    args = ["compare", "--sae-path", SAE, "--protocol", "corrected", "--eval-modes", "amortized", "--exclude", "pad"]
    found = []
    for name, file, skip in (("a", acts, 5), ("b", rest, 0)):
        more = ["--acts", file, "--skip-documents", skip, "--model-name", name, "--out-dir", tmp_path]
        assert run(*args, *more) == 0
        row = json.loads((tmp_path / f"{name}_batch_topk_3modes.json").read_text())["corrected"]["amortized"]
        found.append({k: v for k, v in row.items() if k != "seconds"})
    assert found[0] == found[1] and found[0]["n_tokens"] == 7 * 25
    assert run(*args, "--acts", acts, "--skip-documents", 12, "--out-dir", tmp_path) == 2


def test_sweep(acts, tmp_path):
    args = ["sweep", "--model-name", "toy", "--sae-variant", "batch_topk", "--sae-path", SAE, "--acts", acts]
    assert run(*args, "--steps", "5,1", "--out-dir", tmp_path) == 0
    result = json.loads((tmp_path / "toy_batch_topk_semi_sweep.json").read_text())
    assert list(result["semi_amortized"]) == ["1", "5"]
    assert set(result["semi_amortized"]["5"]) > SEED_KEYS
    assert set(result["corrected"]) == {"0", "1", "5", "certified"}
    assert set(result["as_released"]) == {"0", "1", "5"} and result["as_released"]["5"]["L0"] > 0


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
        "metrics: {max_tokens: 150, exclude: [pad]}\n"
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
    from repro.metrics import names

    out, config = workflow
    monkeypatch.setattr(names, "METRIC_COLUMNS", ("NMSE", "dense@0.1", "F1@1"))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run("visualize", "--config", config) == 2  # says that PNG needs an extra, after writing the HTML
    assert "pip install 'repro[png]'" in capsys.readouterr().err
    drawn = {p.stem for p in out.glob("fig_*.html")}
    for metric in ("NMSE", "dense@0.1", "F1@1", "amort_gap_mean"):
        for protocol in ("as_released", "corrected"):
            assert {f"fig_{metric}_{protocol}_by_{along}" for along in ("step", "sparsity")} <= drawn


def test_claims_prints_and_writes(capsys, tmp_path, monkeypatch):
    from repro.sections import claims

    monkeypatch.setattr(claims, "repo_root", lambda: tmp_path)
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


CARD = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: train.jsonl\n---\n"
CORPORA = {
    "empty.jsonl": "",
    "blank.jsonl": '{"text": " "}\n{"text": null}\n',
    "one.jsonl": '{"text": "a b", "topic": "x"}\n',
    "broken.jsonl": '{"text": "a b"\n',
    "splits/train-0.jsonl": '{"text": "a b"}\n',
    "splits/test-0.jsonl": '{"text": "a b"}\n',
    "nothing/notes.md": "text",
    **{f"{name}/README.md": CARD for name in ("hub_empty", "hub_broken", "hub_bare", "hub")},
    "hub_empty/train.jsonl": "",
    "hub_broken/train.jsonl": '{"text": "a b"\n',
    "hub/train.jsonl": '{"text": "a b"}\n',
}


@pytest.mark.parametrize(
    "args, sentence",
    [
        (["--dataset.name", "empty.jsonl"], "holds no text"),
        (["--dataset.name", "blank.jsonl"], "holds no text"),
        (["--dataset.name", "nothing"], "No text in nothing"),
        (["--dataset.name", "broken.jsonl"], "is not a JSON object"),
        (["--dataset.name", "one.jsonl", "--dataset.label-column", "label"], "no column 'label' (it has: text, topic)"),
        (["--dataset.name", "one.jsonl", "--dataset.text-column", "body"], "set dataset.text_column"),
        (["--dataset.name", "one.jsonl", "--dataset.split", "test"], "without splits"),
        (["--dataset.name", "splits", "--dataset.split", "validation"], "it has: test, train"),
        (["--dataset.name", "hub_empty"], "holds no text"),
        (["--dataset.name", "hub_broken"], "Cannot read 'hub_broken' after row 0"),
        (["--dataset.name", "hub_bare"], "Cannot open data set 'hub_bare'"),
        (["--dataset.name", "hub", "--dataset.split", "tset"], "Bad split: tset"),
        (["--dataset.name", "hub", "--dataset.label-column", "topic"], "no column 'topic'"),
        (["--dataset.split", "tset"], "it has: train, all"),
        (["--output-dir", "one.jsonl"], "Cannot write to one.jsonl"),
    ],
)
def test_text_that_cannot_be_read(args, sentence, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in CORPORA.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    given = [] if "--output-dir" in args else ["--output-dir", "o"]
    assert run("collect", *given, "--dataset.max-tokens", 100, *args) == 2
    error = capsys.readouterr().err.strip()
    said = error.splitlines()[-1]  # the datasets library may have logged a line before
    assert sentence in said and said.startswith("repro: ") and len(said) < 600
    assert not list(tmp_path.glob("o/[!.]*"))


@pytest.mark.parametrize(
    "roots, sentence",
    [
        (["gone"], "There is no gone to search for checkpoints"),
        (["empty"], "No SAE checkpoint below empty"),
        ([], "sae_checkpoints.topk has no roots"),
        (None, "No checkpoint of topk below empty"),  # another variant has some
    ],
)
def test_checkpoints_that_are_not_there(roots, sentence, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    entries = {"topk": {"roots": ["empty"] if roots is None else roots}}
    if roots is None:
        entries["batch_topk"] = {"roots": [str(SAE)]}
    (tmp_path / "c.yaml").write_text(json.dumps({"output_dir": "o", "sae_checkpoints": entries}))
    assert run("index", "--config", "c.yaml") == 2
    error = capsys.readouterr().err.strip()
    assert sentence in error.splitlines()[-1] and "Traceback" not in error
    assert not (tmp_path / "o").exists()


@contextmanager
def file_limit(size):
    """No file may grow beyond `size` bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def refused(capsys, size, *args):
    """The sentence of a command on a disk that is full after `size` bytes a file."""
    with file_limit(size):
        status = run(*args)
    error = capsys.readouterr().err.strip()
    assert status in (1, 2) and "Traceback" not in error
    said = [line for line in error.splitlines() if line.startswith("repro: ")]
    assert len(said) == 1 and "No space left" in said[0]


def test_nothing_half_written_has_a_final_name_when_the_disk_is_full(workflow, acts, tmp_path, capsys, monkeypatch):
    pytest.importorskip("plotly")
    from repro.metrics import names

    out, config = workflow
    copy = tmp_path / "copy"
    shutil.copytree(out, copy, ignore=shutil.ignore_patterns("fig_*", "metrics.parquet", "checkpoint_index.parquet"))
    config = tmp_path / "config.yaml"
    config.write_text((out / "config.yaml").read_text().replace(str(out), str(copy)))
    refused(capsys, 1000, "index", "--config", config)
    assert not (copy / "checkpoint_index.parquet").exists()
    assert run("index", "--config", config) == 0
    refused(capsys, 1000, "evaluate", "--config", config)  # the rows are there, the table is not
    assert not (copy / "metrics.parquet").exists()
    assert run("evaluate", "--config", config) == 0
    monkeypatch.setattr(names, "METRIC_COLUMNS", ("NMSE",))
    refused(capsys, 5000, "visualize", "--config", config)
    assert not list(copy.glob("fig_*"))

    saved = ["--acts", acts, "--exclude", "pad"]
    one = ["--sae-path", SAE, "--out-dir", tmp_path / "one", *saved]
    refused(capsys, 300, "compare", *one)
    refused(capsys, 300, "sweep", *one, "--steps", "1")
    refused(capsys, 2000, "train", "--output-dir", tmp_path / "saes", "--m", 32, "--sparsity", 4, *TRAIN, *saved)
    loca = ["loca", "train", "--output-dir", tmp_path / "loca", "--m", 32, "--k", 4, "--n-groups", 2, *TRAIN, *saved]
    refused(capsys, 4000, *loca)
    kept = [p.name for folder in ("one", "saes", "loca") for p in (tmp_path / folder).rglob("*") if p.is_file()]
    assert not {"ae.pt", "multi_encoder_sae.pt", "eval_results.json"} & set(kept)
    assert not [name for name in kept if name.endswith("3modes.json") or "draft" in name]
    assert run(*loca) == 0 and run("loca", "convert", "--sae-dir", tmp_path / "loca") == 0
    (tmp_path / "loca" / "ae.pt").unlink()
    refused(capsys, 1000, "loca", "convert", "--sae-dir", tmp_path / "loca")
    assert not (tmp_path / "loca" / "ae.pt").exists()


def test_unknown_flag_and_command(capsys):
    assert run("compare", "--nam", "x") == 2
    assert "--model-name" in capsys.readouterr().err
    assert run("compute") == 2
    assert "did you mean 'compare'" in capsys.readouterr().err
    assert run("loca", "trian") == 2
    assert "did you mean 'loca train'" in capsys.readouterr().err
    assert run() == 2
    assert "evaluate" in capsys.readouterr().err


@pytest.mark.parametrize(
    "args, status",
    [(["--help"], 0), (["loca", "-h"], 0), (["compute"], 2), (["bench", "--help"], 0)]
    + [([*name.split(), "--help"], 0) for name in COMMANDS if name != "bench"]
    + [(["compare", "--no-such-flag"], 2), (["evaluate", "--config", "none.yaml"], 2), (["train", "--steps", "x"], 2)],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_help_and_refused_flags_import_nothing_heavy(args, status):
    code = (
        "import sys, repro.cli\n"
        f"try: repro.cli.main({args})\n"
        "except SystemExit as stop: status = stop.code or 0\n"
        "heavy = [m for m in ('torch', 'numpy', 'pandas', 'transformers', 'docutils') if m in sys.modules]\n"
        "print('end', status, heavy)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"end {status} []"


def test_a_pipe_that_closes_early_is_no_traceback():
    for words in ("collect --help", "--help"):
        command = f"{sys.executable} -m repro {words} | head -1"
        done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
        assert done.stdout.startswith("usage: repro") and not done.stderr


def test_every_command_is_there():
    for command in COMMANDS.values():
        for place in filter(None, (command.flags, command.run)):
            assert callable(load(place)), place


def test_help_documents_every_flag(capsys):
    for command in ("collect", "compare", "sweep", "train", "notebook", "report", "claims", "index", "check"):
        assert run(command, "--help") == 0
        text = capsys.readouterr().out
        assert "--help" in text and len(text) > 200
