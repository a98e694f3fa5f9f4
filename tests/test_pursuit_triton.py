"""Pursuit by Triton kernels against its plain twin and scikit-learn: on a GPU, else in Triton's interpreter."""

import numpy as np
import pytest
import torch

from repro.codes import SparseCodes
from repro.solvers import pursuit, pursuit_compiled, pursuit_triton

pytest.importorskip("triton")
GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
pytestmark = [pytest.mark.gpu] if GPU else []
SIGNS = pytest.mark.parametrize("nonneg", [True, False], ids=["nonneg", "signed"])
# n, d, m, k: one block of atoms and several, none of them whole; k = 1; fewer atoms than candidates; k > d
SHAPES = [(3, 20, 90, 5), (2, 37, 300, 1), (2, 6, 5, 3), (2, 4, 30, 6)]
if GPU:
    SHAPES += [(2000, 768, 16384, 32), (500, 768, 16384, 60), (500, 300, 5003, 100), (64, 2304, 65536, 32)]


@pytest.fixture(autouse=True)
def poisoned(poison):
    """New memory is no number."""
    poison(torch, "empty")
    poison(torch.Tensor, "new_empty")


@pytest.fixture(scope="module", autouse=True)
def quick_interpreter():
    """Let the interpreter replace triton.language once a launch, not at each call of a function: twice as fast."""
    if GPU:
        yield
        return
    from triton.runtime import interpreter

    replaced, replace = set(), interpreter._patch_lang

    class Scope:
        def __init__(self, scope):
            self.scope = scope

        def restore(self):
            self.scope.restore()
            replaced.clear()

    def once(fn):
        if id(fn.__globals__) in replaced:
            return None
        replaced.add(id(fn.__globals__))
        return Scope(replace(fn))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_patch_lang", once)
        yield


@pytest.fixture
def by(monkeypatch):
    """by("triton" or "torch", arguments of pursuit): its codes, on the CPU."""

    def run(way, x, atoms, k, *args, **kwargs):
        monkeypatch.setattr(pursuit_triton, "usable", lambda p: way == "triton")
        monkeypatch.setattr(pursuit_compiled, "compiles", lambda p: False)
        moved = [a.to(DEVICE) if isinstance(a, torch.Tensor | SparseCodes) else a for a in (x, atoms, k, *args)]
        return pursuit(*moved, **kwargs).to("cpu")

    return run


def problem(n, d, m, seed=0):
    """Atoms with a decaying spectrum, so that they compete, of norms .3 to 3; x of norm sqrt(d)."""
    g = torch.Generator().manual_seed(seed)
    atoms = torch.nn.functional.normalize(torch.randn(m, d, generator=g) * torch.arange(1, d + 1) ** -0.3)
    x = torch.nn.functional.normalize(torch.randn(n, d, generator=g)) * d**0.5
    return x, atoms * 10 ** (torch.rand(m, 1, generator=g) - 0.5)


def encoded(x, atoms, k):
    """The k largest correlations as codes."""
    values, indices = (x @ atoms.T).relu().topk(min(k, len(atoms)), dim=1)
    return SparseCodes.packed(values, indices, len(atoms))


def check(x, atoms, mine, twin):
    """Equal supports in 99.9 % of the rows that leave a residual, and codes; elsewhere no larger a residual."""
    energy = x.double().square().sum(1)
    left = [(x.double() - z.decode(atoms.double())).square().sum(1) for z in (mine, twin)]
    dense = [z.to_dense() for z in (mine, twin)]
    same = ((dense[0] != 0) == (dense[1] != 0)).all(1)
    assert (same | (left[0] <= left[1] + 1e-9 * energy)).all()
    assert same[left[1] > 1e-8 * energy].double().mean().nan_to_num(1.0) >= 0.999
    rows = same & (left[1] > 1e-8 * energy)
    torch.testing.assert_close(dense[0][rows], dense[1][rows], rtol=1e-3, atol=1e-4)


@SIGNS
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_codes_are_the_twins(by, shape, nonneg):
    n, d, m, k = shape
    x, atoms = problem(n, d, m)
    z0 = encoded(x, atoms, k + 2)
    for method, start, rounds in (("omp", None, None), ("ompr", z0, 1), ("ompr", None, 2)):
        given = x, atoms, k, method, start, rounds, nonneg
        mine, twin = by("triton", *given), by("torch", *given)
        assert mine.l0.max() <= k and (not nonneg or (mine.values >= 0).all())
        check(x, atoms, mine, twin)


