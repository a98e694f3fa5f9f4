"""Documents left out: sums against the metrics of the tokens themselves, and intervals of planted differences."""

import numpy as np
import pytest
import torch

from repro.base.errors import BadInput
from repro.codes import SparseCodes
from repro.metrics import Firing, Reconstruction
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


def test_rates_by_hand():
    """Four latents on 400 tokens of two documents fire 0, 1, 40 and 60 times: one is dead, the last two are dense."""
    z = torch.zeros(400, 4)
    for latent, times in enumerate((0, 1, 40, 60)):
        z[:times, latent] = 1.0
    x = torch.ones(400, 2)
    sums = PerDocument.of(x, x, SparseCodes.from_dense(z), torch.arange(400) // 200)
    values = sums.values(torch.ones(1, 2))
    assert [float(values[name]) for name in ("dead_rate", "dense@0.1", "NMSE")] == [0.25, 0.5, 0.0]
    assert float(values["L0"]) == pytest.approx(101 / 400)


def test_documents_are_left_out_one_at_a_time(sums):
    """The same for every SAE: the weights know neither a seed nor an SAE, and each row is the text without one."""
    x, x_hat, _, docs, record = sums
    weights = documents.left_out(3)
    assert weights.tolist() == [[1, 1, 1], [0, 1, 1], [1, 0, 1], [1, 1, 0]]
    for row, d in zip(record.values(weights)["NMSE"][1:], range(3), strict=True):
        rest = docs != d
        assert float(row) == pytest.approx(Reconstruction.of(x[rest], x_hat[rest]).value()["NMSE"], rel=1e-5)


def planted(shift, spread, variants=6, seed=0):
    """Two SAEs a variant whose refined error is `shift` lower, give or take `spread` from variant to variant."""
    rng = np.random.default_rng(seed)
    out = []
    for v in range(variants):
        change = -shift + spread * rng.normal()
        for sparsity in (1, 2):
            encoder = torch.from_numpy(0.5 + 0.05 * rng.normal(size=17))
            base = dict.fromkeys((*documents.COMPARED, "L0"), encoder)
            values = {"amortized": base, "non": {name: e + change for name, e in base.items()}}
            out.append(({"variant": f"v{v}", "sparsity": sparsity}, values))
    return out


def test_intervals_of_planted_differences():
    rows = documents.over_saes(planted(0.1, 0.02))
    assert {row["mode"] for row in rows} == {"non"} and len(rows) == len(documents.COMPARED)
    assert all(row["high"] < 0 and row["low"] < -0.1 < row["high"] for row in rows)
    assert all(row["difference"] == pytest.approx(row["refined"] - row["encoder"]) for row in rows)
    alone = documents.differences({"variant": "topk"}, planted(0.1, 0.0)[0][1])
    assert [row["difference"] for row in alone] == pytest.approx([-0.1] * 3)
    assert all(row["low"] == pytest.approx(-0.1) == row["high"] for row in alone)  # paired: the scatter is shared


def test_six_variants_are_six_units_however_many_saes():
    """Nothing changes on average, and variants differ: 95 of 100 intervals hold 0, as t with 5 degrees of freedom."""
    rows = [documents.over_saes(planted(0, 0.05, seed=seed))[0] for seed in range(300)]
    assert 0.93 <= np.mean([row["low"] < 0 < row["high"] for row in rows]) <= 0.99


def test_the_error_by_documents_is_shared_by_all_saes():
    """SAEs agree, documents do not: left-out values ±a give √((D−1)/D · D · a²) = a·√(D−1), whatever the SAEs."""
    noise = 0.01 * torch.tensor([0.0, *([1, -1] * 4)], dtype=torch.float64)
    saes = []
    for v in range(4):
        encoder = dict.fromkeys((*documents.COMPARED, "L0"), torch.full((9,), 0.5, dtype=torch.float64))
        refined = {name: e - 0.1 + noise for name, e in encoder.items()}
        saes.append(({"variant": f"v{v}", "sparsity": 1}, {"amortized": encoder, "non": refined}))
    row = documents.over_saes(saes)[0]
    assert row["difference"] == pytest.approx(-0.1) and row["se"] == pytest.approx(0.01 * 7**0.5)
    assert documents.differences({}, saes[0][1])[0]["se"] == pytest.approx(0.01 * 7**0.5)


def test_a_real_run(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path))
    nano = {"train_tokens": 2000, "eval_tokens": 4000, "label_docs": 20, "m": 128, "steps": 20, "batch_size": 128}
    table = documents.compared(
        scale_of("tiny", **nano, grid={"topk": [4, 8], "batch_topk": [8]}, tol=1e-2), tokens=3000
    )
    assert set(table["variant"]) == {"topk", "batch_topk", documents.ALL}
    assert table["documents"].min() >= 3 and table["tokens"].max() <= 3000
    assert (table["low"] <= table["difference"]).all() and (table["difference"] <= table["high"]).all()
    pursued = table[(table["mode"] == "pursuit") & (table["metric"] == "NMSE") & (table["variant"] == "topk")]
    assert (pursued["L0"] <= pursued["L0_encoder"] + 0.5).all() and (pursued["difference"] < 0).all()
    assert controls.documents_overview({"a": table}).loc[("a", "NMSE", "pursuit"), "saes"] == 3
    figure = controls.documents_figure({"a": table}, "dense@0.1")
    assert len(figure.data) == 3
    assert max(map(len, figure.layout.yaxis.title.text.split("<br>"))) <= 36, "cut along an axis of usual height"


def test_no_setting():
    with pytest.raises(BadInput, match="No SAEs are set up for scale 'paper'"):
        documents.run_documents("paper")
