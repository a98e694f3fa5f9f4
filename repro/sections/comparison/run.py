"""§5: one dictionary, three ways to its codes, under both protocols."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from repro.base.files import repo_root
from repro.evaluate import evaluate_checkpoints
from repro.sections.scales import Scale
from repro.sections.setup import options, prepare
from repro.sections.tables import save_table

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

METRICS = (
    "NMSE",
    "NMSE_refit",
    "FVE",
    "L0",
    "dead_rate",
    "dense@0.1",
    "dense@0.2",
    "F1@1",
    "F1@2",
    "dF1",
    "absorption",
)
LABELS = {
    "NMSE": "NMSE (lower is better)",
    "NMSE_refit": "NMSE after least squares on the same support",
    "FVE": "FVE (higher is better)",
    "L0": "L0 (mean nonzeros a token)",
    "dead_rate": "dead latents (share)",
    "amort_gap_mean": "amortization gap J(z) − J* (units of ‖x‖²)",
    "amort_gap_relative": "amortization gap, share of the objective",
    "dense@0.1": "latents firing on ≥ 10 % of tokens (share)",
    "dF1": "ΔF1 = F1@2 − F1@1",
    "absorption": "absorption (share of positives)",
}


def run(scale: Scale) -> pd.DataFrame:
    """Every final SAE of the scale x three modes x both protocols, one row each."""
    started = time.perf_counter()
    ready = prepare(scale)
    rows = evaluate_checkpoints(ready.finals(), ready.data, options(scale), ready.folder / "rows", ready.device)
    return save_table(
        "comparison", scale, rows, time.perf_counter() - started, data=ready.data.tokens.info, key=ready.data.key
    )


def run_controls(scale: Scale) -> pd.DataFrame:
    """Every final SAE of the scale x every control, corrected protocol, at the encoder's own L0."""
    from repro.inference import CONTROLS

    started = time.perf_counter()
    ready = prepare(scale)
    o = options(scale, modes=CONTROLS, protocols=("corrected",))
    rows = evaluate_checkpoints(ready.finals(), ready.data, o, ready.folder / "rows", ready.device)
    return save_table("controls", scale, rows, time.perf_counter() - started, key=ready.data.key)


