"""Collect activations: run a language model over text and stream one block's output to disk, resumably."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from repro.activations.fetch import find_model
from repro.activations.forward import collect_texts, forward, plan, put
from repro.activations.models import LoadedModel, load_model
from repro.activations.presets import layer_of
from repro.activations.store import Files, open_store
from repro.activations.text import documents, source_fingerprint
from repro.activations.tokenise import write_tokens
from repro.config import RunConfig, digest, file_sha256, write_atomically
from repro.errors import BadInput

__all__ = ["collect", "collect_texts"]

FORMAT = 1  # of the files; a change collects again
PROGRESS = "progress.json"


def collect(config: RunConfig) -> Path:
    """Write output_dir/acts_layer{L}.npy [S, T, d] float32 and the files beside it; returns its path.

    A finished file of the same model, text and options is left alone; one of others is replaced when the new one is
    complete. What a killed run has written is kept under a hidden name and continued: the arrays end up the same, byte
    for byte. Padding positions hold zeros. Raises BadInput before long work where the input cannot be used, and when
    activations are not finite.
    """
    data = config.dataset
    if data.max_tokens < 1 or data.seq_len < 1 or data.batch_size < 1 or data.skip_documents < 0:
        raise BadInput("dataset.max_tokens, seq_len and batch_size must be at least 1, skip_documents at least 0.")
    layer = layer_of(config.model)
    source = find_model(config.model)
    model_key = dataclasses.replace(config.model, layer_index=layer)
    key = digest(FORMAT, model_key, source.fingerprint, data, source_fingerprint(data))
    final = Files(Path(config.output_dir) / f"acts_layer{layer}.npy")
    draft = Files(final.acts.parent / f".acts_layer{layer}.draft" / final.acts.name)
    with _only_one(draft.acts.parent):
        if not draft.json.is_file() or _read(draft.json).get("key") != key:
            if _is_done(final, key):
                _say(f"{final.acts} is there already, from the same model, text and options.")
                return final.acts
            next(documents(data))  # text that cannot be read is an error before the model is loaded
            loaded = load_model(config.model, config.device, source)
            _write(loaded, config, draft, key)
        _publish(draft, final)
    return final.acts


def _write(loaded: LoadedModel, config: RunConfig, draft: Files, key: str) -> None:
    """Fill the draft folder: tokens first (then the sizes are known), then activations batch by batch."""
    limit = getattr(loaded.model.config, "max_position_embeddings", None)
    if limit and config.dataset.seq_len > limit:
        raise BadInput(f"dataset.seq_len {config.dataset.seq_len} is more than the {limit} positions of the model.")
    progress = draft.acts.with_name(PROGRESS)
    state = _read(progress)
    if state.get("key") != key:
        if state:
            _say(f"Starting over: the unfinished files in {draft.acts.parent} are of other options.")
        _clear(draft.acts.parent)
        counts = write_tokens(loaded, documents(config.dataset), config.dataset, draft)
        shape = (*counts["shape"], loaded.d)
        _allocate(draft.acts, shape)
        _allocate(draft.side["norms"], shape[:2])
        state = {"key": key, "counts": counts, "batches": 0, "seconds": 0.0}
        _save(progress, state)
    counts = state["counts"]
    tokens, mask = np.load(draft.side["tokens"], mmap_mode="r"), np.load(draft.side["mask"], mmap_mode="r")
    batches = plan(mask, config.dataset.batch_size)
    sizes = [int(mask[batch].sum()) for batch in batches]

    def store(number: int, hidden: Tensor, seconds: float) -> None:
        # mapped anew for each batch: pages that stay mapped would count as this process's memory
        x, norms = np.load(draft.acts, mmap_mode="r+"), np.load(draft.side["norms"], mmap_mode="r+")
        put(loaded, batches[number], hidden, mask, x, norms)
        _save(progress, {**state, "batches": number + 1, "seconds": seconds})

    done, before, begin = state["batches"], state["seconds"], time.perf_counter()
    bar = tqdm(
        total=counts["tokens"],
        initial=sum(sizes[:done]),
        unit="tok",
        unit_scale=True,
        desc=f"{loaded.provenance.get('name', 'model')} block {loaded.layer}",
    )
    with bar, ThreadPoolExecutor(1) as writer:  # writing one batch overlaps with computing the next
        pending: Future | None = None
        for number in range(done, len(batches)):
            hidden = forward(loaded, tokens, mask, batches[number])
            if pending is not None:
                pending.result()
            pending = writer.submit(store, number, hidden, before + time.perf_counter() - begin)
            bar.update(sizes[number])
        if pending is not None:
            pending.result()
    seconds = before + time.perf_counter() - begin
    norms = np.load(draft.side["norms"])
    _save(draft.json, _provenance(loaded, config, draft, key, counts, norms, mask, seconds))


def _allocate(path: Path, shape: tuple[int, ...]) -> None:
    """A zero float32 .npy with its disk space taken, so that a full disk is an error now and not a crash later."""
    array = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    size = array.nbytes + array.offset
    del array
    try:
        if hasattr(os, "posix_fallocate"):
            with open(path, "r+b") as f:
                os.posix_fallocate(f.fileno(), 0, size)
    except OSError as error:
        path.unlink()
        raise BadInput(
            f"The activations take {size / 1e9:.1f} GB, which {path.parent.parent} has no room for ({error.strerror}): "
            "free space, choose another output_dir, or lower dataset.max_tokens."
        ) from None


# --- the files ----------------------------------------------------------------------------------------


def _provenance(
    loaded: LoadedModel, config: RunConfig, draft: Files, key: str, counts: dict, norms: Any, mask: Any, seconds: float
) -> dict[str, Any]:
    import transformers

    kept = norms[mask]
    median = float(np.median(kept))
    names = [draft.acts, *(p for p in draft.side.values() if p.is_file())]
    return {
        "format": FORMAT,
        "key": key,
        "shape": [*counts["shape"], loaded.d],
        **{k: v for k, v in counts.items() if k != "shape"},
        "layer": loaded.layer,
        "site": "resid_post" if loaded.convention == "block_output" else "resid_pre",
        "model": loaded.provenance,
        "dataset": dataclasses.asdict(config.dataset),
        "special_ids": loaded.special_ids,
        "bos_prepended": loaded.prepends_bos,
        "separator": loaded.separator if config.dataset.packing else None,
        "norms": {
            "median": median,
            "max": float(kept.max()),
            "median_at_position_0": float(np.median(norms[:, 0])),
            "share_above_5_medians": float((kept > 5 * median).mean()),
        },
        "files": {p.name: {"bytes": p.stat().st_size, "sha256": file_sha256(p)} for p in names},
        "device": str(loaded.device),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "numpy": np.__version__},
        "seconds": round(seconds, 2),
        "tokens_per_second": round(counts["tokens"] / seconds, 1),
    }


def _is_done(final: Files, key: str) -> bool:
    """Is this very collection there, whole? Says why a file that is there will be replaced."""
    if _read(final.json).get("key") != key:
        if final.json.is_file():
            _say(f"{final.acts} is of another model, text or options; it is replaced when the new one is complete.")
        return False
    try:
        open_store(final.acts)
    except BadInput as error:
        _say(str(error))
        return False
    return True


def _publish(draft: Files, final: Files) -> None:
    """Give the files their final names; the provenance goes first and comes last, so that no mixture looks complete."""
    draft.acts.with_name(PROGRESS).unlink(missing_ok=True)
    final.json.unlink(missing_ok=True)
    names = _read(draft.json)["files"]
    for path in final.side.values():
        if path.name in names:
            if (draft.acts.parent / path.name).is_file():  # a killed run may have moved it already
                os.replace(draft.acts.parent / path.name, path)
        else:
            path.unlink(missing_ok=True)
    if draft.acts.is_file():
        os.replace(draft.acts, final.acts)
    os.replace(draft.json, final.json)


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Hold the draft folder against a second process; the lock ends with the process, however that ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / "lock", "w")  # noqa: SIM115  (closed below)
    except OSError as error:
        raise BadInput(f"Cannot write to {folder.parent}: {error.strerror}; choose another output_dir.") from None
    with lock:
        try:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # Windows: nobody stops two runs there
            pass
        except BlockingIOError:
            raise BadInput(
                f"Another `repro collect` is writing to {folder.parent}; wait for it, or choose another."
            ) from None
        try:
            yield
        finally:
            if not (folder / PROGRESS).is_file() and not any(folder.glob("acts_layer*.json")):
                shutil.rmtree(folder)  # nothing in it is worth continuing


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name != "lock":
            path.unlink()


def _read(path: Path) -> dict[str, Any]:
    """A JSON object, empty if there is none."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _save(path: Path, value: dict[str, Any]) -> None:
    write_atomically(path, lambda draft: draft.write_text(json.dumps(value, indent=1)))


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr)
