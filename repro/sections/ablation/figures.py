"""Figures of the ablation: the waterfall, the order of changes, seeds, the grid of λ, and what density explains."""

from __future__ import annotations

from itertools import pairwise

from repro.base.theme import CONTROL, MODE_COLORS, MODE_SYMBOLS, caption, interval
from repro.evaluate.nulls import null_curve
from repro.evaluate.rules import TITLES
from repro.sections.ablation.words import CODES_BY, ROUTES, changes, effects, ends, levels
from repro.sections.figures import blank, diagonal, label, legend_once, mode_scatter, name_of, names_of
from repro.sections.types import DataFrame, Figure

LEAST = 0.0005
"""Changes below it are not written beside the names."""


def waterfall_figure(table: DataFrame, metric: str, variant: str | None = None) -> Figure:
    """One metric on the way from as released to corrected, a panel a mode; mean over the SAEs (of one variant)."""
    from plotly.subplots import make_subplots

    part = table if variant is None else table[table["variant"] == variant]
    whole = levels(part, metric)
    figure = make_subplots(rows=3, cols=1, subplot_titles=list(CODES_BY.values()), vertical_spacing=0.08)
    figure.update_annotations(x=0, xanchor="left")
    names, largest = ["as released", *TITLES.values(), "corrected"], ""
    for row, mode in enumerate(CODES_BY, 1):
        here = whole.xs(mode, level="mode").dropna()
        values = here.mean().tolist() if len(here) else []
        if not values:
            continue
        changes = [b - a for a, b in pairwise(values)]
        figure.add_bar(
            y=names,
            x=[values[0], *changes, values[-1]],
            base=[0, *values[:-1], 0],
            orientation="h",
            hovertext=[f"{names[0]}: {values[0]:.4g}"]
            + [f"{n}: {c:+.4g}, to {v:.4g}" for n, c, v in zip(names[1:], changes, values[1:])]
            + [f"corrected: {values[-1]:.4g}"],
            hoverinfo="text",
            marker={"color": [CONTROL, *[MODE_COLORS[mode]] * len(changes), CONTROL]},
            showlegend=False,
            row=row,
            col=1,
        )
        figure.update_xaxes(title_text=label(metric), row=row, col=1)
        if mode == "semi":
            most = max(changes, key=abs)
            largest = f"The largest change to codes after 30 steps: {names[1 + changes.index(most)]} ({most:+.3g})"
        moved = ["", *[f" <b>{c:+.3f}</b>".replace("-", "−") if abs(c) >= LEAST else "" for c in changes], ""]
        ticks = {"tickvals": names, "ticktext": [name + change for name, change in zip(names, moved)]}
        figure.update_yaxes(autorange="reversed", **ticks, row=row, col=1)
    figure.update_layout(height=1080)
    of = f"{variant} SAEs" if variant else "SAEs"
    return caption(
        figure,
        f"{label(metric)} of the same {of} (mean over {len(whole.groupby(['variant', 'sparsity']))}) while the flaws "
        "of the released evaluation are put right one after the other, from top to bottom: the first three rows change "
        "what is read, the next three the codes, then how λ is found, and last the probes. Grey: both ends. Numbers: "
        "the change by each.",
        title=largest or None,
    )


def order_figure(table: DataFrame, metric: str, mode: str = "semi") -> Figure:
    """The effect of each change on the way, alone, and when it alone is missing: does the order matter?"""
    part, figure = effects(table, metric).loc[CODES_BY[mode]], blank()
    for symbol, name in zip(("circle", "diamond-open", "square-open"), ROUTES.values()):
        if name in part:
            marker = {"color": MODE_COLORS[mode], "symbol": symbol, "size": 10}
            figure.add_scatter(x=part[name], y=list(part.index), mode="markers", name=name, marker=marker)
    figure.update_layout(xaxis_title=f"change of {metric}", yaxis={"autorange": "reversed"})
    return caption(
        figure,
        f"What each change does to the {metric} of codes after {CODES_BY[mode]}, on the way, alone from the released "
        "protocol, and alone missing from the corrected one. Marks that lie apart are changes whose effect depends on "
        "the others.",
    )


