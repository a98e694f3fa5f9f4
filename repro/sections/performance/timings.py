"""Performance: the committed timings of `repro bench` as tables, figures and sentences, and the README's table."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from repro.base.files import repo_root

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

ORDER = (
    "numpy ISTA-200",
    "ista 5 steps",
    "ista 30 steps",
    "fista 1e-3",
    "working_set 1e-2",
    "working_set 1e-3",
    "working_set 1e-4",
    "scikit-learn 1e-3",
    "celer 1e-3",
    "skglm kkt 1e-3",
)
ABOUT = ("device", "torch", "numpy", "numba", "scikit-learn", "celer", "skglm", "triton", "commit", "date")
KEYS: dict[str, tuple[str, ...]] = {
    "inference": ("data", "d", "m", "target_l0", "method"),
    "kernels": ("operation", "impl", "precision", "stored", "n", "d", "m", "k"),
    "solvers": ("d", "m", "lam_share", "method", "tokens"),
    "agree": ("m", "k", "mode", "tokens"),
    "correct": ("test",),
    "evaluate": ("protocol", "mode", "tokens", "d", "m"),
    "scale": ("engine", "workers", "tasks", "tokens", "d", "m"),
    "train": ("variant", "implementation", "d", "m", "k", "batch", "steps", "seed", "grad_clip", "precision"),
}
"""What a row of each benchmark is about; a newer row about the same thing replaces it in the book."""
USUAL = {"precision": "float32", "stored": "float32"}
"""What rows mean that were written before a column was there."""
ON_GPUS = {
    "correct": "tests and memcheck of the kernels",
    "kernels": "the operations",
    "solvers": "the solvers",
    "train": "training",
    "agree": "an evaluation beside the CPU's",
}
"""Tables that `.ci/gpu` writes, and what is in them."""
UNIT = "numpy ISTA-200"
SHORT = {
    UNIT: "the published 200 ISTA steps (numpy)",
    "scikit-learn 1e-3": "scikit-learn, gap 1e-3",
    "celer 1e-3": "celer, gap 1e-3",
    "skglm kkt 1e-3": "skglm, KKT violation 1e-3",
    "fista 1e-3": "`fista`, gap 1e-3 or 1,000 steps",
    "working_set 1e-3": "`working_set`, gap 1e-3",
}


def bench(name: str, folder: Path | None = None) -> pd.DataFrame | None:
    """The newest row of everything that was measured, from data/bench/<name>.csv; None where there is no file."""
    import pandas as pd

    path = (folder or repo_root() / "data" / "bench") / f"{name}.csv"
    if not path.is_file():
        return None
    table = pd.read_csv(path)
    for column in (c for c in USUAL if c in table):
        table[column] = table[column].fillna(USUAL[column])
    keys = [k for k in (*KEYS[name], "device") if k in table]
    return table.sort_values("date", kind="stable").drop_duplicates(keys, keep="last").sort_index()


def facts(table: pd.DataFrame) -> str:
    """Device, versions, commits and dates of a table's rows, in a sentence."""
    parts = []
    for column in (c for c in ABOUT if c in table):
        values = table[column].dropna().astype(str).unique()
        if len(values):
            shown = f"{values.min()} to {values.max()}" if column == "date" and len(values) > 1 else ", ".join(values)
            parts.append(shown if column == "device" else f"{column} {shown}")
    return "Measured on " + "; ".join(parts) + "."


def is_gpu(device: str) -> bool:
    """Is this the name of a GPU? `bench.common.machine` names a processor with its threads."""
    return "threads" not in device


def gpus(folder: Path | None = None) -> str:
    """Which tables have rows from a GPU, and plainly which have none, as sentences."""
    devices: dict[str, list[str]] = {}
    for name in ON_GPUS:
        table = bench(name, folder)
        for device in [] if table is None else table["device"].dropna().unique():
            if is_gpu(device):
                devices.setdefault(device, []).append(name)
    how = "`.ci/gpu` measures them on one in eight minutes, and the tables below get a column for it"
    if not devices:
        return f"**Nothing on this page was measured on a GPU yet**: not {', not '.join(ON_GPUS.values())}. {how}."
    lines = [f"- {device}: {', '.join(ON_GPUS[name] for name in names)}." for device, names in devices.items()]
    missing = [about for name, about in ON_GPUS.items() if not any(name in names for names in devices.values())]
    rest = f"\n\nNot measured on a GPU: {', '.join(missing)}; {how}." if missing else ""
    return "Measured on a GPU:\n\n" + "\n".join(lines) + rest


