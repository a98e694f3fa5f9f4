"""Held-out labels that a reader can check: from ids of documents, from the spelling of tokens, and the released one."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from repro.base.config import DatasetConfig, MetricsConfig, ModelConfig, RunConfig
from repro.base.errors import BadInput
from repro.base.files import digest, repo_root
from repro.evaluate import Labelled, Tokens
from repro.metrics import norm_label
from repro.sections.scales import Scale
from repro.sections.setup import Prepared

BUNDLED = "tiny"  # name of the general text, whose ids say what a document is
TOKENS = 17  # read of each document; the first is not evaluated
MOST = 12  # classes are asked for at most, the most frequent ones
LEAST = 4  # positives that a class needs among the training documents, and again among the others
POS = {"noun": "noun", "verb": "verb", "adj": "adjective", "adv": "adverb"}


def source_of(document: str) -> str:
    """ "wordnet/noun.act/12#0" -> wordnet."""
    return document.split("/")[0]


def lexfile_of(document: str) -> str | None:
    """ "wordnet/noun.act/12#0" -> noun.act, WordNet's lexicographer file; None for other sources."""
    return document.split("/")[1] if source_of(document) == "wordnet" else None


def pos_of(document: str) -> str | None:
    """ "wordnet/adj.all/203#0" -> adjective; None for other sources."""
    lexfile = lexfile_of(document)
    return None if lexfile is None else POS[lexfile.split(".")[0]]


def unmarked(text: str) -> str:
    """A page of WordNet without the part of speech that each entry names: "press (verb): make" -> "press: make"."""
    for name in POS.values():
        text = text.replace(f" ({name}): ", ": ")
    return text


def first_letter(piece: str) -> str | None:
    """Letter a–z that a token begins a word with; None for one that has no space before it or no letter after it.

    piece: as the vocabulary writes it, a space being "Ġ" (byte-level BPE) or "▁" (SentencePiece).
    """
    letter = piece[1:2].lower()
    return letter if piece[:1] in ("Ġ", "▁") and "a" <= letter <= "z" else None


@dataclass(frozen=True)
class Question:
    """Binary labels, one against the rest, of documents or of tokens, with a split by document."""

    label: str
    unit: Literal["document", "token"]
    text: Literal["general", "glosses"]
    rows: Tensor
    """Which documents or tokens of the text it asks about, ascending, [r]."""
    docs: Tensor
    """Document of each, [r]."""
    train: Tensor
    """Where probes are ordered and fitted, [r] bool; all rows of a document are on one side."""
    names: tuple[str, ...]
    """The classes, [C]."""
    ys: Tensor
    """Answers in {0, 1}, [C, r]."""


def question(
    label: str,
    unit: Literal["document", "token"],
    text: Literal["general", "glosses"],
    classes: Sequence[str | None],
    docs: Tensor,
    train: Tensor,
    most: int = MOST,
) -> Question | None:
    """One question a class: rows whose class is None are left out, rare classes are only negatives.

    classes and train [n] are of all documents or tokens of the text, docs [n] their documents. Asked are the `most`
    frequent classes with at least LEAST positives on both sides; None when fewer than two are left.
    """
    rows = torch.tensor([i for i, c in enumerate(classes) if c is not None], dtype=torch.long)
    values = np.array([c for c in classes if c is not None])
    fit = train[rows]
    names, counts = np.unique(values, return_counts=True)
    by_size = names[np.argsort(-counts, kind="stable")]
    enough = [c for c in by_size if min(np.sum(values[side] == c) for side in (fit.numpy(), ~fit.numpy())) >= LEAST]
    if len(enough) < 2:
        return None
    asked = sorted(str(c) for c in enough[:most])
    ys = torch.stack([torch.from_numpy((values == c).astype(np.int64)) for c in asked])
    return Question(label, unit, text, rows, docs[rows], fit, tuple(asked), ys)


