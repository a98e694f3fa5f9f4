"""The pages of §5 and §5.1: what figures and tables show of made-up tables of two language models, by hand."""

import pandas as pd
import plotly.graph_objects as go
import pytest

from repro.base import theme
from repro.sections import comparison, controls, tables
from repro.sections.controls import documents
from repro.sections.notebook import paragraphs
from repro.sections.scales import SCALES


def table(offset=0.0):
    """Two SAEs, L1-trained and k-trained; the encoder's NMSE is .4 and .2, halved twice as released, else kept."""
    rows = []
    for variant, nmse in (("standard", 0.4), ("topk", 0.2)):
        for protocol, factor in (("as_released", 2), ("corrected", 1)):
            for i, mode in enumerate(("amortized", "semi", "non")):
                row = {"variant": variant, "sparsity": 8.0, "protocol": protocol, "mode": mode, "L0": 250.4}
                row |= {"NMSE": nmse / factor**i + offset, "dead_rate": 0.0, "dense@0.1": 0.1234, "dF1": float("nan")}
                rows.append(row | {"absorption": 1.5, "d": 16, "m": 32, "NMSE_refit": nmse})
    return pd.DataFrame(rows)


def test_slopes_are_the_table():
    figure = comparison.slopes_figure({"a model": table(), "another": table(1.0)}, "NMSE")
    lines = {}
    for trace in figure.data:
        lines.setdefault((trace.xaxis, trace.name), []).append(list(trace.y))
    assert lines["x", "an SAE"] == [[0.4, 0.2, 0.1], [0.2, 0.1, 0.05]]
    assert lines["x2", "L1-trained"] == [[0.4, 0.4, 0.4]] and lines["x2", "k-trained"] == [[0.2, 0.2, 0.2]]
    assert lines["x3", "L1-trained"] == [[1.4, 1.2, 1.1]]
    assert {axis.type for axis in figure.select_yaxes()} == {"log"}
    assert list(figure.data[0].x) == ["encoder", "30 steps", "optimum"]


def test_a_random_dictionary_stands_beside_what_is_corrected():
    free = pd.DataFrame({"mode": ["random_dictionary", "random_dictionary", "pca"], "NMSE": [0.7, 0.9, 5.0]})
    figure = comparison.slopes_figure({"a model": table(), "another": table()}, "NMSE", {"another": free})
    (line,) = [trace for trace in figure.data if trace.name == "optimum of a random dictionary"]
    assert list(line.y) == [0.8] * 3 and line.xaxis == "x4"


def test_the_overview_reads_from_left_to_right():
    shown = comparison.overview({"a model": table()}).loc[("a model", "standard", "released")]
    assert shown["NMSE"] == "0.400 → 0.200 → 0.100" and shown["L0"] == "250 → 250 → 250"
    assert shown["ΔF1"] == "– → – → –" and shown["absorption"] == "1.5 → 1.5 → 1.5"


def test_every_language_model_has_its_paragraph():
    said = paragraphs(comparison.findings, {"a model": table(), "another": table()}).data.split("\n\n")
    assert [text.split(" ")[0] for text in said] == ["**a", "**another.**"] and "NMSE from 0.3 to 0.15" in said[0]


def test_real_language_models_come_first(monkeypatch):
    one = pd.DataFrame({"NMSE": [1.0]})
    monkeypatch.setattr(tables, "load_table", lambda name, scale: one if scale in ("tiny", "small-late") else None)
    monkeypatch.setattr(tables, "about", lambda name, scale: {"scale": vars(SCALES[scale])})
    assert list(tables.side_by_side("comparison", "tiny")) == ["smollm2-135m, layer 22", "tiny (bundled)"]
    found = list(tables.side_by_side("comparison", "tiny", tables.COMPARE))
    assert found[1].startswith("gemma-3-270m") and found[-1] == "tiny (bundled)"


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([1.5, 12.0], [2, 5, 10]),
        ([2.0, 300.0], [3, 10, 30, 100, 300]),
        ([0, 5.0], [5]),
        ([0.001, 20.0], [0.001, 0.01, 0.1, 1, 10]),
        ([1e-7, 20.0], None),
    ],
)
def test_logarithmic_axes_are_labelled_at_round_numbers(values, ticks):
    figure = go.Figure(go.Scatter(x=["a", "b"], y=values), layout={"yaxis_type": "log", "xaxis_type": "category"})
    theme.caption(figure, "A figure.")
    axis = figure.layout.yaxis
    if ticks is None:
        assert axis.tickvals is None and axis.dtick == 1
    else:
        assert [v for v in axis.tickvals if min(filter(None, values)) <= v <= max(values)] == ticks
    assert figure.layout.xaxis.dtick is None and figure.layout.xaxis.tickvals is None
    own = go.Figure(go.Scatter(y=values), layout={"yaxis": {"type": "log", "dtick": 2}})
    assert theme.caption(own, "Another.").layout.yaxis.dtick == 2


def test_controls_stand_beside_the_codes_of_their_own_model():
    free = pd.DataFrame([{"variant": "topk", "sparsity": 8.0, "mode": "pursuit", "NMSE": 0.07, "L0": 8.0}])
    both = {"a model": table(), "another": table(1.0)}
    figure = controls.controls_figure(both, {"another": free}, "NMSE")
    points = {(trace.name, code): x for trace in figure.data for x, code in zip(trace.x, trace.y)}
    assert points["topk", "pursuit at the encoder's k"] == 0.07 and points["standard", "encoder"] == 1.4
    assert {trace.xaxis for trace in figure.data} == {"x"} and figure.layout.xaxis.type == "log"


def test_differences_over_documents_have_a_panel_a_model():
    row = {"metric": "NMSE", "variant": "topk", "sparsity": 8.0, "mode": "30 steps", "L0_encoder": 8.0}
    row |= {"difference": 0.1, "low": 0.05, "high": 0.15, "encoder": 0.2, "refined": 0.3, "saes": 1}
    rows = pd.DataFrame(
        [row | {"mode": mode, "variant": v} for mode in documents.REFINED for v in ("topk", documents.ALL)]
    )
    rows = rows.assign(documents=9, tokens=90)
    figure = controls.documents_figure({"a model": rows, "another": rows}, "NMSE")
    assert {trace.xaxis for trace in figure.data} == {"x", "x2"} and list(figure.data[0].error_y.array) == [0.05]
    shown = controls.documents_overview({"a model": rows, "another": rows})
    assert list(shown["raised"]) == [1] * 6 and list(shown["lowered"]) == [0] * 6
