"""Silent and dense latents by tokens seen: the table `silent`, on the SAEs of the section on the price."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from repro.base.config import MetricsConfig, RunConfig
from repro.base.files import cache_dir, digest, write_atomically
from repro.evaluate import EvalData, open_data
from repro.price import PriceOptions
from repro.price.codes import Method
from repro.price.latents import expected_silent
from repro.price.run import Pricing
from repro.price.words import NAMES
from repro.sections.price.run import setting_of
from repro.sections.scales import Scale
from repro.sections.setup import Prepared, model_of, prepare, text_of, trained_on
from repro.sections.tables import save_table, tidy
from repro.sections.types import DataFrame

TABLE = "silent"
POINTS = (100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000)
"""Numbers of tokens at which latents are counted."""
KINDS = {"encoder": POINTS[-1], "pursuit": 100_000, "optimum": 100_000, "random_dictionary": 100_000}
"""Kinds of codes and the tokens that they are computed on, for one SAE a variant."""
FEWER = 10_000
"""The same for its other SAEs, whose encoders see all."""
SAMPLE = 500
"""Tokens on which lambda is calibrated."""
BLOCK = 4096


def run_silent(scale: Scale, tokens: int = POINTS[-1]) -> DataFrame:
    """Count latents that fire, and those that fire on a tenth of the tokens, as more and more held-out text is read.

    A row an SAE, kind of codes and number of tokens t: `silent`, the share of latents that fire on none of the first t;
    `expected`, the same for t tokens drawn from all that were read (Hurlbert 1971), which firing rates alone give;
    `dense`, the share that fires on at least a tenth of the first t; `read`: all. Finished SAEs are in the cache.
    """
    started, setting, rows, variants = time.perf_counter(), setting_of(scale), [], set()
    ready = prepare(setting)
    data = long_text(ready, setting, tokens)
    for final in tqdm(ready.finals(), desc="silent latents", unit="SAE"):
        first = final["variant"] not in variants
        variants.add(final["variant"])
        file = ready.folder / "silent" / f"{digest(final, setting, len(data.tokens), first)}.json"
        if not file.is_file():
            found = [row for kind in KINDS for row in counted(final, data, setting, kind, first)]
            write_atomically(file, lambda path, found=found: path.write_text(json.dumps(found)))
        rows += json.loads(file.read_text())
    return save_table(TABLE, setting, rows, time.perf_counter() - started, read=len(data.tokens))


def long_text(ready: Prepared, setting: Scale, tokens: int) -> EvalData:
    """So many tokens of the documents after the one in which training ended, left on disk."""
    from repro.activations.collect import collect
    from repro.activations.store import open_store

    model, text = model_of(setting), text_of(setting, tokens)
    folder = cache_dir() / "experiments" / f"{setting.name}-long-{digest(model, text)}"
    path = collect(RunConfig(output_dir=str(folder), model=model, dataset=text, device=setting.device), quiet=True)
    metrics = MetricsConfig(max_tokens=tokens, max_norm_ratio=setting.max_norm_ratio)
    docs = open_store(path).select(metrics.exclude, metrics.max_norm_ratio).docs
    return open_data(path, metrics, None, 0, trained_on(docs, ready.rows), True)


def counted(
    final: Mapping[str, Any], data: EvalData, setting: Scale, kind: str, first: bool = True
) -> list[dict[str, Any]]:
    """Rows of one SAE and kind of codes; none where the kind cannot be computed."""
    from repro.base.errors import BadInput
    from repro.checkpoints import load_sae

    read = KINDS[kind] if first or kind == "encoder" else FEWER
    part = EvalData(data.tokens.first(read), None, data.key)
    with tqdm(total=len(part.tokens), desc=kind, unit="token", unit_scale=True, leave=False) as bar:
        pricing = Pricing(load_sae(final["path"]), part, PriceOptions(SAMPLE, tol=setting.tol, seed=setting.seed), bar)
        try:
            method = pricing.modes()[kind]()
        except BadInput:  # denser than any optimum
            return []
        fired, at = firings(pricing, method)
    head = {key: final[key] for key in ("variant", "sparsity")} | {"seed": setting.seed, "kind": kind}
    n = len(part.tokens)
    return [
        head | {"tokens": t, "silent": silent, "dense": dense, "expected": expected_silent(fired, n, t), "read": n}
        for t, (silent, dense) in at.items()
    ]


@torch.no_grad()
def firings(pricing: Pricing, method: Method) -> tuple[torch.Tensor, dict[int, tuple[float, float]]]:
    """Tokens on which each latent fires [m]; and at each of POINTS the shares of silent and of dense latents."""
    tokens, sae = pricing.data.tokens, pricing.sae
    fired, at = torch.zeros(sae.config.m, dtype=torch.long), {}
    stops = sorted({0, len(tokens), *range(0, len(tokens), BLOCK), *(t for t in POINTS if t < len(tokens))})
    for start, stop in pairwise(stops):
        x = tokens.x[start:stop].to(sae.W_dec.device)
        codes = method.codes(x, sae.encode_sparse(x))
        fired += torch.bincount(codes.indices[codes.values > 0].cpu(), minlength=len(fired))
        if stop in POINTS or stop == len(tokens):
            at[stop] = (float((fired == 0).double().mean()), float((fired >= 0.1 * stop).double().mean()))
        pricing.bar.update(len(x))
    return fired, at


def silent_overview(tables: Mapping[str, DataFrame]) -> DataFrame:
    """Means over one SAE a variant: a row a language model, kind of codes and number of tokens."""
    rows = {
        model: followed(table).groupby(["kind", "tokens"])[["silent", "expected", "dense"]].mean()
        for model, table in tables.items()
    }
    whole = pd.concat(rows, names=["language model"]).reset_index()
    return tidy(
        whole[whole["tokens"].isin((1_000, 10_000, 100_000, 1_000_000))].set_index(["language model", "kind", "tokens"])
    )


def silent_findings(table: DataFrame) -> str:
    """What more tokens do to the shares of silent and of dense latents, in a sentence."""
    means = followed(table).groupby(["kind", "tokens"])[["silent", "dense"]].mean()
    few, most = 1_000, int(table.loc[table["kind"] == "encoder", "tokens"].max())
    encoder, others = means.loc["encoder"], [kind for kind in KINDS if kind != "encoder" and kind in means.index]
    same = max(t for t in means.loc[others[0]].index if t in encoder.index) if others else few
    beside = ", ".join(f"{NAMES[kind]} {means.loc[(kind, same), 'silent']:.1%}" for kind in others)
    return (
        f"Under the encoder {encoder.loc[few, 'silent']:.1%} of the latents are silent on {few:,} tokens and "
        f"{encoder.loc[most, 'silent']:.1%} on {most:,}; {encoder.loc[few, 'dense']:.1%} and "
        f"{encoder.loc[most, 'dense']:.1%} fire on a tenth of the tokens. On {same:,} tokens, silent: encoder "
        f"{encoder.loc[same, 'silent']:.1%}, {beside}."
    )


def followed(table: DataFrame) -> DataFrame:
    """Rows of the SAEs whose kinds were all computed on many tokens: one a variant."""
    most = table[table["kind"] != "encoder"].groupby(["variant", "sparsity"])["read"].max()
    chosen = most[most > FEWER].index if (most > FEWER).any() else most.index
    return table[pd.MultiIndex.from_frame(table[["variant", "sparsity"]]).isin(chosen)]
