"""Figures of the probes: scores by label and inference, refinement's changes, absorption's null, and signs."""

from __future__ import annotations

from textwrap import wrap
from typing import Any

import numpy as np

from repro.base import theme
from repro.base.theme import GREY, MODE_COLORS, MODE_SYMBOLS, caption, interval
from repro.sections.figures import blank, diagonal
from repro.sections.probes.words import ASKED, BASELINES, CODES_BY, SHOWN, corrected, labels_of
from repro.sections.types import DataFrame, Figure

MARKS = {
    "F1_always": ("line-ns-open", "GREY"),
    "F1@1_direction": ("x-thin-open", "PINK"),
    "F1@1_random": ("cross-thin-open", "VIOLET"),
    "F1_dense": ("line-ns-open", "GREEN"),
}
"""Symbol and colour of each of BASELINES."""


def figures(table: DataFrame, means: DataFrame, classes: DataFrame) -> dict[str, Figure]:
    """All figures of the section by name."""
    return {
        "F1@1": f1_figure(table, means),
        "dF1": mean_figure(means, "dF1"),
        "null": null_figure(table),
        "signs": sign_figure(classes),
        **{f"change_{metric}": change_figure(means, metric) for metric in ("dF1", "absorption", "excess")},
    }


def _rows(labels: list[str], mode: str | None = None) -> np.ndarray:
    """Height of each label on the axis, from the top, with the modes above one another."""
    shift = 0.0 if mode is None else 0.27 - 0.18 * list(CODES_BY).index(mode)
    return np.arange(len(labels))[::-1] + shift


def _axis(figure: Figure, labels: list[str], title: str) -> None:
    names = ["<br>".join(wrap(ASKED[label], 13)) for label in labels]
    figure.update_yaxes(tickvals=_rows(labels).tolist(), ticktext=names, range=[-0.6, len(labels) - 0.4])
    figure.update_xaxes(title_text="<br>".join(wrap(title, 32)))
    figure.update_layout(height=130 + 85 * len(labels))


def _style(mode: str, size: int = 10) -> dict[str, Any]:
    return {"color": MODE_COLORS.get(mode, GREY), "symbol": MODE_SYMBOLS.get(mode, "star"), "size": size}


def _mean_traces(figure: Figure, means: DataFrame, labels: list[str], metric: str, value: str) -> None:
    """A marker with its interval for each mode and label; value: "value" or "change"."""
    for mode, name in CODES_BY.items():
        part = means[(means["mode"] == mode) & (means["metric"] == metric)].set_index("label").reindex(labels)
        if (value == "change" and mode == "amortized") or part[value].isna().all():
            continue
        figure.add_scatter(
            x=part[value],
            y=_rows(labels, mode),
            mode="markers",
            name=name,
            marker=_style(mode),
            error_x=interval(part[value], part[f"{value}_low"], part[f"{value}_high"]),
        )


def f1_figure(table: DataFrame, means: DataFrame) -> Figure:
    """F1@1 by label and mode, with intervals, beside the baselines of each label."""
    table, figure = corrected(table), blank()
    labels = labels_of(table)
    _mean_traces(figure, means, labels, "F1@1", "value")
    means_of = table.groupby("label")[list(BASELINES)].mean().reindex(labels)
    for column, (symbol, color) in MARKS.items():
        marker = {"symbol": symbol, "size": 16, "line": {"width": 2.5}, "color": getattr(theme, color)}
        figure.add_scatter(x=means_of[column], y=_rows(labels), mode="markers", name=BASELINES[column], marker=marker)
    _axis(figure, labels, "F1 on held-out documents, one latent, mean over classes and SAEs")
    figure.update_xaxes(range=[0, 1])
    return theme.caption(
        figure,
        "F1 of the one latent that correlates most with a label, by label and inference, with 95 % intervals over "
        "documents and the latents that they pick. Beside it answers that need no SAE. A probe left of “always yes” "
        "has found nothing that F1 rewards: look at the released label in the last row.",
    )


