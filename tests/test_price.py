"""`repro price`: its files, an independent computation of the decomposition, resumption, other libraries' SAEs."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import nnls

from repro.checkpoints import load_sae
from repro.cli import main
from repro.price import words
from repro.price.latents import rarefaction
from repro.price.measure import Measure

GOLDEN = Path(__file__).parent / "golden" / "checkpoints"
SAE = GOLDEN / "dictionary_learning" / "BatchTopK" / "resid_post_layer_8" / "trainer_0"


def run(*args):
    """Exit status of `repro price ARGS`."""
    try:
        main(["price", *map(str, args)])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def flags(acts, out, sae=SAE):
    return ("--sae-path", sae, "--acts", acts, "--out-dir", out, "--exclude", "pad", "--sample-tokens", 60)


@pytest.fixture(scope="module")
def acts(tmp_path_factory):
    path = tmp_path_factory.mktemp("acts") / "acts.npy"
    np.save(path, np.random.default_rng(0).standard_normal((8, 25, 16)).astype(np.float32))
    return path


@pytest.fixture(scope="module")
def priced(acts, tmp_path_factory):
    out = tmp_path_factory.mktemp("price")
    assert run(*flags(acts, out)) == 0
    return out


def result_of(out):
    return json.loads((out / "price.json").read_text())


def test_the_file_has_what_scripts_rely_on(priced):
    result = result_of(priced)
    assert {"sae", "data", "modes", "price", "frontier", "provenance"} <= set(result)
    assert list(result["modes"]) == list(words.NAMES)
    for name, row in result["modes"].items():
        assert {"L0", "NMSE", "NMSE_low", "NMSE_high", "dead_rate", "ms_per_token", "flops_per_token"} <= set(row), name
        assert "CE" not in row  # no language model
    parts = result["price"]["NMSE"]
    assert parts["values"] + parts["support"] + parts["dictionary"] == pytest.approx(result["modes"]["encoder"]["NMSE"])
    share = 1 - result["modes"]["pursuit"]["NMSE"] / result["modes"]["encoder"]["NMSE"]
    assert parts["share_of_increase"] == pytest.approx(share)
    assert parts["share_of_increase_low"] <= share <= parts["share_of_increase_high"]
    assert {"encoder", "pursuit", "ompr", "optimum"} <= {point["codes"] for point in result["frontier"]}
    assert str(priced) not in json.dumps(result)


def test_the_page_stands_alone(priced):
    page = (priced / "price.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page and "src=" not in page
    assert "prefers-color-scheme" in page and 'name="viewport"' in page and len(page) < 200_000


def test_an_independent_computation_agrees(acts, priced):
    """Codes by a greedy loop and scipy's nonnegative least squares, token by token in numpy."""
    sae = load_sae(SAE)
    x = np.load(acts).reshape(-1, 16)
    with torch.no_grad():
        z = sae.encode(torch.from_numpy(x)).numpy()
        W, b = sae.W_dec.detach().double().numpy(), sae.b_dec.detach().double().numpy()
    unit = W / np.linalg.norm(W, axis=1, keepdims=True)
    error = {"encoder": 0.0, "encoder_refit": 0.0, "pursuit": 0.0}
    for token, code in zip(x.astype(float) - b, z.astype(float)):
        support = np.flatnonzero(code > 0)
        error["encoder"] += ((token - code @ W) ** 2).sum()
        error["encoder_refit"] += nnls(W[support].T, token)[1] ** 2 if len(support) else (token**2).sum()
        chosen: list[int] = []
        r = token
        for _ in range(len(support)):
            c = unit @ r
            c[chosen] = -np.inf
            if c.max() <= 1e-6 * np.linalg.norm(token):
                break
            chosen.append(int(c.argmax()))
            values = nnls(unit[chosen].T, token)[0]
            chosen = [j for j, value in zip(chosen, values) if value > 0]
            r = token - values[values > 0] @ unit[chosen]
        error["pursuit"] += (r**2).sum()
    energy = (x.astype(float) ** 2).sum()
    for name, row in result_of(priced)["modes"].items():
        if name in error:
            near = 1e-4 if name == "pursuit" else 2e-5  # two atoms that correlate equally in float32 do not in float64
            assert row["NMSE"] == pytest.approx(error[name] / energy, rel=near), name


