"""The one evaluation loop: rows of checkpoint x protocol x mode, each written when it is finished."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from repro.base.errors import BadInput, exhausted
from repro.base.files import digest, file_sha256, write_atomically
from repro.checkpoints.locate import locate, read_configs
from repro.checkpoints.match import Place, columns, match
from repro.evaluate.data import EvalData, EvalOptions
from repro.evaluate.engine import Evaluation
from repro.evaluate.modes import row_of
from repro.evaluate.rules import rules_of
from repro.inference import check_mode
from repro.metrics.names import CONTROLS, check_protocol
from repro.sae import SAE


def plan(options: EvalOptions) -> list[tuple[str, str]]:
    """(protocol, mode) of every row, in order. Raises BadInput for names that do not exist."""
    modes = list(dict.fromkeys(check_mode(mode, controls=True) for mode in options.modes))
    if not modes:
        raise BadInput("There is no inference mode to evaluate; name one, such as amortized.")
    for protocol in options.protocols:
        check_protocol(protocol)
    learned = [mode for mode in modes if mode not in CONTROLS]
    if modes != learned and "corrected" not in options.protocols:
        raise BadInput("Controls run under the corrected protocol only; add it, or leave them out of the modes.")
    return [(p, mode) for p in options.protocols for mode in (modes if p == "corrected" else learned)]


def passes(rows: Sequence[tuple[str, str]], data: EvalData, options: EvalOptions) -> int:
    """Tokens that a bar counts for these rows, (protocol, mode) each: a pass a mode, and one that the gap needs."""
    n = {"corrected": len(data.tokens), "as_released": min(options.released_tokens, len(data.tokens))}
    needed = {p for p, mode in rows if (mode == "amortized" and options.gap) or (p, mode) == ("corrected", "non")}
    return sum(n[protocol] for protocol in (*(p for p, _ in rows), *needed))


def evaluate_sae(
    sae: SAE,
    data: EvalData,
    options: EvalOptions | None = None,
    done: Collection[tuple[str, str]] = (),
    bar: tqdm[Any] | None = None,
) -> Iterator[dict[str, Any]]:
    """One row per protocol and mode, as it is finished, on the device of the SAE; (protocol, mode) in `done` are left
    out. bar: counts tokens. Raises BadInput for an SAE that says it reads something else than these activations.

    Activations and codes are in memory a block at a time, whatever m is. The nonzeros of all tokens are stored, and
    those beyond 32 MiB lie in a temporary file. A mode that the SAE cannot have (an encoder too dense for any
    optimum, say) gives a row without numbers whose `note` is why.
    """
    options = options or EvalOptions()
    todo = [row for row in plan(options) if row not in done]
    info = data.tokens.info
    match(Place.of_sae(sae), Place.of_data(info), options.allow_mismatch)
    if max(options.probe_ks, default=0) > sae.config.m:
        raise BadInput(f"A probe of {max(options.probe_ks)} latents was asked for, but the SAE has {sae.config.m}.")
    sae.check_input(data.tokens.x[:1].to(sae.W_dec.device))
    if len(data.tokens) == 0:
        raise BadInput("There is no token to evaluate on; collect some, or exclude fewer positions.")
    bar = bar if bar is not None else tqdm(disable=True)
    evaluations = {
        protocol: Evaluation(sae, data, rules_of(protocol, options.batch_evaluation), options, bar)
        for protocol in options.protocols
    }
    for protocol, mode in todo:
        bar.set_postfix_str(f"{protocol} {mode}")
        row = row_of(evaluations[protocol], mode)
        undefined = [name for name in ("NMSE", "L0", "dead_rate") if not math.isfinite(row.get(name) or 0)]
        if undefined and "note" not in row:
            row["note"] = f"{', '.join(undefined)} is not defined on these activations: they are all 0."
        missing = [k for k in ("F1@1", "F1@2", "dF1", "absorption") if not math.isfinite(row.get(k) or 0)]
        if missing and "note" not in row:
            row["note"] = f"No {', '.join(missing)}: that takes both labels in both halves, and latents that fire."
        yield {
            "variant": sae.name,
            "sparsity": sae.source.sparsity,
            "step": sae.source.step,
            "protocol": protocol,
            **row,
            "m": sae.config.m,
            "d": sae.config.d,
            **columns(sae, info),
            "seed": options.seed,
            "sha256": sae.source.sha256,
        }


ROOMS = ("checkpoints", "evaluate", "inference", "kernels", "metrics", "sae", "solvers")
LOSS = ("held_out.py", "language_models/loss.py", "language_models/sites.py")
FILES = ("base/sums.py", "codes.py", "ops.py", *(f"activations/{name}" for name in LOSS))


def sources() -> list[Path]:
    """The files that rows depend on: all that evaluates, but for reading activations, which the data's key holds."""
    package = Path(__file__).parent.parent
    files = (package / name for name in FILES)
    return sorted([*files, *(f for room in ROOMS for f in (package / room).rglob("*.py"))])


def code_key() -> str:
    """Hash of the sources that a row depends on, so that rows of older code are not taken for new ones."""
    return digest([file_sha256(file) for file in sources()])


