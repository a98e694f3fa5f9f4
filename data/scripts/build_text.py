"""Builds the embedded text: evaluation text and labelled glosses (committed), training text of the tiny LM (cache)."""

import argparse
import gzip
import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import sources
from sources import PACKAGES, Synset

from repro.base.files import cache_dir

DATA = Path(__file__).resolve().parents[1]
SEED = 0
GENERAL, VALIDATION = 0.22, 0.015  # shares of the units held out; the rest trains the LM
DOCUMENT = 2000  # characters
LABELS = {"noun.person": "person", "noun.artifact": "artifact", "noun.location": "location", "noun.animal": "animal"}
PER_CLASS, PER_CLASS_TRAIN = 2000, 1600


class Unit(NamedTuple):
    """What is held out as a whole: a chapter, or about 2 kB of neighbouring dictionary entries."""

    name: str
    source: str
    text: str


def draw(name: str) -> float:
    """A number in [0, 1) that depends on the name and the seed alone, not on the order or number of units."""
    return int.from_bytes(hashlib.sha256(f"{SEED}/{name}".encode()).digest()[:8]) / 2**64


def side(unit: Unit) -> str:
    """Where a unit goes. A chapter goes the same way in both Bible translations (their units share names)."""
    if draw(unit.name) < GENERAL:
        return "unused" if unit.source == "kjv" else "general"
    return "validation" if draw(unit.name) < GENERAL + VALIDATION else "train"


def gather(entries: Iterable[str]) -> Iterator[str]:
    """Runs of whole neighbouring entries, each run of at least DOCUMENT characters (the last may be shorter)."""
    run: list[str] = []
    for entry in entries:
        run.append(entry)
        if sum(map(len, run)) >= DOCUMENT:
            yield "\n".join(run)
            run = []
    if run:
        yield "\n".join(run)


def documents(unit: Unit) -> list[dict[str, str]]:
    """Cut a unit after sentences or lines into documents of like size, near DOCUMENT characters."""
    pieces = re.findall(r".*?(?:(?<!Mr)(?<!Mrs)(?<!Dr)[.?!][\"')]*\s+|\n|$)", unit.text, re.S)
    count = max(1, round(len(unit.text) / DOCUMENT))
    texts, done = [""] * count, 0
    for piece in pieces:
        texts[min(done * count // len(unit.text), count - 1)] += piece
        done += len(piece)
    return [
        {"id": f"{unit.source}/{unit.name.partition('/')[2]}#{i}", "source": unit.source, "text": text.strip()}
        for i, text in enumerate(texts)
        if text.strip()
    ]


def words(text: str) -> list[str]:
    """Lower-case words, for comparing texts regardless of punctuation."""
    return re.findall(r"\w+", text.casefold())


def strip_domain(definition: str) -> str:
    """Drop leading parentheses such as "(Roman mythology)": they would give the class away."""
    return re.sub(r"^(\([^()]*\)\s*)+", "", definition)


def eligible(synsets: list[Synset], texts: Iterable[str]) -> list[Synset]:
    """Synsets of the four classes whose definition (five words or more) occurs once in all `texts` together."""
    start = 5
    by_start: dict[tuple[str, ...], list[tuple[str, ...]]] = defaultdict(list)
    found: dict[tuple[str, ...], Synset] = {}
    for synset in synsets:
        key = tuple(words(strip_domain(synset.definition)))
        if synset.lexfile in LABELS and len(key) >= start:
            by_start[key[:start]].append(key)
            found[key] = synset
    seen: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        run = words(text)
        for i in range(len(run) - start + 1):
            for key in set(by_start.get(tuple(run[i : i + start]), ())):
                if tuple(run[i : i + len(key)]) == key:
                    seen[key] += 1
    return [synset for key, synset in found.items() if seen[key] == 1]


def labelled(candidates: list[Synset]) -> list[dict[str, str]]:
    """PER_CLASS glosses of each class and their split, drawn by hash, in an order drawn by hash."""
    rows = []
    for lexfile, label in LABELS.items():
        of_class = sorted((s for s in candidates if s.lexfile == lexfile), key=lambda s: draw(f"gloss/{s.id}"))
        if len(of_class) < PER_CLASS:
            raise SystemExit(f"build_text: only {len(of_class)} glosses of {lexfile} are eligible, need {PER_CLASS}")
        for i, s in enumerate(of_class[:PER_CLASS]):
            split = "train" if i < PER_CLASS_TRAIN else "test"
            text = strip_domain(s.definition)
            rows.append(
                {
                    "id": s.id,
                    "text": text,
                    "label": label,
                    "word": s.word,
                    "pos": s.pos,
                    "lexfile": s.lexfile,
                    "split": split,
                }
            )
    return sorted(rows, key=lambda row: draw(f"order/{row['id']}"))


def wordnet_units(synsets: list[Synset], held_out: set[str]) -> Iterator[Unit]:
    """Runs of neighbouring glosses of one lexicographer file, without the held-out ones and repeated definitions."""
    lines: dict[str, list[str]] = defaultdict(list)
    seen: set[str] = set()
    for s in synsets:
        if s.id not in held_out and s.definition.casefold() not in seen:
            seen.add(s.definition.casefold())
            lines[s.lexfile].append(f"{s.word} ({s.pos}): {s.gloss}")
    for lexfile, of_file in lines.items():
        for i, text in enumerate(gather(of_file)):
            yield Unit(f"wordnet/{lexfile}/{i}", "wordnet", text)


def write_jsonl_gz(path: Path, rows: list[dict[str, str]]) -> None:
    """One JSON object a line; no time and no name in the gzip header, so that equal rows give equal bytes."""
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data, 9, mtime=0))
    print(f"{path}: {len(rows):,} rows, {path.stat().st_size:,} bytes")


