"""The tests of the claims: tables in, the effect under both protocols and the verdict out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from repro.sections.effects import (
    FAILS,
    HOLDS,
    OPEN,
    PART,
    PROTOCOLS,
    UNTESTED,
    Effect,
    Finding,
    Tables,
    along,
    difference,
    refined,
    sparsest_minus_densest,
    trained,
)


def short(effect: Effect | str) -> str:
    return effect if isinstance(effect, str) else f"{effect.value:+.3f}"


def sparsity(metric: str) -> Callable[[Tables], Finding]:
    """Does the metric rise with sparsity?"""

    def test(tables: Tables) -> Finding:
        released = sparsest_minus_densest(tables["comparison"], "as_released", metric)
        corrected = sparsest_minus_densest(trained(tables), "corrected", metric)
        return Finding(released, corrected, HOLDS if corrected.above else FAILS if corrected.below else OPEN)

    return test


def c2(tables: Tables) -> Finding:
    found = {}
    for protocol in PROTOCOLS:
        table = along(tables)
        part = table[(table["protocol"] == protocol) & (table["variant"] == "standard")]
        dense = part["dense@0.2"] > 0.66
        early = part["step"] <= 0.01 * part["step"].max()
        found[protocol] = (int((dense & early & (part["step"] > 0)).sum()), int((dense & (part["step"] == 0)).sum()))
    trained, initial = found["corrected"]
    text = {p: f"{a} trained, {b} at initialisation" for p, (a, b) in found.items()}
    if trained == 0 and initial == 0:
        return Finding(text["as_released"], text["corrected"], FAILS)
    why = "initialisation: within the first 1 % of training weights have hardly moved"
    return Finding(text["as_released"], text["corrected"], "holds, explained by initialisation", why)


def c3(metric: str) -> Callable[[Tables], Finding]:
    def test(tables: Tables) -> Finding:
        effects = {}
        for protocol in PROTOCOLS:
            table = along(tables)
            part = table[(table["protocol"] == protocol) & (table["variant"] == "standard") & (table["step"] > 0)]
            rho = [line["step"].corr(line[metric], method="spearman") for _, line in part.groupby("sparsity")]
            effects[protocol] = Effect.of(rho)
        c = effects["corrected"]
        if c.n < 3:
            return Finding(effects["as_released"], c, OPEN, FEW)
        return Finding(effects["as_released"], c, HOLDS if c.above else FAILS if c.below else OPEN)

    return test


FEW = "fewer than three trajectories: two rank correlations that happen to agree would pass for certainty"


def c4(tables: Tables) -> Finding:
    effects = {}
    for protocol, gap in (("as_released", "amort_gap_mean"), ("corrected", "amort_gap_relative")):
        table = along(tables)
        part = table[(table["protocol"] == protocol) & (table["step"] > 0)].dropna(subset=[gap])
        lines = [line for _, line in part.groupby(["variant", "sparsity"]) if len(line) > 2]
        effects[protocol] = Effect.of([line["step"].corr(line[gap], method="spearman") for line in lines])
    c = effects["corrected"]
    if c.n < 3:
        return Finding(effects["as_released"], c, OPEN, FEW)
    return Finding(effects["as_released"], c, HOLDS if c.below else FAILS if c.above else OPEN)


def c4_others(tables: Tables) -> Finding:
    from repro.sections.dynamics.run import gap_correlations

    effects = {}
    for protocol in PROTOCOLS:
        rho = gap_correlations(along(tables), protocol)
        effects[protocol] = {m: Effect.of(rho.loc[rho["metric"] == m, "rho"]) for m in PATHOLOGIES}
    c = effects["corrected"]
    text = {p: "; ".join(f"{m} {short(e)}" for m, e in of.items()) for p, of in effects.items()}
    if max(e.n for e in c.values()) < 3:
        return Finding(text["as_released"], text["corrected"], OPEN, FEW)
    follow = [m for m, e in c.items() if e.above]
    if not follow:
        return Finding(text["as_released"], text["corrected"], HOLDS)
    why = f"{', '.join(follow)} falls with the gap (rank correlation above 0)"
    return Finding(text["as_released"], text["corrected"], FAILS if len(follow) == len(c) else PART, why)


PATHOLOGIES = ("dead_rate", "dense@0.1", "absorption", "dF1")


def c5(metric: str, mode: str) -> Callable[[Tables], Finding]:
    def test(tables: Tables) -> Finding:
        released = difference(tables["comparison"], "as_released", mode, metric)
        corrected = refined(tables, mode, metric)
        if corrected.below:
            return Finding(released, corrected, HOLDS)
        if released.value < 0 and corrected.above:
            why = "the drop appears only where density is not matched"
            shrunk = "; at matched L0 the L1 term shrinks the codes (C5e undoes it)" if metric == "NMSE" else ""
            return Finding(released, corrected, FAILS, why + shrunk)
        if corrected.above:
            return Finding(released, corrected, FAILS)
        if released.value < 0:
            return Finding(released, corrected, OPEN, "the released drop has no counterpart at matched L0")
        return Finding(released, corrected, OPEN)

    return test


def c5_labels(metric: str, mode: str) -> Callable[[Tables], Finding]:
    """Does the metric fall whatever the label of the probes, at matched L0?"""

    def test(tables: Tables) -> Finding:
        means = tables["probe_means"]
        part = means[(means["metric"] == metric) & (means["mode"] == mode)].dropna(subset=["change_low"])
        found = {
            row["label"]: Effect(row["change"], row["change_low"], row["change_high"], int(row["saes"]))
            for _, row in part.iterrows()
        }
        falls, rises = (
            [name for name, e in found.items() if side(e)] for side in (lambda e: e.below, lambda e: e.above)
        )
        released = difference(tables["comparison"], "as_released", mode, metric) if "comparison" in tables else "–"
        text = "; ".join(f"{name} {short(e)}" for name, e in found.items())
        why = (
            f"of {len(found)} labels, falls for {', '.join(falls) or 'none'} and rises for {', '.join(rises) or 'none'}"
        )
        if not found:
            return Finding(released, "–", OPEN)
        if len(falls) == len(found):
            return Finding(released, text, HOLDS)
        return Finding(released, text, PART if falls else FAILS if rises else OPEN, why)

    return test


def c6_dead(tables: Tables) -> Finding:
    effects, starts = {}, {}
    for protocol in PROTOCOLS:
        part = tables["sweep"][tables["sweep"]["protocol"] == protocol].set_index(["sparsity", "steps"])["dead_rate"]
        part = part.unstack("steps")
        effects[protocol] = Effect.of((part[5] - part[0]).to_numpy())
        starts[protocol] = float(part[0].mean())
    if starts["corrected"] < 0.01:
        why = "the real encoder has almost no dead latents, so there is nothing to fix"
        return Finding(effects["as_released"], effects["corrected"], UNTESTED, why)
    c = effects["corrected"]
    return Finding(effects["as_released"], c, HOLDS if c.below else FAILS if c.above else OPEN)


def c6_monotone(tables: Tables) -> Finding:
    shares = {}
    for protocol in PROTOCOLS:
        part = tables["sweep"][(tables["sweep"]["protocol"] == protocol) & (tables["sweep"]["steps"] >= 0)]
        falls = []
        for _, line in part.groupby("sparsity"):
            falls += list(np.diff(line.sort_values("steps")["NMSE"]) <= 0)
        shares[protocol] = float(np.mean(falls)) if falls else float("nan")
    text = {p: f"falls in {s:.0%} of the intervals" for p, s in shares.items()}
    verdict = HOLDS if shares["corrected"] == 1 else FAILS
    return Finding(text["as_released"], text["corrected"], verdict)


def c7(tables: Tables) -> Finding:
    from repro.sections.loca.figures import differences

    table = tables["loca_ablations"]
    names = ("dead_rate", "dF1", "absorption")
    plain = {m: Effect.of(differences(table, "loca", "topk", m)) for m in (*names, "NMSE")}
    by_chance = {m: Effect.of(differences(table, "loca", "random", m)) for m in names}
    part = table[table["protocol"] == "as_released"]
    released = f"NMSE {part['NMSE'].mean():.3g} at L0 {part['L0'].mean():.0f}: training stops at its first step"
    corrected = "; ".join(f"{m} {effect}" for m, effect in plain.items())
    lowered = [m for m in names if plain[m].below]
    worse = ", at a higher error" if plain["NMSE"].above else ""
    if len(lowered) == len(names):
        if any(by_chance[m].below for m in names):
            return Finding(released, corrected, HOLDS)
        why = "random groups do as well: it is not the doing of angular variance"
        return Finding(released, corrected, PART, why)
    if lowered:
        why = f"against Top-K trained on for as long, only {', '.join(lowered)} falls{worse}"
        return Finding(released, corrected, PART, why)
    if plain["NMSE"].n < 3:
        return Finding(released, corrected, OPEN, "fewer than three seeds: no interval worth the name")
    why = f"no drop in any of the three is shown against Top-K trained on for as long{worse}"
    return Finding(released, corrected, FAILS, why)


def c8(tables: Tables) -> Finding:
    parts = {m: c5(m, "non")(tables) for m in PATHOLOGIES}
    released = "; ".join(f"{m} {short(f.released)}" for m, f in parts.items())
    corrected = "; ".join(f"{m} {short(f.corrected)}" for m, f in parts.items())
    verdicts = [f.verdict for f in parts.values()]
    if all(v == HOLDS for v in verdicts):
        return Finding(released, corrected, HOLDS)
    if HOLDS not in verdicts:
        why = "the certified optimum of the same dictionary at the same L0 lowers none of the four"
        return Finding(released, corrected, FAILS, why)
    lowered = ", ".join(m for m, f in parts.items() if f.verdict == HOLDS)
    return Finding(released, corrected, PART, f"the certified optimum at the same L0 lowers only {lowered}")


def c8_pursuit(tables: Tables) -> Finding:
    import pandas as pd

    both = pd.concat([tables["comparison"], tables["controls"]], ignore_index=True)
    parts = {m: refined({**tables, "comparison": both}, "pursuit", m) for m in PATHOLOGIES}
    effects = "; ".join(f"{m} {short(e)}" for m, e in parts.items())
    lowered = [m for m, e in parts.items() if e.below]
    if len(lowered) == len(parts):
        return Finding("–", effects, HOLDS)
    if not lowered:
        return Finding("–", effects, FAILS, "pursuit under the encoder's own k lowers none of the four")
    return Finding("–", effects, PART, f"pursuit under the encoder's own k lowers only {', '.join(lowered)}")
