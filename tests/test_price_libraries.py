"""`repro price` on files of other libraries, without a language model, on a wrong layer, killed and started again."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import planted, tokens
from safetensors.torch import save_file

from repro.base.files import file_sha256
from repro.checkpoints import save_sae
from repro.cli import main
from repro.price import PriceOptions, words
from repro.sae import JumpReLU, Source, Standard

GOLDEN = Path(__file__).parent / "golden" / "checkpoints"
BY_LIBRARY = {
    "sae-lens": "saelens/topk",
    "dictionary_learning": "dictionary_learning/TopK/resid_post_layer_8/trainer_0",
    "sparsify": "other_width/sparsify/topk/layers.3",
}


def run(*args):
    """Exit status of `repro price ARGS`."""
    try:
        main(["price", *map(str, args)])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def flags(sae, acts, out, *more):
    return ("--sae-path", sae, "--acts", acts, "--out-dir", out, "--exclude", "pad", "--sample-tokens", 10, *more)


def agrees(out, x, z, x_hat):
    """The row of the encoder is what the library's codes and reconstructions say; the page could be written."""
    result = json.loads((out / "price.json").read_text())
    row, x = result["modes"]["encoder"], x.astype(float)
    assert row["NMSE"] == pytest.approx(((x - x_hat) ** 2).sum() / (x**2).sum(), rel=1e-5)
    assert row["L0"] == pytest.approx((z != 0).sum(1).mean())
    assert row["dead_rate"] == pytest.approx(((z != 0).sum(0) == 0).mean())
    assert list(result["modes"]) == list(words.NAMES) and (out / "price.html").stat().st_size > 10_000
    return result


def test_gemma_scope_2_has_the_price_of_the_same_weights_saved_here(tmp_path, monkeypatch):
    """Its tensors and config by hand: lower-case names, W_enc [d, m], b_dec not subtracted."""
    few = partial(PriceOptions, kinds=("encoder", "encoder_refit", "pursuit"), frontier=False)
    monkeypatch.setattr("repro.commands.price.PriceOptions", few)
    sae = planted(JumpReLU, d=12, m=40, centred=False)
    sae.threshold.fill_(0.3)
    sae.b_dec.copy_(torch.randn(12, generator=torch.Generator().manual_seed(1)))
    sae.source = Source(layer=9, site="mlp_out", lm_name="google/gemma-3-270m")
    save_sae(sae, tmp_path / "own.safetensors")
    scope = tmp_path / "gemma-scope-2-270m-pt" / "mlp_out" / "layer_9_width_40_l0_medium"
    scope.mkdir(parents=True)
    names = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")
    save_file({name.lower(): getattr(sae, name).detach().clone() for name in names}, scope / "params.safetensors")
    hook = "model.layers.9.post_feedforward_layernorm.output"
    config = {"hf_hook_point_in": hook, "hf_hook_point_out": hook, "width": 40, "model_name": "gemma-v3-270m-pt"}
    config |= {"architecture": "jump_relu", "l0": 5, "affine_connection": False, "type": "sae"}
    (scope / "config.json").write_text(json.dumps(config))
    np.save(tmp_path / "acts.npy", torch.randn(60, 12, generator=torch.Generator().manual_seed(2)).numpy())
    results = []
    for name, path in (("own", tmp_path / "own.safetensors"), ("scope", scope)):
        assert run(*flags(path, tmp_path / "acts.npy", tmp_path / name)) == 0
        results.append(json.loads((tmp_path / name / "price.json").read_text()))
    own, other = results
    assert own["price"] == other["price"] and own["modes"]["encoder"]["L0"] > 1
    for name, row in own["modes"].items():
        assert {k: v for k, v in row.items() if k != "ms_per_token"}.items() <= other["modes"][name].items(), name
    places = [{k: result["sae"][k] for k in ("variant", "layer", "site", "lm_name")} for result in results]
    assert places[0] == places[1]


@pytest.mark.parametrize("case", BY_LIBRARY)
def test_files_of_other_libraries(case, tmp_path):
    """Expected values were computed by the library that wrote the file."""
    folder = GOLDEN / BY_LIBRARY[case]
    x = np.load(GOLDEN / ("other_width" if "other_width" in BY_LIBRARY[case] else "") / "x.npy").astype(np.float32)
    np.save(tmp_path / "acts.npy", x)
    assert run(*flags(folder, tmp_path / "acts.npy", tmp_path)) == 0
    with np.load(folder / "expected.npz") as expected:
        result = agrees(tmp_path, x, expected["z"], expected["x_hat"].astype(float))
    modes = result["modes"]
    assert modes["pursuit"]["NMSE"] < modes["encoder_refit"]["NMSE"] < modes["encoder"]["NMSE"]


