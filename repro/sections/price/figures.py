"""Figures of the price: what the loss increase consists of, the error it goes with, what a nat costs, training."""

from __future__ import annotations

from collections.abc import Mapping

from repro.base.theme import FAMILY_COLORS, MODE_COLORS, MODE_SYMBOLS, PART_COLORS, VARIED, caption, interval
from repro.price.words import NAMES
from repro.sections.effects import FAMILIES, FAMILY_NAMES
from repro.sections.figures import TITLED, blank, label, legend_once, metric_axis, names_of
from repro.sections.price import titles
from repro.sections.price.words import final, first_seed, over_seeds
from repro.sections.types import DataFrame, Figure

PART_NAMES = {
    "values": "guess: values on its support",
    "support": "guess: choice of the support",
    "dictionary": "what pursuit leaves: the dictionary",
}
KINDS = ("encoder", "encoder_refit", "semi", "optimum", "optimum_refit", "pursuit", "ompr", "random_dictionary")
LOSS_KINDS = ("optimum", "encoder", "encoder_refit", "optimum_refit", "pursuit", "ompr")
UNITS = {"NMSE": "NMSE", "CE": "loss increase, nats a token", "KL": "KL to the clean model, nats a token"}


BETWEEN = 90
"""Pixels between two panels: the axis of one and the title of the next."""


def parts_figure(tables: Mapping[str, DataFrame], metric: str) -> Figure:
    """The increase of the encoder in its three parts, a bar an SAE (mean over seeds), a panel a language model.

    tables: `price_parts` by language model, in the order of the panels.
    """
    from plotly.subplots import make_subplots

    finals = {model: over_seeds(final(table[table["metric"] == metric]), "part") for model, table in tables.items()}
    heights = [part.groupby(["variant", "sparsity"]).ngroups for part in finals.values()]
    inner = 26 * sum(heights) + BETWEEN * (len(finals) - 1)
    figure = make_subplots(
        rows=len(finals),
        cols=1,
        subplot_titles=list(finals),
        row_heights=heights,
        vertical_spacing=BETWEEN / inner,
    )
    for row, part in enumerate(finals.values(), 1):
        for name, color in PART_COLORS.items():
            bars = part[part["part"] == name].sort_values(["variant", "sparsity"], ascending=False)
            figure.add_bar(
                x=bars["value"].round(5),
                y=names_of(bars),
                orientation="h",
                name=PART_NAMES[name],
                marker_color=color,
                legendgroup=name,
                showlegend=row == 1,
                hovertext=[f"{v:.3f} [{low:.3f}, {high:.3f}]" for v, low, high in zip(*_ends(bars))],
                row=row,
                col=1,
            )
        figure.update_xaxes(title_text=UNITS[metric], row=row, col=1)
    figure.update_layout(barmode="relative", height=150 + inner)
    return caption(
        figure,
        f"What the encoder's codes cost ({UNITS[metric]}), in parts that add up: what least squares on the encoder's "
        "own support buys back, what another support with as many latents on each token buys back (orthogonal "
        "matching pursuit), and what is left. A bar to the left of zero: that change of the codes lowers the squared "
        "error and makes this worse. Beside a variant stands its k, target L0 or L1 coefficient; intervals are in the "
        f"table below. Held out: {_size(tables)}.",
        f"Bars of the parts of what the encoder's codes cost, one a kind of SAE, for {', '.join(tables)}.",
        titles.of_parts(tables, metric),
    )


def _ends(rows: DataFrame) -> tuple[list[float], list[float], list[float]]:
    return tuple(rows[name].to_list() for name in ("value", "low", "high"))  # type: ignore[return-value]


def _size(tables: Mapping[str, DataFrame]) -> str:
    """What each panel rests on."""
    parts = []
    for model, table in tables.items():
        documents, tokens = (int(table[name].max()) for name in ("documents", "n_tokens"))
        seeds = table["seed"].nunique()
        means = f", a bar the mean of {seeds} seeds" if seeds > 1 else ""
        parts.append(f"{model} {documents} documents, {tokens:,} tokens{means}")
    return "; ".join(parts)


def exchange_figure(tables: Mapping[str, DataFrame]) -> Figure:
    """Loss increase against NMSE, a marker an SAE and kind of codes: does a smaller error mean a smaller loss?"""
    from plotly.subplots import make_subplots

    panels = {"subplot_titles": list(tables), "horizontal_spacing": 0.12, "x_title": label("NMSE")}
    figure = make_subplots(rows=1, cols=len(tables), **panels)
    for col, table in enumerate(tables.values(), 1):
        for kind, rows in final(table.dropna(subset=["CE"])).groupby("mode", sort=False):
            figure.add_scatter(
                x=rows["NMSE"].round(5),
                y=rows["loss_increase"].round(5),
                mode="markers",
                name=NAMES[str(kind)],
                marker={
                    "color": MODE_COLORS[str(kind)],
                    "symbol": MODE_SYMBOLS[str(kind)],
                    "size": 8,
                    "opacity": 0.85,
                },
                legendgroup=kind,
                showlegend=col == 1,
                hovertext=[f"{name}, L0 {l:.4g}" for name, l in zip(names_of(rows), rows["L0"])],
                row=1,
                col=col,
            )
    figure.update_xaxes(type="log", tickangle=0)
    figure.update_yaxes(type="log")
    figure.update_yaxes(title_text=UNITS["CE"], col=1)
    figure.update_layout(margin_b=TITLED)
    return caption(
        figure,
        "Loss increase of the language model against the error of the reconstruction, a marker an SAE and kind of "
        "codes, all at the encoder's own mean number of nonzeros.",
        title=titles.of_exchange(tables),
    )


