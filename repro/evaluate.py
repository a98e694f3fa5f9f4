"""The one evaluation loop: rows of checkpoint x mode x protocol, each written when it is finished."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from repro.codes import SparseCodes
from repro.config import MetricsConfig, digest, file_sha256, write_atomically
from repro.errors import BadInput
from repro.inference import (
    GRID_EXP5,
    NON_STEPS,
    SEMI_STEPS,
    calibrate_lambda,
    check_mode,
    encode_as_released,
    grid_lambda,
    infer,
    spread,
)
from repro.metrics import Firing, Reconstruction, norm_label, pool, probe_metrics
from repro.metrics.gap import gap_summary
from repro.metrics.intervals import bootstrap_f1, jackknife, wilson
from repro.objective import certify
from repro.sae import SAE
from repro.solvers import Lasso, refit, solve

BLOCKS = 20  # of documents, for the jackknife


@dataclass(frozen=True)
class Tokens:
    """Activations x [n, d], and the document of each, numbered 0, 1, … in order, [n]."""

    x: Tensor
    docs: Tensor
    info: dict[str, Any] = field(default_factory=dict)

    def to(self, device: str) -> Tokens:
        return Tokens(self.x.to(device), self.docs.to(device), self.info)


@dataclass(frozen=True)
class Labelled:
    """Tokens of labelled documents; labels [n_docs] are classes, train [n_docs] marks where probes are fitted."""

    tokens: Tokens
    labels: Tensor
    train: Tensor
    names: tuple[str, ...]


@dataclass(frozen=True)
class EvalData:
    """What an SAE is evaluated on; `key` is the hash of it all."""

    tokens: Tokens
    labelled: Labelled | None
    key: str


@dataclass(frozen=True)
class EvalOptions:
    """How an SAE is evaluated."""

    modes: tuple[str, ...] = ("amortized", "semi", "non")
    protocols: tuple[str, ...] = ("as_released", "corrected")
    semi_steps: int = SEMI_STEPS
    non_steps: int = NON_STEPS
    target_dense: float = 0.1
    """Density that the released lambda search aims at; NaN = Dense@0.1 of the amortized codes (comparison scripts)."""
    refit: bool = True
    """corrected: NMSE_refit, after nonnegative least squares on the support of the codes, which undoes L1 shrinkage."""
    gap: bool = True
    """Bracket the amortization gap of the encoder's codes."""
    released_k: bool = True
    """as_released: read k from the checkpoint, as the released batch evaluation; the comparison scripts never do."""
    released_tokens: int = 10_000
    """as_released evaluates the first so many tokens."""
    probe_ks: tuple[int, ...] = (1, 2)
    bootstrap: int = 200
    tol: float = 1e-3
    """Relative duality gap of certified codes."""
    lam: float | None = None
    """corrected: this lambda for the non mode and the gap instead of the one that matches the encoder's L0."""
    seed: int = 0


def open_data(
    acts: str | Path, metrics: MetricsConfig, labelled: str | Path | None = None, label_docs: int = 1000, skip: int = 0
) -> EvalData:
    """Tokens `skip` … `skip + metrics.max_tokens` of an activation store, and whole documents of a labelled one."""
    from repro.activations.store import open_store

    rows = open_store(acts).select(metrics.exclude, metrics.max_norm_ratio)
    if rows.n <= skip:
        raise BadInput(
            f"{acts} holds {rows.n} usable tokens, but the first {skip} are kept for training; collect more."
        )
    batch = rows.take(skip + metrics.max_tokens)
    info = rows.describe() | {"skip": skip, "acts": Path(acts).name}
    tokens = Tokens(batch.x[skip:].contiguous(), _renumber(batch.docs[skip:]), info)
    checksum = float(tokens.x.double().sum()), tuple(tokens.x.shape)
    if labelled is None:
        return EvalData(tokens, None, digest(checksum, info))
    store = open_store(labelled)
    if store.labels is None:
        raise BadInput(f"{labelled} has no labels; collect it from a data set with dataset.label_column set.")
    rows = store.select(metrics.exclude, None)
    n_docs = min(label_docs, len(store.labels))
    n = int((torch.as_tensor(rows.docs) < n_docs).sum())
    batch = rows.take(n)
    kept = batch.docs.unique()
    labels = torch.as_tensor(store.labels.astype("int64"))[kept]
    train = torch.arange(len(kept)) < len(kept) // 2
    probe_tokens = Tokens(batch.x, _renumber(batch.docs), rows.describe())
    names = tuple(store.label_names)
    return EvalData(
        tokens,
        Labelled(probe_tokens, labels, train, names),
        digest(checksum, info, n_docs, float(batch.x.double().sum())),
    )


def _renumber(docs: Tensor) -> Tensor:
    return docs.unique(return_inverse=True)[1]