def test_gemma_scope(tmp_path):
    """z = p where p > θ, in numpy from the arrays of the file."""
    sae = planted()
    x = tokens(sae, 60).numpy()
    w = {name: getattr(sae, name).numpy() for name in ("W_enc", "W_dec", "b_dec")}
    folder = tmp_path / "gemma-scope-2b-pt-res" / "layer_12" / "width_16k" / "average_l0_82"
    folder.mkdir(parents=True)
    np.savez(folder / "params.npz", **w, b_enc=-w["b_dec"] @ w["W_enc"], threshold=np.full(64, 0.8, np.float32))
    np.save(tmp_path / "acts.npy", x)
    assert run(*flags(folder, tmp_path / "acts.npy", tmp_path)) == 0
    p = (x - w["b_dec"]) @ w["W_enc"]
    z = p * (p > 0.8)
    result = agrees(tmp_path, x, z, z @ w["W_dec"] + w["b_dec"])
    assert (result["sae"]["layer"], result["sae"]["lm_name"]) == (12, "google/gemma-2-2b")
    acts = tmp_path / "acts_layer11.npy"
    np.save(acts, x)
    assert run(*flags(folder, acts, tmp_path / "other")) == 2  # another layer


def test_more_latents_than_dimensions(tmp_path, capsys):
    """Codes that no pursuit can be compared with: rows say so, and table and page are written."""
    sae = planted(Standard)
    sae.b_enc.fill_(2.0)
    save_sae(sae, tmp_path / "sae.safetensors")
    np.save(tmp_path / "acts.npy", tokens(sae, 60).numpy())
    assert run(*flags(tmp_path / "sae.safetensors", tmp_path / "acts.npy", tmp_path)) == 0
    result = json.loads((tmp_path / "price.json").read_text())
    assert result["price"] == {} and "fit every token exactly" in result["modes"]["pursuit"]["note"]
    assert "There is no decomposition" in capsys.readouterr().out and (tmp_path / "price.html").is_file()


def collected(folder, x, model):
    """Activations [sequences, seq_len, d] of layer 3 of a model, written by hand as `repro collect` would."""
    shape = x.shape[:2]
    arrays = {
        "acts_layer3.npy": x,
        "acts_layer3.mask.npy": np.ones(shape, bool),
        "tokens_layer3.npy": np.full(shape, 7, np.int32),
        "acts_layer3.docs.npy": np.arange(x[..., 0].size, dtype=np.int32).reshape(shape) // shape[1],
        "acts_layer3.norms.npy": np.linalg.norm(x, axis=-1).astype(np.float32),
    }
    files = {}
    for name, array in arrays.items():
        np.save(folder / name, array)
        files[name] = {"bytes": (folder / name).stat().st_size, "sha256": file_sha256(folder / name)}
    about = {"layer": 3, "site": "resid_post", "model": {"name": model}, "shape": list(x.shape), "files": files}
    (folder / "acts_layer3.json").write_text(json.dumps(about | {"special_ids": {}}))
    return folder / "acts_layer3.npy"


def test_tokens_of_a_language_model_that_is_not_here(tmp_path, capsys):
    """Activations that name their model: the price in error is computed, contexts are left out, a loss is refused."""
    sae = planted()
    save_sae(sae, tmp_path / "sae.safetensors")
    acts = collected(tmp_path, tokens(sae, 60).numpy().reshape(6, 10, 16), "nobody/nothing")
    assert run(*flags(tmp_path / "sae.safetensors", acts, tmp_path)) == 0
    result = json.loads((tmp_path / "price.json").read_text())
    place = result["latents"]["worst_tokens"][0]
    assert {"document", "position"} <= set(place) and "token" not in place
    assert "CE" not in result["price"] and "--lm-tokens" in result["notes"][0]
    capsys.readouterr()
    assert run(*flags(tmp_path / "sae.safetensors", acts, tmp_path / "loss", "--lm-tokens", 20)) == 2
    assert "nobody/nothing" in capsys.readouterr().err


def test_killed_and_started_again(tmp_path):
    """SIGKILL after some pieces: the second run computes only the others, and what it writes is whole."""
    sae = planted()
    save_sae(sae, tmp_path / "sae.safetensors")
    np.save(tmp_path / "acts.npy", tokens(sae, 60).numpy())
    file, acts, out = tmp_path / "sae.safetensors", tmp_path / "acts.npy", tmp_path / "killed"
    command = [sys.executable, "-m", "repro", "price", *map(str, flags(file, acts, out))]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        while len(pieces := list(out.glob(".price/*/*.json"))) < 6:
            assert child.poll() is None
            time.sleep(0.005)
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    assert not (out / "price.json").exists()
    written = {piece: piece.stat().st_mtime_ns for piece in pieces}
    assert run(*flags(file, acts, out)) == 0
    assert {piece: piece.stat().st_mtime_ns for piece in pieces} == written
    result, x = json.loads((out / "price.json").read_text()), np.load(acts).astype(float)
    assert list(result["modes"]) == list(words.NAMES) and all("NMSE" in row for row in result["modes"].values())
    error = ((sae(torch.from_numpy(x).float()).numpy() - x) ** 2).sum() / (x**2).sum()
    assert result["modes"]["encoder"]["NMSE"] == pytest.approx(error, rel=1e-5)
