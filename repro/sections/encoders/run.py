"""Encoders of other forms and dictionaries learned otherwise: trained, priced and probed, three seeds of each."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from repro.activations.language_models.loss import LossMeter
from repro.sae import SAE
from repro.sections.encoders.draw import Draw, plan_of
from repro.sections.encoders.names import KINDS, SPLIT
from repro.sections.scales import Scale
from repro.sections.tables import save_table
from repro.sections.types import DataFrame
from repro.training.encoders import flops, parameters

TABLES = ("encoders", "encoder_curves", "dictionaries")
SHOWN = ("L0", "NMSE", "FVE", "dead_rate", "loss_increase", "KL", "CE_clean", "ms_per_token", "n_tokens")
"""Columns of the price that the tables keep."""
REPEATS = 7  # passes of each encoder that is timed
CURVE = 40  # points of a training curve


def run(scale: Scale, tokens: int, seeds: int = 3) -> list[DataFrame]:
    """Train, price and probe everything; writes and returns the tables `encoders`, `encoder_curves`, `dictionaries`.

    encoders: a row a seed, encoder on the trained dictionary, and kind of codes. dictionaries: a row a seed, dictionary
    and kind of codes. A seed draws initial weights, the order of the text, and `tokens` held-out tokens of its own.
    Finished pieces are files in the cache, from which an interrupted run goes on.
    """
    from repro.activations.held_out import open_meter

    started = time.perf_counter()
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
    for index in tqdm(range(seeds), desc="seeds", unit="seed"):
        draw = Draw(scale, index, tokens, seeds)
        dictionaries, encoders = draw.dictionaries(), draw.encoders()
        meter = open_meter(draw.data.tokens.x.rows, tokens, draw.ready.device)
        head = {"seed": draw.scale.seed, "k": draw.plan.k}
        rows["encoders"] += [head | row for row in priced_encoders(draw, encoders, meter)]
        rows["encoder_curves"] += [head | row for row in curves(encoders)]
        rows["dictionaries"] += [head | row for row in priced_dictionaries(draw, dictionaries, meter)]
    seconds = time.perf_counter() - started
    plan = dataclasses.asdict(plan_of(scale))
    return [save_table(name, draw.scale, found, seconds, tokens=tokens, plan=plan) for name, found in rows.items()]


def priced_encoders(draw: Draw, encoders: dict[str, Path], meter: LossMeter) -> Iterator[dict[str, Any]]:
    """Rows of `encoders`: the SAE's own first."""
    every = {"own": Path(draw.ready.finals()[0]["path"])} | encoders
    priced = {name: draw.priced(path, SPLIT, meter) for name, path in tqdm(every.items(), desc="encoders")}
    seconds = times({name: sae for name, (sae, _) in priced.items()}, draw.data.tokens.x[:])
    for name, (sae, result) in priced.items():
        facts = {"encoder": name, "parameters": parameters(sae), "flops": flops(sae)}
        facts["documents"] = int(draw.data.tokens.docs.max()) + 1
        for kind, row in result["modes"].items():
            own = {"ms_per_token": 1e3 * seconds[name] / draw.tokens} if kind == "encoder" else {}
            yield facts | {"mode": kind} | {column: row.get(column) for column in SHOWN} | own


def times(saes: dict[str, SAE], x: Tensor) -> dict[str, float]:
    """Seconds in which each SAE encodes x [n, d]: the least of REPEATS, in turns, so that other work hits all alike."""
    least = dict.fromkeys(saes, float("inf"))
    for _ in range(REPEATS):
        for name, sae in saes.items():
            x = x.to(sae.W_dec.device)
            started = time.perf_counter()
            sae.encode_sparse(x).values.sum().item()
            least[name] = min(least[name], time.perf_counter() - started)
    return least


def curves(encoders: dict[str, Path]) -> Iterator[dict[str, Any]]:
    """Rows of `encoder_curves`: the share of variance explained on training batches, a few points an encoder."""
    for name, path in encoders.items():
        lines = [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()]
        for i in np.unique(np.linspace(0, len(lines) - 1, CURVE).astype(int)):
            yield {"encoder": name, "tokens": lines[i]["tokens"], "FVE": lines[i]["FVE"]}


def priced_dictionaries(draw: Draw, dictionaries: dict[str, Path], meter: LossMeter) -> Iterator[dict[str, Any]]:
    """Rows of `dictionaries`."""
    for name, path in tqdm(dictionaries.items(), desc="dictionaries", unit="dictionary"):
        _, result = draw.priced(path, KINDS, meter)
        probes = draw.probes(path, name)
        facts = {"dictionary": name, "documents": int(draw.data.tokens.docs.max()) + 1}
        for kind, row in result["modes"].items():
            yield facts | {"mode": kind} | {c: row.get(c) for c in SHOWN} | probes.get(kind, {})
