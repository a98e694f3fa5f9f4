"""Watchers: the lines of log.jsonl sent to TensorBoard or Weights & Biases as well, where a run is asked to."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from repro.base.errors import BadInput, missing_extra

Watch = Callable[[Path, dict[str, Any]], None]


def watcher(services: Sequence[str]) -> Watch:
    """watch(folder of the SAE, line of its log) for these services; none = nothing is sent.

    TensorBoard's event files lie in tensorboard/ beside the SAE's log; Weights & Biases gets a run an SAE, named by
    its folder, which a resumed training continues (WANDB_PROJECT and the other variables of that service hold).
    Raises BadInput for a service whose package is not installed.
    """
    for name in services:
        if name not in OPEN:
            raise BadInput(f"Cannot log to '{name}'; there are {', '.join(OPEN)}.")
        if importlib.util.find_spec(name) is None:
            raise missing_extra(name, name)
    opened: dict[Path, list[Callable[[dict[str, Any]], None]]] = {}

    def watch(folder: Path, line: dict[str, Any]) -> None:
        if folder not in opened:
            opened[folder] = [OPEN[name](folder) for name in services]
        for send in opened[folder]:
            send(line)

    return watch


def _tensorboard(folder: Path) -> Callable[[dict[str, Any]], None]:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder / "tensorboard"))

    def send(line: dict[str, Any]) -> None:
        for name, value in line.items():
            if name != "step":
                writer.add_scalar(name, value, line["step"])
        writer.flush()

    return send


def _wandb(folder: Path) -> Callable[[dict[str, Any]], None]:
    import wandb

    name = "/".join(folder.parts[-3:])  # variant/layer/trainer
    run = wandb.init(name=name, id=name.replace("/", "-"), dir=str(folder), resume="allow", reinit="create_new")
    return lambda line: run.log({k: v for k, v in line.items() if k != "step"}, step=line["step"])


OPEN: dict[str, Callable[[Path], Callable[[dict[str, Any]], None]]] = {"tensorboard": _tensorboard, "wandb": _wandb}
