"""The command line: `repro COMMAND --help`. Exit status 0 done, 2 bad input (one sentence), 1 anything else."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Union

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: spinning threads slow small machines down ninefold

from repro.config import RunConfig, load_yaml
from repro.errors import BadInput


@dataclass(frozen=True)
class Command:
    """A subcommand: the dataclass of its flags, what it does, one line of help."""

    config: type
    run: Callable[[Any], Any]
    help: str


def commands() -> dict[str, Command]:
    """All subcommands; modules are imported when a command runs, except for the dataclasses of their flags."""
    from repro.activations.fetch import FetchModel
    from repro.checkpoints.check import Check
    from repro.checkpoints.hub import FetchSae
    from repro.report.commands import Notebook, Report
    from repro.training.train import TrainConfig
    from repro.workflow import CompareConfig, SweepConfig, compare, evaluate, index, sweep, visualize

    def collect(config: RunConfig) -> Any:
        from repro.activations.collect import collect

        return collect(config)

    return {
        "collect": Command(RunConfig, collect, "Write the activations of a language model: acts_layer{L}.npy."),
        "index": Command(RunConfig, index, "List all checkpoints below some folders: checkpoint_index.parquet."),
        "evaluate": Command(RunConfig, evaluate, "Evaluate every listed checkpoint: metrics.parquet."),
        "visualize": Command(RunConfig, visualize, "Draw metrics.parquet: fig_*.html and fig_*.png."),
        "compare": Command(CompareConfig, compare, "One SAE, three modes: {model}_{variant}_3modes.json."),
        "sweep": Command(SweepConfig, sweep, "One SAE, many step counts: {model}_{variant}_semi_sweep.json."),
        "train": Command(TrainConfig, lambda c: c.run(), "Train SAEs on saved activations."),
        "check": Command(Check, lambda c: c.run(), "Check an SAE against activations: layer, units, L0, norms."),
        "fetch-model": Command(FetchModel, lambda c: c.run(), "Prepare a language model for offline use."),
        "fetch-sae": Command(FetchSae, lambda c: c.run(), "Download SAEs from the hub."),
        "notebook": Command(Notebook, lambda c: c.run(), "Execute one notebook with papermill."),
        "report": Command(Report, lambda c: c.run(), "Execute all notebooks and build the book."),
    }


def parse(args: list[str]) -> tuple[Command, Any]:
    """Arguments -> (command, its config): YAML of --config first, flags on top."""
    import tyro

    known = commands()
    defaults: dict[str, Any] = {}
    if args and args[0] in known and known[args[0]].config is RunConfig:
        args, path = _take_config(args)
        defaults[args[0]] = load_yaml(RunConfig, path) if path else RunConfig()
    choices = []
    for name, command in known.items():
        given = {"default": defaults[name]} if name in defaults else {}
        choices.append(Annotated[command.config, tyro.conf.subcommand(name, description=_help(command), **given)])
    chosen = tyro.cli(
        Union[tuple(choices)],  # type: ignore[arg-type]  # noqa: UP007
        args=args,
        prog="repro",
        description="The price of amortized inference in sparse autoencoders: reproduced, and asked of your own SAE.",
    )
    return known[args[0]], chosen


def _help(command: Command) -> str:
    more = " Reads a YAML file with --config FILE; flags override it." if command.config is RunConfig else ""
    return command.help + more


def _take_config(args: list[str]) -> tuple[list[str], str | None]:
    """Remove --config FILE (or --config=FILE) from the arguments."""
    rest: list[str] = []
    path = None
    i = 0
    while i < len(args):
        if args[i] == "--config":
            if i + 1 >= len(args):
                raise BadInput("--config needs the path of a YAML file.")
            path = args[i + 1]
            i += 2
            continue
        if args[i].startswith("--config="):
            path = args[i].partition("=")[2]
        else:
            rest.append(args[i])
        i += 1
    return rest, path


def main(args: list[str] | None = None) -> None:
    """Entry point of `repro` and `python -m repro`."""
    args = list(sys.argv[1:] if args is None else args)
    try:
        command, config = parse(args)
        written = command.run(config)
    except BadInput as error:
        print(f"repro: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("repro: stopped; what was finished is kept, and the same command goes on from there.", file=sys.stderr)
        raise SystemExit(1) from None
    for path in written if isinstance(written, list) else [written]:
        if path is not None:
            print(path)


if __name__ == "__main__":
    main()
