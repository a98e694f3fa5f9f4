"""Intervals: by hand, against numpy, and how often they cover the truth in worlds of 8, 16 and 64 documents."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import f1_score

from repro.codes import SparseCodes
from repro.evaluate.stream import TokenSums
from repro.metrics import Firing, Reconstruction, probe_metrics
from repro.metrics.intervals import by_document, jackknife, left_out_half, of_draws, of_probes
from repro.metrics.probing import Probe

DOCUMENTS, LEAST = (8, 16, 64), 0.93


def covered(low, high, truth):
    return np.mean((np.array(low) <= truth) & (truth <= np.array(high)))


@pytest.mark.parametrize("documents", DOCUMENTS)
def test_sums_over_documents_are_covered(documents):
    """400 texts whose documents differ in length, error and topics; the truth is their mean.

    Rates of firing as on SmolLM2: one latent in three silent on a few thousand tokens, a few on every tenth.
    """
    rng = np.random.default_rng(documents)
    rate = np.exp(rng.normal(-6, 2, 100)).clip(max=0.5)
    tokens = rng.integers(60, 120, (documents, 400))
    topic = rng.gamma(0.5, 2.0, (documents, 400, len(rate)))
    fires = rng.random(topic.shape) < -np.expm1(-rate * topic * tokens[..., None])
    energy = tokens * rng.normal(1, 0.1, tokens.shape)
    error = energy * rng.gamma(16, 0.2 / 16, tokens.shape)
    in_how_many = fires.sum(0, dtype=np.int16)
    values = {
        "dead_rate": ((in_how_many == 0).mean(-1), np.stack([(in_how_many == f).mean(-1) for f in fires])),
        "NMSE": (error.sum(0) / energy.sum(0), (error.sum(0) - error) / (energy.sum(0) - energy)),
    }
    for name, (value, left_out) in values.items():
        half = left_out_half(left_out)
        assert covered(value - half, value + half, value.mean()) >= LEAST, name
    blocks = [Firing(int(n), torch.from_numpy(f.astype(int)), int(f.sum())) for n, f in zip(tokens[:, 0], fires[:, 0])]
    value, half = values["dead_rate"][0][0], left_out_half(values["dead_rate"][1][:, 0])
    assert jackknife(blocks)["dead_rate"] == pytest.approx((max(value - half, 0), min(value + half, 1)))


def probe_of(y, first, second, on):
    """A probe that was fitted elsewhere: answers [n], predictions with one and two latents, which latents are on."""
    return Probe(torch.arange(6), 0.5, {}, y, {1: first, 2: second}, torch.from_numpy(on).float())


@pytest.mark.parametrize("documents", DOCUMENTS)
@pytest.mark.parametrize("tokens", [1, 30])
def test_fitted_probes_are_covered(documents, tokens):
    """A label on documents, or on tokens of easy and hard documents: half are positive and a share r is answered right,
    so F1 is 2·(r/2) / (2·(r/2) + 1 − r) = r; a third of the positives are absorbed; both probes are equally good."""
    rng, n, right = np.random.default_rng(documents + tokens), documents * tokens, 0.8
    docs = np.repeat(np.arange(documents), tokens)
    ends = {name: ([], []) for name in ("F1@1", "dF1", "absorption")}
    for _ in range(200):
        ease = np.repeat(rng.beta(20 * right, 20 * (1 - right), documents) if tokens > 1 else np.full(n, right), tokens)
        y = (rng.random(n) < 0.5).astype(int)
        first, second = (np.where(rng.random(n) < ease, y, 1 - y) for _ in range(2))
        on = np.zeros((n, 6))
        on[:, 1] = rng.random(n) < 1 / 3
        found = of_probes([probe_of(y, first, second, on)], (1, 2), docs)
        for name, pair in ends.items():
            for end, value in zip(pair, found[name], strict=True):
                end.append(value)
    shares = {name: covered(*ends[name], {"F1@1": right, "dF1": 0, "absorption": 1 / 3}[name]) for name in ends}
    assert min(shares.values()) >= LEAST, shares


def test_left_out_documents_by_hand():
    """Of a mean, the jackknife's error is s/√n, and t(0.975; 4) = 2.776445."""
    v = np.array([1.0, 4.0, 2.0, 8.0, 5.0])
    out = by_document({"v": v, "n": np.ones(5)}, lambda s: {"mean": s["v"] / s["n"]})
    half = 2.776445 * v.std(ddof=1) / 5**0.5
    assert (out["mean_low"], out["mean"], out["mean_high"]) == pytest.approx((4 - half, 4, 4 + half))
    blocks = [Reconstruction.of(torch.tensor([[1.0]]), torch.tensor([[1.0 - a / 10]])) for a in v]
    low, high = jackknife(blocks)["NMSE"]
    squares = (v / 10) ** 2
    half = 2.776445 * squares.std(ddof=1) / 5**0.5
    assert (low, high) == pytest.approx((squares.mean() - half, squares.mean() + half), rel=1e-4)


def test_one_document_has_no_interval():
    one = Firing.of(SparseCodes.from_dense(torch.ones(3, 2)))
    assert np.isnan(jackknife([one])["L0"]).all()
    assert np.isnan(by_document({"v": np.ones(1)}, lambda s: {"v": s["v"]})["v_low"])
    y = np.array([0, 1])
    assert np.isnan(of_probes([probe_of(y, y, y, np.zeros((2, 6)))], (1, 2), np.zeros(2, int))["F1@1"]).all()
    assert np.isnan(of_draws([1.0, 2.0], 1.5, 3)).all() and np.isnan(of_draws([np.nan, 1.0], 1.0, 20)).all()


