"""Files and flags that a user could plausibly have: the right value, or one sentence and exit 2, never silence."""

import gzip
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import save_file

from repro.activations.collect import collect
from repro.activations.store import open_store
from repro.activations.text.documents import documents
from repro.base.config import DatasetConfig, MetricsConfig, RunConfig, load_yaml
from repro.base.errors import BadInput
from repro.base.files import at_home
from repro.base.parameters import checked
from repro.checkpoints import CheckpointError, index_checkpoints, load_sae, parse_layer
from repro.cli import main
from repro.evaluate import EvalOptions, evaluate_sae, open_data

D, M = 16, 24


def run(*args):
    """Exit status of `repro ARGS`."""
    try:
        main([str(a) for a in args])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def weights():
    atoms = torch.nn.functional.normalize(torch.randn(M, D, generator=torch.Generator().manual_seed(0)), dim=1)
    return {"W_enc": atoms.T.contiguous(), "W_dec": atoms, "b_enc": torch.zeros(M), "b_dec": torch.zeros(D)}


def dictionary_learning(folder, submodule="resid_post_layer_8", io="out", **tensors):
    """A TopK SAE of layer 8, in dictionary_learning's layout."""
    w = weights()
    state = {
        "encoder.weight": w["W_dec"],
        "encoder.bias": w["b_enc"],
        "decoder.weight": w["W_enc"],
        "b_dec": w["b_dec"],
    }
    folder.mkdir(parents=True)
    torch.save({**state, "b_dec": w["b_dec"], "k": torch.tensor(4), **tensors}, folder / "ae.pt")
    trainer = {"dict_class": "AutoEncoderTopK", "layer": 8, "submodule_name": submodule, "k": 4, "lm_name": "tiny"}
    config = {"trainer": trainer | {"activation_dim": D, "dict_size": M}, "buffer": {"io": io}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def saelens(folder, **metadata):
    """A TopK SAE of gpt2's block 3, in SAELens's layout."""
    folder.mkdir(parents=True)
    metadata = {"hook_name": "blocks.3.hook_resid_post", "model_name": "gpt2", "sae_lens_version": "6.20.0"} | metadata
    config = {"architecture": "topk", "d_in": D, "d_sae": M, "k": 4, "rescale_acts_by_decoder_norm": False}
    (folder / "cfg.json").write_text(json.dumps(config | {"metadata": metadata}))
    save_file(weights(), folder / "sae_weights.safetensors")
    return folder


def acts(path, x=None):
    np.save(path, np.random.default_rng(0).standard_normal((80, D)).astype(np.float32) if x is None else x)
    return path


@pytest.mark.parametrize(
    "knobs, sentence",
    [
        ({"io": "in_to_out"}, "a transcoder"),  # as dictionary_learning's docstrings call it
        ({"io": "IN"}, "buffer.io 'IN'"),
        ({"io": ["in", "out"]}, "buffer.io"),
        ({"encoder.weight": torch.zeros(M, D).to_sparse()}, "encoder.weight .* is a sparse tensor"),
    ],
)
def test_dictionary_learning_that_contradicts_itself(knobs, sentence, tmp_path):
    with pytest.raises(CheckpointError, match=sentence):
        load_sae(dictionary_learning(tmp_path / "t", **knobs))


def test_two_layers_in_one_config_are_said(tmp_path):
    source = load_sae(dictionary_learning(tmp_path / "t", submodule="resid_post_layer_5")).source
    assert source.layer == 8 and "layer 8 and submodule_name resid_post_layer_5" in source.extra["notes"][0]


def test_layers_as_old_libraries_write_them(tmp_path):
    folder = dictionary_learning(tmp_path / "text")
    config = json.loads((folder / "config.json").read_text())
    del config["trainer"]["submodule_name"]
    config["trainer"]["layer"] = "8"
    (folder / "config.json").write_text(json.dumps(config))
    assert load_sae(folder).source.layer == 8
    old = saelens(tmp_path / "old", hook_name=None, hook_point="blocks.{layer}.hook_resid_pre", hook_point_layer=5)
    source = load_sae(old).source
    assert (source.layer, source.site, source.extra["notes"]) == (4, "resid_post", [])
    source = load_sae(saelens(tmp_path / "two", hook_layer=4)).source
    assert source.layer == 3 and "hook_layer 4 and hook_name blocks.3.hook_resid_post" in source.extra["notes"][0]


def test_parts_of_a_checkpoint(tmp_path):
    for i, name in enumerate(w := weights(), 1):
        save_file({name: w[name]}, tmp_path / f"sae-{i:05}-of-00004.safetensors")
    for path in (tmp_path, tmp_path / "sae-00002-of-00004.safetensors"):
        with pytest.raises(CheckpointError, match="one of 4 parts: read all with"):
            load_sae(path)


def test_saelens_that_writes_another_hook_is_a_transcoder(tmp_path):
    assert load_sae(saelens(tmp_path / "same", hook_name_out="blocks.3.hook_resid_post")).source.layer == 3
    with pytest.raises(CheckpointError, match="a transcoder"):
        load_sae(saelens(tmp_path / "other", hook_name_out="blocks.3.hook_mlp_out"))


@pytest.mark.parametrize("kwargs", [{"revision": "step1000"}, {"checkpoint_index": 0}])
def test_another_version_of_the_language_model_is_said(kwargs, tmp_path):
    (note,) = load_sae(saelens(tmp_path / "t", model_from_pretrained_kwargs=kwargs)).source.extra["notes"]
    (name, value), *_ = kwargs.items()
    assert f"at {name} {value}" in note


def test_check_takes_one_file_of_a_layer_and_activations_that_vary(tmp_path, capsys):
    sae, file = dictionary_learning(tmp_path / "t"), acts(tmp_path / "acts_layer8.npy")
    (tmp_path / "copy").mkdir()
    assert run("check", sae, "--acts", file, acts(tmp_path / "copy" / "acts_layer8.npy")) == 2
    assert "of layer 8, as a file before it is" in capsys.readouterr().err
    assert run("check", sae, "--acts", acts(tmp_path / "acts_layer8.npy", np.ones((9, D), np.float32))) == 1
    assert "do not vary" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flag, value", [("--seed", -1), ("--tol", "nan"), ("--semi-steps", -1), ("--skip-documents", -1)]
)
def test_flags_out_of_range(flag, value, tmp_path, capsys):
    sae, file = dictionary_learning(tmp_path / "t"), acts(tmp_path / "acts_layer8.npy")
    common = ["--sae-path", sae, "--acts", file, "--out-dir", tmp_path, "--protocol", "corrected"]
    assert run("compare", *common, flag, value) == 2
    assert "at least 0" in capsys.readouterr().err


