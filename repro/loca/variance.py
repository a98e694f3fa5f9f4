"""LocA-SAE, phases 2 and 3: angular variance, its groups, and the grouped SAE built from a trained Top-K."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor

from repro.base.config import Grouping
from repro.base.errors import BadInput
from repro.sae import SAE, LocA
from repro.training.places import SPARSE_BELOW

GROUP_KS = (6, 5, 4, 3, 3, 2, 2, 1)
"""k of the eight released groups, group 0 = highest angular variance; they add up to 26, after a global k of 20."""

Protocol = Literal["as_released", "corrected"]


@torch.no_grad()
def angular_variance(sae: SAE, batches: Iterable[Tensor], protocol: Protocol = "corrected") -> tuple[Tensor, Tensor]:
    """(AV [m] float64, tokens each latent fired on [m]): AV_j = 1 - ||mean of x/||x|| over tokens where j fires||.

    as_released: latents that never fire keep a mean of 0, hence AV = 1, the highest of all.
    corrected: they get NaN, and a count correction removes what few tokens add: the squared length of a mean of c unit
    vectors exceeds that of the true mean direction by (1 - R^2) / (c - 1) in expectation, so R^2 is shrunk by it; a
    latent that fired once has no variance to estimate and gets NaN too.
    """
    total = torch.zeros(sae.config.m, sae.config.d, dtype=torch.float64, device=sae.W_dec.device)
    count = torch.zeros(sae.config.m, dtype=torch.float64, device=sae.W_dec.device)
    for x in batches:
        on = sae.encode(x) > 0
        total += _sums(on, (x / x.norm(dim=1, keepdim=True).clamp_min(1e-12)).double())
        count += on.sum(0)
    length = (total / count.clamp_min(1).unsqueeze(1)).norm(dim=1)
    return 1 - length if protocol == "as_released" else corrected_variance(1 - length, count), count


def corrected_variance(released: Tensor, count: Tensor) -> Tensor:
    """The corrected angular variance [m] from the released one and how many tokens each latent fired on."""
    squared = (count * (1 - released).square() - 1) / (count - 1)  # unbiased for ||E x/||x|| ||^2
    return torch.where(count > 1, 1 - squared.clamp(0, 1).sqrt(), torch.nan)


def _sums(on: Tensor, unit: Tensor) -> Tensor:
    """on.T @ unit: for each latent the sum of the rows [n, d] it fires on, touching only those where few fire."""
    if on.is_cuda or int(on.count_nonzero()) > SPARSE_BELOW * on.numel():
        return on.to(unit.dtype).T @ unit
    latent, token = on.T.contiguous().nonzero(as_tuple=True)
    ends = torch.zeros(on.shape[1] + 1, dtype=torch.int64)
    ends[1:] = torch.bincount(latent, minlength=on.shape[1]).cumsum(0)
    ones = torch.ones(len(token), dtype=unit.dtype)
    return torch.sparse_csr_tensor(ends, token, ones, tuple(on.T.shape), check_invariants=False) @ unit


def ranking(rule: Grouping, variance: Tensor, count: Tensor, seed: int = 0) -> Tensor:
    """Score [m] that `rule` sorts latents by, from their angular variance and firing counts.

    A latent without an angular variance gets NaN under every rule, so that all rules rank the same latents.
    """
    if rule == "angular_variance":
        return variance
    if rule == "frequency":
        by = count.double()
    elif rule == "random":
        by = torch.rand(len(count), generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(count.device)
    else:
        raise BadInput(f"Latents cannot be grouped by '{rule}': choose angular_variance, frequency or random.")
    return torch.where(variance.isnan(), torch.nan, by)


def group(score: Tensor, n_groups: int = len(GROUP_KS), uneven: bool = True) -> list[Tensor]:
    """Latents by falling score, cut into groups whose sizes differ by one at most.

    Latents without a score (NaN: never fired, or once) are set apart: the others are cut into equal groups, and these
    fill the groups up in turn, so that no group is one of dead latents. uneven=False: BadInput when the groups cannot
    be equal, where the release drops the remaining latents and then stops with a shape error.
    """
    m = len(score)
    if not 1 <= n_groups <= m:
        raise BadInput(f"{m} latents cannot form {n_groups} groups: choose between 1 and {m}.")
    if m % n_groups and not uneven:
        raise BadInput(f"{m} latents do not divide into {n_groups} equal groups: choose a multiple of {n_groups}.")
    scored = ~score.isnan()
    ranked = torch.argsort(torch.where(scored, -score, torch.inf), stable=True)[: int(scored.sum())]
    apart = (~scored).nonzero().squeeze(1)
    heads = ranked.tensor_split(n_groups)
    sizes = [m // n_groups + (i < m % n_groups) for i in range(n_groups)]
    tails = apart.split([size - len(head) for size, head in zip(sizes, heads, strict=True)])
    return [torch.cat([head, tail]) for head, tail in zip(heads, tails, strict=True)]


def group_ks(k: int, n_groups: int = len(GROUP_KS), equal: bool = False) -> tuple[int, ...]:
    """A total of exactly k over the groups, at least 1 each: equal, or in proportion to the released budgets.

    Largest remainders. (The release adds 6 latents on the way from 20 to 26.)
    """
    if not 1 <= n_groups <= k:
        raise BadInput(f"A total of k = {k} cannot give each of {n_groups} groups one latent: raise k or use fewer.")
    weights = [1 if equal else GROUP_KS[i * len(GROUP_KS) // n_groups] for i in range(n_groups)]
    share = [w * k / sum(weights) for w in weights]
    out = [max(1, int(s)) for s in share]
    while sum(out) != k:
        step = 1 if sum(out) < k else -1
        able = [i for i in range(n_groups) if step > 0 or out[i] > 1]
        best = max(able, key=lambda i: step * (share[i] - out[i]))
        out[best] += step
    return tuple(out)


@torch.no_grad()
def regroup(sae: SAE, groups: Sequence[Tensor], group_ks: Sequence[int] = GROUP_KS) -> LocA:
    """The grouped SAE with this SAE's weights, latents in group order, a top-k of its own in every group (phase 3).

    It keeps the input convention of `sae` (centring, normalisation), so that only the selection rule changes.
    """
    if len(groups) != len(group_ks):
        raise BadInput(f"There are {len(groups)} groups but {len(group_ks)} group_ks: give one k a group.")
    order = torch.cat(list(groups))
    config = LocA.Config(
        sae.config.d,
        sae.config.m,
        group_sizes=tuple(len(g) for g in groups),
        group_ks=tuple(group_ks),
        centred=sae.config.centred,
        normalisation=sae.config.normalisation,
    )
    out = LocA(config).to(sae.W_dec.device)
    out.W_enc.copy_(sae.W_enc[:, order])
    out.b_enc.copy_(sae.b_enc[order])
    out.W_dec.copy_(sae.W_dec[order])
    out.b_dec.copy_(sae.b_dec)
    return out


def uncentred(sae: SAE) -> SAE:
    """The same SAE with what subtracting b_dec does folded into b_enc, as the released files need it."""
    if not sae.centred:
        return sae

    out = copy.deepcopy(sae)
    out.config = dataclasses.replace(sae.config, centred=False)
    with torch.no_grad():
        out.b_enc.sub_(out.b_dec @ out.W_enc)
    return out
