"""The mathematics against hand arithmetic, closed forms, and another way to compute the same thing."""

import pytest
import torch

from repro.codes import SparseCodes
from repro.solvers import objective as J


def unit(a):
    return a / a.norm(dim=1, keepdim=True)


@pytest.fixture
def problem():
    g = torch.Generator().manual_seed(1)
    atoms = unit(torch.randn(23, 7, generator=g) + 1)
    x = 3 * torch.randn(5, 7, generator=g)
    z = torch.rand(5, 23, generator=g) * (torch.rand(5, 23, generator=g) < 0.2)
    return x, z, atoms


def dual_point(r, atoms, lam, nonneg=True):
    """v = a r: feasible for every r, optimal when r is the residual of an optimum."""
    return r.double() * J.dual_scale(J.max_correlation(r, atoms, nonneg), lam).unsqueeze(1)


def test_objective_by_hand():
    # x = (3, 4), atoms e1 and e2, z = (2, 0), lam = 1/2: r = (1, 4), 1/2 * 17 + 1/2 * 2 = 9.5
    x, z, atoms = torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0, 0.0]]), torch.eye(2)
    assert J.objective(x, z, atoms, 0.5).tolist() == [9.5]
    # c = (1, 4), a = 0.5 / 4 = 1/8, v = (1/8, 1/2): Q = 12.5 - 1/2 (2.875^2 + 3.5^2) = 2.2421875
    v = dual_point(J.residual(x, z, atoms), atoms, 0.5)
    assert v.tolist() == [[0.125, 0.5]]
    assert J.dual_value(x.double(), v).tolist() == [2.2421875]
    assert J.certify(x, z, atoms, 0.5).gap.tolist() == [9.5 - 2.2421875]
    assert J.lambda_max(x, atoms).tolist() == [4.0]


def test_prox_minimises_its_definition():
    u = torch.tensor([[-2.0, -0.4, 0.3, 5.0]], dtype=torch.float64)
    grid = torch.linspace(-6, 6, 120_001, dtype=torch.float64)
    for nonneg in (True, False):
        allowed = grid[grid >= 0] if nonneg else grid
        for value, found in zip(u[0], J.prox(u, 0.7, nonneg)[0]):
            best = allowed[(0.5 * (allowed - value) ** 2 + 0.7 * allowed.abs()).argmin()]
            assert abs(best - found) < 2e-4


@pytest.mark.parametrize("nonneg", [True, False])
def test_dual_points_are_feasible_and_below_the_objective(problem, nonneg):
    x, z, atoms = problem
    lam = torch.tensor([0.0, 0.1, 0.5, 2.0, 50.0])
    v = dual_point(J.residual(x, z, atoms), atoms, lam, nonneg)
    c = v @ atoms.double().T
    assert ((c if nonneg else c.abs()).amax(1) <= lam.double() * (1 + 1e-12) + 1e-300).all()
    proof = J.certify(x, z, atoms, lam, nonneg)
    torch.testing.assert_close(proof.dual, J.dual_value(x.double(), v))
    assert (proof.gap >= 0).all() and (proof.dual <= proof.objective).all()


def test_certificate_is_the_same_in_blocks_sparse_and_dense(problem):
    x, z, atoms = problem
    whole = J.certify(x, z, atoms, 0.3)
    for other in (J.certify(x, z, atoms, 0.3, block=2), J.certify(x, SparseCodes.from_dense(z), atoms, 0.3)):
        for a, b in zip(whole, other):
            torch.testing.assert_close(a, b, rtol=1e-14, atol=1e-14)


def test_certificate_is_float64_where_float32_would_lie():
    # x = 1000 z d exactly: the residual is 0, and float32 arithmetic would leave about 1e-5 of it
    g = torch.Generator().manual_seed(0)
    atoms = torch.randn(40, 300, generator=g, dtype=torch.float64).float()
    z = (torch.rand(1, 40, generator=g) * 1000).float()
    x = (z.double() @ atoms.double()).float()
    exact = 0.5 * (x.double() - z.double() @ atoms.double()).square().sum()
    torch.testing.assert_close(J.certify(x, z, atoms, 0.0).objective[0], exact, rtol=1e-9, atol=0)


def test_negative_codes_of_a_nonnegative_problem_are_infeasible(problem):
    x, z, atoms = problem
    z = z.clone()
    z[2, 3] = -0.1
    assert J.certify(x, z, atoms, 0.3).gap.isinf().tolist() == [False, False, True, False, False]
    assert J.certify(x, z, atoms, 0.3, nonneg=False).gap.isfinite().all()


def test_lambda_max_is_the_edge_of_zero(problem):
    x, _, atoms = problem
    for nonneg in (True, False):
        top, zero = J.lambda_max(x, atoms, nonneg), torch.zeros(5, 23)
        assert (J.certify(x, zero, atoms, top, nonneg).gap == 0).all()
        assert (J.certify(x, zero, atoms, 0.99 * top, nonneg).gap > 0).all()


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (1, 4), (4, 1), (6000, 3)])
def test_lipschitz_is_the_squared_spectral_norm(shape):
    atoms = torch.randn(*shape)
    sigma = torch.linalg.svdvals(atoms.double())[0]
    assert J.lipschitz(atoms) == pytest.approx(float(sigma) ** 2, rel=1e-10)
    assert J.lipschitz(torch.zeros(3, 2)) == 0