def test_evaluate_on_an_index_written_by_hand(tmp_path, capsys):
    acts(tmp_path / "acts_layer8.npy")
    sae = dictionary_learning(tmp_path / "saes" / "t")
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump({"output_dir": str(tmp_path)}))
    pd.DataFrame([{"path": str(sae), "step": "final"}]).to_parquet(tmp_path / "checkpoint_index.parquet")
    assert run("evaluate", "--config", config) == 2
    assert "has 'final' as a step" in capsys.readouterr().err


def test_one_checkpoint_under_two_names(tmp_path):
    acts(tmp_path / "acts_layer8.npy")
    sae = str(dictionary_learning(tmp_path / "saes" / "t"))
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"output_dir": str(tmp_path), "eval_modes": ["amortized"]}))
    pd.DataFrame({"path": [sae, sae], "name": ["one", "two"]}).to_parquet(tmp_path / "checkpoint_index.parquet")
    assert run("evaluate", "--config", tmp_path / "c.yaml", "--protocol", "corrected") == 0
    assert list(pd.read_parquet(tmp_path / "metrics.parquet")["name"]) == ["one", "two"]


@pytest.mark.parametrize("command", ["compare", "price", "sweep"])
def test_a_folder_that_cannot_be_made_is_said_first(command, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    sae = dictionary_learning(tmp_path / "t")
    assert run(command, "--sae-path", sae, "--acts", tmp_path / "none.npy", "--out-dir", tmp_path / "file" / "x") == 2
    assert f"below {tmp_path / 'file'}: Not a directory; choose another out_dir" in capsys.readouterr().err


def test_text_in_utf16_without_a_mark(tmp_path, capsys):
    (tmp_path / "a.txt").write_bytes("a small brown bird\n".encode("utf-16-le"))
    assert run("collect", "--output-dir", tmp_path / "o", "--dataset.name", tmp_path / "a.txt") == 2
    assert "Line 1 of" in (said := capsys.readouterr().err) and "NUL" in said


def test_the_explorer_refuses_an_sae_of_another_model_or_site(tmp_path):
    pytest.importorskip("plotly")
    from repro.sections.explorer.session import Explorer

    for name, site, fact in (("gpt2", "resid_post", "model tiny"), ("tiny", "mlp_out", "site resid_post")):
        read = SimpleNamespace(layer=8, site=site, provenance={"name": name})
        with pytest.raises(BadInput, match=f"trained on {fact}"):
            Explorer(load_sae(dictionary_learning(tmp_path / name)), read, None)


# --- names, configs and wrappers of checkpoints --------------------------------------------------------------


def test_names_of_files_and_folders_as_facts(tmp_path):
    both = load_sae(dictionary_learning(tmp_path / "resid_post_layer_5" / "trainer_0")).source  # its config says 8
    assert both.layer == 8 and "path says resid_post of block 5" in both.extra["notes"][0]
    dictionary_learning(tmp_path / "copied")
    (tmp_path / "copied" / "ae.pt").rename(tmp_path / "copied" / "ae_100.pt")  # taken out of checkpoints/
    assert load_sae(tmp_path / "copied").source.step == 100
    assert parse_layer("layer_5_vs_layer_7/ae.pt") is None and parse_layer("layer_5_of_12/ae.pt") == 5
    for layer in (1, 2):
        trainer = dictionary_learning(tmp_path / "two" / str(layer), submodule=None)
        config = json.loads((trainer / "config.json").read_text())
        config["trainer"]["layer"] = layer
        (trainer / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="no checkpoint of layer 3; those in it are of 1, 2"):
        load_sae(tmp_path / "two", layer=3)


def test_what_is_there_twice_is_refused(tmp_path):
    sae = dictionary_learning(tmp_path / "t")
    config = sae / "config.json"
    config.write_text(config.read_text().replace('"layer": 8', '"layer": 3, "layer": 8'))
    with pytest.raises(CheckpointError, match="gives 'layer' twice"):
        load_sae(sae)
    state = torch.load(dictionary_learning(tmp_path / "e") / "ae.pt")
    torch.save({"state_dict": state, "optimizer": {"state": {}}, "epoch": 3}, tmp_path / "e" / "ae.pt")
    assert load_sae(tmp_path / "e").config.k == 4
    torch.save({"state_dict": state, "ema_state_dict": state}, tmp_path / "e" / "ae.pt")
    with pytest.raises(CheckpointError, match=r"several SAEs \(state_dict, ema_state_dict\)"):
        load_sae(tmp_path / "e")


def test_tensors_without_numbers_and_suffixes_in_capitals(tmp_path):
    with pytest.raises(CheckpointError, match="claims more numbers"):
        load_sae(dictionary_learning(tmp_path / "m", **{"encoder.bias": torch.zeros(M, device="meta")}))
    sae = dictionary_learning(tmp_path / "c")
    (sae / "ae.pt").rename(sae / "AE.PT")
    assert load_sae(sae).config.k == 4
    assert [row["path"] for row in index_checkpoints({"topk": [sae]})] == [str(sae / "AE.PT")]


# --- activations and text ------------------------------------------------------------------------------------


def test_activations_that_are_no_npy_or_hold_padding(tmp_path, capsys):
    sae, x = dictionary_learning(tmp_path / "t"), np.random.default_rng(0).standard_normal((80, D)).astype("f4")
    np.savez(tmp_path / "a.npz", x=x)
    (tmp_path / "a.npz").rename(tmp_path / "acts_layer8.npy")
    with pytest.raises(BadInput, match=r"not a complete \.npy file"):
        open_store(tmp_path / "acts_layer8.npy")
    x[::10] = 0
    common = ["--protocol", "corrected", "--eval-modes", "amortized", "--out-dir", tmp_path]
    assert run("compare", "--sae-path", sae, "--acts", acts(tmp_path / "acts_layer8.npy", x), *common) == 0
    assert "8 of 80 tokens are all 0" in capsys.readouterr().err
    assert run("compare", "--sae-path", sae, "--acts", tmp_path / "acts_layer8.npy", *common, "--max-tokens", -5) == 2
    assert "max_tokens is -5" in capsys.readouterr().err


def test_a_link_to_a_store_means_that_store(tmp_path):
    (tmp_path / "a").mkdir()
    collected = collect(RunConfig(str(tmp_path / "a"), dataset=DatasetConfig(max_tokens=64, seq_len=32)))
    (tmp_path / "acts_layer9.npy").symlink_to(collected)
    assert open_store(tmp_path / "acts_layer9.npy").place == {"layer": 2, "site": "resid_post", "model": "tiny"}
    manifest = collected.with_suffix(".json")
    manifest.write_text(manifest.read_text().replace('"layer": 2', '"layer": "2"'))
    with pytest.raises(BadInput, match="is damaged"):
        open_store(collected)


@pytest.mark.parametrize("label", ['""', "NaN", "null"])
def test_a_label_that_is_missing(label, tmp_path):
    (tmp_path / "a.jsonl").write_text(f'{{"text": "a bird", "label": "x"}}\n{{"text": "a bird", "label": {label}}}\n')
    config = DatasetConfig(str(tmp_path / "a.jsonl"), label_column="label")
    with pytest.raises(BadInput, match=r"Line 2 of .* has no label"):
        list(documents(config))


def test_text_that_ends_early_and_suffixes_in_capitals(tmp_path, capsys):
    (tmp_path / "A.JSONL.GZ").write_bytes(gzip.compress(b'{"text": "A small brown bird."}'))
    collect(RunConfig(str(tmp_path), dataset=DatasetConfig(str(tmp_path), max_tokens=500)))
    assert "The text ended after" in (said := capsys.readouterr().err) and "of the 500 tokens" in said


# --- configs, homes and tables -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("dataset: {num_sequences: true}", "num_sequences must be int, not True"),
        ("dataset: {text_field: null}", "text_column must be str, not None"),
        ("metrics: {dead_threshold: null}", "is None, but here it is always"),
    ],
)
def test_values_of_the_release_that_are_none(text, sentence, tmp_path):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(BadInput, match=sentence):
        load_yaml(RunConfig, tmp_path / "c.yaml")