def licence(folder: Path) -> str:
    """The text of WordNet's licence, which every one of its data files opens with (numbered, indented lines)."""
    lines = (folder / "usr/share/wordnet/data.noun").read_text("latin-1").splitlines()
    return "".join(re.sub(r"^ +\d+ ?", "", line).rstrip() + "\n" for line in lines if line.startswith("  "))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--debs", type=Path, default=cache_dir() / "tiny" / "debs", help="where the .deb files are or go"
    )
    parser.add_argument("--out", type=Path, default=DATA / "tiny", help="folder of the committed files")
    parser.add_argument("--cache", type=Path, default=cache_dir() / "tiny", help="folder of the LM's training text")
    args = parser.parse_args()

    folder = {source: sources.unpack(package, args.debs) for source, package in PACKAGES.items()}
    units = [Unit(name, "austen", text) for name, text in sources.austen(folder["austen"])]
    # The slice is cut and typed differently, so it must not bear the reserved name of the translation: source "bible".
    units += [Unit(name, "bible", text) for name, text in sources.bible(folder["web"])]
    units += [Unit(name, "kjv", text) for name, text in sources.bible(folder["kjv"])]
    for source in ("jargon", "devil"):
        runs = gather(sources.dictionary(folder[source]))
        units += [Unit(f"{source}/{i}", source, text) for i, text in enumerate(runs)]
    synsets = list(sources.synsets(folder["wordnet"]))
    glosses = labelled(eligible(synsets, [u.text for u in units] + [s.gloss for s in synsets]))
    units += wordnet_units(synsets, {row["id"] for row in glosses})

    rows: dict[str, list[dict[str, str]]] = defaultdict(list)
    for unit in units:
        rows[side(unit)] += documents(unit)
    for of_side in rows.values():
        of_side.sort(key=lambda row: draw(f"order/{row['source']}/{row['id']}"))
    write_jsonl_gz(args.out / "general.jsonl.gz", rows["general"])
    write_jsonl_gz(args.out / "glosses.jsonl.gz", glosses)
    for stale in args.cache.glob("*.npy"):  # tokens of an earlier text
        stale.unlink()
    write_jsonl_gz(args.cache / "train.jsonl.gz", rows["train"])
    write_jsonl_gz(args.cache / "validation.jsonl.gz", rows["validation"])
    (args.out / "WORDNET_LICENSE.txt").write_text(licence(folder["wordnet"]))

    sizes = Counter({(row["source"], name): 0 for name in rows for row in rows[name]})
    for name, of_side in rows.items():
        for row in of_side:
            sizes[row["source"], name] += len(row["text"])
    for (source, name), characters in sorted(sizes.items()):
        print(f"{source:8} {name:10} {characters:10,} characters")


if __name__ == "__main__":
    main()
