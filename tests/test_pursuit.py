"""Codes of at most k nonzeros: scikit-learn's OMP, scipy's NNLS, all supports of a tiny problem, awkward shapes."""

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import nnls

from repro.base.errors import BadInput
from repro.codes import SparseCodes
from repro.solvers import PURSUITS, Lasso, Pursuit, pursuit, pursuit_compiled, refit, solve

SIGNS = pytest.mark.parametrize("nonneg", [True, False], ids=["nonneg", "signed"])
COLD = [name for name in PURSUITS if name != "refit"]  # those that need no codes to start from
FITTED = ("omp", "ompr")  # those whose codes are least squares on their support


@pytest.fixture(autouse=True, params=["gram", "products", "torch"])
def route(request, monkeypatch):
    """Compiled on the Gram matrix, compiled without it, and the plain twin."""
    monkeypatch.setattr(pursuit_compiled, "PAYS", 1e9)
    monkeypatch.setattr(pursuit_compiled, "GRAM_BYTES", 2**30 if request.param == "gram" else 0)
    if request.param == "torch":
        monkeypatch.setattr(pursuit_compiled, "compiles", lambda p: False)


def unit(a):
    return a / a.norm(dim=1, keepdim=True)


def correlated(n=12, d=20, m=90, seed=0, norms=False):
    """Atoms with a decaying spectrum, so that they compete, of norms .3 to 3 or 1; x of norm sqrt(d)."""
    g = torch.Generator().manual_seed(seed)
    atoms = unit(torch.randn(m, d, generator=g) * torch.arange(1, d + 1) ** -0.3)
    x = unit(torch.randn(n, d, generator=g)) * d**0.5
    return x, atoms * 10 ** (torch.rand(m, 1, generator=g) - 0.5) if norms else atoms


def left(x, atoms, codes):
    """||x - z @ atoms||^2 of each row, in float64."""
    return (x.double() - codes.to_dense().double() @ atoms.double()).square().sum(1)


def encoded(x, atoms, k):
    """The k largest correlations as codes: what an encoder tied to the dictionary gives."""
    values, indices = (x @ atoms.T).relu().topk(k, dim=1)
    return SparseCodes.packed(values, indices, len(atoms))


def test_signed_omp_is_scikit_learns():
    from sklearn.linear_model import orthogonal_mp

    x, atoms = correlated(d=30, m=80)
    for k in (1, 4, 9):
        ours = pursuit(x, atoms, k, nonneg=False)
        theirs = orthogonal_mp(atoms.double().numpy().T, x.double().numpy().T, n_nonzero_coefs=k).T
        np.testing.assert_allclose(ours.to_dense().numpy(), theirs, atol=1e-4)


