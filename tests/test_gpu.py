"""Whole computations on a GPU against float64 or the CPU: solves, inference, metrics, training, evaluation.

On a machine without a GPU the same tests run on the CPU, with Triton's interpreter, so that they are ready when a GPU
is there. `.ci/gpu correct` runs them with the marked ones of test_ops and test_solvers. Nothing beyond torch, numpy,
scikit-learn and pytest is imported.
"""

import importlib.util

import pytest
import torch
from torch.nn.functional import normalize

from repro import ops
from repro.codes import SparseCodes
from repro.evaluate import EvalData, EvalOptions, Tokens, evaluate_sae
from repro.inference import infer
from repro.metrics import Firing, Moments, Reconstruction
from repro.sae import BatchTopK
from repro.solvers import Lasso, Pursuit, WorkingSet, objective, pursuit, refit, solve
from repro.training.recipe import TRAINED, Job, Recipe
from repro.training.trainer import Trainer

GPU = torch.cuda.is_available()
DEVICE = pytest.mark.parametrize("device", ["cuda" if GPU else "cpu"])
# found by its mark on a GPU; without one it takes a minute of interpreted kernels, and `.ci/gpu --dry-run` runs it
pytestmark = pytest.mark.gpu if GPU else pytest.mark.slow
PRECISION = pytest.mark.parametrize(
    ("precision", "unit"), [("float32", 2e-6), ("tf32x3", 2e-6), ("tf32", 2**-9), ("bf16", 2**-7)]
)
# n, d, m, k: nothing is a multiple of a tile
AWKWARD = [(1, 7, 33, 5), (3, 5, 90, 1), (9, 19, 40, 7)]
if GPU:
    AWKWARD += [(17, 19, 70, 7), (129, 193, 4099, 37), (1000, 768, 16384, 32)]


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """torch.empty returns NaN, or integers that no index survives."""

    def poison(make):
        def filled(*args, **kwargs):
            out = make(*args, **kwargs)
            if out.dtype == torch.bool:
                return out
            return out.fill_(torch.nan if out.is_floating_point() else torch.iinfo(out.dtype).min // 2)

        return filled

    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, poison(getattr(torch, name)))


def fast(device):
    """The implementation that a GPU takes, in the interpreter where there is none."""
    return "triton" if importlib.util.find_spec("triton") else "torch"


def problem(n, d, m, seed=0, dtype=torch.float64):
    """x [n, d] of norm sqrt(d) from a few of m correlated unit atoms, and noise."""
    g = torch.Generator().manual_seed(seed)
    atoms = normalize(torch.randn(m, d, generator=g, dtype=torch.float64) + 0.3, dim=1)
    z = torch.rand(n, m, generator=g, dtype=torch.float64) * (torch.rand(n, m, generator=g) < 5 / m)
    x = z @ atoms + 0.05 * torch.randn(n, d, generator=g, dtype=torch.float64)
    x = x / x.norm(dim=1, keepdim=True).clamp_min(1e-9) * d**0.5
    return x.to(dtype), atoms.to(dtype)


def sae_of(d=24, m=96, k=4, seed=0):
    """An SAE whose encoder reads its own dictionary, and activations [220, d] for it."""
    g = torch.Generator().manual_seed(seed)
    sae = BatchTopK(BatchTopK.Config(d, m, k=k)).requires_grad_(False)
    sae.W_dec.copy_(normalize(torch.randn(m, d, generator=g), dim=1))
    sae.W_enc.copy_(sae.W_dec.T)
    sae.b_dec.copy_(torch.randn(d, generator=g))
    sae.threshold.fill_(0.8)
    z = (1 + torch.rand(220, m, generator=g)) * (torch.rand(220, m, generator=g) < 3 / m)
    return sae, z @ sae.W_dec + sae.b_dec + 0.05 * torch.randn(220, d, generator=g)


# --- operations in every precision ------------------------------------------------------------------------------------


@DEVICE
@PRECISION
def test_encoding_errs_by_the_unit_of_its_precision(device, precision, unit):
    """Every kept score is within rounding of the float64 score, and no score left out is larger than one kept."""
    for n, d, m, k in AWKWARD:
        g = torch.Generator().manual_seed(n)
        x, W, b = torch.randn(n, d, generator=g), torch.randn(d, m, generator=g), torch.randn(m, generator=g)
        exact = x.double() @ W.double() + b.double()
        room = 4 * unit * (x.double().abs() @ W.double().abs() + b.double().abs())
        x, W, b = x.to(device), W.to(device), b.to(device)
        codes = ops.encode_topk(x, W, b, k, impl=fast(device), precision=precision)
        z = codes.to_dense().cpu().double()
        on = z > 0
        assert ((z - exact)[on].abs() <= room[on]).all()
        left = torch.where(on, -torch.inf, exact - room).amax(1)
        least = torch.where(on, exact + room, torch.inf).amin(1)
        assert (left <= torch.where(on.sum(1) == k, least, room.amax(1))).all()
        count = n * min(k, 3)
        whole = ops.encode_batch_topk(x, W, b, count, impl=fast(device), precision=precision)
        assert int(whole.l0.sum()) == min(count, int((exact > 0).sum()))


