"""Conformance of every solver in SOLVERS: other libraries, closed forms, perturbations, and awkward problems."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso as SklearnLasso

from repro import ops
from repro.base.errors import BadInput
from repro.codes import SparseCodes
from repro.solvers import AUTO, SOLVERS, Ista, Lasso, WorkingSet, refit, solve
from repro.solvers import objective as J

SIGNS = pytest.mark.parametrize("nonneg", [True, False], ids=["nonneg", "signed"])
EXACT = [name for name, solver in SOLVERS.items() if name != "pursuit"]  # those that solve the LASSO
EXACT.append(pytest.param(WorkingSet(batched=True), id="batched"))  # what working_set runs on a GPU
EACH = pytest.mark.parametrize("solver", EXACT)


def unit(a):
    return a / a.norm(dim=1, keepdim=True)


def correlated(n=12, d=17, m=70, seed=0, dtype=torch.float32):
    """Atoms with a decaying spectrum, so that they compete; x of norm sqrt(d)."""
    g = torch.Generator().manual_seed(seed)
    atoms = unit(torch.randn(m, d, generator=g, dtype=torch.float64) * torch.arange(1, d + 1) ** -0.3)
    x = unit(torch.randn(n, d, generator=g, dtype=torch.float64)) * d**0.5
    return x.to(dtype), atoms.to(dtype)


@SIGNS
@EACH
def test_objective_of_scikit_learn(solver, nonneg):
    x, atoms = correlated()
    lam = 0.4
    ours = solve(Lasso(x, atoms, lam, nonneg), solver, tol=1e-5)
    # scikit-learn divides the squared error by the number of samples, here d
    theirs = SklearnLasso(alpha=lam / x.shape[1], fit_intercept=False, positive=nonneg, tol=1e-10, max_iter=100_000)
    A = atoms.double().numpy().T
    for i in range(len(x)):
        z = theirs.fit(A, x[i].double().numpy()).coef_
        best = 0.5 * np.sum((x[i].double().numpy() - A @ z) ** 2) + lam * np.abs(z).sum()
        assert best * (1 - 1e-9) <= ours.objective[i] <= best * (1 + 1e-5)
        assert ours.gap[i] >= ours.objective[i] - best - 1e-9 * best
    assert ours.converged.all()


@SIGNS
@EACH
def test_orthonormal_atoms_have_a_closed_form(solver, nonneg):
    atoms = torch.linalg.qr(torch.randn(9, 9, dtype=torch.float64))[0]
    x = 2 * torch.randn(6, 9, dtype=torch.float64)
    found = solve(Lasso(x, atoms, 0.8, nonneg), solver, tol=1e-12).codes.to_dense()
    torch.testing.assert_close(found, J.prox(x @ atoms.T, 0.8, nonneg), rtol=0, atol=1e-6)


@SIGNS
@EACH
def test_lambda_max_gives_zero_with_gap_zero(solver, nonneg):
    x, atoms = correlated()
    top = J.lambda_max(x, atoms, nonneg)
    at = solve(Lasso(x, atoms, top, nonneg), solver)
    assert at.codes.l0.max() == 0 and at.gap.max() < 1e-12 and at.steps.max() == 0
    below = solve(Lasso(x, atoms, 0.98 * top, nonneg), solver, tol=1e-6)
    assert (below.codes.l0 >= 1).all()


@SIGNS
@EACH
def test_a_start_at_the_solution_stays(solver, nonneg):
    x, atoms = correlated()
    problem = Lasso(x, atoms, 0.3, nonneg)
    first = solve(problem, solver, tol=1e-4)
    for z0 in (first.codes, first.codes.to_dense()):
        again = solve(problem, solver, z0=z0, tol=2e-4)
        assert again.steps.max() == 0
        torch.testing.assert_close(again.codes.to_dense(), first.codes.to_dense())
        torch.testing.assert_close(again.objective, first.objective)


@SIGNS
@EACH
def test_no_perturbation_lowers_the_objective(solver, nonneg):
    x, atoms = correlated(dtype=torch.float64)
    z = solve(Lasso(x, atoms, 0.5, nonneg), solver, tol=1e-11).codes.to_dense()
    at = J.objective(x, z, atoms, 0.5)
    for size in (1e-1, 1e-2, 1e-3):
        for _ in range(20):
            other = z + size * torch.randn_like(z) * (torch.rand_like(z) < 0.1)
            other = other.clamp_min(0) if nonneg else other
            assert (J.objective(x, other, atoms, 0.5) >= at - 1e-9).all()


@EACH
def test_signed_equals_nonneg_where_the_optimum_is_nonnegative(solver):
    atoms = torch.eye(8) + 0.02
    x = 1 + torch.rand(5, 8)
    a, b = (solve(Lasso(x, atoms, 0.1, nonneg), solver, tol=1e-6) for nonneg in (True, False))
    torch.testing.assert_close(a.codes.to_dense(), b.codes.to_dense(), rtol=0, atol=1e-3)
    torch.testing.assert_close(a.objective, b.objective, rtol=2e-6, atol=0)


@EACH
def test_same_result_for_any_block_size(solver):
    x, atoms = correlated(n=11)
    lam = torch.linspace(0.2, 1.5, 11)
    whole = solve(Lasso(x, atoms, lam), solver, tol=1e-5, block=100)
    for block in (1, 4):
        parts = solve(Lasso(x, atoms, lam), solver, tol=1e-5, block=block)
        torch.testing.assert_close(parts.objective, whole.objective, rtol=1e-5, atol=0)
        torch.testing.assert_close(parts.codes.to_dense(), whole.codes.to_dense(), rtol=0, atol=2e-2)
    for i in range(11):  # and each row has its own lam
        alone = solve(Lasso(x[i : i + 1], atoms, float(lam[i])), solver, tol=1e-5)
        torch.testing.assert_close(alone.objective, whole.objective[i : i + 1], rtol=1e-5, atol=0)


@SIGNS
@EACH
def test_gap_bounds_the_true_suboptimality_all_the_way(solver, nonneg):
    x, atoms = correlated(n=4, d=20, m=120, seed=3)
    best = solve(Lasso(x.double(), atoms.double(), 0.3, nonneg), "fista", tol=1e-13, max_steps=20_000)
    assert best.gap.max() < 1e-10 * best.objective.max()
    seen = []

    def check(step, rows, state):
        seen.append(step)
        if step > 3 and step % 100:
            return
        proof = state.certificate()
        fresh = J.certify(x[rows], state.codes(), atoms, 0.3, nonneg)
        torch.testing.assert_close(proof.objective, fresh.objective, rtol=1e-11, atol=0)
        assert (proof.dual <= best.objective[rows] * (1 + 1e-12)).all()
        assert (proof.gap >= proof.objective - best.objective[rows] - 1e-11).all()

    solution = solve(Lasso(x, atoms, 0.3, nonneg), solver, tol=1e-4, callback=check)
    assert solution.converged.all() and seen[0] == 0 and seen[-1] == solution.steps.max()
    assert (solution.gap >= solution.objective - best.objective - 1e-11).all()


@SIGNS
@EACH
@pytest.mark.parametrize("tol", [0.3, 1e-4], ids=["far", "near"])
def test_the_certificate_is_that_of_the_codes_returned(solver, nonneg, tol):
    x, atoms = correlated(d=20, m=120)
    solution = solve(Lasso(x, atoms, 0.3, nonneg), solver, tol=tol)
    fresh = J.certify(x, solution.codes, atoms, 0.3, nonneg)
    torch.testing.assert_close(solution.objective, fresh.objective, rtol=1e-11, atol=0)
    assert (solution.dual <= fresh.dual + 1e-11 * fresh.objective).all()
    assert (solution.gap >= fresh.gap - 1e-11 * fresh.objective).all()


@SIGNS
def test_k_steps_are_the_published_iteration(nonneg):
    x, atoms = correlated(n=5)
    z0 = torch.rand(5, 70) * (torch.rand(5, 70) < 0.1)
    D, z, a, lam = atoms.double().numpy(), z0.double().numpy(), 1 / (J.lipschitz(atoms) + 1e-6), 0.3
    for k in range(8):
        for start in (z0, SparseCodes.from_dense(z0)):
            problem = Lasso(x, atoms, lam, nonneg)
            ours = solve(problem, Ista(step_size=a), z0=start, max_steps=k, tol=None, block=3)
            assert ours.steps.tolist() == [k] * 5
            np.testing.assert_allclose(ours.codes.to_dense().numpy(), z, rtol=1e-5, atol=1e-5)
        u = z + a * (x.double().numpy() - z @ D) @ D.T
        z = np.maximum(u - a * lam, 0) if nonneg else np.sign(u) * np.maximum(np.abs(u) - a * lam, 0)


def test_ista_is_monotone_and_meets_its_rate():
    x, atoms = correlated(dtype=torch.float64)
    problem, trace = Lasso(x, atoms, 0.3), []
    best = solve(problem, "fista", tol=1e-13)
    solve(problem, "ista", max_steps=60, tol=None, callback=lambda k, rows, s: trace.append(s.certificate().objective))
    P = torch.stack(trace)
    assert (P[1:] <= P[:-1] + 1e-12).all()
    k = torch.arange(1, 61).unsqueeze(1)
    bound = J.lipschitz(atoms) * best.codes.to_dense().square().sum(1) / (2 * k)
    assert (P[1:] - best.objective <= bound).all()


def test_callback_sees_active_rows_and_can_stop():
    x, atoms = correlated()
    seen = []
    stopped = solve(
        Lasso(x, atoms, 0.3), "ista", tol=None, max_steps=50, callback=lambda k, *_: seen.append(k) or k == 3
    )
    assert seen == [0, 1, 2, 3] and stopped.steps.tolist() == [3] * 12 and not stopped.converged.any()
    rows = []
    solve(Lasso(x, atoms, 0.3), "fista", tol=1e-4, callback=lambda k, r, s: rows.append(len(r)) and None)
    assert rows[0] == 12 and rows[-1] < 12 and rows == sorted(rows, reverse=True)


AWKWARD = {
    "one latent": (3, 4, 1),
    "one dimension": (3, 1, 5),
    "d > m": (4, 31, 6),
    "odd sizes": (7, 13, 131),
}


@SIGNS
@EACH
@pytest.mark.parametrize("shape", AWKWARD.values(), ids=list(AWKWARD))
def test_awkward_shapes(solver, nonneg, shape):
    n, d, m = shape
    x, atoms = correlated(n, d, m)
    solution = solve(Lasso(x, atoms, 0.2, nonneg), solver, tol=1e-4)
    assert solution.converged.all()
    assert solution.codes.to_dense().shape == (n, m) and solution.gap.dtype == torch.float64


@SIGNS
@EACH
def test_degenerate_dictionaries(solver, nonneg):
    x, atoms = correlated(m=40)
    plain = solve(Lasso(x, atoms, 0.3, nonneg), solver, tol=1e-4)
    twice = torch.cat([atoms, atoms, torch.zeros(3, 17)])  # duplicates and zero atoms change no optimum
    double = solve(Lasso(x, twice, 0.3, nonneg), solver, tol=1e-4)
    assert double.converged.all() and (double.codes.to_dense()[:, -3:] == 0).all()
    torch.testing.assert_close(double.objective, plain.objective, rtol=1e-4, atol=0)
    start = torch.ones(12, 83)  # ... not even where a start uses them
    warm = solve(Lasso(x, twice, 0.3, nonneg), solver, z0=start, tol=1e-4)
    assert warm.converged.all()
    torch.testing.assert_close(warm.objective, plain.objective, rtol=1e-4, atol=0)
    nothing = solve(Lasso(x, torch.zeros(5, 17), 0.3, nonneg), solver)
    assert nothing.converged.all() and nothing.codes.l0.max() == 0
    scales = torch.logspace(-0.4, 0.4, 40).unsqueeze(1)  # atoms of very different norm
    assert solve(Lasso(x, atoms * scales, 0.3, nonneg), solver, tol=1e-4).converged.all()


@EACH
@pytest.mark.parametrize("size", [1e-12, 1e-6, 1e6, 1e12])
def test_results_scale_with_the_data(solver, size):
    x, atoms = correlated()
    plain = solve(Lasso(x, atoms, 0.3), solver, tol=1e-4)
    for a, b in ((size, 1.0), (1.0, size), (size, size)):  # x -> a x, atoms -> b atoms: lam -> a b lam, z -> a / b z
        scaled = solve(Lasso(x * a, atoms * b, 0.3 * a * b), solver, tol=1e-4)
        assert scaled.converged.all()
        torch.testing.assert_close(scaled.objective / a**2, plain.objective, rtol=3e-4, atol=0)


@SIGNS
@EACH
def test_lambda_zero_fits_exactly_where_it_can(solver, nonneg):
    x, atoms = correlated(n=6, d=7, m=60)
    atoms = torch.cat([atoms, -atoms])  # every x is a nonnegative combination
    solution = solve(Lasso(x, atoms, 0.0, nonneg), solver, tol=1e-3)
    assert solution.converged.all()
    assert (solution.objective <= 1e-6 * 0.5 * x.double().square().sum(1)).all()


@EACH
def test_lambda_zero_without_an_exact_fit_is_least_squares_with_an_honest_gap(solver):
    x, atoms = correlated(n=4, d=12, m=5)
    truth = torch.linalg.lstsq(atoms.double().T, x.double().T)
    best = 0.5 * (x.double() - truth.solution.T @ atoms.double()).square().sum(1)
    solution = solve(Lasso(x, atoms, 0.0, nonneg=False), solver, tol=1e-5, max_steps=3000)
    torch.testing.assert_close(solution.objective, best, rtol=1e-4, atol=0)
    assert (solution.gap >= solution.objective - best - 1e-9).all()


@EACH
def test_zero_tokens_and_zero_rows(solver):
    x, atoms = correlated()
    empty = solve(Lasso(x[:0], atoms, 0.3), solver)
    assert empty.codes.to_dense().shape == (0, 70) and empty.gap.shape == (0,) and empty.converged.shape == (0,)
    zeros = solve(Lasso(torch.zeros(3, 17), atoms, 0.3), solver)
    assert zeros.converged.all() and zeros.gap.max() == 0


def test_bad_input_is_refused_in_one_sentence():
    x, atoms = correlated()
    nan = x.clone()
    nan[1, 2] = torch.nan
    bad = [
        lambda: Lasso(nan, atoms, 0.3),
        lambda: Lasso(x, atoms[:, :5], 0.3),
        lambda: Lasso(x[0], atoms, 0.3),
        lambda: Lasso(x, atoms[:0], 0.3),
        lambda: Lasso(x, atoms.double(), 0.3),
        lambda: Lasso(x.long(), atoms, 0.3),
        lambda: Lasso(x, atoms, -0.1),
        lambda: Lasso(x, atoms, float("nan")),
        lambda: Lasso(x, atoms, torch.ones(5)),
        lambda: Lasso(x * 1e20, atoms, 0.3),
        lambda: Lasso(x, atoms * 1e-20, 0.3),
        lambda: solve(Lasso(x, atoms, 0.3), "fitsa"),
        lambda: solve(Lasso(x, atoms, 0.3), z0=torch.zeros(12, 3)),
        lambda: solve(Lasso(x, atoms, 0.3), z0=torch.full((12, 70), torch.inf)),
        lambda: solve(Lasso(x, atoms, 0.3), tol=None),
        lambda: solve(Lasso(x, atoms, 0.3), tol=-1.0),
        lambda: solve(Lasso(x, atoms, 0.3), max_steps=-1),
    ]
    for call in bad:
        with pytest.raises(BadInput) as error:
            call()
        assert "\n" not in str(error.value)
    with pytest.raises(BadInput, match="did you mean 'fista'"):
        solve(Lasso(x, atoms, 0.3), "fitsa")


def test_half_precision_and_transposed_weights_are_taken():
    x, atoms = correlated()
    a = solve(Lasso(x.bfloat16(), atoms.bfloat16(), 0.3))
    b = solve(Lasso(x.bfloat16().float(), atoms.bfloat16().float(), 0.3))
    c = solve(Lasso(x.bfloat16().float(), atoms.bfloat16().float().T.contiguous().T, 0.3))
    torch.testing.assert_close(a.objective, b.objective)
    torch.testing.assert_close(c.objective, b.objective)
    assert a.codes.values.dtype == torch.float32


def test_auto_takes_the_fast_solver_on_the_cpu():
    x, atoms = correlated()
    assert solve(Lasso(x, atoms, 0.3)).solver == "working_set"


# --- least squares on a support, and pursuit as a solver -------------------------------------------------------------


def test_refit_is_nnls_on_the_support():
    from scipy.optimize import nnls

    x, atoms = correlated(n=8, d=15, m=60)
    g = torch.Generator().manual_seed(5)
    z = torch.rand(8, 60, generator=g) * (torch.rand(8, 60, generator=g) < 0.2)
    z[3] = 0
    ours, free = refit(x, atoms, SparseCodes.from_dense(z)).to_dense(), refit(x, atoms, z, nonneg=False).to_dense()
    for i in range(8):
        S = torch.nonzero(z[i])[:, 0]
        A = atoms[S].double().numpy().T
        if len(S):
            np.testing.assert_allclose(ours[i, S].numpy(), nnls(A, x[i].double().numpy())[0], atol=1e-4)
            np.testing.assert_allclose(
                A @ free[i, S].double().numpy(), A @ np.linalg.lstsq(A, x[i].double().numpy())[0], atol=1e-3
            )
        outside = torch.ones(60, dtype=torch.bool)
        outside[S] = False
        assert (ours[i, outside] == 0).all() and (free[i, outside] == 0).all()


def test_pursuit_runs_in_the_loop():
    x, atoms = correlated()
    sizes = []
    solution = solve(
        Lasso(x, atoms, 0.0),
        "pursuit",
        tol=None,
        max_steps=5,
        callback=lambda k, r, s: sizes.append(s.codes().l0.max()),
    )
    assert [int(s) for s in sizes] == [0, 1, 2, 3, 4, 5] or max(sizes) <= 5
    assert solution.steps.tolist() == [5] * 12


@pytest.mark.gpu
@SIGNS
def test_cuda_agrees_with_the_cpu(nonneg):
    x, atoms = correlated(n=40, d=48, m=500)
    cpu = solve(Lasso(x, atoms, 0.3, nonneg), tol=1e-4)
    gpu = solve(Lasso(x.cuda(), atoms.cuda(), 0.3, nonneg), tol=1e-4)
    assert gpu.solver == AUTO["cuda"] and gpu.converged.all() and gpu.codes.values.is_cuda
    torch.testing.assert_close(gpu.objective.cpu(), cpu.objective, rtol=2e-4, atol=0)
    for dtype in (torch.float32, torch.float64):
        gpu = solve(Lasso(x.cuda().to(dtype), atoms.cuda().to(dtype), 0.3, nonneg), "working_set", tol=1e-4)
        assert gpu.solver == "working_set" and gpu.converged.all() and gpu.codes.values.is_cuda
        torch.testing.assert_close(gpu.objective.cpu(), cpu.objective, rtol=2e-4, atol=0)


# --- the compiled kernels against their plain twin, and the benchmark ------------------------------------------------


@SIGNS
def test_compiled_descent_is_its_plain_twin(nonneg):
    pytest.importorskip("numba")
    from repro.kernels import reference as plain
    from repro.kernels.cpu import working_set as fast

    for w, dtype in ((1, np.float64), (7, np.float64), (37, np.float64), (37, np.float32)):
        x, atoms = correlated(n=1, d=25, m=w, dtype=torch.float64)
        D, cap = atoms.numpy().astype(dtype), 48
        G, u, q = np.zeros((cap, cap), dtype), np.zeros(cap, dtype), np.zeros(cap, dtype)
        fast.gram_rows(D, np.arange(w), 0, min(w, 5), G)  # in two parts, as it grows
        fast.gram_rows(D, np.arange(w), min(w, 5), w, G)
        np.testing.assert_allclose(G[:w, :w], D @ D.T, atol=1e-6)
        q[:w] = D @ x[0].numpy()
        start = [torch.from_numpy(t[None].copy()).double() for t in (G[:w, :w], u[:w], q[:w])]
        limits = torch.tensor([[0.3], [0.0], [-np.inf]], dtype=torch.float64)  # lam, energy, target
        expected = plain.coordinate_descent(*start, *limits, nonneg, 20_000)[0][0].numpy()
        fast.descend(G, u, q, w, float(x.square().sum()), 0.3, nonneg, 1e-13)
        np.testing.assert_allclose(u[:w], expected, atol=1e-5 if dtype == np.float64 else 2e-2)
        best = 0.5 * ((x[0].numpy() - expected @ D) ** 2).sum() + 0.3 * np.abs(expected).sum()
        found = 0.5 * ((x[0].numpy() - u[:w] @ D) ** 2).sum() + 0.3 * np.abs(u).sum()
        assert found <= best * (1 + (1e-9 if dtype == np.float64 else 1e-5))


def test_cheap_products_keep_their_error_bound():
    from repro.solvers.working_set import Dictionary

    r = torch.randn(9, 50, dtype=torch.float64) * torch.logspace(-3, 3, 9, dtype=torch.float64).unsqueeze(1)
    atoms = torch.randn(300, 50) * torch.logspace(-2, 2, 300).unsqueeze(1)
    for low in (True, False):
        d = Dictionary(atoms, low)
        exact, cheap = r @ d.atoms.double().T, d.product(r).double()
        bound = r.norm(dim=1, keepdim=True) * d.beta[:-1].double() + d.rho * cheap.abs()
        assert ((exact - cheap).abs() <= bound).all()
        assert ((exact - cheap).abs().max() > 1e-4 * bound.max()) if low else True


def test_working_sets_may_outgrow_their_first_room():
    g, room = torch.Generator().manual_seed(0), []
    atoms, x = unit(torch.randn(2500, 1100, generator=g)), torch.randn(2, 1100, generator=g) * 20
    problem = Lasso(x, atoms, 1.0)
    solution = solve(problem, "working_set", tol=1e-3, callback=lambda k, r, s: room.append(s.W.shape[1]) and None)
    assert solution.converged.all() and max(room) > room[0] > 1000


def test_scratch_gram_matrices_and_threads_change_no_result(monkeypatch):
    x, atoms = correlated(n=9, d=40, m=300)
    problem = Lasso(x, atoms, 0.3)
    plain = solve(problem, "working_set", tol=1e-5)
    monkeypatch.setattr("repro.solvers.working_set.GRAM_NUMBERS", 0)
    scratch = solve(Lasso(x, atoms, 0.3), "working_set", tol=1e-5, z0=plain.codes.to_dense() * 0.5)
    torch.testing.assert_close(scratch.objective, plain.objective, rtol=1e-5, atol=0)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        threads = solve(Lasso(x, atoms, 0.3), "working_set", tol=1e-5)
        torch.testing.assert_close(threads.objective, plain.objective, rtol=1e-5, atol=0)
    finally:
        torch.set_num_threads(before)


def test_steps_without_proof_are_the_same_steps():
    atoms, x = torch.randn(40, 12), torch.randn(7, 12)
    problem = Lasso(x, atoms, 0.3)
    with_proof, without = (solve(problem, "ista", max_steps=5, tol=None, proof=p, block=3) for p in (True, False))
    assert torch.equal(with_proof.codes.to_dense(), without.codes.to_dense())
    assert without.gap.isnan().all() and not without.converged.any()
    with pytest.raises(BadInput, match="tolerance needs the certificate"):
        solve(problem, "ista", max_steps=5, tol=1e-3, proof=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is not asked for here")
def test_batched_working_sets_run_on_the_kernel(monkeypatch):
    """As on a GPU, but for the device: every descent by Triton, interpreted."""
    pytest.importorskip("triton")
    plain, calls = ops.coordinate_descent, []

    def interpreted(*args, **kwargs):
        calls.append(len(args[0]))
        return plain(*args, **kwargs, impl="triton")

    monkeypatch.setattr(ops, "coordinate_descent", interpreted)
    x, atoms = correlated(n=2, d=24, m=60)
    problem = Lasso(x, atoms, 0.8)
    found = solve(problem, WorkingSet(batched=True, first=8), tol=1e-2)
    assert found.converged.all() and len(calls) >= 1
    assert (found.objective <= solve(problem, "fista", tol=1e-6).objective * 1.011).all()
