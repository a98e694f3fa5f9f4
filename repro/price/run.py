"""The price of one SAE, piece by piece: what fits, eight kinds of codes, the frontier, latents and tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from repro.activations.language_models import loss
from repro.activations.language_models.loss import LossMeter
from repro.base.errors import BadInput
from repro.base.files import digest, file_sha256
from repro.checkpoints.check import check_sae
from repro.evaluate import EvalData, EvalOptions, Tokens, code_key
from repro.evaluate.controls import random_dictionary
from repro.evaluate.engine import Evaluation
from repro.evaluate.rules import CORRECTED
from repro.inference import SEMI_STEPS
from repro.price import codes, words
from repro.price.decompose import decomposition
from repro.price.frontier import Point, points
from repro.price.latents import Latents, Place
from repro.price.loss import add_columns, losses
from repro.price.measure import Measure, sample_of
from repro.price.pieces import Pieces
from repro.sae import SAE

CHECKED = 4096  # tokens that check_sae reads
WHOLE = ("encoder", "encoder_refit", "pursuit", "ompr", "random_dictionary")
"""Kinds of codes that are computed for all tokens; the others for the sample."""

SHOWING = ("charts", "page", "style", "words")
"""Modules of this folder that show results: no number depends on them."""


@dataclass(frozen=True)
class PriceOptions:
    """What a price depends on beside the SAE and the tokens."""

    sample_tokens: int = 1000
    """Tokens, spread evenly over all, for the modes that take long (semi, optimum) and for the frontier."""
    semi_steps: int = SEMI_STEPS
    tol: float = 1e-3
    """Relative duality gap of certified codes."""
    seed: int = 0
    kinds: tuple[str, ...] = tuple(words.NAMES)
    """Kinds of codes, of `words.NAMES`; the decomposition needs encoder, encoder_refit and pursuit."""
    frontier: bool = True
    """Compute error against L0 at eight values around the encoder's."""

    def __post_init__(self) -> None:
        if self.sample_tokens < 1:
            raise BadInput(f"sample_tokens is {self.sample_tokens}; give at least 1.")


Rows = dict[str, dict[str, Any]]
"""Kind of codes -> its row."""


class Pricing:
    """One SAE, all its tokens, the sample of them, and the language model where it is at hand."""

    def __init__(self, sae: SAE, data: EvalData, options: PriceOptions, bar: tqdm[Any], meter: LossMeter | None = None):
        self.meter, sae = meter, sae.one_sided()
        self.sae, self.data, self.o, self.bar = sae, data, options, bar
        sample = sample_of(data.tokens, options.sample_tokens)
        settings = EvalOptions(semi_steps=options.semi_steps, tol=options.tol, seed=options.seed)
        self.job = Evaluation(sae, EvalData(sample, None, data.key), CORRECTED, settings, bar)
        self.random = random_dictionary(sae, options.seed)
        # So many tokens will come: the Gram matrix, if it pays, is made in the warm-up, before anything is timed.
        self.random_shared: dict[str, Any] = {"tokens": len(data.tokens)}
        self.job.shared["tokens"] = len(data.tokens)
        self.whole, self.sample = self._measure(data.tokens), self._measure(sample)

    def _measure(self, tokens: Tokens) -> Measure:
        return Measure(self.sae, tokens, self.job.size, self.bar)

    def modes(self) -> dict[str, Callable[[], codes.Method]]:
        """The eight kinds of codes at the encoder's own L0, by name."""
        sae, job = self.sae, self.job
        own = codes.encoder(sae)
        return {
            "encoder": lambda: own,
            "encoder_refit": lambda: codes.refitted(own),
            "semi": lambda: codes.semi(job),
            "optimum": lambda: codes.optimum(job),
            "optimum_refit": lambda: codes.refitted(codes.optimum(job)),
            "pursuit": lambda: codes.pursued(sae, job.shared),
            "ompr": lambda: codes.pursued(sae, job.shared, None, "ompr"),
            "random_dictionary": lambda: codes.pursued(self.random, self.random_shared),
        }

    def measure(self, name: str) -> Measure:
        """All tokens, or the sample, by the kind of codes."""
        return self.whole if name in WHOLE else self.sample

    def mode(self, name: str, place: Place) -> dict[str, Any]:
        """The row of a kind of codes; with pursuit's, what its codes say of latents and tokens. Or a note why not."""
        measure, l0, d = self.measure(name), self.job.target_l0, self.sae.config.d
        if name in WHOLE and name != "encoder" and l0 > d:
            return {"note": f"{words.NAMES[name]}: {l0:.0f} latents in {d} dimensions fit every token exactly."}
        try:
            method = self.modes()[name]()
        except BadInput as error:
            return {"note": str(error)}
        if name != "pursuit":
            return measure.row(method)
        latents = Latents(self.sae, len(measure.tokens))
        return measure.row(method, latents.add) | {"latents": latents.summary(place)}

    def point(self, kind: str, settings: dict[str, int], make: Callable[[], codes.Method]) -> dict[str, Any]:
        """A point of the frontier, or a note why it cannot be."""
        head = {"codes": kind, **settings}
        try:
            return head | self.sample.row(make())
        except BadInput as error:
            return head | {"note": str(error)}

    def rows(self, pieces: Pieces, place: Place) -> tuple[Rows, list[dict[str, Any]], dict[str, Any]]:
        """Rows of the modes by name, the points of the frontier, and the losses of both."""
        frontier = points(self.job, self.random, self.random_shared) if self.o.frontier else []
        frontier = [(kind, settings, cache(make)) for kind, settings, make in frontier]  # lambda is searched once
        n, few = len(self.whole.tokens), len(self.sample.tokens)
        self.bar.total = sum(n if name in WHOLE else few for name in self.o.kinds) + few * len(frontier)
        modes = {
            name: pieces.get(name, len(self.measure(name).tokens), partial(self.mode, name, place))
            for name in self.o.kinds
        }
        line = []
        for point in frontier:
            settings = "".join(f"_{key}{value}" for key, value in point[1].items())
            line.append(pieces.get(f"frontier_{point[0]}{settings}", few, partial(self.point, *point)))
        return modes, line, self.losses(pieces, modes, frontier, line)

    def losses(self, pieces: Pieces, modes: Rows, frontier: list[Point], line: list[dict[str, Any]]) -> dict[str, Any]:
        """The language model's losses under the modes and under the points, named "0", "1", …"""
        if self.meter is None:
            return {}
        makers = {name: make for name, make in self.modes().items() if "NMSE" in modes.get(name, {})}
        points = {str(i): frontier[i][2] for i, row in enumerate(line) if "NMSE" in row}
        tokens, mean = int(self.meter.patched.sum()), self.job.sample.mean(0)
        out: dict[str, Any] = {}
        for name, some in (("losses", makers), ("losses_of_frontier", points)):
            self.bar.total = (self.bar.total or 0) + tokens * bool(some)
            out |= pieces.get(name, tokens, partial(self.loss_of, some, mean)) if some else {}
        return out

    def loss_of(self, makers: Mapping[str, Callable[[], codes.Method]], mean: Tensor) -> dict[str, Any]:
        """Sums of the losses under some methods, by name."""
        assert self.meter is not None
        return losses(self.meter, self.sae, {name: make() for name, make in makers.items()}, mean)


