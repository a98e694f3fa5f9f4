"""Figures of the controls: each metric by inference mode, and the differences over documents."""

from __future__ import annotations

from collections.abc import Mapping

from repro.base.theme import MODE_COLORS, MODE_SYMBOLS, caption, interval, variant_marker
from repro.metrics.names import MODE_NAMES
from repro.price.words import NAMES
from repro.sections.controls.documents import ALL
from repro.sections.controls.silent import KINDS, POINTS, followed
from repro.sections.controls.words import CODES_BY, together
from repro.sections.figures import TITLED, label, legend_once, name_of, names_of, wrapped
from repro.sections.tables import short
from repro.sections.types import DataFrame, Figure


def controls_figure(tables: Mapping[str, DataFrame], controls: Mapping[str, DataFrame], metric: str) -> Figure:
    """One metric of all codes at the encoder's L0, corrected protocol: a marker an SAE, a panel a language model.

    tables, controls: `comparison` and `controls` by language model; the panels are those of the latter.
    """
    from plotly.subplots import make_subplots

    panels = {"subplot_titles": list(controls), "shared_yaxes": True, "x_title": label(metric)}
    figure = make_subplots(1, len(controls), horizontal_spacing=0.04, **panels)
    for col, (model, free) in enumerate(controls.items(), 1):
        both = together(tables[model], free).dropna(subset=[metric])
        for variant, part in both.groupby("variant", sort=False):
            figure.add_scatter(
                x=[float(f"{x:.5g}") for x in part[metric]],
                y=part["codes"],
                mode="markers",
                name=variant,
                marker={**variant_marker(str(variant)), "size": 9, "opacity": 0.8},
                hovertext=[f"{name}, L0 {l:.4g}" for name, l in zip(names_of(part), part["L0"])],
                row=1,
                col=col,
            )
    legend_once(figure)
    figure.update_yaxes(categoryorder="array", categoryarray=list(CODES_BY.values())[::-1])
    figure.update_xaxes(type="log" if metric == "NMSE" else "linear")
    figure.update_layout(margin_b=TITLED)
    return caption(
        figure,
        f"{label(metric)} of every inference mode at the encoder's own number of nonzeros. "
        "The last three learned nothing, or not from this dictionary: what they reach, a score gives away for free. "
        "A marker an SAE.",
        title=_reached(tables, controls, metric),
    )


def _reached(tables: Mapping[str, DataFrame], controls: Mapping[str, DataFrame], metric: str) -> str | None:
    """What the encoder, the optimum and the optimum on a random dictionary reach, for the first language model."""
    model = next(iter(controls))
    means = together(tables[model], controls[model]).groupby("mode")[metric].mean()
    names = {"amortized": "encoder", "non": "optimum", "random_dictionary": "optimum on a random dictionary"}
    parts = [f"{name} {short(means[mode])}" for mode, name in names.items() if mode in means]
    return f"{model}, {name_of(metric)}: {', '.join(parts)}"


def documents_figure(tables: Mapping[str, DataFrame], metric: str) -> Figure:
    """The difference that each mode makes to each SAE, with intervals over documents, a panel a language model.

    tables: `documents` by language model.
    """
    from plotly.subplots import make_subplots

    panels = {"subplot_titles": list(tables), "x_title": "L0 of the encoder"}
    figure = make_subplots(1, len(tables), horizontal_spacing=0.09, **panels)
    for col, table in enumerate(tables.values(), 1):
        part = table[(table["metric"] == metric) & (table["variant"] != ALL)]
        for mode, rows in part.groupby("mode", sort=False):
            figure.add_scatter(
                x=rows["L0_encoder"].round(2),
                y=rows["difference"].round(4),
                error_y=interval(rows["difference"], rows["low"], rows["high"]),
                mode="markers",
                name=MODE_NAMES.get(str(mode), str(mode)),
                marker={"color": MODE_COLORS[str(mode)], "symbol": MODE_SYMBOLS[str(mode)], "size": 6},
                hovertext=names_of(rows),
                row=1,
                col=col,
            )
    legend_once(figure)
    figure.add_hline(y=0, line_width=1)
    figure.update_xaxes(type="log")
    figure.update_yaxes(title_text=wrapped(f"{label(metric)}:") + "<br>refined − encoder", col=1)
    figure.update_layout(margin_b=TITLED)
    return caption(
        figure,
        f"What refinement does to {label(metric)} at the encoder's own L0, an SAE a column of points; "
        "bars are 95 % intervals over documents. Below the line is better.",
        title=_moved(tables, metric),
    )


