"""SAEs of other models: the committed files of `repro compare` and `repro sweep` read as the sections' tables."""

import json

import pytest

pytest.importorskip("pandas")
pytest.importorskip("plotly")

from repro.experiments import comparison, elsewhere, sweep


def test_committed_files_are_the_sections_tables():
    assert "semi" in comparison.findings(*elsewhere.tables().values())
    for kind, draw in ((elsewhere.COMPARE, comparison.density_figure), (elsewhere.SWEEP, sweep.step_figure)):
        for name, table in elsewhere.tables(kind).items():
            assert "gemma-3-270m, layer 9" in name and set(table["protocol"]) == {"as_released", "corrected"}
            assert draw(*(table, "NMSE")[: 1 + (kind == elsewhere.SWEEP)]).data


def test_every_row_keeps_its_numbers(tmp_path, monkeypatch):
    sae = {"variant": "topk", "sparsity": 8.0, "m": 64, "d": 16, "layer": 3}
    modes = {name: {"NMSE": float(i), "variant": "topk"} for i, name in enumerate(("amortized", "semi_amortized"))}
    file = tmp_path / "m" / "m_topk_3modes.json"
    file.parent.mkdir()
    file.write_text(
        json.dumps({"model_name": "m", "as_released": modes, "corrected": modes, "provenance": {"sae": sae}})
    )
    monkeypatch.setattr(elsewhere, "committed", lambda: tmp_path)
    ((name, table),) = elsewhere.tables().items()
    assert name == "m, layer 3, topk" and list(table["mode"]) == ["amortized", "semi"] * 2
    assert table["NMSE"].tolist() == [0, 1, 0, 1] and set(table["d"]) == {16}
    assert elsewhere.tables(elsewhere.SWEEP) == {}
