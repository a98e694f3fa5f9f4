"""fetch_sae, find_sae: released SAEs through huggingface_hub; which repository and folder hold which SAE."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from repro.base.errors import BadInput, nearest
from repro.base.hub import not_here, snapshot
from repro.checkpoints.locate import WEIGHT_NAMES
from repro.checkpoints.releases import named

_SIDE = ("config.json", "cfg.json", "eval_results.json", "loc_angular_meta.pt")
# variant -> the folder names of (the 0108, the 0107, the trajectory) releases
_FOLDERS: dict[str, tuple[str, str, str | None]] = {
    "standard": ("Standard", "standard_new", "vanilla"),
    "topk": ("TopK", "top_k", "topk"),
    "batch_topk": ("BatchTopK", "batch_top_k", None),
    "matryoshka_batch_topk": ("MatryoshkaBatchTopK", "matryoshka_batch_top_k", None),
    "gated": ("GatedSAE", "gated", None),
    "jumprelu": ("JumpRelu", "jump_relu", None),
    "p_anneal": ("PAnneal", "p_anneal", None),
}


@dataclass(frozen=True)
class Release:
    """One SAEBench repository: every variant and sparsity of one width, one folder trainer_{i} each."""

    repo: str
    model: str
    width: int
    layers: tuple[int, ...]
    pattern: str
    """Folder of a variant; {name} is the repository's name for it."""
    naming: int
    """Which of the three names in _FOLDERS."""

    def folder(self, variant: str, layer: int) -> str | None:
        """Folder of the final SAEs of a variant, None if the release has none."""
        name = _FOLDERS[variant][self.naming]
        return None if name is None else f"{self.pattern.format(name=name)}/resid_post_layer_{layer}"


def _releases() -> Iterator[Release]:
    for power, owner, date in (
        (12, "adamkarvonen", "0108"),
        (14, "canrager", "0107"),
        (16, "canrager", "0107"),
    ):
        pythia = f"adamkarvonen/saebench_pythia-160m-deduped_width-2pow{power}_date-0108"
        yield Release(pythia, "pythia-160m-deduped", 2**power, (8,), "{name}_pythia-160m-deduped__0108", 0)
        width = f"width-2pow{power}_date-{date}"
        gemma = "{name}_gemma-2-2b__0108" if date == "0108" else f"gemma-2-2b_{{name}}_{width}"
        naming = 0 if date == "0108" else 1
        yield Release(f"{owner}/saebench_gemma-2-2b_{width}", "gemma-2-2b", 2**power, (12,), gemma, naming)
    for power in (12, 14, 16):  # intermediate checkpoints for 2^12 and 2^14, final ones only for 2^16
        width = f"width-2pow{power}_date-1109"
        repo = f"canrager/saebench_gemma-2-2b_{width}"
        yield Release(repo, "gemma-2-2b", 2**power, (5, 12, 19), f"gemma-2-2b_{{name}}_{width}", 2)


RELEASES: tuple[Release, ...] = tuple(_releases())


def find_release(model: str, variant: str, width: int = 16384, trajectory: bool = False) -> Release:
    """The SAEBench release of a language model's SAEs. BadInput, naming what there is, if there is none."""
    name = model.rsplit("/", 1)[-1]
    models = sorted({r.model for r in RELEASES})
    if name not in models:
        raise BadInput(
            f"No released SAEs of '{model}' are known{nearest(name, models)}: give one of {', '.join(models)}, or the "
            "path of a checkpoint."
        )
    if variant not in _FOLDERS:
        raise BadInput(
            f"Unknown SAE variant '{variant}'{nearest(variant, _FOLDERS)}: give one of {', '.join(_FOLDERS)}."
        )
    fitting = [r for r in RELEASES if r.model == name and (r.naming == 2) == trajectory]
    fitting = [r for r in fitting if _FOLDERS[variant][r.naming] is not None]
    if not fitting:
        raise BadInput(
            f"No intermediate checkpoints of {variant} SAEs on {name} were released; gemma-2-2b has them for standard "
            "and topk."
        )
    widths = {r.width: r for r in fitting}
    if width not in widths:
        raise BadInput(f"No {variant} SAEs of width {width} on {name} were released; widths are {sorted(widths)}.")
    return widths[width]