def seeds_figure(table: DataFrame, metric: str = "NMSE") -> Figure:
    """The change of a metric by 30 steps, an SAE of a seed a mark, as released and corrected."""
    differences = changes(table, metric).reset_index()
    figure = blank()
    for end, symbol in (("as released", "diamond-open"), ("corrected", "diamond")):
        part = differences.dropna(subset=[end])
        figure.add_scatter(
            x=part[end],
            y=part["variant"],
            mode="markers",
            name=end,
            marker={"color": MODE_COLORS["semi"], "size": 9, "symbol": symbol},
            hovertext=[f"{v} {s:g}, seed {n}" for v, s, n in zip(part["variant"], part["sparsity"], part["seed"])],
        )
    lower = [f"{int((differences[end] < 0).sum())} ({end})" for end in ("as released", "corrected")]
    figure.add_vline(x=0, line_width=1)
    figure.update_layout(xaxis_title=f"change of {label(metric)}, 30 steps − encoder")
    return caption(
        figure,
        f"What 30 steps do to {label(metric)} of SAEs trained from {differences['seed'].nunique()} seeds, a "
        "mark an SAE: judged as released and corrected. Left of the line, refinement lowers it.",
        title=f"30 steps lower {name_of(metric)} in {' and '.join(lower)} of {len(differences)} SAEs",
    )


def grid_figure(grid: DataFrame) -> Figure:
    """Nonzeros a token at each lambda of the released grid, and those of the certified optimum."""
    figure = blank()
    for (variant, sparsity), part in grid.groupby(["variant", "sparsity"], sort=False):
        for column, mode, name in (("nonzeros", "semi", "100 released steps"), ("optimum_nonzeros", "non", "optimum")):
            figure.add_scatter(
                x=part["lam"],
                y=part[column],
                mode="lines+markers",
                name=name,
                line={"color": MODE_COLORS[mode]},
                marker={"symbol": MODE_SYMBOLS[mode]},
                hovertext=[f"{variant} {sparsity:g}, target {t * m:.0f}" for t, m in zip(part["target"], part["m"])],
            )
    marks = {"d, the most of any optimum": (grid["d"].iloc[0], CONTROL)}
    marks["the encoders' mean L0"] = (grid["L0"].mean(), MODE_COLORS["encoder"])
    for name, (value, color) in marks.items():
        line = {"color": color, "dash": "dash", "width": 2}
        figure.add_scatter(x=[grid["lam"].min(), grid["lam"].max()], y=[value] * 2, mode="lines", name=name, line=line)
    legend_once(figure)
    figure.update_xaxes(type="log", title_text="λ of the released grid", exponentformat="power")
    figure.update_yaxes(type="log", title_text="nonzeros a token")
    return caption(
        figure,
        "Every λ that the release can choose leaves codes far denser than the encoder's, after its 100 steps and at "
        "the certified optimum; a line an SAE. Density was not matched, because no λ of the grid can match it.",
        title=f"The sparsest codes of the grid have {grid['nonzeros'].min():.0f} nonzeros a token, the encoders "
        f"{grid['L0'].mean():.0f}",
    )


def null_figure(table: DataFrame) -> Figure:
    """Absorption against the firing rate of the latents that it reads, on the curve of independent latents."""
    import torch

    part, rate = ends(table), torch.linspace(0, 1, 101)
    figure = mode_scatter(part, "absorption_rate", "absorption")
    curve = {"name": "independent latents", "mode": "lines", "line": {"dash": "dash"}}
    figure.add_scatter(x=rate.tolist(), y=null_curve(rate).tolist(), **curve)
    low, high = (part[f"absorption_shuffled_{end}"] for end in ("low", "high"))
    figure.add_scatter(
        x=part["absorption_rate"],
        y=(low + high) / 2,
        mode="markers",
        name="the same codes, shuffled",
        marker={"color": CONTROL, "symbol": "line-ew-open", "size": 8},
        error_y=interval((low + high) / 2, low, high),
    )
    figure.update_layout(xaxis_title="firing rate of main and auxiliary latents", yaxis_title="absorption")
    return caption(
        figure,
        "Absorption of each SAE and kind of inference against how often the six latents that it reads fire. Grey "
        "bars: 95 % range after shuffling each latent over the positives. Where bar and point meet, absorption says "
        "how dense the codes are and no more; dense codes have little of it by arithmetic.",
    )


def dead_figure(table: DataFrame) -> Figure:
    """Silent latents against those that the number of firings lets expect."""

    def hover(rows: DataFrame) -> list[str]:
        return [f"{name}, {fires:.0f} fire" for name, fires in zip(names_of(rows), rows["fires"])]

    part = ends(table)
    figure = mode_scatter(part, "dead_expected", "dead_rate", hover=hover)
    diagonal(figure, 1.05 * float(part[["dead_expected", "dead_rate"]].max().max()), "explained by the budget")
    figure.update_layout(xaxis_title="silent latents expected (share)", yaxis_title="measured (share)")
    return caption(
        figure,
        "Latents that never fire on the evaluated tokens, against the share expected if as many firings were spread "
        "as the real encoder spreads its own on training tokens. Below the line: inference wakes latents beyond what "
        "its number of nonzeros explains.",
    )
