"""An SAE and activations that do not belong together are refused; outcomes of evaluate, index and the tables printed.

The right values are planted: SAEs written with a known layer and model, stores with a manifest of another.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from repro.base.config import RunConfig, load_yaml
from repro.base.errors import BadInput
from repro.checkpoints.match import Place, contradictions, match, same_model
from repro.cli import main

D, M = 16, 24


def run(*args):
    """Exit status of `repro ARGS`."""
    try:
        main([str(a) for a in args])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def sae(folder, layer=8, d=D, lm="EleutherAI/pythia-160m-deduped", site="resid_post", seed=0):
    """A TopK SAE in dictionary_learning's layout that says which layer, site and model it reads."""
    g = torch.Generator().manual_seed(seed)
    atoms = torch.nn.functional.normalize(torch.randn(M, d, generator=g), dim=1)
    weights = {"encoder.weight": atoms.clone(), "encoder.bias": torch.zeros(M), "decoder.weight": atoms.T.contiguous()}
    folder.mkdir(parents=True)
    torch.save(weights | {"b_dec": torch.zeros(d), "k": torch.tensor(4)}, folder / "ae.pt")
    names = {"trainer_class": "TopKTrainer", "dict_class": "AutoEncoderTopK", "lm_name": lm, "layer": layer}
    sizes = {"activation_dim": d, "dict_size": M, "k": 4, "submodule_name": f"{site}_layer_{layer}"}
    (folder / "config.json").write_text(json.dumps({"trainer": names | sizes}))
    return folder


def acts(path, d=D, n=80):
    np.save(path, np.random.default_rng(0).standard_normal((n, d)).astype(np.float32))
    return path


@pytest.mark.parametrize(
    "a, b, same",
    [
        ("gpt2-small", "openai-community/gpt2", True),  # SAELens's name and the hub's
        ("google/gemma-2-2b", "gemma-2-2b", True),
        ("meta-llama/Meta-Llama-3.1-8B", "meta-llama/Llama-3.1-8B", True),
        ("EleutherAI/pythia-160m", "EleutherAI/pythia-160m-deduped", False),
        ("gemma-2-2b", "gemma-2-2b-it", False),
        ("/data/models/mine", "gpt2", None),  # a folder's name proves nothing
    ],
)
def test_names_of_one_model(a, b, same):
    assert same_model(a, b) is same and same_model(b, a) is same


@pytest.mark.parametrize(
    "one, other, names",
    [
        (Place(4, "resid_post"), Place(5, "resid_pre"), []),  # the input of block 5 is the output of block 4
        (Place(5, "resid_post"), Place(5, "resid_pre"), ["layer"]),
        (Place(3, "mlp_out"), Place(3, "resid_post"), ["site"]),
        (Place(3), Place(3, "resid_post"), []),
        (Place(), Place(3, "attn_out", "gpt2"), []),
        (Place(None, "embedding"), Place(3, "resid_post"), ["site"]),
        (Place(norm=4.0), Place(norm=5.0), []),
        (Place(norm=4.0), Place(norm=40.0), ["mean norm"]),  # trained on scaled activations, given raw ones
    ],
)
def test_contradictions(one, other, names):
    assert contradictions(one, other) == names
    if names:
        with pytest.raises(BadInput, match="--allow-mismatch"):
            match(one, other)
        assert "as allowed" in match(one, other, allow=True)[0]


def test_saved_activations_are_compared_by_name(tmp_path, capsys):
    """acts_layer12.npy without a manifest, an SAE of layer 8: refused by compare, sweep and check alike."""
    own, file = sae(tmp_path / "saes" / "trainer_0"), acts(tmp_path / "acts_layer12.npy")
    common = ["--sae-path", own, "--acts", file, "--out-dir", tmp_path / "o", "--protocol", "corrected"]
    for command in (["compare", *common], ["sweep", *common, "--steps", "1"], ["check", own, "--acts", file]):
        assert run(*command) == 2
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert "trained on layer 8, but the activations are of layer 12" in said and "--allow-mismatch" in said
    assert not (tmp_path / "o").exists()
    assert run("compare", *common, "--eval-modes", "amortized", "--allow-mismatch") == 0
    printed = capsys.readouterr()
    assert "as allowed" in printed.err
    *table, path = printed.out.splitlines()
    assert len(table) == 3 and max(map(len, table)) <= 80
    assert Path(path).name == "saes_trainer_0_topk_3modes.json"  # not tiny_batch_topk
    row = json.loads(Path(path).read_text())["corrected"]["amortized"]
    assert (row["layer"], row["sae_layer"], row["sae_site"]) == (12, 8, "resid_post")
    assert row["sae_model"] == "EleutherAI/pythia-160m-deduped" and "model" not in row


