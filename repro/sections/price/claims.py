"""Claims about the price itself: how much of the damage the guess makes, in error and in language-model loss."""

from __future__ import annotations

from functools import partial

from repro.sections.effects import Tables
from repro.sections.price.words import by_part, saved, share
from repro.sections.shown import answered, shown
from repro.sections.verdict import Claim, Finding


def finding(tables: Tables, metric: str, name: str = "price_parts") -> Finding:
    """The test whether the guess makes part of what the encoder's codes cost in this metric."""
    table = tables[name]
    mean = {p: by_part(table, metric, p)["value"].mean() for p in ("values", "support", "dictionary")}
    parts = ", ".join(f"{name} {value:.3f}" for name, value in mean.items())
    return Finding(share(table, metric), why=f"mean increase {sum(mean.values()):.3f}: {parts}")


def in_nats(tables: Tables, name: str = "price_parts") -> Finding:
    """The test whether pursuit with as many latents on each token lowers the language model's loss."""
    return Finding(saved(tables[name], "CE"))


SENTENCES = {
    "P1": "The guess of the encoder has a price: part of the damage would be gone with better codes.",
    "P2": "The price is there on text of another source than the training's.",
}
LEADS = {
    "P1": "Against pursuit with as many latents on each token",
    "P2": "On text of another source, against pursuit with as many latents on each token",
}
DAMAGES = {
    "KL": "divergence from the clean language model",
    "CE": "language model's loss increase",
    "NMSE": "reconstruction's error",
}


_price = partial(Claim, section="45_price")
CLAIMS: list[Claim] = []
for _group, _table, _where in (("P1", "price_parts", ""), ("P2", "price_elsewhere", " on text of another source")):
    CLAIMS += [
        _price(
            id=f"{_group}{letter}",
            claimed="rises",
            needs=(_table,),
            statement=f"The guess makes part of the {damage}{_where}",
            metric="share_of_increase",
            quantity=f"its share of the {damage}",
            verbs=("is", "is below 0 by"),
            test=partial(finding, metric=metric, name=_table),
        )
        for letter, (metric, damage) in zip("abc", DAMAGES.items())
    ]
    CLAIMS.append(
        _price(
            id=f"{_group}d",
            claimed="falls",
            needs=(_table,),
            statement=f"Pursuit with as many latents on each token lowers the language model's loss"
            f"{_where} (nats a token)",
            metric="loss",
            quantity="the language model's loss in nats a token",
            test=partial(in_nats, name=_table),
        )
    )

answers, verdicts = partial(answered, CLAIMS), partial(shown, CLAIMS)
"""What is found, in a sentence a claim, and the verdicts on all parts, to be shown in the notebook."""