def test_a_run_that_was_killed_goes_on(acts, tmp_path, monkeypatch):
    own, calls = Measure.row, []

    def counted(self, *args):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return own(self, *args)

    monkeypatch.setattr(Measure, "row", counted)
    assert run(*flags(acts, tmp_path)) == 1
    assert not (tmp_path / "price.json").exists()
    assert run(*flags(acts, tmp_path)) == 0
    rows = len(result_of(tmp_path)["modes"]) + len(result_of(tmp_path)["frontier"])
    assert len(calls) <= rows + 1  # the one that was cut off, and no other twice
    calls.clear()
    assert run(*flags(acts, tmp_path)) == 0 and not calls


def test_activations_of_another_layer_are_refused(tmp_path, capsys):
    file = tmp_path / "acts_layer3.npy"
    np.save(file, np.zeros((4, 5, 16), np.float32))
    assert run(*flags(file, tmp_path, SAE)) == 2
    assert "layer" in capsys.readouterr().err


def test_a_loss_that_cannot_be_measured_is_refused(acts, tmp_path, capsys):
    assert run(*flags(acts, tmp_path), "--lm-tokens", 50) == 2
    assert "does not say the tokens" in capsys.readouterr().err


def test_rarefaction_is_the_mean_over_all_draws():
    """Three latents that fire on 0, 1 and 3 of 4 tokens: of 2 tokens drawn, they are silent with 1, 1/2 and 0."""
    curve = dict(rarefaction(torch.tensor([0, 1, 3]), 4))
    assert curve[2] == pytest.approx((1 + 0.5 + 0) / 3, abs=1e-6)
    assert curve[4] == pytest.approx(1 / 3, abs=1e-6)


@pytest.mark.parametrize(
    ("site", "module", "all_of_it"),
    [("mlp_out", "mlp", False), pytest.param("resid_post", "", True, marks=pytest.mark.slow)],
)
def test_the_language_model_agrees_with_plain_transformers(tmp_path, monkeypatch, site, module, all_of_it):
    """CE and its increase under the encoder's codes, by a forward hook on the bundled model."""
    import transformers

    from repro.activations.store import open_store, store_name
    from repro.base.files import repo_root
    from repro.checkpoints import save_sae
    from repro.price import PriceOptions
    from repro.sae import Source, TopK

    if not all_of_it:
        few = partial(PriceOptions, kinds=("encoder", "encoder_refit", "pursuit"), frontier=False)
        monkeypatch.setattr("repro.commands.price.PriceOptions", few)
    torch.manual_seed(0)
    sae = TopK(TopK.Config(256, 128, k=6)).requires_grad_(False)
    sae.W_dec.copy_(torch.nn.functional.normalize(torch.randn(128, 256), dim=1))
    sae.W_enc.copy_(sae.W_dec.T)
    sae.source = Source(layer=2, site=site, lm_name="tiny")
    save_sae(sae, tmp_path / "sae.safetensors")
    args = ("--sae-path", tmp_path / "sae.safetensors", "--out-dir", tmp_path, "--max-tokens", 300)
    assert run(*args, "--lm-tokens", 200, "--sample-tokens", 40) == 0
    result = result_of(tmp_path)
    store = open_store(tmp_path / "acts-tiny" / f"{store_name(2, site)}.npy")
    assert store.place["site"] == site
    model = transformers.AutoModelForCausalLM.from_pretrained(repo_root() / "data" / "tiny" / "lm").float().eval()
    part = model.gpt_neox.layers[2].get_submodule(module)
    seqs = int(np.searchsorted(store.mask.sum(1).cumsum(), 200)) + 1
    ids, mask = torch.from_numpy(store.tokens[:seqs].astype("int64")), torch.from_numpy(store.mask[:seqs])
    usable = np.zeros(store.mask.shape, bool)
    usable.reshape(-1)[store.select(("pad", "bos", "eos", "first"), None).index] = True
    patched = torch.from_numpy(usable[:seqs])

    def put(module, inputs, output):
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        hidden[patched] = sae.decode(sae.encode(hidden[patched]))
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    losses = []
    for hook in (None, put):
        handle = part.register_forward_hook(hook) if hook else None
        with torch.no_grad():
            logits = model(ids, attention_mask=mask.long()).logits
        if handle:
            handle.remove()
        counted = patched[:, :-1] & mask[:, 1:]
        losses.append(float(torch.nn.functional.cross_entropy(logits[:, :-1][counted], ids[:, 1:][counted])))
    row = result["modes"]["encoder"]
    assert row["CE_clean"] == pytest.approx(losses[0], rel=1e-4)
    assert row["CE"] == pytest.approx(losses[1], rel=1e-4)
    for name in ("CE", "KL"):
        parts = result["price"][name]
        whole = row["loss_increase"] if name == "CE" else row["KL"]
        assert parts["values"] + parts["support"] + parts["dictionary"] == pytest.approx(whole, rel=1e-6)
