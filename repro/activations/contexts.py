"""The text around a token of a store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from repro.activations.rows import Store


@dataclass(frozen=True)
class Context:
    """A token in its text, and a number that belongs to it: the code of a latent, say."""

    before: str
    token: str
    after: str
    value: float


def context_of(store: Store, tokenizer: Any, position: int, value: float, width: int = 10) -> Context:
    """The token at a flat position of a store that has token ids, with `width` tokens of its document on each side."""
    assert store.tokens is not None
    sequence, column = divmod(position, store.mask.shape[1])
    tokens, docs = store.tokens[sequence], store.docs[sequence]
    same = store.mask[sequence] & (docs == docs[column])
    near = [i for i in range(max(0, column - width), min(len(tokens), column + width + 1)) if same[i]]
    special = {i for ids in store.meta.get("special_ids", {}).values() for i in ids}

    def text(columns: list[int]) -> str:
        return str(tokenizer.decode([int(tokens[i]) for i in columns if int(tokens[i]) not in special]))

    before, after = [i for i in near if i < column], [i for i in near if i > column]
    return Context(text(before), text([column]), text(after), value)
