"""The one exception that means "your input is wrong, and here is the fix"."""

import difflib
from collections.abc import Iterable


class BadInput(ValueError):
    """Input that cannot be used. The message is one sentence that names the fix; the CLI prints it and exits 2."""


def nearest(word: str, known: Iterable[str]) -> str:
    """ " (did you mean 'x'?)" for the closest known word, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def missing_extra(package: str, extra: str) -> BadInput:
    """The error for an optional dependency that is not installed."""
    return BadInput(f"{package} is not installed: pip install 'repro[{extra}]' (or `make install` in a clone).")


class NotebookFailed(RuntimeError):
    """A cell raised; the message is one line that names the cell, and the draft is kept for reading."""