def fetch_sae(
    repo: str,
    allow: Sequence[str] = (),
    revision: str | None = None,
    variant: str | None = None,
    width: int = 16384,
    sparsity: float | None = None,
    trajectory: bool = False,
    sae_id: str | None = None,
) -> Path:
    """Download SAEs of a hub repository (or of a language model's SAEBench release) and return their folder.

    repo: owner/name, with the path of one SAE behind it (owner/name/folder/in/it) or without; google's Gemma Scope
    also without the owner (gemma-scope-2-270m-pt/resid_post/layer_12_width_16k_l0_small). Or a release of SAELens with
    sae_id, or with that behind it (gpt2-small-res-jb/blocks.8.hook_resid_pre), see `releases.named`.
    Interrupted downloads are resumed, what is there already is not downloaded again, and a bar shows progress
    (huggingface_hub). `allow` are patterns of file names. Raises BadInput for unknown names, no access, no network.
    """
    if variant is None and (one := named(repo, sae_id)):
        repo = f"{one.repo}/{one.path}"
    elif sae_id is not None:
        raise BadInput("--sae-id is of a release of SAELens and --variant of a language model; leave one out.")
    if repo.startswith("gemma-scope-"):
        repo = f"google/{repo}"
    if repo.count("/") > 1 and variant is None:
        owner, name, path = repo.strip("/").split("/", 2)
        return _download(f"{owner}/{name}", allow or [f"{path}/*", path], revision) / path
    if "/" in repo and variant is None:
        return _download(repo, allow or [f"*{name}" for name in (*WEIGHT_NAMES, *_SIDE)] + ["*/ae_*.pt"], revision)
    if variant is None:
        raise BadInput(
            f"'{repo}' is no hub id (owner/name); for a language model's SAEs also give --variant, for a release "
            "of SAELens --sae-id."
        )
    release = find_release(repo, variant, width, trajectory)
    if sparsity is not None:
        return find_sae(repo, variant, sparsity, width, trajectory=trajectory, revision=revision).parent
    folders = [f for layer in release.layers if (f := release.folder(variant, layer))]
    patterns = [f"{f}{part}/*" for f in folders for part in ("", "_checkpoints")]
    return _download(release.repo, patterns, revision)


def find_sae(
    model: str,
    variant: str,
    sparsity: float | None = None,
    width: int = 16384,
    layer: int | None = None,
    trajectory: bool = False,
    revision: str | None = None,
) -> Path:
    """The weights of one released SAE, downloaded if they are not here yet.

    Configs are downloaded first, and the trainer is chosen by the sparsity in its config (trainer numbers say nothing
    about it). Without `sparsity`, the middle one of those released (k = 80 of 20 to 640).
    Raises BadInput if there is no such SAE, or without network.
    """
    release = find_release(model, variant, width, trajectory)
    layer = layer if layer is not None else 12 if 12 in release.layers else release.layers[0]
    if layer not in release.layers:
        raise BadInput(f"{release.repo} has SAEs of layer {', '.join(map(str, release.layers))} only, not {layer}.")
    folder = release.folder(variant, layer)
    command = f"repro fetch-sae {release.model} --variant {variant} --width {width}{' --trajectory' * trajectory}"
    root = _download(release.repo, [f"{folder}/*config.json"], revision, command)
    trainers = [file.parent for file in sorted(root.glob(f"{folder}/trainer_*/config.json"))]
    have = {s: trainer for trainer in trainers if (s := _sparsity_of(trainer / "config.json")) is not None}
    if not have:
        raise BadInput(f"{release.repo} has no {folder}/trainer_*/config.json; its layout has changed, use --allow.")
    known = sorted(have)
    chosen = known[(len(known) - 1) // 2] if sparsity is None else sparsity
    if chosen not in have:
        raise BadInput(f"No {variant} SAE with sparsity {chosen:g} in {release.repo}; it has {known}.")
    weights = have[chosen].relative_to(root) / "ae.pt"
    return _download(release.repo, [weights.as_posix()], revision, f"{command} --sparsity {chosen:g}") / weights


def _sparsity_of(config: Path) -> float | None:
    from repro.checkpoints.formats.dictionary_learning import sparsity

    trainer: dict[str, Any] = json.loads(config.read_text()).get("trainer") or {}
    return sparsity(trainer, None)


def _download(repo: str, allow: Sequence[str], revision: str | None, command: str = "") -> Path:
    """A snapshot folder that holds every file of the repository that matches `allow`. BadInput with the fix if not."""
    patterns = " ".join(f"'{p}'" for p in allow)
    wanted, command = f"{patterns} of {repo}", command or f"repro fetch-sae {repo} --allow {patterns}"
    instead = "copy the hub cache here, or give the path of a checkpoint"
    root = snapshot(repo, allow, command, instead, wanted, revision)
    files = (p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
    if not any(fnmatch(file, pattern) for file in files for pattern in allow):  # the cache may hold other parts
        raise not_here(wanted, "nothing there matches", command, instead)
    return root
