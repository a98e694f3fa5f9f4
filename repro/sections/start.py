"""The start: the language model's activations, the SAEs that were trained, and one token seen three ways."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import torch

from repro.base.theme import MODE_COLORS, caption, variant_marker
from repro.sections.conventions import conventions
from repro.sections.scales import Scale
from repro.sections.setup import Prepared, prepare
from repro.sections.tables import save_table, tidy
from repro.sections.types import DataFrame, Figure

if TYPE_CHECKING:
    from repro.sae import SAE


def settings(scale: Scale) -> DataFrame:
    """The fields of a scale that are set, one row a field."""
    import pandas as pd

    return pd.DataFrame({"value": {k: str(v) for k, v in vars(scale).items() if v not in (None, {})}})


def left_out(ready: Prepared) -> DataFrame:
    """Positions of the text: how many there are, and how many were left out for which reason, one row a count."""
    import pandas as pd

    info = ready.data.tokens.info
    dropped = {f"left out: {reason}": count for reason, count in info["dropped"].items()}
    return pd.DataFrame({"positions": {"all": info["positions"], **dropped, "used": info["kept"]}})


def activation_summary(ready: Prepared) -> DataFrame:
    """Size, norms and exclusions of the evaluation tokens, one row a quantity."""
    import pandas as pd

    x = ready.data.tokens.x
    norms = x.norm(dim=1)
    rows: dict[str, Any] = {
        "width d": x.shape[1],
        "training tokens": ready.rows.n,
        "evaluation tokens": len(x),
        "documents": int(ready.data.tokens.docs.max()) + 1,
        "median norm": float(norms.median()),
        "largest norm": float(norms.max()),
        "share of energy in the mean": float(x.mean(0).square().sum() / x.square().sum(1).mean()),
    }
    return pd.DataFrame({"value": {k: f"{v:,}" if isinstance(v, int) else f"{v:.4g}" for k, v in rows.items()}})


def trained(ready: Prepared) -> DataFrame:
    """Every final SAE with FVE, L0, dead and dense latents of its real encoder on the evaluation tokens."""
    import pandas as pd

    from repro.checkpoints import load_sae
    from repro.metrics import Firing, Reconstruction

    x = ready.data.tokens.x.to(ready.device)
    rows = []
    for entry in ready.finals():
        sae = load_sae(entry["path"]).to(ready.device)
        codes = sae.encode_sparse(x)
        values = Reconstruction.of(x, sae.decode(codes, x).detach()).value() | Firing.of(codes).value()
        rows.append({"variant": entry["variant"], "sparsity": entry["sparsity"], "m": sae.config.m, **values})
    return tidy(pd.DataFrame(rows))


def card(sae: SAE) -> DataFrame:
    """Kind, sizes and origin of an SAE, one row a fact; no path of this machine."""
    import pandas as pd

    facts = {k: v for k, v in sae.describe().items() if k != "source"}
    origin = {k: v for k, v in vars(sae.source).items() if k not in ("path", "extra") and v not in ("", None)}
    plain = {k: v for k, v in sae.source.extra.items() if isinstance(v, (str, int, float))}  # no records of training
    facts = plain | facts | origin
    return pd.DataFrame({"value": {k: str(v)[:64] for k, v in facts.items()}})


def exclusions(scale: Scale, ready: Prepared, variant: str = "batch_topk") -> DataFrame:
    """The effect of leaving tokens out: the first such SAE on the evaluation text under three rules."""
    import numpy as np

    from repro.checkpoints import load_sae
    from repro.metrics import Reconstruction

    started = time.perf_counter()
    sae = load_sae(ready.finals(variant)[0]["path"]).to(ready.device)
    store = ready.rows.store
    ratio = ready.data.tokens.info.get("max_norm_ratio")
    rules: dict[str, Any] = {
        "every real token": (("pad",), None),
        "without special tokens and position 0": (("pad", "bos", "eos", "first"), None),
    }
    if ratio is not None:
        rules[f"and without norms over {ratio:g} medians"] = (("pad", "bos", "eos", "first"), ratio)
    last = int(ready.rows.index[-1])
    out: list[dict[str, Any]] = []
    for name, (exclude, limit) in rules.items():
        rows = store.select(exclude, limit)
        x = rows.read(np.flatnonzero(rows.index > last)[: len(ready.data.tokens.x)]).to(ready.device)
        norms = x.norm(dim=1)
        value = Reconstruction.of(x, sae(x)).value()
        facts = {"tokens": len(x), "median norm": float(norms.median()), "largest norm": float(norms.max())}
        out.append({"tokens evaluated": name, "n": facts.pop("tokens"), **facts, **value})
    table = save_table("exclusions", scale, out, time.perf_counter() - started, variant=variant, m=sae.config.m)
    return tidy(table.set_index("tokens evaluated"))


def one_token(ready: Prepared, token: int = 0, variant: str = "batch_topk") -> tuple[DataFrame, DataFrame]:
    """(largest codes of one token by encoder, semi and optimum; objective and gap of each) of the first such SAE."""
    import pandas as pd

    from repro.checkpoints import load_sae
    from repro.inference import calibrate_lambda, infer, spread

    x = ready.data.tokens.x
    sae = load_sae(ready.finals(variant)[0]["path"])
    sample = x[spread(len(x), 500)]
    lam = calibrate_lambda(sae, sample, float(sae.encode_sparse(sample).l0.double().mean()))
    one = x[token : token + 1]
    parts, facts = {}, {"lambda": lam}
    for mode in ("amortized", "semi", "non"):
        result = infer(sae, one, mode, lam=lam, tol=1e-6)
        parts[mode] = result.codes.to_dense()[0]
        assert result.objective is not None and result.gap_upper is not None
        facts[f"J({mode})"] = float(result.objective[0])
        facts[f"gap({mode}) at most"] = float(result.gap_upper[0])
    table = pd.DataFrame({mode: z.numpy() for mode, z in parts.items()})
    table.index.name = "latent"
    used = table[(table > 0).any(axis=1)]
    return used.sort_values("non", ascending=False).head(40), pd.DataFrame({"value": facts}).round(4)


def at_lambdas(ready: Prepared, lam: float, factors: tuple[float, ...] = (0.5, 1, 2, 4)) -> DataFrame:
    """Optimal codes of some tokens at multiples of λ: L0 and NMSE, before and after least squares, a row a multiple.

    The SAE is that of `one_token`, the tokens are a sample of the evaluation's.
    """
    import pandas as pd

    from repro.checkpoints import load_sae
    from repro.inference import infer, spread
    from repro.metrics import Reconstruction
    from repro.solvers.refit import refit

    sae = load_sae(ready.finals("batch_topk")[0]["path"])
    x = ready.data.tokens.x[spread(len(ready.data.tokens.x), 100)]
    rows = []
    for factor in factors:
        codes = infer(sae, x, "non", lam=factor * lam, gap=False).codes
        fitted = refit(sae.target(x), sae.W_dec.detach(), codes)
        errors = [Reconstruction.of(x, sae.decode(z, x).detach()).value()["NMSE"] for z in (codes, fitted)]
        l0 = float(codes.l0.double().mean())
        rows.append({"λ": factor * lam, "L0": l0, "NMSE": errors[0], "NMSE after least squares": errors[1]})
    return tidy(pd.DataFrame(rows).set_index("λ"))


def code_figure(table: DataFrame) -> Figure:
    """The codes of one token under the three modes, side by side."""
    import plotly.graph_objects as go

    figure = go.Figure()
    names = {"amortized": "encoder", "semi": "30 ISTA steps", "non": "certified optimum"}
    for mode, name in names.items():
        x = [str(j) for j in table.index]
        figure.add_trace(go.Bar(x=x, y=table[mode], name=name, marker_color=MODE_COLORS[mode]))
    figure.update_layout(barmode="group", xaxis_title="latent", yaxis_title="code z", xaxis_type="category")
    return caption(figure, "The same token, the same dictionary, three codes: which latents fire, and how strongly.")


def firing_figure(table_of: dict[str, torch.Tensor]) -> Figure:
    """Latents by log10 firing rate, a line an SAE."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for name, rate in table_of.items():
        alive = rate[rate > 0].log10()
        edges = torch.arange(math.floor(float(alive.min())) if len(alive) else -1, 0.3, 0.2)
        counts = torch.histogram(alive.float(), edges)[0]
        marker = variant_marker(name.split()[0])
        look = {"mode": "lines+markers", "marker": marker, "line": {"color": marker["color"], "shape": "hvh"}}
        figure.add_trace(go.Scatter(x=(edges[:-1] + 0.1).numpy().round(1), y=counts, name=name, **look))
    figure.update_layout(xaxis_title="log10 firing rate (dead latents left out)", yaxis_title="latents")
    return caption(figure, "How often latents fire on the evaluation tokens. Dense latents lie right of −1.")


def rates(ready: Prepared) -> dict[str, torch.Tensor]:
    """Firing rate [m] of the sparsest final SAE of each variant, by the real encoder."""
    from repro.checkpoints import load_sae
    from repro.metrics import Firing

    out = {}
    x = ready.data.tokens.x
    for variant in dict.fromkeys(c["variant"] for c in ready.checkpoints):
        entry = ready.finals(variant)[0]
        out[f"{variant} {entry['sparsity']:g}"] = Firing.of(load_sae(entry["path"]).encode_sparse(x)).rate
    return out
