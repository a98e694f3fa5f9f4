"""Sources of text: the bundled and the prepared sets, local files and folders, and the datasets library."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from textwrap import shorten
from typing import Any

from repro.activations.text.corpora import CORPORA, corpus_files
from repro.activations.text.files import READERS, TWICE, Rows, reader_of, rows_of, split_files
from repro.activations.text.splits import Split, parse_split
from repro.base.config import DatasetConfig
from repro.base.errors import BadInput, nearest, optional
from repro.base.files import cache_dir, file_sha256, files_below, repo_root

BUNDLED = {"tiny": "data/tiny/general.jsonl.gz", "tiny-labels": "data/tiny/glosses.jsonl.gz"}
TRAINING_TEXT = "tiny-training"  # what the bundled model was trained on: 5 million tokens, in the cache
BUNDLED_SPLITS = ("train", "test", "all")
LABELLED = ("tiny-labels", "debian-topics")  # their labels are kept without being asked for


@dataclass(frozen=True)
class Document:
    """One text, its class name (None without labels), and its row number in the source."""

    text: str
    label: str | None
    id: int


def documents(config: DatasetConfig) -> Iterator[Document]:
    """The documents of a data set in order, from row `skip_documents` on; rows without text are passed over.

    name = tiny, tiny-labels (split train, test or all), tiny-training, what `repro fetch-text` has prepared (train,
    test or all), a .txt file (one document), a .jsonl, .csv or .parquet file (one document a row; .gz is unpacked), a
    folder of those, or a data set of the hub, which is streamed. A split may be cut, train[1000:2000] or train[:5%];
    rows are then numbered, and skipped, from the cut on.
    Raises BadInput for a missing file, column or split, for rows that are not text, and when no text is found.
    """
    any_text = False
    label_column = _label_column(config)
    for number, place, row in _numbered_rows(config):
        text = _field(row, config.text_column, "dataset.text_column", place)
        label = None if label_column is None else _field(row, label_column, "dataset.label_column", place)
        if text is None or (isinstance(text, str) and (not text or text.isspace())):
            continue
        if not isinstance(text, str):
            raise BadInput(f"{place} holds {type(text).__name__} in column '{config.text_column}', not text.")
        if label_column is not None and (label is None or label == "" or label != label):  # NaN is not itself
            raise BadInput(f"{place} has no label in column '{label_column}'.")
        any_text = True
        yield Document(mended(text, place), None if label is None else mended(str(label), place), number)
    if not any_text:
        raise BadInput(
            f"{config.name} holds no text (split {config.split}, after skipping {config.skip_documents} rows); "
            "check dataset.name, split, text_column and skip_documents."
        )


def mended(text: str, place: str) -> str:
    """The text, with U+FFFD, and a warning, for each half of a surrogate pair, which no encoding can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        warnings.warn(f"{place} holds half of a surrogate pair; U+FFFD takes its place.", stacklevel=2)
        return re.sub("[\ud800-\udfff]", "\ufffd", text)
    return text


def source_fingerprint(config: DatasetConfig) -> str:
    """Identity of the text: a hash over the files, or the commit of a hub data set where it can be looked up."""
    files, folder = _local_files(config, parse_split(config.split).name), Path(config.name).expanduser()
    if files is None and folder.is_dir():  # the datasets library knows which of them it reads
        files = files_below(folder)
    if files is not None:
        return hashlib.sha256("".join(f"{p.name} {file_sha256(p)}\n" for p in files).encode()).hexdigest()
    try:
        from huggingface_hub import HfApi

        return str(HfApi().dataset_info(config.name, timeout=10).sha)
    except Exception:  # offline: the name has to do, and the tokens' own hash is in the provenance
        return config.name


def _label_column(config: DatasetConfig) -> str | None:
    return config.label_column or ("label" if config.name in LABELLED else None)


def _field(row: dict[str, Any], column: str, key: str, place: str) -> Any:
    if column not in row:
        columns = ", ".join(map(str, row))
        raise BadInput(f"{place} has no column '{column}' (it has: {columns}); set {key}.")
    if row[column] is TWICE:
        raise BadInput(f"{place} has two values of column '{column}': rename one, or set {key}.")
    return row[column]


