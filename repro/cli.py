"""The command line: `repro COMMAND --help`. Exit status 0 done, 2 bad input (one sentence), 1 anything else."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Union

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: spinning threads slow small machines down ninefold

from repro.base.config import RunConfig, load_yaml
from repro.base.errors import BadInput, NotebookFailed, TasksFailed, bad_path, disk_full, exhausted
from repro.jobs.run import Fanout


@dataclass(frozen=True)
class Command:
    """A subcommand: the dataclass of its flags, what it does, one line of help."""

    config: type
    run: Callable[[Any], Any]
    help: str


@dataclass(frozen=True)
class ClaimsConfig:
    """Which ledger."""

    scale: Literal["tiny", "small", "paper"] = "tiny"
    """Scale whose tables are judged."""
    recompute: bool = False
    """Run the notebooks that compute these tables first; they lie under data/cache/claims/."""
    fanout: Fanout = field(default_factory=lambda: Fanout(workers=2, retries=0))
    """Where the notebooks run side by side, once the first has prepared what they share."""


def commands() -> dict[str, Command]:
    """All subcommands by name."""
    from repro.activations.language_models.fetch import FetchModel
    from repro.activations.text.corpora import FetchText
    from repro.checkpoints.check import Check
    from repro.checkpoints.hub import FetchSae
    from repro.commands import CompareConfig, SweepConfig, compare, evaluate, index, sweep, visualize
    from repro.commands.loca import LocaConvert, LocaEvaluate, LocaTrain, convert
    from repro.commands.loca import evaluate as loca_evaluate
    from repro.commands.loca import train as loca_train
    from repro.commands.report import Notebook, Report
    from repro.commands.train import TrainConfig

    return {
        "collect": Command(RunConfig, _collect, "Write the activations of a language model: acts_layer{L}.npy."),
        "index": Command(RunConfig, index, "List all checkpoints below some folders: checkpoint_index.parquet."),
        "evaluate": Command(RunConfig, evaluate, "Evaluate every listed checkpoint: metrics.parquet."),
        "visualize": Command(RunConfig, visualize, "Draw metrics.parquet: fig_*.html and fig_*.png."),
        "compare": Command(CompareConfig, compare, "One SAE, three modes: {model}_{variant}_3modes.json."),
        "sweep": Command(SweepConfig, sweep, "One SAE, many step counts: {model}_{variant}_semi_sweep.json."),
        "train": Command(TrainConfig, _train, "Train SAEs on saved activations, in dictionary_learning's layout."),
        "loca train": Command(LocaTrain, loca_train, "LocA-SAE's four phases: multi_encoder_sae.pt and its kin."),
        "loca convert": Command(LocaConvert, convert, "A LocA folder as one SAE in one file: ae.pt."),
        "loca evaluate": Command(LocaEvaluate, loca_evaluate, "A LocA-SAE: {model}_loc_amt_sae_metrics.json."),
        "check": Command(Check, _check, "Check an SAE against activations: layer, units, L0, norms."),
        "fetch-model": Command(FetchModel, _fetch_model, "Prepare a language model for offline use."),
        "fetch-text": Command(FetchText, _fetch_text, "Prepare a text for offline use: debian-descriptions, brown …"),
        "fetch-sae": Command(FetchSae, _fetch_sae, "Download released SAEs."),
        "notebook": Command(Notebook, _run, "Execute one notebook with papermill."),
        "report": Command(Report, _run, "Execute all notebooks and build the book."),
        "status": Command(Status, _status, "Tasks of a run with several workers: done, running, died, failed."),
        "claims": Command(ClaimsConfig, _claims, "Print the ledger of claims and write it as csv."),
    }


@dataclass(frozen=True)
class Status:
    """Which run."""

    folder: str
    """Its output folder."""


def _status(config: Status) -> None:
    from collections import Counter

    from repro.jobs.run import status

    states = status(config.folder)
    if not states:
        raise BadInput(f"No tasks were run in {config.folder}; `repro evaluate --workers 2` leaves some.")
    counts = Counter(state["state"] for state in states)
    print(", ".join(f"{n} {state}" for state, n in counts.items()))
    for state in states:
        if state["state"] != "done":
            reason = f": {state['reason']}" if "reason" in state else ""
            print(f"{state['state']} {state['name']} ({state['host']}, process {state['pid']}){reason}")


def _run(config: Any) -> None:
    config.run()


def _collect(config: RunConfig) -> Any:
    from repro.activations.collect import collect

    return collect(config)


def _train(config: Any) -> Any:
    from repro.commands.train import run

    return run(config)


def _check(config: Any) -> None:
    from repro.activations.store import open_store
    from repro.checkpoints import load_sae
    from repro.checkpoints.check import check_sae

    if not config.acts:
        raise BadInput("Give --acts the activations to check against: a file of `repro collect`, or any [n, d] .npy.")
    sae = load_sae(config.sae, step=config.step)
    x_by_layer: dict[int, Any] = {}
    models: set[str] = set()
    alone = None
    for path in config.acts:
        store = open_store(path)
        x = store.select().take(config.max_tokens).x
        layer = store.meta.get("layer")
        if layer is None and len(config.acts) > 1:
            raise BadInput(f"{path} does not say which layer it is; give only the file of the SAE's own layer.")
        if layer is None:
            alone = x
        else:
            x_by_layer[int(layer)] = x
        models.add(str(store.meta.get("model", {}).get("name", "")))
    report = check_sae(sae, x_by_layer if alone is None else alone, models.pop() if len(models) == 1 else "")
    print(*report.sentences, sep="\n")
    if not report.ok:
        raise SystemExit(1)


def _fetch_model(config: Any) -> Any:
    from repro.activations.language_models.fetch import fetch_model

    return fetch_model(config.name, config.install, config.force, accept_terms=config.accept_terms)


def _fetch_text(config: Any) -> Any:
    from repro.activations.text.corpora import fetch_text

    return fetch_text(config.name, config.force)


def _fetch_sae(config: Any) -> Any:
    from repro.checkpoints.hub import fetch_sae

    c = config
    return fetch_sae(c.repo, c.allow, c.revision, c.variant, c.width, c.sparsity, c.trajectory)


def _claims(config: ClaimsConfig) -> Any:
    import pandas as pd

    from repro.sections import ledger as claims

    failed = _recompute(config) if config.recompute else ""
    table = claims.ledger(config.scale)
    with pd.option_context("display.max_colwidth", 60, "display.width", 200):
        print(table[["claim", "statement", "as_released", "corrected", "verdict"]].to_string(index=False))
    written = claims.write(config.scale)
    if failed:
        raise TasksFailed(f"{written} reads earlier tables, where there are any, of what failed: {failed}")
    return written


def _recompute(config: ClaimsConfig) -> str:
    """Run the notebooks whose tables the ledger reads -> what failed, in a sentence each."""
    from repro.base.files import cache_dir
    from repro.book.runner import execute_all, scale_parameters
    from repro.sections.ledger import CLAIMS

    names = list(scale_parameters(config.scale))
    read = {claim.section for claim in CLAIMS}
    wanted = {name: {"recompute": True} for name in names if name in read or name == names[0]}
    failed = execute_all(wanted, config.scale, config.fanout, cache_dir() / "claims" / config.scale)
    return " ".join(failed.values())


def parse(args: list[str]) -> tuple[Command, Any]:
    """Arguments -> (command, its config): YAML of --config first, flags on top."""
    import tyro

    known = commands()
    defaults: dict[str, Any] = {}
    if args and args[0] in known and known[args[0]].config is RunConfig:
        args, path = _take_config(args)
        defaults[args[0]] = load_yaml(RunConfig, path) if path else RunConfig()
    choices: list[Any] = []
    groups: dict[str, list[Any]] = {}  # "loca train" is `train` within `loca`
    for name, command in known.items():
        given = {"default": defaults[name]} if name in defaults else {}
        config: Any = command.config
        if name in ("check", "fetch-model", "fetch-text", "fetch-sae", "status"):
            config = Annotated[config, tyro.conf.PositionalRequiredArgs]
        if name in ("train", "report", "claims"):  # --workers, not --fanout.workers
            config = Annotated[config, tyro.conf.OmitArgPrefixes]
        group, _, last = name.rpartition(" ")
        choice = Annotated[config, tyro.conf.subcommand(last, description=_help(command), **given)]
        groups.setdefault(group, choices if not group else []).append(choice)
    for group, inner in groups.items():
        if group:
            choices.append(Annotated[Union[tuple(inner)], tyro.conf.subcommand(group, description=GROUPS[group])])  # noqa: UP007
    every: Any = Union[tuple(choices)]  # noqa: UP007
    chosen = tyro.cli(
        every,
        args=args,
        prog="repro",
        description="The price of amortized inference in sparse autoencoders: reproduced, and asked of your own SAE. "
        "Benchmarks have a help of their own: `repro bench --help`.",
    )
    return known.get(args[0]) or known[" ".join(args[:2])], chosen


GROUPS = {"loca": "LocA-SAE, local amortization: train, convert, evaluate."}


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


def _outside(error: Exception) -> tuple[int, str]:
    """(exit status, sentence) for what is wrong outside this program: no room, no memory, a path of no use."""
    if sentence := exhausted(error):
        return 1, sentence
    if disk_full(error):
        place = getattr(error, "filename", None)
        where = f" for {place}" if place else ""
        return 1, f"No space left{where}: free some and run the same command again; what is finished is kept."
    return 2, str(bad_path(error) or "")


def main(args: list[str] | None = None) -> None:
    """Entry point of `repro` and `python -m repro`."""
    args = list(sys.argv[1:] if args is None else args)
    try:
        if args[:1] == ["bench"]:
            from repro import bench

            written = bench.run(args[1:])
        else:
            command, config = parse(args)
            written = command.run(config)
    except BadInput as error:
        print(f"repro: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("repro: stopped; what was finished is kept, and the same command goes on from there.", file=sys.stderr)
        raise SystemExit(1) from None
    except (NotebookFailed, TasksFailed) as error:
        print(f"repro: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except Exception as error:
        status, sentence = _outside(error)
        if not sentence:
            raise
        print(f"repro: {sentence}", file=sys.stderr)
        raise SystemExit(status) from None
    for path in written if isinstance(written, list) else [written]:
        if path is not None:
            print(path)


if __name__ == "__main__":
    main()
