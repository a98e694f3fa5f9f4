"""Every flaw of the released evaluation as a switch: all off is `as_released`, all on is `corrected`."""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn

from repro.base.errors import BadInput
from repro.codes import SparseCodes
from repro.inference import encode_as_released
from repro.sae import SAE


@dataclass(frozen=True)
class Rules:
    """What is put right; every field is False as released and True as corrected, in the order of the ablation."""

    layer: bool = False
    """Read the block that the SAE was trained on; released: the one before it (hidden_states[L])."""
    positions: bool = False
    """Leave out position 0, separators and outlying norms; released: every token."""
    tokens: bool = False
    """Evaluate all tokens, grouped by document; released: the first few, as one lump."""
    b_dec: bool = False
    """Subtract the decoder's bias before encoder and objective, and add it to the reconstruction."""
    encoder: bool = False
    """The checkpoint's own k, thresholds and gates; released: a tenth of the latents, or a plain ReLU."""
    sign: bool = False
    """Nonnegative codes; released: signed."""
    density: bool = False
    """Aim lambda at the encoder's mean L0; released: at Dense@0.1, which is a share of latents."""
    search: bool = False
    """Search lambda by bisection, for each mode at its own steps; released: nine values, 100 steps."""
    convergence: bool = False
    """Solve `non` to a certified gap; released: 200 steps."""
    held_out: bool = False
    """Score probes where they were not fitted; released: on the rows that fitted them."""
    labels: bool = False
    """Classes of documents; released: is the activation's norm above the median?"""

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The switches, in order."""
        return tuple(f.name for f in fields(cls))

    @property
    def dense(self) -> bool:
        """May codes fire most latents? They are then computed in the small blocks of the released protocol."""
        return not (self.encoder and self.density and self.search)

    def but(self, name: str, value: bool) -> Rules:
        """The same rules with one of them set."""
        return replace(self, **{name: value})


AS_RELEASED = Rules()
CORRECTED = Rules(**dict.fromkeys(Rules.names(), True))
TITLES = {
    "layer": "the SAE's own layer",
    "positions": "without position 0 and outliers",
    "tokens": "all evaluation tokens",
    "b_dec": "decoder bias used",
    "encoder": "the checkpoint's own encoder",
    "sign": "nonnegative codes",
    "density": "target: the encoder's L0",
    "search": "λ by bisection",
    "convergence": "certified optimum",
    "held_out": "probes held out",
    "labels": "class labels",
}


class Reading:
    """An SAE as some rules read it: the same names as an SAE's, with or without its bias and its own encoder."""

    def __init__(self, sae: SAE, rules: Rules):
        if sae.config.normalisation != "none":
            raise BadInput(
                "The released code knows no SAE that normalises each token; ablate one with normalisation 'none'."
            )
        self.rules, self.sae = rules, sae if rules.b_dec else without_bias(sae)
        self.config, self.W_dec, self.name = sae.config, sae.W_dec, sae.name
        self.target, self.decode = self.sae.target, self.sae.decode

    @torch.no_grad()
    def encode_sparse(self, x: Tensor) -> SparseCodes:
        """Codes by the rule of the encoder, negative ones left out where codes are nonnegative."""
        if self.rules.encoder:
            return self.sae.encode_sparse(x)
        codes = encode_as_released(self.sae, self.sae.encoder_input(x))
        return SparseCodes.from_dense(codes.to_dense().relu()) if self.rules.sign else codes


def without_bias(sae: SAE) -> SAE:
    """The SAE with b_dec = 0; everything else is shared with it, not copied."""
    out = copy.copy(sae)
    out._parameters = dict(sae._parameters)
    out.b_dec = nn.Parameter(torch.zeros_like(sae.b_dec), requires_grad=False)
    return out
