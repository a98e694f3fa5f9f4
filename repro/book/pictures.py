"""A PNG of every figure in the book, drawn by one Chromium when the book is built, for readers without scripts."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from repro.base.files import digest, write_atomically
from repro.base.theme import template

FOLDER = Path("_generated") / "pictures"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
WIDTH, SCALE = 760, 1.5


def path_of(figure: dict[str, Any], book: Path) -> Path:
    """Where the picture of a figure lies; its name is a hash of data, layout and theme."""
    return book / FOLDER / f"{digest(figure.get('data'), figure.get('layout'), template('light'))[:24]}.png"


def draw(book: Path, figures: list[dict[str, Any]]) -> int:
    """Draw the pictures that book_dir/_generated/pictures lacks, and delete those of no figure; returns how many.

    Draws nothing where kaleido or a browser is missing: pages then say that a figure needs JavaScript.
    """
    wanted = {path_of(figure, book): figure for figure in figures}
    for path in (book / FOLDER).glob("*.png"):
        if path not in wanted:
            path.unlink()
    missing = {path: figure for path, figure in wanted.items() if not path.is_file()}
    browser = os.environ.get("BROWSER_PATH") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if not missing or browser is None or importlib.util.find_spec("kaleido") is None:
        return 0
    import kaleido

    os.environ["BROWSER_PATH"] = browser
    kaleido.start_sync_server(silence_warnings=True)  # one browser for all figures: 0.2 s each after the first
    try:
        for path, figure in missing.items():
            write_atomically(path, lambda draft, figure=figure: draft.write_bytes(png(figure)))
    finally:
        kaleido.stop_sync_server(silence_warnings=True)
    return len(missing)


def png(figure: dict[str, Any]) -> bytes:
    """The figure on white, in the light theme."""
    import plotly.graph_objects as go

    figure = {"data": figure.get("data", []), "layout": copy.deepcopy(figure.get("layout", {}))}
    figure["layout"] |= {"template": template("light"), "paper_bgcolor": "white", "plot_bgcolor": "white"}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The kopts argument")  # of the one browser that serves all figures
        return go.Figure(figure).to_image("png", width=WIDTH, scale=SCALE)


def outputs(executed: Path) -> Iterator[dict[str, Any]]:
    """Every plotly figure in the executed notebooks of a folder."""
    for path in sorted(executed.glob("*.ipynb")):
        if "." in path.stem:  # the draft of a run that failed or was killed
            continue
        for cell in json.loads(path.read_text())["cells"]:
            for output in cell.get("outputs", []):
                figure = output.get("data", {}).get("application/vnd.plotly.v1+json")
                if figure is not None:
                    yield figure
