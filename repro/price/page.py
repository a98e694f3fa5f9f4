"""price.html from price.json: one file that opens from a disk and asks nothing of the network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from repro.base.theme import MODE_COLORS, PART_COLORS
from repro.price import words
from repro.price.charts import Line, Point, chart, short
from repro.price.style import STYLE

_MARKS = {
    "encoder": "circle",
    "encoder_refit": "ring",
    "semi": "diamond",
    "optimum": "square",
    "optimum_refit": "ring",
    "pursuit": "up",
    "ompr": "down",
    "random_dictionary": "cross",
}
LOOKS = {name: (MODE_COLORS[name], mark) for name, mark in _MARKS.items()}
"""Colour and mark of each kind of codes."""
PARTS = {
    "values": (PART_COLORS["values"], "the guess: values"),
    "support": (PART_COLORS["support"], "the guess: choice of latents"),
    "dictionary": (PART_COLORS["dictionary"], "what pursuit leaves: the dictionary"),
}


def html(result: Mapping[str, Any]) -> str:
    """The page of a price, a whole document."""
    sae, data, latents = result["sae"], result["data"], result["latents"]
    title = f"{sae['variant']} SAE {sae.get('file', '')}".strip()
    body = [
        '<p class="over">The price of the guess</p>',
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{escape(words.what(sae))}. Judged on {data["n_tokens"]:,} tokens of '
        f"{data['documents']:,} documents.</p>",
        _hero(result["price"]),
        _fit(result["check"]),
        _table(result),
        _charts(result),
        *([_latents(latents, data["n_tokens"]), _worst(latents["worst_tokens"])] if latents else []),
        _about(result),
    ]
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>The price of {escape(title)}</title><link rel="icon" href="data:,"><style>{STYLE}</style></head>'
    )
    return f"{head}<body><main>{''.join(body)}</main></body></html>\n"


def _hero(split: Mapping[str, Any]) -> str:
    name = words.measure_of(split)
    if name is None:
        return f'<section class="card hero"><p>{escape(words.decomposition(split))}</p></section>'
    share = split[name]["share_of_increase"]
    rows = []
    for measure, part in split.items():
        whole = sum(part[key] for key in PARTS)
        parts = "".join(
            f'<i style="background:{color};width:{max(0.0, 100 * part[key] / whole):.2f}%" '
            f'title="{escape(f"{label}: {part[key]:.4g}")}"></i>'
            for key, (color, label) in PARTS.items()
        )
        rows.append(
            f'<span>{escape(measure)}</span><div class="bar">{parts}</div>'
            f"<span>{whole:.3g}; guess {words.share(part)}</span>"
        )
    key = "".join(f'<span><i style="background:{color}"></i>{escape(label)}</span>' for color, label in PARTS.values())
    return (
        f'<section class="card hero"><b>{100 * share:.0f}<small>%</small></b>'
        f"<p>{escape(words.decomposition(split))}</p>"
        f'<div class="bars">{"".join(rows)}<div class="key">{key}</div></div></section>'
    )


def _fit(check: Mapping[str, Any]) -> str:
    first, *rest = check["sentences"]
    kind = "good" if check["fits"] else "bad"
    lines = f'<li class="{kind}">{escape(first)}</li>' + "".join(f"<li>{escape(line)}</li>" for line in rest)
    title = "It fits these activations" if check["fits"] else "It does not seem to fit these activations"
    return f'<h2>{title}</h2><ul class="fit">{lines}</ul>'


def _table(result: Mapping[str, Any]) -> str:
    modes = result["modes"]
    losses = [name for name in ("CE", "KL", "loss_recovered_mean") if any(name in row for row in modes.values())]
    head = ["codes", "L0", "NMSE", "of encoder", "FVE", *losses, "dead", "ms a token", "MFLOP"]
    largest = max((row["NMSE_of_encoder"] for row in modes.values() if "NMSE_of_encoder" in row), default=1.0)
    body = []
    for name, row in modes.items():
        label = escape(words.NAMES[name])
        if "note" in row and "NMSE" not in row:
            body.append(f'<tr><td>{label}</td><td colspan="{len(head) - 1}">{escape(row["note"])}</td></tr>')
            continue
        color = LOOKS[name][0]
        of = f'<span class="of" style="width:{70 * row["NMSE_of_encoder"] / largest:.0f}px;background:{color}"></span>'
        cells = [
            f"{row['L0']:.1f}",
            f"{row['NMSE']:.3f}{_interval(row, 'NMSE')}",
            f"{of}{row['NMSE_of_encoder']:.2f}",
            f"{row['FVE']:.3f}" if "FVE" in row else "–",
            *(f"{row[loss]:.3f}{_interval(row, loss)}" if loss in row else "–" for loss in losses),
            f"{100 * row['dead_rate']:.1f} %",
            f"{row['ms_per_token']:.2g}",
            f"{row['flops_per_token'] / 1e6:.3g}",
        ]
        body.append(f"<tr><td>{label}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    note = words.sampled(result)
    return (
        "<h2>Codes at the encoder's number of latents</h2>"
        f'<div class="scroll"><table><tr>{"".join(f"<th>{escape(h)}</th>" for h in head)}</tr>{"".join(body)}</table>'
        f"</div><p><small>{escape(note)}</small></p>"
    )


def _interval(row: Mapping[str, Any], name: str) -> str:
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    return "" if low is None or high is None else f"<small>{low:.3f} – {high:.3f}</small>"


def _point(x: float, row: Mapping[str, Any], measure: str) -> Point:
    low, high = row.get(f"{measure}_low"), row.get(f"{measure}_high")
    name = words.NAMES[row["codes"]]
    text = f"{name}: L0 {row['L0']:.1f}, {measure} {row[measure]:.4g}, {row['ms_per_token']:.3g} ms a token"
    return Point(x, row[measure], None if low is None or high is None else (low, high), text)


def frontier_chart(rows: Iterable[Mapping[str, Any]], measure: str, against: str, x_title: str, y_title: str) -> str:
    """A measure of all points of the frontier against L0, ms or FLOPs a token, a line a kind of codes."""
    lines = []
    for name, (color, shape) in LOOKS.items():
        found = [row for row in rows if row["codes"] == name and measure in row]
        points = sorted((_point(row[against], row, measure) for row in found), key=lambda p: p.x)
        if points:
            lines.append(Line(words.NAMES[name], points, color, shape))
    return chart(lines, x_title, y_title) if lines else ""


def _charts(result: Mapping[str, Any]) -> str:
    rows = [row for row in result["frontier"] if "NMSE" in row and row["NMSE"] > 0]
    rounds = [row for row in rows if "rounds" in row]
    curve = [row for row in rows if "rounds" not in row]
    own = [{"codes": name, **row} for name, row in result["modes"].items() if "NMSE" in row]
    own = [row for row in own if row["codes"] != "ompr"] + rounds if rounds else own
    charts = [
        frontier_chart(curve, "NMSE", "L0", "L0 (mean latents a token)", "Error (NMSE) against L0"),
        frontier_chart(curve, "CE", "L0", "L0 (mean latents a token)", "Loss (nats a token) against L0"),
        frontier_chart(
            own, "NMSE", "ms_per_token", "milliseconds a token", "Error (NMSE) at the encoder's L0 against time"
        ),
        frontier_chart(own, "CE", "ms_per_token", "milliseconds a token", "Loss at the encoder's L0 against time"),
        _dead(result["latents"].get("dead_by_tokens", {})),
    ]
    return f'<h2>What buys it back</h2><div class="charts">{"".join(charts)}</div>'


def _dead(curves: Mapping[str, Any]) -> str:
    lines = []
    for name, curve in curves.items():
        points = [
            Point(t, share, None, f"{words.NAMES[name]}: {share:.1%} silent after {t:,} tokens") for t, share in curve
        ]
        lines.append(Line(words.NAMES[name], points, *LOOKS[name]))
    title = "Latents that have not fired (share) by tokens seen"
    return chart(lines, "tokens seen", title, (True, False)) if lines else ""


def _context(place: Mapping[str, Any]) -> str:
    if "token" not in place:
        return f"<q>{escape(', '.join(f'{k} {place[k]}' for k in ('document', 'position') if k in place))}</q>"
    before, token, after = (escape(words.visible(str(place[key]))) for key in ("before", "token", "after"))
    return f"<q>…{before}<mark>{token or '∅'}</mark>{after}…</q>"


def _latents(latents: Mapping[str, Any], n: int) -> str:
    cards = []
    for entry in latents["missed"]:
        part = entry["missed"] / max(entry["pursuit"], 1)
        cards.append(
            f'<div class="card"><header><strong>latent {entry["latent"]}</strong>'
            f"<span>missed on {entry['missed']:,} of {entry['pursuit']:,}</span></header>"
            f'<div class="track"><i style="width:{100 * part:.0f}%"></i></div>'
            + "".join(_context(place) for place in entry["strongest"])
            + "</div>"
        )
    if not cards:
        return ""
    return (
        "<h2>Latents that the encoder misses</h2><p>Pursuit, with as many latents on each token, uses these where the "
        f"encoder leaves them at zero: most often of all, on {n:,} tokens. Below each, where pursuit's code is "
        f'largest.</p><div class="cards">{"".join(cards)}</div>'
    )


def _worst(tokens: Iterable[Mapping[str, Any]]) -> str:
    rows = "".join(
        f"<tr><td>{short(token['encoder'])}</td><td>{short(token['pursuit'])}</td>"
        f'<td style="text-align:left;white-space:normal">{_context(token)}</td></tr>'
        for token in tokens
    )
    return (
        "<h2>Tokens where the guess is worst</h2><p>By what pursuit takes off the squared error, as a share of the "
        'token\'s energy ‖x‖².</p><div class="scroll"><table><tr><th>encoder</th><th>pursuit</th>'
        f'<th style="text-align:left">token</th></tr>{rows}</table></div>'
    )


def _about(result: Mapping[str, Any]) -> str:
    facts = {
        "NMSE": "squared error as a share of the activations' energy; FVE: 1 − error over variance",
        "intervals": "95 %, jackknife over documents, or groups of them",
        "values": "from the encoder's codes to nonnegative least squares on their own support",
        "support": "from there to orthogonal matching pursuit with as many latents on each token",
        "L1 optimum": "certified to a relative gap, at the λ that gives the encoder's L0",
        "random dictionary": "pursuit on random unit atoms: what a dictionary that learned nothing would do",
        "MFLOP": "operations a token by formula, what depends on the dictionary alone left out",
        **{key: value for key, value in result["provenance"].items() if isinstance(value, str | int | float)},
        "SAE file": result["sae"].get("sha256", ""),
    }
    rows = "".join(f"<dt>{escape(str(k))}</dt><dd>{escape(str(v))}</dd>" for k, v in facts.items() if v != "")
    notes = "".join(f"<p>{escape(note)}</p>" for note in result.get("notes", ()))
    return f"<details open><summary>Terms and provenance</summary>{notes}<dl>{rows}</dl></details>"
