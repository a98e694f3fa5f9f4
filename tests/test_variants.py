"""Every variant: the same properties for all, and hand examples where they differ."""

import dataclasses
import math

import pytest
import torch
from sklearn.linear_model import Lasso

from repro.base.errors import BadInput
from repro.base.theme import PALETTE, variant_marker
from repro.inference import infer
from repro.sae import (
    GLU,
    SAE,
    VARIANTS,
    AbsTopK,
    BatchTopK,
    Gated,
    JumpReLU,
    LocA,
    MatchingPursuit,
    MatryoshkaBatchTopK,
    Standard,
    TopK,
)

D, M, N = 7, 30, 13
KNOBS = {"k": 4, "group_sizes": (6, 8, 16), "group_ks": (1, 2, 3)}


def random_sae(variant: str, seed: int = 0, unit: bool = True, **knobs) -> SAE:
    """An SAE with random weights, biases and thresholds."""
    cls = VARIANTS[variant]
    fields = {f.name for f in dataclasses.fields(cls.Config)}
    sae = cls(cls.Config(D, M, **{k: v for k, v in KNOBS.items() if k in fields} | knobs))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in sae.parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
        if unit:
            sae.W_dec.div_(sae.W_dec.norm(dim=1, keepdim=True))
        if isinstance(sae, BatchTopK):
            sae.threshold.fill_(0.9)
    return sae.requires_grad_(False)


def tokens(n: int = N, seed: int = 1) -> torch.Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed)) * 2 + 0.5


@pytest.mark.parametrize("variant", VARIANTS)
def test_codes_are_nonnegative_and_the_same_in_blocks(variant):
    sae, x = random_sae(variant), tokens()
    z = sae.encode(x)
    assert z.shape == (N, M)
    assert (z > 0).any()
    assert (sae.one_sided().encode(x) >= 0).all() and (variant == "abs_topk" or (z >= 0).all())
    sparse = sae.encode_sparse(x, block=5)
    assert torch.equal(sparse.to_dense(), torch.cat([sae.encode(b) for b in x.split(5)]))
    torch.testing.assert_close(sae.decode(sparse, x), sae.decode(sparse.to_dense(), x))
    assert sae.train_activate(sae.pre(x)).shape == (N, M)


