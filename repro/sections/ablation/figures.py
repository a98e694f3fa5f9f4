"""The ablation read from its table: waterfalls, what each change does, and sentences."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from repro.evaluate.rules import TITLES

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

METRICS = ("NMSE", "FVU", "L0", "dead_rate", "dense@0.1", "absorption", "dF1")
LABELS = {
    "NMSE": "NMSE",
    "FVU": "1 − FVE (error over variance)",
    "L0": "nonzeros a token",
    "dead_rate": "silent latents (share)",
    "dense@0.1": "latents that fire on ≥ 10 % of tokens (share)",
    "absorption": "absorption (share of positives)",
    "dF1": "ΔF1 = F1@2 − F1@1",
}
MODES = {"amortized": "encoder", "semi": "30 steps", "non": "200 steps, then optimum"}
ROUTES = {"cumulative": "on the way", "alone": "alone, from as released", "undone": "alone missing, from corrected"}


def levels(table: pd.DataFrame, metric: str, route: str = "cumulative") -> pd.DataFrame:
    """Values of one metric on one route: rows (variant, sparsity, mode), a column a step. FVU is 1 − FVE."""
    part = table[table["route"] == route]
    part = part.assign(FVU=1 - part["FVE"])
    return part.set_index(["variant", "sparsity", "mode", "step"])[metric].unstack("step").round(12)


def effects(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """What each change does to a metric, mean over SAEs: (mode, change) x (on the way, alone, alone missing).

    Equal columns: the order does not matter. "Alone missing" is corrected minus corrected without this change.
    """
    import pandas as pd

    way = levels(table, metric)
    alone, undone = (levels(table, metric, route) for route in ("alone", "undone"))
    last = way.columns.max()
    rows = []
    for mode in MODES:
        for step, title in enumerate(TITLES.values(), 1):
            parts = {"cumulative": way[step] - way[step - 1]}
            if step in alone and step in undone:
                parts |= {"alone": alone[step] - way[0], "undone": way[last] - undone[step]}
            means = {ROUTES[r]: v.xs(mode, level="mode").mean() for r, v in parts.items()}
            rows.append({"mode": MODES[mode], "change": title, **means})
    return pd.DataFrame(rows).set_index(["mode", "change"]).round(4)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """The cumulative path in numbers: mean over SAEs of every metric, a row a change and mode."""
    part = table[table["route"] == "cumulative"].assign(FVU=lambda t: 1 - t["FVE"])
    part["change"] = part["change"].map({"as_released": "as released", **TITLES})
    columns = [*METRICS, "absorption_null", "lam"]
    means = part.groupby(["step", "change", "mode"], sort=False)[columns].mean().round(4)
    return means.rename(index=MODES, level="mode")


def waterfall(table: pd.DataFrame, metric: str, variant: str | None = None) -> Figure:
    """One metric on the way from as released to corrected, a panel a mode; mean over the SAEs (of one variant)."""
    from plotly.subplots import make_subplots

    from repro.base.theme import BLUE, GREY, VERMILION, caption

    part = table if variant is None else table[table["variant"] == variant]
    whole = levels(part, metric)
    figure = make_subplots(rows=3, cols=1, subplot_titles=list(MODES.values()), vertical_spacing=0.08)
    figure.update_annotations(x=0, xanchor="left")
    names = ["as released", *TITLES.values(), "corrected"]
    for row, mode in enumerate(MODES, 1):
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
            marker={"color": [GREY, *[VERMILION if c > 0 else BLUE for c in changes], GREY]},
            showlegend=False,
            row=row,
            col=1,
        )
        figure.update_xaxes(title_text=LABELS[metric], row=row, col=1)
        figure.update_yaxes(autorange="reversed", row=row, col=1)
    figure.update_layout(height=1080)
    of = f"{variant} SAEs" if variant else "SAEs"
    return caption(
        figure,
        f"{LABELS[metric]} of the same {of} (mean over {len(whole.groupby(['variant', 'sparsity']))}) while the flaws "
        "of the released evaluation are put right one after the other, from top to bottom: the first three rows change "
        "what is read, the next three the codes, then how λ is found, and last the probes. Grey: both ends; blue: "
        "falls; red: rises.",
    )


def order_figure(table: pd.DataFrame, metric: str, mode: str = "semi") -> Figure:
    """What each change does on the way, alone, and when it alone is missing: does the order matter?"""
    from repro.base.theme import PALETTE, caption

    part = effects(table, metric).loc[MODES[mode]]
    import plotly.graph_objects as go

    figure = go.Figure()
    for color, symbol, name in zip(PALETTE, ("circle", "diamond-open", "square-open"), ROUTES.values()):
        if name in part:
            marker = {"color": color, "symbol": symbol, "size": 10}
            figure.add_scatter(x=part[name], y=list(part.index), mode="markers", name=name, marker=marker)
    figure.update_layout(xaxis_title=f"change of {metric}", yaxis={"autorange": "reversed"})
    return caption(
        figure,
        f"What each change does to the {metric} of codes after {MODES[mode]}, on the way, alone from the released "
        "protocol, and alone missing from the corrected one. Marks that lie apart are changes whose effect depends on "
        "the others.",
    )


def paper_says() -> str:
    """What the paper reports for BatchTopK before and after 30 steps, in a sentence, from data/paper.csv."""
    from repro.sections.comparison.run import paper_numbers

    rows = paper_numbers().set_index("id")
    before, after = rows.loc["S3"], rows.loc["S4"]
    dead = [f"{row['dead_rate']:.1%}".replace("%", "\N{NO-BREAK SPACE}%") for row in (before, after)]
    return (
        f"The paper's {before['subject']} goes from NMSE {before['NMSE']:.3f} with {dead[0]} dead latents to "
        f"{after['NMSE']:.3f} with {dead[1]}."
    )


def findings(table: pd.DataFrame, metric: str = "NMSE") -> str:
    """The path in sentences, every number from the table."""
    whole = levels(table, metric)
    n = len(whole.groupby(["variant", "sparsity"]))
    out = [f"Mean over {n} SAE{'s' if n > 1 else ''}."]
    for mode, name in (("amortized", "encoder's"), ("semi", "30-step")):
        values = whole.xs(mode, level="mode").dropna().mean()
        if values.empty or values.isna().all():
            continue
        changes = values.diff().dropna()
        titles = list(TITLES.values())
        largest = [c for c in changes.abs().nlargest(2).index if round(changes[c], 9)]
        moved = " and ".join(f"“{titles[c - 1]}” ({changes[c]:+.3g})" for c in largest)
        out.append(
            f"The {name} {metric} goes from {values.iloc[0]:.3g} as released to {values.iloc[-1]:.3g} corrected"
            + (f"; the largest changes on the way: {moved}." if moved else ".")
        )
    start, end = (whole[step].unstack("mode") for step in (whole.columns.min(), whole.columns.max()))
    before, after = ((part["semi"] - part["amortized"]).round(9) for part in (start, end))
    out.append(
        f"What refinement does to it (30 steps minus encoder) is {before.mean():+.3g} as released and "
        f"{after.mean():+.3g} corrected; it falls for {int((before < 0).sum())} and {int((after < 0).sum())} of {n} "
        f"SAEs."
    )
    return " ".join(out)


def verdict(table: pd.DataFrame) -> str:
    """Does the published drop of the error come from the evaluation? In sentences, by a stated rule.

    Rule: it does, if 30 steps lower NMSE for most SAEs as released and for fewer than half corrected, also after least
    squares on each code's support, which undoes what the L1 term shrinks; in part, if only the latter still falls for
    most; it does not, if NMSE itself still falls for most; else it is open.
    """
    released, corrected = (_lowered(table, "NMSE", end) for end in (0, -1))
    unshrunk = _lowered(table, "NMSE_refit", -1)
    if released <= 0.5:
        word = "Not settled"
    elif corrected > 0.5:
        word = "The drop of the error survives the corrected evaluation"
    elif unshrunk > 0.5:
        word = "The published drop of the error comes from the evaluation; a drop is left once shrinkage is undone"
    else:
        word = "The published drop of the error comes from the evaluation"
    refitted = f"; after least squares on each code's support for {unshrunk:.0%}" if unshrunk == unshrunk else ""
    return (
        f"**{word}.** 30 steps lower NMSE for {released:.0%} of the SAEs as released and for {corrected:.0%} "
        f"corrected, at the encoder's own L0{refitted}. (Rule: from the evaluation if most fall as released and fewer "
        "than half corrected.)"
    )


def changes(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """What 30 steps change in a metric (30 steps − encoder) at both ends of the path: a row a seed and SAE."""
    import pandas as pd

    steps = {"as released": table["step"].min(), "corrected": table["step"].max()}
    keys = ["seed", "variant", "sparsity"]
    out = {}
    for name, step in steps.items():
        wide = table[table["step"] == step].pivot(index=keys, columns="mode", values=metric)
        out[name] = (wide["semi"] - wide["amortized"]).round(9)
    return pd.DataFrame(out)


def seeds_summary(table: pd.DataFrame) -> pd.DataFrame:
    """`changes` of every metric: mean over the SAEs of all seeds, Student's 95 % interval, and how many fall."""
    import pandas as pd

    from repro.sections.ledger import Effect

    rows = []
    for metric in [m for m in (*METRICS, "NMSE_refit") if m in table]:
        for end, values in changes(table, metric).dropna(axis="columns", how="all").items():
            falls = f"{int((values < 0).sum())} of {int(values.notna().sum())}"
            rows.append({"metric": metric, "evaluation": end, "change": str(Effect.of(values)), "falls for": falls})
    return pd.DataFrame(rows).set_index(["metric", "evaluation"])