def paper_numbers() -> pd.DataFrame:
    """What the paper reports for these modes (data/paper.csv)."""
    import pandas as pd

    return pd.read_csv(repo_root() / "data" / "paper.csv")


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Mean over sparsities of each metric by protocol, variant and mode."""
    columns = [c for c in (*METRICS, "absorption_null", "lam") if c in table]
    out = table.groupby(["protocol", "variant", "mode"], sort=False)[columns].mean()
    return out.round(4)


def source(scale: str, name: str = "comparison") -> str:
    """Where a table comes from, in a phrase: language model, tokens, latents, device."""
    from repro.sections.tables import about

    facts = about(name, scale)
    if not facts:
        return "no provenance"
    s = facts["scale"]
    return (
        f"{s['model']}, {s['eval_tokens']:,} tokens, {s['m']:,} latents, {s['steps']:,} training steps, "
        f"{facts['device']}, {facts['finished'][:10]}"
    )


def findings(table: pd.DataFrame) -> str:
    """The comparison in sentences, every number from the table."""
    mean = table.groupby(["protocol", "mode"])[["NMSE", "NMSE_refit", "L0", "dead_rate", "dense@0.1"]].mean()

    def at(protocol: str, mode: str, metric: str) -> float:
        return float(mean.loc[(protocol, mode), metric])

    d, m, n = int(table["d"].iloc[0]), int(table["m"].iloc[0]), len(table.groupby(["variant", "sparsity"]))
    return (
        f"Mean over {n} SAE{'s' * (n > 1)}. **As released**, semi-amortized inference takes NMSE from "
        f"{at('as_released', 'amortized', 'NMSE'):.3g} to {at('as_released', 'semi', 'NMSE'):.3g}, with "
        f"{at('as_released', 'semi', 'L0'):.0f} nonzeros a token of {m:,} latents (an optimum has at most d = {d}); "
        f"dead latents go from {at('as_released', 'amortized', 'dead_rate'):.1%} to "
        f"{at('as_released', 'semi', 'dead_rate'):.1%}, latents that fire on a tenth of the tokens from "
        f"{at('as_released', 'amortized', 'dense@0.1'):.1%} to {at('as_released', 'semi', 'dense@0.1'):.1%}. "
        f"**Corrected**, at the encoder's own L0 of {at('corrected', 'amortized', 'L0'):.1f}, NMSE goes from "
        f"{at('corrected', 'amortized', 'NMSE'):.3g} (encoder) to {at('corrected', 'semi', 'NMSE'):.3g} (semi) and "
        f"{at('corrected', 'non', 'NMSE'):.3g} (certified optimum). The L1 term shrinks every code; least squares on "
        f"the same support takes that away: {at('corrected', 'amortized', 'NMSE_refit'):.3g}, "
        f"{at('corrected', 'semi', 'NMSE_refit'):.3g} and {at('corrected', 'non', 'NMSE_refit'):.3g}. Dead latents: "
        f"{at('corrected', 'amortized', 'dead_rate'):.1%} to {at('corrected', 'semi', 'dead_rate'):.1%} and "
        f"{at('corrected', 'non', 'dead_rate'):.1%}."
    )


def changes(table: pd.DataFrame, protocol: str = "corrected") -> pd.DataFrame:
    """Metric of a mode minus metric of the encoder, SAE by SAE, under one protocol: what refinement changed."""
    import pandas as pd

    table = table[table["protocol"] == protocol]
    keys = ["variant", "sparsity"]
    names = [m for m in METRICS if m in table]
    base = table[table["mode"] == "amortized"].set_index(keys)[names]
    parts = []
    for mode in ("semi", "non"):
        part = table[table["mode"] == mode].set_index(keys)[names]
        parts.append((part - base).dropna(how="all").assign(mode=mode).reset_index())
    return pd.concat(parts, ignore_index=True)


def groups(table: pd.DataFrame, *columns: str) -> list[tuple[Any, pd.DataFrame]]:
    """(values of the columns, rows that have them), in order of appearance."""
    return list(table.groupby(list(columns), sort=False))


def metric_figure(table: pd.DataFrame, metric: str, title: str = "") -> Figure:
    """One metric against the mode, a line an SAE: released (dotted) and corrected (solid, with intervals)."""
    import plotly.graph_objects as go

    from repro.base.theme import VARIANT_COLORS, caption, interval

    names = {"amortized": "encoder", "semi": "semi", "non": "optimum"}
    figure = go.Figure()
    shown: set[str] = set()
    for (protocol, variant, _sparsity), part in groups(table, "protocol", "variant", "sparsity"):
        part = part.set_index("mode").reindex([m for m in names if m in set(part["mode"])]).reset_index()
        label = f"{variant}, {'released' if protocol == 'as_released' else 'corrected'}"
        trace: dict[str, Any] = {
            "x": [names[m] for m in part["mode"]],
            "y": part[metric],
            "mode": "lines+markers",
            "name": label,
            "legendgroup": label,
            "showlegend": label not in shown,
            "line": {"color": VARIANT_COLORS[variant], "dash": "dot" if protocol == "as_released" else "solid"},
            "marker": {"symbol": "circle-open" if protocol == "as_released" else "circle"},
            "hovertext": [f"sparsity {s:g}, L0 {l:.4g}" for s, l in zip(part["sparsity"], part["L0"])],
        }
        if f"{metric}_low" in part and protocol == "corrected":
            trace["error_y"] = interval(part[metric], part[f"{metric}_low"], part[f"{metric}_high"])
        figure.add_trace(go.Scatter(**trace))
        shown.add(label)
    figure.update_layout(xaxis_title="inference", yaxis_title=LABELS.get(metric, metric), title=title or None)
    if metric in ("NMSE", "L0"):
        figure.update_yaxes(type="log")
    text = (
        f"{LABELS.get(metric, metric)} of the same dictionaries under three kinds of inference. "
        "Dotted, hollow: the released protocol."
    )
    return caption(figure, text)


def density_figure(table: pd.DataFrame) -> Figure:
    """NMSE against L0: is a mode better at the same number of nonzeros, or does it only use more of them?"""
    import plotly.graph_objects as go

    from repro.base.theme import MODE_COLORS, MODE_SYMBOLS, caption

    figure = go.Figure()
    for (protocol, mode), part in groups(table[table["mode"].isin(MODE_COLORS)], "protocol", "mode"):  # no controls
        released = protocol == "as_released"
        figure.add_trace(
            go.Scatter(
                x=part["L0"],
                y=part["NMSE"],
                mode="markers",
                name=f"{mode}, {'released' if released else 'corrected'}",
                marker={
                    "color": MODE_COLORS[mode],
                    "symbol": MODE_SYMBOLS[mode] + ("-open" if released else ""),
                    "size": 10,
                },
                hovertext=[f"{v} {s:g}" for v, s in zip(part["variant"], part["sparsity"])],
            )
        )
    d = int(table["d"].iloc[0])
    figure.add_vline(x=d, line_dash="dash")
    where = {"x": math.log10(d), "y": 1, "yref": "paper", "xanchor": "right", "yanchor": "top", "showarrow": False}
    figure.add_annotation(text=f"d = {d}: no optimum has more ", **where)  # annotations on a log axis take logarithms
    figure.update_layout(xaxis_title="L0 (mean nonzeros a token)", yaxis_title="NMSE")
    figure.update_xaxes(type="log")
    figure.update_yaxes(type="log")
    return caption(
        figure,
        "Reconstruction error against the number of nonzeros. Filled: corrected, all three modes at the encoder's L0. "
        "Hollow: the released protocol, where refined codes use far more nonzeros than any optimum can have.",
    )


def null_figure(table: pd.DataFrame) -> Figure:
    """Absorption against what independent latents of the same density would show."""
    import plotly.graph_objects as go

    from repro.base.theme import MODE_COLORS, MODE_SYMBOLS, caption, interval

    figure = go.Figure()
    for (protocol, mode), part in groups(table, "protocol", "mode"):
        released = protocol == "as_released"
        marker = {"color": MODE_COLORS[mode], "symbol": MODE_SYMBOLS[mode] + ("-open" if released else ""), "size": 10}
        error = (
            {}
            if released
            else {"error_y": interval(part["absorption"], part["absorption_low"], part["absorption_high"])}
        )
        figure.add_trace(
            go.Scatter(
                x=part["absorption_null"],
                y=part["absorption"],
                mode="markers",
                marker=marker,
                name=f"{mode}, {'released' if released else 'corrected'}",
                hovertext=[f"{v} {s:g}" for v, s in zip(part["variant"], part["sparsity"])],
                **error,
            )
        )
    figure.add_trace(
        go.Scatter(x=[0, 1], y=[0, 1], mode="lines", name="explained by density", line={"dash": "dash", "width": 1})
    )
    figure.update_layout(xaxis_title="absorption expected from density alone", yaxis_title="absorption measured")
    return caption(
        figure,
        "Measured absorption against the value that independent latents with the same firing rates would give. "
        "On the dashed line the number says how dense the codes are, and nothing else.",
    )


NAMES = {
    "amortized": "encoder",
    "encoder_refit": "encoder's support, least squares",
    "semi": "30 ISTA steps",
    "non": "certified optimum",
    "pursuit": "pursuit at the encoder's k",
    "pca": "PCA, rank = L0",
    "random_encoder": "random encoder, top-k",
    "random_dictionary": "random dictionary, optimum",
}


def with_controls(table: pd.DataFrame, controls: pd.DataFrame) -> pd.DataFrame:
    """Means over SAEs of the corrected protocol, a row a way to codes, learned ones and controls together."""
    import pandas as pd

    both = pd.concat([table[table["protocol"] == "corrected"], controls], ignore_index=True)
    columns = ["NMSE", "NMSE_refit", "FVE", "L0", "dead_rate", "dense@0.1", "F1@1", "dF1", "absorption"]
    means = both.groupby("mode")[columns].mean()
    return means.reindex([m for m in NAMES if m in means.index]).rename(index=NAMES).round(4)


def controls_figure(table: pd.DataFrame, controls: pd.DataFrame, metric: str) -> Figure:
    """One metric for every way to codes at the encoder's L0, a line an SAE, corrected protocol."""
    import pandas as pd
    import plotly.graph_objects as go

    from repro.base.theme import VARIANT_COLORS, caption

    both = pd.concat([table[table["protocol"] == "corrected"], controls], ignore_index=True)
    figure, shown = go.Figure(), set()
    for (variant, sparsity), part in groups(both, "variant", "sparsity"):
        part = part.dropna(subset=[metric]).set_index("mode")
        order = [m for m in NAMES if m in part.index]
        figure.add_trace(
            go.Scatter(
                x=part.loc[order, metric],
                y=[NAMES[m] for m in order],
                mode="markers",
                name=variant,
                legendgroup=variant,
                showlegend=variant not in shown,
                marker={"color": VARIANT_COLORS[variant], "size": 9, "opacity": 0.8},
                hovertext=[f"{variant} {sparsity:g}, L0 {l:.4g}" for l in part.loc[order, "L0"]],
            )
        )
        shown.add(variant)
    figure.update_yaxes(categoryorder="array", categoryarray=list(NAMES.values())[::-1])
    figure.update_xaxes(title_text=LABELS.get(metric, metric), type="log" if metric == "NMSE" else "linear")
    return caption(
        figure,
        f"{LABELS.get(metric, metric)} of every way to codes at the encoder's own number of nonzeros. "
        "The last three learned nothing, or not from this dictionary: what they reach, a score gives away for free.",
    )


def figures(table: pd.DataFrame) -> dict[str, Figure]:
    """All figures of the section by name."""
    out = {
        metric: metric_figure(table, metric) for metric in ("NMSE", "L0", "dead_rate", "dense@0.1", "dF1", "absorption")
    }
    return out | {"density": density_figure(table), "null": null_figure(table)}
