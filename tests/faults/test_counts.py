"""The page of the fault suite: what its table, sentences and figure say of counts that are known."""

import pytest

from repro.sections.performance import faults, faults_figure

ROWS = """family,cases,refused,right,failed,date,commit
damaged files,1000,900,100,0,2026-01-02 03:04,012345678901
kill -9 of collect,9,0,8,1,2026-01-02 03:04,012345678901
kill -9 of train,12,0,12,0,2026-01-02 03:04,012345678901
"""


def test_the_page_adds_up(tmp_path):
    pytest.importorskip("plotly")
    assert faults.table(tmp_path) is None
    (tmp_path / "faults.csv").write_text(ROWS)
    found = faults.table(tmp_path)
    assert list(found["cases"]) == [1000, 9, 12] and found["commit"].iloc[0] == "012345678901"
    words = faults.findings(found)
    assert "1,021 cases of 3 families: 120 ended right and 900 were refused in one sentence; 1 did neither." in words
    assert "Of 21 runs killed at random moments (collect, train), 20 ended in the files" in words
    figure = faults_figure(found)
    assert [sum(bar.x) for bar in figure.data] == [120, 900, 1]


def test_every_committed_case_ended_as_it_should():
    found = faults.table()
    if found is None:
        pytest.skip("no data/bench/faults.csv")
    assert (found["neither"] == 0).all()
