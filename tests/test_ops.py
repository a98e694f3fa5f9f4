"""Every implementation of every operation against float64 arithmetic written out here, on memory filled with NaN.

Triton runs in its interpreter where there is no GPU (small shapes: every number is a numpy call), on the GPU otherwise.
"""

import ast
import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from repro import ops
from repro.base.errors import BadInput
from repro.codes import SparseCodes
from repro.kernels.dispatch import kernel
from repro.solvers import objective


def each(*impls):
    """(impl, device) of every implementation; those on the GPU carry the mark."""
    cpu = [
        pytest.param(i, "cpu", id=i, marks=[] if i == "torch" or importlib.util.find_spec(i) else pytest.mark.skip)
        for i in impls
        if i != "triton" or not torch.cuda.is_available()
    ]
    gpu = [pytest.param(i, "cuda", id=f"{i}-cuda", marks=pytest.mark.gpu) for i in impls if i != "numba"]
    return pytest.mark.parametrize(("impl", "device"), cpu + gpu)


EVERY = each("torch", "numba", "triton")
SIGNS = pytest.mark.parametrize("nonneg", [True, False], ids=["nonneg", "signed"])
# n, d, m, k
SMALL = [(1, 7, 33, 33), (3, 5, 300, 1), (17, 19, 70, 5), (2, 33, 17, 3), (0, 4, 9, 2)]
LARGER = [(1823, 19, 257, 5), (17, 40, 4099, 32), (3, 8, 1000, 1000), (64, 1, 2048, 200), (5, 3, 1, 1)]
GPU = [(1823, 193, 4099, 37), (4096, 768, 16384, 32), (129, 2304, 8192, 64), (1, 768, 16384, 1)]


def shapes(impl, device):
    interpreted = impl == "triton" and device == "cpu"
    return SMALL if interpreted else SMALL + LARGER + (GPU if device == "cuda" else [])


@pytest.fixture(autouse=True)
def poisoned(poison):
    """New memory is no number."""
    poison(torch, "empty", "empty_like")


def close(actual, expected, rtol=1e-5, atol=2e-5):
    torch.testing.assert_close(actual.cpu().double(), expected.cpu().double(), rtol=rtol, atol=atol)


def encoder(n, d, m, device, seed=0):
    g = torch.Generator().manual_seed(seed)
    x, W, b = torch.randn(n, d, generator=g), torch.randn(d, m, generator=g) / d**0.5, torch.randn(m, generator=g) / 3
    return x.to(device), W.to(device), b.to(device)


def some_codes(n, m, k, device, dtype=torch.float32, seed=0):
    """Codes with different atoms in a row, of either sign, and rows that are padded."""
    g = torch.Generator().manual_seed(seed)
    indices = torch.stack([torch.randperm(m, generator=g)[:k] for _ in range(n)]) if n else torch.zeros(0, k).long()
    values = torch.randn(n, k, generator=g, dtype=torch.float64).to(dtype)
    empty = torch.arange(k) >= (torch.arange(n) % (k + 1))[:, None]
    return SparseCodes(values.masked_fill(empty, 0).to(device), indices.masked_fill(empty, 0).to(device), m)


# --- prox_step ------------------------------------------------------------------------------------------------------


@each("torch", "triton")
@SIGNS
@pytest.mark.parametrize("lam", ["number", "each row"])
def test_prox_step(impl, device, nonneg, lam):
    for n, d, m, _ in shapes(impl, device):
        z, atoms, r = (torch.randn(s, device=device) for s in ((n, m), (m, d), (n, d)))
        each_lam = 0.5 if lam == "number" else torch.rand(n, dtype=torch.float64, device=device)
        u = z.double() + 0.1 * r.double() @ atoms.double().T
        expected = objective.prox(u, torch.as_tensor(each_lam) * 0.1, nonneg)
        kept = z.clone()
        close(ops.prox_step(z, r, atoms, each_lam, 0.1, nonneg, impl=impl), expected)
        assert torch.equal(z, kept)
        across = z.clone().T.contiguous().T  # memory in another order
        close(ops.prox_step(across, r, atoms, each_lam, 0.1, nonneg, out=across, impl=impl), expected)
        close(ops.prox_step(z, r, atoms, each_lam, 0.1, nonneg, out=z, impl=impl), expected)


