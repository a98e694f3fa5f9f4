"""Collect activations: run a language model over text and stream one block's output to disk, resumably."""

from __future__ import annotations

import dataclasses
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
from torch import Tensor
from tqdm import tqdm

from repro.activations.drafts import MOMENTS, PROGRESS, ManyFiles, OneFile, new_array, read_json, save_json
from repro.activations.forward import collect_texts, forward, plan, put
from repro.activations.language_models.fetch import find_model
from repro.activations.language_models.load import LoadedModel, load_model
from repro.activations.language_models.presets import layer_of
from repro.activations.store import open_store, store_name
from repro.activations.summary import describe_norms, mean_and_scale, moments
from repro.activations.text.documents import documents, source_fingerprint
from repro.activations.tokenise import write_tokens
from repro.base.config import RunConfig
from repro.base.errors import BadInput
from repro.base.files import digest
from repro.base.machine import versions

__all__ = ["collect", "collect_texts"]

FORMAT = 1  # of the files; a change collects again
BLOCK = 4096  # sequences whose norms are in memory at a time


def collect(config: RunConfig) -> Path:
    """Write output_dir/acts_layer{L}.npy [S, T, d] float32 and the files beside it; returns its path.

    With config.shard_tokens: a folder acts_layer{L}/ of safetensors shards and a manifest instead (`shards.layout`).
    A finished store of the same model, text and options is left alone (with config.verify, once every sha256 agrees);
    one of others is replaced when the new one is complete. What a killed run has written is kept under a hidden name
    and continued: the arrays end up the same, byte for byte. Padding positions hold zeros. Raises BadInput before long
    work where the input cannot be used or the disk is too small, and when activations are not finite; OSError when the
    disk fills up on the way.
    """
    data = config.dataset
    if data.max_tokens < 1 or data.seq_len < 1 or data.batch_size < 1 or data.skip_documents < 0:
        raise BadInput("dataset.max_tokens, seq_len and batch_size must be at least 1, skip_documents at least 0.")
    per_shard, layer = _per_shard(config), layer_of(config.model)
    source = find_model(config.model)
    model_key = dataclasses.replace(config.model, layer_index=layer, device_map=None)
    key = digest(FORMAT, model_key, source.fingerprint, data, source_fingerprint(data))
    if per_shard is not None:
        key = digest(key, per_shard)
    where = Path(config.output_dir), store_name(layer, config.model.site)
    one, many = OneFile(*where), ManyFiles(*where, key, per_shard or 1)
    draft, other = (one, many) if per_shard is None else (many, one)
    if not draft.folder.exists() and _is_done(draft.final, draft.published, key, config.verify, quiet=True):
        _say(f"{draft.final} is there already, from the same model, text and options.")
        return draft.final
    with _only_one(draft.folder):
        if read_json(draft.manifest).get("key") != key:
            if _is_done(draft.final, draft.published, key, config.verify):
                _say(f"{draft.final} is there already, from the same model, text and options.")
                return draft.final
            draft.check_target()
            next(documents(data))  # text that cannot be read is an error before the model is loaded
            write(load_model(config.model, config.device, source, whole=False), config, draft, key)
        (draft.folder / PROGRESS).unlink(missing_ok=True)
        other.withdraw()
        draft.publish()
    return draft.final


def _per_shard(config: RunConfig) -> int | None:
    """Sequences of a shard, whole batches of them; None for one .npy file."""
    tokens, T, batch = config.shard_tokens, config.dataset.seq_len, config.dataset.batch_size
    if tokens is None:
        return None
    if tokens < T:
        raise BadInput(f"shard_tokens is {tokens}; give at least the {T} tokens of one sequence.")
    sequences = tokens // T
    return sequences - (sequences % batch if sequences > batch else 0)


