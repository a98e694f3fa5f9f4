"""The committed timings of `repro bench` as tables."""

from __future__ import annotations

from pathlib import Path

from repro.base.files import repo_root
from repro.sections.types import DataFrame

ORDER = (
    "numpy ISTA-200",
    "ista 5 steps",
    "ista 30 steps",
    "fista 1e-3",
    "working_set 1e-2",
    "working_set 1e-3",
    "working_set 1e-4",
    "scikit-learn 1e-3",
    "celer 1e-3",
    "skglm kkt 1e-3",
)
ABOUT = ("device", "torch", "numpy", "numba", "scikit-learn", "celer", "skglm", "triton", "commit", "date")
KEYS: dict[str, tuple[str, ...]] = {
    "inference": ("data", "d", "m", "target_l0", "method"),
    "kernels": ("operation", "impl", "precision", "stored", "n", "d", "m", "k"),
    "solvers": ("d", "m", "lam_share", "method", "tokens"),
    "agree": ("m", "k", "mode", "tokens"),
    "correct": ("test",),
    "pursuit": ("d", "m", "k", "method"),
    "evaluate": ("protocol", "mode", "tokens", "d", "m"),
    "memory": ("way", "tokens", "d", "m"),
    "scale": ("engine", "workers", "tasks", "tokens", "d", "m"),
    "train": ("variant", "implementation", "d", "m", "k", "batch", "steps", "seed", "grad_clip", "precision"),
}
"""Columns that identify a row of each benchmark; a newer row about the same thing replaces it in the book."""
USUAL = {"precision": "float32", "stored": "float32"}
"""Values of rows that were written before a column was there."""
UNIT = "numpy ISTA-200"


def bench(name: str, folder: Path | None = None) -> DataFrame | None:
    """The newest row of everything that was measured, from data/bench/<name>.csv; None where there is no file."""
    import pandas as pd

    path = (folder or repo_root() / "data" / "bench") / f"{name}.csv"
    if not path.is_file():
        return None
    table = pd.read_csv(path)
    for column in (c for c in USUAL if c in table):
        table[column] = table[column].fillna(USUAL[column])
    keys = [k for k in (*KEYS[name], "device") if k in table]
    return table.sort_values("date", kind="stable").drop_duplicates(keys, keep="last").sort_index()


def facts(table: DataFrame) -> str:
    """Device, versions, commits and dates of a table's rows, in a sentence."""
    parts = []
    for column in (c for c in ABOUT if c in table):
        values = table[column].dropna().astype(str).unique()
        if len(values):
            shown = f"{values.min()} to {values.max()}" if column == "date" and len(values) > 1 else ", ".join(values)
            parts.append(shown if column == "device" else f"{column} {shown}")
    return "Measured on " + "; ".join(parts) + "."


def is_gpu(device: str) -> bool:
    """Is this the name of a GPU? `bench.common.machine` names a processor with its threads."""
    return "threads" not in device


def per_device(table: DataFrame, index: list[str], columns: list[str]) -> DataFrame:
    """Rows by `index`, and for each device that has rows a group of columns with these numbers."""
    columns = [c for c in columns if c in table and table[c].notna().any()]
    wide = table.pivot_table(index=index, columns="device", values=columns, aggfunc="last", sort=False)
    order = [(column, device) for device in table["device"].unique() for column in columns]
    wide = wide[[pair for pair in order if pair in wide.columns]]
    return wide.swaplevel(axis=1)


def solvers(folder: Path | None = None) -> DataFrame | str:
    """ms a token, multiples of an encoder pass and certified share by problem and method; a sentence without rows."""
    table = bench("solvers", folder)
    if table is None:
        return "No device has rows yet: `repro bench solvers`, or `.ci/gpu inference` on a GPU."
    rows = table[table["method"] != "auto"]
    return per_device(
        rows, ["d", "m", "lam_share", "method"], ["ms_per_token", "times_the_encoder", "certified", "l0"]
    ).round(4)


