"""What price.json says, in sentences, and the names that people read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

NAMES = {
    "encoder": "encoder",
    "encoder_refit": "encoder, refitted",
    "semi": "semi-amortized",
    "optimum": "L1 optimum",
    "optimum_refit": "optimum, refitted",
    "pursuit": "pursuit (OMP)",
    "ompr": "OMPR",
    "random_dictionary": "random dictionary",
}
"""Kinds of codes, as tables and charts call them."""
DAMAGE = {"NMSE": "squared error", "CE": "increase in loss", "KL": "divergence from the clean model"}


def what(sae: Mapping[str, Any]) -> str:
    """What the SAE is, in a sentence without full stop."""
    place = [f"layer {sae['layer']}"] if sae.get("layer") is not None else []
    place += [str(sae[key]) for key in ("site",) if sae.get(key)]
    of = f" of {sae['lm_name']}" if sae.get("lm_name") else ""
    where = f", {' '.join(place)}{of}" if place or of else ""
    return f"{sae['variant']} SAE, {sae['m']:,} latents in {sae['d']:,} dimensions{where}"


def measure_of(split: Mapping[str, Any]) -> str | None:
    """The measure by which the price is told: the loss where it is known, else the squared error."""
    return next((name for name in ("CE", "NMSE") if name in split), None)


def share(part: Mapping[str, float], name: str = "share_of_increase") -> str:
    """57 % [54, 60], the interval left out where there is none."""
    text, low, high = (part.get(f"{name}{end}") for end in ("", "_low", "_high"))
    if text is None or text != text:
        return "–"
    interval = f" [{100 * low:.0f}, {100 * high:.0f}]" if low is not None and high is not None and low == low else ""
    return f"{100 * text:.0f} %{interval}"


def decomposition(split: Mapping[str, Any]) -> str:
    """What the guess makes of the damage, in a sentence; what is missing where there is no decomposition."""
    name = measure_of(split)
    if name is None:
        return "There is no decomposition: least squares and pursuit need fewer latents than dimensions."
    part = split[name]
    whole = part["values"] + part["support"] + part["dictionary"]
    size = f" of {whole:.3g} nats" if name in ("CE", "KL") else f" (NMSE {whole:.3g})"
    shares = {key: 100 * part[key] / whole for key in ("values", "support", "dictionary")} if whole else {}
    rest = (
        f": {shares['values']:.0f} % by its values, {shares['support']:.0f} % by its choice of latents; "
        f"the other {shares['dictionary']:.0f} % is the dictionary's"
        if shares
        else ""
    )
    return f"The guess makes {share(part)} of the {DAMAGE[name]}{size}{rest}."


def sampled(result: Mapping[str, Any]) -> str:
    """Which rows are of a sample of the tokens; empty where all are of all."""
    modes = result["modes"]
    few = {k: row["n_tokens"] for k, row in modes.items() if row.get("n_tokens", math.inf) < result["data"]["n_tokens"]}
    if not few:
        return ""
    n = next(iter(few.values()))
    return (
        f"{'; '.join(NAMES[name] for name in few)}; and the frontier: error of {n:,} tokens spread evenly over all "
        f"{result['data']['n_tokens']:,} (--sample-tokens). 'Of encoder' is the error beside the encoder's on the "
        "same tokens."
    )


def visible(text: str) -> str:
    """Text in one line, line breaks shown as a mark."""
    return text.replace("\r", "").replace("\n", "↵").replace("\t", "⇥")
