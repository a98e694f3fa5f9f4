"""Every notebook from end to end on the bundled model, at a scale smaller than tiny; nothing outside is written."""

import ast
import importlib
import json
import re

import nbformat
import pandas as pd
import pytest

from repro.base.errors import BadInput
from repro.base.files import repo_root
from repro.base.parameters import declared_parameters
from repro.book.contents import notebooks
from repro.book.runner import execute
from repro.cli import main
from repro.sae import SAE
from repro.sae.base import Config, Source
from repro.sections.notebook import dashes, set_up
from repro.sections.scales import scale_of
from repro.sections.setup import activations
from repro.sections.start import card

NAMES = notebooks()
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
    declared = declared_parameters(source(name))
    parameters = {"changes": NANO} if "changes" in declared else {}
    if name == "55_ground_truth":
        parameters["seeds"] = 2
    done = execute(name, "tiny", parameters, out_dir=workplace / "executed")
    notebook = nbformat.read(done.path, as_version=4)
    outputs = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    plots = [o for o in outputs if "application/vnd.plotly.v1+json" in o.get("data", {})]
    assert plots or name == "90_explorer", "no figure"  # there the widgets draw, or the script of the page
    for plot in plots:
        figure = plot["data"]["application/vnd.plotly.v1+json"]
        assert figure["data"], "a figure without traces"
        assert figure["layout"]["meta"]["caption"]
    assert not [o for o in outputs if o.get("output_type") == "error"]
    for output in outputs:
        printed = output.text if output.get("name") == "stdout" else ""
        assert max(map(len, printed.splitlines()), default=0) <= 80
        data = output.get("data", {})
        assert set(data) != {"text/plain"}, "a value that nobody made readable"
        assert not columns_without_values(data.get("text/html", ""))


def test_results_carry_their_provenance(workplace):
    about = json.loads((workplace / "cache" / "results" / "tiny" / "comparison.json").read_text())
    assert {"commit", "device", "torch", "finished", "scale", "seconds"} <= set(about)
    assert str(repo_root()) not in json.dumps(about)


def columns_without_values(html):
    """Numbers of the columns of a data frame in which every cell is NaN."""
    if 'class="dataframe"' not in html:
        return []
    rows = [re.findall(r"<td>(.*?)</td>", row, re.S) for row in re.findall(r"<tr.*?</tr>", html, re.S)]
    return [j for j, column in enumerate(zip(*filter(None, rows))) if set(column) == {"NaN"}]


def source(name):
    return nbformat.read(repo_root() / "notebooks" / f"{name}.ipynb", as_version=4)


def test_every_notebook_is_a_page():
    assert sorted(p.stem for p in (repo_root() / "notebooks").glob("*.ipynb")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_sources_have_no_outputs_and_begin_with_parameters(name):
    code = [c for c in source(name).cells if c.cell_type == "code"]
    assert code[0].metadata.tags == ["parameters"]
    assert max(map(len, code[0].source.splitlines())) <= 80
    assert not any(c.outputs or c.execution_count for c in code)
    for cell in code[1:]:
        assert len(cell.source.splitlines()) <= 11, "logic belongs into repro.sections"
    assert f'set_up("{name}", globals())' in code[1].source, "what papermill passes as text is read there"


@pytest.mark.parametrize("name", ["00_start", "45_price", "50_comparison", "52_semi_sweep"])
def test_two_exercises_end_a_page_and_their_solutions_are_short(name):
    cells = source(name).cells
    asked = [i for i, c in enumerate(cells) if c.cell_type == "markdown" and re.search(r"^\*\*[12]\. ", c.source, re.M)]
    answers = [i for i, c in enumerate(cells) if c.metadata.get("tags") == ["solution"]]
    assert answers == [i + 1 for i in asked] and len(asked) == 2
    assert answers[-1] >= len(cells) - 3, "after them only what to take away and what could still be wrong"
    for i in answers:
        lines = cells[i].source.splitlines()
        assert len(lines) <= 10 and max(map(len, lines)) <= 80 and cells[i].metadata.jupyter.source_hidden


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_imports_one_module_of_its_section(name):
    code = ast.parse("\n".join(c.source for c in source(name).cells if c.cell_type == "code"))
    imports = [(n.module, a.name) for n in ast.walk(code) if isinstance(n, ast.ImportFrom) for a in n.names]
    (section,) = [name for module, name in imports if module == "repro.sections"]
    shared = {module for module, _ in imports if module.startswith("repro.sections.")}
    assert shared == {"repro.sections.notebook"}
    module = importlib.import_module(f"repro.sections.{section}")
    attributes = (n for n in ast.walk(code) if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name))
    called = {n.attr for n in attributes if n.value.id == section}
    assert called and not [name for name in called if not hasattr(module, name)]


