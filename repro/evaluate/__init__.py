"""One SAE, protocol and inference mode -> one row of metrics, computed block by block in bounded memory.

    for row in evaluate_sae(sae, data, EvalOptions(modes=("amortized", "non", "random_encoder"))): ...

`data` what is evaluated on · `stream` sums and kept codes · `corrected`, `released` the two protocols · `controls` ·
`probes` · `run` the loop, its files, its resumption.
"""

from __future__ import annotations

from repro.evaluate.data import EvalData, EvalOptions, Labelled, Stored, Tokens, open_data
from repro.evaluate.probes import probe_row
from repro.evaluate.run import code_key, evaluate_checkpoints, evaluate_sae
from repro.evaluate.stream import KeptCodes, TokenSums

__all__ = [
    "EvalData",
    "EvalOptions",
    "KeptCodes",
    "Labelled",
    "Stored",
    "TokenSums",
    "Tokens",
    "code_key",
    "evaluate_checkpoints",
    "evaluate_sae",
    "open_data",
    "probe_row",
]
