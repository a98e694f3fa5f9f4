"""index_checkpoints: one row for every SAE below some folders, from configs, names and shapes; no weights are kept."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from repro.base.errors import BadInput
from repro.base.files import file_sha256, files_below
from repro.checkpoints.load import plan_of
from repro.checkpoints.locate import NOT_WEIGHTS, SUFFIXES, WEIGHT_NAMES, located, parse_run
from repro.checkpoints.plan import Options
from repro.checkpoints.runs import seed_of, snapshot_of
from repro.checkpoints.weights import CheckpointError, Weights
from repro.sae import VARIANTS

_EXPECTED = re.compile(rf"^(?:{'|'.join(map(re.escape, WEIGHT_NAMES))}|ae_\d+\.pt)$")
_LOCA = "multi_encoder_sae.pt"
COLUMNS = (
    *(
        "name",
        "variant",
        "family",
        "path",
        "trainer",
        "seed",
        "step",
        "final",
        "sparsity",
        "k",
        "d",
        "m",
        "layer",
        "site",
    ),
    *("lm_name", "format", "sha256", "bytes", "status", "reason", "notes"),
)


def index_checkpoints(
    roots: Mapping[str, Sequence[str | Path]], hashes: bool = True, progress: bool = True
) -> list[dict[str, Any]]:
    """Rows for every checkpoint below the roots; `roots` maps a name of the user's choice to files and folders.

    Columns: name (the key of `roots`), variant (how its codes are computed), family (how it was trained), path,
    trainer, seed (of its training, from its config or the layout), step (None = final), final, sparsity (k, target L0
    or L1 coefficient from its config; from its path only where that spells it out), k, d, m, layer, site, lm_name,
    format, sha256 (None without `hashes`), bytes, status ("ok" or "refused"), reason (why refused), notes (what to know
    of one that is not).
    Links to folders are followed. A weights file that cannot be read, or holds an SAE that load_sae refuses, becomes a
    refused row; files that are no SAE (optimizer states, a language model) are passed over.
    Raises BadInput if a root does not exist or nothing is found.
    """
    for paths in roots.values():
        for path in paths:
            if not Path(path).expanduser().exists():
                raise BadInput(f"There is no {path} to search for checkpoints; correct sae_checkpoints in the config.")
    files = [(name, file) for name, paths in roots.items() for file in _candidates(paths)]
    bar = tqdm(files, desc="index", unit="file", disable=None if progress else True)
    rows = [row for name, file in bar if (row := _row(name, file, hashes)) is not None]
    if not rows:
        searched = ", ".join(str(p) for paths in roots.values() for p in paths) or "no folder"
        raise BadInput(
            f"No SAE checkpoint below {searched}; name a folder that holds {', '.join(WEIGHT_NAMES[1:4])} or the like."
        )
    return rows


def _candidates(paths: Sequence[str | Path]) -> Iterator[Path]:
    """Every file that may hold an SAE, once."""
    seen: set[Path] = set()
    for root in (Path(p).expanduser() for p in paths):
        files = [root] if root.is_file() else [p for p in files_below(root) if p.suffix.lower() in SUFFIXES]
        for file in files:
            if file.resolve() in seen or not file.is_file() or file.name.startswith("."):
                continue
            loca = (file.parent / _LOCA).is_file() and file.name != _LOCA  # its other files hold parts of the same SAE
            if loca or (NOT_WEIGHTS.search(file.name) and not _EXPECTED.match(file.name)):
                continue
            seen.add(file.resolve())
            yield file


def _row(name: str, file: Path, hashes: bool) -> dict[str, Any] | None:
    from_path, snapshot = parse_run(file.absolute()), snapshot_of(file.absolute())
    if "k" in snapshot and from_path["sparsity"] is None:
        from_path["sparsity"] = snapshot["k"]
    row: dict[str, Any] = dict.fromkeys(COLUMNS) | {
        "name": name,
        "path": str(file.absolute()),
        "final": from_path["step"] is None,
        **from_path,
        "bytes": file.stat().st_size,
        "status": "refused",
        "reason": "",
        "notes": "",
    }
    try:
        plan = plan_of(located(file.absolute()), Options())
        seed = seed_of(file.absolute(), plan.source.extra.get("trainer"))
        sha256 = file_sha256(file) if hashes else None
    except Exception as error:  # one bad file must not end the index of hundreds
        if not _EXPECTED.match(file.name) and not _may_hold_sae(file):
            return None
        reason = str(error) if isinstance(error, CheckpointError) else f"{type(error).__name__}: {error}"
        return row | {"reason": reason}
    source, notes = plan.source, list(plan.notes)
    if name in VARIANTS and name != plan.cls.name:
        notes.append(f"Listed under {name}, but it is {plan.cls.name}.")
    return row | {
        **{column: getattr(source, column) for column in ("family", "step", "k", "layer", "site", "lm_name")},
        "variant": plan.cls.name,
        "seed": seed,
        "final": source.step is None,
        "sparsity": source.sparsity if source.sparsity is not None else from_path["sparsity"],
        "d": plan.config.d,
        "m": plan.config.m,
        "format": source.extra.get("format"),
        "sha256": sha256,
        "status": "ok",
        "notes": " ".join(notes),
    }


def _may_hold_sae(file: Path) -> bool:
    """Is this a damaged file, or does it hold an encoder and a decoder: two tensors of the same width and latents?"""
    try:
        shapes = Weights(file).shapes.values()
    except Exception:
        return True
    sizes = [set(shape) for shape in shapes if len(shape) in (2, 3)]
    return len(shapes) <= 24 and any(a <= b for i, a in enumerate(sizes) for j, b in enumerate(sizes) if i != j)
