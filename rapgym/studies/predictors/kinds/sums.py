"""Sums of effects, of blocks alone and of pairs, with a ridge penalty and a link."""

from dataclasses import dataclass

import numpy as np

from rapgym.arrays import BoolArray, FloatArray
from rapgym.quality import predictor
from rapgym.quality.predictor import Sets
from rapgym.studies.predictors.kinds.shared import EFFECT, Fit, Link, for_search, searched, several

INNER_FOLDS = 5
CHOICES = {
    "scale": (np.inf, 4.0, 2.0, 1.0, -8.0),
    "power": (0.0, 0.5, 1.0),
    "pairs": (1.0, 3.0, 10.0, 30.0),
    "text": (0.03, 0.1, 0.3, 1.0),
    "noise": (0.005, 0.01, 0.02, 0.04, 0.08),
    "local": (0.3, 1.0, 3.0),
    "decay": (0.01, 0.03, 0.1, 0.3),
}


def singles(sets: Sets, rng: np.random.Generator) -> Fit:
    """What the dropped blocks cost alone, added up: nothing is fitted."""
    cost = predictor.basis_of(sets).single
    return lambda kept: (~kept) @ cost


@dataclass(frozen=True, slots=True)
class Ridge:
    """Settings of a penalised sum of effects behind a link."""

    scale: float = np.inf
    power: float = 0.5  # an effect's spread grows as the single removal's cost to this power
    pairs: float = 0.0  # spread of a pair's effect, the product of its blocks' being one
    text: float = 0.1  # variance of another text's own part, that of the common one being one
    noise: float = 0.02  # nats
    local: float = 0.0  # variance of the part that sets share the less, the more blocks differ
    decay: float = 0.03  # of it, per block that differs


def _effects(kept: BoolArray, single: FloatArray, settings: Ridge) -> FloatArray:
    return (~kept) * (EFFECT * (single / np.median(single)) ** settings.power)


def _gram(a: FloatArray, b: FloatArray, settings: Ridge) -> FloatArray:
    """Prior covariance of two lists of sets: effects, every pair of them, and what is local."""
    common = a @ b.T
    found: FloatArray = common + 0.5 * settings.pairs**2 * (common**2 - (a**2) @ (b**2).T)
    if settings.local:
        gone, lost = a > 0, b > 0
        both = gone.astype(np.float64) @ lost.T
        apart = gone.sum(axis=1)[:, None] + lost.sum(axis=1) - 2 * both
        found = found + settings.local * common * np.exp(-settings.decay * apart)
    return found


def _covariance(sets: Sets, single: FloatArray, settings: Ridge) -> FloatArray:
    effects = _effects(sets.kept, single, settings)
    other = (sets.text[:, None] == sets.text) & (sets.text != 0)
    noise = (settings.noise * Link(settings.scale).slope(sets.nll)) ** 2
    found: FloatArray = _gram(effects, effects, settings) * (1 + settings.text * other)
    return found + np.diag(noise + 1e-9)


def _left_out_error(sets: Sets, single: FloatArray, settings: Ridge) -> float:
    """Mean absolute error on fifths of the rows that drop several blocks, each left out in turn."""
    link = Link(settings.scale)
    precision = np.linalg.inv(_covariance(sets, single, settings))
    sums = link.sums(sets.nll)
    scaled = precision @ sums
    asked = several(sets)
    error = []
    for fold in range(INNER_FOLDS):
        out = asked[fold::INNER_FOLDS]
        said = sums[out] - np.linalg.solve(precision[np.ix_(out, out)], scaled[out])
        error.append(np.abs(link.nats(said) - sets.nll[out]))
    return float(np.concatenate(error).mean())


def _ridge(sets: Sets, start: Ridge, names: tuple[str, ...]) -> Fit:
    single, few = predictor.basis_of(sets).single, for_search(sets)
    choices = {name: CHOICES[name] for name in names}
    found = searched(start, choices, lambda tried: _left_out_error(few, single, tried))
    link = Link(found.scale)
    weights = np.linalg.solve(_covariance(sets, single, found), link.sums(sets.nll))
    rows = _effects(sets.kept, single, found)
    return lambda kept: link.nats(_gram(_effects(kept, single, found), rows, found) @ weights)


def additive(sets: Sets, rng: np.random.Generator) -> Fit:
    """A fitted effect of each block, added up."""
    return _ridge(sets, Ridge(), ("power", "text", "noise"))


def additive_link(sets: Sets, rng: np.random.Generator) -> Fit:
    """The same behind a link."""
    return _ridge(sets, Ridge(), ("scale", "power", "text", "noise"))


def pairs_link(sets: Sets, rng: np.random.Generator) -> Fit:
    """An effect of each block and of each pair of blocks, behind a link."""
    return _ridge(sets, Ridge(pairs=3.0), ("scale", "pairs", "noise", "text", "power"))


def pairs_local(sets: Sets, rng: np.random.Generator) -> Fit:
    """The same and the shipped predictor's local part: that with every pair, and a link."""
    start = Ridge(pairs=3.0, local=1.0)
    return _ridge(sets, start, ("scale", "pairs", "noise", "local", "decay", "text", "power"))
