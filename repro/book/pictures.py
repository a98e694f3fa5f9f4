"""PNG files of figures, drawn by one Chromium: of every figure in the book, for readers without scripts."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro.base.errors import BadInput, missing_extra
from repro.base.files import digest, write_atomically
from repro.base.theme import template

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

FOLDER = Path("_generated") / "pictures"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
WIDTH, SCALE = 760, 1.5


def path_of(figure: dict[str, Any], book: Path) -> Path:
    """Where the picture of a figure lies; its name is a hash of data, layout and theme."""
    return book / FOLDER / f"{digest(figure.get('data'), figure.get('layout'), template('light'))[:24]}.png"


def draw(book: Path, figures: list[dict[str, Any]]) -> int:
    """Draw the pictures that book_dir/_generated/pictures lacks, and delete those of no figure; returns how many.

    Draws nothing where kaleido or a browser is missing, and prints so: pages then say that a figure needs JavaScript.
    """
    pictures = {path_of(figure, book): figure for figure in figures}
    for path in (book / FOLDER).glob("*.png"):
        if path not in pictures:
            path.unlink()
    missing = {path: on_white(figure) for path, figure in pictures.items() if not path.is_file()}
    try:
        write(missing, SCALE, WIDTH)
    except BadInput as error:
        if missing:
            print(f"Left out: pictures of {len(missing)} figures for readers without JavaScript. {error}", flush=True)
        return 0
    return len(missing)


def write(images: Mapping[Path, Figure], scale: float, width: int | None = None) -> None:
    """Draw figures into PNG files; width in pixels, the figures' own if not given.

    Raises BadInput with the fix where kaleido or a browser is missing.
    """
    if importlib.util.find_spec("kaleido") is None:
        raise missing_extra("kaleido", "png")
    os.environ["BROWSER_PATH"] = browser()
    if not images:
        return
    import kaleido

    kaleido.start_sync_server(silence_warnings=True)  # one browser for all figures: 0.2 s each after the first
    try:
        for path, figure in images.items():
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "The kopts argument")  # of the one browser that serves all figures
                image = figure.to_image("png", width=width or figure.layout.width, scale=scale)
            write_atomically(path, lambda draft, image=image: draft.write_bytes(image))
    finally:
        kaleido.stop_sync_server(silence_warnings=True)


def browser() -> str:
    """Path of a browser: BROWSER_PATH, or the first of BROWSERS that is installed. Raises BadInput without one."""
    path = os.environ.get("BROWSER_PATH") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None or not shutil.which(path):
        raise BadInput("There is no browser to draw with: install Chromium, or name one in BROWSER_PATH.")
    return path


def on_white(figure: dict[str, Any]) -> Figure:
    """A figure in the light theme, on white."""
    import plotly.graph_objects as go

    layout = copy.deepcopy(figure.get("layout", {}))
    layout |= {"template": template("light"), "paper_bgcolor": "white", "plot_bgcolor": "white"}
    return go.Figure({"data": figure.get("data", []), "layout": layout})


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
