"""Run: what one SAE in training leaves on disk, in dictionary_learning's layout, and how it is taken up again.

trainer_{i}/config.json, ae.pt, checkpoints/ae_{step}.pt and eval_results.json are theirs; log.jsonl and
training_state.pt (only while unfinished) are ours, and so is sae.safetensors, of an SAE that they have no class for.
eval_results.json is written last: it says that the run is finished.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from repro.base.errors import BadInput, disk_full
from repro.base.files import digest, write_atomically, write_json
from repro.checkpoints.formats.dictionary_learning import CLASSES, state_dict
from repro.checkpoints.formats.native import save_sae
from repro.checkpoints.locate import as_output
from repro.sae import SAE, VARIANTS
from repro.training.recipe import Job, Recipe
from repro.training.trainer import Trainer

STATE = "training_state.pt"


class Run:
    """One SAE and its folder."""

    def __init__(
        self,
        folder: Path,
        job: Job,
        recipe: Recipe,
        about: dict[str, Any],
        device: torch.device,
        start: SAE | None = None,
    ):
        """`about`: scale, d, lm_name, layer, data. BadInput if the folder holds a run with another config."""
        self.folder, self.job, self.recipe, self.scale = folder, job, recipe, float(about["scale"])
        if start is not None:
            about = about | {"start": weights_digest(start)}
        self.config = _config(job, recipe, about, str(device))
        refuse_other(folder, self.config)
        config = job.config(about["d"])
        self.foreign = VARIANTS[job.variant] not in CLASSES.values() or config.normalisation != "none"
        weights = "sae.safetensors" if self.foreign else "ae.pt"
        self.finished = (folder / "eval_results.json").is_file() and (folder / weights).is_file()
        if self.finished:
            return
        for stale in folder.rglob(".*.draft.*"):  # a killed process was writing it
            stale.unlink(missing_ok=True)
        self.trainer = (job.trainer_class or Trainer)(job, recipe, about["d"], device, start, self.scale)
        if (folder / STATE).is_file():
            self.trainer.load_state(torch.load(folder / STATE, map_location="cpu", weights_only=True))
        else:
            self._guard("config.json", lambda path: write_json(path, self.config))
        self._cut_log()

    def save_weights(self, sae: SAE, step: int | None = None) -> None:
        """ae.pt, or checkpoints/ae_{step}.pt; safetensors of the same kind of name for an SAE that is not theirs."""
        if self.foreign:
            identity = self.config["repro"]
            source = {
                "k": getattr(sae.config, "k", None),
                "sparsity": self.job.sparsity,
                "lm_name": identity["lm_name"],
            }
            sae.source = replace(sae.source, **source)
            sae.source.site, sae.source.layer = as_output(identity.get("site", "resid_post"), identity["layer"])
            name = "sae.safetensors" if step is None else f"checkpoints/sae_{step}.safetensors"
            self._guard(name, lambda path: save_sae(sae, path))
            return
        name = "ae.pt" if step is None else f"checkpoints/ae_{step}.pt"
        self._guard(name, lambda path: save_torch(path, state_dict(sae)))

    def save_state(self) -> None:
        """Save everything that the next step depends on; also read when a run is taken up on another device."""
        self._guard(STATE, lambda path: save_torch(path, self.trainer.state()))

    def log(self, line: dict[str, Any]) -> None:
        """Add a line to log.jsonl."""
        with (self.folder / "log.jsonl").open("a") as f:
            f.write(json.dumps(line) + "\n")

    def finish(self, sae: SAE, results: dict[str, Any]) -> None:
        """Write the SAE and its evaluation, and drop the state."""
        self.save_weights(sae)
        self._guard("eval_results.json", lambda path: write_json(path, results))
        (self.folder / STATE).unlink(missing_ok=True)
        self.finished = True

    def _guard(self, name: str, write: Callable[[Path], Any]) -> None:
        try:
            write(self.folder / name)
        except Exception as error:  # torch and safetensors have errors of their own for a full disk
            if disk_full(error):
                raise BadInput(
                    f"No space left for {self.folder / name}: free some and run the same command again; training "
                    "goes on from its last saved state."
                ) from None
            raise

    def _cut_log(self) -> None:
        """Drop lines of steps that will be done again."""
        file = self.folder / "log.jsonl"
        if not file.is_file():
            return
        lines = [line for line in file.read_text().splitlines() if line.endswith("}")]
        kept = [line for line in lines if json.loads(line)["step"] < self.trainer.step]
        write_atomically(file, lambda draft: draft.write_text("".join(f"{line}\n" for line in kept)))


def save_torch(path: Path, content: dict[str, Any]) -> Path:
    """Write tensors and plain values as torch.save does, whole or not at all; equal content gives equal bytes."""

    def write(draft: Path) -> None:
        with draft.open("wb") as file:  # given a path, torch writes its name into the file
            torch.save(content, file)

    return write_atomically(path, write)


def weights_digest(sae: SAE) -> str:
    """A hash of an SAE's weights."""
    state = sorted(sae.state_dict().items())
    return digest([[name, hashlib.sha256(t.cpu().contiguous().numpy().tobytes()).hexdigest()] for name, t in state])


