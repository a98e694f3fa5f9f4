"""check_sae against data whose right answer is known: made from the SAE's own atoms, then moved, scaled or swapped."""

import pytest
import torch
from planted import planted

from repro.base.errors import BadInput
from repro.checkpoints.check import check_sae
from repro.sae import SAE, BatchTopK, JumpReLU, Source, Standard, TopK

M, K, N = 24, 3, 400


def known(cls, seed=0, **knobs) -> tuple[SAE, torch.Tensor]:
    """An SAE and tokens that are sums of K of its atoms, whose codes it reads off exactly."""
    sae = planted(cls, 64, M, seed, **knobs)
    sae.W_enc.copy_(torch.linalg.pinv(sae.W_dec))
    sae.b_enc.copy_(-sae.b_dec @ sae.W_enc if isinstance(sae, JumpReLU) else torch.zeros(M))
    generator = torch.Generator().manual_seed(seed + 1)
    z = torch.zeros(N, M)
    z.scatter_(1, torch.rand(N, M, generator=generator).topk(K).indices, 1 + torch.rand(N, K, generator=generator))
    sae.source = Source(family="planted", layer=8, lm_name="EleutherAI/pythia-160m-deduped")
    return sae, z @ sae.W_dec + sae.b_dec


def other(x: torch.Tensor) -> torch.Tensor:
    """Another layer: the same tokens in other directions."""
    return x @ torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(3)))[0]


@pytest.mark.parametrize(("cls", "knobs"), [(TopK, {"k": K}), (BatchTopK, {"k": K}), (JumpReLU, {}), (Standard, {})])
def test_a_good_sae_passes(cls, knobs):
    sae, x = known(cls, **knobs)
    report = check_sae(sae, {7: other(x), 8: x, 9: other(x) * 2}, lm_name="pythia-160m-deduped")
    assert report.ok, report.sentences
    assert report.layers[8]["FVE"] == pytest.approx(1, abs=1e-3)
    assert report.layers[8]["NMSE"] == pytest.approx(0, abs=1e-3)
    assert report.layers[7]["FVE"] < 0.5
    assert report.numbers["dead"] == 0 and report.numbers["best_scale"] == 1
    if cls is not Standard:  # rounding noise around 0 fires a plain ReLU
        assert report.layers[8]["L0"] == K
    assert report.sentences[0].startswith(f"{sae.name} SAE, {M} latents, on {N} tokens of layer 8: FVE 1.000")


def test_names_the_layer_that_fits_better():
    sae, x = known(TopK, k=K)
    report = check_sae(sae, {8: other(x), 9: x})
    assert not report.ok
    assert any("The layer looks wrong: it explains layer 9 (FVE 1.000)" in s for s in report.sentences)


@pytest.mark.parametrize(("cls", "knobs"), [(TopK, {"k": K}), (BatchTopK, {"k": K}), (JumpReLU, {}), (Standard, {})])
def test_names_wrong_units(cls, knobs):
    sae, x = known(cls, **knobs)
    for factor in (16, 1 / 16):
        report = check_sae(sae, {8: factor * x})
        if cls is Standard and factor > 1:
            continue  # a plain ReLU of 16 x explains 16 x nearly as well, so there is nothing to see
        assert not report.ok, factor
        assert any("The units look wrong" in s or "L0 looks wrong" in s for s in report.sentences), report.sentences
    if cls is JumpReLU:
        assert report.numbers["best_scale"] == 16


def test_names_another_model_and_a_wrong_threshold():
    sae, x = known(BatchTopK, k=K)
    assert any("trained on EleutherAI/pythia" in s for s in check_sae(sae, {8: x}, lm_name="gpt2").sentences)
    sae.threshold.fill_(1.9)
    report = check_sae(sae, {8: x})
    assert not report.ok
    assert any("L0 looks wrong" in s and "the config says 3" in s for s in report.sentences)


def test_remarks_do_not_fail():
    sae, x = known(Standard)
    sae.W_dec[0] *= 3
    sae.W_enc[:, 0] /= 3
    sae.source.extra["notes"] = ["A note of the reader."]
    x[0] = x[0] * 100
    sae.W_enc[:, 1] = 0  # never fires
    report = check_sae(sae, {8: x})
    text = " ".join(report.sentences)
    assert "A note of the reader." in text
    assert "Atoms have norms from 1 to 3" in text and "renormalised()" in text
    assert "1 tokens have norms above 10 medians" in text
    assert report.numbers["dead"] == pytest.approx(1 / M)
    assert "4.2% of latents dead" in text


def test_the_layer_of_an_sae_that_does_not_say():
    sae, x = known(TopK, k=K)
    sae.source.layer = None
    assert check_sae(sae, {4: x}).numbers["layer"] == 4
    assert check_sae(sae, x).ok
    with pytest.raises(BadInput, match="does not say its layer"):
        check_sae(sae, {4: x, 5: x})


def test_refuses_what_it_cannot_check():
    sae, x = known(TopK, k=K)
    with pytest.raises(BadInput, match="was trained on layer 8, and the activations are of layer 3: collect layer 8"):
        check_sae(sae, {3: x})
    with pytest.raises(BadInput, match="at least one layer"):
        check_sae(sae, {})
    with pytest.raises(BadInput, match="reads activations of width 64"):
        check_sae(sae, {8: x[:, :5]})
