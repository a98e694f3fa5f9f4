"""Trainer: one SAE with its optimizer and counters; one update a batch, a checkpoint or its full state at any step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from repro.sae import SAE, VARIANTS, Source
from repro.training.losses import LOSSES, Loss, Situation, general
from repro.training.recipe import Job, Recipe
from repro.training.weights import Weights, geometric_median


@dataclass(frozen=True)
class Stats:
    """What one update saw, before the weights moved."""

    step: int
    loss: float
    sse: float
    """Mean over tokens of |x - x_hat|^2, in units of the normalised input."""
    L0: float
    dead: float
    """Share of latents that have not fired for `dead_after_tokens`."""
    threshold: float
    lr: float


class Trainer:
    """An SAE in training on normalised activations x / scale. Nothing here is random after the initial weights."""

    saved: ClassVar[tuple[str, ...]] = ("silent", "step", "threshold", "last_threshold")
    """Attributes that the state holds besides weights and optimizer."""

    def __init__(
        self,
        job: Job,
        recipe: Recipe,
        d: int,
        device: torch.device | str = "cpu",
        start: SAE | None = None,
        scale: float = 1.0,
    ):
        """`start`: the SAE whose weights training begins from, for activations `scale` times the training input."""
        self.job, self.recipe, self.device = job, recipe, torch.device(device)
        self.weights = Weights(job, d, device)
        self.from_scratch = start is None
        if start is not None:
            self.weights.load_sae(start, scale)
        for name in job.stays:
            self.weights.tensors[name].requires_grad_(False)
        self.parameters = [t for t in self.weights.tensors.values() if t.requires_grad]
        # fused: one pass over memory instead of a dozen
        self.adam = torch.optim.Adam(self.parameters, betas=VARIANTS[job.variant].betas, fused=True)
        self.silent = torch.zeros(job.m, dtype=torch.long, device=device)  # tokens since each latent fired
        self.step = 0
        self.stopped = False  # set by trainers that may end before the last step
        self.threshold = -1.0  # moving average; -1 = not started
        self.last_threshold = 0.0

    def update(self, x: Tensor, buffer: Tensor | None = None) -> Stats:
        """One step on x [n, d]; `buffer` [n, m] is memory that may be overwritten."""
        recipe, w = self.recipe, self.weights
        if self.step == 0 and self.from_scratch and self.job.sparsity_name == "k":
            with torch.no_grad():
                w.b_dec.copy_(geometric_median(x))

        loss = self._loss(x, buffer)
        self.silent += len(x)
        self.silent[loss.fired] = 0
        loss.total.backward()
        if w.unit_norm and w.W_dec.requires_grad:
            remove_parallel(w.W_dec)
        torch.nn.utils.clip_grad_norm_(self.parameters, recipe.grad_clip)
        for group in self.adam.param_groups:
            group["lr"] = recipe.lr_at(self.step)
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        if w.unit_norm and w.W_dec.requires_grad:
            with torch.no_grad():
                w.W_dec.div_(w.W_dec.norm(dim=1, keepdim=True).clamp_min(1e-12))
        self._follow(loss)
        stats = Stats(
            self.step,
            float(loss.total.detach()),
            float(loss.error.square().sum()) / len(x),
            loss.nonzeros / len(x),
            float((self.silent >= recipe.dead_after_tokens).float().mean()),
            self.threshold,
            recipe.lr_at(self.step),
        )
        self.step += 1
        return stats

    @torch.no_grad()
    def sae(self, scale: float, x: Tensor, source: Source | None = None) -> SAE:
        """The SAE as it stands, for raw activations. A threshold whose average has not started is that of batch x."""
        if self.job.sparsity_name != "k":
            return self.weights.to_sae(scale, source=source)
        threshold = self.threshold if self.threshold >= 0 else self._loss(x).threshold or 0.0
        return self.weights.to_sae(scale, threshold, source)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors in training by name."""
        return self.weights.tensors

    def state(self) -> dict[str, Any]:
        """Everything that the next update depends on."""
        weights = {name: t.detach() for name, t in self.tensors().items()}
        return {"weights": weights, "adam": self.adam.state_dict()} | {name: getattr(self, name) for name in self.saved}

    @torch.no_grad()
    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned."""
        for name, t in self.tensors().items():
            t.copy_(state["weights"][name])
        self.adam.load_state_dict(state["adam"])
        for name in self.saved:
            value = state[name]
            setattr(self, name, value.to(self.device) if isinstance(value, Tensor) else value)

    def _loss(self, x: Tensor, buffer: Tensor | None = None) -> Loss:
        return LOSSES.get(self.job.variant, general)(self.weights, x, self._situation(buffer))

    def _situation(self, buffer: Tensor | None = None) -> Situation:
        return Situation(
            sparsity=self.job.sparsity,
            warm=self.recipe.sparsity_factor(self.step),
            bandwidth=self.recipe.bandwidth,
            auxk_alpha=self.recipe.auxk_alpha,
            silent=self.silent,
            dead_after=self.recipe.dead_after_tokens,
            guess=self.last_threshold,
            buffer=buffer,
        )

    def _follow(self, loss: Loss) -> None:
        """Moving average of the threshold."""
        if loss.threshold is None:
            return
        self.last_threshold = loss.threshold
        if self.step <= self.recipe.threshold_start_step:
            return
        beta = self.recipe.threshold_beta
        started = self.threshold >= 0
        self.threshold = beta * self.threshold + (1 - beta) * loss.threshold if started else loss.threshold


@torch.no_grad()
def remove_parallel(atoms: Tensor) -> None:
    """Take from the gradient of unit atoms [m, d] what points along them: it would only be undone by rescaling."""
    grad = atoms.grad
    assert grad is not None
    grad.addcmul_((grad * atoms).sum(1, keepdim=True), atoms, value=-1)
