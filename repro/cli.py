"""The command line: `repro COMMAND --help`. Exit status 0 done, 2 bad input (one sentence), 1 anything else.

Nothing heavy is imported before a command is chosen and its flags are read.
"""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: spinning threads slow small machines down ninefold

from repro.base.errors import (
    BadInput,
    NotebookFailed,
    TasksFailed,
    bad_path,
    disk_full,
    exhausted,
    extra_for,
    nearest,
)
from repro.base.files import at_home, check_writable


@dataclass(frozen=True)
class Command:
    """A command: the dataclass of its flags, and the function that takes it.

    Both as module:name, below repro.commands where the module does not say otherwise.
    """

    flags: str
    run: str
    help: str
    markers: tuple[str, ...] = ()
    """Of tyro.conf: how the fields become flags."""

    @property
    def exits(self) -> str:
        """What each exit status means."""
        return f"Exit status: 0 {EXITS.get(self.run, DONE)}, 2 bad input (one sentence on stderr)."


DONE = "done, 1 anything else"
EXITS = {
    "many:index": "all files read, 1 some were refused (rows with a reason)",
    "many:evaluate": "all checkpoints evaluated, 1 some failed (rows with a reason in the column note)",
    "check:check": "nothing looks wrong, 1 a sentence says what looks wrong",
}
"""Function of a command -> what its exit statuses 0 and 1 mean, where they say more than DONE."""
_CONFIG = "repro.base.config:RunConfig"
_PLAIN = ("OmitArgPrefixes",)  # --workers, not --fanout.workers
_NAMED = ("PositionalRequiredArgs",)

COMMANDS = {
    name: Command(*row)
    for name, *row in (
        (
            "collect",
            _CONFIG,
            "repro.activations.collect:collect",
            "Write a language model's activations to a file.",
        ),
        ("index", _CONFIG, "many:index", "List all checkpoints below some folders: checkpoint_index.parquet."),
        ("evaluate", _CONFIG, "many:evaluate", "Evaluate every listed checkpoint: metrics.parquet."),
        ("visualize", _CONFIG, "visualize:visualize", "Draw metrics.parquet: fig_*.html and fig_*.png."),
        ("compare", "flags:CompareConfig", "one:compare", "One SAE, three modes: {model}_{variant}_3modes.json."),
        ("sweep", "flags:SweepConfig", "one:sweep", "One SAE, many step counts: {model}_{variant}_semi_sweep.json."),
        ("price", "flags:PriceConfig", "price:run", "What one SAE's guess costs: price.json, price.html."),
        ("train", "training_flags:TrainConfig", "train:run", "Train SAEs, in dictionary_learning's layout.", _PLAIN),
        ("loca train", "training_flags:LocaTrain", "loca:train", "LocA-SAE's four phases: multi_encoder_sae.pt, …"),
        ("loca convert", "training_flags:LocaConvert", "loca:convert", "A LocA folder as one SAE in one file: ae.pt."),
        (
            "loca evaluate",
            "training_flags:LocaEvaluate",
            "loca:evaluate",
            "A LocA-SAE: {model}_loc_amt_sae_metrics.json.",
        ),
        ("check", "flags:Check", "check:check", "Check an SAE against activations: layer, units, L0, norms.", _NAMED),
        ("fetch-model", "flags:FetchModel", "fetch:model", "Prepare a language model for offline use.", _NAMED),
        (
            "fetch-text",
            "flags:FetchText",
            "fetch:text",
            "Prepare a text for offline use.",
            _NAMED,
        ),
        ("fetch-sae", "flags:FetchSae", "fetch:sae", "Download released SAEs.", _NAMED),
        ("notebook", "flags:Notebook", "report:notebook", "Execute one notebook with papermill.", _NAMED),
        ("report", "flags:Report", "report:report", "Execute all notebooks and build the book.", _PLAIN),
        ("claims", "flags:Claims", "claims:claims", "Print the ledger of claims and write it as csv.", _PLAIN),
        ("status", "flags:Status", "status:status", "Tasks of a run with several workers: done, failed, …", _NAMED),
        ("bench", "", "repro.bench:run", "Time the kernels and whole runs: data/bench/NAME.csv."),
    )
}
"""Every command by name."""