def _numbered_rows(config: DatasetConfig) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Rows with number and place; a number counts every row of the split, so that a later run can skip up to it."""
    split = parse_split(config.split)
    files = _local_files(config, split.name)
    if files is None:
        yield from _hub_rows(config, split)
        return
    part = split.name if config.name == "tiny-labels" and split.name != "all" else None

    def rows() -> Rows:
        every = (row for path in files for row in rows_of(path, config.text_column))
        return ((place, row) for place, row in every if part is None or row.get("split") == part)

    start, stop = split.rows(sum(1 for _ in rows()) if split.percent else None)
    for number, (place, row) in enumerate(islice(rows(), start, stop)):
        if number >= config.skip_documents:
            yield number, place, row


def _local_files(config: DatasetConfig, split: str) -> list[Path] | None:
    """The files that hold the split, in order; None for what the datasets library has to read."""
    if config.name in BUNDLED:
        if split not in BUNDLED_SPLITS or (config.name == "tiny" and split == "test"):
            splits = BUNDLED_SPLITS if config.name == "tiny-labels" else ("train", "all")
            raise BadInput(f"{config.name} has no split '{split}'; it has: {', '.join(splits)}.")
        return [_existing(repo_root() / BUNDLED[config.name])]
    if config.name in CORPORA:
        return corpus_files(config.name, split)
    if config.name == TRAINING_TEXT:
        if split != "train":
            raise BadInput(f"{TRAINING_TEXT} has no split '{split}'; it has: train.")
        path = cache_dir() / "tiny" / "train.jsonl.gz"
        if not path.is_file():
            raise BadInput(f"{TRAINING_TEXT} is not prepared: run `python data/scripts/build_text.py` first.")
        return [path]
    path = Path(config.name).expanduser()
    if path.is_dir():
        return None if _is_hub_layout(path) else split_files(path, split)
    if path.is_file() or reader_of(path) is not None or config.name.startswith((".", "/", "~")):
        if reader_of(_existing(path)) is None:
            raise BadInput(f"Cannot read {path}: it takes {', '.join(READERS)} (also .gz), or a folder of those.")
        if split != "train":
            raise BadInput(f"{path} is one file without splits; drop dataset.split ('{split}').")
        return [path]
    if config.name.count("/") != 1 and "/" in config.name:
        raise BadInput(f"No text at {path}; give a file, a folder, a hub data set, or {' or '.join(BUNDLED)}.")
    close = nearest(config.name, [*BUNDLED, TRAINING_TEXT, *CORPORA])
    if close:
        raise BadInput(f"Unknown data set '{config.name}'{close}.")
    return None


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise BadInput(f"No text at {path}; check dataset.name.")
    return path


def _is_hub_layout(folder: Path) -> bool:
    """A data set card with a header says which files make up which split; the datasets library reads it."""
    card = folder / "README.md"
    return card.is_file() and card.read_text(errors="replace").startswith("---")


def _hub_rows(config: DatasetConfig, split: Split) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Rows of a hub data set (or of a folder laid out like one), streamed; class numbers become class names."""
    with optional():
        import datasets
    try:
        stream = datasets.load_dataset(config.name, config.config, split=split.name, streaming=True)
    except StopIteration:  # what the library raises for an empty file
        return
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        reason = shorten(str(error), 200) or type(error).__name__
        raise BadInput(
            f"Cannot open data set '{config.name}' (config {config.config}, split {split.name}): {reason} "
            f"Give a local file or folder, or one of {', '.join(BUNDLED)}, where there is no hub."
        ) from None
    label_column = _label_column(config)
    feature = (stream.features or {}).get(label_column) if label_column else None
    names = getattr(feature, "names", None)
    about_split = (stream.info.splits or {}).get(split.name)
    start, stop = split.rows(getattr(about_split, "num_examples", None) or None)
    if start + config.skip_documents:
        stream = stream.skip(start + config.skip_documents)
    if stop is not None:
        stream = stream.take(max(0, stop - start - config.skip_documents))
    number = config.skip_documents
    try:
        for number, row in enumerate(stream, config.skip_documents):
            if names and isinstance(row.get(label_column), int):
                row = {**row, label_column: names[row[label_column]]}
            yield number, f"Row {number} of {config.name}", row
    except ValueError as error:  # pyarrow's, of damaged files
        reason = shorten(str(error), 200)
        raise BadInput(
            f"Cannot read '{config.name}' after row {number} ({reason}): correct the file, or download it again."
        ) from None
    except OSError as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadInput(
            f"The stream of '{config.name}' broke after row {number} ({reason}): run the same command again."
        ) from None
