"""Metrics by hand, against numpy, and as sums that add up however the tokens are split."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score as sklearn_f1

from repro.base.errors import BadInput
from repro.codes import SparseCodes
from repro.metrics import (
    METRICS,
    Firing,
    Moments,
    Reconstruction,
    evaluate_codes,
    norm_label,
    pool,
    records,
)
from repro.metrics.absorption import absorption_of
from repro.metrics.gap import bracket, gap_summary
from repro.metrics.probing import f1_score, probes
from repro.sae import Standard


def codes_of(z):
    return SparseCodes.from_dense(torch.as_tensor(z, dtype=torch.float32))


def test_reconstruction_by_hand():
    x = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    x_hat = torch.tensor([[3.0, 3.0], [0.0, 0.0]])
    value = Reconstruction.of(x, x_hat).value()
    # errors 1 and 1; squares 25 and 1; mean (2, 2): centred squares (1 + 4) + (1 + 4) = 10
    assert value["NMSE"] == pytest.approx(2 / 26)
    assert value["FVE"] == pytest.approx(1 - 2 / 10)


def test_fve_is_not_fooled_by_a_large_mean():
    x = torch.randn(500, 4) + 1000
    mean_only = x.mean(0).expand_as(x)
    value = Reconstruction.of(x, mean_only).value()
    assert value["NMSE"] < 1e-5  # uncentred: the mean alone looks perfect
    assert value["FVE"] == pytest.approx(0, abs=1e-3)


def test_firing_by_hand():
    z = [[1.0, 0.0, -1.0, 0.0], [2.0, 0.0, 0.0, 0.0], [0.5, 3.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]]
    value = Firing.of(codes_of(z)).value()
    assert value["L0"] == 6 / 4  # the negative code counts as a nonzero
    assert value["dead_rate"] == 2 / 4  # but does not fire
    assert value["dense@0.1"] == 2 / 4
    assert value["dense@0.2"] == 2 / 4
    assert Firing.of(codes_of(z)).rate.tolist() == [0.75, 0.5, 0, 0]


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("cut", [0, 1, 17, 50])
def test_records_add_up(name, cut):
    x, x_hat = torch.randn(50, 6), torch.randn(50, 6)
    z = torch.randn(50, 9).relu()

    def of(rows):
        return records(x[rows], x_hat[rows], codes_of(z[rows]))[name]

    whole, parts = of(slice(None)), of(slice(cut)) + of(slice(cut, None))
    assert parts.value() == pytest.approx(whole.value(), rel=1e-12)
    assert (whole - of(slice(cut, None))).value() == pytest.approx(of(slice(cut)).value(), rel=1e-9, nan_ok=True)


def test_moments_are_numpys():
    z = torch.randn(80, 7)
    y = (torch.rand(80) < 0.4).long()
    a, b = Moments.of(codes_of(z[:30]), y[:30]), Moments.of(codes_of(z[30:]), y[30:])
    r = (a + b).correlation().numpy()
    expected = [np.corrcoef(z[:, j].relu().numpy(), y.numpy())[0, 1] for j in range(7)]
    assert np.allclose(r, expected, atol=1e-4)


def test_held_out_probe_is_scikit_learns():
    z = torch.randn(120, 5).relu()
    y = (z[:, 3] + 0.3 * torch.randn(120) > 0.5).long()
    train = torch.arange(120) < 70
    found = probes(lambda: iter((codes_of(z),)), [y], (1, 2), train)[0]
    assert int(found.order[0]) == 3 and found.r_main > 0
    scaled = (z - z[:70].mean(0)) / (z[:70].std(0, unbiased=False) + 1e-6)
    for k in (1, 2):
        chosen = found.order[:k].numpy()
        model = LogisticRegression(solver="liblinear", class_weight="balanced", max_iter=1000)
        model.fit(scaled[:70, chosen], y[:70])
        assert found.f1[k] == pytest.approx(sklearn_f1(y[70:], model.predict(scaled[70:, chosen])), abs=0.02)


def test_f1_is_scikit_learns():
    y, p = np.array([1, 1, 0, 0, 1]), np.array([1, 0, 1, 0, 1])
    assert f1_score(y, p) == pytest.approx(sklearn_f1(y, p))
    assert f1_score(y, np.zeros(5, int)) == 0.0


def test_absorption_by_hand():
    # positives by latents: 0 is main, 1 and 2 are aux; main is off on rows 1, 2, 3; an aux is on in 1 and 2
    z = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 2], [0, 0, 0]])
    value = absorption_of(z > 0)
    assert value["absorption"] == 2 / 4
    assert value["absorption_null"] == pytest.approx((1 - 1 / 4) * (1 - (3 / 4) * (3 / 4)))


def test_absorption_of_independent_latents_is_its_null():
    generator = torch.Generator().manual_seed(0)
    value = absorption_of(torch.rand(20_000, 6, generator=generator) < 0.3)
    assert value["absorption"] == pytest.approx(value["absorption_null"], abs=0.01)
    assert value["absorption"] == pytest.approx(0.7 * (1 - 0.7**5), abs=0.02)


@pytest.mark.parametrize("block", [1, 2, 256])
def test_pool_is_the_mean_over_a_document(block):
    z = torch.randn(11, 4)
    docs = torch.tensor([0, 2, 0, 1, 2, 2, 2, 3, 0, 1, 3])
    pooled = pool(codes_of(z), docs, block).to_dense()
    for d in range(4):
        assert torch.allclose(pooled[d], z[docs == d].relu().mean(0), atol=1e-6)


def test_norm_label_is_above_the_median():
    x = torch.tensor([[1.0], [2.0], [3.0], [10.0]])
    assert norm_label(x).tolist() == [0, 0, 1, 1]
    assert norm_label(x[:3]).tolist() == [0, 0, 1]  # strictly above: the median itself is negative


def test_gap_bracket():
    lower, upper = bracket(torch.tensor([5.0, 3.0]), torch.tensor([4.0, 3.1]), torch.tensor([3.9, 3.0]))
    assert lower.tolist() == pytest.approx([1.0, 0.0])
    assert upper.tolist() == pytest.approx([1.1, 0.0])
    assert gap_summary(lower, upper)["amort_gap_mean"] == pytest.approx(0.55)


def test_evaluate_codes_multiclass_and_errors():
    sae = Standard(Standard.Config(3, 5)).requires_grad_(False)
    x = torch.randn(40, 3)
    codes = codes_of(torch.randn(40, 5).relu())
    out = evaluate_codes(x, codes, sae, labels=torch.arange(40) % 3)
    assert {
        "NMSE",
        "FVE",
        "L0",
        "dead_rate",
        "dense@0.1",
        "F1@1",
        "F1@2",
        "dF1",
        "absorption",
        "absorption_null",
    } <= set(out)
    assert evaluate_codes(x, codes, sae, protocol="as_released")["FVE"] == pytest.approx(out["FVE"])  # b_dec is 0 here
    with pytest.raises(BadInput, match="40 activations but 39 codes"):
        evaluate_codes(x, codes[:39], sae)
    with pytest.raises(BadInput, match="one label a row"):
        evaluate_codes(x, codes, sae, labels=torch.zeros(3).long())
    with pytest.raises(BadInput, match="as_released or corrected"):
        evaluate_codes(x, codes, sae, protocol="x")
