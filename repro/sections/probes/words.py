"""Probes in tables and sentences: one latent's F1 by label, and whether refinement does the same for all labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from repro.metrics.names import MODE_NAMES
from repro.sections.tables import tidy
from repro.sections.types import DataFrame

ASKED = {
    "topic": "topic",
    "source": "source of the text",
    "lexfile": "lexicographer class",
    "pos": "part of speech",
    "letter": "first letter",
    "norm": "norm above median (released)",
}
CODES_BY = MODE_NAMES | {"random_encoder": "random encoder"}
SHOWN = {
    "F1@1": "F1 with one latent",
    "dF1": "ΔF1 = F1@2 − F1@1",
    "absorption": "absorption (share of positives)",
    "excess": "absorption − what density alone gives",
}
BASELINES = {
    "F1_always": "always yes",
    "F1@1_direction": "a random direction",
    "F1@1_random": "a random latent",
    "F1_dense": "dense linear probe",
}


def overview(tables: Mapping[str, DataFrame]) -> DataFrame:
    """Mean over SAEs by language model, protocol, label and mode, with what each label gives away for nothing."""
    import pandas as pd

    columns = ["L0", "F1@1", "F1@2", "dF1", "absorption", "absorption_null", "F1_always", "F1_dense"]
    keys = ["protocol", "label", "mode"]
    means = {m: t.dropna(subset=["F1@1"]).groupby(keys, sort=False)[columns].mean() for m, t in tables.items()}
    return tidy(pd.concat(means, names=["language model"]), 3)


def corrected(table: DataFrame) -> DataFrame:
    """Rows of held-out probes."""
    part: DataFrame = table[(table["protocol"] == "corrected") & table["F1@1"].notna()]
    return part


def labels_of(table: DataFrame) -> list[str]:
    """Labels that a table has, in the order of ASKED."""
    return [label for label in ASKED if label in set(table["label"])]


def findings(table: DataFrame) -> str:
    """F1 of one latent by label, in sentences, every number from the table."""
    held = corrected(table)
    mean = held.groupby(["label", "mode"])[["F1@1", "anticorrelated"]].mean()
    free = held.groupby("label")[list(BASELINES)].mean()
    out = [
        f"**{ASKED[label]}**: one latent of the encoder has F1 {mean['F1@1'][label, 'amortized']:.2f}, of a random "
        f"encoder {mean['F1@1'][label, 'random_encoder']:.2f}; always yes {free['F1_always'][label]:.2f}, a random "
        f"direction {free['F1@1_direction'][label]:.2f}, all coordinates {free['F1_dense'][label]:.2f}."
        for label in labels_of(held)
        if (label, "random_encoder") in mean.index and (label, "amortized") in mean.index
    ]
    below = [ASKED[label] for label in labels_of(held) if mean["F1@1"][label, "amortized"] < free["F1_always"][label]]
    out.append(f"One latent does worse than always yes on: {', '.join(below) or 'none'}.")
    main = held[held["mode"] != "random_encoder"].groupby("label")["anticorrelated"].mean()
    flipped = ", ".join(f"{ASKED[label]} {main[label]:.0%}" for label in labels_of(held) if main[label] > 0)
    out.append(f"Main latents that are anti-correlated with their class, held out: {flipped or 'none'}.")
    raw = table[table["protocol"] == "as_released"]
    if len(raw):
        encoder = raw[raw["mode"] == "amortized"]
        out.append(
            f"As released (the norm's label, in sample) {raw['anticorrelated'].mean():.0%} are, and F1@1 of the "
            f"encoder is {encoder['F1@1'].mean():.2f} where always yes has {encoder['F1_always'].mean():.2f}."
        )
    return "\n\n".join(out)


def depends(means: DataFrame, metric: str, mode: str) -> tuple[str, dict[str, list[str]]]:
    """(yes, no or open; labels by direction): does what `mode` changes in a metric depend on the label?

    Rule: yes, if the metric falls for one label and rises for another, or two intervals do not overlap; no, if it falls
    for all, rises for all, and intervals overlap; else open: too few documents to say.
    """
    part = means[(means["metric"] == metric) & (means["mode"] == mode)].dropna(subset=["change_low"])
    by: dict[str, list[str]] = {}
    for _, row in part.iterrows():
        direction = "falls" if row["change_high"] < 0 else "rises" if row["change_low"] > 0 else "open"
        by.setdefault(direction, []).append(str(row["label"]))
    if {"falls", "rises"} <= set(by) or part["change_low"].max() > part["change_high"].min():
        return "yes", by
    return ("no" if len(by) == 1 and "open" not in by else "open"), by


RULE = (
    "Rule: a change falls or rises where its 95 % interval excludes 0 (documents resampled, latents picked and probes "
    "fitted anew each time; the SAEs are taken as given). It depends on the label if it falls for one and rises for "
    "another, or if two intervals do not overlap; it is the same if it falls for all or rises for all, with "
    "overlapping intervals; otherwise it is not settled."
)
"""When a conclusion depends on the label (`depends`)."""


def verdict(means: DataFrame) -> str:
    """Do conclusions about ΔF1 and absorption under refinement depend on the label? In sentences."""
    words = {"yes": "depends on the label", "no": "is the same for every label", "open": "is not settled"}
    out = []
    for metric in ("dF1", "absorption", "excess"):
        for mode in ("semi", "non"):
            answer, by = depends(means, metric, mode)
            part = means[(means["metric"] == metric) & (means["mode"] == mode)].set_index("label")
            if not by:
                continue
            groups = "; ".join(
                f"{name}: " + ", ".join(f"{ASKED[label]} {_shown(part.loc[label])}" for label in by[name])
                for name in ("falls", "rises", "open")
                if name in by
            )
            out.append(f"- **{SHOWN[metric]}, {CODES_BY[mode]} instead of the encoder: {words[answer]}.** {groups}.")
    return "\n".join(["", "", *out])


def _shown(row: Any) -> str:
    return f"{row['change']:+.3f} [{row['change_low']:+.3f}, {row['change_high']:+.3f}]"
