"""Numbers that disagree: one SAE measured by every convention in use, for the page of that name."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import torch

from repro.activations.held_out import open_meter
from repro.activations.language_models.load import load_model
from repro.activations.rows import Rows
from repro.base.config import ModelConfig
from repro.checkpoints import load_sae
from repro.metrics import Reconstruction
from repro.metrics.conventions import by_formula, by_tokens
from repro.metrics.loss import loss_columns
from repro.sae import SAE
from repro.sections.scales import Scale
from repro.sections.setup import Prepared, trained_on
from repro.sections.tables import save_table
from repro.sections.types import DataFrame

COUNTS = (100, 1_000, 10_000, 100_000)  # tokens on which L0 and dead latents are counted
LOSS_TOKENS = 2_000
PATCHED = ("CE_clean", "CE", "loss_recovered_mean", "loss_recovered_zero")


def conventions(scale: Scale, ready: Prepared, variant: str = "batch_topk") -> DataFrame:
    """The first SAE of a variant by every formula, number of tokens, ablation and layer: name, tokens, value.

    Formulas, losses and layers are measured behind the training tokens, L0 and dead latents by tokens on these.
    """
    started = time.perf_counter()
    sae = load_sae(ready.finals(variant)[0]["path"]).to(ready.device)
    x = ready.data.tokens.x.to(ready.device)
    behind = _behind(ready)
    rows = [{"name": name, "tokens": len(x), "value": value} for name, value in by_formula(x, sae(x)).items()]
    counts = [n for n in COUNTS if n <= ready.rows.n]
    trained = ready.rows.read(slice(0, counts[-1])).to(ready.device)
    for found in by_tokens(sae, trained, counts)[0]:
        rows += [{"name": name, "tokens": found["tokens"], "value": found[name]} for name in ("L0", "dead_rate")]
    for name, value in {**_losses(sae, ready, behind, trained.mean(0)), **_layers(sae, ready, behind)}.items():
        rows.append({"name": name, "tokens": LOSS_TOKENS, "value": value})
    return save_table("conventions", scale, rows, time.perf_counter() - started, variant=variant, m=sae.config.m)


def _behind(ready: Prepared) -> Rows:
    """The usable tokens of the documents behind those that the SAEs were trained on."""
    store, about = ready.rows.store, ready.rows.description
    usable = store.select(about["exclude"], about["max_norm_ratio"])  # type: ignore[attr-defined]
    return dataclasses.replace(usable, index=usable.index[trained_on(usable.docs, ready.rows) :])


def _losses(sae: SAE, ready: Prepared, behind: Rows, mean: torch.Tensor) -> dict[str, float]:
    """The language model's loss with reconstructions in it, and loss recovered against zero and the mean [d]."""
    meter = open_meter(behind, LOSS_TOKENS, ready.device)
    ablated = meter.of(lambda x: mean.to(x).expand_as(x))
    columns = loss_columns(meter.of(lambda x: sae(x.to(ready.device)).to(x)), ablated, meter.zero)
    return {name: float(columns[name]) for name in PATCHED}


def _layers(sae: SAE, ready: Prepared, behind: Rows) -> dict[str, float]:
    """FVE on the same tokens of hidden_states[L] and of hidden_states[L + 1], the output of block L."""
    store = behind.store
    assert store.tokens is not None
    length = store.mask.shape[1]
    index = behind.index[:LOSS_TOKENS]
    sequences = np.unique(index // length)
    ids = torch.from_numpy(store.tokens[sequences].astype("int64"))
    used = torch.zeros(store.mask.size, dtype=torch.bool)
    used[torch.from_numpy(index)] = True
    used, mask = used.view(-1, length)[sequences], torch.from_numpy(store.mask[sequences].astype(bool))
    about = store.meta["model"]
    loaded = load_model(ModelConfig(about["name"], store.meta["layer"]), ready.device)
    out = {}
    for name, site in (("FVE_hidden_states_L", "resid_pre"), ("FVE_hidden_states_L+1", "resid_post")):
        blocks = zip(ids.split(16), mask.split(16), used.to(ready.device).split(16))
        parts = [loaded.at(site, tokens, real)[use] for tokens, real, use in blocks]
        x = torch.cat(parts).float().to(ready.device)
        out[name] = Reconstruction.of(x, sae(x)).value()["FVE"]
    return out
