"""Claims that LocA-SAE's ablations test: fewer pathologies at amortized cost, because of angular variance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from repro.sections.effects import Effect, Tables, listed, prepared
from repro.sections.loca.words import differences
from repro.sections.shown import answered, shown
from repro.sections.types import DataFrame
from repro.sections.verdict import Claim, Finding

SIMPLER = ("random", "frequency", "equal")
"""Groups that ignore angular variance: drawn at random, by firing rate, and equal budgets."""


def against(table: DataFrame, form: str, metric: str) -> Effect:
    """LocA minus another form of the same k and training, a value a seed."""
    rows = prepared(table)
    effect = Effect.of(differences(rows, "loca", form, metric), "seeds")
    tokens = int(rows["n_tokens"].max()) if "n_tokens" in rows else 0
    return replace(effect, saes=2 * effect.n * rows["k"].nunique(), tokens=tokens)


def beside_top_k(metric: str) -> Callable[[Tables], Finding]:
    """The test of what LocA changes against the same Top-K SAE trained on for as long."""

    def test(tables: Tables) -> Finding:
        table = tables["loca_ablations"]
        part = table[table["protocol"] == "as_released"]
        released = f"NMSE {part['NMSE'].mean():.3g} at L0 {part['L0'].mean():.0f}: training stops at its first step"
        raw = ("absorption", "absorption_null") if metric == "excess" else ()
        beside = listed({name: against(table, "topk", name) for name in raw})
        plain = table.loc[(table["form"] == "topk") & (table["protocol"] == "corrected")]
        level = float(plain[metric].mean()) if metric == "dead_rate" else None
        return Finding(against(table, "topk", metric), released, beside, level)

    return test


def beside_simpler_groups(metric: str) -> Callable[[Tables], Finding]:
    """The test whether LocA's groups do better than the best of the groups that ignore angular variance."""

    def test(tables: Tables) -> Finding:
        table = tables["loca_ablations"]
        forms = [form for form in SIMPLER if form in set(table["form"])]
        effects = {form: against(table, form, metric) for form in forms}
        worst = max(effects.values(), key=lambda effect: effect.value, default=Effect(float("nan")))
        corrected = table[table["protocol"] == "corrected"].groupby("form")[metric].mean()
        level = float(corrected.reindex(forms).min())
        return Finding(worst, why=f"LocA minus each: {listed(effects)}", level=level)

    return test


SENTENCES = {"C7": "LocA-SAE has the benefits at the encoder's price."}
LEADS = {"C7": "LocA minus the same Top-K SAE trained on for as long"}

_loca = partial(Claim, section="60_loca", needs=("loca_ablations",))
CLAIMS = [
    _loca(
        id="C7a",
        statement="LocA-SAE has fewer dead latents than Top-K trained on for as long",
        paper="0.000",
        metric="dead_rate",
        claimed="falls",
        quantity="the share of dead latents",
        test=beside_top_k("dead_rate"),
    ),
    _loca(
        id="C7b",
        statement="… and lower ΔF1",
        paper="0.013",
        metric="dF1",
        claimed="falls",
        quantity="ΔF1",
        test=beside_top_k("dF1"),
    ),
    _loca(
        id="C7c",
        statement="… and less absorption beyond chance",
        paper="0.055",
        metric="excess",
        claimed="falls",
        quantity="absorption − chance",
        test=beside_top_k("excess"),
    ),
    _loca(
        id="C7d",
        statement="… at no higher NMSE",
        paper="0.427",
        metric="NMSE",
        claimed="does not rise",
        quantity="the error",
        test=beside_top_k("NMSE"),
    ),
    _loca(
        id="C7e",
        statement="Angular variance leaves fewer latents dead than the best of simpler groups",
        metric="dead_rate",
        claimed="falls",
        quantity="the share of dead latents against the best of simpler groups",
        test=beside_simpler_groups("dead_rate"),
    ),
]

answers, verdicts = partial(answered, CLAIMS), partial(shown, CLAIMS)
"""What is found, in a sentence a claim, and the verdicts on all parts, to be shown in the notebook."""
