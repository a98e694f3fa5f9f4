"""From `as_released` to `corrected`, one change at a time: cumulatively, each change alone, and each one undone."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from repro.base.config import MetricsConfig, ModelConfig
from repro.base.errors import BadInput
from repro.base.files import digest, file_sha256, write_atomically
from repro.evaluate import EvalData, EvalOptions, Labelled, Tokens, code_key, open_data
from repro.evaluate.engine import Evaluation
from repro.evaluate.modes import WAYS, measured
from repro.evaluate.nulls import expected_dead, reference_rates
from repro.evaluate.rules import AS_RELEASED, CORRECTED, TITLES, Rules
from repro.metrics.names import MODES
from repro.sections.scales import Scale
from repro.sections.setup import Prepared, options, prepare, trained_on
from repro.sections.tables import save_table
from repro.sections.types import DataFrame
from repro.solvers import Lasso, solve

if TYPE_CHECKING:
    from repro.activations.store import ActivationStore
    from repro.sae import SAE

RAW = {"exclude": ("pad",), "max_norm_ratio": None}  # positions as released
SOLVED = 9e-3  # and above: lambdas of the released grid whose optimum is solved; below, float32 settles no support
FEW = 16  # tokens whose optimum is solved at every lambda of the released grid


def plan(everything: bool = True) -> Iterator[tuple[str, int, str, Rules]]:
    """(route, step, change, rules): the cumulative path in the order of `TITLES`, then each change alone and undone."""
    rules = AS_RELEASED
    yield "cumulative", 0, "as_released", rules
    for step, name in enumerate(TITLES, 1):
        rules = rules.but(name, True)
        yield "cumulative", step, name, rules
    for step, name in enumerate(TITLES, 1):
        if everything:
            yield "alone", step, name, AS_RELEASED.but(name, True)
            yield "undone", step, name, CORRECTED.but(name, False)


def run(scale: Scale, share: float = 1.0, per_variant: int = 0, alone: Sequence[str] = ()) -> DataFrame:
    """Final SAEs under every rule, one row a mode; writes the tables `ablation` and `lambda_grid`.

    share: of the tokens of both protocols and of the labelled documents. per_variant: SAEs of each variant (0 = all).
    alone: variants whose first SAE takes each change alone and undone too (none given = every SAE). Finished rows are
    kept, so that a run that was killed goes on where it stopped.
    """
    started = time.perf_counter()
    rows, grids, key = paths(scale, share, per_variant, alone)
    seconds, extra = time.perf_counter() - started, {"key": key, "share": share}
    save_table("lambda_grid", scale, grids, seconds, **extra)
    return save_table("ablation", scale, rows, seconds, **extra)


def over_seeds(scale: Scale, seeds: int, share: float = 1.0, per_variant: int = 0) -> DataFrame:
    """The cumulative path of SAEs trained from several seeds, `scale.seed` first; writes the table `ablation_seeds`."""
    started, rows, key = time.perf_counter(), [], ""
    for seed in range(scale.seed, scale.seed + seeds):
        found, _, key = paths(replace(scale, seed=seed), share, per_variant, None)
        rows += [{"seed": seed, **row} for row in found]
    return save_table("ablation_seeds", scale, rows, time.perf_counter() - started, key=key, share=share, seeds=seeds)


def paths(
    scale: Scale, share: float, per_variant: int, alone: Sequence[str] | None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], str]:
    """Rows of the ablation, rows of lambda grids, and the data's key; with alone None, the cumulative path only."""
    from repro.checkpoints import load_sae

    ready = prepare(scale)
    sources, released_tokens = Sources(scale, ready, share), round(share * scale.released_tokens)
    o = options(scale, released_tokens=released_tokens, gap=False, nulls=True)
    code = digest(code_key(), file_sha256(__file__))
    rows: list[dict[str, Any]] = []
    grids: list[dict[str, Any]] = []
    seen: Counter[str] = Counter()
    todo = []
    for entry in ready.finals():
        variant = entry["variant"]
        if per_variant and seen[variant] >= per_variant:
            continue
        everything = alone is not None and (not alone or (variant in alone and not seen[variant]))
        todo.append((entry, list(plan(everything))))
        seen[variant] += 1
    with tqdm(desc="ablation", unit="rules", total=sum(len({s[-1] for s in steps}) for _, steps in todo)) as bar:
        for entry, steps in todo:
            sae = load_sae(entry["path"]).to(ready.device)
            known = {"variant": entry["variant"], "sparsity": entry["sparsity"], "m": sae.config.m, "d": sae.config.d}
            key = digest(code, sae.source.sha256, ready.data.key, share, o)
            job = OneSAE(sae, sources, o, ready, ready.folder / "rows", key)
            done = {}
            for rules in sorted({step[-1] for step in steps}, key=lambda rules: tuple(vars(rules).values())):
                done[rules] = job.rows(rules)
                bar.update()
            for route, step, change, rules in steps:
                rows += [{**known, "route": route, "step": step, "change": change, **row} for row in done[rules]]
            if alone is not None:
                grids += [{**known, **row} for row in job.grid()]
    return rows, grids, ready.data.key


