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
METRICS = {"NMSE": "squared error", "KL": "divergence from the clean model", "loss_increase": "loss increase"}
"""Metric of what codes cost -> its name in sentences."""


def effect_of(values: Series, table: DataFrame) -> Effect:
    """Mean over seeds with a 95 % t interval. Each seed has weights and held-out documents of its own."""
    of_seed = table.groupby("seed")[["documents", "n_tokens"]].max()
    effect = replace(Effect.of(values, "seeds"), tokens=int(of_seed["n_tokens"].sum()))
    return effect


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
    """A row a language model and encoder: error, losses, share of the price won back, and what it costs.

    FLOPs and milliseconds a token as multiples of the SAE's own encoder, measured in one run.
    """
    import pandas as pd

    rows = []
    for model, table in tables.items():
        own = table[(table["encoder"] == "own") & (table["mode"] == "encoder")]
        for encoder, name in ENCODER_NAMES.items():
            part = table[(table["encoder"] == encoder) & (table["mode"] == "encoder")]
            row = {"language model": model, "encoder": name}
            row |= {m: shown(effect_of(of_encoder(table, encoder, m), table)) for m in ("NMSE", "KL")}
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
    best = max(asked, key=lambda name: recovered(table, name, "NMSE").mean())
    error, kl = (effect_of(recovered(table, best, metric), table) for metric in ("NMSE", "KL"))
    linear = effect_of(recovered(table, "linear", "NMSE"), table)
    cost = table.groupby("encoder")["flops"].mean()
    imitating = [name for name in asked if name.endswith("_imitation")]
    worse = "; ".join(
        f"{ENCODER_NAMES[name.removesuffix('_imitation')]} {of_encoder(table, name, 'NMSE').mean():.3f} instead of "
        f"{of_encoder(table, name.removesuffix('_imitation'), 'NMSE').mean():.3f}"
        for name in imitating
    )
    return (
        f"Of what pursuit saves in squared error, {ENCODER_NAMES[best]} wins back {in_words(error)}, at "
        f"{cost[best] / cost['own']:.1f} times the operations of the SAE's own encoder; of the divergence "
        f"{in_words(kl)}. A linear encoder that is trained on as long wins back {in_words(linear)}. Trained to imitate "
        f"pursuit's codes, encoders have another error (NMSE): {worse}."
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


def exchange(table: DataFrame, metric: str) -> tuple[Effect, Effect]:
    """What other inference, and what the dictionary learned by pursuit, take off the encoder's metric.

    Both begin at the Top-K SAE with its own encoder; the other dictionary has a linear encoder trained on it.
    """
    own = of_dictionary(table, "trained", "encoder", metric)
    inference = own - of_dictionary(table, "trained", "pursuit", metric)
    dictionary = own - of_dictionary(table, "pursuit", "encoder", metric)
    return effect_of(inference, table), effect_of(dictionary, table)


def dictionaries_findings(table: DataFrame) -> str:
    """Is it the inference or the dictionary, in squared error and divergence."""
    parts = []
    for metric in ("NMSE", "KL"):
        inference, dictionary = exchange(table, metric)
        parts.append(
            f"{METRICS[metric]}: other inference takes off {in_words(inference, '.3f')}; the dictionary learned by "
            f"pursuit, with a linear encoder, {in_words(dictionary, '.3f')}"
        )
    both = effect_of(
        of_dictionary(table, "trained", "encoder", "NMSE") - of_dictionary(table, "pursuit", "pursuit", "NMSE"), table
    )
    return f"{'. '.join(p[0].upper() + p[1:] for p in parts)}. Both together take off {in_words(both, '.3f')}."


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
