"""`repro visualize`: every metric of metrics.parquet against the training step and against sparsity."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro.base.config import RunConfig
from repro.base.errors import BadInput, missing_extra
from repro.base.files import write_atomically
from repro.book import still
from repro.commands.files import read_table

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

GAPS = ("amort_gap_mean", "amort_gap_relative")
LOGARITHMIC = ("NMSE", "NMSE_refit", "L0", *GAPS)
UNITS = {"l1_penalty": "L1 coefficient", "target_l0": "target L0"}
"""What training takes for a sparsity, where it is no k."""
COLUMNS = 3  # panels side by side at most
TICKS = 5
TOP = 100  # pixels for title, legend and the titles of the panels


def visualize(config: RunConfig) -> list[Path]:
    """Draw output_dir/metrics.parquet: fig_<metric>_<protocol>_by_step and _by_sparsity, .html and .png.

    No browser is needed. Without matplotlib the .html are written, and BadInput says what .png need.
    """

    source = Path(config.output_dir) / "metrics.parquet"
    if not source.is_file():
        raise BadInput(f"There is no {source}; run `repro evaluate` with the same config first.")
    figures = dict(draw(with_steps(read_table(source, ("variant", "mode")))))
    if not figures:
        raise BadInput(f"{source} has no values to draw; its column `note` says why, row by row.")
    folder = Path(config.output_dir)
    pages = {folder / f"fig_{name}.html": figure for name, figure in figures.items()}
    for path, figure in pages.items():
        write_atomically(path, lambda draft, figure=figure: figure.write_html(draft, include_plotlyjs="directory"))
    images = {path.with_suffix(".png"): figure for path, figure in pages.items()}
    try:
        for path, figure in images.items():
            still.write(figure, path)
    except BadInput as error:
        raise BadInput(f"The .html figures are written; for .png too: {error}") from None
    return [*pages, *images]


def with_steps(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that have values, named, with their run, and the last step of training as the step of a final one."""
    from repro.checkpoints.runs import run_of

    table = table.copy()
    for column in ("name", "variant", "mode", "protocol", "sparsity", "step"):
        if column not in table:
            table[column] = None
    table["name"] = table["name"].fillna(table["variant"])
    table["final"] = table["step"].isna()
    table["run"] = table["path"].map(run_of, na_action="ignore").astype(str) if "path" in table else ""
    if "path" in table:
        steps = {path: _trained(path) for path in table.loc[table["final"], "path"].dropna().unique()}
        table["step"] = table["step"].fillna(table["path"].map(steps))
    for column in ("step", "sparsity"):
        table[column] = table[column].astype(float)
    return table.dropna(subset=["mode", "protocol", "name"])


def _trained(path: str) -> int | None:
    """Steps of the training that ended in this checkpoint, if its config is still there and says so."""
    from repro.checkpoints import CheckpointError
    from repro.checkpoints.locate import trained_steps

    try:
        return trained_steps(Path(path))
    except CheckpointError:
        return None


