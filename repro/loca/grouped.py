"""LocA's phase 4: training with a top-k of its own in every group of latents, and a usage penalty with a gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from repro.base.errors import BadInput
from repro.sae import VARIANTS
from repro.training.losses import Loss, Situation, pre_activations, top_k_loss
from repro.training.places import places_at
from repro.training.recipe import Job
from repro.training.trainer import Stats, Trainer
from repro.training.weights import Weights

FVE_MEMORY = 0.9  # of the moving average of FVE that a run may stop on
USAGE_MEMORY = 0.99  # of the moving average of how often each latent fires


class LocaTrainer(Trainer):
    """A Trainer for `LocaJob`s: the selection by groups, the usage penalty, and stopping on FVE."""

    job: LocaJob

    saved = (*Trainer.saved, "usage", "fve", "stopped")

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.usage = torch.zeros(self.job.m, device=self.device)  # moving average of the share of tokens it fires on
        self.fve = math.nan
        self._fired = self.usage

    def update(self, x: Tensor, buffer: Tensor | None = None) -> Stats:
        stats = super().update(x, buffer)
        fve = 1 - stats.sse / (float((x - x.mean(0)).square().sum()) / len(x))
        self.fve = fve if math.isnan(self.fve) else FVE_MEMORY * self.fve + (1 - FVE_MEMORY) * fve
        self.stopped = self.job.stop_fve is not None and self.fve >= self.job.stop_fve
        return stats

    def _loss(self, x: Tensor, buffer: Tensor | None = None) -> Loss:
        if self.job.variant == "topk":
            return super()._loss(x, buffer)
        at, w = self._situation(buffer), self.weights
        bias, pre = pre_activations(w, x, at)
        flat, edges = group_top_k(pre, self.job.group_sizes, self.job.group_ks)
        positive = flat[pre.view(-1)[flat] > 0] % self.job.m
        self._fired = torch.bincount(positive, minlength=self.job.m).to(x.dtype) / len(x)
        loss = top_k_loss(w, x, at, bias, pre, flat)
        if self.job.usage_weight > 0 and self.step >= max(1, self.job.usage_start):
            edge = edges.repeat_interleave(torch.tensor(self.job.group_sizes, device=pre.device), dim=1)
            loss.total = loss.total + self.job.usage_weight * self._penalty(w, x, at, bias, pre, edge)
        return loss

    def _penalty(self, w: Weights, x: Tensor, at: Situation, bias: Tensor, pre: Tensor, edge: Tensor) -> Tensor:
        """mean_j (usage_j / target - 1)^2 of the moving average, with a straight-through gradient to this batch.

        A latent fires where its score exceeds the edge of its group's selection. The derivative of that step is
        taken as 1 / window within half a window of the edge, and 0 elsewhere, as JumpReLU's is.
        """
        target = self.job.sparsity / self.job.m
        excess = self.usage / target - 1
        near = ((pre - edge).abs_() < self.job.usage_window / 2).view(-1).nonzero().squeeze(1)
        places = places_at(pre, near, at.sparse)
        score = places.per_latent(places.keep(places.read(x, w.rows, bias)))
        through = (score * excess).sum() * (2 / (target * self.job.m * len(x) * self.job.usage_window))
        return excess.square().mean() + through - through.detach()

    def _follow(self, loss: Loss) -> None:
        super()._follow(loss)
        if self.job.variant == "loca":
            self.usage = self._fired if self.step == 0 else torch.lerp(self._fired, self.usage, USAGE_MEMORY)


@dataclass(frozen=True)
class LocaJob(Job):
    """A Top-K SAE (variant topk) or a grouped one (variant loca); `sparsity` is k, or the sum of group_ks."""

    trainer_class: ClassVar[Any] = LocaTrainer

    group_sizes: tuple[int, ...] = ()
    """Latents of each group, in order (loca)."""
    group_ks: tuple[int, ...] = ()
    """Latents that a token may use in each group (loca)."""
    normalisation: Literal["none", "unit_norm"] = "none"
    """unit_norm: the SAE divides each token by its norm; training then has to be given such tokens."""
    usage_weight: float = 0.0
    """Weight of the usage penalty, the mean over latents of (usage / (sum of group_ks / m) - 1)^2."""
    usage_start: int = 0
    """Step from which the penalty applies."""
    usage_window: float = 0.05
    """Scores this near to the edge of a group's selection, in units of the input's norm, carry its gradient."""
    stop_fve: float | None = None
    """End training once the moving average of FVE on training batches reaches this."""

    def __post_init__(self) -> None:
        if self.variant != "loca":
            super().__post_init__()
            return
        object.__setattr__(self, "sparsity", float(self.sparsity))
        if sum(self.group_ks) != self.sparsity:
            raise BadInput(f"group_ks {self.group_ks} add up to {sum(self.group_ks)}, not to {self.sparsity:g}.")
        self.config(1)

    @property
    def sparsity_name(self) -> str:
        """k, or total_k for the sum of group_ks."""
        return "total_k" if self.variant == "loca" else "k"

    def config(self, d: int) -> Any:
        """The config of the SAE for activations of width d."""
        options: dict[str, Any] = {"k": int(self.sparsity)}
        if self.variant == "loca":
            options = {"group_sizes": self.group_sizes, "group_ks": self.group_ks, "centred": True}
        return VARIANTS[self.variant].Config(d, self.m, normalisation=self.normalisation, **options)


def group_top_k(pre: Tensor, sizes: Sequence[int], ks: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Flat positions [n sum(ks)], by token, of the k_i largest scores of each group of pre [n, m]; the least of each
    group's selection, [n, groups].
    """
    n, m = pre.shape
    columns, edges, start = [], [], 0
    for size, k in zip(sizes, ks, strict=True):
        best = pre[:, start : start + size].topk(k, dim=1, sorted=False)
        columns.append(best.indices + start)
        edges.append(best.values.amin(1))
        start += size
    flat = torch.cat(columns, 1) + torch.arange(0, n * m, m, device=pre.device)[:, None]
    return flat.view(-1), torch.stack(edges, 1)
