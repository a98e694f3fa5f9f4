"""The tables of encoders and dictionaries in overviews and sentences; the unit of every interval is the seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from repro.price.words import NAMES as KIND_NAMES
from repro.sections.effects import Effect
from repro.sections.encoders.names import DICTIONARY_NAMES, ENCODER_NAMES, PROBED
from repro.sections.tables import tidy
from repro.sections.types import DataFrame, Series

LEARNED = ("trained", "pursuit", "matching_pursuit", "itda")
"""Dictionaries that training of some kind has learned whole."""
INFERENCE = ("trained", "encoder", "trained", "pursuit")
"""The exchange of the encoder for pursuit on the trained dictionary, for `gain`."""
COSTS = {"NMSE": "squared error", "KL": "divergence from the clean model", "loss_increase": "loss increase"}
"""Metric of what codes cost -> its name in sentences."""


def effect_of(values: Series, table: DataFrame) -> Effect:
    """Mean over seeds with a 95 % t interval.

    Each seed has weights, text order and held-out documents of its own; the labelled documents of the probes are the
    same for all, so the intervals of their scores leave out the choice of those.
    """
    return replace(Effect.of(values, "seeds"), tokens=int(table.groupby("seed")["n_tokens"].max().sum()))


def by_seed(table: DataFrame, what: str, name: str, mode: str, metric: str) -> Series:
    """A metric of one encoder or dictionary (the column `what`) and kind of codes, a value a seed."""
    part = table[(table[what] == name) & (table["mode"] == mode)]
    return part.set_index("seed")[metric].astype(float)


def of_encoder(table: DataFrame, encoder: str, metric: str, mode: str = "encoder") -> Series:
    """A metric of the codes of an encoder on the trained dictionary, a value a seed."""
    return by_seed(table, "encoder", encoder, mode, metric)


def of_dictionary(table: DataFrame, dictionary: str, mode: str, metric: str) -> Series:
    """A metric of one kind of codes of a dictionary, a value a seed."""
    return by_seed(table, "dictionary", dictionary, mode, metric)


def recovered(table: DataFrame, encoder: str, metric: str, beyond: str = "own") -> Series:
    """The share of the guess's price that an encoder wins back beyond another one, a value a seed.

    (m(beyond) − m(encoder)) / (m(own) − m(pursuit)): 1 for codes as good as pursuit's on the same dictionary.
    """
    price = of_encoder(table, "own", metric) - of_encoder(table, "own", metric, "pursuit")
    return (of_encoder(table, beyond, metric) - of_encoder(table, encoder, metric)) / price


def in_words(effect: Effect, form: str = ".0%") -> str:
    """A value with its interval and number of seeds."""
    ends = f" [{effect.low:{form}}, {effect.high:{form}}]" if effect.low == effect.low else ""
    return f"{effect.value:{form}}{ends}, n = {effect.n} seeds"


def shown(effect: Effect, digits: int = 3) -> str:
    """A value ± half its interval, for a table."""
    half = f" ± {effect.half:.{digits}f}" if effect.half == effect.half else ""
    return f"{effect.value:.{digits}f}{half}"


def encoders_overview(tables: Mapping[str, DataFrame]) -> DataFrame:
    """A row a language model and encoder: error, shares of the price won back, and what it costs.

    FLOPs and milliseconds a token as multiples of the SAE's own encoder, measured in one run.
    """
    import pandas as pd

    rows = []
    for model, table in tables.items():
        own = table[(table["encoder"] == "own") & (table["mode"] == "encoder")]
        for encoder, name in ENCODER_NAMES.items():
            part = table[(table["encoder"] == encoder) & (table["mode"] == "encoder")]
            row = {"language model": model, "encoder": name}
            row["NMSE"] = shown(effect_of(of_encoder(table, encoder, "NMSE"), table))
            row["error won back"] = shown(effect_of(recovered(table, encoder, "NMSE"), table), 2)
            row["KL won back"] = shown(effect_of(recovered(table, encoder, "KL"), table), 2)
            row["parameters"] = f"{part['parameters'].mean() / own['parameters'].mean():.1f} x"
            row["FLOPs"] = f"{part['flops'].mean() / own['flops'].mean():.1f} x"
            row["ms"] = f"{part['ms_per_token'].mean() / own['ms_per_token'].mean():.1f} x"
            rows.append(row)
    return pd.DataFrame(rows).set_index(["language model", "encoder"])


def encoders_findings(table: DataFrame) -> str:
    """Which encoder wins back most of the price, in error and divergence, and at which cost."""
    asked = [name for name in ENCODER_NAMES if name != "own"]
    error = {name: effect_of(recovered(table, name, "NMSE"), table) for name in asked}
    cost = table.groupby("encoder")["flops"].mean() / table[table["encoder"] == "own"]["flops"].mean()
    best = max(asked, key=lambda name: error[name].value)
    cheap = min((name for name in asked if error[name].value >= 0.9 * error[best].value), key=lambda name: cost[name])
    imitating = "; ".join(
        f"{ENCODER_NAMES[plain]} {of_encoder(table, name, 'NMSE').mean():.3f} instead of "
        f"{of_encoder(table, plain, 'NMSE').mean():.3f}"
        for name in asked
        if (plain := name.removesuffix("_imitation")) != name
    )
    words = [
        f"{ENCODER_NAMES[name]} wins back {in_words(error[name])}, and of the divergence "
        f"{in_words(effect_of(recovered(table, name, 'KL'), table))}, at {cost[name]:.1f} times the operations of the "
        "SAE's own encoder"
        for name in dict.fromkeys((cheap, best))
    ]
    return (
        f"Of what pursuit saves in squared error, {'; '.join(words)}. A linear encoder that is "
        f"trained on as long wins back {in_words(error['linear'])}; one with a hidden layer {in_words(error['mlp'])}. "
        f"Trained to imitate pursuit's codes instead of minimising the error, encoders have an NMSE of: {imitating}."
    )


def two_by_two(tables: Mapping[str, DataFrame], metric: str = "NMSE") -> DataFrame:
    """Dictionary learned with the guess or without it, codes with the guess or without it: a metric, ± over seeds."""
    import pandas as pd

    rows = []
    for model, table in tables.items():
        for name in [n for n in LEARNED if n in set(table["dictionary"])]:
            codes = {
                KIND_NAMES[mode]: shown(effect_of(of_dictionary(table, name, mode, metric), table))
                for mode in ("encoder", "encoder_refit", "pursuit")
            }
            rows.append({"language model": model, "dictionary": DICTIONARY_NAMES[name]} | codes)
    return pd.DataFrame(rows).set_index(["language model", "dictionary"])


def gain(table: DataFrame, metric: str, before: str, codes: str, after: str, other: str) -> Series:
    """What an exchange of dictionary or codes takes off a metric, a value a seed."""
    return of_dictionary(table, before, codes, metric) - of_dictionary(table, after, other, metric)


def exchange(table: DataFrame, metric: str, codes: str = "pursuit") -> tuple[Effect, Effect]:
    """What other inference takes off the encoder's metric, and what the dictionary learned by pursuit takes off these.

    That dictionary's encoder is a linear one trained on it.
    """
    inference, dictionary = gain(table, metric, *INFERENCE), gain(table, metric, "trained", codes, "pursuit", codes)
    return effect_of(inference, table), effect_of(dictionary, table)


def dictionaries_findings(table: DataFrame) -> str:
    """Is it the inference or the dictionary, in squared error and divergence."""
    parts = []
    for metric in ("NMSE", "KL"):
        (inference, better), (_, guessed) = (exchange(table, metric, codes) for codes in ("pursuit", "encoder"))
        name = COSTS[metric]
        parts.append(
            f"{name[0].upper()}{name[1:]}: on the SAE's dictionary, pursuit takes off {in_words(inference, '.3f')}. "
            f"The dictionary learned by pursuit takes off another {in_words(better, '.3f')}, for pursuit's codes; for "
            f"those of a linear encoder it {_taken(guessed)}"
        )
    return ". ".join(parts) + "."


def _taken(effect: Effect) -> str:
    """takes off, or adds where the whole interval lies below zero, and how much."""
    if effect.high < 0:
        return f"adds {in_words(replace(effect, value=-effect.value), '.3f')}"
    return f"takes off {in_words(effect, '.3f')}"


def baselines_overview(tables: Mapping[str, DataFrame]) -> DataFrame:
    """A row a language model, dictionary and kind of codes that is probed: error, losses, dead latents and probes."""
    import pandas as pd

    rows = []
    columns = ["NMSE", "loss_increase", "KL", "dead_rate", "F1@1", "dF1", "absorption"]
    for table in tables.values():
        part = table[table["mode"].isin(PROBED)]
        means = part.groupby(["dictionary", "mode"])[columns].mean().reindex(list(DICTIONARY_NAMES), level="dictionary")
        rows.append(means.rename(index=DICTIONARY_NAMES, level=0).rename(index=KIND_NAMES, level=1))
    return tidy(pd.concat(rows, keys=list(tables), names=["language model", "dictionary", "codes"]), 3)


def modes_overview(tables: Mapping[str, DataFrame], metric: str = "NMSE") -> DataFrame:
    """A metric of every dictionary (rows) and kind of codes (columns), mean over seeds."""
    import pandas as pd

    parts = {}
    for model, table in tables.items():
        wide = table.pivot_table(index="dictionary", columns="mode", values=metric, sort=False)
        modes = [mode for mode in KIND_NAMES if mode in wide]
        names = [name for name in DICTIONARY_NAMES if name in wide.index]
        parts[model] = wide.reindex(names)[modes].rename(index=DICTIONARY_NAMES, columns=KIND_NAMES)
    return tidy(pd.concat(parts, names=["language model", "dictionary"]), 3)
