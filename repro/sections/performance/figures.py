"""Figures of the performance page: gaps against time, speed, the roofline, faults, and hours of the full plan."""

from __future__ import annotations

import math

from repro.base.theme import CONTROL, MODE_COLORS, caption
from repro.sections.figures import blank
from repro.sections.performance.faults import ENDS
from repro.sections.performance.scale import WORKERS, plan
from repro.sections.performance.timings import UNIT, whole_runs
from repro.sections.types import DataFrame, Figure

LOOKS = {
    "working_set": (MODE_COLORS["optimum"], "square"),
    "fista": (MODE_COLORS["fista"], "star-diamond"),
    "ista": (MODE_COLORS["ista"], "diamond"),
    "numpy": (MODE_COLORS["ista"], "diamond-open"),
    "scikit-learn": (CONTROL, "circle"),
    "celer": (CONTROL, "triangle-up"),
    "skglm": (CONTROL, "cross"),
}
"""Solver -> colour and symbol: other libraries are grey."""
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star")


def gap_figure(table: DataFrame) -> Figure:
    """Certified gap against time, a menu entry a dictionary size, a symbol a method, marker size = nonzeros."""
    table = whole_runs(table)
    problems = list(table.groupby(["data", "d", "m"], sort=False))
    figure, owners = blank(), []
    for i, (_, part) in enumerate(problems):
        for family, rows in part.groupby(part["method"].str.split().str[0], sort=False):
            figure.add_scatter(
                x=rows["ms_per_token"],
                y=rows["relative_gap_mean"].clip(lower=1e-8),
                mode="markers",
                name=str(family),
                marker={
                    "color": LOOKS[str(family)][0],
                    "symbol": LOOKS[str(family)][1],
                    "size": [6 + 5 * math.log10(l) for l in rows["target_l0"]],
                },
                hovertext=[
                    f"{m}, optimum of {t:g}: {l:.0f} nonzeros"
                    for m, t, l in zip(rows["method"], rows["target_l0"], rows["l0"])
                ],
                visible=i == 0,
            )
            owners.append(i)
    buttons = [
        {
            "label": f"{name}, d = {d}, m = {m:,}",
            "method": "update",
            "args": [{"visible": [owner == i for owner in owners]}],
        }
        for i, ((name, d, m), _) in enumerate(problems)
    ]
    menu = {"buttons": buttons, "x": 0, "xanchor": "left", "y": -0.22, "yanchor": "top", "direction": "up"}
    figure.update_layout(updatemenus=[menu], margin={"b": 120}, height=500)
    figure.update_xaxes(type="log", title_text="time (ms a token)")
    figure.update_yaxes(type="log", title_text="certified relative gap, mean")
    return caption(
        figure,
        "How far from the optimum each method is proved to be, against the time it takes; lower left is better. "
        "Larger markers have denser optima. The published 200 steps stay at the top.",
        title=_proved(table),
    )


def _proved(table: DataFrame) -> str:
    """What the published steps and the working set take and prove, over all problems."""
    parts = []
    for method in (UNIT, "working_set 1e-3"):
        rows = table[table["method"] == method]
        times, gaps = rows["ms_per_token"], rows["relative_gap_mean"]
        low, high = f"{times.min():.2g}", f"{times.max():.0f}"
        parts.append(f"{method} takes {low} to {high} ms a token and is proved to {gaps.max():.0e}")
    return ", ".join(parts)


def ratio_figure(table: DataFrame, method: str = "working_set 1e-3") -> Figure:
    """Times faster than the published 200 steps against the optimum's nonzeros, a line a dictionary."""
    figure = blank()
    part = table[table["method"] == method]
    for i, ((name, d, m), rows) in enumerate(part.groupby(["data", "d", "m"], sort=False)):
        rows = rows.sort_values("l0")
        look = {
            "line": {"color": MODE_COLORS["optimum"], "width": 1.5},
            "marker": {"symbol": SYMBOLS[i % len(SYMBOLS)]},
        }
        style = {"name": f"{name}, {d} × {m:,}", **look}
        figure.add_scatter(x=rows["l0"], y=rows["times_faster"], mode="lines+markers", **style)
    times = part["times_faster"]
    figure.update_xaxes(type="log", title_text="nonzeros of the optimum (mean)")
    figure.update_yaxes(type="log", title_text=f"times faster than {UNIT}")
    return caption(
        figure,
        f"Speed of `{method}` in units of the published 200 dense steps, measured in the same run.",
        title=f"{method} is {times.min():.0f} to {times.max():.0f} times faster than {UNIT}",
    )


