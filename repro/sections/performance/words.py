"""The committed timings in sentences, and the README's table of them."""

from __future__ import annotations

from pathlib import Path

from repro.sections.performance.timings import UNIT, bench, facts, is_gpu
from repro.sections.types import DataFrame, Series

ON_GPUS = {
    "correct": "tests and memcheck of the kernels",
    "kernels": "the operations",
    "solvers": "the solvers",
    "pursuit": "pursuit",
    "train": "training",
    "agree": "an evaluation beside the CPU's",
}
"""Tables that `.ci/gpu` writes, and what is in them."""
SHORT = {
    UNIT: "the published 200 ISTA steps (numpy)",
    "scikit-learn 1e-3": "scikit-learn, gap 1e-3",
    "celer 1e-3": "celer, gap 1e-3",
    "skglm kkt 1e-3": "skglm, KKT violation 1e-3",
    "fista 1e-3": "`fista`, gap 1e-3 or 1,000 steps",
    "working_set 1e-3": "`working_set`, gap 1e-3",
}


def findings(table: DataFrame, d: int = 768, m: int = 16384, method: str = "working_set 1e-3") -> str:
    """How much faster the certified solver is than each other method, as sentences with every number from the table."""
    lines = []
    for _, part in table[(table["d"] == d) & (table["m"] == m)].groupby("target_l0"):
        by = part.set_index("method")
        if method not in by.index or UNIT not in by.index:
            continue
        ours = by.loc[method]
        excess = float(by.loc[UNIT, "objective"]) / float(ours["objective"]) - 1
        others = [_times(by.loc[o], ours) for o in by.index if _library(o)]
        lines.append(
            f"- Optimum of {ours['l0']:.0f} nonzeros: {ours['ms_per_token']:.2f} ms a token over {ours['tokens']:.0f} "
            f"tokens, every one certified to {ours['relative_gap_max']:.1e}; "
            f"**{ours['times_faster']:.0f}× as fast as the published 200 steps** of the same run, whose "
            f"objective is {excess:+.0%} from it with {by.loc[UNIT, 'l0']:.0f} nonzeros"
            + (f". Against libraries: {', '.join(others)}." if others else ".")
        )
    stream = table[table["method"].str.startswith(method) & table["method"].str.contains("tokens")]
    for _, row in stream.iterrows():
        lines.append(
            f"- {row['tokens']:,} tokens in one stream: {row['ms_per_token']:.2f} ms a token, every one certified to "
            f"{row['relative_gap_max']:.1e}, {row['extra_mib']:,.0f} MiB more than before the call; dense codes of "
            f"so many tokens would take {row['tokens'] * row['m'] * 4 / 2**20:,.0f} MiB."
        )
    once = table[(table["d"] == d) & (table["m"] == m) & table["method"].str.contains("preparing")]["ms_per_token"]
    if len(once):
        lines.append(
            f"- Once a dictionary, not in the times above: {once.median():.0f} ms (bfloat16 copy and error bounds); "
            "neither is the Lipschitz constant of the ISTA rows."
        )
    steps = table[(table["d"] == d) & (table["m"] == m)]["method"].str.extract(r"^ista (\d+) steps$")[0].dropna()
    products = (table.loc[steps.index, "times_the_two_gemms"] / steps.astype(int)).groupby(steps.astype(int)).mean()
    if len(products):
        costs = ", ".join(f"{ratio:.2f}× for {k}" for k, ratio in products.items())
        lines.append(f"- The published steps by `ista`, in units of the two products that each step needs: {costs}.")
    return f"At d = {d}, {m:,} atoms:\n\n" + "\n".join(lines)


WAYS = {
    "least squares on the encoder's": "least squares on its own support",
    "omp": "orthogonal matching pursuit",
    "ompr, warm": "pursuit with replacement",
    "optimum, gap 1e-3": "the L1 optimum of as many nonzeros, certified to 1e-3",
    "repro price": "the whole of `repro price`",
}
"""Rows of `repro bench pursuit` that the sentences name."""


