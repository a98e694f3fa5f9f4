"""Evaluation data and options: tokens that may stay on disk, labelled documents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from repro.base.config import MetricsConfig
from repro.base.errors import BadInput
from repro.base.files import digest
from repro.inference import NON_STEPS, SEMI_STEPS

if TYPE_CHECKING:
    from repro.activations.rows import Rows
    from repro.evaluate.language import LanguageLoss

READ = 8192  # rows that are read at a time where no block size is asked for


@dataclass(frozen=True)
class Stored:
    """Activations x [n, d] on disk, from a memory map: x[i:j] and x[index] are read, in float32, when asked for."""

    rows: Rows

    def __len__(self) -> int:
        return self.rows.n

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.n, self.rows.d

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        x = self.rows.read(rows if isinstance(rows, slice) else rows.cpu().numpy())
        self.rows.release()
        return x


@dataclass(frozen=True)
class Tokens:
    """Activations x [n, d], a tensor or `Stored`, and the document of each, numbered 0, 1, … in order, [n]."""

    x: Any
    docs: Tensor
    info: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.x)

    def first(self, n: int) -> Tokens:
        """The first n tokens at most."""
        if n >= len(self):
            return self
        x = Stored(part_of(self.x.rows, 0, n)) if isinstance(self.x, Stored) else self.x[:n]
        return Tokens(x, self.docs[:n], self.info)

    def blocks(self, size: int, device: torch.device | str = "cpu") -> Iterator[tuple[slice, Tensor]]:
        """(which rows, their activations [<= size, d]) in order; only one block is in memory."""
        for start in range(0, len(self), size):
            rows = slice(start, min(start + size, len(self)))
            yield rows, self.x[rows].to(device)

    def documents(self, size: int, device: torch.device | str = "cpu") -> Iterator[tuple[Tensor, Tensor]]:
        """(docs [b] counted from the first one, activations [b, d]) of whole documents, about `size` tokens a block."""
        order = torch.argsort(self.docs, stable=True)
        ends = torch.bincount(self.docs).cumsum(0).tolist() if len(self) else []
        start = first = 0
        for i, end in enumerate(ends):
            if end - start >= size or i == len(ends) - 1:
                rows = order[start:end]
                yield self.docs[rows] - first, self.x[rows].to(device)
                start, first = end, i + 1


@dataclass(frozen=True)
class Labelled:
    """Tokens of labelled documents; labels [n_docs] are classes, train [n_docs] marks where probes are fitted."""

    tokens: Tokens
    labels: Tensor
    train: Tensor
    names: tuple[str, ...]


@dataclass(frozen=True)
class EvalData:
    """Tokens and labelled documents on which an SAE is evaluated; `key` is their hash."""

    tokens: Tokens
    labelled: Labelled | None
    key: str
    language: LanguageLoss | None = None
    """The language model behind the tokens, where its loss is asked for."""


@dataclass(frozen=True)
class EvalOptions:
    """Options of an evaluation."""

    modes: tuple[str, ...] = ("amortized", "semi", "non")
    """Of `metrics.names.MODES`, and of `CONTROLS` there (corrected only)."""
    protocols: tuple[str, ...] = ("as_released", "corrected")
    semi_steps: int = SEMI_STEPS
    non_steps: int = NON_STEPS
    batch_evaluation: bool = True
    """as_released: as the release's batch evaluation (`Rules.batch_evaluation`); False: as its comparison scripts."""
    target_dense: float = 0.1
    """Density at which the released batch evaluation aims lambda; comparison scripts take the encoder's Dense@0.1."""
    refit: bool = True
    """corrected: NMSE_refit, after nonnegative least squares on the support of the codes, which undoes L1 shrinkage."""
    gap: bool = True
    """Bracket the amortization gap of the encoder's codes."""
    nulls: bool = False
    """Firings a token, and what shuffled codes of the same rates absorb: what density alone explains."""
    released_tokens: int = 10_000
    """as_released evaluates the first so many tokens."""
    probe_ks: tuple[int, ...] = (1, 2)
    allow_mismatch: bool = False
    """Evaluate an SAE of another layer, site, model or unit than the activations are of."""
    tol: float = 1e-3
    """Relative duality gap of certified codes."""
    lam: float | None = None
    """corrected: this lambda for the non mode and the gap instead of the one that matches the encoder's L0."""
    seed: int = 0
    block: int | None = None
    """Tokens in memory at a time; by default block x m stays near 2^24 numbers. Changes no result, except of an SAE
    that selects over each batch (eval_activation = "batch_topk"), whose batch is the block."""

    def __post_init__(self) -> None:
        for name in ("semi_steps", "non_steps", "tol", "seed"):
            if not getattr(self, name) >= 0:  # nan is not
                raise BadInput(f"{name} is {getattr(self, name)}; it must be at least 0.")
        if min(self.probe_ks, default=1) < 1:
            raise BadInput(f"probe_ks holds {min(self.probe_ks)}; a probe needs at least 1 latent.")
        if not 0 < self.target_dense < 1:
            raise BadInput(f"The target density is {self.target_dense}; it must lie between 0 and 1.")

    def block_of(self, m: int) -> int:
        """Tokens of a block for m latents."""
        return self.block or max(128, min(4096, 2**24 // m))


def part_of(rows: Rows, start: int, stop: int) -> Rows:
    """Rows start … stop of a selection, still on disk."""
    from repro.activations.rows import Rows

    return Rows(rows.store, rows.index[start:stop], rows.description)


def open_data(
    acts: str | Path,
    metrics: MetricsConfig,
    labelled: str | Path | None = None,
    label_docs: int = 1000,
    skip: int = 0,
    stream: bool = False,
    device: str = "auto",
) -> EvalData:
    """Tokens `skip` … `skip + metrics.max_tokens` of an activation store, and whole documents of a labelled one.

    stream: leave the activations on disk (`Stored`) instead of reading them into tensors.
    device: of the language model, where metrics.lm_tokens asks for its loss; info's loss_note says why there is none.
    """
    from repro.activations.store import open_store

    if metrics.max_tokens < 1:
        raise BadInput(f"max_tokens is {metrics.max_tokens}; give at least 1.")
    store = open_store(acts)
    rows = store.select(metrics.exclude, metrics.max_norm_ratio)
    if rows.n <= skip:
        raise BadInput(
            f"{acts} holds {rows.n} usable tokens, but the first {skip} were used for training; collect more."
        )
    info = rows.describe() | store.place | {"skip": skip, "acts": Path(acts).name}
    evaluated = part_of(rows, skip, skip + metrics.max_tokens)
    language = _language(evaluated, metrics.lm_tokens, device, info)
    tokens = _tokens(evaluated, info, stream)
    checksum = _checksum(tokens.x), tuple(tokens.x.shape)
    if labelled is None:
        return EvalData(tokens, None, digest(checksum, info), language)
    store = open_store(labelled)
    if store.labels is None:
        raise BadInput(f"{labelled} has no labels; collect it from a data set with dataset.label_column set.")
    rows = store.select(metrics.exclude, None)
    n_docs = min(label_docs, len(store.labels))
    part = part_of(rows, 0, int((rows.docs < n_docs).sum()))
    labels = torch.as_tensor(store.labels.astype("int64"))[torch.from_numpy(np.unique(part.docs).astype("int64"))]
    train = torch.arange(len(labels)) < len(labels) // 2
    probed = _tokens(part, rows.describe(), stream)
    return EvalData(
        tokens,
        Labelled(probed, labels, train, tuple(store.label_names)),
        digest(checksum, info, n_docs, _checksum(probed.x)),
        language,
    )


def _language(rows: Rows, tokens: int, device: str, info: dict[str, Any]) -> LanguageLoss | None:
    """The language model behind the rows, which `info` then names with the tokens, or why its loss cannot be had."""
    from repro.evaluate.language import LanguageLoss

    if tokens < 1:
        return None
    info["lm_tokens"] = tokens
    try:
        return LanguageLoss(rows, tokens, device)
    except BadInput as error:
        info["loss_note"] = f"No loss of the language model: {error}"
        return None


def _tokens(rows: Rows, info: dict[str, Any], stream: bool) -> Tokens:
    docs = torch.from_numpy(rows.docs.astype("int64")).unique(return_inverse=True)[1]
    return Tokens(Stored(rows) if stream else rows.read(slice(None)), docs, info)


def _checksum(x: Any) -> float:
    return sum(float(x[i : i + READ].double().sum()) for i in range(0, len(x), READ))
