"""The sweep computed: both protocols at every step count, FISTA beside ISTA, and the certified optimum."""

from __future__ import annotations

import json
import time
from typing import Any

from repro.base.files import digest, write_atomically
from repro.evaluate import code_key
from repro.evaluate.steps import sweep
from repro.sections.scales import Scale
from repro.sections.setup import options, prepare
from repro.sections.tables import save_table
from repro.sections.types import DataFrame


def run(scale: Scale) -> DataFrame:
    """Both protocols on every BatchTopK SAE of the scale, at every step count; corrected ends with the optimum.

    Writes the tables `sweep` (ISTA and the optimum) and `sweep_fista` (FISTA, corrected); returns the first.
    """
    from repro.checkpoints import load_sae

    started = time.perf_counter()
    ready, o = prepare(scale), options(scale)
    rows: list[dict[str, Any]] = []
    for entry in ready.finals("batch_topk"):
        sae = load_sae(entry["path"]).to(ready.device)
        key = digest("sweep with costs", code_key(), sae.source.sha256, ready.data.key, scale.sweep_steps, o)
        done = ready.folder / "rows" / f"{key}.json"
        if not done.is_file():
            new = [
                {**row, "m": sae.config.m, "d": sae.config.d}
                for row in sweep(sae, ready.data, scale.sweep_steps, o, momentum=True)
            ]
            write_atomically(done, lambda path, new=new: path.write_text(json.dumps(new)))
        rows += [
            {"variant": entry["variant"], "sparsity": entry["sparsity"], **r} for r in json.loads(done.read_text())
        ]
    seconds = time.perf_counter() - started
    if momentum := [r for r in rows if r.get("solver") == "fista"]:
        save_table("sweep_fista", scale, momentum, seconds, key=ready.data.key)
    return save_table("sweep", scale, [r for r in rows if r.get("solver") != "fista"], seconds, key=ready.data.key)