def test_flags_say_what_the_file_does_not(tmp_path, capsys):
    own, bare, named = sae(tmp_path / "t0"), acts(tmp_path / "x.npy"), acts(tmp_path / "acts_layer8.npy")
    common = ["compare", "--sae-path", own, "--out-dir", tmp_path, "--protocol", "corrected"]
    common += ["--eval-modes", "amortized"]
    assert run(*common, "--acts", bare, "--layer", 7) == 2
    assert "layer 8, but the activations are of layer 7" in capsys.readouterr().err
    assert run(*common, "--acts", named, "--layer", 7) == 2
    assert "activations are of layer 8, but the flags say layer 7" in capsys.readouterr().err
    assert run(*common, "--acts", named, "--model-name", "gemma-2-2b") == 2
    assert run(*common, "--layer", 7) == 2  # before anything is collected
    assert "the flags ask for layer 7" in capsys.readouterr().err
    assert run(*common, "--acts", bare) == 0
    assert "the activation file does not state its layer and site and model" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (["--dataset", "tiny"], "--dataset does nothing beside --acts"),
        (["--protocol", "corrected", "--non-steps", "9"], "--non-steps does nothing under --protocol corrected"),
        (["--protocol", "as_released", "--tol", "0.1"], "--tol does nothing under --protocol as_released"),
    ],
)
def test_flags_that_do_nothing_are_refused(flags, sentence, tmp_path, capsys):
    file = acts(tmp_path / "acts_layer8.npy")
    assert run("compare", "--sae-path", sae(tmp_path / "t"), "--acts", file, "--out-dir", tmp_path, *flags) == 2
    assert sentence in capsys.readouterr().err


@pytest.fixture
def grid(tmp_path, monkeypatch):
    """good, gone, of another width, of another layer, changed since; all listed, from a folder of relative paths."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    acts(tmp_path / "out" / "acts_layer8.npy")
    for seed, (name, knobs) in enumerate(
        {"good": {}, "gone": {}, "narrow": {"d": 8}, "layer5": {"layer": 5}, "changed": {}}.items()
    ):
        sae(tmp_path / "saes" / name / "trainer_0", **knobs, seed=seed)
    config = {"output_dir": "out", "model": {"layer_index": 8}, "sae_checkpoints": {"topk": {"roots": ["saes"]}}}
    config |= {"eval_modes": ["amortized"], "protocol": "corrected", "device": "cpu"}
    Path("c.yaml").write_text(yaml.safe_dump(config))
    assert run("index", "--config", "c.yaml") == 0
    Path("saes/gone").rename("moved")
    state = torch.load("saes/changed/trainer_0/ae.pt", weights_only=True)
    torch.save(state | {"b_dec": torch.ones(D)}, "saes/changed/trainer_0/ae.pt")
    return tmp_path


REASONS = {
    "gone": "There is no checkpoint",
    "narrow": "width 8",
    "layer5": "trained on layer 5",
    "changed": "has changed since",
}


def notes(out):
    table = pd.read_parquet(out / "metrics.parquet")
    names = [Path(path).parent.parent.name for path in table["path"]]
    assert set(names) == {*REASONS, "good"} and all(Path(p).is_absolute() for p in table["path"])
    assert table["NMSE"].notna().sum() == 1
    return dict(zip(names, table["note"], strict=True))


@pytest.mark.parametrize("workers", [1, 2])
def test_what_fails_is_a_row_with_its_reason_and_status_1(grid, workers, capsys, no_processes):
    assert run("evaluate", "--config", "c.yaml", "--workers", workers, "--threads", 1) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("repro: 4 of 5 checkpoints failed") and "column note" in said
    found = notes(grid / "out")
    for name, reason in REASONS.items():
        assert reason in found[name], found[name]


def test_evaluate_from_another_folder(grid, monkeypatch):
    elsewhere = grid / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert run("evaluate", "--config", "../c.yaml", "--output-dir", "../out") == 1
    assert REASONS["gone"] in notes(grid / "out")["gone"]


def test_tasks_hold_no_relative_path(grid, monkeypatch):
    """A dask worker in another folder reads and writes the same files."""
    from repro.commands import many

    seen = []
    monkeypatch.setattr(many, "fan_out", lambda tasks, how, folder: seen.extend([folder, *tasks]) or {})
    run("evaluate", "--config", "c.yaml", "--workers", 2, "--stage", "copies")
    folder, *tasks = seen
    assert Path(folder) == grid / "out" and tasks
    for task in tasks:
        entry, config = task.args
        assert Path(entry["path"]).is_absolute() and Path(config.output_dir) == grid / "out"
        assert Path(config.stage) == grid / "copies"


def test_what_index_refuses_is_a_row_with_its_reason_and_status_1(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    acts(tmp_path / "out" / "acts_layer8.npy")
    sae(tmp_path / "saes" / "good")
    (sae(tmp_path / "saes" / "cut") / "ae.pt").write_bytes(b"PK cut off")
    config = {"output_dir": "out", "sae_checkpoints": {"topk": {"roots": ["saes"]}}, "eval_modes": ["amortized"]}
    Path("c.yaml").write_text(yaml.safe_dump(config | {"protocol": "corrected"}))
    assert run("index", "--config", "c.yaml") == 1
    assert "1 of 2 files are refused" in capsys.readouterr().err.strip().splitlines()[-1]
    table = pd.read_parquet("out/checkpoint_index.parquet").set_index("status")
    assert table.loc["refused", "reason"] and not table.loc["ok", "reason"]
    assert run("evaluate", "--config", "c.yaml") == 0
    assert "No rows for 1 of 2 files" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["index", "evaluate", "compare", "check"])
def test_help_says_what_each_exit_status_means(command, capsys):
    assert run(command, "--help") == 0
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert all(f"{status} " in said.partition("Exit status: ")[2] for status in (0, 1, 2))


RELEASE = """
output_dir: out
model_name: EleutherAI/pythia-160m-deduped
layer_index: 8
model: {device: cpu}
dataset:
  name: ag_news
  text_field: text
  max_seq_len: 64
  num_sequences: 100
  streaming: true
