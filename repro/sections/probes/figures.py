"""Figures of the probes, a column a language model: scores by label, changes, absorption's null, signs."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import wrap
from typing import Any

import numpy as np

from repro.base.theme import CONTROL, MODE_COLORS, MODE_SYMBOLS, caption, interval
from repro.sections.figures import TITLED, diagonal, legend_once, wrapped
from repro.sections.probes.words import ASKED, BASELINES, CODES_BY, SHOWN, corrected, labels_of
from repro.sections.types import DataFrame, Figure

Tables = Mapping[str, DataFrame]
"""Language model, in the order of the columns -> its rows."""
MARKS = {
    "F1_always": "line-ns-open",
    "F1@1_direction": "x-thin-open",
    "F1@1_random": "cross-thin-open",
    "F1_dense": "diamond-open",
}
"""Symbol of each of BASELINES; all are references, so they are grey."""


def figures(tables: Tables, means: Tables, classes: Tables) -> dict[str, Figure]:
    """All figures of the section by name; `probes`, `probe_means` and `probe_classes` by language model."""
    return {
        "F1@1": f1_figure(tables, means),
        "dF1": mean_figure(means, "dF1"),
        "null": null_figure(tables),
        "signs": sign_figure(classes),
        **{f"change_{metric}": change_figure(means, metric) for metric in ("dF1", "absorption", "excess")},
    }


def _columns(models: Tables, title: str, **space: Any) -> Figure:
    """Panels side by side that share the title of their x axes."""
    from plotly.subplots import make_subplots

    titles = [wrapped(model, 24) for model in models]
    figure = make_subplots(
        1, len(models), subplot_titles=titles, shared_yaxes=True, x_title=wrapped(title, 32), **space
    )
    figure.update_annotations(font_size=12)  # a phone is 390 pixels wide
    figure.update_xaxes(tickangle=0, nticks=4)
    return figure.update_layout(margin_b=TITLED + 14 * (len(title) > 32))


def _rows(labels: list[str], mode: str | None = None) -> np.ndarray:
    """Height of each label on the axis, from the top, with the modes above one another."""
    shift = 0.0 if mode is None else 0.27 - 0.18 * list(CODES_BY).index(mode)
    return np.arange(len(labels))[::-1] + shift


def _axis(figure: Figure, labels: list[str]) -> Figure:
    names = ["<br>".join(wrap(ASKED[label], 13)) for label in labels]
    figure.update_yaxes(tickvals=_rows(labels).tolist(), ticktext=names, range=[-0.6, len(labels) - 0.4])
    return figure.update_layout(height=150 + 80 * len(labels))


def _by_label(models: Tables, title: str) -> tuple[Figure, list[str]]:
    """Panels with a row a label, and the labels that any language model has."""
    labels = [label for label in ASKED if any(label in labels_of(table) for table in models.values())]
    return _axis(_columns(models, title, horizontal_spacing=0.05), labels), labels


def _style(mode: str, size: int = 10) -> dict[str, Any]:
    return {"color": MODE_COLORS[mode], "symbol": MODE_SYMBOLS[mode], "size": size}


def _mean_traces(figure: Figure, means: Tables, labels: list[str], metric: str, value: str) -> None:
    """A marker with its interval for each mode, label and language model; value: "value" or "change"."""
    for col, (model, table) in enumerate(means.items(), 1):
        for mode, name in CODES_BY.items():
            part = table[(table["mode"] == mode) & (table["metric"] == metric)].set_index("label").reindex(labels)
            if (value == "change" and mode == "amortized") or part[value].isna().all():
                continue
            figure.add_scatter(
                x=part[value].round(4),
                y=_rows(labels, mode),
                mode="markers",
                name=name,
                marker=_style(mode, 8),
                error_x=interval(part[value], part[f"{value}_low"], part[f"{value}_high"]),
                hovertext=[f"{model}, {ASKED[label]}, mean of {part['saes'].max():.0f} SAEs" for label in labels],
                row=1,
                col=col,
            )


def _size(means: Tables) -> str:
    return "SAEs: " + " and ".join(f"{table['saes'].max():.0f} ({model})" for model, table in means.items())


def f1_figure(tables: Tables, means: Tables) -> Figure:
    """F1@1 by label and mode, with intervals, beside the baselines of each label."""
    held = {model: corrected(table) for model, table in tables.items()}
    figure, labels = _by_label(held, "F1 on held-out documents, one latent")
    _mean_traces(figure, means, labels, "F1@1", "value")
    better = []
    for col, (model, table) in enumerate(held.items(), 1):
        free = table.groupby("label")[list(BASELINES)].mean().reindex(labels)
        for column, symbol in MARKS.items():
            marker = {"symbol": symbol, "size": 11, "line": {"width": 2}, "color": CONTROL}
            hover = [f"{model}, {ASKED[label]}: {BASELINES[column]}" for label in labels]
            style = {"mode": "markers", "name": BASELINES[column], "marker": marker, "hovertext": hover}
            figure.add_scatter(x=free[column].round(4), y=_rows(labels), **style, row=1, col=col)
        own = table[table["mode"] == "amortized"].groupby("label")["F1@1"].mean().reindex(labels)
        better.append(f"{int((own > free['F1_always']).sum())} of {len(own.dropna())} labels ({model})")
    legend_once(figure)
    figure.update_xaxes(range=[0, 1], tickvals=[0, 0.5, 1], tickangle=0)
    return caption(
        figure,
        "F1 of the one latent that correlates most with a label, by label and inference, mean over classes and SAEs, "
        "with 95 % intervals over documents and the latents that they pick. Grey: answers that need no SAE. A probe "
        f"left of “always yes” has found nothing that F1 rewards: look at the released label in the last row. "
        f"{_size(means)}.",
        title=f"One latent of the encoder beats “always yes” on {' and '.join(better)}",
    )


def mean_figure(means: Tables, metric: str) -> Figure:
    """One metric by label and mode, with intervals."""
    figure, labels = _by_label(means, SHOWN[metric])
    _mean_traces(figure, means, labels, metric, "value")
    figure.add_vline(x=0, line_dash="dash", line_width=1)
    legend_once(figure)
    above = []
    for model, table in means.items():
        part = table[(table["metric"] == metric) & (table["mode"] == "amortized")]
        above.append(f"{int((part['value_low'] > 0).sum())} of {len(part)} labels ({model})")
    return caption(
        figure,
        f"{SHOWN[metric]} by label and inference at matched L0, mean over SAEs with 95 % intervals. {_size(means)}.",
        title=f"{_capital(_name(metric))} of the encoder's latents is above zero on {' and '.join(above)}",
    )


def _name(metric: str) -> str:
    """The name of a metric without its definition or unit."""
    return SHOWN[metric].partition(" =")[0].partition(" (")[0]


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def change_figure(means: Tables, metric: str) -> Figure:
    """The change of a metric by refinement, label by label, paired by SAE and document."""
    means = {model: table[table["mode"] != "random_encoder"] for model, table in means.items()}
    figure, labels = _by_label(means, f"change of {_name(metric)}")
    _mean_traces(figure, means, labels, metric, "change")
    figure.add_vline(x=0, line_dash="dash", line_width=1)
    legend_once(figure)
    moved = []
    for model, table in means.items():
        part = table[(table["metric"] == metric) & (table["mode"] == "semi")]
        falls, rises = int((part["change_high"] < 0).sum()), int((part["change_low"] > 0).sum())
        moved.append(f"falls on {falls} and rises on {rises} of {len(part)} labels ({model})")
    return caption(
        figure,
        f"{SHOWN[metric]} of refined codes minus that of the encoder's, at matched L0, the same documents resampled "
        "for both and latents picked anew (95 % intervals). Left of the dashed line refinement lowers it. "
        f"{_size(means)}.",
        title=f"{_capital(_name(metric))} under 30 steps {', '.join(moved)}",
    )


def null_figure(tables: Tables) -> Figure:
    """Absorption against its density null, a marker an SAE and label; hollow: the released protocol."""
    figure = _columns(tables, "absorption expected from density alone", horizontal_spacing=0.05)
    inside = []
    for col, (model, table) in enumerate(tables.items(), 1):
        table = table.dropna(subset=["absorption"])
        for (protocol, mode), part in table.groupby(["protocol", "mode"], sort=False):
            held, marker = protocol == "corrected", _style(str(mode), 7)
            marker["symbol"] += "" if held else "-open"
            error = interval(part["absorption"], part["absorption_low"], part["absorption_high"]) if held else None
            names = zip(part["label"], part["variant"], part["sparsity"])
            figure.add_scatter(
                x=part["absorption_null"].round(4),
                y=part["absorption"].round(4),
                mode="markers",
                name=CODES_BY[str(mode)] + ("" if held else ", released"),
                marker=marker,
                error_y=None if error is None else error | {"thickness": 0.7, "width": 0},
                hovertext=[f"{model}, {ASKED[label]}, {v} {s:g}" for label, v, s in names],
                row=1,
                col=col,
            )
        top = float(np.nanmax(table[["absorption", "absorption_null"]].to_numpy())) if len(table) else 1.0
        diagonal(figure, top, "density alone", row=1, col=col)
        part = table[table["protocol"] == "corrected"]
        by_chance = part["absorption_null"].between(part["absorption_low"], part["absorption_high"])
        inside.append(f"{int(by_chance.sum())} of {len(part)} ({model})")
    legend_once(figure)
    figure.update_yaxes(title_text="absorption measured", col=1)
    figure.update_layout(height=520)
    return caption(
        figure,
        "Absorption against what independent latents with the same firing rates on the positives give, each SAE and "
        "label. On the dashed line the number says how dense codes are; above it latents replace one another, below it "
        "they fire together. Bars: 95 % intervals.",
        title=f"Absorption is what density alone gives, within its interval, in {' and '.join(inside)} cases",
    )


def sign_figure(classes: Tables) -> Figure:
    """The share of main latents that correlate negatively with their class, by label and mode."""
    figure, labels = _by_label(classes, "main latents with r < 0 (share)")
    flipped = []
    for col, (model, table) in enumerate(classes.items(), 1):
        picks = table.dropna(subset=["r_main"]).assign(off=lambda t: t["r_main"] < 0)
        for mode, name in CODES_BY.items():
            part = picks[picks["mode"] == mode].groupby("label")["off"].agg(["mean", "size"]).reindex(labels)
            figure.add_scatter(
                x=part["mean"].round(4),
                y=_rows(labels, mode),
                mode="markers",
                name=name,
                marker=_style(mode, 8),
                hovertext=[f"{model}, {ASKED[label]}: of {n:.0f} picks" for label, n in zip(labels, part["size"])],
                row=1,
                col=col,
            )
        own = picks[picks["mode"] != "random_encoder"]
        flipped.append(f"{own['off'].mean():.0%} of {len(own):,} ({model})")
    legend_once(figure)
    figure.update_xaxes(range=[-0.04, 1.04], tickvals=[0, 0.5, 1], tickangle=0)
    return caption(
        figure,
        "The latent that |r| picks for each class and SAE in either half of the documents: how often r is negative. "
        "Such a latent is off on the positives rather than on: “absorption” counts it as absorbed by construction.",
        title=f"Main latents that are off on the class that they stand for: {', '.join(flipped)}",
    )