def per_device(table: pd.DataFrame, index: list[str], columns: list[str]) -> pd.DataFrame:
    """Rows by `index`, and for each device that has rows a group of columns with these numbers."""
    columns = [c for c in columns if c in table and table[c].notna().any()]
    wide = table.pivot_table(index=index, columns="device", values=columns, aggfunc="last", sort=False)
    order = [(column, device) for device in table["device"].unique() for column in columns]
    wide = wide[[pair for pair in order if pair in wide.columns]]
    return wide.swaplevel(axis=1)


def solvers(folder: Path | None = None) -> pd.DataFrame | str:
    """ms a token, multiples of an encoder pass and certified share by problem and method; a sentence without rows."""
    table = bench("solvers", folder)
    if table is None:
        return "No device has rows yet: `repro bench solvers`, or `.ci/gpu inference` on a GPU."
    rows = table[table["method"] != "auto"]
    return per_device(
        rows, ["d", "m", "lam_share", "method"], ["ms_per_token", "times_the_encoder", "certified", "l0"]
    ).round(4)


def choices(folder: Path | None = None) -> str:
    """What `auto` should be on each device and why, from solvers.csv, as sentences; nothing without rows."""
    table = bench("solvers", folder)
    if table is None:
        return ""
    rows = table[table["method"] == "auto"]
    return "\n".join(f"- {row['device']}: {row['reason']}" for _, row in rows.iterrows())


def two_devices(folder: Path | None = None) -> pd.DataFrame | str:
    """Rows of one trained SAE by mode and number of tokens, a group of columns a device; a sentence without rows."""
    table = bench("agree", folder)
    if table is None:
        return "No device has rows yet: `repro bench agree`, or `.ci/gpu evaluate` on a GPU."
    columns = ["tokens_per_second", "NMSE", "L0", "dead_rate", "NMSE_refit", "lam"]
    return per_device(table, ["m", "k", "mode", "tokens"], columns).round(4)


def times(table: pd.DataFrame) -> pd.DataFrame:
    """Milliseconds a token by problem (rows) and method (columns)."""
    whole = table[~table["method"].str.contains("tokens|preparing")]
    order = [method for method in ORDER if method in set(whole["method"])]
    wide = whole.pivot_table(index=["data", "d", "m", "target_l0"], columns="method", values="ms_per_token", sort=False)
    return wide[order].round(3)


def proofs(table: pd.DataFrame) -> pd.DataFrame:
    """Largest certified relative gap of any token, by problem and method: what the time has bought."""
    whole = table[~table["method"].str.contains("tokens|preparing")]
    order = [method for method in ORDER if method in set(whole["method"])]
    index = ["data", "d", "m", "target_l0"]
    return whole.pivot_table(index=index, columns="method", values="relative_gap_max", sort=False)[order]


def findings(table: pd.DataFrame, d: int = 768, m: int = 16384, method: str = "working_set 1e-3") -> str:
    """How much faster the certified solver is than each other method, as sentences with every number from the table."""
    lines = []
    for _, part in table[(table["d"] == d) & (table["m"] == m)].groupby("target_l0"):
        by = part.set_index("method")
        if method not in by.index or UNIT not in by.index:
            continue
        ours = by.loc[method]
        excess = float(by.loc[UNIT, "objective"]) / float(ours["objective"]) - 1
        others = [_times(by.loc[o], ours) for o in by.index if _library(o)]
        lines.append(
            f"- Optimum of {ours['l0']:.0f} nonzeros: {ours['ms_per_token']:.2f} ms a token over {ours['tokens']:.0f} "
            f"tokens, every one certified to {ours['relative_gap_max']:.1e}; "
            f"**{ours['times_faster']:.0f}× as fast as the published 200 steps** of the same run, whose "
            f"objective is {excess:+.0%} from it with {by.loc[UNIT, 'l0']:.0f} nonzeros"
            + (f". Against libraries: {', '.join(others)}." if others else ".")
        )
    stream = table[table["method"].str.startswith(method) & table["method"].str.contains("tokens")]
    for _, row in stream.iterrows():
        lines.append(
            f"- {row['tokens']:,} tokens in one stream: {row['ms_per_token']:.2f} ms a token, every one certified to "
            f"{row['relative_gap_max']:.1e}, {row['extra_mib']:,.0f} MiB more than before the call; dense codes of "
            f"so many tokens would take {row['tokens'] * row['m'] * 4 / 2**20:,.0f} MiB."
        )
    once = table[(table["d"] == d) & (table["m"] == m) & table["method"].str.contains("preparing")]["ms_per_token"]
    if len(once):
        lines.append(
            f"- Once a dictionary, not in the times above: {once.median():.0f} ms (bfloat16 copy and error bounds); "
            "neither is the Lipschitz constant of the ISTA rows."
        )
    steps = table[(table["d"] == d) & (table["m"] == m)]["method"].str.extract(r"^ista (\d+) steps$")[0].dropna()
    products = (table.loc[steps.index, "times_the_two_gemms"] / steps.astype(int)).groupby(steps.astype(int)).mean()
    if len(products):
        costs = ", ".join(f"{ratio:.2f}× for {k}" for k, ratio in products.items())
        lines.append(f"- The published steps by `ista`, in units of the two products that each step needs: {costs}.")
    return f"At d = {d}, {m:,} atoms:\n\n" + "\n".join(lines)