def draw(table: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """(name of the file, figure) of every metric and protocol that has values."""
    from repro.metrics.names import METRIC_COLUMNS

    if importlib.util.find_spec("plotly") is None:
        raise missing_extra("plotly", "book")
    for protocol, part in table.groupby("protocol", sort=False):
        for metric in (*METRIC_COLUMNS, *GAPS):
            if metric not in part or part[metric].isna().all():
                continue
            rows = part.dropna(subset=[metric])
            moving = rows.dropna(subset=["step"])
            if not moving["final"].all():
                yield f"{metric}_{protocol}_by_step", by_step(moving, metric)
            last = rows[rows["final"]] if rows["final"].any() else rows[rows["step"] == rows["step"].max()]
            if last["sparsity"].notna().any():
                yield f"{metric}_{protocol}_by_sparsity", by_sparsity(last.dropna(subset=["sparsity"]), metric)


def by_step(rows: pd.DataFrame, metric: str) -> Figure:
    """One metric along training: a panel a variant and mode, a line a sparsity. Step 0 stands left of the log axis."""
    import plotly.graph_objects as go

    from repro.base.theme import SHADES, caption

    names, modes = list(rows["name"].unique()), list(rows["mode"].unique())
    panels = [(name, mode) for name in names for mode in modes]
    figure, place = _panels([f"{name}, {mode}" for name, mode in panels], len(modes) if len(modes) > 1 else COLUMNS)
    steps = sorted(rows["step"].unique())
    first = next((s for s in steps if s > 0), 1)
    shown: set[Any] = set()
    values = sorted(rows["sparsity"].dropna().unique())
    colors = {value: SHADES[i * (len(SHADES) - 1) // max(1, len(values) - 1)] for i, value in enumerate(values)}
    for (name, mode), where in zip(panels, place):
        panel = rows[(rows["name"] == name) & (rows["mode"] == mode)]
        keys = ["sparsity", "run", *(["trainer"] if "trainer" in panel else [])]
        for (sparsity, *_), line in panel.groupby(keys, dropna=False):
            line = line.sort_values("step")
            label = f"{sparsity:g}" if sparsity == sparsity else "sparsity unknown"
            figure.add_trace(
                go.Scatter(
                    x=line["step"].where(line["step"] > 0, first / 3),
                    y=line[metric],
                    mode="lines+markers",
                    name=label,
                    legendgroup=label,
                    showlegend=label not in shown,
                    line={"color": colors.get(sparsity)},
                    marker={"color": colors.get(sparsity)},
                    hovertext=[_hover(name, mode, row) for row in line.to_dict("records")],
                ),
                *where,
            )
            shown.add(label)
    ticks = sorted({*steps[:: -(-len(steps) // TICKS)], steps[-1]})
    axis = {"type": "log", "tickvals": [s or first / 3 for s in ticks], "ticktext": [_short(s) for s in ticks]}
    figure.update_xaxes(**axis)
    figure.update_xaxes(title_text="training step", row=place[-1][0])
    figure.update_layout(legend_title_text="k, target L0 or L1 coefficient")
    return _labelled(caption(figure, _title(rows, metric, "along training")), rows, metric)


def by_sparsity(rows: pd.DataFrame, metric: str) -> Figure:
    """One metric of the final checkpoints against sparsity: a panel a variant, a line a mode through the means."""
    import plotly.graph_objects as go

    from repro.base.theme import caption
    from repro.sae import VARIANTS

    names = list(rows["name"].unique())
    figure, place = _panels(names, COLUMNS)
    shown: set[str] = set()
    for name, where in zip(names, place):
        panel = rows[rows["name"] == name]
        for mode, line in panel.groupby("mode", sort=False):
            line = line.sort_values("sparsity")
            means = line.groupby("sparsity")[metric].mean()
            style = _style(mode, line["protocol"].iloc[0])
            common = {"legendgroup": mode, **style}
            trace = {"x": means.index, "y": means, "mode": "lines", "name": mode, "hoverinfo": "skip", **common}
            points = {"x": line["sparsity"], "y": line[metric], "mode": "markers", "name": mode, **common}
            points |= {"hovertext": [_hover(name, mode, row) for row in line.to_dict("records")]}
            points |= _bars(line, metric)
            figure.add_trace(go.Scatter(**trace, showlegend=False), *where)
            figure.add_trace(go.Scatter(**points, showlegend=mode not in shown), *where)
            shown.add(mode)
        values = sorted(panel["sparsity"].unique())
        axis = {"type": "log", "tickvals": values, "ticktext": [f"{v:g}" for v in values]}
        trained_by = getattr(VARIANTS.get(panel["variant"].iloc[0]), "sparsity", None)
        figure.update_xaxes(**axis, title_text=UNITS.get(str(trained_by), "k"), row=where[0], col=where[1])
    return _labelled(caption(figure, _title(rows, metric, "against sparsity")), rows, metric)


def _panels(titles: list[str], columns: int) -> tuple[Figure, list[tuple[int, int]]]:
    """A grid of panels with one y axis, and (row, column) of each panel."""
    from plotly.subplots import make_subplots

    from repro.base.theme import template

    columns = min(columns, len(titles))
    count = -(-len(titles) // columns)
    figure = make_subplots(
        count,
        columns,
        subplot_titles=titles,
        shared_yaxes="all",
        horizontal_spacing=0.03,
        vertical_spacing=0.28 / count,
    )
    figure.update_annotations(font_size=11)
    figure.update_layout(template=template(), width=max(640, 120 + 300 * columns), height=TOP + 60 + 250 * count)
    return figure, [(i // columns + 1, i % columns + 1) for i in range(len(titles))]


def _labelled(figure: Figure, rows: pd.DataFrame, metric: str) -> Figure:
    """Title, legend below it, y axis; after `caption`, which would place the legend for a figure without a title."""
    from repro.metrics.names import LABELS

    figure.update_yaxes(title_text=LABELS.get(metric, metric), col=1)
    if metric in LOGARITHMIC and (rows[metric] > 0).all():
        figure.update_yaxes(type="log")
    protocol = str(rows["protocol"].iloc[0]).replace("_", " ")
    title = {"text": f"{LABELS.get(metric, metric)}, {protocol}", "y": 1 - 10 / figure.layout.height, "yanchor": "top"}
    legend = {"x": 0, "y": 1 - 34 / figure.layout.height, "yref": "container", "yanchor": "top"}
    return figure.update_layout(title=title, legend=legend, margin={"t": TOP})


def _title(rows: pd.DataFrame, metric: str, along: str) -> str:
    return f"{metric} {along}, protocol {rows['protocol'].iloc[0]}: {', '.join(rows['name'].unique())}."


def _style(mode: str, protocol: str) -> dict[str, Any]:
    """line and marker of a mode; one without a colour is drawn as controls are."""
    from repro.base.theme import CONTROL, MODE_COLORS, mode_style

    if mode.removesuffix("_amortized") in MODE_COLORS:
        return mode_style(mode, protocol)
    return {"line": {"color": CONTROL, "dash": "dash"}, "marker": {"color": CONTROL, "symbol": "star"}}


def _bars(line: pd.DataFrame, metric: str) -> dict[str, Any]:
    from repro.base.theme import interval

    low, high = f"{metric}_low", f"{metric}_high"
    if low not in line or high not in line or line[[low, high]].isna().any(axis=None):
        return {}
    return {"error_y": interval(line[metric], line[low], line[high])}


def _hover(name: str, mode: str, row: dict[str, Any]) -> str:
    parts = [f"{name}, {mode}", f"sparsity {row['sparsity']:g}", f"step {row['step']:.0f}"]
    if (seed := row.get("sae_seed")) is not None and seed == seed:
        parts.append(f"seed {seed:.0f}")
    if row.get("L0") is not None:
        parts.append(f"L0 {row['L0']:.4g}")
    return ", ".join(parts)


def _short(step: float) -> str:
    return f"{step / 1e6:.3g}M" if step >= 1e6 else f"{step / 1e3:.3g}k" if step >= 1e4 else f"{step:g}"
