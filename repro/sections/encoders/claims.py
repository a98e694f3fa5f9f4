"""Claims of the field about encoders and dictionaries, judged by the rule of all claims; the unit is the seed."""

from __future__ import annotations

from functools import partial

from repro.price.words import NAMES as KIND_NAMES
from repro.sections.effects import Tables
from repro.sections.encoders.names import DICTIONARY_NAMES, ENCODER_NAMES
from repro.sections.encoders.words import (
    COSTS,
    INFERENCE,
    effect_of,
    exchange,
    gain,
    in_words,
    of_dictionary,
    recovered,
)
from repro.sections.shown import answered, shown
from repro.sections.verdict import Claim, Finding

SENTENCES = {
    "E1": "A hidden layer in the encoder pays part of the price (O'Neill et al. 2025).",
    "E2": "It is the dictionary that costs error, not the inference (Barin Pacela et al. 2026 say so of known codes).",
    "E3": "In probes, SAEs of which a random part stays do as well as trained ones (Korznikov et al. 2026).",
    "E5": "A few learned steps of ISTA in the encoder pay part of the price (Gregor and LeCun 2010).",
}
LEADS = {
    "E1": "On the same dictionary, beyond a linear encoder that is trained as long",
    "E2": "A dictionary learned by pursuit in place of the SAE's, against pursuit on the SAE's",
    "E3": "Beside an SAE that is trained whole",
    "E5": "On the same dictionary, beyond a linear encoder that is trained as long",
}


def beyond_linear(tables: Tables, encoder: str, metric: str) -> Finding:
    """The test whether an encoder wins back part of the guess's price that more training of a linear one does not."""
    table = tables["encoders"]
    linear = effect_of(recovered(table, "linear", metric), table)
    effect = effect_of(recovered(table, encoder, metric, beyond="linear"), table)
    return Finding(effect, why=f"the linear encoder, trained on, wins back {in_words(linear)}")


def more_than_inference(tables: Tables, metric: str, codes: str) -> Finding:
    """The test whether the other dictionary takes more off these codes than pursuit takes off the SAE's own."""
    table = tables["dictionaries"]
    inference, dictionary = exchange(table, metric, codes)
    why = f"other inference takes off {in_words(inference, '.3f')}, the dictionary {in_words(dictionary, '.3f')}"
    gains = gain(table, metric, "trained", codes, "pursuit", codes) - gain(table, metric, *INFERENCE)
    return Finding(effect_of(gains, table), why=why)


def frozen_part(tables: Tables, dictionary: str) -> Finding:
    """The test of F1 of one latent of the encoder's codes: with a part that stays minus trained whole."""
    table = tables["dictionaries"]
    frozen, own = (of_dictionary(table, name, "encoder", "F1@1") for name in (dictionary, "trained"))
    why = f"trained whole {in_words(effect_of(own, table), '.3f')}; the labelled documents are the same for all seeds"
    return Finding(effect_of(frozen - own, table), why=why)


_claim = partial(Claim, section="57_encoders")

CLAIMS = [
    *(
        _claim(
            id=part,
            claimed="rises",
            needs=("encoders",),
            statement=f"{ENCODER_NAMES[encoder]}: wins back part of the guess's {COSTS[metric]}",
            metric="share_of_price",
            quantity=f"what is won back of the {COSTS[metric]} ({ENCODER_NAMES[encoder]})",
            verbs=("is", "is below 0 by"),
            test=partial(beyond_linear, encoder=encoder, metric=metric),
        )
        for part, encoder, metric in (
            *(("E1a", "mlp", "NMSE"), ("E1b", "mlp", "KL")),
            *(("E5a", "correction", "NMSE"), ("E5b", "lista3", "NMSE")),
            *(("E5c", "correction", "KL"), ("E5d", "lista3", "KL")),
        )
    ),
    *(
        _claim(
            id=f"E2{letter}",
            claimed="rises",
            needs=("dictionaries",),
            statement=f"Another dictionary takes more off the {COSTS[metric]} of {KIND_NAMES[codes]} codes than "
            "other inference takes off the encoder's",
            metric="NMSE" if metric == "NMSE" else "loss",
            quantity=f"what it takes off the {COSTS[metric]} of {KIND_NAMES[codes]} codes beyond what inference "
            "takes off",
            verbs=("is", "is below 0 by"),
            test=partial(more_than_inference, metric=metric, codes=codes),
        )
        for letter, metric, codes in (
            *(("a", "NMSE", "pursuit"), ("b", "KL", "pursuit")),
            *(("c", "NMSE", "encoder"), ("d", "KL", "encoder")),
        )
    ),
    *(
        _claim(
            id=f"E3{letter}",
            claimed="does not fall",
            needs=("dictionaries",),
            statement=f"With a {DICTIONARY_NAMES[dictionary]}, probes of one latent do not get worse",
            metric="F1@1",
            quantity=f"F1 of one latent ({DICTIONARY_NAMES[dictionary]})",
            test=partial(frozen_part, dictionary=dictionary),
        )
        for letter, dictionary in (("a", "frozen_decoder"), ("b", "soft_decoder"), ("c", "frozen_encoder"))
    ),
]

CLAIMS.sort(key=lambda claim: claim.id)

answers, verdicts = partial(answered, CLAIMS), partial(shown, CLAIMS)
"""What is found, in a sentence a claim, and the verdicts on all parts, to be shown in the notebook."""