def check_space(folder: Path, jobs: list[Job], recipe: Recipe, d: int) -> None:
    """Raise BadInput where the disk has no room: for checkpoints, and two copies of the state while one is replaced."""
    weights = sum(4 * (2 * job.m * d + 4 * job.m + d) for job in jobs)
    there = next(p for p in (folder, *folder.resolve().parents) if p.exists())
    need, free = weights * (len(recipe.checkpoint_steps()) + 6), shutil.disk_usage(there).free
    if need > free:
        raise BadInput(
            f"Training {len(jobs)} SAEs writes up to {need / 1e9:.1f} GB, and {there} has {free / 1e9:.1f} GB free: "
            "free some, or train fewer SAEs or checkpoints."
        )


def refuse_other(folder: Path, config: dict[str, Any]) -> None:
    """BadInput, naming what differs, if the config.json of a folder is not that of the run `config`."""
    file = folder / "config.json"
    if not file.is_file():
        return
    try:
        there = json.loads(file.read_text())["repro"]
        same = there["digest"] == config["repro"]["digest"]
    except (ValueError, KeyError, TypeError):
        there, same = None, False
    if not same:
        here = json.loads(json.dumps(config["repro"]))
        changed = "another program wrote it" if there is None else "; ".join(differences(there, here))
        raise BadInput(f"{folder} holds another run ({changed}): choose another output folder, or delete that one.")


def differences(there: dict[str, Any], here: dict[str, Any], path: str = "") -> list[str]:
    """Differences of two nested mappings, as phrases."""
    out: list[str] = []
    for key in sorted({*there, *here} - {"digest"}):
        a, b = there.get(key), here.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            out += differences(a, b, f"{path}{key}.")
        elif a != b:
            out.append(f"{path}{key} is {a} there and {b} here")
    return out


def _config(job: Job, recipe: Recipe, about: dict[str, Any], device: str) -> dict[str, Any]:
    """config.json: dictionary_learning's keys under trainer and buffer, what decides the weights under repro."""
    cls = VARIANTS[job.variant]
    trainer_class = cls.trainer_class or f"{cls.__name__}Trainer"
    layer, d = about["layer"], about["d"]
    place = f"{about.get('site', 'resid_post')}_layer_{layer}"
    trainer: dict[str, Any] = {
        "trainer_class": trainer_class,
        "dict_class": next((name for name, c in CLASSES.items() if c is cls), cls.__name__),
        "lr": recipe.lr,
        "steps": recipe.steps,
        "warmup_steps": recipe.warmup_steps,
        "decay_start": int(recipe.decay_start * recipe.steps),
        "seed": job.seed,
        "activation_dim": d,
        "dict_size": job.m,
        "device": device,
        "layer": layer,
        "lm_name": about["lm_name"],
        "wandb_name": f"{trainer_class}-{about['lm_name']}-{place}",
        "submodule_name": place,
    }
    if job.sparsity_name in ("k", "total_k"):
        trainer |= {
            "k": int(job.sparsity),
            "auxk_alpha": recipe.auxk_alpha,
            "threshold_beta": recipe.threshold_beta,
            "threshold_start_step": recipe.threshold_start_step,
            "top_k_aux": max(1, d // 2),
        }
    else:
        trainer |= {job.sparsity_name: job.sparsity, "sparsity_warmup_steps": recipe.sparsity_warmup_steps}
    if job.variant == "jumprelu":
        trainer |= {"bandwidth": recipe.bandwidth, "sparsity_penalty": 1.0}
    if job.variant == "loca":
        trainer["group_ks"] = list(job.config(d).group_ks)
    if hasattr(job.config(d), "group_sizes"):
        trainer["group_sizes"] = list(job.config(d).group_sizes)
    buffer = {"d_submodule": d, "io": "out", "n_ctxs": None, "ctx_len": None, "out_batch_size": recipe.batch_size}
    identity = {"job": asdict(job), "recipe": asdict(recipe)} | about
    ours = identity | {"adam_betas": cls.betas, "digest": digest(identity)}
    return {"trainer": trainer, "buffer": buffer, "repro": ours}
