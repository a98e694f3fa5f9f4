"""The prose pages: facts by hand, worked examples that run, text for every figure; nothing here needs a browser."""

import importlib
import json
import pkgutil
import re
import sys
import tomllib
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from repro.base.errors import BadInput
from repro.base.files import repo_root
from repro.book import drawings, facts, front, mime, readme
from repro.book.contents import pages

BOOK = repo_root() / "book"
PROSE = sorted(p for p in BOOK.rglob("*.md") if p.relative_to(BOOK).parts[0] not in ("_build", "_generated", "vendor"))


# --- numbers ---------------------------------------------------------------------------------------------------------


def every_fact() -> list[str]:
    found = [
        words
        for page in PROSE
        for words in re.findall(r"\{fact\}`([^`]+)`", re.sub(r"```.*?^```", "", page.read_text(), flags=re.S | re.M))
    ]
    found += [words for _, words, _ in re.findall(readme.FACT, (repo_root() / "README.md").read_text(), flags=re.S)]
    return sorted({*found, *facts.FACTS})


@pytest.mark.parametrize("words", every_fact())
def test_every_fact_is_one_number_with_its_table(words):
    found = facts.fact(words)
    assert re.fullmatch(r"−?[\d,.]+(e[−+]?\d+)?\N{NO-BREAK SPACE}?%?", found.text)
    assert (repo_root() / found.source.split(",")[0].split(" ")[0]).is_file()


@pytest.fixture
def table(tmp_path, monkeypatch):
    """data/results/toy/t.csv with known numbers."""
    folder = tmp_path / "data" / "results" / "toy"
    folder.mkdir(parents=True)
    (folder / "t.csv").write_text("mode,k,a name,NMSE\nsemi,5,x y,0.25\nsemi,10,x y,0.125\nnon,5,z,-3\nnon,10,z,\n")
    monkeypatch.setattr(facts, "repo_root", lambda: tmp_path)


@pytest.mark.parametrize(
    "words, text",
    [
        ("toy/t.csv mode=semi k=5: NMSE .2f", "0.25"),
        ("results/toy/t.csv  mode=semi\n k=5.0: NMSE .0%", "25\N{NO-BREAK SPACE}%"),
        ("toy/t.csv 'a name=z' k=5: NMSE .1f", "−3.0"),
        ("toy/t.csv mode=semi: mean(NMSE) .4f", "0.1875"),
        ("toy/t.csv: count(NMSE) .0f", "3"),
    ],
)
def test_selections_by_hand(table, words, text):
    assert facts.fact(words).text == text


@pytest.mark.parametrize(
    "words, sentence",
    [
        ("releesed density", "did you mean 'released density'"),
        ("toy/t.csv mode=semi: NMSE .3f", "2 rows"),
        ("toy/t.csv mode=pca: NMSE .3f", "No row"),
        ("toy/t.csv moode=semi: NMSE .3f", "did you mean 'mode'"),
        ("toy/t.csv mode=semi k=5: NSME .3f", "did you mean 'NMSE'"),
        ("toy/u.csv k=5: NMSE .3f", "no committed table"),
        ("toy/t.csv mode=non k=10: NMSE .3f", "not a finite number"),
        ("toy/t.csv: meen(NMSE) .3f", "did you mean 'mean'"),
        ("toy/t.csv mode=semi k=5: NMSE .3q", "no format"),
        ("toy/t.csv mode=semi k=5: NMSE", "a column and a format"),
        ("toy/t.csv mode semi: NMSE .3f", "key=value"),
    ],
)
def test_what_is_not_one_number_is_refused(table, words, sentence):
    with pytest.raises(BadInput, match=re.escape(sentence)):
        facts.fact(words)


def test_the_readme_is_given_its_facts(table):
    text = (
        "a <!-- fact: toy/t.csv mode=semi k=5: NMSE .0% -->old<!-- /fact --> "
        "b <!-- fact: toy/t.csv: max(k) .0f -->\n<!-- /fact -->"
    )
    new = re.sub(readme.FACT, lambda m: m[1] + facts.fact(m[2]).text + m[3], text, flags=re.S)
    assert re.sub("<!--.*?-->", "", new) == "a 25\N{NO-BREAK SPACE}% b 10"