def test_up_to_twenty_documents_are_left_out_one_by_one():
    """The interval of a stream of tokens is that of its documents, delete-one, by numpy; of more, that of 20 groups."""
    g = torch.Generator().manual_seed(0)
    for documents, groups in ((7, 7), (20, 20), (60, 20)):
        docs = torch.arange(documents).repeat_interleave(5)
        x = torch.randn(len(docs), 3, generator=g)
        x_hat = x + 0.3 * torch.randn(len(docs), 3, generator=g) * (1 + docs[:, None] % 4)
        sums = TokenSums(docs)
        sums.add(slice(0, len(docs)), x, x_hat, SparseCodes.from_dense(x.relu()))
        out = sums.value()
        e = (x - x_hat).square().sum(1).double().reshape(groups, -1).sum(1).numpy()
        s = x.square().sum(1).double().reshape(groups, -1).sum(1).numpy()
        left = (e.sum() - e) / (s.sum() - s)
        half = stats.t.ppf(0.975, groups - 1) * np.sqrt((groups - 1) / groups * ((left - left.mean()) ** 2).sum())
        assert (out["NMSE_low"], out["NMSE_high"]) == pytest.approx(
            (e.sum() / s.sum() - half, e.sum() / s.sum() + half), rel=1e-4
        )


def test_intervals_of_probes_hold_their_estimate_and_know_documents():
    g = torch.Generator().manual_seed(1)
    z = torch.randn(200, 8, generator=g).relu()
    y = (z[:, 0] + 0.5 * torch.randn(200, generator=g) > 0.5).long()
    train = torch.arange(200) < 100
    values, found = probe_metrics(SparseCodes.from_dense(z), y, train, (1, 2))
    alone = of_probes(found, (1, 2), np.arange(100))
    assert all(low <= values[name] <= high for name, (low, high) in alone.items())
    twice, few = of_probes(found, (1, 2), np.arange(100) // 2), of_probes(found, (1, 2), np.arange(100) // 25)
    assert few["F1@1"][1] - few["F1@1"][0] > alone["F1@1"][1] - alone["F1@1"][0]  # 4 documents: 3 degrees of freedom
    assert twice["F1@1"] != alone["F1@1"]


def test_fitted_probes_by_hand():
    """Rows written down: three documents and four pseudo rows, left out one at a time, scored by scikit-learn."""
    docs = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    y = np.array([1, 1, 0, 1, 0, 1, 1, 0])
    first, second = np.array([1, 0, 0, 1, 1, 1, 0, 0]), np.array([1, 1, 0, 1, 0, 0, 1, 1])
    on = np.zeros((8, 6))
    on[[1, 6], 3] = on[0, 0] = on[0, 1] = 1  # rows 1 and 6 are absorbed, row 0 is not
    blocks = [np.flatnonzero(docs == d) for d in range(3)] + [np.array([i]) for i in range(8, 12)]
    answers = [np.append(v, pseudo) for v, pseudo in ((y, [1] * 4), (first, [1, 1, 0, 0]), (second, [1, 0, 1, 0]))]
    gone = np.append([0, 1, 0, 0, 0, 0, 1, 0], [1, 1, 0, 0])

    def values(rows):
        truth, one, two = (a[rows] for a in answers)
        scores = f1_score(truth, one), f1_score(truth, two)
        return np.array([*scores, scores[1] - scores[0], gone[rows][truth == 1].mean()])

    everything = np.arange(12)
    left = np.array([values(np.setdiff1d(everything, block)) for block in blocks])
    half = 4.302653 * np.sqrt(6 / 7 * ((left - left.mean(0)) ** 2).sum(0))  # t(0.975; 2), of three documents
    centre, estimate = values(everything), values(everything[:8])
    found = of_probes([probe_of(y, first, second, on)], (1, 2), docs)
    for i, name in enumerate(("F1@1", "F1@2", "dF1", "absorption")):
        low, high = min(centre[i] - half[i], estimate[i]), max(centre[i] + half[i], estimate[i])
        assert found[name] == pytest.approx((max(low, -1.0 if name == "dF1" else 0.0), min(high, 1.0)), abs=1e-6), name


def test_shares_stay_between_0_and_1():
    """One of ten latents fires once, in the second of two documents: left out, one is silent. t(0.975; 1) = 12.7062."""
    fired = torch.ones(10, dtype=torch.long)
    some = torch.cat([torch.zeros(1, dtype=torch.long), fired[1:]])
    ends = jackknife([Firing(10, some, 9), Firing(10, fired, 10)])
    assert ends["dead_rate"] == pytest.approx((0.0, 12.7062 * 0.05), rel=1e-5)  # 0.1 or 0 without one: error 0.05
    assert ends["dense@0.1"] == pytest.approx((0.9 - 12.7062 * 0.05, 1.0), rel=1e-4)


def test_agreeing_probes_still_have_a_width():
    """All of ten documents right: Agresti & Coull's interval of 10 of 10 begins near 0.7."""
    y = np.arange(10) % 2
    low, high = of_probes([probe_of(y, y, y, np.zeros((10, 6)))], (1, 2), np.arange(10))["F1@1"]
    assert high == 1 and 0.4 < low < 0.9
    low, high = of_probes([probe_of(y, y, y, np.zeros((10, 6)))], (1, 2), np.arange(10))["absorption"]
    assert low == 0 and 0.1 < high < 0.8


def test_draws_of_two_halves_by_hand():
    """Draws 1, 2, 3: sd 1; 5 documents a half: √(5/4); t(0.975; 8) = 2.306004."""
    assert of_draws([1.0, 2.0, 3.0, np.nan], 2.5, 10) == pytest.approx(
        (2.5 - 2.306004 * 1.25**0.5, 2.5 + 2.306004 * 1.25**0.5), abs=1e-6
    )