def key_of(sae: SAE, data: EvalData, options: PriceOptions, meter: LossMeter | None = None) -> str:
    """Hash of all that a price depends on: weights, how they are read, tokens, options, sources."""
    sources = sorted(file for file in Path(__file__).parent.glob("*.py") if file.stem not in SHOWING)
    own = [file_sha256(file) for file in (*sources, Path(loss.__file__))]
    text = None if meter is None else (tuple(meter.ids.shape), int(meter.patched.sum()))
    return digest(code_key(), own, sae.describe(), data.key, options, text)


def price(
    sae: SAE,
    data: EvalData,
    folder: str | Path,
    options: PriceOptions | None = None,
    place: Place | None = None,
    meter: LossMeter | None = None,
) -> dict[str, Any]:
    """The price of an SAE's guess on tokens: `modes`, `price`, `frontier`, `check` and `latents` of price.json.

    Each finished piece is a file below `folder`; a run that was killed goes on after the last of them.
    place: where a token is, for the lists of latents and tokens. meter: the language model that the tokens are of;
    without it the columns of losses are left out. Raises BadInput for activations that do not fit.
    """
    options = options or PriceOptions()
    place = place or (lambda token: {"document": int(data.tokens.docs[token])})
    with tqdm(desc="price", unit="token", unit_scale=True) as bar:
        report = check_sae(sae, data.tokens.x[:CHECKED], str(data.tokens.info.get("model") or ""))
        run = Pricing(sae, data, options, bar, meter)
        modes, frontier, sums = run.rows(Pieces(Path(folder) / key_of(sae, data, options, meter), bar), place)
    latents = modes["pursuit"].pop("latents", None)
    same = next((point for point in frontier if point["codes"] == "encoder"), modes["encoder"])
    for row in (*modes.values(), *frontier):
        if "NMSE" in row:
            base = modes["encoder"] if row["n_tokens"] == len(data.tokens) else same
            row["NMSE_of_encoder"] = row["NMSE"] / (base["NMSE"] or float("nan"))
    split = decomposition(modes)
    if sums:
        split |= add_columns(modes | {str(i): row for i, row in enumerate(frontier)}, sums)
    for row in (*modes.values(), *frontier):
        row.pop("groups", None)
    check = {"fits": report.ok, "sentences": report.sentences}
    return {"modes": modes, "price": split, "frontier": frontier, "check": check, "latents": latents or {}}