@SIGNS
def test_copies_zeros_dependent_atoms_and_a_k_for_each_token(by, nonneg):
    x, atoms = problem(5, 6, 12)
    atoms = torch.cat([atoms, atoms * 2, torch.zeros(1, 6), atoms[:3] + atoms[3:6]])
    x[1], x[2] = 0, atoms[0] + atoms[3]  # nothing to explain; one atom that two others span explains it
    k = torch.tensor([6, 4, 3, 0, 1])
    z0 = SparseCodes(torch.ones(5, 5), torch.tensor([[0, 12, 24, 3, 25]]).expand(5, 5).clone(), len(atoms))
    for method, start in (("omp", None), ("ompr", z0)):
        given = x, atoms, k, method, start, None if start is None else 2, nonneg
        mine, twin = by("triton", *given), by("torch", *given)
        assert (mine.l0 <= k).all() and torch.isfinite(mine.values).all() and (mine.indices < len(atoms)).all()
        left = [(x - z.decode(atoms)).square().sum(1) for z in (mine, twin)]
        torch.testing.assert_close(*left, rtol=1e-4, atol=1e-5)  # which of two copies is in may differ


def test_signed_codes_are_scikit_learns(by):
    from sklearn.linear_model import orthogonal_mp_gram

    x, atoms = problem(4, 30, 80)
    unit = torch.nn.functional.normalize(atoms.double())
    theirs = orthogonal_mp_gram((unit @ unit.T).numpy(), (unit @ x.double().T).numpy(), n_nonzero_coefs=5).T
    mine = by("triton", x, atoms, 5, nonneg=False).to_dense().double() * atoms.double().norm(dim=1)
    np.testing.assert_allclose(mine.numpy(), theirs, atol=1e-4)


def test_a_rounded_product_proposes_the_same_atoms(by, monkeypatch):
    """Operands of 10 bits, as on the tensor cores of a GPU: the order of the correlations is that of float64."""
    x, atoms = problem(3, 64, 300)
    twin = by("torch", x, atoms, 5)

    def tf32(a, _):
        return ((a.view(torch.int32) + (1 << 12)) & -(1 << 13)).view(torch.float32)

    monkeypatch.setattr(pursuit_triton, "operand", tf32)
    check(x, atoms, by("triton", x, atoms, 5), twin)


def test_tokens_are_grouped_by_their_width_and_the_widest_are_the_twins(by):
    x, atoms = problem(4, 150, 200)
    k = torch.tensor([130, 2, 17, 1])
    check(x, atoms, by("triton", x, atoms, k), by("torch", x, atoms, k))
    assert len(by("triton", x[:0], atoms, 3)) == 0


def test_an_atom_that_was_refused_at_first_enters_in_the_next_pass(by):
    x, atoms = torch.tensor([[2.0, 1.0]]), torch.tensor([[-0.6, 0.8], [1.0, 0.0]])  # <x, atom 0> < 0
    z0 = SparseCodes(torch.tensor([[2.0, 1.0]]), torch.tensor([[0, 1]]), 2)
    codes = by("triton", x, atoms, 2, "ompr", z0, 0).to_dense()
    torch.testing.assert_close(codes, torch.tensor([[1.25, 2.75]]))


def test_rounds_end_as_the_twins_do(by):
    """After a round that does not help half as many atoms enter, and none after one with a single atom."""
    x, atoms = problem(3, 12, 30, seed=1)
    check(x, atoms, by("triton", x, atoms, 4, "ompr"), by("torch", x, atoms, 4, "ompr"))


def test_many_atoms(by):
    x, atoms = problem(1, 4, 65536)
    mine, twin = (by(way, x, atoms, 2) for way in ("triton", "torch"))
    check(x, atoms, mine, twin)


def test_a_cpu_takes_its_own_kernels():
    x, atoms = problem(2, 4, 9)
    problem_there = pursuit_triton.KSparse(x, atoms, 1 / atoms.norm(dim=1), torch.tensor([1, 1]))
    assert not pursuit_triton.usable(problem_there)
