"""A fitted predictor of nll for kept sets that have no row.

A Gaussian process over the bits of dropped blocks. Three parts add up, each zero at dense:

- additive: an effect of each block, its prior spread growing with what its single removal costs;
- pairs: blocks of the same or neighbouring layers make up for each other, or do not;
- local: the additive part again, times a kernel that decays with the number of blocks in which two
  sets differ. It bends the sum (drops cost more when many are gone, some sets cost less than their
  subsets) and passes through what was measured nearby.

Rows of other texts than the one that is answered for share all of it, plus a part of each text's
own. All is closed form but the dozen scales, which `predictor_tuning` finds when a table is built; the table
stores them, so a fit is one linear solve and the same everywhere up to rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.errors import InvalidTable

REACH = 3  # layers; blocks further apart have no pair term of their own
LEAST_SINGLE = 0.005  # nats: no block is taken for one that surely costs nothing
JITTER = 1e-9

Mean = Callable[[BoolArray], FloatArray]


@dataclass(frozen=True, slots=True)
class Settings:
    """Natural logarithms of the prior's scales. Defaults: what SmolLM2-135M's tables come near."""

    attention: float = -0.5  # spread of an attention block's effect at a single removal of one nat
    ffn: float = -0.6
    power: float = -0.5  # the spread grows as the single removal's cost to this power
    local: float = 0.3  # weight of the local part's variance, the additive part's being one
    attention_decay: float = -3.2  # of the local part, per attention block that differs
    ffn_decay: float = -3.2
    pair: float = -1.0  # spread of a pair's effect, its blocks' spreads being one
    pair_layers: float = 0.0  # distance over which it decays
    text: float = -3.0  # weight of the variance of a text's own part
    noise: float = -1.5  # of the variance that a row's standard error states, what is its own
    nugget: float = -9.0  # variance that no part explains, nats squared
    slope: float = -3.0  # variance of the factor on the mean function, where there is one

    def __post_init__(self) -> None:
        if not all(abs(getattr(self, entry.name)) <= 20 for entry in fields(self)):
            raise InvalidTable("a predictor's settings lie between -20 and 20")


def settings_of(found: Any) -> Settings:
    """The settings in a table's header; defaults where it has none.

    Raises:
        InvalidTable: what stands there are no settings.
    """
    names = [entry.name for entry in fields(Settings)]
    if found is None:
        return Settings()
    if not isinstance(found, dict) or not {*found} <= {*names}:
        raise InvalidTable(f"a predictor's settings are numbers named {', '.join(names)}")
    if any(type(value) not in (int, float) for value in found.values()):
        raise InvalidTable("a predictor's settings are numbers")
    return Settings(**found)


@dataclass(frozen=True, slots=True, eq=False)
class Sets:
    """What the predictor is fitted to: J measured kept sets."""

    kept: BoolArray  # [J, N]
    nll: FloatArray  # [J]
    nll_se: FloatArray  # [J]
    text: IntArray  # 0: rows of the text that is answered for; others name other texts, [J]

    def part(self, rows: IntArray) -> "Sets":
        return Sets(self.kept[rows], self.nll[rows], self.nll_se[rows], self.text[rows])


@dataclass(frozen=True, slots=True, eq=False)
class Basis:
    """What does not depend on the settings: single effects, and pairs of blocks in reach."""

    single: FloatArray  # cost of a block's single removal, [N]
    first: IntArray  # of each pair, [P]
    second: IntArray
    apart: FloatArray  # layers between them, [P]


def basis_of(sets: Sets) -> Basis:
    n = sets.kept.shape[1]
    dropped = ~sets.kept
    alone = np.flatnonzero(dropped.sum(axis=1) == 1)
    single = np.full(n, np.nan)
    single[np.argmax(dropped[alone], axis=1)] = sets.nll[alone]
    known = np.sort(single[~np.isnan(single)])
    # As np.median, which would load all of numpy.ma: a fifth of what the first reset takes.
    middle = known[[(known.size - 1) // 2, known.size // 2]].mean() if known.size else 0.1
    single[np.isnan(single)] = middle
    tried = np.flatnonzero(dropped.any(axis=0))
    pairs = [(b, c) for b in tried for c in tried if b < c and c // 2 - b // 2 <= REACH]
    first, second = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    apart = (second // 2 - first // 2).astype(np.float64)
    return Basis(np.maximum(single, LEAST_SINGLE), first, second, apart)


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """Some kept sets as the kernel sees them under given settings."""

    effects: FloatArray  # dropped blocks, scaled, [J, N]
    pairs: FloatArray  # dropped pairs, scaled, [J, P]
    dropped: FloatArray  # [J, N]
    decay: FloatArray  # exponent of the local part, per block that differs, [N]
    gone: FloatArray  # the decays of the dropped blocks, summed, [J]


def features(kept: BoolArray, basis: Basis, settings: Settings) -> Features:
    dropped = (~kept).astype(np.float64)
    kinds = np.arange(kept.shape[1]) % 2
    spread = np.exp(np.array([settings.attention, settings.ffn]))[kinds]
    effects = dropped * (spread * basis.single ** np.exp(settings.power))
    weight = np.exp(settings.pair - basis.apart / np.exp(settings.pair_layers))
    pairs = effects[:, basis.first] * effects[:, basis.second] * weight
    decay = np.exp(np.array([settings.attention_decay, settings.ffn_decay]))[kinds]
    return Features(effects, pairs, dropped, decay, dropped @ decay)


def _nearness(a: Features, b: Features) -> FloatArray:
    """exp of minus the weighted number of blocks in which two sets differ, [J, I]."""
    both = (a.dropped * (2 * a.decay)) @ b.dropped.T
    nearness: FloatArray = np.exp(both - a.gone[:, None] - b.gone)
    return nearness


def prior_covariance(
    a: Features, text: IntArray, mean: FloatArray | None, nll_se: FloatArray, settings: Settings
) -> FloatArray:
    """Prior covariance of the rows' nll, noise included, [J, J]."""
    additive, near = a.effects @ a.effects.T, _nearness(a, a)
    bent = additive * (1 + np.exp(settings.local) * near)
    other = (text[:, None] == text) & (text != 0)
    total = bent * (1 + np.exp(settings.text) * other) + a.pairs @ a.pairs.T
    if mean is not None:
        total += np.exp(settings.slope) * np.outer(mean, mean)
    noise = np.exp(settings.noise) * nll_se**2 + np.exp(settings.nugget) + JITTER
    covariance: FloatArray = total + np.diag(noise)
    return covariance


