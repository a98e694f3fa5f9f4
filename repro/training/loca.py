"""LocA-SAE, phases 2 and 3: angular variance, its groups, and the grouped SAE built from a trained Top-K."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor

from repro.errors import BadInput
from repro.sae import SAE
from repro.variants import LocA

GROUP_KS = (6, 5, 4, 3, 3, 2, 2, 1)
"""k of the eight released groups, group 0 = highest angular variance."""


@torch.no_grad()
def angular_variance(
    sae: SAE, batches: Iterable[Tensor], protocol: Literal["as_released", "corrected"] = "corrected"
) -> tuple[Tensor, Tensor]:
    """(AV [m] float64, tokens each latent fired on [m]): AV_j = 1 - ||mean of x/||x|| over tokens where j fires||.

    as_released: latents that never fire keep a mean of 0, hence AV = 1, the highest of all.
    corrected: they get NaN, and a count correction removes what few tokens add: the squared length of a mean of c unit
    vectors exceeds that of the true mean direction by (1 - R^2) / (c - 1) in expectation, so R^2 is shrunk by it; a
    latent that fired once has no variance to estimate and gets NaN too.
    """
    total = torch.zeros(sae.config.m, sae.config.d, dtype=torch.float64, device=sae.W_dec.device)
    count = torch.zeros(sae.config.m, dtype=torch.float64, device=sae.W_dec.device)
    for x in batches:
        on = (sae.encode(x) > 0).double()
        total += on.T @ (x / x.norm(dim=1, keepdim=True).clamp_min(1e-12)).double()
        count += on.sum(0)
    length = (total / count.clamp_min(1).unsqueeze(1)).norm(dim=1)
    if protocol == "as_released":
        return 1 - length, count
    squared = (count * length.square() - 1) / (count - 1)  # unbiased for ||E x/||x|| ||^2
    variance = 1 - squared.clamp(0, 1).sqrt()
    return torch.where(count > 1, variance, torch.nan), count


def group(variance: Tensor, n_groups: int = len(GROUP_KS)) -> list[Tensor]:
    """Latents by falling angular variance, cut into equal groups; NaN (never fired) goes last.

    Raises BadInput when the groups cannot be equal: the release drops the remaining latents there.
    """
    m = len(variance)
    if m % n_groups:
        raise BadInput(f"{m} latents do not divide into {n_groups} equal groups; choose a multiple of {n_groups}.")
    order = torch.argsort(-variance.nan_to_num(nan=-torch.inf), stable=True)
    return list(order.split(m // n_groups))


@torch.no_grad()
def regroup(sae: SAE, groups: Sequence[Tensor], group_ks: Sequence[int] = GROUP_KS) -> LocA:
    """The grouped SAE with this SAE's weights, latents in group order, a top-k of its own in every group (phase 3).

    It keeps the input convention of `sae` (centring, normalisation), so that only the selection rule changes.
    """
    if len(groups) != len(group_ks):
        raise BadInput(f"There are {len(groups)} groups but {len(group_ks)} group_ks; give one k a group.")
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