def seeds_figure(table: pd.DataFrame, metric: str = "NMSE") -> Figure:
    """What 30 steps change in a metric, an SAE of a seed a mark, as released and corrected."""
    import plotly.graph_objects as go

    from repro.base.theme import BLUE, VERMILION, caption

    found = changes(table, metric).reset_index()
    figure = go.Figure()
    for end, color in (("as released", VERMILION), ("corrected", BLUE)):
        part = found.dropna(subset=[end])
        figure.add_scatter(
            x=part[end],
            y=part["variant"],
            mode="markers",
            name=end,
            marker={"color": color, "size": 9, "symbol": "circle" if color == VERMILION else "diamond-open"},
            hovertext=[f"{v} {s:g}, seed {n}" for v, s, n in zip(part["variant"], part["sparsity"], part["seed"])],
        )
    figure.add_vline(x=0, line_width=1)
    figure.update_layout(xaxis_title=f"change of {LABELS.get(metric, metric)}, 30 steps − encoder")
    return caption(
        figure,
        f"What 30 steps do to {LABELS.get(metric, metric)} of SAEs trained from {found['seed'].nunique()} seeds, a "
        "mark an SAE: judged as released and corrected. Left of the line, refinement lowers it.",
    )


def _lowered(table: pd.DataFrame, metric: str, end: int) -> float:
    """Share of SAEs whose metric is lower after 30 steps than by the encoder, at one end of the path; NaN = unknown."""
    if metric not in table:  # least squares is left out where codes have more than d nonzeros
        return float("nan")
    whole = levels(table, metric)
    wide = whole[whole.columns[end]].unstack("mode")
    return float((wide["semi"] < wide["amortized"]).mean())
