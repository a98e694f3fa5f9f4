"""Documents -> sequences of token ids, in memory or streamed to disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from repro.activations.language_models.load import LoadedModel
from repro.activations.store import Files
from repro.activations.text.documents import Document
from repro.base.config import DatasetConfig
from repro.base.errors import BadInput

FIRST, CALL = 8, 256  # documents in the first call of the tokenizer, and at most; it works on them in parallel


@dataclass
class Count:
    """Counts of what went into the sequences; filled in while they are made."""

    documents: int = 0
    truncated: int = 0
    tokens: int = 0
    last_row: int = -1
    exhausted: bool = True


def sequences(
    loaded: LoadedModel, docs: Iterable[Document], seq_len: int, packing: bool, max_tokens: int, count: Count
) -> Iterator[tuple[np.ndarray, np.ndarray, list[Document]]]:
    """Rows of at most seq_len token ids, the document number of each, and the documents that begin in the row.

    Packed: documents end to end with the separator (EOS) after each, as Pythia was trained; attention runs across
    their borders. Otherwise a row holds one document, cut at seq_len. Models whose tokenizer puts BOS in front get it
    at position 0 of every row. Stops at exactly max_tokens tokens (padding is none), within a row if need be.
    Documents are numbered from 0; those without a single token are passed over.
    """
    bos = np.array(loaded.special_ids["bos"] if loaded.prepends_bos else [], np.int32)
    separator = np.array([] if loaded.separator is None else [loaded.separator], np.int32)
    room = seq_len - bos.size
    if room < 1:
        raise BadInput(f"dataset.seq_len must be at least {1 + bos.size}, not {seq_len}.")
    begun: list[Document] = []  # documents that are in no row yet

    def row(ids: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[Document]]:
        left = max_tokens - count.tokens
        ids = np.concatenate([bos, ids])[:left]
        numbers = np.concatenate([numbers[: bos.size], numbers])[:left]
        size = int(numbers[-1]) + 1 - count.documents
        new, begun[:] = begun[:size], begun[size:]
        count.documents += len(new)
        count.tokens += ids.size
        count.last_row = new[-1].id if new else count.last_row
        count.exhausted = count.tokens < max_tokens
        return ids, numbers, new

    waiting: list[tuple[np.ndarray, np.ndarray]] = []
    waiting_size = 0
    for document, ids in _tokenised(loaded, docs, max_tokens, max_tokens if packing else room):
        number = count.documents + len(begun)
        begun.append(document)
        if not packing:
            count.truncated += int(ids.size > room)
            yield row(ids[:room], np.full(min(ids.size, room), number, np.int32))
        else:
            ids = np.concatenate([ids, separator])
            waiting.append((ids, np.full(ids.size, number, np.int32)))
            waiting_size += ids.size
            if waiting_size >= room:
                ids, numbers = (np.concatenate(part) for part in zip(*waiting))
                start = 0
                for start in range(0, ids.size - room + 1, room):
                    yield row(ids[start : start + room], numbers[start : start + room])
                    if not count.exhausted:
                        return
                waiting = [(ids[start + room :], numbers[start + room :])]
                waiting_size = waiting[0][0].size
        if not count.exhausted:
            return
    if waiting_size:
        ids, numbers = (np.concatenate(part) for part in zip(*waiting))
        yield row(ids, numbers)


def _tokenised(
    loaded: LoadedModel, docs: Iterable[Document], tokens: int, longest: int
) -> Iterator[tuple[Document, np.ndarray]]:
    """Documents with their token ids (int32, no special tokens added); empty ones are left out.

    tokens: how many in all, of each document at most the `longest`: hardly more documents are tokenised than it takes.
    """
    vocabulary = loaded.vocabulary
    docs, size, seen, used = iter(docs), FIRST, 0, 0
    while chunk := list(islice(docs, size)):
        encoded = loaded.tokenizer([c.text for c in chunk], add_special_tokens=False, verbose=False)["input_ids"]
        seen, used = seen + len(chunk), used + sum(min(len(ids), longest) for ids in encoded)
        size = min(CALL, max(FIRST, -(-(tokens - used) * seen // max(1, used))))
        for document, ids in zip(chunk, encoded):
            if not ids:
                continue
            if max(ids) >= vocabulary:
                raise BadInput(
                    f"The tokenizer gives id {max(ids)}, but the model has {vocabulary} token embeddings: "
                    "the folder holds the tokenizer of another model."
                )
            yield document, np.array(ids, np.int32)


def write_tokens(loaded: LoadedModel, docs: Iterable[Document], config: DatasetConfig, files: Files) -> dict[str, Any]:
    """Stream tokens, document numbers and mask [S, T] (and labels [n_docs]) to their files; returns the counts."""
    count, labels = Count(), []
    T, side = config.seq_len, files.side
    pad = (loaded.special_ids["pad"] or loaded.special_ids["eos"] or [0])[0]
    with (
        _Growing(side["tokens"], np.int32, T) as tokens,
        _Growing(side["docs"], np.int32, T) as numbers,
        _Growing(side["mask"], bool, T) as mask,
    ):
        for ids, of, new in sequences(loaded, docs, T, config.packing, config.max_tokens, count):
            tokens.append(ids, pad)
            numbers.append(of, -1)
            mask.append(np.ones(ids.size, bool), False)
            labels += [d.label for d in new]
        shape = [tokens.rows, T]
    if not tokens.rows:
        raise BadInput(f"The text of {config.name} has no tokens; check dataset.name and text_column.")
    summary: dict[str, Any] = {
        "shape": shape,
        "tokens": count.tokens,
        "documents": count.documents,
        "documents_truncated": count.truncated,
        "next_document": count.last_row + 1,
        "text_exhausted": count.exhausted,
        "label_names": [],
    }
    if labels and labels[0] is not None:
        names = sorted({str(label) for label in labels}, key=lambda n: (int(n) if n.isdecimal() else 0, n))
        if len(names) > np.iinfo(np.int16).max:
            raise BadInput(f"Column '{config.label_column}' has {len(names)} different labels: these are no classes.")
        number_of = {name: i for i, name in enumerate(names)}
        np.save(side["labels"], np.array([number_of[str(label)] for label in labels], np.int16))
        summary["label_names"] = names
    return summary


class _Growing:
    """A .npy file [rows, T] whose number of rows is known only at the end; numpy's header leaves room for it."""

    def __init__(self, path: Path, dtype: Any, width: int):
        self.dtype, self.width, self.rows = np.dtype(dtype), width, 0
        self.file = open(path, "wb")  # noqa: SIM115  (closed in __exit__)
        self._header()

    def _header(self) -> None:
        shape = (self.rows, self.width)
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self.file, header)

    def append(self, row: np.ndarray, fill: Any) -> None:
        """Add one row [<= T], filled up at its end."""
        whole = np.full(self.width, fill, self.dtype)
        whole[: row.size] = row
        self.file.write(whole.data)
        self.rows += 1

    def __enter__(self) -> _Growing:
        return self

    def __exit__(self, *error: Any) -> None:
        with self.file:
            self.file.seek(0)
            self._header()