def silent_figure(tables: Mapping[str, DataFrame], share: str) -> Figure:
    """Silent or dense latents against tokens seen, means over one SAE a variant, a panel a language model.

    tables: `silent` by language model; share: `silent`, with what firing rates alone give dotted, or `dense`.
    """
    from plotly.subplots import make_subplots

    panels = {"subplot_titles": list(tables), "x_title": "tokens seen", "shared_yaxes": True}
    figure = make_subplots(1, len(tables), horizontal_spacing=0.06, **panels)
    for col, table in enumerate(tables.values(), 1):
        rows = followed(table)
        for kind in KINDS:
            line = rows[(rows["kind"] == kind) & rows["tokens"].isin(POINTS)]
            line = line.groupby("tokens")[["silent", "dense", "expected"]].mean()
            for column, dash in ((share, "solid"), ("expected", "dot"))[: 2 if share == "silent" else 1]:
                if len(line):
                    figure.add_scatter(
                        x=list(line.index),
                        y=line[column].round(5),
                        mode="lines+markers" if dash == "solid" else "lines",
                        name=NAMES[kind] + (", from firing rates" if dash == "dot" else ""),
                        line={"color": MODE_COLORS[kind], "dash": dash},
                        marker_symbol=MODE_SYMBOLS[kind],
                        row=1,
                        col=col,
                    )
    legend_once(figure)
    figure.for_each_trace(lambda trace: trace.update(showlegend=trace.line.dash == "solid" and trace.showlegend))
    figure.update_xaxes(type="log")
    figure.update_yaxes(tickformat=".0%")
    names = {"silent": "latents that have not fired yet", "dense": "latents that fire on a tenth of the tokens or more"}
    figure.update_yaxes(title_text=wrapped(names[share]), col=1)
    figure.update_layout(margin_b=TITLED)
    saes = " and ".join(str(followed(table).groupby(["variant", "sparsity"]).ngroups) for table in tables.values())
    expected = "Dotted: the same share for tokens drawn from all that were read, which firing rates alone decide. "
    return caption(
        figure,
        f"Share of {names[share]}, as held-out text is read in order; means over {saes} SAEs, one a variant. "
        f"{expected if share == 'silent' else ''}Kinds that take long read fewer tokens.",
        title=_of_encoder(tables, share),
    )


def _of_encoder(tables: Mapping[str, DataFrame], share: str) -> str:
    """The encoder's share on few and on all tokens, for the first language model."""
    model, table = next(iter(tables.items()))
    line = followed(table).query("kind == 'encoder'").groupby("tokens")[share].mean()
    few, most = min(POINTS[2], line.index.max()), line.index.max()
    return f"{model}, encoder: {line[few]:.1%} of the latents {share} on {few:,} tokens, {line[most]:.1%} on {most:,}"


def _moved(tables: Mapping[str, DataFrame], metric: str) -> str:
    """How many SAEs each mode changes beyond doubt, for the first language model."""
    model, table = next(iter(tables.items()))
    part, counts = table[(table["metric"] == metric) & (table["variant"] != ALL)], []
    for mode, rows in part.groupby("mode", sort=False):
        falls, rises = int((rows["high"] < 0).sum()), int((rows["low"] > 0).sum())
        name = MODE_NAMES.get(str(mode), str(mode))
        counts.append(f"{name} lowers it in {falls} and raises it in {rises} of {len(rows)} SAEs")
    return f"{model}, {name_of(metric)}: {', '.join(counts)}"
