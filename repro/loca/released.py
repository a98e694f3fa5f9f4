"""LocA-SAE as the released code trains it: no b_dec, atoms of unit norm only at the start, a stop at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from repro.loca.grouped import LocaJob
from repro.sae import SAE, VARIANTS, Source
from repro.training.recipe import Recipe
from repro.training.trainer import Stats, Trainer


class ReleasedTrainer(Trainer):
    """Plain Adam at a constant rate on the mean square error."""

    job: ReleasedJob
    saved = ("usage", "silent", "step", "stopped")

    def __init__(
        self,
        job: ReleasedJob,
        recipe: Recipe,
        d: int,
        device: torch.device | str = "cpu",
        start: SAE | None = None,
        scale: float = 1.0,
    ):
        self.job, self.recipe, self.device = job, recipe, torch.device(device)
        self.model: Any = VARIANTS[job.variant](job.config(d))
        if start is None:
            _linear_start(self.model, job.seed)
        else:
            self.model.load_state_dict(start.state_dict())
        self.model.to(device).requires_grad_(True).b_dec.requires_grad_(False)
        self.parameters = [self.model.W_enc, self.model.b_enc, self.model.W_dec]
        self.adam = torch.optim.Adam(self.parameters, lr=recipe.lr)
        self.usage = torch.zeros(job.m, device=device)
        self.silent = torch.zeros(job.m, dtype=torch.long, device=device)
        self.step, self.stopped = 0, False

    def update(self, x: Tensor, buffer: Tensor | None = None) -> Stats:
        """One step on tokens x [n, d] of unit norm."""
        z = self.model.train_activate(x @ self.model.W_enc + self.model.b_enc)
        mse = torch.nn.functional.mse_loss(z @ self.model.W_dec, x)
        loss = mse
        if self.job.variant == "loca":
            fired = (z.detach() > 0).float().mean(0)  # as released: no gradient passes through this comparison
            self.usage = fired if self.step == 0 else torch.lerp(fired, self.usage, 0.99)
            if self.step >= self.job.usage_start:
                excess = self.usage - self.job.sparsity / self.job.m
                loss = loss + self.job.usage_weight * excess.square().mean()
        self.silent += len(x)
        self.silent[(z.detach() > 0).any(0)] = 0
        loss.backward()
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        value = float(loss.detach())
        self.stopped = value <= self.job.target_loss
        stats = Stats(
            self.step,
            value,
            float(mse.detach()) * x.shape[1],
            int(torch.count_nonzero(z.detach())) / len(x),
            float((self.silent >= self.recipe.dead_after_tokens).float().mean()),
            -1.0,
            self.recipe.lr,
        )
        self.step += 1
        return stats

    @torch.no_grad()
    def sae(self, scale: float, x: Tensor, source: Source | None = None) -> SAE:
        """The SAE as it stands."""
        out = VARIANTS[self.job.variant](self.model.config, source).to(self.device)
        out.load_state_dict(self.model.state_dict())
        return out

    def tensors(self) -> dict[str, Tensor]:
        """The tensors in training by name, and the zeros of b_dec."""
        return self.model.state_dict()


@dataclass(frozen=True)
class ReleasedJob(LocaJob):
    """Phase 1 (topk) or 4 (loca) of the release, on tokens of unit norm."""

    trainer_class: ClassVar[Any] = ReleasedTrainer

    target_loss: float = 0.1
    """End training once the loss, a mean over tokens *and dimensions*, is at most this.

    A reconstruction of 0 has a loss of 1/d already, .0013 for d = 768: the released targets (.1 for Pythia, .001 for
    Gemma's 2,304 dimensions) are met by the first batch.
    """

    def config(self, d: int) -> Any:
        """The config of the SAE: x / |x| in, no b_dec."""
        cls = VARIANTS[self.variant].Config
        if self.variant == "loca":
            return cls(d, self.m, group_sizes=self.group_sizes, group_ks=self.group_ks)
        return cls(d, self.m, k=int(self.sparsity), centred=False, normalisation="unit_norm")


@torch.no_grad()
def _linear_start(model: SAE, seed: int) -> None:
    """Weights as torch.nn.Linear draws them, encoder and decoder apart, atoms then scaled to unit norm; biases 0."""
    d, m = model.config.d, model.config.m
    g = torch.Generator().manual_seed(seed)
    model.W_enc.copy_((2 * torch.rand(m, d, generator=g) - 1).div_(d**0.5).t())
    atoms = 2 * torch.rand(m, d, generator=g) - 1
    model.W_dec.copy_(atoms / atoms.norm(dim=1, keepdim=True))
