"""What the steps of the semi sweep cost: metrics against FLOPs and milliseconds, ISTA, FISTA and the optimum."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from repro.sections.comparison.run import LABELS

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

COSTS = {
    "steps": "steps from the encoder's code",
    "flops_per_token": "FLOPs a token",
    "ms_per_token": "milliseconds a token",
}
NAMES = {"as_released": "ISTA, released", "ista": "ISTA", "fista": "FISTA", "certified": "certified optimum"}


def costs(table: pd.DataFrame, fista: pd.DataFrame | None = None) -> pd.DataFrame:
    """Both tables in one, with `way` (ISTA released, ISTA, FISTA, optimum); FLOPs are counted where a table has none.

    Tables of older runs have no times: their ms_per_token is empty.
    """
    import numpy as np
    import pandas as pd

    parts = [table] if fista is None or not len(fista) else [table, fista]
    both = pd.concat(parts, ignore_index=True)
    both = both[both["steps"].notna()]
    solver = both["steps"].map(lambda steps: "certified" if steps < 0 else "ista")
    if "solver" in both:
        solver = both["solver"].where(both["solver"].notna(), solver)
    released = both["protocol"] == "as_released"
    counted = both["cost"] * 2 * both["d"] * both["m"]
    known = both.get("flops_per_token", counted)
    times = both.get("ms_per_token", np.nan)
    way = solver.where(~released, "as_released")
    return both.assign(way=way, flops_per_token=known.fillna(counted), ms_per_token=times)


def cost_figure(
    table: pd.DataFrame, fista: pd.DataFrame | None, metric: str = "NMSE", against: str = "flops_per_token"
) -> Figure:
    """One metric against what the codes cost, a line a solver, mean over SAEs; the optimum is a square."""
    import plotly.graph_objects as go

    from repro.base.theme import AMBER, BLUE, GREEN, VERMILION, caption

    colors = {"as_released": VERMILION, "ista": AMBER, "fista": GREEN, "certified": BLUE}
    both, figure = costs(table, fista), go.Figure()
    for way, color in colors.items():
        part = both[both["way"] == way].dropna(subset=[against, metric])
        mean = part.assign(at=part[against]).groupby("steps")[["at", metric, "L0"]].mean()
        if not len(mean) or (way == "certified" and against == "steps"):
            continue
        figure.add_scatter(
            x=mean["at"],
            y=mean[metric],
            mode="markers" if way == "certified" else "lines+markers",
            name=NAMES[way],
            line={"color": color, "dash": "dot" if way == "as_released" else "solid"},
            marker={"color": color, "size": 12 if way == "certified" else 7, "symbol": _SYMBOLS[way]},
            hovertext=[f"{s} steps, L0 {l:.4g}" if s >= 0 else f"L0 {l:.4g}" for s, l in zip(mean.index, mean["L0"])],
        )
    figure.update_layout(xaxis_title=COSTS[against], yaxis_title=LABELS.get(metric, metric))
    figure.update_xaxes(type="linear" if against == "steps" else "log", exponentformat="power")
    if metric in ("NMSE", "L0"):
        figure.update_yaxes(type="log")
    return caption(
        figure,
        f"{LABELS.get(metric, metric)} against {COSTS[against]}, mean over the BatchTopK SAEs. Corrected lines share "
        "one λ and end at the square, the certified optimum; the leftmost point of each is the encoder. Times were "
        "measured on the machine that the table's provenance names.",
    )


_SYMBOLS = {"as_released": "circle-open", "ista": "circle", "fista": "diamond", "certified": "square"}


def findings(table: pd.DataFrame, fista: pd.DataFrame | None) -> str:
    """How far the steps get, in sentences, every number from the tables."""
    both = costs(table, fista)
    mean = both.groupby(["way", "steps"])[["NMSE", "L0", "flops_per_token", "ms_per_token"]].mean()
    out = []
    if "certified" in mean.index.get_level_values(0):
        best = mean.loc["certified"].iloc[0]
        for way in ("ista", "fista"):
            if way not in mean.index.get_level_values(0):
                continue
            part = mean.loc[way]
            last = part.iloc[-1]
            out.append(
                f"{part.index[-1]} {NAMES[way]} steps leave NMSE at {last['NMSE']:.4g} and L0 at {last['L0']:.1f} "
                f"(optimum of the same λ: {best['NMSE']:.4g}, {best['L0']:.1f}) for {last['flops_per_token']:.3g} "
                f"FLOPs a token{_ms(last)}, the encoder's {part['NMSE'].iloc[0]:.4g} for "
                f"{part['flops_per_token'].iloc[0]:.3g}{_ms(part.iloc[0])}."
            )
        out.append(f"The certified optimum takes {best['flops_per_token']:.3g} FLOPs a token{_ms(best)}.")
    if fista is None or not len(fista):
        out.append("This table was computed before FISTA and times were measured; `recompute` measures them.")
    return " ".join(out)


def _ms(row: Any) -> str:
    value = float(row["ms_per_token"])
    return f" and {value:.3g} ms" if value == value else ""


def paper_says() -> str:
    """The errors that the paper reports along its sweep, in a sentence, from data/paper.csv."""
    table = paper_rows()
    table = table[table.index.str.startswith("W")]
    errors, steps = [f"{v:.3f}" for v in table["NMSE"]], [name[1:] for name in table.index]
    models = " and ".join(table["subject"].str.split(" sweep").str[0].unique())
    return f"The paper's {models}: NMSE {_listed(errors)} after {_listed(steps)} steps."


def _listed(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}"


def paper_rows() -> pd.DataFrame:
    """What the paper reports for its sweep."""
    from repro.sections.comparison.run import paper_numbers

    table = paper_numbers()
    return table[table["id"].str.match(r"[WV]\d")].set_index("id")
