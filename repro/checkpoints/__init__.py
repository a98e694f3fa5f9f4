"""`load_sae` reads checkpoints of other libraries (formats/ has one file each); save, index, check, download."""

from repro.checkpoints.formats.dictionary_learning import save_dictionary_learning
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