@pytest.mark.parametrize("n", [1, 3, 17, 823])
@pytest.mark.parametrize("kind", [*VARIANTS, "batch_topk of a batch"])
def test_sparse_encoding_is_the_dense_one_and_never_dense(kind, n, monkeypatch):
    """Weights are small whole numbers, so that scores are exact and often equal; the dense path is then taken away."""
    variant, _, batch = kind.partition(" of a ")
    g = torch.Generator().manual_seed(n)
    groups = {"group_sizes": (1, 250, 750), "group_ks": (1, 20, 30)}
    knobs = {"k": 51, **groups, "normalisation": "none"} | ({"eval_activation": "batch_topk"} if batch else {})
    cls = VARIANTS[variant]
    fields = {f.name for f in dataclasses.fields(cls.Config)}
    sae = cls(cls.Config(19, 1001, **{name: value for name, value in knobs.items() if name in fields}))
    with torch.no_grad():
        for tensor in sae.state_dict().values():
            tensor.copy_(torch.randint(-2, 3, tensor.shape, generator=g))
        if isinstance(sae, Gated):
            sae.b_enc.zero_()
        if isinstance(sae, BatchTopK):
            sae.threshold.fill_(11)
    x = torch.randint(-3, 4, (n, 19), generator=g).float()
    dense = sae.encode(x)

    def refuse(*_):
        raise AssertionError("encode_sparse may not hold the matrix of all scores")

    for name in ("pre", "activate", "train_activate", "encode"):
        monkeypatch.setattr(type(sae), name, refuse)
    found = sae.encode_sparse(x)
    z = found.to_dense()
    assert (z > 0).any() and (variant == "abs_topk" or (found.values >= 0).all())
    if batch:
        z, dense = z.flatten(), dense.flatten()
    if cls.latents_compete:  # of equal scores torch.topk keeps any
        z, dense = z.abs().sort().values, dense.abs().sort().values
    assert torch.equal(z > 0, dense > 0)
    torch.testing.assert_close(z, dense, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_renormalised_reconstructs_the_same(variant):
    sae, x = random_sae(variant, unit=False), tokens()
    if sae.latents_compete:
        with pytest.raises(BadInput, match="would change which latents are selected"):
            sae.renormalised()
        sae = random_sae(variant)
    out = sae.renormalised()
    torch.testing.assert_close(out.W_dec.norm(dim=1), torch.ones(M))
    torch.testing.assert_close(out.decode(out.encode(x), x), sae.decode(sae.encode(x), x), rtol=1e-4, atol=1e-5)
    assert torch.equal(out.encode(x) != 0, sae.encode(x) != 0)
    torch.testing.assert_close(out.encode(x), sae.encode(x) * sae.W_dec.norm(dim=1), rtol=1e-4, atol=1e-5)


def test_renormalised_keeps_zero_atoms():
    sae = random_sae("standard")
    sae.W_dec[3] = 0
    out = sae.renormalised()
    assert torch.isfinite(out.W_enc).all() and (out.W_dec[3] == 0).all()


def test_the_release_decides_by_name_and_a_variant_for_itself():
    for name, cls in VARIANTS.items():
        if cls.trainer_class:
            assert cls.released_topk == ("topk" in name)
    assert {variant_marker(name)["color"] for name in [*VARIANTS, "another"]} <= set(PALETTE)


@pytest.mark.parametrize("variant", VARIANTS)
def test_permuting_latents_permutes_codes(variant):
    sae, x = random_sae(variant), tokens()
    sizes = getattr(sae.config, "group_sizes", (M,))  # latents stay in their group
    order = torch.cat([g[torch.randperm(len(g))] for g in torch.arange(M).split(sizes)])
    other = random_sae(variant)
    for name, tensor in other.state_dict().items():
        if tensor.ndim == 2 and tensor.shape[1] == M:
            tensor.copy_(sae.state_dict()[name][:, order])
        elif tensor.shape[:1] == (M,):
            tensor.copy_(sae.state_dict()[name][order])
    torch.testing.assert_close(other.encode(x), sae.encode(x)[:, order])
    torch.testing.assert_close(other(x), sae(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("normalisation", ["unit_norm", "sqrt_d_norm", "layer_norm"])
def test_normalised_tokens_make_codes_scale_free(variant, normalisation):
    sae, x = random_sae(variant, normalisation=normalisation), tokens()
    torch.testing.assert_close(sae.encode(3 * x), sae.encode(x), rtol=1e-4, atol=1e-4)
    z = sae.encode(x)
    torch.testing.assert_close(sae.decode(z, 3 * x), 3 * sae.decode(z, x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sae.target(3 * x), sae.target(x), rtol=1e-4, atol=1e-4)
    with pytest.raises(BadInput, match="call decode\\(z, x\\) with its input"):
        sae.decode(z)


def test_normalisations_by_hand():
    x = torch.tensor([[3.0, 4.0, 0.0, 0.0]])
    expected = {
        "none": x,
        "unit_norm": x / 5,
        "sqrt_d_norm": x * 2 / 5,  # norm sqrt(4)
        # mean 7/4, deviations (5, 9, -7, -7)/4, unbiased variance 204/48 = 4.25
        "layer_norm": torch.tensor([[5.0, 9.0, -7.0, -7.0]]) / 4 / (4.25**0.5 + 1e-5),
    }
    for name, value in expected.items():
        sae = Standard(Standard.Config(4, 2, normalisation=name))
        torch.testing.assert_close(sae.normalise(x), value)


def test_a_zero_token_stays_finite():
    for normalisation in ("unit_norm", "layer_norm"):
        sae = random_sae("standard", normalisation=normalisation)
        assert torch.isfinite(sae(torch.zeros(2, D))).all()


def identity_sae(cls, pre: torch.Tensor, **knobs) -> SAE:
    """An SAE whose pre-activations are its input."""
    m = pre.shape[1]
    sae = cls(cls.Config(m, m, **knobs)).requires_grad_(False)
    sae.W_enc.copy_(torch.eye(m))
    sae.W_dec.copy_(torch.eye(m))
    return sae


def test_topk_by_hand():
    x = torch.tensor([[3.0, -9.0, 1.0, 2.0], [-1.0, -2.0, 5.0, -3.0]])
    assert identity_sae(TopK, x, k=2).encode(x).tolist() == [[3, 0, 0, 2], [0, 0, 5, 0]]  # never a negative code


def test_latents_compete_by_their_part_of_the_reconstruction():
    """by_norm: scores 3, 1, 2 times norms 1, 4, 1 are 3, 4, 2, and codes are scores; with k = 2 of two tokens 3, 4."""
    x = torch.tensor([[3.0, 1.0, 2.0], [0.5, 0.5, 0.25]])
    for cls, k, knobs in ((TopK, 1, {}), (BatchTopK, 1, {"eval_activation": "batch_topk"})):
        sae = identity_sae(cls, x, k=k, by_norm=True, **knobs)
        sae.W_dec[1] *= 4
        expected = [[0, 1, 0], [0, 0.5, 0]] if cls is TopK else [[3, 1, 0], [0, 0, 0]]
        assert sae.encode(x).tolist() == sae.encode_sparse(x).to_dense().tolist() == expected
    with pytest.raises(BadInput, match="cannot weigh latents by_norm"):
        BatchTopK.Config(4, 5, k=2, by_norm=True)


def test_abs_topk_by_hand():
    x = torch.tensor([[3.0, -9.0, 1.0, 2.0], [-1.0, -2.0, 5.0, -3.0]])
    sae = identity_sae(AbsTopK, x, k=2)
    assert sae.encode(x).tolist() == [[3, -9, 0, 0], [0, 0, 5, -3]]
    one = sae.one_sided()
    assert one.encode(x).tolist() == [[3, 0, 0, 0, 0, 9, 0, 0], [0, 0, 5, 0, 0, 0, 0, 3]]
    assert torch.equal(one(x), sae(x))


@pytest.mark.parametrize("mode", ["amortized", "semi", "non"])
def test_signed_codes_take_part_in_all_modes(mode):
    """The nonnegative optimum over atoms and their negatives is the signed one, which scikit-learn computes."""
    sae, x = random_sae("abs_topk"), tokens(4)
    out = infer(sae, x, mode, lam=0.3, tol=1e-6)
    z = out.codes.to_dense()
    z = z[:, :M] - z[:, M:]
    if mode == "amortized":
        torch.testing.assert_close(z, sae.encode(x))
    if mode == "non":
        theirs = Lasso(alpha=0.3 / D, fit_intercept=False, tol=1e-10, max_iter=100_000)
        theirs.fit(sae.W_dec.T.double().numpy(), sae.target(x).T.double().numpy())
        x_hat = torch.from_numpy(theirs.coef_).float() @ sae.W_dec + sae.b_dec
        torch.testing.assert_close(out.x_hat, x_hat, rtol=1e-2, atol=1e-2)
        assert (z < 0).any()


def test_glu_by_hand():
    """Scores 2 and -1 with gates of one half and three quarters: 1 and, below its threshold of -2, nothing."""
    x = torch.tensor([[2.0, -1.0, 4.0]])
    sae = identity_sae(GLU, x)
    sae.b_gate.copy_(torch.tensor([0.0, math.log(3), 0.0]))
    sae.threshold.copy_(torch.tensor([0.0, -2.0, 2.0]))
    torch.testing.assert_close(sae.encode(x), torch.tensor([[1.0, 0.0, 0.0]]))
    torch.testing.assert_close(sae.pre(x), torch.tensor([[1.0, -0.75, 2.0]]))


def test_matching_pursuit_by_hand():
    """Atoms e1 and (e1 + e2) / sqrt 2: (2, 1) takes 3 / sqrt 2 of the second, then 1/2 of the first, then it again."""
    x, root = torch.tensor([[2.0, 1.0]]), 2**0.5
    sae = identity_sae(MatchingPursuit, x, max_iterations=2)
    sae.W_dec[1] = torch.tensor([1.0, 1.0]) / root
    torch.testing.assert_close(sae.encode(x), torch.tensor([[0.5, 3 / root]]))
    stopped = identity_sae(MatchingPursuit, x, max_iterations=2, residual_threshold=0.8)  # |r| is 1 / sqrt 2
    stopped.W_dec.copy_(sae.W_dec)
    torch.testing.assert_close(stopped.encode(x), torch.tensor([[0.0, 3 / root]]))


def test_batch_topk_by_hand():
    x = torch.tensor([[3.0, -9.0, 1.0, 2.0], [-1.0, 4.0, 5.0, -3.0]])
    sae = identity_sae(BatchTopK, x, k=2)
    assert sae.train_activate(sae.pre(x)).tolist() == [[3, 0, 0, 2], [0, 4, 5, 0]]
    one = identity_sae(BatchTopK, x, k=1)
    assert one.train_activate(one.pre(x)).tolist() == [[0, 0, 0, 0], [0, 4, 5, 0]]  # two latents for two tokens
    with pytest.raises(BadInput, match="eval_activation='batch_topk'"):
        one.encode(x)
    one.threshold.fill_(3.0)
    assert one.encode(x).tolist() == [[0, 0, 0, 0], [0, 4, 5, 0]]  # strictly above
    one.threshold.fill_(0.0)
    assert one.encode(x).tolist() == x.relu().tolist()
    fallback = identity_sae(BatchTopK, x, k=1, eval_activation="batch_topk")
    assert fallback.encode(x).tolist() == [[0, 0, 0, 0], [0, 4, 5, 0]]


def test_training_selection_passes_gradients():
    sae = random_sae("batch_topk").requires_grad_(True)
    z = sae.train_activate(sae.pre(tokens()))
    assert (z > 0).sum() == N * KNOBS["k"]
    z.sum().backward()
    assert (sae.b_enc.grad == (z > 0).sum(0)).all()


def test_gated_by_hand():
    x = torch.tensor([[1.0, 1.0, -1.0, 2.0]])
    sae = identity_sae(Gated, x)
    sae.gate_bias.copy_(torch.tensor([0.0, -1.0, 2.0, 0.0]))  # gate: 1 > 0, 0 > 0, 1 > 0, 2 > 0
    sae.mag_bias.copy_(torch.tensor([0.5, 0.5, 3.0, -9.0]))
    sae.r_mag.copy_(torch.log(torch.tensor([2.0, 2.0, 2.0, 2.0])))
    # magnitudes: 2 + .5, gate closed, -2 + 3, 4 - 9 cut off
    assert sae.encode(x)[0].tolist() == pytest.approx([2.5, 0, 1, 0])
    assert "b_enc" not in dict(sae.named_parameters())


def test_jumprelu_by_hand():
    x = torch.tensor([[1.0, 1.0, -1.0, 0.5]])
    sae = identity_sae(JumpReLU, x)
    sae.b_dec.fill_(100.0)  # not subtracted
    sae.threshold.copy_(torch.tensor([1.0, 0.9, -2.0, -1.0]))  # not above, above, above but negative, above
    assert sae.encode(x).tolist() == [[0, 1, 0, 0.5]]
    assert sae.decode(sae.encode(x)).tolist() == [[100, 101, 100, 100.5]]


def test_loca_by_hand():
    x = torch.tensor([[30.0, 40.0, -20.0, -10.0]])
    sae = identity_sae(LocA, x, group_sizes=(2, 2), group_ks=(1, 1))
    norm = 3000**0.5
    # the second group's winner is negative, so nothing of it remains
    torch.testing.assert_close(sae.encode(x), torch.tensor([[0.0, 40 / norm, 0.0, 0.0]]))
    torch.testing.assert_close(sae(x), torch.tensor([[0.0, 40.0, 0.0, 0.0]]))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Standard.Config(0, 5), "An SAE needs d >= 1 and m >= 1"),
        (lambda: Standard.Config(4, 5, normalisation="batch"), "must be one of none, unit_norm"),
        (lambda: TopK.Config(4, 5, k=0), "must lie between 1 and the number of latents, 5"),
        (lambda: TopK.Config(4, 5, k=6), "must lie between 1 and the number of latents, 5"),
        (lambda: BatchTopK.Config(4, 5, k=2, eval_activation="topk"), "must be threshold or batch_topk"),
        (lambda: MatryoshkaBatchTopK.Config(4, 5, k=2, group_sizes=(2, 2)), "add up to the 5 latents"),
        (lambda: LocA.Config(4, 5, group_sizes=(2, 3), group_ks=(1,)), "give one k a group"),
        (lambda: LocA.Config(4, 5, group_sizes=(2, 3), group_ks=(1, 4)), "must lie between 1 and the group sizes"),
        (lambda: LocA.Config(4, 5, group_sizes=(), group_ks=()), "add up to the 5 latents"),
    ],
)
def test_refuses_impossible_configs(make, sentence):
    with pytest.raises(BadInput, match=sentence):
        make()


def test_refuses_activations_that_do_not_fit():
    sae = random_sae("topk")
    with pytest.raises(BadInput, match="reads activations of width 7, but these have shape \\(5, 8\\)"):
        sae.encode_sparse(torch.zeros(5, 8))
    with pytest.raises(BadInput, match="2 of 5 activations hold NaN or Inf"):
        sae.encode_sparse(torch.tensor([[float("nan")] * D] * 2 + [[0.0] * D] * 3))