def _times(theirs: pd.Series, ours: pd.Series) -> str:
    """How much longer a library takes; both times in units of the published steps of their own run."""
    note = "" if theirs["date"] == ours["date"] and theirs["commit"] == ours["commit"] else " (another run)"
    return f"{ours['times_faster'] / theirs['times_faster']:.0f}× {theirs.name}{note}"


def _library(method: str) -> bool:
    return method.startswith(("scikit-learn", "celer", "skglm"))


def gap_figure(table: pd.DataFrame) -> Figure:
    """Certified gap against time, a menu entry a dictionary size, a colour a method, marker size = nonzeros."""
    import plotly.graph_objects as go

    from repro.base.theme import AMBER, BLUE, GREEN, GREY, PINK, VERMILION, VIOLET, caption

    colors = {"numpy": VERMILION, "ista": AMBER, "fista": PINK, "working_set": BLUE}
    colors |= {"scikit-learn": GREEN, "celer": VIOLET, "skglm": GREY}
    table = table[~table["method"].str.contains("tokens|preparing")]
    problems = list(table.groupby(["data", "d", "m"], sort=False))
    figure, owners = go.Figure(), []
    for i, (_, part) in enumerate(problems):
        for family, rows in part.groupby(part["method"].str.split().str[0], sort=False):
            figure.add_trace(
                go.Scatter(
                    x=rows["ms_per_token"],
                    y=rows["relative_gap_mean"].clip(lower=1e-8),
                    mode="markers",
                    name=str(family),
                    marker={"color": colors[str(family)], "size": [6 + 5 * math.log10(l) for l in rows["target_l0"]]},
                    hovertext=[
                        f"{m}, optimum of {t:g}: {l:.0f} nonzeros"
                        for m, t, l in zip(rows["method"], rows["target_l0"], rows["l0"])
                    ],
                    visible=i == 0,
                )
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
    )


def ratio_figure(table: pd.DataFrame, method: str = "working_set 1e-3") -> Figure:
    """Times faster than the published 200 steps against the optimum's nonzeros, a line a dictionary."""
    import plotly.graph_objects as go

    from repro.base.theme import PALETTE, caption

    figure = go.Figure()
    part = table[table["method"] == method]
    for i, ((name, d, m), rows) in enumerate(part.groupby(["data", "d", "m"], sort=False)):
        rows = rows.sort_values("l0")
        figure.add_trace(
            go.Scatter(
                x=rows["l0"],
                y=rows["times_faster"],
                mode="lines+markers",
                name=f"{name}, {d} × {m:,}",
                line={"color": PALETTE[i % len(PALETTE)]},
            )
        )
    figure.update_xaxes(type="log", title_text="nonzeros of the optimum (mean)")
    figure.update_yaxes(type="log", title_text=f"times faster than {UNIT}")
    return caption(figure, f"Speed of `{method}` in units of the published 200 dense steps, measured in the same run.")


def measured(name: str) -> pd.DataFrame | None:
    """A benchmark's newest rows without columns about versions, with the device if there are several; None without."""
    table = bench(name)
    if table is None:
        return None
    several = table["device"].nunique() > 1
    about = [c for c in ABOUT if c in table and not (several and c == "device")]
    return table.drop(columns=about).dropna(axis=1, how="all")