def choose(documents: Sequence[dict[str, Any]], size: int, seed: int) -> list[dict[str, Any]]:
    """About `size` documents of every source and half as many of every lexicographer class, at random.

    Neighbours in the result are of one class, so that every other document makes two halves with the same classes.
    """
    shuffled = [documents[i] for i in np.random.default_rng(seed).permutation(len(documents))]
    strata: dict[str, list[dict[str, Any]]] = {}
    for document in shuffled:
        strata.setdefault(lexfile_of(document["id"]) or document["source"], []).append(document)
    return [d for name, part in sorted(strata.items()) for d in part[: max(2, size // (1 + ("." in name)))]]


@dataclass(frozen=True)
class ProbeText:
    """Documents after the training text with what is known of them."""

    tokens: Tokens
    ids: tuple[str, ...]
    """Of each document."""
    pieces: tuple[str, ...]
    """Vocabulary entry of each token."""


def probe_text(scale: Scale, ready: Prepared) -> ProbeText:
    """Beginnings of general documents that come after the training text, collected once. Raises BadInput for none."""
    from repro.activations.collect import collect
    from repro.activations.store import open_store

    with gzip.open(repo_root() / "data" / "tiny" / "general.jsonl.gz", "rt", encoding="utf-8") as file:
        documents = [json.loads(line) for line in file]
    unseen = ready.rows.store.meta["next_document"] if scale.dataset == BUNDLED else 0
    picked = choose(documents[unseen:], max(4, scale.label_docs // 8), scale.seed)
    if len(picked) < 4 * LEAST:
        raise BadInput(f"Only {len(picked)} documents are left after the training text; lower train_tokens.")
    folder = ready.folder / f"probes-{digest([d['id'] for d in picked], TOKENS)}"
    path = _write(folder / "text.jsonl", picked)
    data = DatasetConfig(name=str(path), seq_len=TOKENS, packing=False, max_tokens=TOKENS * len(picked))
    model = ModelConfig(name=scale.model, layer_index=scale.layer)
    config = RunConfig(output_dir=str(folder), model=model, dataset=data, device=scale.device)
    store = open_store(collect(config, quiet=True))
    rows = store.select(MetricsConfig().exclude, scale.max_norm_ratio)
    assert store.tokens is not None
    numbers, docs = np.unique(rows.docs, return_inverse=True)
    ids = tuple(picked[i]["id"] for i in numbers)
    pieces = _pieces(store.tokens.reshape(-1)[rows.index], scale)
    return ProbeText(Tokens(rows.read(slice(None)), torch.from_numpy(docs)), ids, pieces)


def _write(path: Path, documents: Sequence[dict[str, Any]]) -> Path:
    from repro.base.files import write_atomically

    lines = [json.dumps({"id": d["id"], "text": unmarked(d["text"])}) + "\n" for d in documents]
    write_atomically(path, lambda p: p.write_text("".join(lines)))
    return path


def _pieces(tokens: np.ndarray, scale: Scale) -> tuple[str, ...]:
    from transformers import AutoTokenizer

    from repro.activations.language_models.fetch import find_model

    folder = find_model(ModelConfig(name=scale.model, layer_index=scale.layer)).folder
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    ids, inverse = np.unique(tokens, return_inverse=True)
    pieces = tokenizer.convert_ids_to_tokens(ids.tolist())
    return tuple(pieces[i] for i in inverse)


def questions(text: ProbeText, glosses: Labelled, size: int, seed: int) -> list[Question]:
    """All questions: topic, source, lexicographer class, part of speech, first letter, and the released label.

    size: documents of WordNet among the sources.
    """
    docs = text.tokens.docs
    gloss, general = torch.arange(len(glosses.labels)), torch.arange(len(text.ids))
    half = general % 2 == 0
    sources: list[str | None] = [source_of(document) for document in text.ids]
    wordnet = [i for i, source in enumerate(sources) if source == "wordnet"]
    for i in np.random.default_rng(seed).permutation(wordnet)[size:]:
        sources[i] = None  # as many of WordNet as of the others
    return [
        q
        for q in (
            question("topic", "document", "glosses", [glosses.names[i] for i in glosses.labels], gloss, glosses.train),
            question("source", "document", "general", sources, general, half),
            question("lexfile", "document", "general", [lexfile_of(i) for i in text.ids], general, half),
            question("pos", "document", "general", [pos_of(i) for i in text.ids], general, half),
            question("letter", "token", "general", [first_letter(p) for p in text.pieces], docs, half[docs]),
            Question(
                "norm",
                "token",
                "general",
                torch.arange(len(docs)),
                docs,
                half[docs],
                ("norm above median",),
                norm_label(text.tokens.x)[None],
            ),
        )
        if q is not None
    ]
