"""The price on text of another source than the SAEs were trained on: table `price_elsewhere`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import product

import pandas as pd

from repro.activations.collect import collect
from repro.activations.held_out import open_meter
from repro.base.config import DatasetConfig, MetricsConfig, RunConfig
from repro.base.files import cache_dir, digest
from repro.evaluate import EvalData, open_data
from repro.sections.effects import FAMILY_NAMES
from repro.sections.price.run import setting_of, split_rows
from repro.sections.price.words import by_part, share
from repro.sections.scales import Scale
from repro.sections.setup import model_of, prepare
from repro.sections.tables import save_table
from repro.sections.types import DataFrame

TABLE = "price_elsewhere"
OTHER = "tiny"
"""The bundled English: the other text for SAEs that were trained on none of it."""
COLUMNS = ["language model", "trained by", "text", "encoder", "pursuit", "share of the guess", "low", "high", "SAEs"]


def run_elsewhere(scale: Scale, tokens: int) -> DataFrame | None:
    """The parts of the price of the SAEs of the scale's seed on other text; the columns of `price_parts` and `text`.

    Nothing where the SAEs were trained on that text.
    """
    started = time.perf_counter()
    setting = setting_of(scale)
    if setting.dataset == OTHER:
        return None
    ready = prepare(setting)
    data = other_text(setting, tokens)
    meter = open_meter(data.tokens.x.rows, tokens, ready.device)
    rows = split_rows(ready.finals(), scale, data, meter, f"SAEs on text '{OTHER}'")
    rows = [{"text": OTHER} | row for row in rows]
    return save_table(TABLE, setting, rows, time.perf_counter() - started, tokens=tokens)


def other_text(setting: Scale, tokens: int) -> EvalData:
    """The first tokens of the other text through the same language model, left on disk."""
    model = model_of(setting)
    text = DatasetConfig(name=OTHER, max_tokens=int(1.1 * tokens) + setting.seq_len, seq_len=setting.seq_len)
    folder = cache_dir() / "experiments" / f"{setting.name}-elsewhere-{digest(model, text)}"
    path = collect(RunConfig(output_dir=str(folder), model=model, dataset=text, device=setting.device), quiet=True)
    return open_data(path, MetricsConfig(max_tokens=tokens, max_norm_ratio=setting.max_norm_ratio), None, 0, 0, True)


def elsewhere_overview(parts: Mapping[str, DataFrame], other: Mapping[str, DataFrame]) -> DataFrame:
    """A row a language model, family and text: the encoder's loss increase, pursuit's, the guess's share of the KL.

    parts, other: `price_parts` and `price_elsewhere` by language model; the seeds of the latter count.
    """
    rows = []
    for model, table in other.items():
        here = parts[model][parts[model]["seed"].isin(table["seed"])]
        for (family, name), (text, part) in product(FAMILY_NAMES.items(), (("training's", here), ("other", table))):
            effect = share(part, "KL", family)
            if not effect.saes:
                continue
            mean = {p: by_part(part, "CE", p, family)["value"].mean() for p in ("values", "support", "dictionary")}
            row = {"language model": model, "trained by": name, "text": text, "encoder": sum(mean.values())}
            row |= {"pursuit": mean["dictionary"], "share of the guess": effect.value}
            rows.append(row | {"low": effect.low, "high": effect.high, "SAEs": effect.saes})
    return pd.DataFrame(rows, columns=COLUMNS).round(3).set_index(COLUMNS[:3])
