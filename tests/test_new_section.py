"""The section of book/contribute.md, added to a copy of the checkout and followed from its folder to its page."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from test_notebooks import NANO

from repro.base.files import repo_root
from repro.book.contents import pages

pytestmark = pytest.mark.slow  # .ci/run has it
BLOCKS = re.compile(r"^```python\n# ([\w./]+)[^\n]*\n(.*?)^```", re.S | re.M)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy with the section's folder, its notebook and its line of the contents, where the notebook has run."""
    root, copy = repo_root(), tmp_path_factory.mktemp("new") / "checkout"
    built = shutil.ignore_patterns("__pycache__", "_build", "_generated", "executed", "cache")
    for name in ("repro", "notebooks", "book", "data"):
        shutil.copytree(root / name, copy / name, ignore=built)
    files = dict(BLOCKS.findall((root / "book" / "contribute.md").read_text()))
    for path, source in files.items():
        file = copy / path
        file.parent.mkdir(exist_ok=True)
        if path.startswith("repro/sections/"):
            file.write_text(source)
    margins = copy / "repro" / "sections" / "margins.py"
    (line,) = re.findall(r'^    "r": Margin.*$', (root / "book" / "contribute.md").read_text(), re.M)
    margins.write_text(
        margins.read_text().replace("MARGINS: dict[str, Margin] = {\n", f"MARGINS: dict[str, Margin] = {{\n{line}\n")
    )
    cells = [nbformat.v4.new_code_cell(part.strip()) for part in files["notebooks/99_norms.ipynb"].split("# ---")]
    cells[0].metadata["tags"] = ["parameters"]
    title = nbformat.v4.new_markdown_cell("# Do tokens with a larger norm take more latents?")
    notebook = nbformat.v4.new_notebook(cells=[title, *cells], metadata={"language_info": {"name": "python"}})
    nbformat.write(notebook, copy / "notebooks" / "99_norms.ipynb")
    contents = copy / "book" / "_toc.yml"
    line = "      - file: executed/90_explorer\n"
    assert contents.read_text().count(line) == 1
    contents.write_text(contents.read_text().replace(line, f"{line}      - file: executed/99_norms\n"))
    changes = json.dumps(NANO | {"grid": {"standard": [0.05]}})  # a single SAE
    python(copy, "-m", "repro", "notebook", "99_norms", "-p", "changes", changes)
    return copy


def python(copy: Path, *args: str) -> str:
    """The output of Python in the copy."""
    env = os.environ | {"PYTHONPATH": str(copy), "REPRO_CACHE": str(copy.parent / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *args], cwd=copy, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_notebook_draws_and_judges(checkout):
    page = nbformat.read(checkout / "book" / "executed" / "99_norms.ipynb", as_version=4)
    outputs = [o.get("data", {}) for c in page.cells if c.cell_type == "code" for o in c.outputs]
    (figure,) = (o["application/vnd.plotly.v1+json"] for o in outputs if "application/vnd.plotly.v1+json" in o)
    assert figure["layout"]["meta"]["caption"]
    assert "The number of latents grows with the norm" in "".join(str(o.get("text/html", "")) for o in outputs)


def test_the_ledger_the_first_page_and_the_report_find_it(checkout):
    script = """
from pathlib import Path
from repro import cli
from repro.book import contents, front

cli.main(["claims"])
print("last notebook:", contents.notebooks()[-1])
print(front.markdown(contents.pages(Path("book").resolve()))[0])
"""
    printed = python(checkout, "-c", script)
    assert re.search(r"^ *N1a +The number", printed, re.M)  # how far it goes on this line depends on the others
    assert "last notebook: 99_norms" in printed
    assert "**N1** Tokens with a larger norm take more latents.<br><small>[](executed/99_norms.ipynb)" in printed


def test_the_book_has_its_page(checkout):
    pytest.importorskip("jupyter_book")
    book = checkout / "book"
    names = ["executed/99_norms", *(name for name in pages(book) if not name.startswith(("executed/", "index")))]
    chapters = [{"file": name} for name in names]
    (book / "_toc.yml").write_text(yaml.safe_dump({"format": "jb-book", "root": "index", "chapters": chapters}))
    for page in book.glob("*.md"):  # the one notebook stands for all that pages point to
        page.write_text(re.sub(r"\(executed/\w+\.ipynb\)", "(executed/99_norms.ipynb)", page.read_text()))
    html = python(checkout, "-c", "from repro.book.build import build; print(build())").split()[-1]
    page = (Path(html) / "executed" / "99_norms.html").read_text()
    assert "Do longer tokens take more latents?" in page
    related, works = ((Path(html) / f"{name}.html").read_text() for name in ("related", "bibliography"))
    cited = re.findall(r'href="bibliography.html#(id\d+)"', related)
    assert len(cited) > 15 and all(f'id="{target}" role="doc-biblioentry"' in works for target in cited)
    assert "Shabalin and Paulo [" in related and 'class="verdict ' in related
