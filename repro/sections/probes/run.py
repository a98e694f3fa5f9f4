"""The probes computed: every SAE, inference and label, cross-fitted on held-out documents."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from repro import ops
from repro.base.errors import BadInput
from repro.codes import KeptCodes, SparseCodes
from repro.evaluate import EvalData, Labelled, Tokens, evaluate_checkpoints
from repro.evaluate.engine import Evaluation
from repro.evaluate.modes import WAYS, Way
from repro.evaluate.probes import norm_labels
from repro.evaluate.rules import CORRECTED
from repro.metrics import pool
from repro.metrics.probing import Blocks
from repro.sections.probes import scores as ps
from repro.sections.probes.draws import Crossed, crossed
from repro.sections.probes.labels import Question, probe_text, questions
from repro.sections.scales import Scale
from repro.sections.setup import Prepared, options, prepare
from repro.sections.tables import save_table
from repro.sections.types import DataFrame

JUDGED = ("amortized", "semi", "non", "random_encoder")
DOCUMENTS = 256  # pooled at a time

Draws = dict[tuple[str, str], list[dict[str, np.ndarray] | None]]
"""(label, mode) -> for each SAE its metrics, the estimate and then the resampled ones; None where it has no codes."""


def run(scale: Scale) -> DataFrame:
    """Every final SAE x mode x label, corrected; the released label also as released, in sample.

    Writes `probes` (a row an SAE, mode and label), `probe_classes` (main latents, class by class) and `probe_means`
    (means over SAEs, and what refinement changes in them, with intervals over resampled documents).
    """
    from repro.checkpoints import load_sae

    started = time.perf_counter()
    ready = prepare(scale)
    text = probe_text(scale, ready)
    glosses = ready.data.labelled
    assert glosses is not None
    asked = questions(text, glosses, max(4, scale.label_docs // 8), scale.seed)
    x = {
        ("general", "token"): text.tokens.x,
        ("general", "document"): _mean_by(text.tokens.x, text.tokens.docs),
        ("glosses", "document"): torch.cat([_mean_by(*part) for part in _by_document(glosses)]),
    }
    free = {q.label: ps.references(x[q.text, q.unit][q.rows], q.ys, q.train, scale.seed) for q in asked}
    o = options(scale, gap=False, refit=False)
    resamples = max(2, scale.bootstrap // 2)  # of both halves at once
    rows, classes = list[dict[str, Any]](), list[dict[str, Any]]()
    draws: Draws = {(q.label, mode): [] for q in asked for mode in JUDGED}
    finals = ready.finals()
    with tqdm(total=len(finals) * len(JUDGED), desc="probes", unit="mode") as bar:
        for entry in finals:
            sae = load_sae(entry["path"], fallback_batch_topk=True).to(ready.device)
            job = Evaluation(sae, EvalData(text.tokens, None, ""), CORRECTED, o)
            for mode in JUDGED:
                where = {k: entry[k] for k in ("variant", "sparsity")} | {"protocol": "corrected", "mode": mode}
                bar.set_postfix_str(f"{entry['variant']} {entry['sparsity']:g} {mode}")
                bar.update()
                try:
                    way = WAYS[mode](job)
                except BadInput as error:
                    rows.append(where | {"note": str(error)})
                    for q in asked:
                        draws[q.label, mode].append(None)
                    continue
                codes = Codes(way, job, text.tokens, glosses)
                for q in asked:
                    row, probes, drawn = answer(q, codes.of(q), resamples, scale.seed)
                    rows.append(where | facts_of(q) | {"L0": codes.l0[q.text]} | row | free[q.label])
                    draws[q.label, mode].append(drawn)
                    classes += [where | picked for picked in by_class(q, probes)]
    rows += released(scale, ready)
    seconds, extra = time.perf_counter() - started, {"key": ready.data.key, "documents": len(text.ids)}
    save_table("probe_classes", scale, classes, seconds, **extra)
    save_table("probe_means", scale, means(draws, {q.label: documents(q) for q in asked}), seconds, **extra)
    return save_table("probes", scale, rows, seconds, **extra)


def facts_of(q: Question) -> dict[str, Any]:
    """Label, unit and size of a question."""
    return {"label": q.label, "unit": q.unit, "classes": len(q.names), "rows": len(q.rows)}


def by_class(q: Question, probes: Crossed) -> Iterator[dict[str, Any]]:
    """The main latent of each class and half of the documents, with its correlation there."""
    for h, c in np.ndindex(probes.r.shape):
        main = {"latent": int(probes.latents[h, c]), "r_main": float(probes.r[h, c])}
        yield {"label": q.label, "class": q.names[c], "half": h, **main}


class Codes:
    """Codes of both texts by one way, by token and by document, kept as their nonzeros."""

    def __init__(self, way: Way, job: Evaluation, general: Tokens, glosses: Labelled):
        m, device = job.sae.config.m, job.device
        tokens, gloss_docs, docs = (KeptCodes(m, device) for _ in range(3))
        nonzeros = dict.fromkeys(("general", "glosses"), 0)
        for rows, x in general.blocks(job.size, device):
            codes = way.codes(x, rows)
            nonzeros["general"] += int(codes.l0.sum())
            tokens.append(codes)
        for numbers, x in glosses.tokens.documents(job.size, device):
            codes = way.codes(x, None)
            nonzeros["glosses"] += int(codes.l0.sum())
            gloss_docs.append(pool(codes, numbers))
        ends = torch.bincount(general.docs).cumsum(0).tolist()
        for first in range(0, len(ends), DOCUMENTS):
            start, stop = ends[first - 1] if first else 0, ends[min(first + DOCUMENTS, len(ends)) - 1]
            docs.append(pool(tokens[start:stop], general.docs[start:stop] - first))
        self.blocks = {("general", "token"): tokens, ("general", "document"): docs, ("glosses", "document"): gloss_docs}
        self.l0 = {"general": nonzeros["general"] / len(general), "glosses": nonzeros["glosses"] / len(glosses.tokens)}

    def of(self, q: Question) -> Blocks:
        """Codes of the rows of a question, block by block."""
        codes = self.blocks[q.text, q.unit]
        asked = torch.zeros(len(codes), dtype=torch.bool)
        asked[q.rows] = True

        def blocks() -> Iterator[SparseCodes]:
            start = 0
            for block in codes.blocks():
                part = block[asked[start : start + len(block)].to(block.values.device)]
                start += len(block)
                if len(part):
                    yield part

        return blocks


def documents(q: Question) -> int:
    """Documents that a question asks about."""
    return len(q.docs.unique())


def answer(
    q: Question, blocks: Blocks, resamples: int, seed: int
) -> tuple[dict[str, float], Crossed, dict[str, np.ndarray]]:
    """One row of metrics with intervals, the probes that each half of the documents picked, and the draws.

    Cross-fitted: latents picked and probes fitted on one half are scored on the other, and the other way round, in
    every draw.
    """
    probes = crossed(blocks, q.ys, q.docs, q.train, resamples, seed)
    drawn = ps.scores(probes.counts.sum(0))
    fired, start = None, 0
    for block in blocks():
        here = ops.firing_stats(block[q.train[start : start + len(block)].to(block.values.device)]).fired
        fired = here if fired is None else fired + here
        start += len(block)
    assert fired is not None
    latents = ps.some_latents(fired, len(q.names), seed).to(fired.device)
    columns = torch.cat([block.columns(latents).clamp(min=0).cpu() for block in blocks()])
    row = ps.with_interval(drawn, documents(q)) | ps.signs(probes.r.ravel(), np.concatenate(probes.counts[:, 0]))
    return row | {"F1@1_random": ps.random_latents(columns, q.ys, q.train)}, probes, drawn


def means(draws: Draws, documents: dict[str, int]) -> list[dict[str, Any]]:
    """Mean over SAEs of each metric by label and mode, and its change against the encoder, paired by SAE and document.

    Intervals resample documents, pick latents anew each time, and take the SAEs as given; `falls` counts SAEs whose
    estimate is below the encoder's.
    """
    rows = []
    for (label, mode), each in draws.items():
        pairs = [(a, b) for a, b in zip(each, draws[label, "amortized"], strict=True) if a and b]
        for name in ps.SCORES if pairs else ():
            mine, change = [a[name] for a, _ in pairs], [a[name] - b[name] for a, b in pairs]
            value = ps.with_interval({"value": np.mean(mine, 0), "change": np.mean(change, 0)}, documents[label])
            falls = sum(float(c[0]) < 0 for c in change)
            rows.append({"label": label, "mode": mode, "metric": name, **value, "falls": falls, "saes": len(pairs)})
    return rows


def released(scale: Scale, ready: Prepared) -> list[dict[str, Any]]:
    """Rows of the released label under the released protocol, in sample; those of the comparison if it has been run."""
    o = options(scale, protocols=("as_released",))
    label = norm_labels(ready.data.tokens.first(o.released_tokens)).numpy()
    names = ["variant", "sparsity", "protocol", "mode", "L0", "F1@1", "F1@2", "dF1", "r_main"]
    names += ["absorption", "absorption_null"]
    return [
        {name: row[name] for name in names}
        | {"label": "norm", "unit": "token", "classes": 1, "rows": len(label), "F1_always": ps.always_f1(label)}
        | {"anticorrelated": float(row["r_main"] < 0), "excess": row["absorption"] - row["absorption_null"]}
        for row in evaluate_checkpoints(ready.finals(), ready.data, o, ready.folder / "rows", ready.device)
        if "F1@1" in row
    ]


def _by_document(labelled: Labelled) -> Iterator[tuple[Tensor, Tensor]]:
    return ((x, docs) for docs, x in labelled.tokens.documents(8192))


def _mean_by(x: Tensor, docs: Tensor) -> Tensor:
    out = torch.zeros(int(docs.max()) + 1, x.shape[1], dtype=torch.float64).index_add_(0, docs, x.double())
    return out / torch.bincount(docs)[:, None]
