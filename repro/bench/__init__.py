"""Timings: `repro bench NAME` appends rows to data/bench/NAME.csv.

A dataclass for each bench, its fields as flags; argparse, because a bare GPU machine has no tyro.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BENCHES = {
    "inference": "Sparse codes: every solver, its time and what it proves.",
    "pursuit": "Codes of at most k nonzeros, in encoder passes.",
    "memory": "Inference of many tokens: memory beyond its inputs and what it returns.",
    "kernels": "The package's operations against this device's floor.",
    "evaluate": "A whole evaluation: tokens a second and memory.",
    "collect": "Collecting activations against the bare forward pass; memory.",
    "train": "Training: tokens a second for every variant.",
    "solvers": "Every solver on one device; what auto should take there.",
    "agree": "A trained SAE evaluated on this device and on the CPU: the same rows?",
    "correct": "The tests that matter on a GPU, and memcheck of the kernels.",
    "scale": "Several workers: rows a minute and cost a task of every engine.",
}
"""Name of a bench and of its module, whose class of that name, capitalised, holds the flags: what it measures."""


def run(args: Sequence[str]) -> Any:
    """Run the benchmark that the arguments name; returns the file that its rows were appended to."""
    parser = argparse.ArgumentParser("repro bench", description="Timings are appended to data/bench/NAME.csv.")
    names = parser.add_subparsers(dest="bench", required=True, metavar="NAME")
    for name, help in BENCHES.items():
        names.add_parser(name, help=help, add_help=False)
    chosen, rest = parser.parse_known_args(args)
    config = getattr(importlib.import_module(f"repro.bench.{chosen.bench}"), chosen.bench.capitalize())
    flags = argparse.ArgumentParser(
        f"repro bench {chosen.bench}",
        description=BENCHES[chosen.bench],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    hints = typing.get_type_hints(config)
    for f in dataclasses.fields(config):
        flags.add_argument("--" + f.name.replace("_", "-"), default=f.default, **_how(hints[f.name], f))
    return config(**vars(flags.parse_args(rest))).run()


def _how(hint: Any, f: dataclasses.Field[Any]) -> dict[str, Any]:
    """argparse's keywords for one field: bool, Literal, tuple[T, ...], T or T | None."""
    about = {"help": f.metadata.get("help", "") or " "}
    if hint is bool:
        return about | {"action": argparse.BooleanOptionalAction}
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return about | {"choices": inner}
    if origin is tuple:
        return about | {"nargs": "*", "type": inner[0]}
    if origin in (typing.Union, types.UnionType):
        hint = next(t for t in inner if t is not type(None))
    return about | {"type": Path if hint is Path else hint}