def training_speed(table: pd.DataFrame) -> pd.DataFrame:
    """Tokens a second of every variant at the largest shape of each device, ours and the library's, with the floor."""
    part = table[table["m"] == table.groupby("device")["m"].transform("max")]
    columns = ["tokens_per_s", "times_the_library", "share_of_two_products", "share_of_product_rate"]
    columns += ["fve", "l0", "peak_mib"]
    index = ["variant", "implementation", "d", "m", "k", "batch"]
    if "precision" in part and part["precision"].nunique() > 1:
        index.append("precision")
    return per_device(part, index, columns).round(3)


def agreement(table: pd.DataFrame) -> pd.DataFrame:
    """FVE and L0 after the same batches from the same start, ours beside the library's: means over seeds."""
    keys = ["d", "m", "k", "steps", "variant"]
    runs = table.groupby([*keys, "implementation"])["seed"].transform("nunique")
    part = table[runs >= 3].copy()
    unclipped = (part["implementation"] == "repro") & (part["grad_clip"] == 0)
    part.loc[unclipped, "implementation"] = "repro, not clipped"
    wide = part.groupby([*keys, "implementation"], sort=False)[["fve", "l0"]].agg(["mean", "std", "count"])
    return wide.round(4)


def operations(table: pd.DataFrame) -> pd.DataFrame:
    """Every implementation of every operation and shape: time, floor, ratios, memory, error, by device."""
    index = ["operation", "n", "d", "m", "k", "impl"]
    index += [c for c in ("precision", "stored") if c in table and table[c].nunique() > 1]
    columns = ["ms", "floor_ms", "times_floor", "times_faster_than_eager", "share_of_copy_rate"]
    columns += ["share_of_product_rate", "peak_mib", "error"]
    wide = per_device(table, index, columns)
    return wide.sort_index(level=["d", "m", "operation"], sort_remaining=False).round(8)


def roofline_figure(table: pd.DataFrame) -> Figure:
    """Operations a second against operations a byte, under the roof that this device's copy and product rates make."""
    import numpy as np
    import plotly.graph_objects as go

    from repro.base.theme import PALETTE, caption

    figure = go.Figure()
    part = table[table["flops"] > 0]
    part = part.assign(intensity=part["flops"] / part["bytes"], rate=part["flops"] / part["ms"] / 1e6)
    several, number = part["device"].nunique() > 1, 0
    for device, of_device in part.groupby("device", sort=False):
        where = f", {device}" if several else ""
        for impl, rows in of_device.groupby("impl", sort=False):
            names = [f"{r['operation']} {r['d']} × {r['m']}, k = {r['k']}" for _, r in rows.iterrows()]
            style = {
                "color": PALETTE[number % len(PALETTE)],
                "symbol": ["circle", "square", "diamond"][number % 3],
            }
            figure.add_trace(
                go.Scatter(
                    x=rows["intensity"],
                    y=rows["rate"],
                    mode="markers",
                    name=f"{impl}{where}",
                    hovertext=names,
                    marker=style,
                )
            )
            number += 1
        x = np.geomspace(part["intensity"].min() / 2, part["intensity"].max() * 2, 60)
        roof = np.minimum(of_device["gemm_tflops"].max() * 1000, x * of_device["copy_gb_s"].max())
        line = {"dash": "dash", "width": 1}
        figure.add_trace(go.Scatter(x=x, y=roof, mode="lines", name=f"roof{where}", line=line))
    figure.update_xaxes(type="log", title_text="operations a byte")
    figure.update_yaxes(type="log", title_text="GFLOP/s")
    return caption(
        figure,
        "Each operation under the roof of its device: memory bandwidth on the left, the rate of a bare product on the "
        "right, both measured in the same run.",
    )


def readme_table() -> str:
    """Markdown: ms a token of each method at (768, 16k), and what it was measured on."""
    table = bench("inference")
    if table is None:
        return "*Not measured yet: `repro bench inference`.*"
    part = table[(table["d"] == 768) & (table["m"] == 16384) & table["method"].isin(SHORT)]
    l0s = sorted(part["target_l0"].unique())
    lines = [
        "| ms a token, 768 × 16,384 | " + " | ".join(f"optimum of {l:g}" for l in l0s) + " |",
        "|---|" + "--:|" * len(l0s),
    ]
    for method, name in SHORT.items():
        rows = part[part["method"] == method].set_index("target_l0")
        if len(rows):
            cells = [f"{rows.loc[l, 'ms_per_token']:.2f}" if l in rows.index else "–" for l in l0s]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n\n" + facts(part[["device", "torch", "date"]])
