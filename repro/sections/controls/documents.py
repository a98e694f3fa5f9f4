"""§5 on many SAEs and held-out documents: what refinement changes at matched L0, by document and SAE.

The other tables give an interval for a mean over SAEs, which share their text. Here documents are left out one at a
time, the same for every SAE and mode. What is left is the uncertainty about other text and other SAEs of the same
training set.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from repro.base.errors import BadInput
from repro.codes import SparseCodes
from repro.metrics.intervals import left_out_error, t_half
from repro.sections.effects import mean_over
from repro.sections.scales import TRAJECTORIES, Scale
from repro.sections.setup import prepare
from repro.sections.tables import save_table
from repro.sections.types import DataFrame

REFINED = ("semi", "non", "pursuit")
COMPARED = ("NMSE", "dead_rate", "dense@0.1")
DENSEST = 0.25  # share of d that an encoder's L0 may be: denser codes cost minutes an SAE, and are hardly sparse
GREEDY = 64  # latents a token that pursuit, which adds one after the other, is asked for at most
SAMPLE = 400  # tokens on which lambda is calibrated
ALL = "all SAEs"


@dataclass(frozen=True)
class PerDocument:
    """Sums over the tokens of each of D documents: all that a jackknife needs."""

    tokens: Tensor
    """[D]"""
    error: Tensor
    """Σ‖x − x̂‖², [D] float64."""
    energy: Tensor
    """Σ‖x‖², [D] float64."""
    nonzeros: Tensor
    """[D]"""
    fired: Tensor
    """Tokens on which each latent is > 0, [D, m] int32."""

    @classmethod
    def of(cls, x: Tensor, x_hat: Tensor, codes: SparseCodes, docs: Tensor) -> PerDocument:
        """x, x_hat [n, d]; codes [n, m]; docs [n] numbers documents 0, 1, … D - 1."""
        size = int(docs.max()) + 1

        def total(v: Tensor) -> Tensor:
            return torch.zeros(size, dtype=torch.float64).index_add_(0, docs, v.double().cpu())

        flat = (docs[:, None].to(codes.indices.device) * codes.m + codes.indices)[codes.values > 0]
        fired = torch.bincount(flat, minlength=size * codes.m).view(size, codes.m).int().cpu()
        return cls(
            torch.bincount(docs, minlength=size),
            total((x - x_hat).square().sum(1)),
            total(x.square().sum(1)),
            total(codes.l0),
            fired,
        )

    def values(self, weights: Tensor) -> dict[str, Tensor]:
        """Metrics under document weights [B, D] -> name: [B] float64."""
        w = weights.double()
        rate = (w @ self.fired.double()) / (w @ self.tokens.double())[:, None]
        return {
            "NMSE": (w @ self.error) / (w @ self.energy),
            "dead_rate": (rate == 0).double().mean(1),
            "dense@0.1": (rate >= 0.1).double().mean(1),
            "L0": (w @ self.nonzeros) / (w @ self.tokens.double()),
        }


def left_out(documents: int) -> Tensor:
    """Weights [1 + documents, documents]: of all documents, then of all but one."""
    return torch.cat([torch.ones(1, documents), 1 - torch.eye(documents)])


def run_documents(scale: str, tokens: int = 8_000) -> DataFrame:
    """The SAEs of a scale's `TRAJECTORIES` on held-out documents; writes the table `documents`."""
    if scale not in TRAJECTORIES:
        raise BadInput(f"No SAEs are set up for scale '{scale}'; there are {', '.join(TRAJECTORIES)}.")
    return compared(TRAJECTORIES[scale], tokens)


def compared(scale: Scale, tokens: int) -> DataFrame:
    """A row a trained SAE, mode and metric, and a row over all SAEs: encoder, refined, difference and its interval.

    SAEs whose encoder uses more latents than a quarter of the dimensions are left out.
    """
    from repro.checkpoints import load_sae
    from repro.inference import spread

    started = time.perf_counter()
    ready = prepare(scale)
    x, docs = held_out(ready, scale, tokens)
    weights = left_out(int(docs.max()) + 1)
    saes: list[tuple[dict[str, Any], dict[str, dict[str, Tensor]]]] = []
    for final in tqdm(ready.finals(), desc="documents", unit="SAE"):
        sae = load_sae(final["path"]).to(ready.device)
        sample = x[spread(len(x), SAMPLE)].to(ready.device)
        if float(sae.encode_sparse(sample).l0.double().mean()) > DENSEST * sae.config.d:
            continue
        values = {mode: sums.values(weights) for mode, sums in by_mode(sae, x, docs, scale.tol).items()}
        saes.append(({k: final[k] for k in ("variant", "trainer", "sparsity")}, values))
    facts = {"tokens": len(x), "documents": weights.shape[1]}
    rows = [row | facts for sae, values in saes for row in differences(sae, values)]
    rows += [row | facts for row in over_saes(saes)]
    return save_table("documents", scale, rows, time.perf_counter() - started)


