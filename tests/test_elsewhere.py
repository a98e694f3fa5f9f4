"""Committed tables: those of other models read as the sections' tables, and intervals that hold their estimates."""

import json

import pytest

pytest.importorskip("pandas")
pytest.importorskip("plotly")

import pandas as pd

from repro.base.files import repo_root
from repro.sections import comparison, sweep, tables

TABLES = sorted((repo_root() / "data" / "results").glob("*/*.csv"))


@pytest.mark.parametrize("kind", [tables.COMPARE, tables.SWEEP])
def test_committed_files_are_the_sections_tables(kind):
    found = tables.other_models(kind)
    assert any(name.startswith("gemma-3-270m, layer 9") for name in found)
    for table in found.values():
        assert set(table["protocol"]) == {"as_released", "corrected"}
        if kind == tables.COMPARE:
            assert "over 1 SAE" in comparison.findings(table) and comparison.density_figure(table).data
        else:
            assert sweep.step_figure({"a model": table}, "NMSE").data


def test_every_row_keeps_its_numbers(tmp_path, monkeypatch):
    sae = {"variant": "topk", "sparsity": 8.0, "m": 64, "d": 16, "layer": 3}
    modes = {name: {"NMSE": float(i), "variant": "topk"} for i, name in enumerate(("amortized", "semi_amortized"))}
    file = tmp_path / "m" / "m_topk_3modes.json"
    file.parent.mkdir()
    file.write_text(
        json.dumps({"model_name": "m", "as_released": modes, "corrected": modes, "provenance": {"sae": sae}})
    )
    monkeypatch.setattr(tables, "committed", lambda: tmp_path)
    ((name, table),) = tables.other_models().items()
    assert name == "m, layer 3, topk" and list(table["mode"]) == ["amortized", "semi"] * 2
    assert table["NMSE"].tolist() == [0, 1, 0, 1] and set(table["d"]) == {16}
    assert tables.other_models(tables.SWEEP) == {}


@pytest.mark.parametrize("path", TABLES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_committed_interval_holds_its_estimate(path):
    table = pd.read_csv(path)
    triples = [(c, f"{c}_low", f"{c}_high") for c in table if f"{c}_low" in table]
    triples += [("difference", "low", "high")] * ({"difference", "low", "high"} <= set(table))
    for name, low, high in triples:
        rows = table.dropna(subset=[name, low])
        slack = 1e-6 * (1 + rows[name].abs())  # tables have eight digits
        assert (rows[low] <= rows[name] + slack).all(), name
        assert (rows[name] <= rows[high] + slack).all(), name
