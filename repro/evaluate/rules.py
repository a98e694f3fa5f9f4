"""A protocol as a set of rules: every flaw of the released evaluation is a switch, off as released and on corrected."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from repro.base.errors import BadInput
from repro.codes import SparseCodes
from repro.inference import encode_as_released
from repro.sae import SAE


@dataclass(frozen=True)
class Rules:
    """Rules by which an SAE is read, encoded, refined and judged, in the order of the ablation."""

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
    """Solve `non`, and the reference of the encoder's gap, to a certified gap; released: 200 steps."""
    held_out: bool = False
    """Score probes where they were not fitted; released: on the rows that fitted them."""
    labels: bool = False
    """Classes of documents; released: is the activation's norm above the median?"""
    batch_evaluation: bool = False
    """The release's batch evaluation instead of its comparison scripts: the checkpoint's k for the encoder's own codes,
    and lambda from another grid of nine (`GRID_EXP5`), at a given density."""

    @property
    def dense(self) -> bool:
        """May codes fire most latents? They are then computed in the small blocks of the released protocol."""
        return not (self.encoder and self.density and self.search)

    def but(self, name: str, value: bool) -> Rules:
        """The same rules with one of them set."""
        return replace(self, **{name: value})


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
"""The switches between both protocols, in the order of the ablation."""
AS_RELEASED = Rules()
AS_RELEASED_BATCH = Rules(batch_evaluation=True)
CORRECTED = Rules(**dict.fromkeys(TITLES, True))


def rules_of(protocol: str, batch_evaluation: bool = False) -> Rules:
    """The rules of a protocol; `as_released` is the comparison scripts, or the batch evaluation."""
    released = AS_RELEASED_BATCH if batch_evaluation else AS_RELEASED
    return {"as_released": released, "corrected": CORRECTED}[protocol]


class Reading:
    """An SAE as some rules read it: the same names as an SAE's, with or without its bias and its own encoder.

    Without its bias, it knows no normalisation of tokens either: the released code has none.
    """

    def __init__(self, sae: SAE, rules: Rules):
        self.rules, self.sae = rules, sae
        self.config, self.W_dec, self.name = sae.config, sae.W_dec, sae.name
        if rules.encoder and not rules.b_dec:
            self.sae = _without_bias(sae)

    def target(self, x: Tensor) -> Tensor:
        """The target of the objective, [n, d]."""
        return self.sae.target(x) if self.rules.b_dec else x

    def decode(self, codes: SparseCodes, x: Tensor) -> Tensor:
        """The reconstruction of activations x in raw units, [n, d]."""
        return self.sae.decode(codes, x) if self.rules.b_dec else codes.decode(self.W_dec)

    @torch.no_grad()
    def encode_sparse(self, x: Tensor) -> SparseCodes:
        """Codes by the rule of the encoder, negative ones left out where codes are nonnegative."""
        return self._encode(x, None)

    @torch.no_grad()
    def amortized(self, x: Tensor) -> SparseCodes:
        """The codes of the mode amortized; the batch evaluation knows the checkpoint's k for them alone."""
        return self._encode(x, self.sae.source.k if self.rules.batch_evaluation else None)

    def _encode(self, x: Tensor, k: int | None) -> SparseCodes:
        if self.rules.encoder:
            return self.sae.encode_sparse(x)
        codes = encode_as_released(self.sae, self.sae.encoder_input(x) if self.rules.b_dec else x, k=k)
        return SparseCodes.from_dense(codes.to_dense().relu()) if self.rules.sign else codes


def _without_bias(sae: SAE) -> SAE:
    """The SAE with b_dec = 0; everything else is shared with it, not copied."""
    if sae.config.normalisation != "none":
        raise BadInput("An SAE that normalises each token has no encoder without b_dec: set the rule b_dec as well.")
    out = copy.copy(sae)
    out._parameters = dict(sae._parameters)
    out.b_dec = nn.Parameter(torch.zeros_like(sae.b_dec), requires_grad=False)
    return out
