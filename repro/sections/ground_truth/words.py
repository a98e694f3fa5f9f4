"""Ground truth in tables and sentences: is it the inference or the dictionary? Effects are paired by seed."""

from __future__ import annotations

from repro.sections.effects import Effect
from repro.sections.types import DataFrame, Series

PUBLISHED = {
    100: {"encoder": 0.705, "optimised": 0.865},
    1000: {"encoder": 0.191, "optimised": 0.193},
    10000: {"encoder": 0.498, "optimised": 0.354},
}
"""MCC on unseen combinations of Barin Pacela et al. (arXiv 2603.28744), by number of sources, K = 10: a Top-K SAE's
encoder, and FISTA (100 steps at lambda = 0.1) on its dictionary, trained on 2,500 rows without noise; means over three
seeds (results/exp_frozen_decoder.json and exp_frozen_decoder_10k.json of their code)."""
ORACLE = {100: 0.986, 1000: 0.993, 10000: 0.982}
"""The same by FISTA on the true dictionary."""


def overview(table: DataFrame) -> DataFrame:
    """Mean over seeds with the half width of a 95 % t interval, a row a problem, dictionary and way."""
    columns = ["MCC_dictionary", "support_F1", "MCC_codes", "NMSE", "L0"]
    groups = table.rename(columns={"way": "codes by"}).groupby(["problem", "dictionary", "codes by"], sort=False)
    return groups[columns].agg(_mean_and_half)


def _mean_and_half(values: Series) -> str:
    effect = Effect.of(values)
    return f"{effect.value:.3f}" + (f" ± {effect.high - effect.value:.3f}" if effect.high == effect.high else "")


def effects(table: DataFrame, score: str = "support_F1") -> DataFrame:
    """The effects of better inference and of a better dictionary, paired by seed, with 95 % t intervals.

    inference: the K largest codes of the certified optimum minus those of the encoder. dictionary: the true one minus
    the learned one. Each with the other one as it is and as it should be.
    """
    import pandas as pd

    rows = []
    for problem, part in table.groupby("problem", sort=False):
        wide = part.set_index(["seed", "dictionary", "way"])[score].unstack(["dictionary", "way"])
        pairs = {
            "inference (learned dictionary)": wide["learned", "certified_k"] - wide["learned", "encoder"],
            "inference (true dictionary)": wide["true", "certified_k"] - wide["true", "encoder"],
            "dictionary (certified optimum)": wide["true", "certified_k"] - wide["learned", "certified_k"],
            "dictionary (encoder)": wide["true", "encoder"] - wide["learned", "encoder"],
        }
        for name, values in pairs.items():
            e = Effect.of(values)
            rows.append(
                {"problem": problem, "exchange": name, "effect": e.value, "low": e.low, "high": e.high, "n": e.n}
            )
    return pd.DataFrame(rows)


def findings(table: DataFrame) -> str:
    """Is it the inference or the dictionary? A sentence a problem, every number and the answer from the table.

    Rule: the larger effect on support F1 with the learned dictionary in hand, if its interval excludes the other's
    estimate; else it is open.
    """
    out = []
    for problem, part in effects(table).groupby("problem", sort=False):
        part = part.set_index("exchange")
        a, b = part.loc["inference (learned dictionary)"], part.loc["dictionary (certified optimum)"]
        larger, other = (a, b) if a["effect"] > b["effect"] else (b, a)
        settled = larger["low"] == larger["low"] and larger["low"] > other["effect"]
        word = ("the inference" if larger is a else "the dictionary") if settled else "not settled"
        out.append(
            f"**{problem}: {word}.** With the learned dictionary, certified codes instead of the encoder's change "
            f"support F1 by {_shown(a)}; the true dictionary instead of the learned one, both certified, by "
            f"{_shown(b)}."
        )
    return " ".join(out) + (
        " (Rule: the larger of the two effects, if its interval lies above the other's estimate; "
        f"{int(effects(table)['n'].max())} seeds.)"
    )


def _shown(row: Series) -> str:
    text = f"{row['effect']:+.3f}"
    return text + (f" [{row['low']:+.3f}, {row['high']:+.3f}]" if row["low"] == row["low"] else "")


def against_others(table: DataFrame) -> str:
    """Beside the published numbers of the same kind of test, in sentences; ours from the table."""
    mean = table.groupby(["problem", "dictionary", "way"])["MCC_codes"].mean()
    ours = "; ".join(
        f"{problem}: {mean[problem, 'learned', 'encoder']:.3f} by the encoder, "
        f"{mean[problem, 'learned', 'certified_k']:.3f} certified, with the true dictionary "
        f"{mean[problem, 'true', 'certified_k']:.3f}"
        for problem in dict.fromkeys(table["problem"])
    )
    theirs = "; ".join(
        f"{n:,} sources: {row['encoder']:.3f} and {row['optimised']:.3f}" for n, row in PUBLISHED.items()
    )
    return (
        f"MCC of codes here, {ours}. Barin Pacela et al. (unseen combinations, a Top-K SAE's encoder and FISTA on its "
        f"dictionary): {theirs}; with the true dictionary at least {min(ORACLE.values()):.3f}. The amortization paper "
        "itself reports nothing with a known truth."
    )
