"""`repro index` over a folder with an SAE of every library, and the price of one in Gemma Scope 2's layout."""

import json
import shutil

import language_models
import pytest
import torch
from safetensors.torch import save_file
from test_libraries import CASES, GOLDEN, READ, REFUSED

from repro.activations.collect import collect
from repro.base.config import DatasetConfig, ModelConfig, RunConfig
from repro.checkpoints import index_checkpoints, load_sae, save_sae
from repro.cli import main
from repro.sae import JumpReLU, Source


def test_an_index_lists_one_of_each(tmp_path):
    """Every file that load_sae reads is a row with its site; every one that it refuses, a row with the same reason."""
    for name in CASES:
        shutil.copytree(GOLDEN / name, tmp_path / name, ignore=shutil.ignore_patterns("expected.npz"))
    rows = index_checkpoints({"all": [tmp_path]}, hashes=False, progress=False)
    of = {name: [r for r in rows if r["path"].startswith(f"{tmp_path}/{name}/")] for name in CASES}
    for name in READ:
        plain = [r for r in of[name] if r["status"] == "ok"]
        assert plain or CASES[name].get("options"), name
        if not CASES[name].get("options") and CASES[name].get("layer") is None:
            assert CASES[name]["place"] in [[r["site"], r["layer"]] for r in plain], name
    for name in REFUSED:
        assert of[name] and all(r["status"] == "refused" for r in of[name]), name
        assert any(CASES[name]["says"] in r["reason"] for r in of[name]), name


def gemma_scope_2(sae, folder):
    """Write an SAE as Gemma Scope 2 does."""
    folder.mkdir(parents=True)
    names = {"w_enc": "W_enc", "w_dec": "W_dec", "b_enc": "b_enc", "b_dec": "b_dec", "threshold": "threshold"}
    weights = {theirs: getattr(sae, ours).detach().clone() for theirs, ours in names.items()}
    save_file(weights, folder / "params.safetensors")
    config = {"hf_hook_point_in": f"model.layers.{sae.source.layer}.output", "architecture": "jump_relu", "l0": 20}
    config |= {"model_name": "gemma-v3-270m-pt", "type": "sae", "width": sae.config.m}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.slow
def test_the_price_is_that_of_our_own_format(tmp_path):
    """On a random Gemma 3 of three blocks, with the loss of the language model."""
    model = ModelConfig(str(language_models.save(tmp_path / "lm", "gemma3")), 1)
    data = DatasetConfig(name="tiny", max_tokens=600, seq_len=32)
    acts = collect(RunConfig(output_dir=str(tmp_path / "acts"), model=model, dataset=data, device="cpu"))
    found = []
    for name, write in (("own", save_sae), ("resid_post/layer_1_width_96_l0_20", gemma_scope_2)):
        write(sae_of(32, 96), tmp_path / name)
        sae = load_sae(tmp_path / name)
        assert (sae.source.site, sae.source.layer, sae.source.lm_name) == ("resid_post", 1, "google/gemma-3-270m")
        out = tmp_path / f"out {len(found)}"
        flags = {"sae-path": tmp_path / name, "acts": acts, "out-dir": out, "sample-tokens": 60, "lm-tokens": 200}
        main(["price", *(str(part) for flag, value in flags.items() for part in (f"--{flag}", value))])
        found.append(json.loads((out / "price.json").read_text()))
    ours, theirs = ([numbers(result[part]) for part in ("modes", "price", "frontier")] for result in found)
    assert ours == theirs and "CE" in found[0]["modes"]["encoder"]


def sae_of(d, m):
    """A JumpReLU SAE with unit atoms, tied, some of them firing."""
    g = torch.Generator().manual_seed(0)
    source = Source("jumprelu", layer=1, site="resid_post", lm_name="google/gemma-3-270m")
    sae = JumpReLU(JumpReLU.Config(d, m), source).requires_grad_(False)
    sae.W_dec.copy_(torch.nn.functional.normalize(torch.randn(m, d, generator=g), dim=1))
    sae.W_enc.copy_(sae.W_dec.T)
    sae.threshold.fill_(1.5)
    sae.b_dec.copy_(torch.randn(d, generator=g) / 10)
    return sae


def numbers(result):
    """A result without its times."""
    if isinstance(result, dict):
        return {name: numbers(value) for name, value in result.items() if not name.startswith("ms_")}
    return [numbers(value) for value in result] if isinstance(result, list) else result