def roofline_figure(table: DataFrame) -> Figure:
    """Operations a second against operations a byte, under the roof that this device's copy and product rates make."""
    import numpy as np

    figure = blank()
    part = table[table["flops"] > 0]
    part = part.assign(intensity=part["flops"] / part["bytes"], rate=part["flops"] / part["ms"] / 1e6)
    several, number = part["device"].nunique() > 1, 0
    for device, of_device in part.groupby("device", sort=False):
        where = f", {device}" if several else ""
        for impl, rows in of_device.groupby("impl", sort=False):
            names = [f"{r['operation']} {r['d']} × {r['m']}, k = {r['k']}" for _, r in rows.iterrows()]
            style = {
                "color": CONTROL,
                "symbol": SYMBOLS[number % len(SYMBOLS)],
            }
            points = {"name": f"{impl}{where}", "hovertext": names, "marker": style}
            figure.add_scatter(x=rows["intensity"], y=rows["rate"], mode="markers", **points)
            number += 1
        x = np.geomspace(part["intensity"].min() / 2, part["intensity"].max() * 2, 60)
        roof = np.minimum(of_device["gemm_tflops"].max() * 1000, x * of_device["copy_gb_s"].max())
        line = {"color": CONTROL, "dash": "dash", "width": 1}
        figure.add_scatter(x=x, y=roof, mode="lines", name=f"roof{where}", line=line)
    figure.update_xaxes(type="log", title_text="operations a byte")
    figure.update_yaxes(type="log", title_text="GFLOP/s")
    return caption(
        figure,
        "Each operation under the roof of its device: memory bandwidth on the left, the rate of a bare product on the "
        "right, both measured in the same run.",
        title=_of_roof(part),
    )


def _of_roof(rows: DataFrame) -> str:
    """The share of the roof that each implementation reaches, median over operations and shapes."""
    import numpy as np

    roof = np.minimum(rows["gemm_tflops"] * 1000, rows["intensity"] * rows["copy_gb_s"])
    reached = (rows["rate"] / roof).groupby([rows["device"], rows["impl"]], sort=False).median()
    parts = [f"{impl} {share:.0%} ({device})" for (device, impl), share in reached.items()]
    return f"Of what the device allows, the median operation reaches: {', '.join(parts)}"


def faults_figure(table: DataFrame) -> Figure:
    """A bar a family, by how its cases ended; the axis is logarithmic, for families of 3 and of 600 cases."""
    figure = blank()
    for pattern, name in zip(("", "/", "x"), (ENDS["right"], ENDS["refused"], ENDS["failed"])):
        part = table[table[name] > 0]
        if len(part):
            marker = {"color": CONTROL, "pattern": {"shape": pattern}}
            figure.add_bar(y=part.index, x=part[name], name=name, orientation="h", marker=marker)
    figure.update_layout(
        barmode="group",
        xaxis={"title": "cases", "type": "log"},
        yaxis={"automargin": True, "categoryorder": "array", "categoryarray": list(table.index)[::-1]},
        height=120 + 34 * len(table),
    )
    words = "Every family of faults, and how its cases ended: in the right files and numbers, or refused in a sentence."
    failed = int(table[ENDS["failed"]].sum())
    return caption(
        figure,
        words,
        f"Bars of the number of cases in {len(table)} families of faults, by how they ended.",
        f"{failed} of {int(table[list(ENDS.values())].to_numpy().sum()):,} cases ended in wrong files or a traceback",
    )


def plan_figure(scale: str = "small") -> Figure:
    """Hours against workers, a line a grid."""
    figure, hours, most = blank(), plan(scale), max(WORKERS)
    ends = [f"{h:,.0f}" for h in hours[hours["workers"] == most]["hours"]]
    for i, (grid, part) in enumerate(hours.groupby("grid", sort=False)):
        style = {"line": {"color": CONTROL}, "marker": {"symbol": SYMBOLS[i % len(SYMBOLS)]}}
        name = str(grid).partition(" (")[0]
        figure.add_scatter(x=part["workers"], y=part["hours"], mode="lines+markers", name=name, **style)
    figure.update_xaxes(type="log", title_text="workers", tickvals=list(WORKERS))
    figure.update_yaxes(type="log", title_text="hours")
    return caption(
        figure,
        "Hours until the last task ends, planned from measured rows. A task is never divided, so workers help only as "
        "long as there are many more tasks than workers.",
        "Line plot of hours against workers, both logarithmic, one falling line for each set of SAEs.",
        f"{most} workers take {', '.join(ends)} hours, in the order of the legend",
    )