def row_key(code: str, content: str, step: Any, data_key: str, options: EvalOptions, protocol: str, mode: str) -> str:
    """Hash of all that one row depends on: weights and config (`content`), data, options but for the rows, sources."""
    rest = {k: v for k, v in vars(options).items() if k not in ("modes", "protocols", "block")}
    return digest(code, content, step, data_key, rest, protocol, mode)


def evaluate_checkpoints(
    checkpoints: Sequence[dict[str, Any]],
    data: EvalData,
    options: EvalOptions,
    folder: str | Path,
    device: str = "cpu",
    failed: Mapping[str, str] | None = None,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Rows of many checkpoints: dicts with path and, if known, variant, trainer, seed, step, sparsity (`repro index`).

    A checkpoint's seed is the column sae_seed of its rows; their seed is that of the evaluation.

    Each row is stored in `folder` as JSON when it is finished, keyed by a hash of weights, data, options and sources,
    and is not computed again: a run that was killed goes on where it stopped. A checkpoint that cannot be read or does
    not fit the activations gives one row without a mode, its reason as `note`; so does one that `failed` elsewhere,
    {path: reason}.
    """
    folder, code, pairs, failed = Path(folder), code_key(), plan(options), failed or {}
    jobs = [_job(entry, folder, code, data, options, pairs) for entry in checkpoints]
    rows: list[dict[str, Any]] = []
    total = sum(job.passes for job in jobs)
    with tqdm(desc="evaluate", unit="token", unit_scale=True, total=total, disable=not progress) as bar:
        for job in jobs:
            entry, before = job.entry, bar.n
            reason = failed.get(entry["path"], job.refused)
            bar.set_description_str(
                f"{entry.get('variant', 'SAE')} {entry.get('sparsity', '')} step {entry.get('step', 'final')}"
            )
            try:
                if reason is not None:
                    raise BadInput(reason)
                todo = [pair for pair in job.todo if not job.files[pair].is_file()]  # the same weights listed twice
                if todo:
                    sae = _load(entry["path"], job.sha256).to(device)
                    for row in evaluate_sae(sae, data, options, set(pairs) - set(todo), bar):
                        text = json.dumps(row)
                        file = job.files[row["protocol"], row["mode"]]
                        write_atomically(file, lambda path, text=text: path.write_text(text))
            except BadInput as error:
                rows.append({**entry, "note": str(error)})
                bar.total = total = total - job.passes
                continue
            total += int(bar.n - before) - job.passes  # a mode that an SAE cannot have takes fewer passes
            bar.total = total
            rows += [json.loads(file.read_text()) | entry for file in job.files.values()]
    return rows


def unfinished(
    checkpoints: Sequence[dict[str, Any]], data: EvalData, options: EvalOptions, folder: str | Path
) -> list[dict[str, Any]]:
    """The checkpoints of which `folder` still lacks a row (those that cannot be read are left out)."""
    code, pairs = code_key(), plan(options)
    return [c for c in checkpoints if _job(c, Path(folder), code, data, options, pairs).todo]


@dataclass(frozen=True)
class Job:
    """A checkpoint before it is loaded: its entry in the list, the files of its rows, and the rows to be computed."""

    entry: dict[str, Any]
    files: dict[tuple[str, str], Path] = field(default_factory=dict)
    todo: tuple[tuple[str, str], ...] = ()
    sha256: str = ""
    passes: int = 0
    refused: str | None = None


def _job(
    listed: dict[str, Any], folder: Path, code: str, data: EvalData, options: EvalOptions, pairs: list[tuple[str, str]]
) -> Job:
    entry = {
        k: listed[k] for k in ("name", "variant", "trainer", "step", "sparsity", "path") if listed.get(k) is not None
    } | ({"sae_seed": listed["seed"]} if listed.get("seed") is not None else {})
    try:
        with _readable(entry["path"]):
            weights = locate(entry["path"]).weights
            sha256 = listed.get("sha256") or file_sha256(weights)
            content = digest(sha256, read_configs(weights))  # a corrected config makes another SAE of the same weights
    except BadInput as error:
        return Job(entry, refused=str(error))
    keys = {pair: row_key(code, content, entry.get("step"), data.key, options, *pair) for pair in pairs}
    files = {pair: folder / f"{key}.json" for pair, key in keys.items()}
    todo = tuple(pair for pair, file in files.items() if not file.is_file())
    return Job(entry, files, todo, sha256, passes(todo, data, options))


def _load(path: str, sha256: str) -> SAE:
    """The SAE whose weights were listed under this hash. BadInput where they are gone, unreadable or others by now."""
    from repro.checkpoints import load_sae

    with _readable(path):
        sae = load_sae(path, fallback_batch_topk=True)
    if sae.source.sha256 != sha256:
        raise BadInput(f"{path} has changed since it was listed; run `repro index` again.")
    return sae


@contextmanager
def _readable(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if exhausted(error):  # the machine is at its limit, which says nothing about this file
            raise
        raise BadInput(f"Cannot read {path}: {error.strerror or error}.") from None
