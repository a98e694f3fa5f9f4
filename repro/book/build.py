"""Executed notebooks and prose pages to the book: generated fragments, then Jupyter Book with warnings as errors."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from repro.base.errors import BadInput, NotebookFailed, missing_extra
from repro.base.files import repo_root, write_atomically
from repro.base.lock import only_one
from repro.book import by_hand, front, pictures
from repro.book.contents import EXECUTED, pages
from repro.book.drawings import DRAWINGS, DRAWN, drawing
from repro.book.mime import DATA
from repro.book.runner import record
from repro.sections import claims
from repro.sections.performance import scale

JUPYTER_BOOK = "import repro.book; from jupyter_book.cli.main import main; main()"
"""The program jupyter-book, without what repro.book leaves out."""


class BookFailed(NotebookFailed):
    """Jupyter Book reported an error or a warning; the message quotes them. Caught where a failed notebook is."""


def build(book_dir: Path | None = None) -> Path:
    """Build book_dir (book/ if not given) from scratch; returns the folder of its html.

    Pages of notebooks come from book_dir/executed. Raises BadInput when one that _toc.yml names has not been
    executed, BookFailed when Jupyter Book has anything to complain about.
    """
    book = (book_dir or repo_root() / "book").resolve()
    if importlib.util.find_spec("jupyter_book") is None:
        raise missing_extra("jupyter-book", "book")
    missing = [page for page in pages(book) if page.startswith(EXECUTED) and not (book / f"{page}.ipynb").is_file()]
    if missing:
        names = ", ".join(Path(page).name for page in missing)
        raise BadInput(f"Not executed yet: {names}; `repro report` runs them, or take them out of {book / '_toc.yml'}.")
    with only_one(book / "_generated", "repro report", wait=True):
        write_fragments(book)
        return _build(book)


def _build(book: Path) -> Path:
    """Into a folder of this process's own, so that the book is whole or not there."""
    html = book / "_build" / "html"
    draft = html.with_name(f".draft.{os.getpid()}")
    for made in (*html.parent.glob(".draft.*"), book / DATA):  # of a killed run; figures of a page that was renamed
        shutil.rmtree(made, ignore_errors=True)
    try:
        done = subprocess.run(
            [sys.executable, "-c", JUPYTER_BOOK, "build", book, "--path-output", draft, "-W", "-n", "--keep-going"],
            capture_output=True,
            text=True,
            env=os.environ | {"NO_COLOR": "1", "PYTHONWARNINGS": "ignore"},
        )
        if done.returncode:
            said = [line for line in (done.stdout + done.stderr).splitlines() if "WARNING" in line or "ERROR" in line]
            raise BookFailed(
                "The book did not build:\n" + ("\n".join(said) or done.stdout[-3000:] + done.stderr[-3000:])
            )
        if html.exists():
            html.rename(draft / "before")
        (draft / "_build" / "html").rename(html)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return html


def write_fragments(book: Path) -> None:
    """book/_generated: the ledger in short and in full, tables of runs and of scale, figures of prose, all pictures."""
    ledgers = {scale: claims.ledger(scale) for scale in front.MODELS}
    verdicts, parts = front.markdown(pages(book), ledgers)
    fragments = {"verdicts": verdicts, "parts": parts, "standing": front.standing(ledgers)}
    fragments |= {"runs": runs_table(book / "executed")}
    fragments |= {"scale": scale.page(), "by-hand": by_hand.page()}
    for name, text in fragments.items():
        write_atomically(book / "_generated" / f"{name}.md", lambda path, text=text: path.write_text(text))
    drawn = {name: drawing(name) for name in DRAWINGS}
    for name, figure in drawn.items():
        write_atomically(book / DRAWN / f"{name}.json", lambda path, figure=figure: path.write_text(json.dumps(figure)))
    pictures.draw(book, [*drawn.values(), *pictures.outputs(book / "executed")])


def runs_table(executed: Path) -> str:
    """Markdown: what each executed notebook recorded about its run, then the machine and the versions."""
    runs = {path.stem: record(path) for path in sorted(executed.glob("*.ipynb"))}
    runs = {name: run for name, run in runs.items() if run and "." not in name}
    if not runs:
        return "*No notebook has been executed yet.*\n"
    lines = ["| notebook | scale | wall time | peak memory | finished (UTC) |", "| --- | --- | ---: | ---: | --- |"]
    for name, run in runs.items():
        when = run["finished"][:16].replace("T", " ")
        lines.append(f"| {name} | {run['scale']} | {run['seconds']:.1f} s | {run['peak_mb']:.0f} MB | {when} |")
    total = sum(run["seconds"] for run in runs.values())
    lines += [f"| together | | {total:.1f} s | | |", "", "Wall time includes the start of the kernel.", ""]
    for machine in sorted({run["machine"] for run in runs.values()}):
        lines.append(f"- Machine: {machine}.")
    for versions in sorted({", ".join(f"{k} {v}" for k, v in run["versions"].items()) for run in runs.values()}):
        lines.append(f"- Software: {versions}.")
    return "\n".join(lines) + "\n"