def frontier_figure(tables: Mapping[str, DataFrame], metric: str, variant: str) -> Figure:
    """A metric against L0 for each kind of codes, one SAE a panel: the middle sparsity of a variant."""
    from plotly.subplots import make_subplots

    panels = {"subplot_titles": list(tables), "horizontal_spacing": 0.12, "x_title": label("L0")}
    figure, reached = make_subplots(rows=1, cols=len(tables), **panels), []
    for col, (model, table) in enumerate(tables.items(), 1):
        rows = first_seed(table[table["variant"] == variant]).dropna(subset=["NMSE"])
        values = sorted(rows["sparsity"].unique())
        rows = rows[(rows["sparsity"] == values[len(values) // 2]) & rows["rounds"].isna()].dropna(subset=[metric])
        lines = {str(kind): line.sort_values("L0") for kind, line in rows.groupby("codes")}
        reached.append(titles.of_frontier(model, lines, metric))
        for kind in KINDS:
            if kind not in lines or (metric != "NMSE" and kind == "random_dictionary"):
                continue  # it would squash the others
            line = lines[kind]
            figure.add_scatter(
                x=line["L0"].round(3),
                y=line[metric].round(5),
                mode="lines+markers",
                name=NAMES[kind],
                line={"color": MODE_COLORS[kind], "dash": VARIED.get(kind, "solid")},
                marker_symbol=MODE_SYMBOLS[kind],
                legendgroup=kind,
                showlegend=col == 1,
                row=1,
                col=col,
            )
    figure.update_xaxes(type="log", tickangle=0)
    metric_axis(figure, metric, col=1)
    figure.update_yaxes(type="log")
    figure.update_layout(margin_b=TITLED)
    return caption(
        figure,
        f"{label(metric)} of one {variant} SAE against the number of nonzeros, for each kind of codes.",
        title=next(filter(None, reached), None),
    )


def training_figure(model: str, table: DataFrame, metric: str) -> Figure:
    """The share of the encoder's increase that the guess makes, along training; a line an SAE, colour = trained by."""
    figure = blank()
    table = first_seed(table)
    part = table[(table["metric"] == metric) & (table["part"] == "share_of_increase")]
    part = part[part["step"] > 0]
    for family, variants in FAMILIES.items():
        for _, line in part[part["variant"].isin(variants)].groupby(["variant", "sparsity"]):
            line = line.sort_values("step")
            if len(line) < 2:
                continue
            figure.add_scatter(
                x=line["step"],
                y=line["value"].round(5),
                error_y=interval(line["value"], line["low"], line["high"]),
                mode="lines+markers",
                name=FAMILY_NAMES[family],
                line_color=FAMILY_COLORS[family],
                hovertext=names_of(line),
            )
    legend_once(figure)
    figure.update_xaxes(type="log", title_text="training step")
    figure.update_yaxes(title_text="share of the increase", tickformat=".0%")
    return caption(
        figure,
        f"{model}. The share of the encoder's {UNITS[metric]} that the guess makes, along training. Initialisation is "
        "left out. Bars: 95 % intervals over documents.",
        title=titles.of_training(model, part, metric),
    )


def loss_figure(tables: Mapping[str, DataFrame]) -> Figure:
    """Loss increase by kind of codes: the mean as a bar, a dot an SAE, a panel a language model.

    tables: `price` by language model, in the order of the panels.
    """
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=len(tables), cols=1, subplot_titles=list(tables), vertical_spacing=0.2)
    for row, table in enumerate(tables.values(), 1):
        rows = final(table.dropna(subset=["CE"]))
        kinds = [kind for kind in reversed(LOSS_KINDS) if (rows["mode"] == kind).any()]
        means = rows.groupby("mode")["loss_increase"].mean()
        figure.add_bar(
            x=means[kinds].round(5),
            y=[NAMES[kind] for kind in kinds],
            orientation="h",
            marker_color=[MODE_COLORS[kind] for kind in kinds],
            opacity=0.55,
            hovertext=[f"{NAMES[kind]}: mean {means[kind]:.3f} nats a token" for kind in kinds],
            hoverinfo="text",
            showlegend=False,
            row=row,
            col=1,
        )
        dots = rows[rows["mode"].isin(kinds)]
        figure.add_scatter(
            x=dots["loss_increase"].round(5),
            y=dots["mode"].map(NAMES),
            mode="markers",
            marker={"color": dots["mode"].map(MODE_COLORS), "size": 6},
            hovertext=[f"{n}: {v:.3f}" for n, v in zip(names_of(dots), dots["loss_increase"])],
            hoverinfo="text",
            showlegend=False,
            row=row,
            col=1,
        )
        ticks = [f"{NAMES[kind]} <b>{means[kind]:.3f}</b>" for kind in kinds]
        figure.update_yaxes(tickvals=[NAMES[kind] for kind in kinds], ticktext=ticks, row=row, col=1)
    figure.update_xaxes(title_text=UNITS["CE"])
    figure.update_layout(height=110 + 230 * len(tables))
    several = [f"{rows.groupby(['variant', 'sparsity', 'seed']).ngroups}" for rows in map(final, tables.values())]
    return caption(
        figure,
        "What codes of the same dictionary with as many nonzeros cost the language model when the reconstruction "
        f"takes the place of its residual stream: mean (bar, number) over {' and '.join(several)} SAEs (dots). The "
        "encoder guesses all latents in one product; pursuit chooses one after the other. The L1 optimum is the best "
        "code under a penalty that makes all its values too small; refitted codes get their values by least squares.",
        "Bar chart of mean loss increases by kind of codes; the means stand beside the names.",
    )
