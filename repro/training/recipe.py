"""What is trained, and how: Recipe (shared by all SAEs of a run), Job (one SAE), and the grids of sparsities."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from repro.base.errors import BadInput, nearest
from repro.sae import VARIANTS

SAEBENCH_STEPS = 244_140
LR_MAX = 8e-3
K_GRID = (20, 40, 80, 160, 320, 640)

TRAINED = tuple(name for name, variant in VARIANTS.items() if variant.sparsity)
"""Variants that this loop trains."""
SPARSITY_NAME = {name: VARIANTS[name].sparsity for name in TRAINED}
"""What `Job.sparsity` means for each of them: k, l1_penalty or target_l0."""


@dataclass(frozen=True)
class Recipe:
    """Training of SAEBench's dictionary_learning suite; the defaults are its values.

    `Recipe.scaled` shortens the warm-ups and windows for runs of fewer steps.
    """

    steps: int = SAEBENCH_STEPS
    """Updates; each sees one batch."""
    batch_size: int = 2048
    """Tokens a batch."""
    lr: float = 3e-4
    """Peak learning rate of Adam."""
    warmup_steps: int = 1000
    """Steps over which the learning rate rises linearly."""
    sparsity_warmup_steps: int = 5000
    """Steps over which the sparsity penalty rises linearly (Standard, Gated, JumpReLU)."""
    decay_start: float = 0.8
    """Share of the steps after which the learning rate falls linearly to 0."""
    grad_clip: float = 1.0
    """Largest norm of the gradient over all weights of an SAE."""
    auxk_alpha: float = 1 / 32
    """Weight of the AuxK loss, which revives dead latents of the top-k families; 0 = none."""
    dead_after_tokens: int = 10_000_000
    """Tokens without firing after which a latent counts as dead."""
    threshold_beta: float = 0.999
    """Memory of the moving average of the threshold (top-k families)."""
    threshold_start_step: int = 1000
    """Step after which that average starts."""
    bandwidth: float = 0.001
    """Width of JumpReLU's window around its thresholds, in units of the normalised input."""
    normalise: bool = True
    """Divide the input by sqrt(mean |x|^2) in training, and fold that scale back into what is saved."""
    checkpoints: tuple[float, ...] = (0, 1e-3, 10**-2.5, 1e-2, 10**-1.5, 1e-1, 10**-0.5, 1.0)
    """Shares of the training after which weights are saved; 1.0 is ae.pt itself."""
    seed: int = 0
    """Seed of the order of the tokens."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "lr", "grad_clip", "dead_after_tokens", "bandwidth"):
            if not getattr(self, name) > 0:
                raise BadInput(f"{name} is {getattr(self, name)}; it must be positive.")
        for name in ("warmup_steps", "sparsity_warmup_steps", "auxk_alpha", "threshold_start_step"):
            if not getattr(self, name) >= 0:
                raise BadInput(f"{name} is {getattr(self, name)}; it must not be negative.")
        if not 0 <= self.threshold_beta < 1:
            raise BadInput(f"threshold_beta is {self.threshold_beta}; it must lie in [0, 1).")
        if not 0 < self.decay_start <= 1:
            raise BadInput(f"decay_start is {self.decay_start}; it is a share of the steps, in (0, 1].")
        if any(not 0 <= share <= 1 for share in self.checkpoints):
            raise BadInput(f"checkpoints {self.checkpoints} must be shares of the training, between 0 and 1.")

    @classmethod
    def scaled(cls, steps: int, batch_size: int, **given: Any) -> Recipe:
        """The recipe for `steps` updates: SAEBench's where there are enough of them, shorter windows where not.

        A run of a few hundred steps cannot spend 1,000 on the warm-up, and at 3e-4 its weights would hardly move; so
        windows are capped at shares of the run, and the learning rate grows as the root of how much shorter it is.
        (Measured on the tiny model, m = 1,024, 500 steps, BatchTopK at k = 16, held-out FVE: .801 at 1.9e-3, .829 at
        4e-3, .840 at 8e-3, .839 at 1.2e-2 with eight times the dead latents.) `given` fields are taken as they are.
        """
        if steps < 1 or batch_size < 1:
            raise BadInput(f"steps and batch_size must be at least 1, not {steps} and {batch_size}.")
        values: dict[str, Any] = {
            "lr": min(LR_MAX, cls.lr * max(1.0, SAEBENCH_STEPS / steps) ** 0.5),
            "warmup_steps": min(cls.warmup_steps, steps // 20),
            "sparsity_warmup_steps": min(cls.sparsity_warmup_steps, steps // 5),
            "dead_after_tokens": min(cls.dead_after_tokens, max(1, steps * batch_size // 20)),
            "threshold_beta": min(cls.threshold_beta, max(0.0, 1 - 20 / steps)),
            "threshold_start_step": min(cls.threshold_start_step, steps // 2),
        }
        return cls(steps=steps, batch_size=batch_size, **(values | given))

    def checkpoint_steps(self) -> tuple[int, ...]:
        """Steps at which weights are saved: the shares of `checkpoints`, at least one step apart, within the run."""
        out: list[int] = []
        for share in sorted(set(self.checkpoints)):
            step = math.floor(share * self.steps)
            step = max(step, out[-1] + 1) if out else step
            if step <= self.steps:
                out.append(step)
        return tuple(out)

    def lr_at(self, step: int) -> float:
        """Learning rate of the update number `step` (from 0)."""
        start = math.floor(self.decay_start * self.steps)
        decay = (self.steps - step) / (self.steps - start) if step >= start and start < self.steps else 1.0
        return self.lr * min((step + 1) / max(self.warmup_steps, 1), 1.0) * decay

    def sparsity_factor(self, step: int) -> float:
        """Share of the sparsity penalty that is applied at this step."""
        return min(step / max(self.sparsity_warmup_steps, 1), 1.0)


@dataclass(frozen=True)
class Job:
    """One SAE to train."""

    variant: str
    """A name in TRAINED."""
    sparsity: float
    """k of the top-k families, the L1 coefficient of Standard and Gated, the target L0 of JumpReLU."""
    m: int
    """Number of latents."""
    seed: int = 0
    """Seed of the initial weights."""

    trainer_class: ClassVar[Any] = None
    """The class that trains it, with the methods of `trainer.Trainer`, where it is not that one."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "sparsity", float(self.sparsity))  # k = 4 and k = 4.0 are the same job
        if self.variant not in TRAINED:
            raise BadInput(
                f"Cannot train '{self.variant}'{nearest(self.variant, TRAINED)}; choose {', '.join(TRAINED)}."
            )
        if self.m < 1:
            raise BadInput(f"m is {self.m}; an SAE needs at least one latent.")
        name = self.sparsity_name
        if name == "l1_penalty" and not self.sparsity >= 0:
            raise BadInput(f"l1_penalty is {self.sparsity:g}; it must not be negative.")
        if name == "target_l0" and not 0 < self.sparsity <= self.m:
            raise BadInput(
                f"target_l0 is {self.sparsity:g}; it must lie between 0 and the number of latents, {self.m}."
            )
        if name == "k" and not (float(self.sparsity).is_integer() and 1 <= self.sparsity <= self.m):
            raise BadInput(
                f"k is {self.sparsity:g}; it must be a whole number from 1 to the number of latents, {self.m}."
            )

    @property
    def sparsity_name(self) -> str:
        """What `sparsity` is: k, l1_penalty or target_l0."""
        return str(SPARSITY_NAME[self.variant])

    @property
    def stays(self) -> tuple[str, ...]:
        """Names of the tensors in `weights.Weights` that stay as training begins."""
        return ()

    def config(self, d: int) -> Any:
        """The config of the SAE for activations of width d."""
        return VARIANTS[self.variant].trained_config(d, self.m, self.sparsity)


def sparsity_grid(variant: str, m: int, d: int) -> tuple[float, ...]:
    """SAEBench's six sparsities; k and target L0 are halved together until the largest is below d and m / 6.4.

    640 of 4,096 latents is the densest code of that suite (the 6.4), and a code with more nonzeros than the input
    has dimensions is no sparse code.
    """
    if SPARSITY_NAME[variant] == "l1_penalty":
        return VARIANTS[variant].l1_grid
    grid: tuple[int, ...] = K_GRID
    while grid[-1] > max(6, min(m / 6.4, d - 1)):
        grid = tuple(max(1, k // 2) for k in grid)
    return tuple(float(k) for k in dict.fromkeys(grid))
