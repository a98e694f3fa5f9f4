"""Angular variance and the grouped SAE against the values of the released code, and against hand examples."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from repro.base.errors import BadInput
from repro.loca.variance import GROUP_KS, angular_variance, group, group_ks, ranking, regroup, uncentred
from repro.sae import TopK

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(params=["a", "b"])
def released(request):
    g = np.load(GOLDEN / f"published_{request.param}.npz")
    meta = json.loads((GOLDEN / f"published_{request.param}.json").read_text())["loca"]
    d, m = g["W_enc"].shape
    # the released modules leave the normalisation of x to the data loader; these values were taken on raw x
    sae = TopK(TopK.Config(d, m, k=meta["global_k"], centred=False))
    with torch.no_grad():
        sae.W_enc.copy_(torch.tensor(g["W_enc"]))
        sae.b_enc.copy_(torch.tensor(g["b_enc"][0]))
        sae.W_dec.copy_(torch.tensor(g["D"]).T)
    return g, meta, sae, torch.tensor(g["X"])


def close(a, b):
    return torch.allclose(a.float(), torch.tensor(b), rtol=1e-4, atol=1e-5)


def test_phase_one_codes(released):
    g, _, sae, x = released
    z = sae.encode(x)
    assert close(z, g["loca_standard_acts"])
    assert close(z @ sae.W_dec, g["loca_standard_recon"])


def test_angular_variance_and_groups(released):
    g, meta, sae, x = released
    variance, _ = angular_variance(sae, x.split(37), "as_released")
    assert close(variance, g["loca_angular_variance"])
    order = torch.cat(group(variance, meta["n_groups"]))
    theirs = torch.tensor(g["loca_sorted"])
    assert torch.allclose(variance[order], variance[theirs], atol=1e-6)  # the same order, up to ties


def test_grouped_codes(released):
    g, meta, sae, x = released
    groups = torch.tensor(g["loca_sorted"]).chunk(meta["n_groups"])
    grouped = regroup(sae, groups, meta["group_ks"])
    z = grouped.encode(x)
    assert close(z, g["loca_multi_acts"])
    assert close(z @ grouped.W_dec, g["loca_multi_recon"])


def test_hand_example():
    sae = TopK(TopK.Config(2, 3, k=3))
    with torch.no_grad():  # latent 0 fires where x_0 > 0, latent 1 where x_1 > 0, latent 2 never
        sae.W_enc.copy_(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
    x = torch.tensor([[2.0, 0.0], [3.0, 4.0], [0.0, -1.0]])
    released, count = angular_variance(sae, [x], "as_released")
    assert count.tolist() == [2, 1, 0]
    # latent 0: mean of (1, 0) and (.6, .8) = (.8, .4), length sqrt(.8); latent 1 fires once; latent 2 never
    assert released.tolist() == pytest.approx([1 - 0.8**0.5, 0, 1], abs=1e-6)
    corrected, _ = angular_variance(sae, [x])
    assert corrected[0].item() == pytest.approx(1 - 0.6**0.5)  # (2 * .8 - 1) / 1 = .6 = the product of the two
    assert corrected[1:].isnan().all()
    assert [g.tolist() for g in group(corrected, 3)] == [[0], [1], [2]]


def test_count_correction_is_unbiased():
    generator = torch.Generator().manual_seed(0)
    mean = torch.tensor([0.5, 0.0, 0.0])
    sae = TopK(TopK.Config(3, 1, k=1))
    with torch.no_grad():
        sae.b_enc.fill_(1e9)  # always fires
    many = torch.nn.functional.normalize(mean + torch.randn(200_000, 3, generator=generator), dim=1)
    truth = many.double().mean(0).norm().item() ** 2
    few = [angular_variance(sae, [b])[0].item() for b in many[:20_000].split(5)]
    squared = [(1 - v) ** 2 for v in few]
    assert abs(np.mean(squared) - truth) < 0.15 * truth + 0.05  # clipping at 0 leaves a little
    naive = [angular_variance(sae, [b], "as_released")[0].item() for b in many[:20_000].split(5)]
    assert np.mean([(1 - v) ** 2 for v in naive]) > truth + 0.1


def test_latents_without_a_score_fill_the_groups_up():
    nan = float("nan")
    score = torch.tensor([0.1, nan, 0.9, 0.5, nan, 0.7, 0.3, nan, 0.2, 0.8, nan])
    groups = [g.tolist() for g in group(score, 3)]
    # ranked: 2 9 5 | 3 6 | 8 0; never fired: 1 4 7 10, in turn; sizes 4 4 3
    assert groups == [[2, 9, 5, 1], [3, 6, 4, 7], [8, 0, 10]]
    assert [len(g) for g in group(torch.full((10,), nan), 4)] == [3, 3, 2, 2]
    assert [g.tolist() for g in group(torch.tensor([1.0, 3.0, 2.0]), 1)] == [[1, 2, 0]]


def test_budgets_add_up_to_k_and_are_the_released_ones_at_26():
    assert group_ks(26) == GROUP_KS and group_ks(20) == (5, 4, 3, 2, 2, 2, 1, 1)
    for k in range(1, 80):
        for n in range(1, min(k, 20) + 1):
            for equal in (False, True):
                ks = group_ks(k, n, equal)
                assert len(ks) == n and sum(ks) == k and min(ks) >= 1
                assert list(ks) == sorted(ks, reverse=True) and (not equal or ks[0] - ks[-1] <= 1)


def test_every_rule_ranks_the_latents_that_have_a_variance():
    g = torch.Generator().manual_seed(1)
    sae = TopK(TopK.Config(6, 20, k=2))
    with torch.no_grad():
        sae.W_enc.copy_(torch.randn(6, 20, generator=g))
        sae.b_enc[:5] = -100  # never fire
    x = torch.randn(300, 6, generator=g)
    variance, count = angular_variance(sae, [x[:150], x[150:]])
    known = ~variance.isnan()
    assert not known[:5].any() and (count[~known] < 2).all() and known.sum() > 8
    for rule in ("angular_variance", "frequency", "random"):
        assert torch.equal(ranking(rule, variance, count).isnan(), ~known)
    assert torch.equal(ranking("frequency", variance, count)[known], count[known])
    chance = [ranking("random", variance, count, seed)[known] for seed in (3, 3, 4)]
    assert torch.equal(chance[0], chance[1]) and not torch.equal(chance[0], chance[2])
    assert angular_variance(sae, [x], "as_released")[0][0] == 1
    with pytest.raises(BadInput, match="cannot be grouped by 'size'"):
        ranking("size", variance, count)
    dense = TopK(TopK.Config(6, 20, k=20))  # the other way to sum, where most latents fire
    dense.load_state_dict(sae.state_dict())
    unit = x / x.norm(dim=1, keepdim=True)
    on = (dense.encode(x) > 0).float()
    mean = (on.T @ unit) / on.sum(0)[:, None].clamp_min(1)
    assert torch.allclose(angular_variance(dense, [x], "as_released")[0].float(), 1 - mean.norm(dim=1), atol=1e-5)


def test_folding_the_decoder_bias_changes_nothing():
    g = torch.Generator().manual_seed(2)
    sae = regroup(TopK(TopK.Config(5, 8, k=2)), torch.arange(8).chunk(2), (1, 1))
    with torch.no_grad():
        for p in sae.parameters():
            p.copy_(torch.randn(p.shape, generator=g))
    x, folded = torch.randn(30, 5, generator=g), uncentred(sae)
    assert sae.centred and not folded.centred and uncentred(folded) is folded
    assert torch.allclose(folded.encode(x), sae.encode(x), atol=1e-5)
    assert torch.allclose(folded(x), sae(x), atol=1e-5)


def test_refusals():
    with pytest.raises(BadInput, match="do not divide"):
        group(torch.zeros(10), 4, uneven=False)
    with pytest.raises(BadInput, match="cannot form 11 groups"):
        group(torch.zeros(10), 11)
    with pytest.raises(BadInput, match="raise k or use fewer"):
        group_ks(7, 8)
    sae = TopK(TopK.Config(2, 4, k=1))
    with pytest.raises(BadInput, match="one k a group"):
        regroup(sae, torch.arange(4).chunk(2), (1,))