@DEVICE
def test_bfloat16_tensors_go_through(device):
    codes = SparseCodes(torch.rand(5, 3).to(device), torch.randint(0, 40, (5, 3)).to(device), 40)
    atoms = torch.randn(40, 12).bfloat16().to(device)
    found = ops.decode(codes.values, codes.indices, atoms)
    expected = codes.to_dense().double() @ atoms.double()
    assert found.dtype == torch.bfloat16 and (found.double() - expected).norm() <= 1e-2 * expected.norm()


@DEVICE
def test_the_same_call_twice_gives_the_same_codes(device):
    """Candidates are collected in no order; what comes out of them has one."""
    g = torch.Generator().manual_seed(0)
    x, W, b = (
        t.to(device) for t in (torch.randn(33, 19, generator=g), torch.randn(19, 70, generator=g), torch.zeros(70))
    )
    first, again = (ops.encode_topk(x, W, b, 9, impl=fast(device)) for _ in range(2))
    assert torch.equal(first.values, again.values) and torch.equal(first.indices, again.indices)


# --- whole solves -----------------------------------------------------------------------------------------------------


@DEVICE
@pytest.mark.parametrize("solver", ["ista", "fista", "working_set", "batched"])
@pytest.mark.parametrize("nonneg", [True, False], ids=["nonneg", "signed"])
def test_solves_reach_the_float64_optimum(device, solver, nonneg):
    for n, d, m, _ in AWKWARD[:5]:  # ISTA would take minutes at the last
        x, atoms = problem(n, d, m)
        lam = 0.3 * objective.lambda_max(x, atoms, nonneg)
        best = solve(Lasso(x, atoms, lam, nonneg), "fista", tol=1e-8)
        chosen = WorkingSet(batched=True) if solver == "batched" else solver
        tol = 1e-2 if solver == "ista" else 1e-3
        found = solve(Lasso(x.float().to(device), atoms.float().to(device), lam, nonneg), chosen, tol=tol)
        assert found.converged.all() and found.codes.values.device.type == device
        assert (found.objective.cpu() <= best.objective * (1 + 1.1 * tol)).all()
        assert (found.dual.cpu() <= best.objective * (1 + 1e-5)).all()


@DEVICE
def test_ista_steps_are_those_of_float64(device):
    x, atoms = problem(17, 19, 70)
    exact = solve(Lasso(x, atoms, 0.3), "ista", max_steps=30, tol=None).codes.to_dense()
    found = solve(Lasso(x.float().to(device), atoms.float().to(device), 0.3), "ista", max_steps=30, tol=None)
    torch.testing.assert_close(found.codes.to_dense().cpu().double(), exact, rtol=1e-3, atol=1e-4)


@DEVICE
def test_pursuit_and_refit_are_the_cpus(device):
    x, atoms = problem(40, 24, 90, dtype=torch.float32)
    mine, theirs = (pursuit(x.to(where), atoms.to(where), 5) for where in (device, "cpu"))
    left = [(x - codes.to("cpu").decode(atoms)).norm(dim=1) for codes in (mine, theirs)]
    torch.testing.assert_close(left[0], left[1], rtol=1e-3, atol=1e-3)
    assert int(mine.l0.max()) <= 5
    again = refit(x.to(device), atoms.to(device), theirs.to(device))
    torch.testing.assert_close(again.to_dense().cpu(), refit(x, atoms, theirs).to_dense(), rtol=1e-3, atol=1e-4)
    assert solve(Lasso(x.to(device), atoms.to(device), 0.1), Pursuit(3), tol=None, max_steps=3).codes.l0.max() <= 3


# --- inference and metrics --------------------------------------------------------------------------------------------


@DEVICE
@pytest.mark.parametrize("mode", ["amortized", "semi", "non"])
@pytest.mark.parametrize("protocol", ["corrected", "as_released"])
def test_inference_is_the_cpus(device, mode, protocol):
    sae, x = sae_of()
    given = {"lam": 0.2, "steps": None if (mode, protocol) != ("non", "as_released") else 40}
    theirs = infer(sae, x, mode, protocol, **given)
    mine = infer(sae.to(device), x.to(device), mode, protocol, **given)
    torch.testing.assert_close(mine.x_hat.cpu(), theirs.x_hat, rtol=1e-2, atol=5e-2)
    torch.testing.assert_close(mine.objective.cpu(), theirs.objective, rtol=2e-3, atol=1e-4)
    assert (mine.gap_lower <= mine.gap_upper).all()


