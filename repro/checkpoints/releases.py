"""named: the hub repository and the path of an SAE from the names that people know, SAELens's and Gemma Scope's."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from repro.base.errors import BadInput
from repro.checkpoints.formats.saelens import processing

_SCOPE_2 = re.compile(r"gemma-scope-2-(\w+)-(pt|it)-(res|mlp|att)(-all)?")
_SCOPE_2_ID = re.compile(r"layer_\d+_width_\d+[km]_l0_(?:small|medium|big)(?:_seed_\d+)?")
_SCOPE_2_FOLDERS = {"res": "resid_post", "mlp": "mlp_out", "att": "attn_out"}
_SCOPE_1 = re.compile(r"gemma-scope-\d+b-(?:pt|it)-(?:res|mlp|att)")
_HOOK = re.compile(r"blocks\.\d+\.")  # how most ids of SAELens begin, and no name of a repository


@dataclass(frozen=True)
class Named:
    """Where one SAE lies on the hub."""

    repo: str
    """owner/name."""
    path: str
    """Folder or file in it."""
    notes: tuple[str, ...] = ()
    """What the directory of releases says of it and its files do not, a sentence each."""


def named(name: str, sae_id: str | None = None) -> Named | None:
    """RELEASE/ID, or a release and an id -> where the SAE lies; None where the name is of no release.

    Releases of Gemma Scope are known by their pattern, all others from the directory in an installed sae_lens, which is
    read and not imported. Raises BadInput with the nearest names, and where a release is meant but none is installed.
    """
    release, _, rest = name.strip("/").partition("/")
    if sae_id is not None and rest:
        raise BadInput(f"'{name}' has an SAE or a repository behind the slash; give --sae-id beside a release alone.")
    chosen = sae_id or rest
    if match := _SCOPE_2.fullmatch(release):
        size, tuned, site, every = match.groups()
        if not _SCOPE_2_ID.fullmatch(chosen):
            raise BadInput(
                f"{release} has no SAE '{chosen}': give one such as layer_12_width_16k_l0_medium; its last word is "
                "small, medium or big."
            )
        folder = _SCOPE_2_FOLDERS[site] + ("_all" if every else "")
        return Named(f"google/gemma-scope-2-{size}-{tuned}", f"{folder}/{chosen}")
    if _SCOPE_1.fullmatch(release) and chosen:
        return Named(f"google/{release}", chosen)
    file = _directory_file()
    meant = sae_id is not None or _HOOK.match(rest) or release.endswith("-canonical")
    if not meant and not (file and _lists(file, release)):
        return None
    if file is None:
        raise BadInput(
            f"{release} is looked up in SAELens's directory of releases, and sae_lens is not installed: pip install "
            "sae-lens, or give the hub repository and the path of the SAE in it (owner/name/path)."
        )
    return _listed(_directory(file), release, chosen)


def _listed(directory: Mapping[str, Any], release: str, sae_id: str) -> Named:
    """The SAE as the directory lists it."""
    if release not in directory:
        raise BadInput(f"SAELens has no release '{release}'{_nearest(release, directory)}.")
    about = directory[release]
    saes = {str(sae["id"]): sae for sae in about["saes"]}
    if sae_id not in saes:
        what = f"no SAE '{sae_id}'" if sae_id else f"{len(saes)} SAEs, so give --sae-id"
        raise BadInput(f"The release {release} of SAELens has {what}{_nearest(sae_id, saes)}.")
    sae, overrides, notes = saes[sae_id], about.get("config_overrides") or {}, []
    if about.get("conversion_func") is None and (factor := sae.get("norm_scaling_factor")) is not None:
        notes.append(f"SAELens multiplies its activations by {factor}: load_sae(path, norm_scaling_factor={factor}).")
    if normalise := overrides.get("normalize_activations"):
        notes.append(f"SAELens reads it with normalize_activations {normalise}; its cfg.json must say the same.")
    return Named(about["repo_id"], str(sae["path"]), (*notes, *processing(overrides)))


def _nearest(word: str, known: Iterable[str]) -> str:
    """The three nearest names, or the first three where none is near."""
    names = list(known)
    close = get_close_matches(word, names, n=3)
    return f"; the nearest are {', '.join(close)}" if close else f"; there are {', '.join(names[:3])} and others"


def _directory_file() -> Path | None:
    """The directory of releases in an installed sae_lens, which is not imported."""
    spec = importlib.util.find_spec("sae_lens")
    folders = (spec and spec.submodule_search_locations) or ()
    return next((file for f in folders if (file := Path(f) / "pretrained_saes.yaml").is_file()), None)


def _lists(file: Path, release: str) -> bool:
    """Is it a release? Told by its line alone: reading the whole directory takes seconds."""
    return re.search(rf"^['\"]?{re.escape(release)}['\"]?:", file.read_text(encoding="utf-8"), re.MULTILINE) is not None


@cache
def _directory(file: Path) -> dict[str, Any]:
    """Release -> repo_id, saes (id, path, …) and what else the directory says."""
    import yaml

    with file.open(encoding="utf-8") as text:
        content = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    if not isinstance(content, dict):
        raise BadInput(f"{file} lists no releases; install sae-lens again.")
    return content
