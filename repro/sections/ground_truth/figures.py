"""Figures of the ground truth: each score by inference mode, under the true and the learned dictionary."""

from __future__ import annotations

from repro.base.theme import CONTROL, MODE_COLORS, MODE_SYMBOLS, VARIED, caption, interval
from repro.sections.effects import Effect
from repro.sections.figures import legend_once
from repro.sections.ground_truth.hard_words import DICTIONARIES, NAMES, change
from repro.sections.types import DataFrame, Figure

AXES = {
    "support_F1": "support F1 (higher is better)",
    "MCC_codes": "MCC of codes (higher is better)",
    "NMSE": "NMSE (lower is better)",
}
WAYS = {
    "encoder": "encoder",
    "semi": "30 steps",
    "certified": "optimum",
    "certified_k": "optimum, K largest",
    "pursuit": "pursuit",
}


def figures(table: DataFrame) -> dict[str, Figure]:
    """All figures of the section by name."""
    return {score: score_figure(table, score) for score in AXES}


def score_figure(table: DataFrame, score: str) -> Figure:
    """One score by inference mode, with the true and the learned dictionary; a panel a problem; 95 % intervals."""
    from plotly.subplots import make_subplots

    problems = list(dict.fromkeys(table["problem"]))
    figure = make_subplots(rows=len(problems), cols=1, subplot_titles=problems, vertical_spacing=0.2)
    for row, problem in enumerate(problems, 1):
        for name, symbol in (("true", "circle-open"), ("learned", "circle")):
            part = table[(table["problem"] == problem) & (table["dictionary"] == name)]
            effects = [Effect.of(part[part["way"] == way][score]) for way in WAYS]
            value, low, high = ([getattr(e, end) for e in effects] for end in ("value", "low", "high"))
            figure.add_scatter(
                x=list(WAYS.values()),
                y=value,
                mode="markers",
                name=f"{name} dictionary",
                marker={"color": [MODE_COLORS[way] for way in WAYS], "symbol": symbol, "size": 11},
                error_y=None if any(l != l for l in low) else interval(value, low, high) | {"color": CONTROL},
                row=row,
                col=1,
            )
        figure.update_yaxes(title_text=AXES[score], row=row, col=1, type="log" if score == "NMSE" else "linear")
    legend_once(figure)
    figure.update_annotations(x=0, xanchor="left")
    figure.update_layout(height=330 * len(problems) + 100, margin={"t": 90})
    return caption(
        figure,
        f"{AXES[score]} by inference mode, at the true number of nonzeros; mean over seeds with 95 % t intervals. "
        "Hollow: the true dictionary, whose encoder is the best linear one; filled: what training found. A distance "
        "along a row is the price of inference, between hollow and filled the price of the dictionary.",
        title=_by_pursuit(table, score),
    )


def _by_pursuit(table: DataFrame, score: str) -> str:
    """What pursuit changes of a score against the encoder with the learned dictionary, problem by problem."""
    part, changes = table[table["dictionary"] == "learned"], []
    for problem, rows in part.groupby("problem", sort=False):
        wide = rows.set_index(["seed", "way"])[score].unstack("way")
        changes.append(f"{Effect.of(wide['pursuit'] - wide['encoder'], 'seeds')}, on {problem}")
    return (
        f"With the learned dictionary pursuit changes the encoder's {AXES[score].partition(' (')[0]} by "
        + "; by ".join(changes)
    )


DRAWN = ("encoder", "refit", "optimum", "pursuit")


def hard_figure(table: DataFrame) -> Figure:
    """Error against precision, a line a way to codes along its numbers of nonzeros; a panel a dictionary."""
    from plotly.subplots import make_subplots

    names = [f"with {name}" for name in DICTIONARIES.values()]
    figure = make_subplots(rows=len(names), cols=1, subplot_titles=names, vertical_spacing=0.1, shared_xaxes=True)
    for row, dictionary in enumerate(DICTIONARIES, 1):
        for way in DRAWN:
            part = table[(table["dictionary"] == dictionary) & (table["way"] == way)]
            by_times = part.groupby("times", sort=True)
            x, y = ([Effect.of(rows) for _, rows in by_times[score]] for score in ("precision", "NMSE"))
            bars = [([e.value for e in a], [e.low for e in a], [e.high for e in a]) for a in (x, y)]
            drawn = all(e.low == e.low for e in (*x, *y))
            figure.add_scatter(
                x=bars[0][0],
                y=bars[1][0],
                mode="lines+markers",
                name=NAMES[way],
                hovertext=[f"{times:g} nonzeros a source" for times, _ in by_times],
                marker={"symbol": MODE_SYMBOLS[way], "size": 9},
                line={"color": MODE_COLORS[way], "dash": VARIED.get(way, "solid"), "width": 1.5},
                error_x=interval(*bars[0]) if drawn else None,
                error_y=interval(*bars[1]) if drawn else None,
                row=row,
                col=1,
            )
        figure.update_yaxes(title_text="NMSE", type="log", row=row, col=1)
    figure.update_xaxes(title_text="precision of the support (higher is better)", row=len(names), col=1)
    legend_once(figure)
    figure.update_annotations(x=0, xanchor="left")
    figure.update_layout(height=300 * len(names) + 100)
    times = ", ".join(f"{t:g}" for t in sorted(table["times"].unique(), reverse=True))
    return caption(
        figure,
        f"NMSE against the share of latents that are on whose source is on. Along a line from left to right: {times} "
        "nonzeros for each source that is on, in the mean; mean over draws with 95 % t intervals. Towards the lower "
        "right is better on both axes. A line below another and to the left of it gains error by wrong sources.",
        title="With the learned dictionary and as many nonzeros as sources, pursuit instead of the encoder changes "
        f"NMSE by {change(table, 'NMSE', 'learned', 1)} and precision by {change(table, 'precision', 'learned', 1)}",
    )