@DEVICE
def test_metrics_are_the_cpus(device):
    g = torch.Generator().manual_seed(0)
    z, x = torch.randn(101, 40, generator=g).relu(), torch.randn(101, 9, generator=g) * 30
    x_hat, y = x + torch.randn(101, 9, generator=g), (torch.rand(101, generator=g) < 0.4).long()

    def records(where):
        codes = SparseCodes.from_dense(z.to(where))
        fit = Reconstruction.of(x.to(where), x_hat.to(where))
        return Firing.of(codes).value() | fit.value(), Moments.of(codes, y.to(where))

    (mine, moments), (theirs, exact) = records(device), records("cpu")
    assert mine == pytest.approx(theirs, rel=1e-6)
    for name in ("z", "zz", "zy"):
        torch.testing.assert_close(getattr(moments, name).cpu(), getattr(exact, name), rtol=1e-9, atol=1e-9)


# --- training ---------------------------------------------------------------------------------------------------------


def batches(steps, d=32, n=256):
    """Batches [n, d] of sums of a few of 40 unit atoms, of mean square norm 1."""
    g = torch.Generator().manual_seed(3)
    atoms = normalize(torch.randn(40, d, generator=g), dim=1)
    z = (torch.rand(steps * n, 40, generator=g) + 0.5) * (torch.rand(steps * n, 40, generator=g) < 0.08)
    x = z @ atoms + 0.02 * torch.randn(steps * n, d, generator=g)
    return (x / x.square().sum(1).mean().sqrt()).split(n)


def train_on(device, variant, steps, m=80):
    sparsity = 0.02 if variant in ("standard", "gated") else 4
    trainer = Trainer(Job(variant, sparsity, m), Recipe.scaled(steps, 256), 32, device)
    stats = [trainer.update(x.to(device)) for x in batches(steps)]
    return trainer, stats


@DEVICE
@pytest.mark.parametrize("variant", TRAINED)
def test_the_first_steps_of_training_are_the_cpus(device, variant):
    (mine, seen), (theirs, expected) = (train_on(where, variant, 4) for where in (device, "cpu"))
    for a, b in zip(seen, expected):
        assert a.loss == pytest.approx(b.loss, rel=2e-3) and pytest.approx(b.L0, rel=0.02, abs=0.1) == a.L0
    for name, t in mine.weights.tensors.items():
        exact = theirs.weights.tensors[name].detach()
        assert (t.detach().cpu() - exact).norm() <= 0.02 * exact.norm() + 1e-3, name


@DEVICE
@pytest.mark.parametrize("variant", ["topk", "batch_topk"])
def test_a_short_run_learns_as_much_as_on_the_cpu(device, variant):
    steps = 120 if GPU else 40
    x = batches(steps)[-1]
    fve = []
    for where in (device, "cpu"):
        trainer, stats = train_on(where, variant, steps)
        sae = trainer.sae(1.0, x.to(where)).requires_grad_(False)
        error = (x.to(where) - sae.decode(sae.encode_sparse(x.to(where)), x.to(where))).square().sum()
        fve.append(1 - float(error) / float((x - x.mean(0)).square().sum()))
        assert stats[-1].loss < 0.7 * stats[0].loss
    assert fve[0] == pytest.approx(fve[1], abs=0.03)


# --- evaluation -------------------------------------------------------------------------------------------------------


@DEVICE
def test_rows_of_an_evaluation_are_the_cpus(device):
    sae, x = sae_of()
    data = EvalData(Tokens(x, torch.arange(len(x)) // 11), None, "key")
    options = EvalOptions(protocols=("corrected", "as_released"), non_steps=20, released_tokens=100)

    def rows(where):
        return {(r["protocol"], r["mode"]): r for r in evaluate_sae(sae.to(where), data, options)}

    mine, theirs = rows(device), rows("cpu")
    assert mine.keys() == theirs.keys() and len(mine) == 6
    for key, row in theirs.items():
        loose = 0.05 if key[1] != "amortized" else 3e-3  # calibrated to 2 % on each device; rounding only
        for name in ("NMSE", "FVE", "L0", "dead_rate"):
            if name in row:
                assert mine[key][name] == pytest.approx(row[name], rel=loose, abs=loose), (key, name)
