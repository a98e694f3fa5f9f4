"""Claims about the price itself: how much of the damage the guess makes, in error and in language-model loss."""

from __future__ import annotations

from functools import partial

from repro.sections.effects import Tables
from repro.sections.price.words import by_part, saved, share
from repro.sections.shown import shown, told
from repro.sections.verdict import Claim, Finding


def finding(tables: Tables, metric: str, family: str | None = None) -> Finding:
    """The test whether the guess makes part of what the encoder's codes cost in this metric."""
    table = tables["price_parts"]
    mean = {p: by_part(table, metric, p, family)["value"].mean() for p in ("values", "support", "dictionary")}
    parts = ", ".join(f"{name} {value:.3f}" for name, value in mean.items())
    return Finding(share(table, metric, family), why=f"mean increase {sum(mean.values()):.3f}: {parts}")


def in_nats(tables: Tables) -> Finding:
    """The test whether pursuit with as many latents on each token lowers the language model's loss."""
    return Finding(saved(tables["price_parts"], "CE"))


SENTENCES = {"P1": "The guess of the encoder has a price: part of the damage would be gone with better codes."}
LEADS = {"P1": "Against pursuit with as many latents on each token"}

_price = partial(Claim, section="45_price", claimed="rises", needs=("price_parts",))
CLAIMS = [
    _price(
        id=f"P1{letter}",
        statement=f"The guess makes part of the {damage}",
        metric="share_of_increase",
        quantity=f"its share of the {damage}",
        verbs=("is", "is below 0 by"),
        test=partial(finding, metric=metric),
    )
    for letter, metric, damage in (
        ("a", "KL", "divergence from the clean language model"),
        ("b", "CE", "language model's loss increase"),
        ("c", "NMSE", "reconstruction's error"),
    )
]
CLAIMS.append(
    Claim(
        id="P1d",
        section="45_price",
        claimed="falls",
        needs=("price_parts",),
        statement="Pursuit with as many latents on each token lowers the language model's loss (nats a token)",
        metric="loss",
        quantity="the language model's loss in nats a token",
        test=in_nats,
    )
)

answers, verdicts = partial(told, CLAIMS), partial(shown, CLAIMS)
"""What is found, in a sentence a claim, and the verdicts on all parts, to be shown in the notebook."""
