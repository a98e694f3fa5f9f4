"""VARIANTS: every kind of SAE by name; a new one is a file and a line here."""

from repro.sae import SAE
from repro.variants.batch_topk import BatchTopK
from repro.variants.gated import Gated
from repro.variants.jumprelu import JumpReLU
from repro.variants.loca import LocA
from repro.variants.matryoshka import MatryoshkaBatchTopK
from repro.variants.standard import Standard, StandardUncentred
from repro.variants.topk import TopK

VARIANTS: dict[str, type[SAE]] = {
    cls.name: cls for cls in (Standard, StandardUncentred, TopK, BatchTopK, MatryoshkaBatchTopK, Gated, JumpReLU, LocA)
}

__all__ = [
    "VARIANTS",
    "BatchTopK",
    "Gated",
    "JumpReLU",
    "LocA",
    "MatryoshkaBatchTopK",
    "Standard",
    "StandardUncentred",
    "TopK",
]
