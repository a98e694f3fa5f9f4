"""What density alone explains: absorption of shuffled codes, silent latents for a firing budget, the released grid."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from repro.evaluate.nulls import null_curve

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

ENDS = ("as_released", "corrected")


def ends(table: pd.DataFrame) -> pd.DataFrame:
    """The first and the last rows of the cumulative path, as `protocol` as_released and corrected."""
    import pandas as pd

    part = table[table["route"] == "cumulative"]
    parts = [part[part["step"] == step].assign(protocol=name) for step, name in zip((0, part["step"].max()), ENDS)]
    return pd.concat(parts, ignore_index=True)


def explained(table: pd.DataFrame) -> pd.DataFrame:
    """What refinement changes against the encoder, what density alone would change, and the rest; mean over SAEs."""
    import pandas as pd

    nulls = {"absorption": "absorption_null", "dead_rate": "dead_expected"}
    keys, rows = ["protocol", "variant", "sparsity"], []
    whole = ends(table).set_index(keys)
    base = whole[whole["mode"] == "amortized"]
    for mode in ("semi", "non"):
        part = whole[whole["mode"] == mode]
        for metric, null in nulls.items():
            change, by_density = part[metric] - base[metric], part[null] - base[null]
            for protocol in ENDS:
                c, d = change[protocol].mean(), by_density[protocol].mean()
                row = {"protocol": protocol, "mode": mode, "metric": metric, "change": c, "by density": d}
                rows.append({**row, "rest": c - d})
    return pd.DataFrame(rows).set_index(["metric", "protocol", "mode"]).sort_index()


def sentences(table: pd.DataFrame, grid: pd.DataFrame | None) -> str:
    """What density matching did, in sentences, every number from the tables."""
    out = []
    if grid is not None:
        edge = grid[grid["lam"] == grid["lam"].max()]
        target, mean = edge["target"] * edge["m"], edge.mean(numeric_only=True)
        reached = int((edge["nonzeros"] <= target).sum())
        out.append(
            f"At the largest λ of the released grid ({mean['lam']:g}), codes after 100 steps still have "
            f"{mean['nonzeros']:.0f} nonzeros a token (mean over {len(edge)} SAEs; {mean['above_d']:.1f} times "
            f"d = {mean['d']:.0f}), where the search aims at {target.mean():.0f} and the encoder has {mean['L0']:.0f}; "
            f"the target lies within the grid for {reached} of {len(edge)} SAEs. The optimum at that very λ has "
            f"{mean['optimum_nonzeros']:.0f}."
        )
    for metric, name in (("absorption", "Absorption"), ("dead_rate", "The dead rate")):
        row = explained(table).loc[(metric, "as_released", "semi")]
        out.append(
            f"{name} changes by {row['change']:+.3f} from encoder to 30 steps as released, of which density alone "
            f"makes {row['by density']:+.3f}."
        )
    return " ".join(out)


def grid_figure(grid: pd.DataFrame) -> Figure:
    """Nonzeros a token at each lambda of the released grid, against what the search wanted and what an optimum has."""
    import plotly.graph_objects as go

    from repro.base.theme import GREY, VARIANT_COLORS, caption

    figure, shown = go.Figure(), set()
    for (variant, sparsity), part in grid.groupby(["variant", "sparsity"], sort=False):
        color = VARIANT_COLORS.get(variant, GREY)
        for column, dash, symbol in (("nonzeros", "solid", "circle"), ("optimum_nonzeros", "dot", "square-open")):
            name = variant if column == "nonzeros" else "certified optimum"
            figure.add_scatter(
                x=part["lam"],
                y=part[column],
                mode="lines+markers",
                name=name,
                legendgroup=name,
                showlegend=name not in shown,
                line={"color": color, "dash": dash},
                marker={"symbol": symbol},
                hovertext=[f"{variant} {sparsity:g}, target {t * m:.0f}" for t, m in zip(part["target"], part["m"])],
            )
            shown.add(name)
    ends = [grid["lam"].min(), grid["lam"].max()]
    for value, name in (
        (grid["d"].iloc[0], "d, the most of any optimum"),
        (grid["L0"].mean(), "the encoders' mean L0"),
    ):
        line = {"color": GREY, "dash": "dash" if name.startswith("d") else "dashdot", "width": 1}
        figure.add_scatter(x=ends, y=[value, value], mode="lines", name=name, line=line)
    figure.update_xaxes(type="log", title_text="λ of the released grid", exponentformat="power")
    figure.update_yaxes(type="log", title_text="nonzeros a token")
    text = (
        "Every λ that the release can choose leaves codes far denser than the encoder's: solid, after its 100 steps; "
        "dotted, the certified optimum at the same λ. Density was not matched, because no λ of the grid can match it."
    )
    return caption(figure, text)


def null_figure(table: pd.DataFrame) -> Figure:
    """Absorption against the firing rate of the latents that it reads, on the curve of independent latents."""
    import plotly.graph_objects as go

    from repro.base.theme import GREY, MODE_COLORS, MODE_SYMBOLS, caption, interval

    rate = torch.linspace(0, 1, 101)
    figure = go.Figure()
    figure.add_scatter(
        x=rate.tolist(), y=null_curve(rate).tolist(), mode="lines", name="independent latents", line={"dash": "dash"}
    )
    for (protocol, mode), part in ends(table).groupby(["protocol", "mode"], sort=False):
        symbol = MODE_SYMBOLS[mode] + ("-open" if protocol == "as_released" else "")
        figure.add_scatter(
            x=part["absorption_rate"],
            y=part["absorption"],
            mode="markers",
            name=f"{mode}, {'released' if protocol == 'as_released' else 'corrected'}",
            marker={"color": MODE_COLORS[mode], "symbol": symbol, "size": 10},
            hovertext=[f"{v} {s:g}" for v, s in zip(part["variant"], part["sparsity"])],
        )
    low, high = (ends(table)[f"absorption_shuffled_{end}"] for end in ("low", "high"))
    figure.add_scatter(
        x=ends(table)["absorption_rate"],
        y=(low + high) / 2,
        mode="markers",
        name="the same codes, shuffled",
        marker={"color": GREY, "symbol": "line-ew-open", "size": 8},
        error_y=interval((low + high) / 2, low, high),
    )
    figure.update_layout(xaxis_title="firing rate of main and auxiliary latents", yaxis_title="absorption")
    return caption(
        figure,
        "Absorption of each SAE and kind of inference against how often the six latents that it reads fire. Grey "
        "bars: 95 % range after shuffling each latent over the positives. Where bar and point meet, absorption says "
        "how dense the codes are and no more; dense codes have little of it by arithmetic.",
    )


def dead_figure(table: pd.DataFrame) -> Figure:
    """Silent latents against what the firing budget lets expect."""
    import plotly.graph_objects as go

    from repro.base.theme import MODE_COLORS, MODE_SYMBOLS, caption

    figure = go.Figure()
    for (protocol, mode), part in ends(table).groupby(["protocol", "mode"], sort=False):
        symbol = MODE_SYMBOLS[mode] + ("-open" if protocol == "as_released" else "")
        figure.add_scatter(
            x=part["dead_expected"],
            y=part["dead_rate"],
            mode="markers",
            name=f"{mode}, {'released' if protocol == 'as_released' else 'corrected'}",
            marker={"color": MODE_COLORS[mode], "symbol": symbol, "size": 10},
            hovertext=[f"{v} {s:g}, {f:.0f} fire" for v, s, f in zip(part["variant"], part["sparsity"], part["fires"])],
        )
    most = 1.05 * float(ends(table)[["dead_expected", "dead_rate"]].max().max())
    figure.add_scatter(x=[0, most], y=[0, most], mode="lines", name="explained by the budget", line={"dash": "dash"})
    figure.update_layout(xaxis_title="silent latents expected (share)", yaxis_title="measured (share)")
    return caption(
        figure,
        "Latents that never fire on the evaluated tokens, against the share expected if as many firings were spread "
        "as the real encoder spreads its own on training tokens. Below the line: inference wakes latents beyond what "
        "its number of nonzeros explains.",
    )
