"""`repro price`: what the guess of one SAE costs and what buys it back, as price.json, price.html and a table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro.activations.contexts import context_of
from repro.activations.held_out import open_meter
from repro.activations.language_models.load import find_tokenizer
from repro.activations.language_models.loss import LossMeter
from repro.base.errors import BadInput
from repro.base.files import write_atomically, write_json
from repro.base.machine import pick_device
from repro.commands.files import about
from repro.commands.flags import PriceConfig
from repro.commands.inputs import find_data, find_sae
from repro.commands.show import paragraph, show
from repro.evaluate import EvalData, Stored
from repro.price import PriceOptions, price, words
from repro.price.latents import Place
from repro.price.page import html

if TYPE_CHECKING:
    from repro.sae import SAE

COLUMNS = ("codes", "L0", "NMSE", "of encoder", "FVE", "dead", "ms/token", "MFLOP")
WITH_LOSS = ("codes", "L0", "NMSE", "loss +", "KL", "dead", "ms/token", "MFLOP")
LM_TOKENS = 1000


def run(config: PriceConfig) -> list[Path]:
    """Write out_dir/price.json and price.html, and print what they say."""
    sae = find_sae(config)
    data = find_data(replace(config, lm_tokens=None), sae)  # its own meter below
    sae = sae.to(pick_device(config.device))
    out, meter = Path(config.out_dir), meter_of(config, data)
    options = PriceOptions(config.sample_tokens, config.semi_steps, config.tol, config.seed)
    found = price(sae, data, out / ".price", options, places(data, config.model_name), meter)
    provenance = about(config, sae, data)
    result = facts(sae, data) | found | {"notes": notes(found), "provenance": provenance}
    tell(result)
    text = html(result)
    return [
        write_json(out / "price.json", result),
        write_atomically(out / "price.html", lambda path: path.write_text(text, encoding="utf-8")),
    ]


def meter_of(config: PriceConfig, data: EvalData) -> LossMeter | None:
    """The language model that the tokens are of, if its loss is asked for. BadInput where it cannot be measured."""
    tokens = config.lm_tokens if config.lm_tokens is not None else LM_TOKENS * (config.acts is None)
    if tokens < 0:
        raise BadInput(f"--lm-tokens is {tokens}; give 0 or more.")
    return open_meter(data.tokens.x.rows, tokens, config.device) if tokens else None


def facts(sae: SAE, data: EvalData) -> dict[str, Any]:
    """What the SAE is and what it was judged on: `sae` and `data` of price.json."""
    source = {key: getattr(sae.source, key) for key in ("layer", "site", "lm_name", "k", "step", "sha256", "family")}
    path = Path(sae.source.path)
    about_sae = {"variant": sae.name, "d": sae.config.d, "m": sae.config.m, **source, "file": path.name}
    about_data = {"n_tokens": len(data.tokens), "documents": int(data.tokens.docs.max()) + 1, **data.tokens.info}
    return {
        "sae": {k: v for k, v in about_sae.items() if v not in (None, "")},
        "data": {k: v for k, v in about_data.items() if v not in (None, "")},
    }


def notes(found: dict[str, Any]) -> list[str]:
    """What the numbers leave out, a sentence each."""
    out = []
    if "CE" not in found["price"]:
        out.append("No loss of a language model was measured; --lm-tokens asks for it, where the tokens are known.")
    return out


def places(data: EvalData, model: str | None) -> Place:
    """Where a token is: document and position, and its text where the token ids and a tokenizer are at hand."""
    x = data.tokens.x
    assert isinstance(x, Stored)
    store, index = x.rows.store, x.rows.index
    name = model or (store.meta.get("model") or {}).get("name", "")
    tokenizer = find_tokenizer(name, download=model is not None) if name and store.tokens is not None else None

    def place(token: int) -> dict[str, Any]:
        position = int(index[token])
        where: dict[str, Any] = {"document": int(data.tokens.docs[token]), "position": position % store.mask.shape[1]}
        if tokenizer is None:
            return where
        context = context_of(store, tokenizer, position, float("nan"))
        return where | {"before": context.before, "token": context.token, "after": context.after}

    return place


def tell(result: dict[str, Any]) -> None:
    """Print what the SAE is, whether it fits, the decomposition, and a row a kind of codes."""
    for sentence in (f"{words.what(result['sae'])}.", *result["check"]["sentences"]):
        print(paragraph(sentence))
    print(f"\n{paragraph(words.decomposition(result['price']))}\n")
    rows = []
    for name, row in result["modes"].items():
        cells = {"codes": words.NAMES[name], "note": row.get("note"), "L0": row.get("L0"), "NMSE": row.get("NMSE")}
        cells |= {"loss +": row.get("loss_increase"), "KL": row.get("KL")}
        cells |= {"of encoder": row.get("NMSE_of_encoder"), "FVE": row.get("FVE"), "dead": row.get("dead_rate")}
        flops = row.get("flops_per_token")
        cells |= {"ms/token": row.get("ms_per_token"), "MFLOP": None if flops is None else flops / 1e6}
        rows.append({k: round(v, 4) if isinstance(v, float) else v for k, v in cells.items()})
    show(rows, WITH_LOSS if "CE" in result["price"] else COLUMNS)
    for sentence in filter(None, (words.sampled(result), *result["notes"])):
        print(paragraph(sentence))