@pytest.mark.parametrize("page", [p for p in PROSE if p.name != "log.md"], ids=lambda p: p.name)
def test_every_name_of_the_package_on_a_page_exists(page):
    text = re.sub(r"^```python\n.*?^```", "", page.read_text(), flags=re.S | re.M)  # examples that make new modules
    for name in re.findall(r"\brepro\.[a-z_]+(?:\.[A-Za-z_]+)*", text):
        pkgutil.resolve_name(name)


@pytest.mark.parametrize("claim", sorted({c for p in PROSE for c in re.findall(r"\{verdict\}`(\w+)`", p.read_text())}))
def test_every_verdict_on_a_page_is_in_the_ledger(claim):
    found = facts.verdict(claim)
    assert found.text in front.KINDS and claim in found.source


def test_a_claim_that_is_not_in_the_ledger_is_refused():
    with pytest.raises(BadInput, match="claim = Z9"):
        facts.verdict("Z9")


# --- works -----------------------------------------------------------------------------------------------------------

WORK = re.compile(r"((?:[A-Z][\w'-]+,? )*[A-Z][\w'-]+(?:,? (?:&|and) [A-Z][\w'-]+|,? et al\.)?),? \(?((?:19|20)\d\d)\b")
NO_AUTHORS = {"ICLR", "November", "Qwen", "Blitz", "Anthropic's"}  # ICLR 2026, Anthropic's April 2024 update


@pytest.fixture(scope="module")
def bibliography():
    """The entries of book/references.bib by key."""
    database = pytest.importorskip("pybtex.database")
    return database.parse_file(str(BOOK / "references.bib")).entries


def folded(text: str) -> str:
    """Without accents and braces, white space as one space."""
    return " ".join(
        unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().translate({123: "", 125: ""}).split()
    )


def test_every_citation_has_an_entry_and_every_entry_a_citation(bibliography):
    pages = "".join(re.sub(r"``.*?``|```.*?^```", "", page.read_text(), flags=re.S | re.M) for page in PROSE)
    cited = {key.strip() for keys in re.findall(r"\{cite:\w+\}`([^`]+)`", pages) for key in keys.split(",")}
    assert cited == set(bibliography)


def test_works_that_code_and_notebooks_name_are_in_the_bibliography(bibliography):
    known = {
        (name, entry.fields["year"][:4])
        for entry in bibliography.values()
        for name in re.findall(r"[\w']+", folded(" ".join(entry.persons["author"][0].last_names)))
    }
    numbers = {entry.fields["eprint"] for entry in bibliography.values() if "eprint" in entry.fields}
    root = repo_root()
    files = [root / "README.md", *PROSE, *(root / "repro").rglob("*.py"), *(root / "notebooks").glob("*.ipynb")]
    missing = []
    for file in files:
        text = folded(file.read_text())
        for names, year in WORK.findall(text):
            words = set(re.findall(r"[\w']+", names))
            if not words & NO_AUTHORS and not any((word, year) in known for word in words):
                missing.append(f"{file.relative_to(root)}: {names} {year}")
        missing += [
            f"{file.relative_to(root)}: {n}" for n in re.findall(r"\b2[3-9]\d\d\.\d{5}\b", text) if n not in numbers
        ]
    assert not missing, "\n".join(missing)


# --- worked examples -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def examples():
    """The names that the Python blocks of contribute.md define, run in order; without the files of a section."""
    source = (BOOK / "contribute.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", source, flags=re.S | re.M)
    namespace = {"__name__": "contribute"}
    sys.modules["contribute"] = importlib.util.module_from_spec(importlib.machinery.ModuleSpec("contribute", None))
    for block in blocks:
        if block.startswith(("# repro/sections/", "# notebooks/")):
            continue
        exec(compile(block, "book/contribute.md", "exec"), namespace)
        vars(sys.modules["contribute"]).update(namespace)
    yield namespace
    del sys.modules["contribute"]


def test_the_metric_passes_what_every_metric_passes(examples, monkeypatch):
    import test_metrics as every

    from repro.metrics import METRICS

    monkeypatch.setitem(METRICS, "concentration", examples["Concentration"])
    for cut in (0, 17, 50):
        every.test_records_add_up("concentration", cut)


