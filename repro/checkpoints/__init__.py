"""Checkpoints: load_sae reads other libraries' SAEs exactly, save_sae writes ours, index_checkpoints lists them."""

from repro.checkpoints.export import save_dictionary_learning
from repro.checkpoints.formats.native import save_sae
from repro.checkpoints.index import index_checkpoints
from repro.checkpoints.load import load_sae
from repro.checkpoints.locate import parse_layer, parse_path
from repro.checkpoints.weights import CheckpointError

__all__ = [
    "CheckpointError",
    "index_checkpoints",
    "load_sae",
    "parse_layer",
    "parse_path",
    "save_dictionary_learning",
    "save_sae",
]