@each("torch", "triton")
@pytest.mark.parametrize(("precision", "unit"), [("tf32x3", 2**-20), ("tf32", 2**-9), ("bf16", 2**-7)])
def test_precisions_err_by_their_unit(impl, device, precision, unit):
    z, atoms, r = (torch.randn(s, device=device) for s in ((17, 40), (40, 90), (17, 90)))
    exact = z.double() + r.double() @ atoms.double().T
    found = ops.prox_step(z, r, atoms, 0.0, 1.0, False, impl=impl, precision=precision).double()
    scale = z.double().abs() + r.double().abs() @ atoms.double().abs().T
    assert ((found - exact).abs() <= unit * scale).all()
    if precision == "bf16":
        assert ((found - exact).abs() > 2**-12 * scale).any()


# --- encode ---------------------------------------------------------------------------------------------------------


def assert_selected(codes, pre, expected):
    """Codes hold `expected` [n, m], up to choices between scores that differ by rounding only; and hold them tidily."""
    z = codes.to_dense().double()
    on = z > 0
    close(z[on], pre[on])
    close(z.sort(1).values, expected.sort(1).values)
    assert (codes.values >= 0).all() and codes.values.shape[1] == max(1, int(codes.l0.max()) if len(codes) else 1)
    used = codes.values > 0
    ascending = (codes.indices.diff(dim=1) > 0) | ~used[:, 1:]
    assert ascending.all() and (codes.indices[~used] == 0).all() and (used.int().diff(dim=1) <= 0).all()


@EVERY
def test_encode_topk(impl, device):
    for n, d, m, k in shapes(impl, device):
        x, W, b = encoder(n, d, m, device)
        pre = x.double() @ W.double() + b.double()
        best = pre.topk(k, dim=1)
        expected = torch.zeros_like(pre).scatter(1, best.indices, best.values.relu())
        assert_selected(ops.encode_topk(x, W, b, k, impl=impl), pre, expected)
        assert_selected(ops.encode_topk(x, W.T.contiguous().T, b, k, impl=impl), pre, expected)


