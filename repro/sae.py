"""SAE: weights, encode, decode, and the methods that a variant overrides."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from repro.codes import SparseCodes
from repro.errors import BadInput


@dataclass(frozen=True)
class Config:
    """Shape of an SAE; variants add their own knobs."""

    d: int
    """Width of the activations."""
    m: int
    """Number of latents."""


@dataclass
class Source:
    """Where an SAE came from; kept with every result row."""

    family: str = ""
    path: str = ""
    sha256: str = ""
    step: int | None = None
    layer: int | None = None
    lm_name: str = ""
    sparsity: float | None = None
    k: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)


class SAE(nn.Module):
    """A sparse autoencoder with ReLU latents; atoms are the rows of W_dec.

    Shapes: x [n, d], W_enc [d, m], b_enc [m], W_dec [m, d], b_dec [d], z [n, m], float32.
    encode(x) = activate(pre(x)) is exactly what the training library computes at inference.
    A variant overrides `activate` (and, for training, `train_activate` and `penalty`).
    """

    name: ClassVar[str] = ""
    Config: ClassVar[type[Config]] = Config
    centred: bool = True  # is b_dec subtracted before the encoder?

    def __init__(self, config: Any, source: Source | None = None):
        super().__init__()
        if config.d < 1 or config.m < 1:
            raise BadInput(f"An SAE needs d >= 1 and m >= 1, not d = {config.d}, m = {config.m}.")
        self.config = config
        self.source = source or Source(family=self.name)
        d, m = config.d, config.m
        self.W_enc = nn.Parameter(torch.zeros(d, m))
        self.b_enc = nn.Parameter(torch.zeros(m))
        self.W_dec = nn.Parameter(torch.zeros(m, d))
        self.b_dec = nn.Parameter(torch.zeros(d))

    # --- what variants override ---------------------------------------------------------------
    def activate(self, pre: Tensor) -> Tensor:
        """Pre-activations [n, m] -> codes [n, m] at inference."""
        return pre.relu()

    def train_activate(self, pre: Tensor) -> Tensor:
        """Codes during training; BatchTopK selects over the whole batch here."""
        return self.activate(pre)

    def normalise(self, x: Tensor) -> Tensor:
        """Input in the units that the encoder was trained on; per-token normalisations override this."""
        return x

    def denormalise(self, x_hat: Tensor, x: Tensor | None) -> Tensor:
        """Undo `normalise` on a reconstruction; x is the raw input it depends on."""
        return x_hat

    # --- what everybody calls -----------------------------------------------------------------
    def pre(self, x: Tensor) -> Tensor:
        """Pre-activations [n, m] of raw activations x [n, d]."""
        x = self.normalise(x)
        return (x - self.b_dec if self.centred else x) @ self.W_enc + self.b_enc

    def encode(self, x: Tensor) -> Tensor:
        """x [n, d] -> codes z [n, m], exactly as the training library at inference."""
        return self.activate(self.pre(x))

    def decode(self, z: Tensor | SparseCodes, x: Tensor | None = None) -> Tensor:
        """Codes -> x_hat [n, d] in raw units; x is needed only by SAEs that normalise each token."""
        y = z.decode(self.W_dec) if isinstance(z, SparseCodes) else z @ self.W_dec
        return self.denormalise(y + self.b_dec, x)

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x), x)

    def target(self, x: Tensor) -> Tensor:
        """What the atoms have to explain, [n, d]: the normalised input minus b_dec."""
        return self.normalise(x) - self.b_dec

    @torch.no_grad()
    def encode_sparse(self, x: Tensor, block: int = 4096) -> SparseCodes:
        """encode, block by block, kept as nonzeros: never holds more than block x m numbers."""
        self.check_input(x)
        parts = [SparseCodes.from_dense(self.encode(x[i : i + block])) for i in range(0, max(len(x), 1), block)]
        return SparseCodes.cat(parts)

    def check_input(self, x: Tensor) -> None:
        """Raise BadInput unless x is [n, d] with this SAE's d and finite."""
        if x.ndim != 2 or x.shape[1] != self.config.d:
            raise BadInput(
                f"The SAE reads activations of width {self.config.d}, but these have shape {tuple(x.shape)}; "
                "check the model and layer of the activations."
            )
        if not torch.isfinite(x).all():
            rows = int((~torch.isfinite(x).all(1)).sum())
            raise BadInput(f"{rows} of {len(x)} activations hold NaN or Inf; collect again in float32 or bfloat16.")

    def describe(self) -> dict[str, Any]:
        """Variant, config and source as plain values."""
        return {"variant": self.name, **asdict(self.config), "source": asdict(self.source)}