@dataclass(frozen=True, slots=True, eq=False)
class Predictor:
    """A fit; `nll` answers for any kept set of the model."""

    settings: Settings
    basis: Basis
    rows: Features
    weights: FloatArray  # of the rows in the local part, [J]
    effect_weights: FloatArray  # [N]
    pair_weights: FloatArray  # [P]
    mean: Mean | None
    slope: float  # added to the mean function's factor of one

    def nll(self, kept: BoolArray) -> FloatArray:
        """Predicted nats a token above dense; bool [..., N] -> float64 [...]."""
        flat = kept.reshape(-1, kept.shape[-1])
        asked = features(flat, self.basis, self.settings)
        found = asked.effects @ self.effect_weights + asked.pairs @ self.pair_weights
        bent = (asked.effects @ self.rows.effects.T) * _nearness(asked, self.rows)
        found += np.exp(self.settings.local) * (bent @ self.weights)
        if self.mean is not None:
            found += (1 + self.slope) * self.mean(flat)
        answer: FloatArray = found.reshape(kept.shape[:-1])
        return answer


def fit(sets: Sets, settings: Settings, mean: Mean | None = None) -> Predictor:
    """Fit to measured sets.

    Args:
        mean: what is known of any kept set from elsewhere, bool [J, N] -> nats [J]; what is
            learned is the difference from it. Zero unless stated.
    """
    basis = basis_of(sets)
    rows = features(sets.kept, basis, settings)
    start = None if mean is None else mean(sets.kept)
    covariance = prior_covariance(rows, sets.text, start, sets.nll_se, settings)
    weights = np.linalg.solve(covariance, sets.nll if start is None else sets.nll - start)
    slope = 0.0 if start is None else float(np.exp(settings.slope) * (start @ weights))
    effect_weights, pair_weights = weights @ rows.effects, weights @ rows.pairs
    return Predictor(settings, basis, rows, weights, effect_weights, pair_weights, mean, slope)