def held_out(ready: Any, scale: Scale, tokens: int) -> tuple[Tensor, Tensor]:
    """The first tokens behind the training tokens that make up whole documents: x [n, d], docs [n] from 0."""
    from repro.activations.rows import Rows

    store = ready.rows.store
    behind = store.select(max_norm_ratio=scale.max_norm_ratio).index[ready.rows.n :]
    rows = Rows(store, behind, {})
    docs = torch.from_numpy(rows.docs.astype("int64")).unique_consecutive(return_inverse=True)[1]
    whole = torch.nonzero((docs > 0) & (docs < docs.max())).squeeze(1)  # the first was trained on, the last is cut
    if len(whole) > tokens:
        whole = whole[docs[whole] < docs[whole[tokens]]]
    if len(whole) == 0:
        raise BadInput("Fewer than three documents are left behind the training tokens; collect more text.")
    return rows.read(whole.numpy()), docs[whole] - 1


@torch.no_grad()
def by_mode(sae: Any, x: Tensor, docs: Tensor, tol: float, block: int = 2048) -> dict[str, PerDocument]:
    """Sums a document of the encoder and of each mode at the encoder's L0; modes that have no lambda are left out."""
    from repro.inference import calibrate_lambda, infer, spread
    from repro.solvers import pursuit

    device = sae.W_dec.device
    sample = x[spread(len(x), SAMPLE)].to(device)
    target = float(sae.encode_sparse(sample).l0.double().mean())
    shared: dict[str, Any] = {}
    out: dict[str, PerDocument] = {}
    for mode in ("amortized", *REFINED):
        lam = None
        try:
            if mode in ("semi", "non"):
                lam = calibrate_lambda(sae, sample, target, mode, solve_tol=tol, shared=shared)
        except BadInput:  # denser than any optimum
            continue
        if mode == "pursuit" and target > GREEDY:
            continue
        codes, hats = [], []
        for rows in x.split(block):
            rows = rows.to(device)
            if mode == "pursuit":
                k = min(max(1, round(target)), sae.config.m)
                codes.append(pursuit(sae.target(rows), sae.W_dec.detach(), k))
                hats.append(sae.decode(codes[-1], rows))
            else:
                result = infer(sae, rows, mode, lam=lam, tol=tol, gap=False, shared=shared)
                codes.append(result.codes)
                hats.append(result.x_hat)
        out[mode] = PerDocument.of(x, torch.cat(hats).cpu(), SparseCodes.cat(codes), docs)
    return out


def differences(sae: dict[str, Any], values: dict[str, dict[str, Tensor]]) -> list[dict[str, Any]]:
    """Rows of one SAE: each mode against its encoder on the same documents."""
    rows = []
    for mode in (m for m in REFINED if m in values):
        for metric in COMPARED:
            a, b = values["amortized"][metric], values[mode][metric]
            change, se = float(b[0] - a[0]), float(left_out_error((b - a)[1:]))
            half = float(t_half(se, len(a) - 2))
            row = {**sae, "mode": mode, "metric": metric, "encoder": float(a[0]), "refined": float(b[0])}
            row |= {"difference": change, "se": se, "low": change - half, "high": change + half, "saes": 1}
            rows.append(row | {"L0_encoder": float(values["amortized"]["L0"][0]), "L0": float(values[mode]["L0"][0])})
    return rows


def over_saes(saes: list[tuple[dict[str, Any], dict[str, dict[str, Tensor]]]]) -> list[dict[str, Any]]:
    """Rows over all SAEs: means over variants of means over their SAEs, with the error by variants and documents."""
    import pandas as pd

    rows = []
    for mode in REFINED:
        both = [(sae, values) for sae, values in saes if mode in values]
        if len(both) < 2:
            continue
        facts = pd.DataFrame([sae for sae, _ in both])
        index = pd.MultiIndex.from_frame(facts[["variant", "sparsity"]])
        weight = (1 / facts.groupby("variant")["variant"].transform("size") / facts["variant"].nunique()).to_numpy()
        for metric in COMPARED:
            a, b = (torch.stack([v[name][metric] for _, v in both]).numpy() for name in ("amortized", mode))
            change = b - a  # [SAEs, 1 + documents]
            shared = float(left_out_error((weight @ change)[1:]))
            effect = replace(mean_over(pd.Series(change[:, 0], index), shared), documents=change.shape[1] - 1)
            row = {"variant": ALL, "mode": mode, "metric": metric, "encoder": float(weight @ a[:, 0])}
            row |= {"refined": float(weight @ b[:, 0]), "difference": effect.value, "se": effect.se}
            rows.append(row | {"low": effect.low, "high": effect.high, "saes": len(both)})
    return rows
