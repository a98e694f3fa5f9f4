"""Time of collecting activations against the bare forward passes, and its memory."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from repro.base.config import DatasetConfig, ModelConfig, RunConfig
from repro.bench.common import append, flag, machine, peak_memory, table, timed


class Spent(NamedTuple):
    """Seconds of the clock, and of the processors, which other programs lengthen less."""

    seconds: float
    cpu: float


def _spent(run: Callable[[], Any], device: str) -> Spent:
    before = time.process_time()
    return Spent(timed(run, device)[1], time.process_time() - before)


@dataclass(frozen=True)
class Collect:
    """Collect text to files, and run the same blocks on the same tokens and drop the result, by turns."""

    model: str = flag("tiny", "language model: a preset, a hub id or a folder")
    layer: int | None = flag(None, "block that is read; the preset's if not given")
    dataset: str = flag("tiny", "text")
    tokens: int = flag(8192, "tokens of a collection")
    rounds: int = flag(3, "collections, and as many bare passes, by turns")
    seq_len: int = flag(128, "tokens a sequence")
    batch_size: int = flag(16, "sequences a forward pass")
    packing: bool = flag(True, "documents end to end; else one a sequence, batches of like lengths")
    longer: int = flag(4, "last, a collection of so many times the tokens, for its memory; 0 = none")
    device: str = flag("cpu", "cpu or cuda")
    out: Path | None = flag(None, "folder of collect.csv; data/bench if not given")

    def run(self) -> Path:
        """Append a row, and one for the longer collection, to collect.csv; returns its path."""
        from repro.activations.forward import forward, plan
        from repro.activations.language_models.load import load_model

        loaded = load_model(ModelConfig(self.model, self.layer), self.device, whole=False)
        path, facts = table("collect", self.out), machine("transformers", device=self.device)
        with tempfile.TemporaryDirectory() as folder:
            meta = self._collect(loaded, Path(folder), self.tokens)[2]  # a first one, to warm up
            tokens, mask = (np.load(p) for p in sorted(Path(folder).glob("kept/*.npy"), reverse=True))
            batches = plan(mask, self.batch_size)

            def bare() -> None:
                for batch in batches:
                    forward(loaded, tokens, mask, batch)

            collected: list[Spent] = []
            passes: list[Spent] = []
            peak = 0.0
            for i in range(self.rounds):
                for what in ("bare", "collect") if i % 2 == 0 else ("collect", "bare"):
                    if what == "bare":
                        passes.append(_spent(bare, self.device))
                    else:
                        taken, beyond, _ = self._collect(loaded, Path(folder), self.tokens)
                        collected.append(taken)
                        peak = max(peak, beyond)
            rows = [self._row(meta, collected, peak, passes)]
            if self.longer:
                taken, peak, meta = self._collect(loaded, Path(folder), self.longer * self.tokens)
                rows.append(self._row(meta, [taken], peak, None))
        append(path, [{**row, **facts} for row in rows])
        return path

    def _collect(self, loaded: Any, folder: Path, tokens: int) -> tuple[Spent, float, dict[str, Any]]:
        """(time from text to finished files, peak memory beyond what was there in MiB, the manifest)."""
        from repro.activations.collect import write
        from repro.activations.drafts import Draft
        from repro.activations.store import store_name

        data = DatasetConfig(
            self.dataset,
            max_tokens=tokens,
            seq_len=self.seq_len,
            batch_size=self.batch_size,
            packing=self.packing,
        )
        target = folder / "out"
        draft = Draft(target, store_name(loaded.layer))

        def run() -> None:
            draft.folder.mkdir(parents=True)
            write(loaded, RunConfig(str(target), dataset=data), draft, "key")
            draft.publish()

        peak_memory(reset=True)
        before = peak_memory()
        spent = _spent(run, self.device)
        peak = peak_memory() - before
        meta: dict[str, Any] = json.loads(draft.target.json.read_text())
        kept = folder / "kept"
        if not kept.exists():
            kept.mkdir()
            for role in ("tokens", "mask"):
                shutil.copy(draft.target.side[role], kept / f"{role}.npy")
        shutil.rmtree(target)
        return spent, peak, meta

    def _row(self, meta: dict[str, Any], spent: list[Spent], peak: float, bare: list[Spent] | None) -> dict[str, Any]:
        tokens, total, cpu = meta["tokens"], *(sum(times) for times in zip(*spent))
        floor, floor_cpu = (sum(times) for times in zip(*bare)) if bare else (0.0, 0.0)
        each = [a.seconds / b.seconds for a, b in zip(spent, bare or [])]
        row = {
            "model": self.model,
            "layer": meta["layer"],
            "d": meta["shape"][2],
            "dtype": meta["model"].get("dtype", ""),
            "packing": self.packing,
            "tokens": tokens,
            "rounds": len(spent),
            "batch_tokens": self.batch_size * self.seq_len,
            "seconds": round(total, 2),
            "tokens_per_second": round(tokens * len(spent) / total, 1),
            "bare_tokens_per_second": round(tokens * len(bare) / floor, 1) if bare else "",
            "ratio_to_bare": round(total / floor, 3) if bare else "",
            "ratio_lowest": round(min(each), 3) if each else "",
            "ratio_highest": round(max(each), 3) if each else "",
            "cpu_ratio_to_bare": round(cpu / floor_cpu, 3) if bare else "",
            "peak_mib_beyond_model": round(peak, 1),
            "files_mib": round(tokens * (meta["shape"][2] + 4) * 4 / 2**20, 1),
        }
        print({k: v for k, v in row.items() if v != ""}, flush=True)
        return row
