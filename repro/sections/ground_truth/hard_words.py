"""The hard problems in tables and sentences: error and precision by number of nonzeros, unseen combinations."""

from __future__ import annotations

from repro.sections.effects import Effect
from repro.sections.ground_truth.hard import FEW, TIMES
from repro.sections.ground_truth.words import ORACLE, PUBLISHED
from repro.sections.scales import SCALES
from repro.sections.tables import load_table, need_table
from repro.sections.types import DataFrame

NAMES = {
    "encoder": "encoder",
    "refit": "encoder's support, least squares",
    "optimum": "optimum, largest codes, least squares",
    "pursuit": "pursuit",
    "lasso": "optimum at their lambda",
}
DICTIONARIES = {"true": "the true dictionary", "narrow": "its most frequent quarter", "learned": "the learned one"}
SCORES = {"NMSE": "NMSE", "precision": "precision", "support_F1": "F1", "noise_fitted": "noise fitted"}
SYNTHSAEBENCH = {
    "BatchTopK": {"F1": 0.7316, "explained variance": 0.7923},
    "MatchPursuit": {"F1": 0.4464, "explained variance": 0.8351},
}
"""SynthSAEBench-16k at L0 = 25 (SAELens 6, docs/synth_sae_bench.md): SAEs of 4,096 latents, each trained by its own way
to codes. BatchTopK has the higher F1, matching pursuit explains more."""


def change(table: DataFrame, score: str, dictionary: str, times: float, way: str = "pursuit") -> Effect:
    """What a way to codes changes against the encoder with as many nonzeros, paired by seed; 95 % t interval."""
    part = table[(table["dictionary"] == dictionary) & (table["times"] == times)]
    wide = part.set_index(["seed", "way"])[score].unstack("way")
    return Effect.of(wide[way] - wide["encoder"], "draws")


def exchange(table: DataFrame, way: str = "pursuit") -> DataFrame:
    """Changes by a way to codes against the encoder, a row a dictionary and number of nonzeros, with intervals."""
    import pandas as pd

    rows = []
    for dictionary, name in DICTIONARIES.items():
        for times in TIMES:
            changes = {label: _brief(change(table, score, dictionary, times, way)) for score, label in SCORES.items()}
            rows.append({"dictionary": name, "nonzeros / sources on": f"{times:g}", **changes})
    return pd.DataFrame(rows).set_index(["dictionary", "nonzeros / sources on"])


def hard_overview(table: DataFrame) -> DataFrame:
    """Means over draws, a row a dictionary, number of nonzeros and way to codes."""
    scores = ["L0", "precision", "recall", "support_F1", "MCC_codes", "NMSE", "noise_fitted"]
    named = table.assign(dictionary=table["dictionary"].map(DICTIONARIES), way=table["way"].map(NAMES))
    keys = ["dictionary", "times", "way"]
    return named.groupby(keys, sort=False)[scores].mean().round(3).rename_axis(["dictionary", "×", "codes by"])


def by_size(name: str) -> list[DataFrame]:
    """The tables of this name at every scale that has one, the most sources first. BadInput: there is none."""
    tables = [table for scale in SCALES if (table := load_table(name, scale)) is not None]
    return sorted(tables or [need_table(name, "tiny")], key=lambda table: -int(table["N"].max()))


def hard_findings(table: DataFrame) -> str:
    """Where pursuit gains error by wrong sources, in sentences, every number from the table.

    Rule: pursuit gains error by wrong sources where it lowers NMSE and precision, both intervals beyond zero.
    """
    kinds = {(d, t): _kind(table, d, t) for d in DICTIONARIES for t in TIMES}
    best = {name: _brief(change(table, name, "learned", 1.0, "optimum")) for name in ("NMSE", "precision")}
    learned, narrow = (
        {name: _brief(change(table, name, d, 1.0)) for name in ("NMSE", "precision")} for d in ("learned", "narrow")
    )
    fitted = table[table["dictionary"] == "true"].groupby(["times", "way"])["noise_fitted"].mean()
    noise = ", ".join(
        f"{fitted[t, 'encoder']:.2f}, {fitted[t, 'optimum']:.2f} and {fitted[t, 'pursuit']:.2f} at {t:g} ×"
        for t in TIMES
    )
    return (
        f"**{table['problem'].iloc[0]}.** Pursuit instead of the encoder lowers error and precision with "
        f"{_listed(kinds, 'noise')}; it lowers the error and raises the precision with {_listed(kinds, 'sources')} (× "
        "the mean number of sources that are on; both intervals beyond zero). At that number itself, with the learned "
        f"dictionary, it changes the NMSE by {learned['NMSE']} and the precision by {learned['precision']}, and the "
        f"largest codes of the certified optimum change them by {best['NMSE']} and {best['precision']}. With the most "
        f"frequent quarter of the true dictionary pursuit changes the NMSE by {narrow['NMSE']} and the precision by "
        f"{narrow['precision']}. With the true dictionary the encoder, the optimum's largest codes and "
        f"pursuit reproduce these shares of the noise: {noise}."
    )


