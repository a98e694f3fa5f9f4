"""The guess's error by kinds of tokens, and the latents that the encoder misses: table `price_payers`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from repro import ops
from repro.base.theme import MODE_COLORS, caption
from repro.checkpoints import load_sae
from repro.evaluate import EvalData
from repro.price import codes
from repro.price.latents import Latents
from repro.price.measure import Measure
from repro.sae import SAE
from repro.sections.effects import Effect, mean_over
from repro.sections.price.run import held_out, setting_of
from repro.sections.scales import Scale
from repro.sections.setup import Prepared, prepare
from repro.sections.tables import save_table
from repro.sections.types import DataFrame, Figure

TABLE = "price_payers"
SIZE = 512
"""Tokens of a block."""
TRAINING = 20_000
"""Training tokens on which the encoder's firings are counted."""
FEW = 20
"""Tokens or firings a SAE of the smallest group that is drawn."""
RATE = "training tokens on which the encoder fires it"
"""The property whose groups are named in percent, the first for latents that never fire."""
EDGES: dict[str, tuple[float, ...]] = {
    "times the token was in training": (10, 100, 1000),
    "place in the sequence": (8, 32, 64),
    "norm, in medians": (0.8, 0.95, 1.05, 1.2),
    RATE: (1e-9, 0.001, 0.01, 0.1),
    "largest cosine with another latent": (0.3, 0.5, 0.7),
}
"""Property of a token, or of a latent (the last two) -> lower ends of its groups but the first."""


def run_payers(scale: Scale, tokens: int) -> DataFrame:
    """Group the tokens and latents of all SAEs of the scale's seed; writes and returns the table `price_payers`.

    A row an SAE, property and group. Tokens: mean squared error of the encoder's codes and of pursuit's, as shares of
    each token's energy. Latents: how often pursuit fires them where the encoder does not (`missed`, a share of their
    firings under pursuit). n: tokens, or firings under pursuit.
    """
    started = time.perf_counter()
    setting = setting_of(scale)
    ready = prepare(setting)
    data = held_out(ready, setting, tokens)
    kinds = {name: torch.bucketize(value, _ends(name), right=True) for name, value in of_tokens(ready, data).items()}
    rows = []
    with tqdm(desc="payers", unit="token", unit_scale=True, total=len(ready.finals()) * len(data.tokens)) as bar:
        for checkpoint in ready.finals():
            head = {key: checkpoint[key] for key in ("variant", "sparsity")} | {"seed": scale.seed}
            sae = load_sae(checkpoint["path"]).one_sided().to(ready.device)
            latents = Latents(sae, len(data.tokens))
            Measure(sae, data.tokens, SIZE, bar).row(codes.pursued(sae, {}), latents.add)
            found = (*tokens_of(latents, kinds), *latents_of(sae, latents, firing_rate(sae, ready)))
            rows += [head | row for row in found]
    return save_table(TABLE, setting, rows, time.perf_counter() - started, tokens=tokens)


def of_tokens(ready: Prepared, data: EvalData) -> dict[str, Tensor]:
    """The properties of the evaluated tokens, [n] each."""
    rows = data.tokens.x.rows
    ids = rows.store.tokens.reshape(-1)
    seen = np.bincount(ids[ready.rows.index], minlength=int(ids.max()) + 1)[ids[rows.index]]
    norms = torch.cat([x.norm(dim=1) for _, x in data.tokens.blocks(SIZE)])
    values = (torch.from_numpy(seen), torch.from_numpy(rows.index % rows.store.mask.shape[1]), norms / norms.median())
    return dict(zip(EDGES, (value.float() for value in values)))


def tokens_of(latents: Latents, kinds: dict[str, Tensor]) -> Iterator[dict[str, Any]]:
    """A row a property and group of tokens: the mean relative error of both kinds of codes."""
    for name, group in kinds.items():
        for g in group.unique().tolist():
            encoder, pursuit = latents.error[:, group == g].mean(1).tolist()
            yield _head(name, g) | {"encoder": encoder, "pursuit": pursuit, "n": int((group == g).sum())}


def firing_rate(sae: SAE, ready: Prepared) -> Tensor:
    """The share of training tokens on which the encoder fires each latent, [m]."""
    counts, n = torch.zeros(sae.config.m), min(TRAINING, ready.rows.n)
    for start in range(0, n, SIZE):
        x = ready.rows.read(slice(start, min(start + SIZE, n))).to(ready.device)
        counts += ops.firing_stats(sae.encode_sparse(x)).fired.cpu()
    return counts / n


def latents_of(sae: SAE, latents: Latents, rate: Tensor) -> Iterator[dict[str, Any]]:
    """A row a property and group of latents: the share of their firings under pursuit that the encoder misses."""
    unit = torch.nn.functional.normalize(sae.W_dec.detach().float(), dim=1)
    cosine = torch.cat([_nearest(unit, start) for start in range(0, len(unit), SIZE)]).cpu()
    fired = latents.fired["pursuit"]
    for name, value in zip(list(EDGES)[3:], (rate, cosine)):
        group = torch.bucketize(value, _ends(name), right=True)
        for g in group.unique().tolist():
            if count := int(fired[group == g].sum()):
                yield _head(name, g) | {"missed": int(latents.missed[group == g].sum()) / count, "n": count}


def _nearest(unit: Tensor, start: int) -> Tensor:
    """The largest cosine of some latents with another."""
    cosine = unit[start : start + SIZE] @ unit.T
    cosine[torch.arange(len(cosine)), torch.arange(start, start + len(cosine))] = -1
    return cosine.amax(1)