# --- figures and the front page --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", drawings.DRAWINGS)
def test_drawings_carry_a_caption_and_a_text_alternative(name):
    figure = drawings.drawing(name)
    about = figure["layout"]["meta"]
    assert len(about["caption"]) > 60 and len(about["alt"]) > 60 and about["alt"] != about["caption"]
    opening, closing = mime.figure_html(figure)
    assert "data-themed" in opening and 'role="img" aria-label="' in opening and "<figcaption>" in closing
    assert len(opening) < 40_000
    for axis in ("xaxis", "yaxis"):
        given = figure["layout"][axis]
        assert given.get("title", {}).get("text") or given.get("ticktext")  # named lines need no title


def test_an_unknown_drawing_is_refused():
    with pytest.raises(BadInput, match="did you mean 'certificate'"):
        drawings.drawing("certficate")


def test_the_front_page_shows_every_claim_and_no_dead_link():
    from repro.sections import claims
    from repro.sections.effects import group_of

    built = pages(BOOK)
    ledgers = {scale: claims.ledger(scale) for scale in front.MODELS}
    whole, parts = front.markdown(built, ledgers)
    judged = {c.id for c in claims.CLAIMS}
    assert {group_of(c) for c in judged} == set(claims.SENTENCES)
    assert all(f"| **{c}** " in parts for c in judged)
    assert all(f"| **{c}** " in whole for c in claims.SENTENCES)
    assert all(link in built for link in re.findall(r"\[\]\((.+?)\.ipynb\)", whole))
    assert "[](" not in front.markdown(["index"], ledgers)[0]


def test_chips_say_their_verdict_in_words():
    kinds = {"supported": "holds", "refuted": "fails", "open": "untested", "not yet run": "waiting"}
    for verdict, kind in kinds.items():
        assert front.chip(verdict) == f'<span class="verdict {kind}">{verdict}</span>'
    css = (BOOK / "_static" / "book.css").read_text()
    assert all(f".verdict.{kind}" in css for kind in kinds.values() if kind != "untested")


def test_every_page_is_in_the_table_of_contents():
    listed = set(pages(BOOK))
    found = {str(p.relative_to(BOOK).with_suffix("")) for p in PROSE}
    assert found <= listed
    assert Path(BOOK / "api" / "index.md").read_text().count("](") == len([p for p in listed if p[:4] == "api/"]) - 1


def test_the_metric_is_a_column_of_compare(examples, monkeypatch, tmp_path):
    from repro.cli import main
    from repro.metrics import METRICS

    monkeypatch.setitem(METRICS, "concentration", examples["Concentration"])
    sae = BOOK.parent / "tests" / "golden" / "checkpoints" / "dictionary_learning" / "BatchTopK" / "resid_post_layer_8"
    x = np.random.default_rng(0).standard_normal((12, 25, 16)).astype(np.float32)
    np.save(tmp_path / "acts.npy", x)
    names = ("--model-name", "toy", "--sae-path", str(sae / "trainer_0"), "--acts", str(tmp_path / "acts.npy"))
    main(["compare", *names, "--out-dir", str(tmp_path)])
    result = json.loads((tmp_path / "toy_batch_topk_3modes.json").read_text())
    for mode in ("amortized", "semi_amortized", "non_amortized"):
        assert 0 < result["as_released"][mode]["concentration"] <= 1
        corrected = result["corrected"][mode]
        assert corrected["concentration_low"] <= corrected["concentration"] <= corrected["concentration_high"]


def test_the_citation_and_the_workflow_say_what_the_repository_is():
    root = repo_root()
    citation = yaml.safe_load((root / "CITATION.cff").read_text())
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert citation["cff-version"] == "1.2.0" and citation["version"] == project["version"]
    assert citation["references"][0]["url"] in (BOOK / "cite.md").read_text()
    jobs = yaml.safe_load((root / ".github" / "workflows" / "book.yml").read_text())["jobs"]
    assert jobs["publish"]["needs"] in jobs
    steps = jobs["build"]["steps"]
    assert {"run": "make report"} in steps and steps[-1]["with"] == {"path": "book/_build/html"}


def test_a_strip_draws_the_effect_over_its_margins():
    row = {"low": -0.01, "value": 0.0, "high": 0.01, "margin": 0.02, "verdict": "refuted"}
    drawn = front.strip(pd.Series(row))  # the axis reaches 1.1 margins to either side of the middle, 90
    assert '<rect x="8.2" y="0" width="163.6"' in drawn and "M49.1 9H130.9" in drawn
    assert 'class="cross" d="M86.0 5l8 8m0-8l-8 8"' in drawn
    assert front.strip(pd.Series(row | {"low": float("nan")})) == ""