def evaluate_sae(sae: SAE, data: EvalData, options: EvalOptions | None = None) -> Iterator[dict[str, Any]]:
    """One row per protocol and mode, as it is finished; SAE and data on the same device.

    A mode that the SAE cannot have (an encoder too dense for any optimum, say) gives a row of NaN whose `note` is why.
    """
    options = options or EvalOptions()
    modes = [check_mode(m) for m in options.modes]
    sae.check_input(data.tokens.x)
    for protocol in options.protocols:
        rows = _released_rows if protocol == "as_released" else _corrected_rows
        for row in rows(sae, data, modes, options):
            yield {
                "variant": sae.name,
                "sparsity": sae.source.sparsity,
                "step": sae.source.step,
                "protocol": protocol,
                **row,
                "m": sae.config.m,
                "d": sae.config.d,
                "seed": options.seed,
                "sha256": sae.source.sha256,
            }


def _timed(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    start = time.perf_counter()
    for row in rows:
        yield row | {"seconds": round(time.perf_counter() - start, 3)}
        start = time.perf_counter()


def _corrected_rows(sae: SAE, data: EvalData, modes: Sequence[str], o: EvalOptions) -> Iterator[dict[str, Any]]:
    yield from _timed(_corrected(sae, data, modes, o))


def _corrected(sae: SAE, data: EvalData, modes: Sequence[str], o: EvalOptions) -> Iterator[dict[str, Any]]:
    x = data.tokens.x
    sample = x[spread(len(x), 1000)]
    target_l0 = float(sae.encode_sparse(sample).l0.double().mean())
    steps = {"semi": o.semi_steps, "non": None}
    lam: dict[str, float] = {}
    why: dict[str, str] = {}
    solution = None
    if o.lam is not None:
        lam["non"] = o.lam
    for mode in ("non", "semi"):
        if mode in lam:
            continue
        if mode in modes or (mode == "non" and o.gap):
            try:
                lam[mode] = calibrate_lambda(sae, sample, target_l0, mode, steps[mode], solve_tol=o.tol)
            except BadInput as error:
                why[mode] = str(error)
    if "non" in lam:
        solution = solve(Lasso(sae.target(x), sae.W_dec.detach(), lam["non"]), tol=o.tol)
    for mode in modes:
        if mode in why:
            yield {"mode": mode, "note": why[mode], "n_tokens": len(x), "target_L0": target_l0}
            continue
        gap = mode == "amortized" and o.gap and solution is not None
        note = {"note": why["non"]} if mode == "amortized" and "non" in why else {}
        used = lam.get("non" if mode == "amortized" else mode)
        codes_of = infer(sae, x, mode, lam=used, steps=steps.get(mode), tol=o.tol, gap=gap, solution=solution)
        row = {
            "mode": mode,
            "n_tokens": len(x),
            "target_L0": target_l0,
            "lam": used,
            "iterations": codes_of.steps,
            **note,
        }
        row |= token_metrics(x, codes_of.x_hat, codes_of.codes, data.tokens.docs)
        if o.refit and codes_of.codes.values.shape[1] <= sae.config.d:
            unshrunk = refit(sae.target(x), sae.W_dec.detach(), codes_of.codes)
            row["NMSE_refit"] = Reconstruction.of(x, sae.decode(unshrunk, x)).value()["NMSE"]
        if gap and codes_of.gap_lower is not None and codes_of.gap_upper is not None:
            row |= gap_summary(codes_of.gap_lower, codes_of.gap_upper)
            row["amort_gap_relative"] = float(codes_of.gap_upper.sum() / codes_of.objective.sum())  # type: ignore[union-attr]
        elif mode == "non" and solution is not None:
            row |= gap_summary(torch.zeros_like(solution.gap), solution.gap)
            row["converged"] = float(solution.converged.double().mean())
        probed = codes_of.codes
        if data.labelled is not None:
            probed = infer(
                sae, data.labelled.tokens.x, mode, lam=used, steps=steps.get(mode), tol=o.tol, gap=False
            ).codes
        row |= probe_row(data, probed, o)
        yield row


def token_metrics(x: Tensor, x_hat: Tensor, codes: SparseCodes, docs: Tensor) -> dict[str, float]:
    """Reconstruction and firing with jackknife intervals over blocks of documents (`<name>_low`, `<name>_high`)."""
    n_docs = int(docs.max()) + 1
    block = docs * min(BLOCKS, n_docs) // n_docs
    out: dict[str, float] = {}
    groups = [block == b for b in range(int(block.max()) + 1)]
    for records in (
        [Reconstruction.of(x[g], x_hat[g]) for g in groups],
        [Firing.of(codes[g]) for g in groups],
    ):
        total = records[0]
        for record in records[1:]:
            total = total + record  # type: ignore[operator]
        out |= total.value()
        for name, (low, high) in jackknife(records).items():
            out |= {f"{name}_low": low, f"{name}_high": high}
    return out


def probe_row(data: EvalData, codes: SparseCodes, o: EvalOptions) -> dict[str, float | str]:
    """Held-out probes and absorption with intervals, from codes of the labelled tokens (of the tokens if none are)."""
    if data.labelled is None:
        labels, train = norm_label(data.tokens.x), torch.arange(len(codes)) < len(codes) // 2
        name = "norm above median, held out"
    else:
        codes = pool(codes, data.labelled.tokens.docs)
        labels, train, name = data.labelled.labels, data.labelled.train, " / ".join(data.labelled.names)
    values, probes = probe_metrics(codes, labels, train, o.probe_ks)
    out: dict[str, float | str] = {"label": name, **values}
    for key, (low, high) in bootstrap_f1(probes, (1, 2), o.bootstrap, o.seed).items():
        out |= {f"{key}_low": low, f"{key}_high": high}
    low, high = wilson(values["absorption"], sum(int((p.y == 1).sum()) for p in probes))
    return out | {"absorption_low": low, "absorption_high": high}


def _released_rows(sae: SAE, data: EvalData, modes: Sequence[str], o: EvalOptions) -> Iterator[dict[str, Any]]:
    yield from _timed(_released(sae, data, modes, o))


def _released(sae: SAE, data: EvalData, modes: Sequence[str], o: EvalOptions) -> Iterator[dict[str, Any]]:
    x = data.tokens.x[: o.released_tokens]
    atoms = sae.W_dec.detach()
    k = sae.source.k if o.released_k else None
    encoder = encode_as_released(sae, x, k=k)
    labels = norm_label(x)
    fixed = o.target_dense == o.target_dense
    lam: float | None = None
    if fixed and ("semi" in modes or "non" in modes):
        lam, _ = grid_lambda(x[:2000], atoms, o.target_dense, GRID_EXP5, 25, exp5=True)
    for mode in modes:
        if mode == "amortized":
            result = None
            codes, used, taken = encoder, None, None
        else:
            taken = o.semi_steps if mode == "semi" else o.non_steps
            result = infer(sae, x, mode, "as_released", taken, lam, gap=False)
            codes, used = result.codes, result.lam
            lam = used
        row: dict[str, Any] = {"mode": mode, "n_tokens": len(x), "lam": used, "iterations": taken}
        row |= Reconstruction.of(x, codes.decode(atoms)).value() | Firing.of(codes).value()
        row |= {"label": "norm above median, in sample"} | probe_metrics(codes, labels, None, o.probe_ks)[0]
        if mode == "amortized" and o.gap:
            row |= _released_gap(x, encoder, atoms)
        yield row


def _released_gap(x: Tensor, codes: SparseCodes, atoms: Tensor) -> dict[str, float]:
    """J(z) - J(z of 200 signed ISTA steps) at a lambda found after 50 steps on 2,000 tokens: the released gap."""
    lam, _ = grid_lambda(x[:2000], atoms, 0.1, GRID_EXP5, 50, exp5=True)
    solved = solve(Lasso(x, atoms, lam, nonneg=False), "ista", max_steps=NON_STEPS, tol=None)
    gap = certify(x, codes, atoms, lam, nonneg=False).objective - solved.objective
    return {"amort_gap_mean": float(gap.mean()), "amort_gap_median": float(gap.median()), "amort_lambda": lam}


def code_key() -> str:
    """Hash of the sources that a row depends on, so that rows of older code are not taken for new ones."""
    package = Path(__file__).parent
    names = ("objective.py", "codes.py", "ops.py", "sae.py", "inference.py", "evaluate.py")
    files = [package / n for n in names] + [
        f
        for folder in ("solvers", "kernels", "metrics", "variants", "checkpoints")
        for f in (package / folder).glob("*.py")
    ]
    return digest([file_sha256(f) for f in sorted(files)])


def evaluate_checkpoints(
    checkpoints: Sequence[dict[str, Any]], data: EvalData, options: EvalOptions, folder: str | Path, device: str = "cpu"
) -> list[dict[str, Any]]:
    """Rows of many checkpoints: dicts with path and, if known, variant, trainer, step, sparsity (`repro index`).

    Finished checkpoints are kept in `folder` as JSON, keyed by a hash of the weights, the data and the options, and are
    not computed again. A checkpoint that cannot be read gives one row with its reason as `note`.
    """
    from repro.checkpoints import CheckpointError, load_sae

    folder = Path(folder)
    on_device = EvalData(
        data.tokens.to(device),
        data.labelled
        and Labelled(data.labelled.tokens.to(device), data.labelled.labels, data.labelled.train, data.labelled.names),
        data.key,
    )
    rows: list[dict[str, Any]] = []
    code = code_key()
    bar = tqdm(checkpoints, desc="evaluate", unit="checkpoint")
    for entry in bar:
        known = {
            k: v for k, v in entry.items() if k in ("variant", "trainer", "step", "sparsity", "path") and v is not None
        }
        bar.set_postfix_str(f"{known.get('variant', '')} {known.get('sparsity', '')} step {known.get('step', 'final')}")
        key = digest(code, entry.get("sha256") or str(entry["path"]), known.get("step"), data.key, options)
        done = folder / f"{key}.json"
        if done.is_file():
            rows += [row | known for row in json.loads(done.read_text())]
            continue
        try:
            sae = load_sae(entry["path"], fallback_batch_topk=True).to(device)
        except CheckpointError as error:
            rows.append({**known, "note": str(error)})
            continue
        new = list(evaluate_sae(sae, on_device, options))
        write_atomically(done, lambda path, new=new: path.write_text(json.dumps(new)))
        rows += [row | known for row in new]
    return rows
