"""Figures of encoders and dictionaries: what a better encoder wins back at which cost, training, what limits."""

from __future__ import annotations

from collections.abc import Mapping

from repro.base.theme import CONTROL, MODE_COLORS, MODE_SYMBOLS, caption, interval
from repro.price.words import NAMES as KIND_NAMES
from repro.sections.effects import Effect
from repro.sections.encoders.names import DICTIONARY_NAMES, ENCODER_NAMES
from repro.sections.encoders.words import effect_of, of_dictionary, recovered
from repro.sections.figures import blank, label
from repro.sections.types import DataFrame, Figure

WON_BACK = {"NMSE": ("circle", "squared error"), "KL": ("circle-open", "divergence (KL)")}
"""Metric -> symbol and name."""
DASHES = {
    "linear": "solid",
    "mlp": "dot",
    "correction": "solid",
    "lista1": "dash",
    "lista3": "longdash",
    "lista5": "dashdot",
}
"""Form of an encoder -> dash of its line."""
PANEL = 310  # pixels of a panel of encoders or dictionaries


def ends(effects: list[Effect]) -> tuple[list[float], list[float], list[float]]:
    """Values and ends of the intervals."""
    return [e.value for e in effects], [e.low for e in effects], [e.high for e in effects]


def encoders_figure(tables: Mapping[str, DataFrame]) -> Figure:
    """The share of the guess's price that each encoder wins back, in error and divergence; a panel a language model."""
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=len(tables), cols=1, subplot_titles=list(tables), vertical_spacing=0.16)
    names = [name for name in reversed(ENCODER_NAMES) if name != "own"]
    for row, table in enumerate(tables.values(), 1):
        cost = table.groupby("encoder")["flops"].mean()
        ticks = [f"{ENCODER_NAMES[name]} · {cost[name] / cost['own']:.1f} x" for name in names]
        for metric, (symbol, words) in WON_BACK.items():
            value, low, high = ends([effect_of(recovered(table, name, metric), table) for name in names])
            figure.add_scatter(
                x=[round(v, 4) for v in value],
                y=ticks,
                error_x=interval(value, low, high) if low[0] == low[0] else None,
                mode="markers",
                name=words,
                legendgroup=metric,
                showlegend=row == 1,
                marker={"color": MODE_COLORS["encoder"], "symbol": symbol, "size": 9},
                row=row,
                col=1,
            )
        figure.add_vline(x=1, line={"color": MODE_COLORS["pursuit"], "dash": "dot"}, row=row, col=1)
    figure.update_xaxes(tickformat=".0%", rangemode="tozero")
    figure.update_xaxes(title_text="share of the guess's price won back (dotted: pursuit)", row=len(tables), col=1)
    figure.update_layout(height=110 + PANEL * len(tables))
    seeds = max(table["seed"].nunique() for table in tables.values())
    return caption(
        figure,
        "What encoders of other forms win back of the difference between the SAE's own encoder and pursuit, on the "
        "same dictionary and with as many latents; beside the name, operations a token as multiples of the SAE's own "
        f"encoder. Mean of {seeds} seeds with 95 % t intervals.",
        title=_won_back(tables),
    )


def _won_back(tables: Mapping[str, DataFrame]) -> str:
    """What one correction wins back of the squared error, and at how many times the operations."""
    name, parts = "correction", []
    for model, table in tables.items():
        cost = table.groupby("encoder")["flops"].mean()
        share = effect_of(recovered(table, name, "NMSE"), table).value
        parts.append(f"{share:.0%} of the error at {cost[name] / cost['own']:.1f} times the operations ({model})")
    return f"One correction wins back {', '.join(parts)}"


def curves_figure(model: str, table: DataFrame) -> Figure:
    """The share of variance explained on training batches along training, a line an encoder, mean over seeds."""
    figure = blank()
    for name, dash in DASHES.items():
        line = table[table["encoder"] == name].groupby("tokens")["FVE"].mean()
        if not len(line):
            continue
        figure.add_scatter(
            x=line.index.to_list(),
            y=line.round(4),
            mode="lines",
            name=ENCODER_NAMES[name],
            line={"color": CONTROL if name == "linear" else MODE_COLORS["encoder"], "dash": dash},
        )
    figure.update_xaxes(title_text="tokens trained on")
    figure.update_yaxes(title_text="FVE on training batches")
    return caption(
        figure,
        f"{model}. Training of encoders on the dictionary of a Top-K SAE that stays as it is, all from that SAE's own "
        "encoder: share of variance explained on the batches, mean over seeds.",
    )


def dictionaries_figure(tables: Mapping[str, DataFrame], metric: str = "NMSE") -> Figure:
    """A metric of the encoder's and of pursuit's codes for every dictionary; a panel a language model."""
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=len(tables), cols=1, subplot_titles=list(tables), vertical_spacing=0.16)
    for row, table in enumerate(tables.values(), 1):
        names = [name for name in reversed(DICTIONARY_NAMES) if name in set(table["dictionary"])]
        for mode in ("encoder", "pursuit"):
            value, low, high = ends([effect_of(of_dictionary(table, name, mode, metric), table) for name in names])
            figure.add_scatter(
                x=[round(v, 5) for v in value],
                y=[DICTIONARY_NAMES[name] for name in names],
                error_x=interval(value, low, high) if low[0] == low[0] else None,
                mode="markers",
                name=KIND_NAMES[mode],
                legendgroup=mode,
                showlegend=row == 1,
                marker={"color": MODE_COLORS[mode], "symbol": MODE_SYMBOLS[mode], "size": 9},
                row=row,
                col=1,
            )
    figure.update_xaxes(type="log")
    figure.update_xaxes(title_text=label(metric), row=len(tables), col=1)
    figure.update_layout(height=110 + PANEL * len(tables))
    return caption(
        figure,
        f"{label(metric)} of the encoder's codes and of pursuit's, with as many latents a token, for dictionaries that "
        "were learned with the guess, without it, in part, or not at all. The distance along a row is the price of "
        "the guess; the distance between rows that of the dictionary. Mean over seeds with 95 % t intervals.",
    )
