"""Modes, calibration and the gap bracket: against scikit-learn, by hand, and against their own definitions."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso as SklearnLasso

from repro.base.errors import BadInput
from repro.codes import SparseCodes
from repro.inference import calibrate_lambda, encode_as_released, infer, nearest_root
from repro.sae import BatchTopK, Standard, TopK
from repro.solvers import Lasso, solve
from repro.solvers.objective import certify, exact_objective, lambda_max, objective


def make(cls, d=12, m=40, seed=0, **knobs):
    g = torch.Generator().manual_seed(seed)
    sae = cls(cls.Config(d, m, **knobs))
    with torch.no_grad():
        atoms = torch.nn.functional.normalize(torch.randn(m, d, generator=g), dim=1)
        sae.W_dec.copy_(atoms)
        sae.W_enc.copy_(atoms.T)
        sae.b_enc.fill_(-0.5)
        sae.b_dec.copy_(torch.randn(d, generator=g))
    return sae.requires_grad_(False)


def data(sae, n=31, seed=1):
    g = torch.Generator().manual_seed(seed)
    z = torch.rand(n, sae.config.m, generator=g) * (torch.rand(n, sae.config.m, generator=g) < 0.1) * 5
    return (z @ sae.W_dec + sae.b_dec + 0.1 * torch.randn(n, sae.config.d, generator=g)).detach()


def test_amortized_is_the_real_encoder():
    sae = make(TopK, k=4)
    x = data(sae)
    result = infer(sae, x, gap=False)
    assert torch.equal(result.codes.to_dense(), sae.encode(x))
    assert torch.allclose(result.x_hat, sae(x), atol=1e-5)
    assert result.lam is None and result.steps is None


def test_non_is_the_lasso_optimum_of_scikit_learn():
    sae = make(Standard)
    x = data(sae, n=7)
    lam = 0.3
    result = infer(sae, x, "non", lam=lam, tol=1e-6)
    target = sae.target(x).numpy().astype(np.float64)
    atoms = sae.W_dec.detach().numpy().astype(np.float64)
    for i, row in enumerate(target):
        # scikit-learn minimises 1/(2 d) ||y - A w||^2 + alpha ||w||_1
        model = SklearnLasso(alpha=lam / sae.config.d, positive=True, fit_intercept=False, tol=1e-12, max_iter=100_000)
        w = model.fit(atoms.T, row).coef_
        best = 0.5 * np.sum((row - w @ atoms) ** 2) + lam * w.sum()
        assert float(result.objective[i]) == pytest.approx(best, rel=2e-6)
    assert bool((result.codes.values >= 0).all())


def test_the_bracket_holds_the_true_gap():
    sae = make(BatchTopK, k=3)
    with torch.no_grad():
        sae.threshold.fill_(0.8)
    x = data(sae)
    lam = 0.2
    exact = infer(sae, x, "non", lam=lam, tol=1e-9)
    for mode in ("amortized", "semi"):
        rough = infer(sae, x, mode, lam=lam, tol=3e-2)  # a loose certificate must still bracket
        truth = rough.objective - exact.objective
        assert bool((rough.gap_lower <= truth + 1e-6).all())
        assert bool((rough.gap_upper >= truth - 1e-6).all())
        assert bool((rough.gap_lower <= rough.gap_upper).all())


def test_semi_is_exactly_k_nonnegative_steps_from_the_encoder():
    sae = make(Standard)
    x = data(sae, n=5)
    lam = 0.25
    result = infer(sae, x, "semi", lam=lam, steps=7, gap=False)
    z, atoms, target = sae.encode(x).detach().numpy(), sae.W_dec.detach().numpy(), sae.target(x).numpy()
    step = 1 / np.linalg.norm(atoms, 2) ** 2
    for _ in range(7):
        z = np.maximum(z + step * ((target - z @ atoms) @ atoms.T - lam), 0)
    assert np.allclose(result.codes.to_dense().numpy(), z, atol=1e-5)
    assert result.steps == 7


def test_semi_lowers_the_objective_of_the_encoder():
    sae = make(Standard)
    x = data(sae)
    before = objective(sae.target(x), sae.encode(x), sae.W_dec, 0.2)
    after = objective(sae.target(x), infer(sae, x, "semi", lam=0.2, gap=False).codes, sae.W_dec, 0.2)
    assert bool((after <= before + 1e-5).all())


@pytest.mark.parametrize("mode,steps", [("non", None), ("non", 15), ("semi", 10)])
def test_calibration_reaches_the_target(mode, steps):
    sae = make(Standard)
    x = data(sae, n=400)
    target = 5.0
    lam = calibrate_lambda(sae, x, target, mode, steps)
    reached = infer(sae, x, mode, lam=lam, steps=steps, gap=False).codes.l0.double().mean()
    assert abs(float(reached) - target) <= 0.021 * target


@pytest.mark.parametrize("target", [3.0, 5.0, 8.0])
def test_a_small_start_changes_no_promise(target, monkeypatch):
    """Beginning on 128 tokens, the codes at the returned lambda have the L0 asked for on all tokens, solved cold."""
    from repro.inference import calibration

    sae = make(Standard)
    x = data(sae, n=700)
    sizes: list[int] = []
    whole = calibration.solve
    monkeypatch.setattr(calibration, "solve", lambda p, *a, **k: (sizes.append(p.n), whole(p, *a, **k))[1])
    shared: dict = {}
    lam = calibrate_lambda(sae, x, target, shared=shared)
    reached = solve(Lasso(sae.target(x), sae.W_dec, lam), tol=1e-3).codes.l0.double().mean()
    assert abs(float(reached) - target) <= 0.02 * target + 1e-9
    assert sizes.count(700) <= 4 and sizes.count(128) <= 20 and len(sizes) == sizes.count(700) + sizes.count(128)
    assert shared  # what solvers derived from the dictionary is there for the next call
    assert calibrate_lambda(sae, x, target, shared=shared) == lam


@pytest.mark.parametrize("start", [-9.0, -3.0, 0.0])
def test_the_search_finds_roots_of_falling_functions(start):
    log_lam, value = nearest_root(lambda t: np.exp(-t), 20.0, -10, 0, start, 1e-3, 40)
    assert log_lam == pytest.approx(-np.log(20), abs=2e-3) and value == pytest.approx(20, rel=1e-3)
    log_lam, value = nearest_root(lambda t: max(0.0, -5 - t) ** 3, 1.0, -10, 0, start, 1e-3, 40)
    assert log_lam == pytest.approx(-6, abs=1e-3)
    assert nearest_root(lambda t: 100.0 if t < -2 else 1.0, 5.0, -10, 0, start, 0.02, 60)[1] == 1.0  # jumps over it
    assert nearest_root(lambda t: 1.0, 5.0, -10, 0, start, 0.02, 60) == (start, 1.0)  # never reaches it


def test_the_exact_objective_is_the_certified_one():
    sae = make(Standard, d=130)
    x = data(sae)
    codes = sae.encode_sparse(x)
    found = exact_objective(sae.target(x), codes, sae.W_dec, 0.3)
    assert torch.allclose(found, certify(sae.target(x), codes, sae.W_dec, 0.3).objective, rtol=1e-13)


def test_default_lambda_matches_the_encoders_l0():
    sae = make(TopK, k=4)
    x = data(sae, n=600)
    encoder = infer(sae, x, "amortized", gap=False).codes.l0.double().mean()
    for mode in ("semi", "non"):
        found = infer(sae, x, mode, gap=False).codes.l0.double().mean()
        assert float(found) == pytest.approx(float(encoder), rel=0.03)


def test_calibration_refuses_what_cannot_be():
    sae = make(Standard)
    x = data(sae)
    with pytest.raises(BadInput, match="at most d = 12 nonzeros"):
        calibrate_lambda(sae, x, 13)
    with pytest.raises(BadInput, match="between 0 and the 40 latents"):
        calibrate_lambda(sae, x, 40)
    with pytest.raises(BadInput, match="at least one token"):
        calibrate_lambda(sae, x[:0], 3)
    with pytest.raises(BadInput, match="No atom points along"):
        calibrate_lambda(sae, sae.b_dec.detach()[None].clone(), 3)


def test_lambda_above_lambda_max_gives_empty_codes():
    sae = make(Standard)
    x = data(sae)
    lam = float(lambda_max(sae.target(x), sae.W_dec).max()) * 1.01
    result = infer(sae, x, "non", lam=lam)
    assert int(result.codes.l0.sum()) == 0
    assert torch.allclose(result.x_hat, sae.b_dec.expand_as(x))


def test_released_encoder_ignores_what_the_release_ignores():
    sae = make(BatchTopK, k=2)
    x = data(sae)
    codes = encode_as_released(sae, x).to_dense()
    assert int((codes != 0).sum(1).max()) == 4  # a tenth of 40 latents, not the checkpoint's k
    plain = x @ sae.W_enc + sae.b_enc  # no b_dec, no threshold
    assert torch.allclose(codes[codes != 0], plain[codes != 0], atol=1e-5)
    assert torch.equal(encode_as_released(make(Standard), x).to_dense(), (x @ sae.W_enc + sae.b_enc).relu())


def test_as_released_modes_run_on_the_raw_input():
    sae = make(BatchTopK, k=2)
    x = data(sae)
    non = infer(sae, x, "non_amortized", "as_released", lam=0.1, gap=False)
    z, atoms = np.zeros((len(x), 40), np.float32), sae.W_dec.detach().numpy()
    step = 1 / (np.linalg.norm(atoms, 2) ** 2 + 1e-6)
    for _ in range(200):
        u = z + step * ((x.numpy() - z @ atoms) @ atoms.T)
        z = np.sign(u) * np.maximum(np.abs(u) - step * 0.1, 0)
    assert np.allclose(non.codes.to_dense().numpy(), z, atol=1e-4)
    assert torch.allclose(non.x_hat, torch.tensor(z @ atoms), atol=1e-4)


def test_bad_input_is_one_sentence():
    sae = make(Standard)
    x = data(sae)
    with pytest.raises(BadInput, match="did you mean 'semi'"):
        infer(sae, x, "semmi")
    with pytest.raises(BadInput, match="as_released or corrected"):
        infer(sae, x, protocol="released")
    with pytest.raises(BadInput, match="width 12"):
        infer(sae, x[:, :5])
    x[3, 2] = float("nan")
    with pytest.raises(BadInput, match="1 of 31 activations hold NaN"):
        infer(sae, x)


def test_sparse_codes_round_trip_and_columns():
    z = torch.tensor([[0.0, 2.0, 0.0, -1.0], [0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    codes = SparseCodes.from_dense(z)
    assert torch.equal(codes.to_dense(), z)
    assert codes.l0.tolist() == [2, 0, 4]
    assert torch.equal(codes.columns(torch.tensor([3, 0])), z[:, [3, 0]])
    assert torch.equal(SparseCodes.cat([codes[:1], codes[1:]]).to_dense(), z)
    assert torch.allclose(codes.decode(torch.eye(4)), z)
    assert len(SparseCodes.from_dense(z[:0])) == 0
