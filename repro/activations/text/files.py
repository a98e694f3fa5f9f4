"""Text files: .txt, .jsonl, .csv and .parquet as rows, and the files of a split in a folder."""

from __future__ import annotations

import csv
import gzip
import json
import re
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from repro.base.errors import BadInput, exhausted
from repro.base.files import files_below

SPLITS = ("train", "validation", "valid", "dev", "test")
TWICE = object()
"""Value of a column that a file names twice."""
QUOTE = "put a text with commas, quotes or line ends between quotes, and write each quote inside it twice"
Rows = Iterator[tuple[str, dict[str, Any]]]


def split_files(folder: Path, split: str) -> list[Path]:
    """The readable files of a split, told by their names (train-0.parquet) or folders (train/); all if none tells."""
    files = [p for p in files_below(folder) if reader_of(p) and not p.name.startswith(".")]
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


def rows_of(path: Path, text_column: str) -> Rows:
    """Each row of a file with its place, such as "Line 3 of a.jsonl"; a .txt file is one row.

    The value of a column that the file names twice is TWICE. Raises BadInput, with the place, for what cannot be read.
    """
    reader = reader_of(path)
    assert reader is not None
    place = ""
    try:
        for place, row in reader(path, text_column):
            yield place, row
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        where = f"on after {place[0].lower()}{place[1:]}" if place else str(path)
        raise BadInput(f"Cannot read {where}: {' '.join(str(error).split())}.") from None


def _open(path: Path) -> Any:
    """Text without a byte order mark; bytes that are no UTF-8 become lone surrogates (`_sound` finds them)."""
    opener: Any = gzip.open if path.suffix.lower() == ".gz" else open
    return opener(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline="")


def _sound(text: str, path: Path, line: int) -> str:
    """A text that begins in this line of a file; BadInput where its bytes were no UTF-8, or hold a NUL."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        line += text.count("\n", 0, error.start)
        raise BadInput(f"Line {line} of {path} is not UTF-8: save the file as UTF-8.") from None
    if "\0" in text:  # UTF-16 without a byte order mark, or no text
        line += text.count("\n", 0, text.index("\0"))
        raise BadInput(f"Line {line} of {path} holds a NUL character, as UTF-16 does: save the file as UTF-8.")
    return text


def _lines(path: Path) -> Iterator[str]:
    with _open(path) as f:
        for number, line in enumerate(f, 1):
            yield _sound(line, path, number)


def _twice(names: Iterable[str]) -> dict[str, Any]:
    return {name: TWICE for name, count in Counter(names).items() if count > 1}


def _read_txt(path: Path, text_column: str) -> Rows:
    with _open(path) as f:
        yield str(path), {text_column: _sound(f.read(), path, 1)}


def _read_jsonl(path: Path, text_column: str) -> Rows:
    def by_name(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        row = dict(pairs)
        return row if len(row) == len(pairs) else row | _twice(name for name, _ in pairs)

    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=by_name)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise BadInput(f"Line {number} of {path} is not a JSON object; .jsonl holds one a line.")
        yield f"Line {number} of {path}", row


def _read_csv(path: Path, text_column: str) -> Rows:
    csv.field_size_limit(sys.maxsize)
    rows = csv.reader(_lines(path), strict=True)
    try:
        header = next(rows, [])
        twice = _twice(header)
        for fields in rows:
            place = f"Line {rows.line_num} of {path}"
            if fields and len(fields) != len(header):
                raise BadInput(
                    f"{place} ends a row of {len(fields)} fields, not {len(header)} as in the header: {QUOTE}."
                )
            if fields:
                yield place, dict(zip(header, fields)) | twice
    except csv.Error as error:
        raise BadInput(f"Line {rows.line_num} of {path} is no CSV ({error}): {QUOTE}.") from None


def _read_parquet(path: Path, text_column: str) -> Rows:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise BadInput(f"Reading {path.name} needs pyarrow: pip install pyarrow.") from None
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            twice = _twice(file.schema_arrow.names)
            for batch in file.iter_batches(1024, use_threads=False):
                try:
                    rows: Iterable[dict[str, Any]] = batch.to_pylist()
                except UnicodeDecodeError:  # row by row up to the one
                    rows = (batch.slice(i, 1).to_pylist()[0] for i in range(batch.num_rows))
                for row in rows:
                    yield f"Row {number} of {path}", row | twice
                    number += 1
    except pa.ArrowException as error:
        if exhausted(error):
            raise
        raise BadInput(f"{path} is not a parquet file: {' '.join(str(error).split())}.") from None


Reader = Callable[[Path, str], Rows]
READERS: dict[str, Reader] = {".txt": _read_txt, ".jsonl": _read_jsonl, ".csv": _read_csv, ".parquet": _read_parquet}


def reader_of(path: Path) -> Reader | None:
    return READERS.get(Path(path.name.lower().removesuffix(".gz")).suffix)