def _kind(table: DataFrame, dictionary: str, times: float) -> str:
    error, precision = (change(table, score, dictionary, times) for score in ("NMSE", "precision"))
    if not error.high < 0:
        return ""
    return "noise" if precision.high < 0 else "sources" if precision.low > 0 else ""


def _listed(kinds: dict[tuple[str, float], str], kind: str) -> str:
    parts = []
    for dictionary, name in DICTIONARIES.items():
        if times := [f"{t:g}" for (d, t), found in kinds.items() if (d, found) == (dictionary, kind)]:
            parts.append(f"{name} at {', '.join(times)} ×")
    return ", ".join(parts) or "none"


def _brief(effect: Effect) -> str:
    interval = f" [{effect.low:+.3f}, {effect.high:+.3f}]" if effect.low == effect.low else ""
    return f"{effect.value:+.3f}{interval}"


def split_overview(table: DataFrame) -> DataFrame:
    """MCC of codes on seen and on unseen combinations, means over draws, beside what was published for unseen ones."""
    wide = table.pivot_table("MCC_codes", ["N", "dictionary", "way"], "combinations", sort=False)
    wide["published, unseen"] = [published(*key) for key in wide.index]
    wide = wide.round(3).rename(index=NAMES, level="way")
    return wide.rename_axis(index=["sources", "dictionary", "codes by"], columns=None)


def published(sources: int, dictionary: str, way: str) -> float:
    """MCC on unseen combinations of arXiv 2603.28744; NaN where they have none."""
    if dictionary == "true":
        return ORACLE.get(sources, float("nan")) if way == "lasso" else float("nan")
    theirs = {"encoder": "encoder", "lasso": "optimised"}
    if dictionary != f"learned from {FEW:,} rows" or way not in theirs:
        return float("nan")
    return PUBLISHED[sources][theirs[way]]


def split_findings(table: DataFrame) -> str:
    """Unseen combinations in sentences: do the rows that a dictionary is learned from bind, or the inference?"""
    part = table[table["combinations"] == "unseen"].set_index(["N", "dictionary", "way", "seed"])["MCC_codes"]
    few, many = sorted((n for n in table["dictionary"].unique() if n != "true"), key=len)
    out = []
    for sources in table["N"].unique():
        at, theirs = part[sources], PUBLISHED[sources]
        cells = "; ".join(
            f"{name}, {at[key]['encoder'].mean():.3f} by the encoder and {at[key]['lasso'].mean():.3f} by the optimum"
            for key, name in ((few, few), (many, many), ("true", "true"))
        )
        rows = _brief(Effect.of(at[many]["lasso"] - at[few]["lasso"]))
        inference = _brief(Effect.of(at[many]["lasso"] - at[many]["encoder"]))
        out.append(
            f"**{sources:,} sources: more training rows change the optimum's MCC on unseen combinations by {rows}. The "
            f"optimum instead of the encoder changes it, with the dictionary of many rows, by {inference}.** MCC by "
            f"dictionary: {cells}. Published: {theirs['encoder']:.3f} by the encoder, {theirs['optimised']:.3f} by "
            f"FISTA, with the true dictionary {ORACLE[sources]:.3f}."
        )
    return " ".join(out)


def others_on_pursuit() -> str:
    """What SynthSAEBench reports about matching pursuit, in a sentence."""
    numbers = "; ".join(
        f"{name} F1 {row['F1']:.3f} and explained variance {row['explained variance']:.3f}"
        for name, row in SYNTHSAEBENCH.items()
    )
    return (
        f"SynthSAEBench (Chanin and Garriga-Alonso 2026) trains each SAE by its own way to codes, with a quarter "
        f"as many latents as sources: {numbers}. Here the dictionary is the same for all ways, so that only inference "
        "differs."
    )
