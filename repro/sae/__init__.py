"""SAEs: `base.SAE`, and a file for each variant; VARIANTS lists the variants by name."""

from repro.sae.abs_topk import AbsTopK
from repro.sae.base import SAE, Config, Source
from repro.sae.batch_topk import BatchTopK
from repro.sae.gated import Gated
from repro.sae.glu import GLU
from repro.sae.jumprelu import JumpReLU
from repro.sae.lista import LISTA
from repro.sae.loca import LocA
from repro.sae.matching_pursuit import MatchingPursuit
from repro.sae.matryoshka import MatryoshkaBatchTopK
from repro.sae.mlp import MLP
from repro.sae.standard import Standard, StandardUncentred
from repro.sae.topk import TopK

VARIANTS: dict[str, type[SAE]] = {
    cls.name: cls
    for cls in (
        *(Standard, StandardUncentred, TopK, BatchTopK, MatryoshkaBatchTopK, Gated, JumpReLU),
        *(GLU, MatchingPursuit, AbsTopK, MLP, LISTA, LocA),
    )
}

__all__ = [
    "GLU",
    "LISTA",
    "MLP",
    "SAE",
    "VARIANTS",
    "AbsTopK",
    "BatchTopK",
    "Config",
    "Gated",
    "JumpReLU",
    "LocA",
    "MatchingPursuit",
    "MatryoshkaBatchTopK",
    "Source",
    "Standard",
    "StandardUncentred",
    "TopK",
]