@SIGNS
@pytest.mark.parametrize("m", [300, 1100])  # columns of G in one part, and in three of which the last is not whole
def test_omp_is_the_plain_solvers(nonneg, m):
    x, atoms = correlated(n=40, d=40, m=m, norms=m == 300)
    ours = pursuit(x, atoms, 12, nonneg=nonneg)
    plain = solve(Lasso(x, atoms, 0.0, nonneg), Pursuit(12), tol=None, max_steps=12, proof=False).codes
    torch.testing.assert_close(ours.to_dense(), plain.to_dense(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", COLD)
def test_planted_codes_are_recovered(method):
    g = torch.Generator().manual_seed(0)
    atoms, z = torch.linalg.qr(torch.randn(60, 60, generator=g))[0], torch.zeros(20, 60)
    for i in range(20):
        z[i, torch.randperm(60, generator=g)[:4]] = 1 + torch.rand(4, generator=g)
    found = pursuit(z @ atoms, atoms, 4, method)
    torch.testing.assert_close(found.to_dense(), z, rtol=0, atol=1e-3 if method == "gradient" else 1e-5)
    assert pursuit(torch.zeros(2, 60), atoms, 4, method).l0.max() == 0
    assert pursuit(-(z @ atoms), -atoms * 0, 3, method).l0.max() == 0  # nothing to use


@SIGNS
@pytest.mark.parametrize("method", COLD)
def test_each_row_keeps_its_k(method, nonneg):
    x, atoms = correlated(norms=True)
    k = torch.arange(12)
    codes = pursuit(x, atoms, k, method, nonneg=nonneg)
    assert (codes.l0 <= k).all() and (not nonneg or (codes.values >= 0).all())
    for i in (0, 1, 5, 11):
        alone = pursuit(x[i : i + 1], atoms, k[i : i + 1], method, nonneg=nonneg)
        torch.testing.assert_close(codes[i : i + 1].to_dense(), alone.to_dense(), rtol=1e-4, atol=1e-5)
    energy = left(x, atoms, codes)
    assert (energy <= x.double().square().sum(1) * (1 + 1e-6)).all() and (energy[1:] < x[1:].square().sum(1)).all()


@pytest.mark.parametrize("method", FITTED)
def test_nonnegative_codes_are_nnls_on_their_support(method):
    x, atoms = correlated(norms=True)
    z0 = encoded(x, atoms, 9) if method == "ompr" else None
    codes = pursuit(x, atoms, 9, method, z0).to_dense()
    for row, z in zip(x.double(), codes.double()):
        S = torch.nonzero(z)[:, 0]
        theirs, _ = nnls(atoms[S].double().numpy().T, row.numpy())
        np.testing.assert_allclose(z[S].numpy(), theirs, rtol=1e-4, atol=1e-5)


@SIGNS
@pytest.mark.parametrize("rounds", [0, 1, 8])
def test_ompr_is_no_worse_than_least_squares_on_its_start(nonneg, rounds):
    x, atoms = correlated(n=60, norms=True)
    z0 = encoded(x, atoms, 14)
    k = z0.l0.clamp_max(6)
    start = pursuit(x, atoms, k, "refit", z0, nonneg=nonneg)
    size = z0.values * atoms.norm(dim=1)[z0.indices]
    largest = torch.where(size >= size.sort(1, descending=True).values[:, 5:6], z0.values, 0)
    torch.testing.assert_close(
        start.to_dense(), refit(x, atoms, SparseCodes(largest, z0.indices, 90), nonneg).to_dense()
    )
    better = pursuit(x, atoms, k, "ompr", z0, rounds, nonneg)
    assert (better.l0 <= k).all()
    assert (left(x, atoms, better) <= left(x, atoms, start) * (1 + 1e-5)).all()
    if rounds:
        assert left(x, atoms, better).sum() < 0.9 * left(x, atoms, start).sum()


def test_ompr_from_omp_lies_between_omp_and_the_best_support():
    x, atoms = correlated(n=20, d=6, m=11)
    greedy = pursuit(x, atoms, 3)
    found = left(x, atoms, pursuit(x, atoms, 3, "ompr", greedy))
    supports = list(itertools.combinations(range(11), 3))
    best = [min(nnls(atoms[list(S)].double().numpy().T, row.numpy())[1] ** 2 for S in supports) for row in x.double()]
    best = torch.tensor(best)
    assert (found >= best - 1e-5).all() and (found <= left(x, atoms, greedy) + 1e-5).all()
    assert (found <= best + 1e-5).double().mean() > 0.5  # all but a few are the best there are


def test_ompr_beats_omp_on_average():
    x, atoms = correlated(n=100, d=64, m=512)
    omp, cold = (left(x, atoms, pursuit(x, atoms, 16, method)).mean() for method in FITTED)
    assert cold < omp


@SIGNS
def test_mp_is_saelens_rule(nonneg):
    """max |<r, a>| joins the codes until an atom repeats, ||r|| < .01, or another one would be one too many."""
    x, atoms = correlated(n=30, d=12, m=24)
    codes = pursuit(x, atoms, 10, "mp", nonneg=nonneg).to_dense()
    for row, found in zip(x.double(), codes):
        z, r = torch.zeros(24, dtype=torch.float64), row.clone()
        while True:
            c = atoms.double() @ r
            j = int((c if nonneg else c.abs()).argmax())
            repeated = bool(z[j] != 0)
            if not repeated and int((z != 0).sum()) == 10:
                break
            z[j] += c[j]
            r -= c[j] * atoms[j].double()
            if repeated or r.norm() < 1e-2:
                break
        torch.testing.assert_close(found.double(), z, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", COLD)
def test_duplicated_atoms_and_more_nonzeros_than_atoms_help(method):
    x, atoms = correlated(n=7, d=6, m=13)
    twice = torch.cat([atoms, atoms, torch.zeros(1, 6)])
    once, both = (pursuit(x, a, k, method) for a, k in ((atoms, 13), (twice, 27)))
    if method != "gradient":  # which counts a copy as another atom
        torch.testing.assert_close(left(x, atoms, once), left(x, twice, both), rtol=1e-3, atol=1e-5)
    assert torch.isfinite(both.values).all() and (both.indices < 27).all()


def test_one_row_none_and_wrong_arguments():
    x, atoms = correlated()
    assert len(pursuit(x[:0], atoms, 3)) == 0 and len(pursuit(x[:1], atoms, 3, "ompr")) == 1
    z0 = encoded(x, atoms, 4)
    for arguments, said in (
        ((x, atoms, 0), "k >= 1"),
        ((x, atoms, torch.full((12,), -1)), "not -1"),
        ((x, atoms, torch.ones(5, dtype=torch.long)), r"one a row \(12\)"),
        ((x, atoms, 3, "opm"), "did you mean 'omp'"),
        ((x, atoms, 3, "refit"), "needs codes z0"),
        ((x, atoms, 3, "omp", z0), "takes no codes z0"),
        ((x, atoms, 3, "ompr", z0[:3]), r"z0 is \[3, 90\]"),
        ((x, atoms, 3, "omp", None, 4), "only 'ompr' has rounds"),
        ((x * torch.nan, atoms, 3), "NaN"),
    ):
        with pytest.raises(BadInput, match=said):
            pursuit(*arguments)
