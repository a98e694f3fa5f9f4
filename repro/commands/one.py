"""One SAE: `repro compare` in three modes, `repro sweep` at several numbers of ISTA steps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from repro.base.errors import BadInput
from repro.base.files import write_json
from repro.base.machine import pick_device
from repro.commands.files import RELEASED_MODES, about, plain, released_keys
from repro.commands.flags import CompareConfig, SweepConfig
from repro.commands.inputs import find_data, find_sae, measure, safe
from repro.commands.many import protocols
from repro.evaluate import EvalData, EvalOptions

if TYPE_CHECKING:
    from repro.sae import SAE


def _options(config: CompareConfig) -> EvalOptions:
    return EvalOptions(
        modes=config.eval_modes,
        protocols=protocols(config.protocol),
        semi_steps=config.semi_steps,
        non_steps=config.non_steps,
        batch_evaluation=False,
        released_tokens=config.max_tokens,
        tol=config.tol,
        seed=config.seed,
    )


def _checked(config: CompareConfig) -> tuple[SAE, EvalData]:
    sae = find_sae(config, config.sae_variant)
    data = find_data(config)
    sae.check_input(data.tokens.x[:1])
    return sae.to(pick_device(config.device)), data


def compare(config: CompareConfig) -> Path:
    """Write out_dir/{model}_{variant}_3modes.json: the released keys per mode, and everything corrected beside them."""
    sae, data = _checked(config)
    out: dict[str, Any] = {"model_name": config.model_name, "sae_variant": config.sae_variant}
    for row in measure(sae, data, _options(config), f"{config.model_name}, {config.sae_variant}"):
        mode = RELEASED_MODES.get(row["mode"], row["mode"])
        if row["protocol"] == "as_released":
            out[mode] = released_keys(row)
            out.setdefault("as_released", {})[mode] = plain(row)
        else:
            out.setdefault("corrected", {})[mode] = plain(row)
    out["provenance"] = about(config, sae, data)
    return write_json(Path(config.out_dir) / f"{safe(config.model_name)}_{safe(config.sae_variant)}_3modes.json", out)


def sweep(config: SweepConfig) -> Path:
    """Write out_dir/{model}_{variant}_semi_sweep.json: the released keys by number of steps, corrected beside them."""
    from repro.evaluate.steps import sweep as rows_of

    try:
        steps = sorted({int(s) for s in config.steps.replace(",", " ").split()})
    except ValueError:
        raise BadInput(f"--steps is '{config.steps}'; give whole numbers separated by commas, say 5,10,30.") from None
    if not steps or steps[0] < 0:
        raise BadInput(f"--steps is '{config.steps}'; give at least one number of steps, none below 0.")
    sae, data = _checked(config)
    out: dict[str, Any] = {"model_name": config.model_name, "sae_variant": config.sae_variant, "semi_amortized": {}}
    wanted = protocols(config.protocol)
    with tqdm(desc="sweep", unit="token", unit_scale=True, total=3 * len(data.tokens)) as bar:
        rows = list(rows_of(sae, data, [0, *steps], _options(config), bar=bar))
    for row in rows:
        if row["protocol"] not in wanted:
            continue
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
    name = f"{safe(config.model_name)}_{safe(config.sae_variant)}_semi_sweep.json"
    return write_json(Path(config.out_dir) / name, out)