@EVERY
def test_encode_topk_of_groups(impl, device):
    for n, d, m, _ in shapes(impl, device):
        if m < 9:
            continue
        sizes = [1, m // 3, m - m // 3 - 1]
        ks = [1, 2, m // 4]
        x, W, b = encoder(n, d, m, device, seed=1)
        pre = x.double() @ W.double() + b.double()
        parts = [p * (p >= p.topk(k, dim=1).values[:, -1:]) for p, k in zip(pre.split(sizes, 1), ks)]
        assert_selected(ops.encode_topk(x, W, b, ks, sizes, impl=impl), pre, torch.cat(parts, 1).relu())


@EVERY
@pytest.mark.parametrize("threshold", [-0.0, -1.0, 0.0, 0.8, 1e6])
def test_encode_above(impl, device, threshold):
    for n, d, m, _ in shapes(impl, device):
        x, W, b = encoder(n, d, m, device, seed=2)
        pre = x.double() @ W.double() + b.double()
        assert_selected(ops.encode_above(x, W, b, threshold, impl=impl), pre, pre * (pre > max(threshold, 0.0)))


def whole(n, d, m, device, seed=0):
    """An encoder of small whole numbers: every product is exact, many scores are equal."""
    g = torch.Generator().manual_seed(seed)
    x, W, b = (torch.randint(-2, 3, shape, generator=g).float().to(device) for shape in ((n, d), (d, m), (m,)))
    return x, W, b, (x.double() @ W.double() + b.double())


@EVERY
def test_gates_thresholds_and_magnitudes_of_every_latent(impl, device):
    for n, d, m, _ in shapes(impl, device):
        x, W, b, pre = whole(n, d, m, device)
        gate, shift = (torch.randint(-3, 4, (m,), device=device).float() for _ in range(2))
        scale = torch.rand(m, device=device) + 0.5
        expected = (pre > gate) * (scale * pre + shift).relu()
        found = ops.encode_gated(x, W, b, gate, scale, shift, impl=impl)
        assert torch.equal(found.to_dense() > 0, expected > 1e-6)  # rounding may leave a little of 0
        assert_selected(found, expected, expected)
        found = ops.encode_above(x, W, b, gate, impl=impl)
        assert torch.equal(found.to_dense().double(), pre * (pre > gate.clamp_min(0)))


@EVERY
def test_the_largest_of_a_whole_batch(impl, device):
    for n, d, m, k in shapes(impl, device):
        for count in (0, n * min(k, 8), n * m):
            x, W, b, pre = whole(n, d, m, device)
            found = ops.encode_batch_topk(x, W, b, count, impl=impl)
            z, positive = found.to_dense().double(), pre[pre > 0]
            best = positive.sort(descending=True).values[:count]
            assert torch.equal(z[z > 0].sort(descending=True).values, best)
            assert torch.equal(z[z > 0], pre[z > 0])
            if 0 < len(best) < len(positive):  # of equal ones the first
                tied = (pre == best[-1]).flatten().nonzero().squeeze(1)
                kept = (z.flatten()[tied] > 0).tolist()
                assert kept == sorted(kept, reverse=True)


@EVERY
def test_a_batch_whose_sample_says_nothing(impl, device, monkeypatch):
    """All large scores lie in a row that the sample leaves out, and the other way round."""
    monkeypatch.setattr("repro.kernels.encode_batch.SAMPLE", 80)  # 4 rows of 20 latents
    monkeypatch.setattr("repro.kernels.encode_batch.ROWS", 1)
    for loud in (1, 0):
        x = torch.zeros(9, 1, device=device)
        x[loud] = 100
        W, b = torch.ones(1, 20, device=device), torch.arange(1.0, 21, device=device)
        pre = x @ W + b
        found = ops.encode_batch_topk(x, W, b, 50, impl=impl).to_dense()
        assert torch.equal(found[found > 0].sort(descending=True).values, pre.flatten().topk(50).values)


@EVERY
def test_strictly_above_and_the_leftmost_of_equal_scores(impl, device):
    one, W = torch.ones(2, 1, device=device), torch.zeros(1, 300, device=device)
    b = torch.tensor([0.0, 2, 1, 3, 2, -1, 2, 3], device=device).repeat(38)[:300]
    assert (
        ops.encode_above(one, W, b, 2.0, impl=impl).indices.tolist() == [[j for j in range(300) if j % 8 in (3, 7)]] * 2
    )
    for k in (1, 3, 80):  # 75 threes, then twos
        codes = ops.encode_topk(one, W, b, k, impl=impl)
        assert codes.values.sum(1).tolist() == [3 * min(k, 75) + 2 * max(0, k - 75)] * 2
        if impl != "torch":
            threes, twos = ([j for j in range(300) if j % 8 in c] for c in ((3, 7), (1, 4, 6)))
            assert codes.indices[0].tolist() == sorted((threes + twos)[:k])


@each("triton")
def test_rows_that_the_sample_says_nothing_about(impl, device):
    """Every eighth latent, which sets the first threshold, is silent: far more candidates than there is room for."""
    x, W, b = encoder(3, 4, 700, device)
    b += 5
    b[::8] = -50
    pre = x.double() @ W.double() + b.double()
    best = pre.topk(2, dim=1)
    expected = torch.zeros_like(pre).scatter(1, best.indices, best.values)
    assert_selected(ops.encode_topk(x, W, b, 2, impl=impl), pre, expected)
    assert_selected(ops.encode_above(x, W, b, impl=impl), pre, pre.relu())  # two passes: more than it made room for


@EVERY
def test_silent_rows_and_latents(impl, device):
    x, W, b = encoder(5, 6, 150, device)
    for codes in (ops.encode_topk(x, W, b - 100, 4, impl=impl), ops.encode_above(x, W, b - 100, impl=impl)):
        assert codes.values.shape == (5, 1) and codes.l0.max() == 0 and codes.indices.max() == 0
    x[2] *= 1e4  # rows of very different L0
    pre = x.double() @ W.double() + b.double()
    assert_selected(ops.encode_above(x, W, b, 20.0, impl=impl), pre, pre * (pre > 20))


# --- decode ---------------------------------------------------------------------------------------------------------


@EVERY
def test_decode_and_its_gradients(impl, device):
    for n, d, m, k in shapes(impl, device):
        m, k = min(m, 90) if n < 4 else m, min(k, 64)
        codes, atoms, grad = some_codes(n, m, k, device), torch.randn(m, d), torch.randn(n, d)
        z = codes.to_dense().double().cpu()
        v, D = codes.values.clone().requires_grad_(), atoms.to(device).requires_grad_()
        x_hat = ops.decode(v, codes.indices, D, impl=impl)
        close(x_hat.detach(), z @ atoms.double(), atol=1e-4)
        x_hat.backward(grad.to(device))
        close(v.grad, (grad.double() @ atoms.double().T).gather(1, codes.indices.cpu()), atol=1e-4)
        close(D.grad, z.T @ grad.double(), atol=1e-3)


@EVERY
def test_a_latent_that_always_fires(impl, device):
    n, d = 60, 3
    indices = torch.tensor([[4, 1]], device=device).repeat(n, 1)
    values, grad = torch.rand(n, 2, device=device), torch.randn(n, d, device=device)
    D = torch.randn(7, d, device=device).requires_grad_()
    ops.decode(values, indices, D, impl=impl).backward(grad)
    expected = torch.zeros(7, d, dtype=torch.float64)
    expected[[4, 1]] = (values.double().T @ grad.double()).cpu()
    close(D.grad, expected)


@EVERY
def test_gradcheck(impl, device):
    codes = some_codes(3, 4, 2, device, torch.float64)
    values = codes.values.clone().requires_grad_()
    atoms = torch.randn(4, 3, dtype=torch.float64, device=device).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda v, D: ops.decode(v, codes.indices, D, impl=impl), (values, atoms), nondet_tol=1e-10
    )


@EVERY
def test_repeated_atoms_add_up(impl, device):
    indices = torch.tensor([[2, 2, 0]], device=device)
    values, atoms = torch.tensor([[1.0, 3.0, 0.0]], device=device), torch.eye(3, device=device)
    assert ops.decode(values, indices, atoms, impl=impl).tolist() == [[0, 0, 4]]


# --- firing_stats ---------------------------------------------------------------------------------------------------


@EVERY
def test_firing_stats(impl, device):
    for n, _, m, k in shapes(impl, device):
        codes = some_codes(n, m, min(k, 64), device)
        y = (torch.rand(n) < 0.4).long().to(device)
        z = codes.to_dense().double().clamp_min(0)
        found = ops.firing_stats(codes, y, impl=impl)
        assert torch.equal(found.fired, (z > 0).sum(0))
        for sum_, expected in ((found.z, z.sum(0)), (found.zz, (z * z).sum(0)), (found.zy, y.double() @ z)):
            assert sum_.dtype == torch.float64
            torch.testing.assert_close(sum_, expected, rtol=1e-12, atol=1e-12)
        assert ops.firing_stats(codes, impl=impl).zy.abs().sum() == 0


# --- coordinate_descent ---------------------------------------------------------------------------------------------


def restricted(n, w, d, device, dtype, seed=0):
    """Gram matrices, codes, correlations and targets of n small problems; the last third of the slots is padding."""
    g = torch.Generator().manual_seed(seed)
    A, x = (torch.randn(s, generator=g, dtype=torch.float64) for s in ((n, w, d), (n, d)))
    A = A / A.norm(dim=2, keepdim=True)
    A[:, w - w // 3 :] = 0
    u = torch.rand(n, w, generator=g, dtype=torch.float64) * (torch.rand(n, w, generator=g) < 0.3) * (A[:, :, 0] != 0)
    r = x - (u.unsqueeze(1) @ A).squeeze(1)
    tensors = A @ A.mT, u, (A @ r.unsqueeze(2)).squeeze(2), r.square().sum(1)
    return A, x, [t.to(device, dtype) for t in tensors]


@each("torch", "triton")
@SIGNS
def test_coordinate_descent_finds_the_restricted_optimum(impl, device, nonneg):
    """No condition of optimality is violated, and the correlations are those of the codes."""
    interpreted = impl == "triton" and device == "cpu"
    sizes = [(1, 1, 3), (2, 17, 24), (3, 6, 1)] + ([] if interpreted else [(33, 40, 80), (5, 129, 300)])
    for n, w, d in sizes:
        for dtype, atol, target in ((torch.float64, 1e-6, 1e-12), (torch.float32, 2e-4, 1e-6)):
            A, x, (G, u, q, energy) = restricted(n, w, d, device, dtype)
            lam = torch.linspace(0.1, 0.6, n, dtype=torch.float64)
            limits = {"energy": energy, "target": target, "steps": 40 * w}
            found, correlations = ops.coordinate_descent(G, u, q, lam, nonneg, **limits, impl=impl)
            z, used = found.cpu().double(), A[:, :, 0] != 0
            c = (A @ (x - (z.unsqueeze(1) @ A).squeeze(1)).unsqueeze(2)).squeeze(2)
            close(correlations, c, atol=atol)
            off = ((c if nonneg else c.abs()) - lam.unsqueeze(1)).clamp_min(0)
            violation = torch.where(z != 0, (c - lam.unsqueeze(1) * z.sign()).abs(), off)
            assert violation.max() < 10 * atol and (z[~used] == 0).all()
            assert not nonneg or (z >= 0).all()


@each("torch", "triton")
def test_coordinate_descent_stops_at_its_target(impl, device):
    A, x, (G, u, q, energy) = restricted(3, 20, 12, device, torch.float64)
    near, _ = ops.coordinate_descent(
        G, u, q, 0.2, energy=energy, target=torch.tensor([0.0, 1.0, 1e9]), steps=160, impl=impl
    )
    far, _ = ops.coordinate_descent(G, u, q, 0.2, energy=energy, target=1e9, steps=160, impl=impl)
    once, _ = ops.coordinate_descent(G, u, q, 0.2, steps=16, impl=impl)
    close(far, once)  # sixteen steps are taken before the first look
    close(near[2], far[2])

    def primal(u, i):
        r = x[i] - u[i].cpu().double() @ A[i]
        return float(0.5 * r.square().sum() + 0.2 * u[i].abs().sum())

    assert primal(near, 0) < primal(far, 0) - 1e-6
    best, _ = ops.coordinate_descent(G, u, q, 0.2, energy=energy, steps=4000, impl="torch")
    assert primal(near, 1) - primal(best, 1) <= 1.0
    empty = [t[:0] for t in (G, u, q)]
    assert ops.coordinate_descent(*empty, 0.2, impl=impl)[0].shape == (0, 20)


# --- which implementation -------------------------------------------------------------------------------------------


def test_auto_takes_what_is_installed_and_fits(monkeypatch):
    def chosen(operation, t):
        return kernel(operation, "auto", t).__name__.removeprefix("repro.kernels.")

    half = torch.zeros(1, dtype=torch.bfloat16)
    assert chosen("prox_step", torch.zeros(1)) == "reference" and chosen("decode", half) == "reference"
    if importlib.util.find_spec("numba"):
        assert chosen("decode", torch.zeros(1)) == "cpu.decode"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert chosen("decode", torch.zeros(1)) == "reference"


def test_half_precision_goes_through_torch():
    codes, atoms = some_codes(4, 6, 3, "cpu"), torch.randn(6, 5).bfloat16()
    assert ops.decode(codes.values, codes.indices, atoms).dtype == torch.bfloat16


def test_triton_without_a_gpu_is_refused(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    codes = some_codes(2, 6, 3, "cpu")
    with pytest.raises(BadInput, match="needs tensors on a GPU, not on cpu"):
        ops.firing_stats(codes, impl="triton")


@pytest.mark.parametrize(("package", "extra"), [("numba", "cpu"), ("triton", "gpu")])
def test_a_missing_package_names_its_extra(monkeypatch, package, extra):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setitem(sys.modules, package, None)
    for module in [name for name in sys.modules if name.startswith("repro.kernels.")]:
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(BadInput, match=f"{package} is not installed: pip install 'repro\\[{extra}\\]'"):
        ops.firing_stats(some_codes(2, 6, 3, "cpu"), impl=package)


def test_bad_input_is_refused_in_one_sentence():
    x, W, b = encoder(3, 4, 9, "cpu")
    codes = some_codes(3, 9, 2, "cpu")
    z = torch.zeros(3, 9)
    bad = [
        lambda: ops.encode_topk(x, W, b, 10),
        lambda: ops.encode_topk(x, W, b, 0),
        lambda: ops.encode_topk(x, W, b, [1, 1], [4, 4]),
        lambda: ops.encode_topk(x, W, b, [1], [4, 5]),
        lambda: ops.encode_topk(x, W, b, 2, impl="tritn"),
        lambda: ops.encode_topk(x, W, b, 2, precision="fp8"),
        lambda: ops.encode_topk(x, W, b[:5], 2),
        lambda: ops.encode_topk(x, W.double(), b, 2),
        lambda: ops.encode_above(x[:, :3], W, b),
        lambda: ops.encode_above(x.bfloat16(), W.bfloat16(), b.bfloat16(), impl="numba"),
        lambda: ops.encode_above(x.double(), W.double(), b.double(), impl="triton"),
        lambda: ops.encode_above(x, W, b, torch.zeros(2)),
        lambda: ops.encode_gated(x, W, b, b, b, b.double()),
        lambda: ops.encode_batch_topk(x, W, b, -1),
        lambda: ops.prox_step(z, x, W, 0.1, 0.1),
        lambda: ops.prox_step(z, x, W.T, torch.ones(2), 0.1),
        lambda: ops.prox_step(z, x, W.T, 0.1, 0.1, impl="numba"),
        lambda: ops.prox_step(z, x, W.T, 0.1, 0.1, out=z[:2]),
        lambda: ops.decode(codes.values, codes.indices, W.T[:1]),
        lambda: ops.decode(codes.values, codes.indices[:2], W.T),
        lambda: ops.firing_stats(codes, torch.ones(2)),
        lambda: ops.coordinate_descent(z[None], z, z, 0.1),
        lambda: ops.coordinate_descent(z.T[None, :3, :3], z[:1, :3], z[:1, :3], torch.ones(2)),
        lambda: ops.coordinate_descent(z.T[None, :3, :3], z[:1, :3], z[:1, :3], 0.1, steps=-1),
        lambda: ops.coordinate_descent(z.T[None, :3, :3], z[:1, :3], z[:1, :3], 0.1, target=0.1),
        lambda: ops.coordinate_descent(z.T[None, :3, :3], z[:1, :3].double(), z[:1, :3], 0.1),
    ]
    for call in bad:
        with pytest.raises(BadInput) as error:
            call()
        assert "\n" not in str(error.value)
    with pytest.raises(BadInput, match="did you mean 'triton'"):
        ops.decode(codes.values, codes.indices, W.T, impl="tritn")


def test_threads_change_nothing():
    before = torch.get_num_threads()
    x, W, b = encoder(50, 6, 300, "cpu")
    codes, atoms = some_codes(50, 300, 7, "cpu"), torch.randn(300, 6)

    def run():
        v, D = codes.values.clone().requires_grad_(), atoms.clone().requires_grad_()
        ops.decode(v, codes.indices, D).square().sum().backward()
        return ops.encode_topk(x, W, b, 5).to_dense(), ops.encode_above(x, W, b, 0.5).to_dense(), v.grad, D.grad

    one = run()
    try:
        torch.set_num_threads(3)
        many = run()
        stats = ops.firing_stats(codes)
    finally:
        torch.set_num_threads(before)
    for a, c in zip(one, many):
        torch.testing.assert_close(a, c)
    torch.testing.assert_close(stats.zz, ops.firing_stats(codes).zz)


@pytest.mark.parametrize("impl", ["torch", "numba"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nonzeros_are_all_there_in_order_and_nothing_else(impl, dtype):
    for n, m in ((1, 1), (3, 17), (17, 40), (1823, 5), (0, 7)):
        z = torch.randn(n, m, dtype=dtype) * (torch.rand(n, m) < 0.3)
        values, indices = ops.nonzeros(z, impl=impl)
        for row, v, c in zip(z, values, indices):
            at = row.nonzero()[:, 0].tolist()
            assert c[: len(at)].tolist() == at and v[: len(at)].tolist() == row[at].tolist()
            assert not v[len(at) :].any() and not c[len(at) :].any()
        assert values.shape[1] == max(1, int((z != 0).sum(1).max()) if n else 1)
    full, nothing = torch.ones(2, 9), torch.zeros(2, 9)
    assert ops.nonzeros(full, impl=impl)[1].tolist() == [list(range(9))] * 2
    assert ops.nonzeros(nothing, impl=impl)[0].tolist() == [[0.0]] * 2
    strided = torch.randn(6, 8)[:, ::2]
    assert torch.equal(ops.nonzeros(strided, impl=impl)[0], strided)


def test_evaluations_encode_through_the_operations_only():
    """No module of an evaluation calls the dense encoder, multiplies by W_enc or selects scores for itself."""
    package, dense = Path(ops.__file__).parent, []
    files = [f for folder in ("evaluate", "inference", "metrics", "solvers") for f in (package / folder).glob("*.py")]
    assert len(files) > 20
    for file in files:
        tree = ast.parse(file.read_text())
        for part in ast.walk(tree):
            if isinstance(part, ast.FunctionDef) and part.name == "released_codes":
                part.body = []  # dense by definition: a tenth of all latents, of either sign
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                method, owner = node.func.attr, ast.unparse(node.func.value)
                if method in ("pre", "activate", "train_activate") or (method == "encode" and owner.endswith("sae")):
                    dense.append(f"{file.name}:{node.lineno} {ast.unparse(node)}")
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult) and "enc" in ast.unparse(node):
                dense.append(f"{file.name}:{node.lineno} {ast.unparse(node)}")
    assert not dense, dense
