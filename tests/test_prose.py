"""No number in prose is typed: pages, markdown cells and the sentences that code writes hold definitions at most."""

import ast
import json
import re
from pathlib import Path

import pytest

from repro.base.files import repo_root
from repro.sections import claims, sweep
from repro.sections.ablation.words import paper_says
from repro.sections.tables import paper_numbers

ROOT = repo_root()
BOOK = ROOT / "book"
PROSE = sorted(p for p in BOOK.rglob("*.md") if p.relative_to(BOOK).parts[0] not in ("_build", "_generated", "vendor"))
DATED = {"log.md"}  # its entries are records of a day: their numbers stay as they were seen
WRITERS = sorted(p for p in (ROOT / "repro" / "sections").rglob("*.py") if p.parent.name != "explorer")  # styles

NOT_PROSE = re.compile(
    r"```.*?^```|\$\$.*?\$\$|\$[^$\n]+\$|\{fact\}`[^`]+`|`[^`]+`|\]\([^)]*\)|<[^>\n]+>|https?://\S+", re.S | re.M
)
UNIT = r"%|per cent|×|times\b|ms\b|s\b|seconds?\b|min\b|minutes?\b|hours?\b|kB\b|MB\b|GB\b"
MEASURED = re.compile(rf"(?<![\w.@-])(\d+\.\d+|\d{{1,3}}(?:,\d{{3}})+|\d+(?:\.\d+)?\s?(?:{UNIT}))")
DEFINED = (
    r"(Python|plotly|scikit-learn|torch|Debian) \d+(\.\d+)*|95 %|§\s?\d+(\.\d+)?|C\d[a-z]?|arXiv \S+",
    r"10 % of (these )?tokens",  # Dense@0.1
    r"10 % of the latents kept for Top-K families",  # released
    r"mean L0 to 2 %",  # inference.calibration
    r"(Dense@0.2 > 0.66|the first 1 %)( of training)?|under 1 % are dead",  # rules of the ledger
    r"unit-norm tokens at most 0.1",  # when LocA's release stops
    r"\d+ to \d+ × as many",
    r"at 1,000\.",  # sources of a problem in the literature
    r"768 × 16,384|1,000 steps|65,536 latents",  # shapes and limits of benchmarks
)
ALLOWED = re.compile("|".join(DEFINED))


def typed(text: str) -> list[str]:
    """Numbers that look measured: decimals, percentages, thousands, multiples, times and sizes."""
    return [m.group(0) for m in MEASURED.finditer(ALLOWED.sub("", NOT_PROSE.sub(" ", text)))]


def cells() -> dict[str, str]:
    """Every markdown cell by notebook and id."""
    return {
        f"{path.stem} {cell['id']}": "".join(cell["source"])
        for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
        for cell in json.loads(path.read_text())["cells"]
        if cell["cell_type"] == "markdown"
    }


def sentences(path: Path) -> list[str]:
    """String constants of a module without docstrings and formats: what its tables, captions and findings say."""
    tree = ast.parse(path.read_text())
    skipped = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
    skipped |= {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.keyword) and n.arg == "paper"}  # below
    formats = [n.format_spec for n in ast.walk(tree) if isinstance(n, ast.FormattedValue) and n.format_spec]
    skipped |= {id(n) for spec in formats for n in ast.walk(spec)}
    constants = (n for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) not in skipped)
    return [n.value for n in constants if isinstance(n.value, str)]


@pytest.mark.parametrize("page", [p for p in PROSE if p.name not in DATED], ids=lambda p: str(p.relative_to(BOOK)))
def test_no_number_on_a_page_is_typed(page):
    assert not typed(page.read_text()), "read it from a table: {fact}`…` (book/contribute.md)"


def test_no_number_in_a_notebook_is_typed():
    found = {cell: numbers for cell, text in cells().items() if (numbers := typed(text))}
    assert not found, "let a code cell say it from a table: Markdown(module.findings(table))"


def test_no_number_in_a_sentence_of_the_code_is_typed():
    found = {
        str(p.relative_to(ROOT / "repro" / "sections")): numbers
        for p in WRITERS
        if (numbers := [t for s in sentences(p) for t in typed(s)])
    }
    assert not found


def test_what_the_ledger_quotes_is_in_the_table_of_the_paper():
    """Every decimal of Claim.paper is a cell of data/paper.csv, rounded as it is quoted."""
    known = paper_numbers().select_dtypes("number").to_numpy().ravel()
    for claim in claims.CLAIMS:
        for quoted in re.findall(r"\d+\.\d+", ALLOWED.sub("", claim.paper)):
            places = len(quoted.split(".")[1])
            assert any(f"{value:.{places}f}" == quoted for value in known), (claim.id, quoted)


def test_what_notebooks_quote_is_read_from_the_table_of_the_paper():
    assert "0.477, 0.132 and 0.046 after 5, 25 and 50 steps" in sweep.paper_says()
    quoted = paper_says()
    assert "from NMSE 0.537 with 31.6\N{NO-BREAK SPACE}% dead latents to 0.101 with 0.0\N{NO-BREAK SPACE}%" in quoted


def test_typed_numbers_are_found(tmp_path):
    text = "It fell to 0.031, or 82 %, in 1.7 times the 2,000 tokens, and 12 s."
    clean = " $0.5$ `0.5` {fact}`a: b .3f` 95 % Python 3.11 [a](1.5) 30 steps, fires on 10 % of these tokens"
    assert typed(text + clean) == ["0.031", "82 %", "1.7", "2,000", "12 s"]
    module = tmp_path / "m.py"
    module.write_text('"""0.1"""\nx = f"falls by {y:0.3f} to 0.25"\n')
    assert [t for s in sentences(module) for t in typed(s)] == ["0.25"]