def better_codes(folder: Path | None = None) -> DataFrame | str:
    """What codes better than the encoder's cost, by shape and way; a sentence without rows.

    `residual` is the squared error as a share of that of the encoder's k latents with least squares.
    """
    table = bench("pursuit", folder)
    if table is None:
        return "No device has rows yet: `repro bench pursuit`."
    columns = ["ms_per_token", "times_the_encoder", "residual", "l0", "extra_mib"]
    return per_device(table, ["d", "m", "k", "method"], columns).round(3)


def two_devices(folder: Path | None = None) -> DataFrame | str:
    """Rows of one trained SAE by mode and number of tokens, a group of columns a device; a sentence without rows."""
    table = bench("agree", folder)
    if table is None:
        return "No device has rows yet: `repro bench agree`, or `.ci/gpu evaluate` on a GPU."
    columns = ["tokens_per_second", "NMSE", "L0", "dead_rate", "NMSE_refit", "lam"]
    return per_device(table, ["m", "k", "mode", "tokens"], columns).round(4)


def whole_runs(table: DataFrame) -> DataFrame:
    """The rows of `repro bench inference` that time a method on a block of tokens: no streams, no preparation."""
    return table[~table["method"].str.contains("tokens|preparing")]


def by_method(table: DataFrame, column: str) -> DataFrame:
    """One column by problem (rows) and method (columns)."""
    whole, index = whole_runs(table), ["data", "d", "m", "target_l0"]
    order = [method for method in ORDER if method in set(whole["method"])]
    return whole.pivot_table(index=index, columns="method", values=column, sort=False)[order]


def times(table: DataFrame) -> DataFrame:
    """Milliseconds a token by problem and method."""
    return by_method(table, "ms_per_token").round(3)


def proofs(table: DataFrame) -> DataFrame:
    """Largest certified relative gap of any token, by problem and method."""
    return by_method(table, "relative_gap_max")


def measured(name: str) -> DataFrame | None:
    """A benchmark's newest rows without columns about versions, with the device if there are several; None without."""
    table = bench(name)
    if table is None:
        return None
    several = table["device"].nunique() > 1
    about = [c for c in ABOUT if c in table and not (several and c == "device")]
    return table.drop(columns=about).dropna(axis=1, how="all")


def training_speed(table: DataFrame) -> DataFrame:
    """Tokens a second of every variant at the largest shape of processors, and of GPUs, ours and the library's."""
    part = table[table["m"] == table.groupby(table["device"].map(is_gpu))["m"].transform("max")]
    columns = ["tokens_per_s", "times_the_library", "share_of_two_products", "share_of_product_rate"]
    columns += ["fve", "l0", "peak_mib"]
    index = ["variant", "implementation", "d", "m", "k", "batch"]
    if "precision" in part and part["precision"].nunique() > 1:
        index.append("precision")
    return per_device(part, index, columns).round(3)


def agreement(table: DataFrame) -> DataFrame:
    """FVE and L0 after the same batches from the same start, ours beside the library's: means over seeds."""
    keys = ["d", "m", "k", "steps", "variant"]
    runs = table.groupby([*keys, "implementation"])["seed"].transform("nunique")
    part = table[runs >= 3].copy()
    unclipped = (part["implementation"] == "repro") & (part["grad_clip"] == 0)
    part.loc[unclipped, "implementation"] = "repro, not clipped"
    wide = part.groupby([*keys, "implementation"], sort=False)[["fve", "l0"]].agg(["mean", "std", "count"])
    return wide.round(4)


def operations(table: DataFrame) -> DataFrame:
    """Every implementation of every operation and shape: time, floor, ratios, memory, error, by device."""
    index = ["operation", "n", "d", "m", "k", "impl"]
    index += [c for c in ("precision", "stored") if c in table and table[c].nunique() > 1]
    columns = ["ms", "floor_ms", "times_floor", "times_faster_than_eager", "share_of_copy_rate"]
    columns += ["share_of_product_rate", "peak_mib", "error"]
    wide = per_device(table, index, columns)
    return wide.sort_index(level=["d", "m", "operation"], sort_remaining=False).round(8)
