"""One SAE: `repro compare` in three modes, `repro sweep` at several numbers of ISTA steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from repro.base.errors import BadInput
from repro.base.files import write_json
from repro.base.machine import pick_device
from repro.commands.files import RELEASED_MODES, about, plain, released_keys
from repro.commands.flags import CompareConfig, SweepConfig
from repro.commands.inputs import find_data, find_sae, measure, name_of, safe
from repro.commands.many import protocols
from repro.commands.show import show
from repro.evaluate import EvalData, EvalOptions

if TYPE_CHECKING:
    from repro.sae import SAE


def _options(config: CompareConfig | SweepConfig) -> EvalOptions:
    return EvalOptions(
        protocols=protocols(config.protocol),
        semi_steps=config.semi_steps,
        batch_evaluation=False,
        released_tokens=config.max_tokens,
        tol=config.tol,
        allow_mismatch=config.allow_mismatch,
        seed=config.seed,
    )


def _checked(config: CompareConfig | SweepConfig) -> tuple[SAE, EvalData, str]:
    """The SAE, its tokens, and how the file's name begins."""
    for name, needs in (("tol", "corrected"), ("non_steps", "as_released")):
        idle = needs not in protocols(config.protocol) and hasattr(config, name)
        if idle and getattr(config, name) != getattr(type(config), name):
            raise BadInput(f"--{name.replace('_', '-')} does nothing under --protocol {config.protocol}; leave it out.")
    sae = find_sae(config)
    data = find_data(config, sae)
    return sae.to(pick_device(config.device)), data, f"{name_of(config, sae)}_{safe(config.sae_variant or sae.name)}"


def _head(config: CompareConfig | SweepConfig, sae: SAE, data: EvalData) -> dict[str, Any]:
    model = config.model_name or data.tokens.info.get("model") or sae.source.lm_name
    return {"model_name": model, "sae_variant": config.sae_variant or sae.name}


def compare(config: CompareConfig) -> Path:
    """Write out_dir/{model}_{variant}_3modes.json: released keys per mode; all rows under as_released and corrected."""
    sae, data, name = _checked(config)
    out, rows = _head(config, sae, data), []
    options = replace(_options(config), modes=config.eval_modes, non_steps=config.non_steps)
    for row in measure(sae, data, options, name):
        rows.append(row)
        mode = RELEASED_MODES.get(row["mode"], row["mode"])
        if row["protocol"] == "as_released":
            out[mode] = released_keys(row)
            out.setdefault("as_released", {})[mode] = plain(row)
        else:
            out.setdefault("corrected", {})[mode] = plain(row)
    out["provenance"] = about(config, sae, data)
    losses = ("CE", "loss_increase") if config.lm_tokens else ()
    show(rows, ("protocol", "mode", "NMSE", "FVE", "L0", "dead_rate", "F1@1", "absorption", *losses))
    return write_json(Path(config.out_dir) / f"{name}_3modes.json", out)


def sweep(config: SweepConfig) -> Path:
    """Write out_dir/{model}_{variant}_semi_sweep.json: the released keys by number of steps, corrected beside them."""
    from repro.evaluate.steps import sweep as rows_of

    try:
        steps = sorted({int(s) for s in config.steps.replace(",", " ").split()})
    except ValueError:
        raise BadInput(f"--steps is '{config.steps}'; give whole numbers separated by commas, say 5,10,30.") from None
    if not steps or steps[0] < 0:
        raise BadInput(f"--steps is '{config.steps}'; give at least one number of steps, none below 0.")
    sae, data, name = _checked(config)
    out = _head(config, sae, data) | {"semi_amortized": {}}
    wanted = protocols(config.protocol)
    with tqdm(desc="sweep", unit="token", unit_scale=True, total=3 * len(data.tokens)) as bar:
        all_rows = rows_of(sae, data, [0, *steps], _options(config), bar=bar)
        rows = [row for row in all_rows if row["protocol"] in wanted]
    for row in rows:
        if row["protocol"] == "corrected":
            count = {None: "note", -1: "certified"}.get(row.get("steps"), str(row.get("steps")))
            out.setdefault("corrected", {})[count] = plain(row)
            continue
        named = released_keys(row) | {"lambda": row["lam"]}
        out.setdefault("as_released", {})[str(row["steps"])] = plain(row)
        if row["steps"] == 0:
            out["amortized"] = named
        if row["steps"] in steps:
            out["semi_amortized"][str(row["steps"])] = named
    out["provenance"] = about(config, sae, data)
    shown = [row | {"steps": "optimum"} if row.get("steps") == -1 else row for row in rows]
    show(shown, ("protocol", "steps", "NMSE", "FVE", "L0", "dead_rate", "lam", "ms_per_token"))
    return write_json(Path(config.out_dir) / f"{name}_semi_sweep.json", out)
