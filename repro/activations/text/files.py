"""Text files: .txt, .jsonl, .csv and .parquet as rows, and the files of a split in a folder."""

from __future__ import annotations

import csv
import gzip
import json
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from repro.base.errors import BadInput, exhausted

SPLITS = ("train", "validation", "valid", "dev", "test")


def split_files(folder: Path, split: str) -> list[Path]:
    """The readable files of a split, told by their names (train-0.parquet) or folders (train/); all if none tells."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and reader_of(p) and not p.name.startswith("."))
    if not files:
        raise BadInput(f"No text in {folder}; it needs files that end in {', '.join(READERS)} (also .gz).")

    def split_of(path: Path) -> str | None:
        parts = path.relative_to(folder).parts
        words = {re.split(r"[-_.]", part.lower())[0] for part in parts}
        return next((s for s in (split, *SPLITS) if s in words), None)

    splits = {p: split_of(p) for p in files}
    chosen = [p for p in files if splits[p] == split]
    if chosen:
        return chosen
    names = sorted({s for s in splits.values() if s})
    if split == "train" and not names:
        return files
    raise BadInput(f"{folder} has no files of split '{split}'; it has: {', '.join(names) or 'no splits'}.")


def rows_of(path: Path, text_column: str) -> Iterator[dict[str, Any]]:
    """The rows of one file; a .txt file is one row. Raises BadInput when it cannot be read."""
    reader = reader_of(path)
    assert reader is not None
    try:
        yield from reader(path, text_column)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
        raise BadInput(f"Cannot read {path}: {' '.join(str(error).split())}.") from None


def _open(path: Path) -> Any:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    return opener(path, "rt", encoding="utf-8", newline="")


def _read_txt(path: Path, text_column: str) -> Iterator[dict[str, Any]]:
    with _open(path) as f:
        yield {text_column: f.read()}


def _read_jsonl(path: Path, text_column: str) -> Iterator[dict[str, Any]]:
    with _open(path) as f:
        for number, line in enumerate(f, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                raise BadInput(f"Line {number} of {path} is not a JSON object; .jsonl holds one a line.")
            yield row


def _read_csv(path: Path, text_column: str) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(sys.maxsize)
    with _open(path) as f:
        yield from csv.DictReader(f)


def _read_parquet(path: Path, text_column: str) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise BadInput(f"Reading {path.name} needs pyarrow: pip install pyarrow.") from None
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(1024, use_threads=False):
                yield from batch.to_pylist()
    except pa.ArrowException as error:
        if exhausted(error):
            raise
        raise BadInput(f"{path} is not a parquet file: {' '.join(str(error).split())}.") from None


Reader = Callable[[Path, str], Iterator[dict[str, Any]]]
READERS: dict[str, Reader] = {".txt": _read_txt, ".jsonl": _read_jsonl, ".csv": _read_csv, ".parquet": _read_parquet}


def reader_of(path: Path) -> Reader | None:
    name = path.name.removesuffix(".gz")
    return READERS.get(Path(name).suffix.lower())
