"""What kinds share: types, a link, and the search for settings."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.quality.predictor import Sets

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Fit = Callable[[BoolArray], FloatArray]  # kept sets, bool [J, N] -> nats above dense [J]
Kind = Callable[[Sets, np.random.Generator], Fit]
S = TypeVar("S", bound="DataclassInstance")

EFFECT = 0.1  # nats: the scale of a block's effect before anything is seen
SEARCH_ROWS = 450  # settings are searched on so many rows of the text answered for


def several(sets: Sets) -> IntArray:
    """Rows of the text answered for that drop more than one block: what errors are judged on."""
    return np.flatnonzero((sets.text == 0) & ((~sets.kept).sum(axis=1) > 1))


def a_sixth(sets: Sets, rng: np.random.Generator) -> BoolArray:
    """Which rows a learner stops early on: a sixth of `several`, drawn, bool [J]."""
    chosen, rows = np.zeros(len(sets.nll), dtype=bool), several(sets)
    chosen[rng.permutation(rows)[: max(len(rows) // 6, 1)]] = True
    return chosen


@dataclass(frozen=True, slots=True)
class Link:
    """nats -> the scale on which effects add up: zero at zero and slope one there.

    A positive `scale` lets many drops cost more than their sum, a negative one less; infinite: as is.
    """

    scale: float

    def sums(self, nll: FloatArray) -> FloatArray:
        if np.isinf(self.scale):
            return nll
        found: FloatArray = self.scale * np.log(self._inside(nll))
        return found

    def nats(self, sums: FloatArray) -> FloatArray:
        if np.isinf(self.scale):
            return sums
        found: FloatArray = self.scale * np.expm1(np.clip(sums / self.scale, -5, 5))
        return found

    def slope(self, nll: FloatArray) -> FloatArray:
        if np.isinf(self.scale):
            return np.ones_like(nll)
        return 1 / self._inside(nll)

    def _inside(self, nll: FloatArray) -> FloatArray:
        return np.maximum(1 + nll / self.scale, 0.1)


def spread(rows: IntArray, count: int) -> IntArray:
    """At most `count` of the rows, evenly."""
    if len(rows) <= count:
        return rows
    return rows[np.linspace(0, len(rows) - 1, count).astype(np.int64)]


def searched(start: S, choices: Mapping[str, tuple[float, ...]], loss: Callable[[S], float]) -> S:
    """The settings of least loss that two passes over each choice in turn find."""
    best, least = start, loss(start)
    for _ in range(2):
        before = best
        for name, values in choices.items():
            for value in values:
                changed: Any = {name: value}
                tried = replace(best, **changed)
                if value != getattr(best, name) and (found := loss(tried)) < least:
                    best, least = tried, found
        if best == before:
            break
    return best


def for_search(sets: Sets) -> Sets:
    """What settings are searched on: rows of the text answered for, and a third as many others."""
    own, others = np.flatnonzero(sets.text == 0), np.flatnonzero(sets.text != 0)
    return sets.part(np.concatenate([spread(own, SEARCH_ROWS), spread(others, SEARCH_ROWS // 3)]))