class OneSAE:
    """The rows of one SAE, each stored on disk when it is finished."""

    def __init__(self, sae: SAE, sources: Any, o: EvalOptions, ready: Prepared, folder: Path, key: str):
        self.sae, self.sources, self.o, self.ready, self.folder, self.key = sae, sources, o, ready, folder, key
        self.memo: dict[Any, Any] = {}

    def under(self, rules: Rules) -> Evaluation:
        """The evaluation of this SAE under some rules."""
        return Evaluation(self.sae, self.sources(rules.layer, rules.positions), rules, self.o, memo=self.memo)

    @cached_property
    def rates(self) -> torch.Tensor:
        """Firing rates of the real encoder's latents on training tokens."""
        return reference_rates(self.sae, self.ready.rows, self.ready.device)

    def rows(self, rules: Rules) -> list[dict[str, Any]]:
        """One row a mode, with the share of silent latents that its number of firings lets expect."""

        def made() -> list[dict[str, Any]]:
            rows = [ablated_row(self.under(rules), mode) for mode in MODES]
            for row in rows:
                if "note" not in row:
                    row["dead_expected"] = expected_dead(self.rates, row["fires"], row["n_tokens"])
            return rows

        return self._stored(rules, made)

    def grid(self) -> list[dict[str, Any]]:
        """One row a lambda of the released grid, on the tokens and the layer that the SAE was trained for."""
        rules = AS_RELEASED.but("layer", True).but("positions", True)
        return self._stored("grid", lambda: lambda_grid(self.under(rules)))

    def _stored(self, name: Any, make: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
        file = self.folder / f"{digest('ablation', self.key, name)}.json"
        if not file.is_file():
            text = json.dumps(make())
            write_atomically(file, lambda path: path.write_text(text))
        rows: list[dict[str, Any]] = json.loads(file.read_text())
        return rows


def ablated_row(job: Evaluation, mode: str) -> dict[str, Any]:
    """Lambda and metrics of one mode, or only a `note` where there is no such lambda."""
    try:
        way = WAYS[mode](job)
    except BadInput as error:
        return {"mode": mode, "note": str(error)}
    metrics = measured(job, way)
    del metrics["label"]
    return {"mode": mode, "lam": way.facts["lam"], "n_tokens": len(job.tokens), **metrics}


def lambda_grid(job: Evaluation) -> list[dict[str, Any]]:
    """The released grid of one SAE: nonzeros a token after 100 steps, the search's target, nonzeros of an optimum."""
    x, m, d = job.first.x[:].to(job.device), job.sae.config.m, job.sae.config.d
    lam, l0 = job.lam("semi"), float(job.sae.encode_sparse(x).l0.double().mean())
    few = x[:: max(1, len(x) // FEW)][:FEW]
    out = []
    for value, share in job.grid.items():
        facts = {"lam": value, "share": share, "nonzeros": share * m, "above_d": share * m / d}
        facts |= {"target": job.target_density, "chosen": value == lam, "L0": l0}
        if value >= SOLVED:
            problem = Lasso(few, job.atoms, value, nonneg=False, shared=job.shared)
            best = solve(problem, tol=1e-6).codes.values.abs()
            facts["optimum_nonzeros"] = float((best > 1e-6 * best.amax()).sum(1).double().mean())
        out.append(facts)
    return out


class Sources:
    """Evaluation data by (layer, positions): the block that the SAE reads or the one before, with or without outliers.

    The block before runs the language model again on the sequences that hold the tokens; nothing is stored.
    """

    def __init__(self, scale: Scale, ready: Prepared, share: float = 1.0):
        self.scale, self.ready = scale, ready
        self.n_tokens, self.n_docs = round(share * scale.eval_tokens), round(share * scale.label_docs)
        self.get = lru_cache(maxsize=4)(self._get)

    def __call__(self, layer: bool, positions: bool) -> EvalData:
        return self.get(layer, positions)

    def _get(self, layer: bool, positions: bool) -> EvalData:
        from repro.activations.store import open_store

        given: dict[str, Any] = {"max_norm_ratio": self.scale.max_norm_ratio} if positions else RAW
        metrics = MetricsConfig(max_tokens=self.n_tokens, **given)
        text = self.ready.rows.store
        rows = text.select(metrics.exclude, metrics.max_norm_ratio)
        skip = trained_on(rows.docs, self.ready.rows)
        folder = self.ready.folder / "labelled"
        data = open_data(text.path, metrics, folder, self.n_docs, skip=skip)
        if layer:
            return data
        probed = data.labelled
        assert probed is not None
        store = open_store(folder)
        before = self.before(text, rows.index[skip : skip + self.n_tokens])
        index = store.select(metrics.exclude, None).index[: len(probed.tokens)]
        classes = Labelled(
            Tokens(self.before(store, index), probed.tokens.docs), probed.labels, probed.train, probed.names
        )
        return EvalData(Tokens(before, data.tokens.docs), classes, digest(data.key, "layer before"))

    @cached_property
    def model(self) -> Any:
        """The language model, read where block L begins, as the released scripts read it."""
        from repro.activations.language_models.load import load_model

        config = ModelConfig(self.scale.model, self.scale.layer, layer_convention="hidden_states")
        return load_model(config, self.ready.device)

    def before(self, store: ActivationStore, index: np.ndarray) -> torch.Tensor:
        """The input of the block, at flat positions of a store, [n, d]."""
        from repro.activations.forward import forward
        from repro.activations.forward import plan as batches

        T = store.mask.shape[1]
        sequences, where = np.unique(index // T, return_inverse=True)
        tokens, mask = np.asarray(store.tokens)[sequences], np.asarray(store.mask)[sequences]
        out = torch.zeros(len(sequences), T, store.d)
        for batch in batches(mask, 32):
            hidden = forward(self.model, tokens, mask, batch).float().cpu()
            out[torch.from_numpy(batch), : hidden.shape[1]] = hidden
        return out[torch.from_numpy(where), torch.from_numpy(index % T)]
