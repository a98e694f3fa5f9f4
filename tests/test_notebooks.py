"""Every notebook from end to end on the bundled model, at a scale smaller than tiny; nothing outside is written."""

import json

import nbformat
import pytest

from repro.base.files import repo_root
from repro.book.parameters import scale_parameters
from repro.book.runner import execute

NAMES = [
    "00_start",
    "43_dynamics",
    "50_comparison",
    "51_controls",
    "52_semi_sweep",
    "53_ablation",
    "54_probes",
    "55_ground_truth",
    "60_loca",
    "70_performance",
    "80_your_sae",
    "90_explorer",
]
LIGHT = ("00_start", "50_comparison", "70_performance")  # the others are slow: .ci/run has them too
NANO = {
    "train_tokens": 6000,
    "eval_tokens": 300,
    "released_tokens": 150,
    "label_docs": 80,
    "m": 128,
    "steps": 40,
    "batch_size": 128,
    "l1": [0.05],
    "ks": [8],
    "sweep_steps": [0, 5, 30],
    "bootstrap": 10,
    "tol": 1e-2,
}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A cache of its own, so that the notebooks compute everything."""
    folder = tmp_path_factory.mktemp("nano")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRO_CACHE", str(folder / "cache"))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield folder


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in LIGHT)) for n in NAMES])
def test_notebook_runs(name, workplace):
    parameters = {} if name == "70_performance" else {"changes": NANO}
    if name == "55_ground_truth":
        parameters["seeds"] = 2
    done = execute(name, "tiny", parameters, out_dir=workplace / "executed")
    notebook = nbformat.read(done.path, as_version=4)
    outputs = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    plots = [o for o in outputs if "application/vnd.plotly.v1+json" in o.get("data", {})]
    assert plots, "no figure"
    for plot in plots:
        figure = plot["data"]["application/vnd.plotly.v1+json"]
        assert figure["data"], "a figure without traces"
        assert figure["layout"]["meta"]["caption"]
    assert not [o for o in outputs if o.get("output_type") == "error"]


def test_results_carry_their_provenance(workplace):
    about = json.loads((workplace / "cache" / "results" / "tiny" / "comparison.json").read_text())
    assert {"commit", "device", "torch", "finished", "scale", "seconds"} <= set(about)
    assert str(repo_root()) not in json.dumps(about)


@pytest.mark.parametrize("scale", ["tiny", "small", "paper"])
def test_every_scale_has_parameters_for_every_notebook(scale):
    assert list(scale_parameters(scale)) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_sources_have_no_outputs_and_begin_with_parameters(name):
    notebook = nbformat.read(repo_root() / "notebooks" / f"{name}.ipynb", as_version=4)
    code = [c for c in notebook.cells if c.cell_type == "code"]
    assert code[0].metadata.tags == ["parameters"]
    assert not any(c.outputs or c.execution_count for c in code)
    for cell in code[1:]:
        assert len(cell.source.splitlines()) <= 11, "logic belongs into repro.sections"
