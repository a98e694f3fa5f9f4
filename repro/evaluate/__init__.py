"""One SAE, protocol and inference mode -> one row of metrics, computed block by block in bounded memory.

    for row in evaluate_sae(sae, data, EvalOptions(modes=("amortized", "non", "random_encoder"))): ...

`rules` a protocol · `engine` one SAE under any rules · `modes` inference modes and their rows · `controls` · `steps`
the semi sweep · `probes` · `nulls` · `stream` sums · `data` tokens, documents, options · `run` the
loop over checkpoints, its files, its resumption.
"""

from __future__ import annotations

from repro.evaluate.data import EvalData, EvalOptions, Labelled, Stored, Tokens, open_data
from repro.evaluate.run import code_key, evaluate_checkpoints, evaluate_sae
from repro.evaluate.stream import TokenSums

__all__ = [
    "EvalData",
    "EvalOptions",
    "Labelled",
    "Stored",
    "TokenSums",
    "Tokens",
    "code_key",
    "evaluate_checkpoints",
    "evaluate_sae",
    "open_data",
]