def mean_figure(means: DataFrame, metric: str) -> Figure:
    """One metric by label and mode, with intervals."""
    figure, labels = blank(), labels_of(means)
    _mean_traces(figure, means, labels, metric, "value")
    figure.add_vline(x=0, line_dash="dash", line_width=1)
    _axis(figure, labels, SHOWN[metric])
    return caption(figure, f"{SHOWN[metric]} by label and inference at matched L0, mean over SAEs with 95 % intervals.")


def change_figure(means: DataFrame, metric: str) -> Figure:
    """The change of a metric by refinement, label by label, paired by SAE and document."""
    means = means[means["mode"] != "random_encoder"]
    figure, labels = blank(), labels_of(means)
    _mean_traces(figure, means, labels, metric, "change")
    figure.add_vline(x=0, line_dash="dash", line_width=1)
    _axis(figure, labels, f"change of {SHOWN[metric]}")
    return caption(
        figure,
        f"{SHOWN[metric]} of refined codes minus that of the encoder's, at matched L0, the same documents resampled "
        "for both and latents picked anew (95 % intervals). Left of the dashed line refinement lowers it. "
        "Do all labels lie on one side?",
    )


def null_figure(table: DataFrame) -> Figure:
    """Absorption against its density null, a point an SAE and label; hollow: the released protocol."""
    figure = blank()
    for (protocol, mode), part in table.dropna(subset=["absorption"]).groupby(["protocol", "mode"], sort=False):
        held, marker = protocol == "corrected", _style(str(mode), 8)
        marker["symbol"] += "" if held else "-open"
        error = interval(part["absorption"], part["absorption_low"], part["absorption_high"]) if held else None
        figure.add_scatter(
            x=part["absorption_null"],
            y=part["absorption"],
            mode="markers",
            name=CODES_BY[str(mode)] + ("" if held else ", released"),
            marker=marker,
            error_y=None if error is None else error | {"thickness": 0.7, "width": 0},
            hovertext=[f"{ASKED[l]}, {v} {s:g}" for l, v, s in zip(part["label"], part["variant"], part["sparsity"])],
        )
    top = float(np.nanmax(table[["absorption", "absorption_null"]].to_numpy())) if len(table) else 1.0
    diagonal(figure, top, "density alone")
    figure.update_xaxes(title_text="absorption expected from density alone")
    figure.update_yaxes(title_text="absorption measured")
    return caption(
        figure,
        "Absorption against what independent latents with the same firing rates on the positives give, each SAE and "
        "label. On the dashed line the number says how dense codes are; above it latents replace one another, below it "
        "they fire together.",
    )


def sign_figure(classes: DataFrame) -> Figure:
    """Correlation of the main latent with its class, with its sign: a point a class, SAE and half of the documents."""
    figure, labels = blank(), labels_of(classes)
    height = dict(zip(labels, _rows(labels), strict=True))
    jitter = np.random.default_rng(0)
    for mode, name in CODES_BY.items():
        part = classes[classes["mode"] == mode]
        shift = _rows(labels, mode)[-1] + jitter.uniform(-0.06, 0.06, len(part))
        figure.add_scatter(
            x=part["r_main"].round(3),
            y=(part["label"].map(height) + shift).round(3),
            mode="markers",
            name=name,
            marker=_style(mode, 5) | {"opacity": 0.6},
            hovertext=part["class"],
        )
    figure.add_vline(x=0, line_dash="dash", line_width=1)
    _axis(figure, labels, "correlation r of the main latent with its class, where it was picked")
    return caption(
        figure,
        "The latent that |r| picks for each class and SAE in either half of the documents, with the sign of r. Left of "
        "the dashed line it is off on the positives rather than on: “absorption” counts those as absorbed by "
        "construction.",
    )
