"""The settings of LocA's four phases, as flags and notebooks give them; no torch at import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from repro.base.config import Grouping


@dataclass(frozen=True)
class Method:
    """The two ways to read the paper, and the sizes; None = what `repro.commands.loca` knows of a language model."""

    setting: Literal["corrected", "as_released"] = "corrected"
    """as_released = the released code with its flaws; corrected = the stated method."""
    m: int | None = None
    """Latents; 16,384, but 512 for tiny and 4,096 for smollm2-135m, if not given."""
    k: int = 20
    """k of the Top-K SAE of phase 1."""
    n_groups: int = 8
    """Groups of latents."""
    group_ks: tuple[int, ...] | None = None
    """k of every group; corrected: k in the released proportions, as_released: 6 5 4 3 3 2 2 1, if not given."""
    total_k: int | None = None
    """Declares that group_ks add up to this and not to k (corrected refuses an undeclared difference)."""
    groups: Grouping = "angular_variance"
    """How latents are sorted into groups; none = plain Top-K with the same training."""
    equal_budgets: bool = False
    """Give every group the same k."""
    fine_tune: bool = True
    """Train phase 4."""
    steps: int | None = None
    """Steps of phase 1; 50,000, but 400 for tiny and 2,000 for smollm2-135m, if not given."""
    fine_tune_steps: int | None = None
    """Steps of phase 4; as many as phase 1 if not given."""
    batch_size: int | None = None
    """Tokens a step; 2,048 (1,024 for gemma-2-2b, tiny and smollm2-135m) if not given."""
    lr: float | None = None
    """Peak learning rate of phase 1; phase 4 has half. 3e-4, grown for short runs (corrected), if not given."""
    stop_fve: float | None = None
    """corrected: end a phase once FVE on its training batches reaches this."""
    target_loss: float | None = None
    """as_released: mean square error that ends phase 1, phase 4 at 0.7 of it; .1 (.001 for gemma-2-2b) if not given."""
    usage_weight: float = 1e-3
    """Weight of the usage penalty of phase 4 (as_released: it has no gradient)."""
    variance_batches: int = 200
    """Batches that angular variance is measured on, at most."""
    seed: int = 42
    """Seed of weights, data order and random groups."""
