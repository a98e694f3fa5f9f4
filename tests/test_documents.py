"""Resampled documents: sums against the metrics of the tokens themselves, and intervals of planted differences."""

import numpy as np
import pytest
import torch

from repro.base.errors import BadInput
from repro.codes import SparseCodes
from repro.metrics import Firing, Reconstruction
from repro.metrics.intervals import centred
from repro.sections import controls
from repro.sections.controls import documents
from repro.sections.controls.documents import PerDocument
from repro.sections.scales import scale_of


@pytest.fixture
def sums():
    g = torch.Generator().manual_seed(0)
    x, z = torch.randn(30, 5, generator=g), torch.randn(30, 7, generator=g).relu()
    z[:, 3] = 0
    docs = torch.arange(30) // 10
    x_hat = z @ torch.randn(7, 5, generator=g)
    return x, x_hat, z, docs, PerDocument.of(x, x_hat, SparseCodes.from_dense(z), docs)


@pytest.mark.parametrize("weights", [(1, 1, 1), (2, 0, 1), (0, 3, 0)])
def test_weights_are_documents_that_occur_so_often(sums, weights):
    x, x_hat, z, docs, record = sums
    rows = torch.cat([torch.nonzero(docs == d).squeeze(1).repeat(w) for d, w in enumerate(weights) if w])
    found = record.values(torch.tensor([weights]))
    wanted = Reconstruction.of(x[rows], x_hat[rows]).value() | Firing.of(SparseCodes.from_dense(z[rows])).value()
    for name in ("NMSE", "dead_rate", "dense@0.1", "L0"):
        assert float(found[name][0]) == pytest.approx(wanted[name], rel=1e-5)


def test_the_first_draw_is_the_data_and_the_rest_are_resamples():
    weights = documents.draws(6, 200, seed=3)
    assert weights.shape == (201, 6) and weights[0].tolist() == [1] * 6
    assert (weights.sum(1) == 6).all() and weights[1:].double().mean().item() == pytest.approx(1)
    assert torch.equal(weights, documents.draws(6, 200, seed=3))


def planted(shift, spread, saes=12, seed=0):
    """SAEs whose refined error is `shift` lower, give or take `spread` from SAE to SAE."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(saes):
        encoder = torch.from_numpy(0.5 + 0.05 * rng.normal(size=1 + documents.DRAWS))
        change = -shift + spread * rng.normal()
        base = dict.fromkeys((*documents.COMPARED, "L0"), encoder)
        out.append({"amortized": base, "non": {name: v + change for name, v in base.items()}})
    return out


def test_intervals_of_planted_differences():
    rows = documents.over_saes(planted(0.1, 0.02), seed=0)
    assert {row["mode"] for row in rows} == {"non"} and len(rows) == len(documents.COMPARED)
    assert all(row["high"] < 0 and row["low"] < -0.1 < row["high"] for row in rows)
    assert all(row["low"] < 0 < row["high"] for row in documents.over_saes(planted(0.0, 0.05), seed=0))
    alone = documents.differences({"variant": "topk"}, planted(0.1, 0.0)[0])
    assert [row["difference"] for row in alone] == pytest.approx([-0.1] * 3)
    assert all(row["low"] == pytest.approx(-0.1) == row["high"] for row in alone)  # paired: the scatter is shared


def test_intervals_of_silent_latents_cover_what_other_documents_would_show():
    """200 latents that a document wakes with a small chance: the expected share that n documents leave silent."""
    n, chance = 8, {"encoder": 0.05, "refined": 0.15}
    truth = (1 - chance["refined"]) ** n - (1 - chance["encoder"]) ** n
    covered = {"centred": 0, "percentiles": 0}
    for seed in range(100):
        rng = np.random.default_rng(seed)
        weights = documents.draws(n, 200, seed).numpy()
        silent = {name: (weights @ (rng.random((n, 200)) < p) == 0).mean(1) for name, p in chance.items()}
        change = silent["refined"] - silent["encoder"]
        low, high = centred(change[1:], change[0])
        assert low <= change[0] <= high
        covered["centred"] += low <= truth <= high
        low, high = np.percentile(change[1:], [2.5, 97.5])
        covered["percentiles"] += low <= truth <= high
    assert covered["centred"] >= 90 > covered["percentiles"], covered


def test_a_real_run(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path))
    nano = {"train_tokens": 2000, "eval_tokens": 4000, "label_docs": 20, "m": 128, "steps": 20, "batch_size": 128}
    table = documents.resampled(
        scale_of("tiny", **nano, grid={"topk": [4, 8], "batch_topk": [8]}, tol=1e-2), tokens=3000
    )
    assert set(table["variant"]) == {"topk", "batch_topk", documents.ALL}
    assert table["documents"].min() >= 3 and table["tokens"].max() <= 3000
    assert (table["low"] <= table["difference"]).all() and (table["difference"] <= table["high"]).all()
    pursued = table[(table["mode"] == "pursuit") & (table["metric"] == "NMSE") & (table["variant"] == "topk")]
    assert (pursued["L0"] <= pursued["L0_encoder"] + 0.5).all() and (pursued["difference"] < 0).all()
    assert controls.documents_overview(table).loc[("NMSE", "pursuit"), "saes"] == 3
    assert len(controls.documents_figure(table, "dead_rate").data) == 3


def test_no_setting():
    with pytest.raises(BadInput, match="No SAEs are set up for scale 'paper'"):
        documents.run_documents("paper")