def write(loaded: LoadedModel, config: RunConfig, draft: OneFile, key: str) -> None:
    """Fill the draft folder: tokens first (then the sizes are known), then activations batch by batch."""
    limit = getattr(loaded.model.config, "max_position_embeddings", None)
    if limit and config.dataset.seq_len > limit:
        raise BadInput(f"dataset.seq_len {config.dataset.seq_len} is more than the {limit} positions of the model.")
    progress, tokens_of = draft.folder / PROGRESS, draft.files.side
    state = read_json(progress)
    if state.get("key") != key:
        if state:
            _say(f"Starting over: the unfinished files in {draft.folder} are of other options.")
        _clear(draft.folder)
        counts = write_tokens(loaded, documents(config.dataset), config.dataset, draft.files)
        draft.allocate((*counts["shape"], loaded.d))
        state = {"key": key, "counts": counts, "batches": 0, "seconds": 0.0}
    counts = state["counts"]
    parts = draft.parts(counts["shape"][0])
    lengths = _load(tokens_of["mask"]).sum(1)
    work = [
        (number, batch, int(lengths[part][batch].sum()))
        for number, part in enumerate(parts)
        for batch in plan(_load(tokens_of["mask"])[part], config.dataset.batch_size)
    ]
    if not progress.is_file():
        new_array(draft.folder / MOMENTS, np.float64, (len(work), loaded.d + 1))
        save_json(progress, state)

    def store(job: int, hidden: Tensor, seconds: float) -> None:
        number, batch, _ = work[job]
        if job == 0 or work[job - 1][0] != number:
            draft.begin(number, parts[number], loaded.d)
        # mapped anew for each batch: pages that stay mapped would count as this process's memory
        x, norms = draft.arrays(number)
        values = put(loaded, batch, hidden, _load(tokens_of["mask"])[parts[number]], x, norms)
        np.load(draft.folder / MOMENTS, mmap_mode="r+")[job] = moments(values)
        save_json(progress, {**state, "batches": job + 1, "seconds": seconds})
        if job + 1 == len(work) or work[job + 1][0] != number:
            draft.finish(number)

    done, before, begin = state["batches"], state["seconds"], time.perf_counter()
    if done and not draft.is_finished(work[done - 1][0]) and (done == len(work) or work[done][0] != work[done - 1][0]):
        draft.finish(work[done - 1][0])  # killed between the last batch of a shard and its name
    bar = tqdm(
        total=counts["tokens"],
        initial=sum(size for _, _, size in work[:done]),
        unit="tok",
        unit_scale=True,
        desc=f"{loaded.provenance.get('name', 'model')} block {loaded.layer}",
    )
    with bar, ThreadPoolExecutor(1) as writer:  # writing one batch overlaps with computing the next
        pending: Future | None = None
        for job in range(done, len(work)):
            number, batch, size = work[job]
            tokens, mask = (_load(tokens_of[role])[parts[number]] for role in ("tokens", "mask"))
            hidden = forward(loaded, tokens, mask, batch)
            if pending is not None:
                pending.result()
            pending = writer.submit(store, job, hidden, before + time.perf_counter() - begin)
            bar.update(size)
        if pending is not None:
            pending.result()
    seconds = before + time.perf_counter() - begin
    save_json(draft.manifest, _provenance(loaded, config, draft, key, counts, parts, seconds))


def _load(path: Path) -> np.ndarray:
    array: np.ndarray = np.load(path, mmap_mode="r")
    return array


# --- the files ----------------------------------------------------------------------------------------


def _provenance(
    loaded: LoadedModel, config: RunConfig, draft: OneFile, key: str, counts: dict, parts: list[slice], seconds: float
) -> dict[str, Any]:
    def kept() -> Iterator[np.ndarray]:
        for norms, part in blocks():
            yield norms[_load(draft.files.side["mask"])[part]]

    def blocks() -> Iterator[tuple[np.ndarray, slice]]:
        for number, whole in enumerate(parts):
            for start in range(whole.start, whole.stop, BLOCK):
                part = slice(start, min(start + BLOCK, whole.stop))
                yield draft.norms(number)[start - whole.start : part.stop - whole.start], part

    first = np.concatenate([np.array(norms[:, 0]) for norms, _ in blocks()])
    return {
        "format": FORMAT,
        "key": key,
        "shape": [*counts["shape"], loaded.d],
        **{k: v for k, v in counts.items() if k != "shape"},
        "layer": loaded.layer,
        "site": loaded.site,
        "model": loaded.provenance,
        "dataset": dataclasses.asdict(config.dataset),
        "special_ids": loaded.special_ids,
        "bos_prepended": loaded.prepends_bos,
        "separator": loaded.separator if config.dataset.packing else None,
        "norms": describe_norms(kept, first),
        **mean_and_scale(_load(draft.folder / MOMENTS), counts["tokens"]),
        "files": draft.entries(len(parts)),
        "device": str(loaded.device),
        "versions": versions(("torch", "transformers", "numpy")),
        "seconds": round(seconds, 2),
        "tokens_per_second": round(counts["tokens"] / seconds, 1),
    }


def _is_done(final: Path, manifest: Path, key: str, verify: bool, quiet: bool = False) -> bool:
    """Is this very collection there, whole? Says why a store that is there will be replaced, unless quiet."""
    if read_json(manifest).get("key") != key:
        if manifest.is_file() and not quiet:
            _say(f"{final} is of another model, text or options; it is replaced when the new one is complete.")
        return False
    try:
        open_store(final, verify)
    except BadInput as error:
        if not quiet:
            _say(str(error))
        return False
    return True


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
            if os.fstat(lock.fileno()).st_nlink == 0:  # the one before has just removed the folder
                raise BlockingIOError
        except ImportError:  # Windows: nobody stops two runs there
            pass
        except BlockingIOError:
            raise BadInput(
                f"Another `repro collect` is writing to {folder.parent}; wait for it, or choose another."
            ) from None
        try:
            yield
        finally:
            manifests = [*folder.glob("acts_layer*.json"), *folder.glob("acts_layer*/manifest.json")]
            if not (folder / PROGRESS).is_file() and not manifests:
                shutil.rmtree(folder)  # nothing in it is worth continuing


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "lock":
            path.unlink()


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr)
