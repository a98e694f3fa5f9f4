"""The as_released primitives against what the code released with the paper computes (tests/golden/published_*)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from repro import released
from repro.codes import SparseCodes
from repro.metrics import norm_label, probe_metrics

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(params=["a", "b"], scope="module")
def golden(request):
    name = f"published_{request.param}"
    return dict(np.load(GOLDEN / f"{name}.npz")), json.loads((GOLDEN / f"{name}.json").read_text())


def codes_of(arrays, key):
    names = {
        "amortized_standard": "z_standard",
        "amortized_topk_density": "z_topk_density",
        "amortized_topk_k8": "z_topk_k8",
    }
    return arrays[names.get(key, key)]


def relative(a, b):
    return np.abs(a - b).max() / max(np.abs(b).max(), 1e-12)


def test_encoders(golden):
    g, _ = golden
    x, w, b = g["X"], g["W_enc"], g["b_enc"]
    assert relative(released.encode_amortized(x, w, b, "standard"), g["z_standard"]) < 1e-4
    assert relative(released.encode_amortized(x, w, b, "batch_topk"), g["z_topk_density"]) < 1e-4
    assert relative(released.encode_amortized(x, w, b, "topk", k=8), g["z_topk_k8"]) < 1e-4


def test_ista_trajectories(golden):
    g, j = golden
    tried = 0
    for key, expected in g.items():
        if not key.startswith("ista_"):
            continue
        start = g["z_topk_density"] if "warm" in key else None
        lam, steps = key.split("lam")[1].split("_steps")
        z = released.ista_lasso(g["X"], g["D"], float(lam), int(steps), step_size=j["step_size"], z0=start)
        assert relative(z, expected) < 1e-4, key
        tried += 1
    assert tried == 16


def test_default_step_is_the_released_one(golden):
    g, _ = golden
    lam = next(k for k in g if k.startswith("objective")).split("lam")[1].split("_")[0]
    z = released.ista_lasso(g["X"], g["D"], float(lam), 30)
    assert relative(z, g[f"ista_zero_lam{lam}_steps30"]) < 1e-4


def test_metrics(golden):
    g, j = golden
    for key, expected in j["metrics"].items():
        z = codes_of(g, key)
        found = released.metrics(g["X"], z, g["D"])
        for name, value in expected.items():
            if name != "order_top6":
                assert found[name] == pytest.approx(value, abs=1e-3 if "F1" in name else 1e-5), (key, name)
        probe = probe_metrics(SparseCodes.from_dense(torch.tensor(z)), norm_label(torch.tensor(g["X"])), None, (1,))[1][
            0
        ]
        assert probe.order[:6].tolist() == expected["order_top6"]


def test_lambda_grids_choose_exactly_the_released_lambda(golden):
    g, j = golden
    for target, lam in j["calibrate_grid9"].items():
        assert released.calibrate_lambda_grid9(g["X"], g["D"], float(target)) == pytest.approx(lam, rel=1e-9)
    for target, lam in j["calibrate_exp5"].items():
        assert released.calibrate_lambda_exp5(g["X"], g["D"], float(target)) == pytest.approx(lam, rel=1e-9)


def test_objective_and_gap(golden):
    from repro.solvers.objective import objective

    g, j = golden
    x, d = torch.tensor(g["X"]), torch.tensor(g["D"])
    for lam, expected in j["gap"].items():
        encoder = objective(x, torch.tensor(g["z_standard"]), d.T, float(lam))
        assert relative(encoder.numpy(), g[f"objective_lam{lam}_standard"]) < 1e-5
        solved = objective(x, released.ista_lasso(x, d, float(lam), 200), d.T, float(lam))
        gap = (encoder - solved).numpy()
        assert gap.mean() == pytest.approx(expected["mean"], rel=1e-4)
        assert np.median(gap) == pytest.approx(expected["median"], rel=1e-4)


def test_torch_in_torch_out(golden):
    g, _ = golden
    assert isinstance(released.encode_amortized(torch.tensor(g["X"]), g["W_enc"], None, "standard"), torch.Tensor)
