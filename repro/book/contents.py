"""The contents of the book, book/_toc.yml: its pages, and the notebooks of the report in their order."""

from __future__ import annotations

from pathlib import Path

from repro.base.files import repo_root

EXECUTED = "executed/"


def pages(book: Path) -> list[str]:
    """Every page that _toc.yml names, without suffix."""
    return [page for _, names in parts(book) for page in names]


def parts(book: Path) -> list[tuple[str, list[str]]]:
    """(caption, pages) of every part in _toc.yml; what comes before the first part has an empty caption."""
    import yaml

    contents = yaml.safe_load((book / "_toc.yml").read_text())
    later = contents.pop("parts", [])
    return [("", _files(contents)), *((part.get("caption", ""), _files(part)) for part in later)]


def _files(contents: object) -> list[str]:
    names: list[str] = []

    def walk(entry: object) -> None:
        if isinstance(entry, dict):
            names.extend(str(entry[key]) for key in ("root", "file") if key in entry)
            for value in entry.values():
                walk(value)
        elif isinstance(entry, list):
            for value in entry:
                walk(value)

    walk(contents)
    return names


def notebooks() -> list[str]:
    """Names of the notebooks that are pages, in their order: those that `repro report` runs."""
    return [name.removeprefix(EXECUTED) for name in pages(repo_root() / "book") if name.startswith(EXECUTED)]
