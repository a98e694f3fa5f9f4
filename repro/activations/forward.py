"""Tokens through the model, batch by batch; the activations of a few texts in memory."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from repro.activations.language_models.load import LoadedModel
from repro.activations.store import ActivationStore
from repro.activations.text.documents import Document
from repro.activations.tokenise import Count, sequences
from repro.base.errors import BadInput


def collect_texts(
    loaded: LoadedModel,
    texts: Iterable[str],
    seq_len: int = 128,
    packing: bool = False,
    batch_size: int = 32,
    max_tokens: int = 1_000_000,
) -> ActivationStore:
    """The activations of a few texts, held in memory; one document a sequence unless packed. Same code as `collect`."""
    docs = (Document(text, None, i) for i, text in enumerate(texts))
    rows = list(sequences(loaded, docs, seq_len, packing, max_tokens, Count()))
    if not rows:
        raise BadInput("There is no text to run the model on.")
    T = max(ids.size for ids, _, _ in rows)
    tokens, docs_of = np.zeros((len(rows), T), np.int32), np.full((len(rows), T), -1, np.int32)
    for i, (ids, numbers, _) in enumerate(rows):
        tokens[i, : ids.size], docs_of[i, : ids.size] = ids, numbers
    mask = docs_of >= 0
    x, norms = np.zeros((*mask.shape, loaded.d), np.float32), np.zeros(mask.shape, np.float32)
    for batch in plan(mask, batch_size):
        put(loaded, batch, forward(loaded, tokens, mask, batch), mask, x, norms)
    meta = {"special_ids": loaded.special_ids, "model": loaded.provenance}
    return ActivationStore(Path("memory"), x, mask, docs_of, tokens, meta=meta, norms=norms)


def plan(mask: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Sequence numbers of each batch: like lengths together, longest first (too little memory shows at once)."""
    order = np.argsort(-mask.sum(1), kind="stable")
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def forward(loaded: LoadedModel, tokens: np.ndarray, mask: np.ndarray, batch: np.ndarray) -> Tensor:
    """One batch through the model, cut at its longest sequence: [B, t, d]. Raises BadInput if memory is too small."""
    t = int(mask[batch].sum(1).max())
    try:
        return loaded.activations(torch.from_numpy(tokens[batch, :t]), torch.from_numpy(mask[batch, :t]))
    except RuntimeError as error:  # a GPU's memory has a class of its own, other memory only words
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
    raise BadInput(
        f"Memory is too small for {len(batch)} sequences of {t} tokens at a time: lower dataset.batch_size or seq_len."
    )


def put(
    loaded: LoadedModel, batch: np.ndarray, hidden: Tensor, mask: np.ndarray, x: np.ndarray, norms: np.ndarray
) -> np.ndarray:
    """Put one batch in its place, zero at padding; returns it, float32 [B, t, d].

    Raises BadInput when a real token is not finite.
    """
    t = hidden.shape[1]
    real = torch.from_numpy(mask[batch, :t])
    values = hidden.float().cpu()
    if not bool(real.all()):
        values = torch.where(real[..., None], values, 0.0)
    size = torch.linalg.vector_norm(values, dim=-1)
    if not bool(torch.isfinite(size).all()):
        dtype = str(hidden.dtype).removeprefix("torch.")
        fix = "the weights are damaged" if dtype == "float32" else "set model.dtype: float32"
        raise BadInput(f"Block {loaded.layer} gave NaN or infinite activations in {dtype}: {fix}.")
    rows = slice(batch[0], batch[-1] + 1) if (np.diff(batch) == 1).all() else batch
    x[rows, :t] = values.numpy()
    norms[rows, :t] = size.numpy()
    return values.numpy()
