"""Collect activations: run a language model over text and stream one block's output to disk, resumably."""

from __future__ import annotations

import dataclasses
import shutil
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from repro.activations.drafts import MOMENTS, PROGRESS, Draft, new_array, read_json, save_json
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
from repro.base.lock import only_one
from repro.base.machine import versions

__all__ = ["collect", "collect_texts"]

FORMAT = 1  # of the files; a change collects again


def collect(config: RunConfig, quiet: bool = False) -> Path:
    """Write output_dir/acts_layer{L}.npy [S, T, d] float32 and the files beside it; returns its path.

    A finished store of the same model, text and options is left alone (with config.verify, once every sha256 agrees),
    which is said on stderr unless `quiet`; one of others is replaced when the new one is complete. What a killed run
    has written stays under a hidden name and is continued: the arrays end up the same, byte for byte. Padding positions
    hold zeros. Raises BadInput before long work where the input cannot be used or the disk is too small, and when
    activations are not finite.
    """
    data = config.dataset
    if data.max_tokens < 1 or data.seq_len < 1 or data.batch_size < 1 or data.skip_documents < 0:
        raise BadInput("dataset.max_tokens, seq_len and batch_size must be at least 1, skip_documents at least 0.")
    layer = layer_of(config.model)
    source = find_model(config.model)
    model_key = dataclasses.replace(config.model, layer_index=layer, device_map=None)
    key = digest(FORMAT, model_key, source.fingerprint, data, source_fingerprint(data))
    draft = Draft(Path(config.output_dir), store_name(layer, config.model.site))
    if not draft.folder.exists() and _is_done(draft, key, config.verify, quiet=True):
        return _left_alone(draft, quiet)
    try:
        draft.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"Cannot write to {draft.folder.parent}: {error.strerror}; choose another output_dir.") from None
    with only_one(draft.folder, "repro collect"):
        try:
            if read_json(draft.files.json).get("key") != key:
                if _is_done(draft, key, config.verify):
                    return _left_alone(draft, quiet)
                next(documents(data))  # text that cannot be read is an error before the model is loaded
                write(load_model(config.model, config.device, source, whole=False), config, draft, key)
            (draft.folder / PROGRESS).unlink(missing_ok=True)
            draft.publish()
        finally:
            if not (draft.folder / PROGRESS).is_file() and not draft.files.json.is_file():
                shutil.rmtree(draft.folder)  # nothing in it is worth continuing
    return draft.final


def write(loaded: LoadedModel, config: RunConfig, draft: Draft, key: str) -> None:
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
    lengths = _load(tokens_of["mask"]).sum(1)
    batches = plan(_load(tokens_of["mask"]), config.dataset.batch_size)
    sizes = [int(lengths[batch].sum()) for batch in batches]
    if not progress.is_file():
        new_array(draft.folder / MOMENTS, np.float64, (len(batches), loaded.d + 1))
        save_json(progress, state)

    def store(job: int, hidden: Tensor, seconds: float) -> None:
        # mapped anew for each batch: pages that stay mapped would count as this process's memory
        values = put(loaded, batches[job], hidden, _load(tokens_of["mask"]), *draft.arrays())
        np.load(draft.folder / MOMENTS, mmap_mode="r+")[job] = moments(values)
        save_json(progress, {**state, "batches": job + 1, "seconds": seconds})

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
        for job in range(done, len(batches)):
            hidden = forward(loaded, _load(tokens_of["tokens"]), _load(tokens_of["mask"]), batches[job])
            if pending is not None:
                pending.result()
            pending = writer.submit(store, job, hidden, before + time.perf_counter() - begin)
            bar.update(sizes[job])
        if pending is not None:
            pending.result()
    seconds = before + time.perf_counter() - begin
    save_json(draft.files.json, _provenance(loaded, config, draft, key, counts, seconds))
    if counts["text_exhausted"]:
        _say(f"The text ended after {counts['tokens']} of the {config.dataset.max_tokens} tokens that were asked for.")


def _load(path: Path) -> np.ndarray:
    array: np.ndarray = np.load(path, mmap_mode="r")
    return array


# --- the files ----------------------------------------------------------------------------------------


def _provenance(
    loaded: LoadedModel, config: RunConfig, draft: Draft, key: str, counts: dict, seconds: float
) -> dict[str, Any]:
    norms, mask = _load(draft.files.side["norms"]), _load(draft.files.side["mask"])

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
        "norms": describe_norms(norms, mask),
        **mean_and_scale(_load(draft.folder / MOMENTS), counts["tokens"]),
        "files": draft.entries(),
        "device": str(loaded.device),
        "versions": versions(("torch", "transformers", "numpy")),
        "seconds": round(seconds, 2),
        "tokens_per_second": round(counts["tokens"] / seconds, 1),
    }


def _is_done(draft: Draft, key: str, verify: bool, quiet: bool = False) -> bool:
    """True if this very collection is there, whole. Says why a store will be replaced, unless quiet."""
    if read_json(draft.target.json).get("key") != key:
        if draft.target.json.is_file() and not quiet:
            _say(f"{draft.final} is of another model, text or options; it is replaced when the new one is complete.")
        return False
    try:
        open_store(draft.final, verify)
    except BadInput as error:
        if not quiet:
            _say(str(error))
        return False
    return True


def _left_alone(draft: Draft, quiet: bool) -> Path:
    if not quiet:
        _say(f"{draft.final} is there already, from the same model, text and options.")
    return draft.final


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name != ".lock":
            path.unlink()


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr)