def _ends(name: str) -> Tensor:
    return torch.tensor(EDGES[name], dtype=torch.float32)


def _head(name: str, group: int) -> dict[str, Any]:
    """The property, the number of the group and its name."""
    ends, last = EDGES[name], len(EDGES[name])
    whole, unit, factor = all(float(end).is_integer() for end in ends), "", 1
    if name == RATE:
        unit, factor = " %", 100
    low, high = (f"{factor * ends[i]:g}" if 0 <= i < last else "" for i in (group - 1, group))
    if name == RATE and group < 2:
        text = "never" if group == 0 else f"< {high}{unit}"
    elif group in (0, last):
        text = f"≥ {low}{unit}" if group else f"< {high}{unit}"
    else:
        text = f"{low}–{factor * ends[group] - whole:g}{unit}"
    return {"property": name, "order": group, "group": text}


def overall(table: DataFrame) -> DataFrame:
    """Means over SAEs, a row a property and group."""
    keys = ["property", "order", "group"]
    means = table.groupby(keys, as_index=False, sort=False)[["encoder", "pursuit", "missed", "n"]].mean()
    means["guess"] = means["encoder"] - means["pursuit"]
    means["order_of"] = means["property"].map(list(EDGES).index)
    return means.sort_values(["order_of", "order"]).drop(columns="order_of")


def extra(table: DataFrame) -> Effect:
    """The guess's error on the rarest group of tokens minus that on the commonest, with an interval over variants."""
    rows = table[table["property"] == next(iter(EDGES))].sort_values("order")
    rows = rows.assign(guess=rows["encoder"] - rows["pursuit"])
    ends = rows.groupby(["variant", "sparsity", "seed"])["guess"].agg(["first", "last"])
    return mean_over(ends["first"] - ends["last"])


def payers_findings(table: DataFrame) -> str:
    """How much more the rarest tokens pay than the commonest, and which latents are missed, in sentences."""
    tokens, _, _, latents, _ = EDGES
    groups = overall(table).set_index(["property", "group"])
    rare, common = groups.loc[tokens].iloc[0], groups.loc[tokens].iloc[-1]
    firing = groups.loc[latents]
    few, often = firing[firing["order"] > 1].iloc[0], firing.iloc[-1]  # not those that training hardly knows
    return (
        f"On tokens that training saw {rare.name} times ({rare['n']:.0f} of them) the guess makes {rare['guess']:.3f} "
        f"of the encoder's relative error of {rare['encoder']:.3f}, on those seen {common.name} times "
        f"({common['n']:.0f}) {common['guess']:.3f} of {common['encoder']:.3f}: a difference of {extra(table)}, these "
        f"tokens. Of what pursuit fires, the encoder misses {few['missed']:.0%} for latents that fire on {few.name} of "
        f"the training tokens, {often['missed']:.0%} for those on {often.name}."
    )


def payers_figure(model: str, table: DataFrame) -> Figure:
    """Error of both kinds of codes by kinds of tokens, and the firings that the encoder misses by kinds of latents."""
    from plotly.subplots import make_subplots

    means, specs = overall(table).query(f"n >= {FEW}"), [[{"colspan": 2}, None] * 3, [{"colspan": 3}, None, None] * 2]
    titles = list(EDGES)
    figure = make_subplots(2, 6, specs=specs, subplot_titles=titles, vertical_spacing=0.3, horizontal_spacing=0.12)
    for i, name in enumerate(titles):
        rows = means[means["property"] == name]
        if i < 3:
            at = {"row": 1, "col": 1 + 2 * i}
            for column in ("encoder", "pursuit"):
                line = {
                    "mode": "lines+markers",
                    "line_color": MODE_COLORS[column],
                    "legendgroup": column,
                    "showlegend": i == 0,
                }
                hover = [f"{n:,.0f} tokens" for n in rows["n"]]
                figure.add_scatter(x=rows["group"], y=rows[column].round(5), name=column, hovertext=hover, **line, **at)
        else:
            at = {"row": 2, "col": 1 + 3 * (i - 3)}
            hover = [f"{n:,.0f} firings an SAE under pursuit" for n in rows["n"]]
            bars = {"x": rows["group"], "y": rows["missed"].round(4), "hovertext": hover}
            figure.add_bar(marker_color=MODE_COLORS["encoder"], showlegend=False, **bars, **at)
            figure.update_yaxes(tickformat=".0%", range=[0, 1.02], **at)
    figure.update_yaxes(range=[0, 1.05 * means["encoder"].max()], row=1)
    figure.update_yaxes(title_text="squared error / energy", row=1, col=1)
    figure.update_yaxes(title_text="missed by the encoder", row=2, col=1)
    figure.update_layout(height=620)
    ends = means[means["property"] == titles[0]].sort_values("order")["group"].iloc[[0, -1]].tolist()
    saes = table.groupby(["variant", "sparsity"]).ngroups
    tokens = int(means[means["property"] == titles[0]]["n"].sum())
    return caption(
        figure,
        f"{model}. Above, tokens: mean squared error of the encoder's codes and of pursuit's with as many latents, by "
        "what kind of token it is; the distance between the lines is the guess's. Below, latents: of the times that "
        f"pursuit fires a latent, how often the encoder does not. Means over {saes} SAEs, {tokens:,} held-out tokens.",
        title=f"{model}: of the relative error of tokens that training saw {ends[0]} times the guess makes more than "
        f"of those seen {ends[1]} times, by {extra(table)}",
    )
