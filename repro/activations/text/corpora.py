"""Text that one command prepares where there is no hub: `repro fetch-text NAME`; afterwards NAME is a data set."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.activations.text import debian
from repro.base.errors import BadInput, nearest
from repro.base.files import cache_dir, file_sha256
from repro.base.lock import only_one

TOPICS = ("games", "science", "sound", "net")
PER_TOPIC = 500
SHORTEST = 100  # characters of a labelled text
HELD_OUT = {"debian-descriptions": 0.05, "debian-topics": 0.2}  # share of the test split
FORMAT = 1  # of the files; a change prepares again
ABOUT = "corpus.json"
SPLITS = ("train", "test", "all")
Row = dict[str, str]
Splits = dict[str, list[Row]]


@dataclass(frozen=True)
class Corpus:
    """A text that can be prepared."""

    name: str
    label: str
    """Meaning of the column `label`."""
    license: str
    """Under which terms it may be used."""
    made_by: Callable[[Path], tuple[dict[str, Splits], dict[str, Any]]]
    """Working folder -> (corpora of this source by name, what they were made from)."""


def fetch_text(name: str, force: bool = False) -> Path:
    """The folder of a corpus: {train,test}.jsonl.gz (id, text, label) and corpus.json; prepared once, then found.

    Raises BadInput for an unknown name, a missing tool, no network or no room.
    """
    if name not in CORPORA:
        raise BadInput(f"No text '{name}'{nearest(name, CORPORA)}; there are {', '.join(CORPORA)}.")
    folder = folder_of(name)
    if not force and is_prepared(name):
        return folder
    try:
        with only_one(cache_dir() / "locks" / "fetch-text", "repro fetch-text", wait=True):
            if force or not is_prepared(name):  # another process may just have done it
                _make(name)
    except OSError as error:
        raise BadInput(
            f"Cannot write {folder}: {error.strerror or error}; make room, or set REPRO_CACHE to another folder."
        ) from None
    return folder


def _make(name: str) -> None:
    """Fetch a source and put all of its corpora in place, each by one renaming; also sweeps up after killed calls."""
    home = folder_of(name).parent
    home.mkdir(parents=True, exist_ok=True)
    for left in home.glob(".fetch-*"):
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=home) as folder:
        work = Path(folder).resolve()  # apt takes no relative path
        made, source = CORPORA[name].made_by(work)
        drafts = {n: _write(n, splits, source, work / "done" / n) for n, splits in made.items()}
        for n, draft in drafts.items():
            if folder_of(n).exists():
                os.replace(folder_of(n), work / f"old-{n}")
            os.replace(draft, folder_of(n))


def folder_of(name: str) -> Path:
    """Folder of a corpus in the cache."""
    return cache_dir() / "text" / name


def is_prepared(name: str) -> bool:
    """True where the corpus is there, in today's form."""
    about = folder_of(name) / ABOUT
    return about.is_file() and json.loads(about.read_text()).get("format") == FORMAT


def corpus_files(name: str, split: str) -> list[Path]:
    """The files of a split (train, test or all). Raises BadInput for another split or a corpus not yet prepared."""
    if split not in SPLITS:
        raise BadInput(f"{name} has no split '{split}'; it has: {', '.join(SPLITS)}.")
    if not is_prepared(name):
        raise BadInput(f"{name} is not prepared: run `repro fetch-text {name}` once, with a network.")
    return [folder_of(name) / f"{s}.jsonl.gz" for s in SPLITS[:2] if split in (s, "all")]


def draw(name: str) -> float:
    """A number in [0, 1) that depends on the name alone, not on the order or number of names."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64


def _write(name: str, splits: Splits, source: dict[str, Any], folder: Path) -> Path:
    folder.mkdir(parents=True)
    counts = {}
    for split, rows in splits.items():
        data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        path = folder / f"{split}.jsonl.gz"
        path.write_bytes(gzip.compress(data, 9, mtime=0))
        counts[split] = {
            "documents": len(rows),
            "characters": sum(len(row["text"]) for row in rows),
            "sha256": file_sha256(path),
            "labels": dict(sorted(Counter(row["label"] for row in rows).items())),
        }
    about = {
        "format": FORMAT,
        "name": name,
        "label": CORPORA[name].label,
        "license": CORPORA[name].license,
        "splits": counts,
        "made_from": source,
    }
    (folder / ABOUT).write_text(json.dumps(about, indent=1, ensure_ascii=False))
    return folder


def _in_order(rows: Iterable[Row]) -> list[Row]:
    """In an order drawn by hash, so that the first documents are a sample of all."""
    return sorted(rows, key=lambda row: draw(f"order/{row['id']}"))


# --- Debian -------------------------------------------------------------------------------------------


def _debian(work: Path) -> tuple[dict[str, Splits], dict[str, Any]]:
    lists = debian.download(work)
    source = {"releases": debian.releases(work), "lists": {p.name: file_sha256(p) for p in lists}}
    return split_debian(debian.descriptions([debian.read_list(p) for p in lists])), source


def split_debian(descriptions: list[debian.Description]) -> dict[str, Splits]:
    """Both corpora, disjoint: of every source package all texts go one way, and none of the topics' ones into training.

    A description is kept when at least half of it is in no earlier one (libfoo-dev repeats libfoo). A source package
    gives one text to a topic at most.
    """
    seen: set[str] = set()
    distinct = []
    for d in descriptions:
        lines = d.text.split("\n")
        if 2 * sum(len(line) for line in lines if line not in seen) >= sum(map(len, lines)):
            distinct.append(d)
        seen.update(lines)
    of_topic: dict[str, list[debian.Description]] = defaultdict(list)
    taken: set[str] = set()
    for d in sorted(distinct, key=lambda d: draw(f"topic/{d.package}")):
        if d.section in TOPICS and len(d.text) >= SHORTEST and d.source not in taken:
            taken.add(d.source)
            of_topic[d.section].append(d)
    size = min(PER_TOPIC, *(len(of_topic[t]) for t in TOPICS))
    chosen = [d for t in TOPICS for d in of_topic[t][:size]]
    away = {d.source for d in chosen}

    def rows(some: Iterable[debian.Description]) -> list[Row]:
        return _in_order({"id": d.package, "text": d.text, "label": d.section, "source": d.source} for d in some)

    cut = round(size * HELD_OUT["debian-topics"])
    held = {d.package for t in TOPICS for d in of_topic[t][:cut]}
    test = {
        d.source for d in distinct if d.source in away or draw(f"split/{d.source}") < HELD_OUT["debian-descriptions"]
    }
    return {
        "debian-descriptions": {
            "train": rows(d for d in distinct if d.source not in test),
            "test": rows(d for d in distinct if d.source in test),
        },
        "debian-topics": {
            "train": rows(d for d in chosen if d.package not in held),
            "test": rows(d for d in chosen if d.package in held),
        },
    }


CORPORA = {
    c.name: c
    for c in (
        Corpus(
            "debian-descriptions",
            "section of the archive",
            "Debian's package descriptions, each under the terms of its package; only packages of Debian main",
            _debian,
        ),
        Corpus(
            "debian-topics",
            "one of four sections of the archive: " + ", ".join(TOPICS),
            "as debian-descriptions",
            _debian,
        ),
    )
}