def test_a_parameter_that_gives_a_key_twice():
    with pytest.raises(BadInput, match="'m' is given twice"):
        checked("changes", "{m: 256, m: 512}", {"changes": {}}, "50_comparison")


def test_a_tilde_is_the_users_home_everywhere(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    dictionary_learning(tmp_path / "s")
    acts(tmp_path / "acts_layer8.npy")
    values = {"output_dir": "~/o", "sae_checkpoints": {"topk": {"roots": ["~/s"]}}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(values))
    assert run("index", "--config", "~/c.yaml") == 0 and (tmp_path / "o" / "checkpoint_index.parquet").is_file()
    assert run("check", "~/s", "--acts", "~/acts_layer8.npy") == 0
    assert not (tmp_path / "~").exists()
    assert at_home(RunConfig(stage="~/fast")).stage == "~/fast"  # of the worker's host


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"modes": ()}, "no inference mode"),
        ({"probe_ks": (0, 1)}, "at least 1 latent"),
        ({"probe_ks": (M + 1,)}, f"probe of {M + 1} latents"),
        ({"target_dense": 1.5}, "between 0 and 1"),
    ],
)
def test_options_without_meaning(options, sentence, tmp_path):
    sae, file = load_sae(dictionary_learning(tmp_path / "t")), acts(tmp_path / "acts_layer8.npy")
    with pytest.raises(BadInput, match=sentence):
        list(evaluate_sae(sae, open_data(file, MetricsConfig()), EvalOptions(**options)))


def test_rows_follow_the_config_beside_the_weights(tmp_path, capsys):
    """The same weights with a corrected config are another SAE: rows of the old one are not taken for its own."""
    acts(tmp_path / "acts_layer8.npy")
    sae = dictionary_learning(tmp_path / "saes" / "t")
    values = {"output_dir": str(tmp_path), "sae_checkpoints": {"topk": {"roots": [str(tmp_path / "saes")]}}}
    values |= {"eval_modes": ["amortized"], "protocol": "corrected"}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(values))
    config = ["--config", tmp_path / "c.yaml"]
    assert run("index", *config) == run("evaluate", *config) == 0
    text = (sae / "config.json").read_text()
    (sae / "config.json").write_text(text.replace("layer_8", "layer_5").replace('"layer": 8', '"layer": 5'))
    assert run("index", *config) == 0 and run("evaluate", *config) == 1
    assert "trained on layer 5, but the activations are of layer 8" in capsys.readouterr().err
    assert run("visualize", *config) == 2
    assert "column `note` says why" in capsys.readouterr().err