metrics:
  dense_thresholds: [0.1, 0.2]
  dead_threshold: 1e-6
  probe_ks: [1, 2]
  absorption_topk: 5
  correlation_subsample: 5000
"""


def test_the_releases_yaml_is_read_as_it_is(tmp_path, capsys):
    file = tmp_path / "c.yaml"
    file.write_text(RELEASE)
    config = load_yaml(RunConfig, file)
    assert (config.model.name, config.model.layer_index) == ("EleutherAI/pythia-160m-deduped", 8)
    assert config.device == "cpu" and config.metrics.max_tokens == 5000
    data = config.dataset
    assert (data.text_column, data.seq_len, data.max_tokens, data.packing) == ("text", 64, 6400, False)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 11 and "dataset.num_sequences is read as dataset.max_tokens: 6400, 100 sequences of 64." in said


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("metrics: {dead_threshold: 0.5}", "metrics.dead_threshold is 0.5, but here it is always 1e-06"),
        ("layer_index: 3\nmodel: {layer_index: 4}", "gives both layer_index and model.layer_index"),
        ("layer_idx: 3", "Unknown key 'layer_idx'"),
        ("seed: 1\nmodel: {name: tiny}\nseed: 2", "line 3: 'seed' is given twice"),
        ("metrics:\n  max_tokens: 1\n  max_tokens: 2", "line 3: 'max_tokens' is given twice"),
        ("dataset: ag_news", "dataset must be a mapping"),
    ],
)
def test_yaml_that_is_refused(text, sentence, tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(BadInput, match=sentence):
        load_yaml(RunConfig, file)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_yaml_with_a_byte_order_mark(encoding, tmp_path):
    (tmp_path / "c.yaml").write_text("seed: 7\n", encoding=encoding)
    assert load_yaml(RunConfig, tmp_path / "c.yaml").seed == 7


def test_tables_fit_a_terminal():
    from repro.commands.show import lines

    words = "a long sentence about latents that never fire " * 3
    rows = [{"claim": "C1", "statement": words, "corrected": words, "verdict": "open", "NMSE": 0.123456}]
    table = lines(rows, ("claim", "statement", "corrected", "verdict", "NMSE"))
    assert max(map(len, table)) <= 80 and "0.1235" in table[2]
    assert " ".join(" ".join(table).split()).count("latents") == 6  # nothing is cut


def test_the_notebook_of_your_sae_can_allow_a_mismatch(tmp_path, capsys):
    from repro.checkpoints import load_sae
    from repro.evaluate import evaluate_sae
    from repro.sections import your_sae
    from repro.sections.scales import scale_of

    scale, own = scale_of("tiny"), load_sae(sae(tmp_path / "t"))
    file = str(acts(tmp_path / "acts_layer12.npy"))
    with pytest.raises(BadInput, match="layer 8, but the activations are of layer 12"):
        your_sae.data(scale, file, own)
    data = your_sae.data(scale, file, own, allow_mismatch=True)
    assert "as allowed" in capsys.readouterr().out
    with pytest.raises(BadInput, match="layer 12"):
        list(evaluate_sae(own, data, your_sae.options(scale)))
    assert len(list(evaluate_sae(own, data, your_sae.options(scale, allow_mismatch=True)))) > 1
