"""Files and flags that a user could plausibly have: the right value, or one sentence and exit 2, never silence."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import save_file

from repro.base.errors import BadInput
from repro.checkpoints import CheckpointError, load_sae
from repro.cli import main

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
