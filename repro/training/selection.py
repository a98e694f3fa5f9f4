"""Selection of the top-k families: the k largest of each row, or the n k largest of the batch; exact, fast."""

from __future__ import annotations

import torch
from torch import Tensor

GROUP = 16  # latents whose maximum stands for them in the first pass of row_top_k


def row_top_k(pre: Tensor, k: int) -> Tensor:
    """Flat positions [n k] of the k largest of each row of pre [n, m], as torch.topk finds them.

    For many latents in two passes: the k largest lie in the k groups with the largest maxima, so only those groups
    are looked at one by one.
    """
    n, m = pre.shape
    groups = m // GROUP
    if m % GROUP == 0 and groups >= 8 * k and m >= 4096:
        by_group = pre.view(n, GROUP, groups)  # group g holds the latents g, g + groups, ...
        best = by_group.amax(1).topk(k, dim=1, sorted=False).indices
        candidates = by_group.gather(2, best[:, None, :].expand(n, GROUP, k)).view(n, GROUP * k)
        within = candidates.topk(k, dim=1, sorted=False).indices
        columns = best.gather(1, within % k) + torch.div(within, k, rounding_mode="floor") * groups
    else:
        columns = pre.topk(k, dim=1, sorted=False).indices
    return (columns + torch.arange(0, n * m, m, device=pre.device)[:, None]).view(-1)


def batch_top_k(pre: Tensor, count: int, guess: float = 0.0) -> Tensor:
    """Flat positions, ascending, of the `count` largest positive entries of pre [n, m] (fewer if fewer are positive).

    Entries tied with the smallest kept one are all kept. `guess`, about the value of that entry, only makes it
    faster: everything above 0.9 guess is looked at first, all positive entries if that was not enough.
    """
    flat = pre.view(-1)
    for floor in (0.9 * guess, 0.0):
        positions = (flat > max(floor, 0.0)).nonzero().squeeze(1)
        if len(positions) >= count or floor <= 0:
            break
    if len(positions) <= count:
        return positions
    values = flat[positions]
    return positions[values >= kth_largest(values, count)]


def kth_largest(values: Tensor, k: int) -> Tensor:
    """The k-th largest of values [p], []."""
    return values.kthvalue(len(values) - k + 1).values
