"""The report's machinery: colours against the WCAG and CIELAB formulas, notebooks run for real, pages as HTML."""

import itertools
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pytest

from repro.base import theme
from repro.base.errors import BadInput, NotebookFailed
from repro.base.files import repo_root
from repro.base.parameters import EVERY, scale_parameters
from repro.book import build as book
from repro.book import mime
from repro.book.contents import notebooks
from repro.book.runner import execute, execute_all, plan, record
from repro.jobs.task import Fanout, status

v4 = nbformat.v4


def notebook(folder: Path, name: str, *cells: str, parameters: str | None = None) -> Path:
    """Write folder/name.ipynb with one code cell each; `parameters` becomes the tagged cell."""
    made = [v4.new_code_cell(source) for source in cells]
    if parameters is not None:
        made.insert(0, v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    language = {"kernelspec": {"name": "other", "display_name": "?"}, "language_info": {"name": "python"}}
    path = folder / f"{name}.ipynb"
    nbformat.write(v4.new_notebook(cells=made, metadata=language), path)
    return path


def scales(folder: Path, text: str, scale: str = "tiny") -> None:
    (folder / "params").mkdir(exist_ok=True)
    (folder / "params" / f"{scale}.yaml").write_text(text)


# --- theme -----------------------------------------------------------------------------------------------------------


def linear(color: str) -> np.ndarray:
    """sRGB hex -> linear RGB (IEC 61966-2-1)."""
    c = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def contrast(a: str, b: str) -> float:
    """WCAG 2 contrast ratio."""
    low, high = sorted(linear(c) @ [0.2126, 0.7152, 0.0722] for c in (a, b))
    return (high + 0.05) / (low + 0.05)


def cielab(rgb: np.ndarray) -> np.ndarray:
    """Linear RGB -> CIELAB under D65."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    t = to_xyz @ np.clip(rgb, 0, 1) / [0.9505, 1, 1.089]
    x, y, z = np.where(t > 216 / 24389, np.cbrt(t), (24389 / 27 * t + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


SIGHT = {  # Machado, Oliveira & Fernandes 2009, severity 1
    "normal": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.mark.parametrize("sight", SIGHT)
def test_palette_stays_apart_for_every_kind_of_sight(sight):
    labs = {c: cielab(np.array(SIGHT[sight]) @ linear(c)) for c in theme.PALETTE}
    nearest = min((np.linalg.norm(labs[a] - labs[b]), a, b) for a, b in itertools.combinations(labs, 2))
    assert nearest[0] > 20, nearest


@pytest.mark.parametrize("page", ["#ffffff", "#121212"])
def test_palette_and_neutral_text_read_on_both_pages(page):
    for color in theme.PALETTE:
        assert contrast(color, page) > 2.9, color
    assert contrast(theme.INKS["neutral"][0], page) > 4
    ink = theme.INKS["light" if page == "#ffffff" else "dark"]
    assert contrast(ink[0], page) > 7


PAINTED = ("still.py", "style.py")  # the defaults of a drawing, a style sheet
ALIASES = ("amortized", "encoder_refit", "ista", "optimum", "certified")  # other tables' names of the same codes


def test_a_colour_has_one_meaning_and_figures_take_it_from_the_theme():
    assert sorted(theme.MEANINGS.values()) == sorted(theme.PALETTE)
    families = set(theme.FAMILY_COLORS.values())
    assert not families & set(theme.MODE_COLORS.values()) and len(families) == 2
    package, folders = Path(theme.__file__).parent.parent, ("sections", "price", "book", "commands")
    drawing = [p for folder in folders for p in (package / folder).rglob("*.py") if p.parent.name != "explorer"]
    bare = re.compile(r"#[0-9a-fA-F]{6}\b|\b(VERMILION|AMBER|BLUE|GREEN|VIOLET|PINK|PALETTE)\b")
    assert not {p.name: found for p in drawing if p.name not in PAINTED and (found := bare.findall(p.read_text()))}
    looks = [(c, theme.MODE_SYMBOLS[m]) for m, c in theme.MODE_COLORS.items() if m not in ALIASES]
    assert len(set(looks)) == len(looks)


def test_use_theme_makes_figures_travel_as_json(monkeypatch):
    import plotly.graph_objects as go
    import plotly.io as pio

    monkeypatch.delenv("REPRO_PNG", raising=False)
    before = pio.templates.default, pio.renderers.default
    try:
        theme.use_theme()
        figure = go.Figure(go.Scatter(y=[1, 2], **theme.mode_style("semi_amortized", "as_released")))
        assert pio.renderers.default == "plotly_mimetype"
        assert figure.layout.template.layout.paper_bgcolor == "rgba(0,0,0,0)"
        assert figure.data[0].marker.symbol == "diamond-open"
        assert figure.data[0].line.dash == "dot"
    finally:
        pio.templates.default, pio.renderers.default = before


def test_a_title_is_text_of_the_page():
    import plotly.graph_objects as go

    figure = theme.caption(go.Figure(go.Scatter(y=[1, 2])), "A caption.", title="It rises & " + "rises " * 20)
    assert figure.layout.title.text.count("<br>") == 1
    opening, closing = mime.figure_html(figure.to_plotly_json())
    assert f'<p class="finding">It rises &amp; {"rises " * 19}rises</p>' in opening and "A caption." in closing
    assert opening.count("It rises") == 1


def test_interval_is_asymmetric_around_the_value():
    bars = theme.interval([1.0, 2.0], [0.5, 1.75], [1.25, 4.0])
    assert bars["array"] == [0.25, 2.0]
    assert bars["arrayminus"] == [0.5, 0.25]


# --- runner ----------------------------------------------------------------------------------------------------------


def test_a_run_records_itself_and_is_not_repeated(tmp_path, monkeypatch):
    decoy = tmp_path / "jupyter" / "kernels" / "python3"  # another project's kernel of the same name
    decoy.mkdir(parents=True)
    broken = {"argv": ["/bin/false"], "display_name": "x", "language": "python"}
    (decoy / "kernel.json").write_text(json.dumps(broken))
    monkeypatch.setenv("JUPYTER_PATH", str(decoy.parent.parent))
    notebook(
        tmp_path,
        "one",
        "import os, sys\nprint(sys.executable, seed, rate, scale)",
        parameters="seed: int = 0\nrate: float = 0.5\nscale: str = 'none'",
    )
    scales(tmp_path, "one: {seed: 3}\n")
    done = execute("one", "tiny", {"rate": "1e-3"}, notebooks_dir=tmp_path, out_dir=tmp_path / "out")
    outputs = [o for c in nbformat.read(done.path, 4).cells for o in c.get("outputs", [])]
    assert [o.text for o in outputs] == [f"{sys.executable} 3 0.001 tiny\n"]  # and nothing about TCP on stderr
    run = record(done.path)
    assert run["parameters"] == {"seed": 3, "rate": 0.001, "scale": "tiny"}
    assert run["seconds"] == done.seconds > 0
    assert run["peak_mb"] > 10
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["one.ipynb"]

    again = execute("one", "tiny", {"rate": 1e-3}, notebooks_dir=tmp_path, out_dir=tmp_path / "out")
    assert again.skipped
    assert again.seconds == done.seconds
    key = plan("one", "tiny", {"rate": 1e-3}, tmp_path).key
    assert key == run["key"]
    assert key != plan("one", "tiny", {"rate": 2e-3}, tmp_path).key
    monkeypatch.setenv("REPRO_PNG", "1")
    assert key != plan("one", "tiny", {"rate": 1e-3}, tmp_path).key
    monkeypatch.delenv("REPRO_PNG")
    notebook(tmp_path, "one", "print('changed')", parameters="seed: int = 0\nrate: float = 0.5\nscale: str = 'none'")
    assert key != plan("one", "tiny", {"rate": 1e-3}, tmp_path).key


def test_a_failed_run_keeps_the_earlier_result_and_names_the_cell(tmp_path):
    notebook(tmp_path, "two", "x = 1", "x / 0  # here", "x = 2", parameters="n: int = 1")
    scales(tmp_path, "two:\n")
    earlier = notebook(tmp_path, "earlier").read_text()
    out = tmp_path / "out"
    out.mkdir()
    (out / "two.ipynb").write_text(earlier)
    with pytest.raises(
        NotebookFailed, match=r"two failed in cell \[3\] `x / 0  # here`: ZeroDivisionError: .*by zero"
    ) as e:
        execute("two", notebooks_dir=tmp_path, out_dir=out)
    assert "\n" not in str(e.value)
    assert (out / "two.ipynb").read_text() == earlier
    assert sorted(p.name for p in out.iterdir()) == ["two.failed.ipynb", "two.ipynb"]


def test_killed_report_goes_on_where_it_stopped(tmp_path):
    notebook(tmp_path, "a", "print('a')")
    flag = tmp_path / "running"
    notebook(
        tmp_path,
        "b",
        f"import pathlib, time\npathlib.Path({str(flag)!r}).touch()\ntime.sleep(t)",
        parameters="t: float = 60.0",
    )
    scales(tmp_path, "a:\nb:\n")
    out = tmp_path / "out"
    script = (
        "from pathlib import Path\nfrom repro.book.runner import execute\n"
        f"for n in 'ab': execute(n, notebooks_dir=Path({str(tmp_path)!r}), out_dir=Path({str(out)!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    end = time.time() + 120
    while not flag.exists() and time.time() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert flag.exists()
    assert (out / "a.ipynb").is_file()
    assert not (out / "b.ipynb").exists()
    assert execute("a", notebooks_dir=tmp_path, out_dir=out).skipped
    assert not execute("b", "tiny", {"t": 0.0}, notebooks_dir=tmp_path, out_dir=out).skipped
    assert sorted(p.name for p in out.iterdir()) == ["a.ipynb", "b.ipynb"]


def test_the_first_notebook_prepares_and_the_others_run_side_by_side(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook(tmp_path, "first", "import pathlib, time\ntime.sleep(1)\npathlib.Path('prepared').touch()")
    for name, other in (("b", "c"), ("c", "b")):  # each waits for the other: they run at the same time
        wait = f"while not pathlib.Path({other!r}).exists(): time.sleep(0.05)"
        mark = f"import pathlib, time\nassert pathlib.Path('prepared').exists()\npathlib.Path({name!r}).touch()"
        notebook(tmp_path, name, f"{mark}\n{wait}", "1 / n", parameters="n: int = 1")
    scales(tmp_path, "first:\nb:\nc:\n")
    out, how = tmp_path / "out", Fanout(workers=2, retries=0)
    with pytest.raises(BadInput, match="no parameter 'm'"):
        execute_all({"first": {}, "b": {"m": 1}}, "tiny", how, out, tmp_path)
    assert not out.exists()
    failed = execute_all({"first": {}, "b": {"n": 0}, "c": {}}, "tiny", how, out, tmp_path)
    assert list(failed) == ["b"] and failed["b"].startswith("b failed in cell [4] `1 / n`: ZeroDivisionError")
    assert sorted(p.name for p in out.glob("*.ipynb")) == ["b.failed.ipynb", "c.ipynb", "first.ipynb"]
    assert {s["name"]: s["state"] for s in status(out)} == {"b": "failed", "c": "done", "first": "done"}
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in said] == [["first", "executed", "in"], ["c", "executed", "in"]]


def test_the_report_runs_every_notebook_and_builds_no_book_of_some(monkeypatch, capsys):
    from repro import cli
    from repro.commands import report as commands

    asked, failed = [], {"50_comparison": "50_comparison failed in cell [2]."}
    monkeypatch.setattr(commands, "execute_all", lambda *a, **k: asked.append((*a, k)) or failed)
    monkeypatch.setattr(commands, "build", lambda: Path("somewhere/html"))
    with pytest.raises(SystemExit) as stopped:
        cli.main(["report", "--force"])
    assert stopped.value.code == 1
    assert "No book was built: 50_comparison failed in cell [2]." in capsys.readouterr().err
    ((wanted, scale, how, _, rest),) = asked
    assert list(wanted) == notebooks() and not any(wanted.values()) and rest == {"force": True}
    assert scale == "tiny" and how == Fanout(workers=2, retries=0)
    failed.clear()
    cli.main(["report", "--workers", "4", "--engine", "dask"])
    assert asked[1][2] == Fanout("dask", 4, retries=0) and "somewhere/html/index.html" in capsys.readouterr().out


def test_claims_are_recomputed_by_the_notebooks_that_they_name(monkeypatch, capsys, tmp_path):
    from repro import cli
    from repro.book import runner
    from repro.sections import claims

    asked = []
    monkeypatch.setattr(claims, "write", lambda scale: tmp_path / "ledger.csv")
    monkeypatch.setattr(runner, "execute_all", lambda *a: asked.append(a) or {"60_loca": "60_loca failed in cell [2]."})
    with pytest.raises(SystemExit) as stopped:
        cli.main(["claims", "--recompute", "--workers", "3"])
    assert stopped.value.code == 1 and "ledger.csv" in capsys.readouterr().err
    ((wanted, scale, how, _),) = asked
    assert scale == "tiny" and how == Fanout(workers=3, retries=0)
    assert next(iter(wanted)) == "00_start" and {c.section for c in claims.CLAIMS} < set(wanted)
    assert all(plan(name, scale, values).parameters["recompute"] for name, values in wanted.items())
    sources = "".join((repo_root() / "notebooks" / f"{name}.ipynb").read_text() for name in wanted)
    for table in {t.partition("_")[0] for c in claims.CLAIMS for t in (*c.needs, *c.uses)} - {"controls"}:
        assert f'\\"{table}' in sources or f"{table}." in sources, f"no notebook that is run computes {table}"


@pytest.mark.parametrize(
    ("name", "scale", "values", "sentence"),
    [
        ("won", "tiny", {}, r"No notebook 'won' \(did you mean 'one'\?\)"),
        ("one", "tini", {}, r"No scale 'tini' \(did you mean 'tiny'\?\)"),
        (
            "one",
            "tiny",
            {"sede": 1},
            r"no parameter 'sede' \(did you mean 'seed'\?\); its parameters: seed, ks",
        ),
        ("one", "tiny", {"seed": "x"}, "'seed' of one must be int like 0, not 'x'"),
        ("one", "tiny", {"seed": True}, "must be int"),
        ("one", "tiny", {"rate": "much"}, "must be float"),
        ("one", "tiny", {"seed": "[1"}, r"must be int like 0, not '\[1'"),
        ("one", "tiny", {"seed": "1.5"}, "must be int"),
        ("one", "tiny", {"seed": None}, "must be int"),
        ("bare", "tiny", {"seed": 1}, "its parameters: none"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, name, scale, values, sentence):
    notebook(tmp_path, "one", "1", parameters="seed: int = 0\nks: tuple = (1, 2)\nrate = 0.5")
    notebook(tmp_path, "bare", "1")
    scales(tmp_path, "one: {}\nbare: {}\n")
    with pytest.raises(BadInput, match=sentence):
        plan(name, scale, values, tmp_path)


def test_values_are_converted_only_where_the_meaning_is_plain(tmp_path):
    notebook(tmp_path, "one", "1", parameters="ks: tuple = (1, 2)\nrate = 0.5\npath = None\nthird = 1 / 3\nlate: int")
    scales(tmp_path, "one: {ks: [3], rate: 1, path: x, third: 0.5}\n")
    assert plan("one", notebooks_dir=tmp_path).parameters == {"ks": (3,), "rate": 1.0, "path": "x", "third": 0.5}


def test_scale_file_must_be_a_mapping(tmp_path):
    scales(tmp_path, "- one\n")
    with pytest.raises(BadInput, match="must map the name of each notebook"):
        scale_parameters("tiny", tmp_path)


@pytest.mark.parametrize("scale", ["tiny", "small", "paper"])
def test_parameters_of_every_scale_fit_the_notebooks(scale):
    if not (repo_root() / "notebooks" / "params" / f"{scale}.yaml").is_file():
        pytest.skip("no parameters for this scale in this checkout")
    assert set(scale_parameters(scale)) <= {*notebooks(), EVERY}
    for name in notebooks():
        plan(name, scale)


def test_what_a_scale_sets_for_every_notebook_reaches_those_that_have_it(tmp_path):
    notebook(tmp_path, "one", "1", parameters="recompute = True\nseed = 0")
    notebook(tmp_path, "two", "1", parameters="recompute = True")
    notebook(tmp_path, "three", "1", parameters="seed = 0")
    scales(tmp_path, "every: {recompute: false}\ntwo: {recompute: true}\n")
    values = {name: plan(name, notebooks_dir=tmp_path).parameters for name in ("one", "two", "three")}
    assert values == {"one": {"recompute": False}, "two": {"recompute": True}, "three": {}}


# --- pages -----------------------------------------------------------------------------------------------------------


def test_figure_html_is_small_and_safe():
    import plotly.graph_objects as go

    figure = go.Figure(go.Scatter(y=[1, 2], name="</script><b>"), layout={"template": theme.template()})
    theme.caption(figure, "A < B", alt='a "line"')
    opening, closing = mime.figure_html(json.loads(figure.to_json()))
    assert "</script>" not in opening.split('type="application/json">')[1].split("</script><noscript>")[0]
    stored = json.loads(opening.split('type="application/json">')[1].split("</script><noscript>")[0])
    assert stored["data"][0]["name"] == "</script><b>"
    assert "template" not in stored["layout"]
    assert "data-themed" in opening
    assert 'aria-label="a &quot;line&quot;"' in opening
    assert "<figcaption>A &lt; B</figcaption>" in closing
    foreign, _ = mime.figure_html(json.loads(go.Figure(layout={"template": "plotly_dark"}).to_json()))
    assert "data-themed" not in foreign  # another template is kept as it is
    assert '"template"' in foreign


def test_build_refuses_a_page_that_was_not_executed(tmp_path):
    (tmp_path / "_toc.yml").write_text("root: index\nparts: [{chapters: [{file: executed/one}, {file: log}]}]\n")
    with pytest.raises(BadInput, match="Not executed yet: one; `repro report` runs them"):
        book.build(tmp_path)


def test_runs_table_adds_up(tmp_path):
    for name, seconds in (("one", 1.5), ("two", 2.25)):
        run = {"scale": "tiny", "seconds": seconds, "peak_mb": 10.0, "finished": "2026-01-02T03:04:05+00:00"}
        made = v4.new_notebook(metadata={"repro": {**run, "machine": "m", "versions": {"torch": "2"}}})
        nbformat.write(made, tmp_path / f"{name}.ipynb")
    nbformat.write(v4.new_notebook(), tmp_path / "by-hand.ipynb")
    (tmp_path / "broken.draft.ipynb").write_text("{")
    text = book.runs_table(tmp_path)
    assert "| one | tiny | 1.5 s | 10 MB | 2026-01-02 03:04 |" in text
    assert "| together | | 3.8 s |" in text
    assert text.count("Machine: m.") == 1
    assert book.runs_table(tmp_path / "nowhere") == "*No notebook has been executed yet.*\n"


def test_vendored_files_are_small_and_licensed():
    vendor = repo_root() / "book" / "vendor"
    files = [p for p in vendor.rglob("*") if p.is_file()]
    assert files
    assert max(p.stat().st_size for p in files) < 5_000_000
    for folder in {p.parent for p in files} - {vendor}:
        assert any(p.name.startswith("LICENSE") for p in folder.iterdir()), folder
        assert f"`{folder.name}/`" in (vendor / "README.md").read_text()


def test_pages_load_the_basic_plotly_unless_a_figure_needs_all_of_it():
    small = mime.page_scripts({"data": [{"type": "scatter"}, {"type": "bar"}, {}]})
    assert (repo_root() / "book" / "vendor" / small["plotly-basic"][0]).is_file(), "vendor the bundle of this plotly"
    assert "plotly" not in small
    whole = mime.page_scripts({"data": [{"type": "heatmap"}]})
    assert "basic" not in whole["plotly"][0] and whole["plotly"][1]["priority"] > 500


def test_tables_lose_white_space_and_nothing_else():
    import pandas as pd

    from repro.book.runner import slim_tables

    table = pd.DataFrame({"a b": [1.5, 2.0], "c": ["x y", "<z>"]})
    html = table._repr_html_()
    output = nbformat.v4.new_output("execute_result", {"text/html": html, "text/plain": "t"})
    page = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("t", outputs=[output])])
    slim_tables(page)
    slim = page.cells[0].outputs[0]["data"]["text/html"]
    assert len(slim) < 0.7 * len(html)
    cells = lambda text: re.findall(r"<(?:th|td)(?: [^>]*)?>(.*?)</", text)  # noqa: E731
    assert cells(slim) == cells(html)


# --- README ----------------------------------------------------------------------------------------------------------


def test_the_computed_parts_of_the_readme_are_current():
    from repro.book.readme import text

    readme = (repo_root() / "README.md").read_text(encoding="utf-8")
    assert text(readme) == readme, "run `make readme`"
    assert len(readme.splitlines()) <= 120


def test_every_path_in_the_readme_exists():
    readme = (repo_root() / "README.md").read_text(encoding="utf-8")
    paths = re.findall(r"`((?:repro|book|data|tests|notebooks)/[\w./-]*)`", readme)
    assert "repro/metrics/" in paths
    made = ("book/executed/", "book/_build/html", "data/cache/")
    assert not [path for path in paths if path not in made and not (repo_root() / path).exists()]


def test_the_readme_names_every_command():
    from repro.cli import COMMANDS

    readme = (repo_root() / "README.md").read_text(encoding="utf-8")
    table = readme.split("| command |")[1].split("\n\n")[0]
    named = {word for quoted in re.findall(r"`([^`]+)`", table) for word in quoted.split()}
    assert named >= {word for command in COMMANDS for word in command.split()}


def test_the_tree_of_the_readme_names_every_folder(tmp_path):
    from repro.book.readme import tree

    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f'"""About {name}.\n\nMore.\n"""\n')
    (tmp_path / "cli.py").write_text('"""Flags."""\n')
    assert tree(["two/", "cli.py", "one/"], tmp_path).split("\n") == [
        f"  {name:14s} {line}" for name, line in (("two/", "About two"), ("cli.py", "Flags"), ("one/", "About one"))
    ]
    with pytest.raises(ValueError, match=r"differ in cli\.py, three/"):
        tree(["one/", "two/", "three/"], tmp_path)