@pytest.mark.parametrize(
    "text, values",
    [
        (
            {"recompute": "false", "changes": "{m: 256}", "seed": 1e3},
            {"recompute": False, "changes": {"m": 256}, "seed": 1000},
        ),
        ({"recompute": "no", "seed": "1e3", "changes": "{}"}, {"recompute": False, "seed": 1000, "changes": {}}),
        ({"recompute": 0, "seed": 7, "scale": "small"}, {"recompute": False, "seed": 7, "scale": "small"}),
        ({"recompute": "yes"}, {"recompute": True}),
        ({"recompute": "tru"}, "'recompute' of 52_semi_sweep must be bool like True, not 'tru'"),
        ({"recompute": 2}, "must be bool"),
        ({"recompute": None}, "must be bool"),
        ({"changes": "m=256"}, "'changes' of 52_semi_sweep must be dict"),
        ({"changes": "{m: "}, "must be dict"),
        ({"changes": "{M: 256}"}, "A scale has no 'M'"),
        ({"seed": "[1"}, "must be int"),
        ({"seed": 1.5}, "must be int"),
        ({"seed": True}, "must be int"),
        ({"scale": 3}, "must be str"),
    ],
)
def test_parameters_that_papermill_passes_as_text(text, values):
    """`papermill -p` by hand keeps everything as text but numbers, True, False and None."""
    variables = {"scale": "tiny", "recompute": True, "seed": 0, "changes": {}} | text
    if isinstance(values, str):
        with pytest.raises(BadInput, match=values):
            set_up("52_semi_sweep", variables)
    else:
        setting = set_up("52_semi_sweep", variables)
        assert {key: variables[key] for key in values} == values
        assert setting.seed == variables["seed"] and setting.m == variables["changes"].get("m", setting.m)


def test_counts_are_shown_as_integers_and_what_was_not_measured_as_a_dash():
    table = pd.DataFrame({"rows": [4.0, 320.0], "L0": [8.0, 8.25], "of": [3.0, None], "top": [float("inf"), 1.0]})
    cells = re.findall(r"<td>(.*)</td>", dashes(table.assign(label="a")))
    assert cells == ["4", "8.00", "3", "inf", "a", "320", "8.25", "–", "1.0", "a"]
    assert re.findall(r"<td>(.*)</td>", dashes(pd.DataFrame({"n": [None]}, dtype=float))) == ["–"]
    assert "dataframe" in dashes(pd.DataFrame({"n": []}))


def test_the_card_of_an_sae_has_no_records_and_no_path():
    records = {"format": "dictionary_learning", "trainer": {"lr": 1}, "notes": []}
    facts = card(SAE(Config(d=3, m=4), Source("x", path="/home/me", extra=records)))["value"]
    assert facts["format"] == "dictionary_learning" and not set(facts.index) & {"extra", "trainer", "notes", "path"}
    assert not facts.str.contains("[{/]").any()


def test_a_second_preparation_says_nothing(workplace, capsys):
    setting = scale_of("tiny", **NANO)
    activations(setting)
    capsys.readouterr()
    activations(setting)
    assert capsys.readouterr() == ("", "")


def test_parameters_that_the_command_cannot_read(capsys):
    for value in ("[1", "x", ""):
        with pytest.raises(SystemExit) as error:
            main(["notebook", "52_semi_sweep", "-p", "seed", value])
        assert error.value.code == 2 and "'seed' of 52_semi_sweep must be int" in capsys.readouterr().err