def gains(folder: Path | None = None) -> str:
    """What better codes cost in units of the encoder's product, a line a shape."""
    table = bench("pursuit", folder)
    if table is None:
        return "Not measured on any machine yet."
    lines = []
    for (device, d, m, k), part in table.groupby(["device", "d", "m", "k"], sort=False):
        by = part.set_index("method")
        unit = by.loc["x @ W_enc", "ms_per_token"]
        costs = [f"{name} {_round(by.loc[w, 'times_the_encoder'])}×" for w, name in WAYS.items() if w in by.index]
        lines.append(
            f"- **{d} × {m:,}, k = {k}** ({device}): the encoder's product takes {unit:.2g} ms a token; "
            f"{', '.join(costs)}."
        )
    return "\n".join(lines)


def memory(folder: Path | None = None) -> str:
    """MiB that inference takes beyond its inputs and what it returns, a line a number of tokens and a shape."""
    table = bench("memory", folder)
    if table is None:
        return "Memory of inference: not measured on any machine yet."
    lines = []
    for (tokens, d, m), part in table.groupby(["tokens", "d", "m"], sort=False):
        each = ", ".join(f"{way} {max(mib, 0):,.0f}" for way, mib in zip(part["way"], part["beyond_mib"]))
        lines.append(f"- {tokens:,} tokens, {d} × {m:,}: {each} MiB.")
    return "\n".join(lines)


def _round(times: float) -> str:
    """A tenth matters below ten."""
    return f"{times:.1f}" if times < 10 else f"{times:,.0f}"


def _times(theirs: Series, ours: Series) -> str:
    """How much longer a library takes; both times in units of the published steps of their own run."""
    note = "" if theirs["date"] == ours["date"] and theirs["commit"] == ours["commit"] else " (another run)"
    return f"{ours['times_faster'] / theirs['times_faster']:.0f}× {theirs.name}{note}"


def _library(method: str) -> bool:
    return method.startswith(("scikit-learn", "celer", "skglm"))


def gpus(folder: Path | None = None) -> str:
    """Which tables have rows from a GPU, and plainly which have none, as sentences."""
    devices: dict[str, list[str]] = {}
    for name in ON_GPUS:
        table = bench(name, folder)
        for device in [] if table is None else table["device"].dropna().unique():
            if is_gpu(device):
                devices.setdefault(device, []).append(name)
    how = "`.ci/gpu` measures them on one in eight minutes, and the tables below get a column for it"
    if not devices:
        return f"**Nothing on this page was measured on a GPU yet**: not {', not '.join(ON_GPUS.values())}. {how}."
    lines = [f"- {device}: {', '.join(ON_GPUS[name] for name in names)}." for device, names in devices.items()]
    missing = [about for name, about in ON_GPUS.items() if not any(name in names for names in devices.values())]
    rest = f"\n\nNot measured on a GPU: {', '.join(missing)}; {how}." if missing else ""
    return "Measured on a GPU:\n\n" + "\n".join(lines) + rest


def choices(folder: Path | None = None) -> str:
    """The best `auto` for each device and the reason, from solvers.csv, as sentences; nothing without rows."""
    table = bench("solvers", folder)
    if table is None:
        return ""
    rows = table[table["method"] == "auto"]
    return "\n".join(f"- {row['device']}: {row['reason']}" for _, row in rows.iterrows())


def readme_table() -> str:
    """Markdown: ms a token of each method at (768, 16k), and what it was measured on."""
    table = bench("inference")
    if table is None:
        return "*Not measured yet: `repro bench inference`.*"
    part = table[(table["d"] == 768) & (table["m"] == 16384) & table["method"].isin(SHORT)]
    l0s = sorted(part["target_l0"].unique())
    lines = [
        "| ms a token, 768 × 16,384 | " + " | ".join(f"optimum of {l:g}" for l in l0s) + " |",
        "|---|" + "--:|" * len(l0s),
    ]
    for method, name in SHORT.items():
        rows = part[part["method"] == method].set_index("target_l0")
        if len(rows):
            cells = [f"{rows.loc[l, 'ms_per_token']:.2f}" if l in rows.index else "–" for l in l0s]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n\n" + facts(part[["device", "torch", "date"]])
