"""Least squares on a support against scipy's NNLS, where supports are wide, atoms dependent, rows ragged."""

import numpy as np
import pytest
import torch
from scipy.optimize import nnls

from repro.base.errors import BadInput
from repro.codes import SparseCodes
from repro.solvers import refit


@pytest.mark.parametrize("d, m, share", [(15, 60, 0.1), (40, 200, 0.3), (8, 30, 0.6), (1, 5, 0.5), (64, 64, 0.6)])
@pytest.mark.parametrize("power", [0.5, 1.0])
def test_residuals_are_those_of_nnls(d, m, share, power):
    g = torch.Generator().manual_seed(d)
    atoms = torch.randn(m, d, generator=g) * torch.arange(1, d + 1) ** -power
    atoms /= atoms.norm(dim=1, keepdim=True)
    atoms[3], atoms[2] = atoms[4], 0  # a copy and a zero
    x = torch.randn(20, d, generator=g)
    z = torch.rand(20, m, generator=g) * (torch.rand(20, m, generator=g) < share)
    z[5], z[7] = 0, 1
    ours = refit(x, atoms, SparseCodes.from_dense(z)).to_dense()
    assert bool((ours >= 0).all()) and bool((ours[z == 0] == 0).all())
    for i in range(20):
        A = atoms[z[i] != 0].double().numpy().T
        best = nnls(A, x[i].double().numpy(), maxiter=10_000)[1] if A.size else float(x[i].norm())
        found = np.linalg.norm(ours[i].double().numpy() @ atoms.double().numpy() - x[i].double().numpy())
        assert found == pytest.approx(best, abs=5e-5 * float(x[i].norm()))


def test_rows_do_not_depend_on_their_company():
    g = torch.Generator().manual_seed(1)
    atoms, x = torch.randn(50, 12, generator=g), torch.randn(30, 12, generator=g)
    z = torch.rand(30, 50, generator=g) * (torch.rand(30, 50, generator=g) < torch.linspace(0, 1, 30)[:, None] ** 4)
    codes = SparseCodes.from_dense(z)
    together = refit(x, atoms, codes).decode(atoms)
    alone = torch.cat([refit(x[i : i + 1], atoms, codes[i : i + 1]).decode(atoms) for i in range(30)])
    assert torch.allclose(together, alone, atol=1e-4)


def test_nothing_to_do_and_wrong_shapes():
    atoms = torch.eye(4)
    assert len(refit(torch.zeros(0, 4), atoms, SparseCodes.from_dense(torch.zeros(0, 4)))) == 0
    with pytest.raises(BadInput, match="must be"):
        refit(torch.zeros(2, 4), atoms, SparseCodes.from_dense(torch.zeros(3, 4)))
