"""Documents -> sequences of token ids, in memory or streamed to disk."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from repro.activations.language_models.load import LoadedModel
from repro.activations.store import Files
from repro.activations.text.documents import Document
from repro.base.config import DatasetConfig
from repro.base.errors import BadInput

FIRST, CALL = 8, 256  # documents in the first call of the tokenizer, and at most; it works on them in parallel
CHARACTERS = 1 << 21  # of a call, about: a tokenizer takes 200 bytes for each
PIECE, OVERLAP = 1 << 18, 1 << 12  # characters of a document that are tokenised at once, and of them with those before


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
    at position 0 of every row, unless the text has it there. Stops at exactly max_tokens tokens (padding is none),
    within a row if need be.
    Documents are numbered from 0; those without a single token are passed over.
    """
    bos = np.array(loaded.special_ids["bos"] if loaded.prepends_bos else [], np.int32)
    separator = np.array([] if loaded.separator is None else [loaded.separator], np.int32)
    room = seq_len - bos.size
    if room < 1:
        raise BadInput(f"dataset.seq_len must be at least {1 + bos.size}, not {seq_len}.")
    begun: list[Document] = []  # documents that are in no row yet

    def size_at(ids: np.ndarray) -> int:
        """Length of the text in a row that begins so."""
        return seq_len if bos.size and ids[0] == bos[0] else room

    def row(ids: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[Document]]:
        left = max_tokens - count.tokens
        if size_at(ids) == room:
            ids, numbers = np.concatenate([bos, ids]), np.concatenate([numbers[: bos.size], numbers])
        else:
            warnings.warn("Text that begins with BOS itself gets no second one in front.", stacklevel=2)
        ids, numbers = ids[:left], numbers[:left]
        size = int(numbers[-1]) + 1 - count.documents
        new, begun[:] = begun[:size], begun[size:]
        count.documents += len(new)
        count.tokens += ids.size
        count.last_row = new[-1].id if new else count.last_row
        count.exhausted = count.tokens < max_tokens
        return ids, numbers, new

    waiting: list[tuple[np.ndarray, np.ndarray]] = []
    waiting_size = 0
    for document, ids in _tokenised(loaded, docs, max_tokens, max_tokens if packing else seq_len):
        number = count.documents + len(begun)
        begun.append(document)
        if not packing:
            ids, length = ids[: size_at(ids)], ids.size
            count.truncated += int(length > ids.size)
            yield row(ids, np.full(ids.size, number, np.int32))
        else:
            ids = np.concatenate([ids, separator])
            waiting.append((ids, np.full(ids.size, number, np.int32)))
            waiting_size += ids.size
            if waiting_size >= room:
                ids, numbers = (np.concatenate(part) for part in zip(*waiting))
                while ids.size and ids.size >= (size := size_at(ids)):
                    yield row(ids[:size], numbers[:size])
                    if not count.exhausted:
                        return
                    ids, numbers = ids[size:], numbers[size:]
                waiting = [(ids, numbers)]
                waiting_size = ids.size
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
    while chunk := _next(docs, size):
        encoded = _encode(loaded.tokenizer, [c.text for c in chunk], longest)
        seen, used = seen + len(chunk), used + sum(min(ids.size, longest) for ids in encoded)
        size = min(CALL, max(FIRST, -(-(tokens - used) * seen // max(1, used))))
        for document, ids in zip(chunk, encoded):
            if not ids.size:
                continue
            if ids.max() >= vocabulary:
                raise BadInput(
                    f"The tokenizer gives id {ids.max()}, but the model has {vocabulary} token embeddings: "
                    "the folder holds the tokenizer of another model."
                )
            yield document, ids


def _next(docs: Iterator[Document], size: int) -> list[Document]:
    """The next `size` documents; fewer where they are long."""
    chunk: list[Document] = []
    while len(chunk) < size and sum(len(c.text) for c in chunk) < CHARACTERS and (document := next(docs, None)):
        chunk.append(document)
    return chunk


def _encode(tokenizer: Any, texts: list[str], longest: int) -> list[np.ndarray]:
    """Token ids of each text, without special tokens; of a long one perhaps no more than its first `longest` + 1."""
    short = [text for text in texts if len(text) <= PIECE]
    ids = iter(_encode_whole(tokenizer, short) if short else [])
    return [next(ids) if len(text) <= PIECE else encode_long(tokenizer, text, longest) for text in texts]


def _encode_whole(tokenizer: Any, texts: list[str]) -> list[np.ndarray]:
    return [np.array(ids, np.int32) for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]]


def encode_long(tokenizer: Any, text: str, longest: int, piece: int = PIECE, overlap: int = OVERLAP) -> np.ndarray:
    """Token ids of a long text, at least its first `longest` + 1, exactly as of the whole, in the memory of a piece.

    Pieces overlap, and are joined amid tokens and words that both have in the same places. That is exact for byte pair
    encoding: tokens are the encoding of a word if each two neighbours are that of theirs, and any two lie in one piece
    (github.com/github/rust-gems, crates/bpe). A text whose pieces do not agree is tokenised as a whole.
    """

    def encode(begin: int) -> np.ndarray:
        """Ids of a piece, the character that each token begins with, and whether a word begins there."""
        part = tokenizer(
            text[begin : begin + piece], add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        words = part.word_ids()
        begins = [a != b for a, b in zip(words, [-1, *words])]
        return np.array([part["input_ids"], [begin + s for s, _ in part["offset_mapping"]], begins], np.int64)

    if not tokenizer.is_fast:  # no offsets
        return _encode_whole(tokenizer, [text])[0]
    done: list[np.ndarray] = []
    begin, tokens = 0, encode(0)
    while (end := begin + piece) < len(text):
        starts = np.append(tokens[1], end)
        first, left, cut = np.searchsorted(starts, [end - overlap, end - 3 * overlap // 4, end - overlap // 2])
        common = tokens[:, left : cut + 1]
        for begin in range(starts[first], starts[first] + 16):  # digits by threes, runs: only some beginnings agree
            following = encode(begin)
            right = int(np.searchsorted(following[1], starts[cut]))
            start = right - (cut - left)
            if left < cut and start >= 0 and np.array_equal(common, following[:, start : right + 1]):
                break
        else:
            return _encode_whole(tokenizer, [text])[0]
        done.append(tokens[0, :cut].astype(np.int32))
        if sum(part.size for part in done) > longest:
            return np.concatenate(done)
        tokens = following[:, right:]
    return np.concatenate([*done, tokens[0].astype(np.int32)])


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