def usage(group: str = "") -> str:
    """The help of the whole program, or of a group of commands such as loca."""
    named = {name: command for name, command in COMMANDS.items() if name.startswith(group)}
    width = max(map(len, named))
    lines = [f"  {name:{width}s}  {command.help}" for name, command in named.items()]
    return "\n".join(
        [
            f"usage: repro {group and group + ' '}COMMAND [--flags]",
            "",
            "The price of amortized inference in sparse autoencoders: reproduced, and asked of your own SAE.",
            "`repro COMMAND --help` documents every flag with its default and unit, and each exit status.",
            "",
            *lines,
        ]
    )


def choose(args: list[str]) -> tuple[str, list[str]]:
    """The name of the command in the arguments, and the arguments after it; BadInput that names the nearest one."""
    for words in (1, 2):
        if (name := " ".join(args[:words])) in COMMANDS:
            return name, args[words:]
    word = " ".join(args[:2]) if args[:1] == ["loca"] else " ".join(args[:1])
    raise BadInput(f"No command '{word}'{nearest(word, COMMANDS)}; `repro --help` lists them.")


def parse(args: list[str]) -> tuple[Command, Any]:
    """Arguments -> (command, its config): YAML of --config first, flags on top."""
    name, rest = choose(args)
    command = COMMANDS[name]
    if not command.flags:
        return command, rest
    import tyro

    config, more, default = load(command.flags), "", {}
    if command.flags == _CONFIG:
        from repro.base.config import load_yaml

        rest, path = _take_config(rest)
        default = {"default": load_yaml(config, path) if path else config()}
        more = " Reads a YAML file with --config FILE; flags override it."
    markers = tuple(getattr(tyro.conf, marker) for marker in command.markers)
    return command, tyro.cli(
        config,
        args=rest,
        prog=f"repro {name}",
        description=f"{command.help}{more} {command.exits}",
        config=markers,
        **default,
    )


def load(place: str) -> Any:
    """The dataclass or function that a command names."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module if module.startswith("repro.") else f"repro.commands.{module}"), name)


def _take_config(args: list[str]) -> tuple[list[str], str | None]:
    """Remove --config FILE (or --config=FILE) from the arguments."""
    rest: list[str] = []
    path = None
    words = iter(args)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag != "--config":
            rest.append(word)
            continue
        path = value if equals else next(words, None)
        if not path:
            raise BadInput("--config needs the path of a YAML file.")
    return rest, path


def _outside(error: Exception) -> tuple[int, str]:
    """(exit status, sentence) for what is wrong outside this program: no room, no memory, a path or a package."""
    if sentence := exhausted(error):
        return 1, sentence
    if disk_full(error):
        place = getattr(error, "filename", None)
        where = f" for {place}" if place else ""
        return 1, f"No space left{where}: free some and run the same command again; what is finished is kept."
    return 2, str(bad_path(error) or extra_for(error) or "")


def main(args: list[str] | None = None) -> None:
    """Entry point of `repro` and `python -m repro`."""
    args = list(sys.argv[1:] if args is None else args)
    try:
        if not args or (args[-1] in ("--help", "-h") and args[:-1] in ([], ["loca"])):
            print(usage(*args[:-1]), file=sys.stdout if args else sys.stderr, flush=True)
            raise SystemExit(0 if args else 2)
        command, config = parse(args)
        config = at_home(config)
        check_writable(config)
        written = load(command.run)(config)
    except KeyboardInterrupt:
        status = 1
        sentence = "stopped; what was finished is kept, and the same command goes on from there."
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise SystemExit(1) from None
    except (BadInput, NotebookFailed, TasksFailed) as error:
        status, sentence = 2 if isinstance(error, BadInput) else 1, str(error)
    except Exception as error:
        status, sentence = _outside(error)
        if not sentence:
            raise
    else:
        for path in written if isinstance(written, list) else [written]:
            if path is not None:
                print(path)
        return
    print(f"repro: {sentence}", file=sys.stderr)
    raise SystemExit(status)


if __name__ == "__main__":
    main()
