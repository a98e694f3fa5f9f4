"""Standard: ReLU latents, with the decoder bias subtracted first, and the older form without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from repro import ops
from repro.codes import SparseCodes
from repro.sae import base


class Standard(base.SAE):
    """z = ReLU((x - b_dec) W_enc + b_enc): dictionary_learning's AutoEncoder, SAELens's standard.

    Atoms keep the norms that the file gives them (StandardTrainerAprilUpdate leaves them free);
    `renormalised` gives the same reconstruction with unit atoms.
    """

    name = "standard"
    sparsity: ClassVar[Literal["l1_penalty"] | None] = "l1_penalty"
    free_norms = True
    trainer_class = "StandardTrainerAprilUpdate"

    def encode_block(self, x: Tensor) -> SparseCodes:
        return ops.encode_above(self.encoder_input(x), self.W_enc, self.b_enc)


@dataclass(frozen=True)
class UncentredConfig(base.Config):
    """Knobs of the un-centred form."""

    centred: bool = False
    """b_dec is only added on decoding."""


class StandardUncentred(Standard):
    """z = ReLU(x W_enc + b_enc): dictionary_learning's AutoEncoderNew."""

    name = "standard_uncentred"
    sparsity = None
    Config = UncentredConfig
