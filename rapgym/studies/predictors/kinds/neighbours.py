"""Nearest measured neighbours."""

from dataclasses import dataclass

import numpy as np

from rapgym.arrays import FloatArray
from rapgym.quality import predictor
from rapgym.quality.predictor import Sets
from rapgym.studies.predictors.kinds.shared import Fit, searched, several
from rapgym.studies.predictors.kinds.sums import singles


@dataclass(frozen=True, slots=True)
class Near:
    """Settings of a weighted mean over measured neighbours."""

    power: float = 0.0  # a block that differs counts as its single cost to this power; 0: Hamming
    count: int = 5
    reach: float = 1.0  # weight falls by e at so many times the nearest one's distance
    others: float = 0.0  # rows of other texts are neighbours too where not 0


def _nearest(sets: Sets, base: Fit) -> Fit:
    """The base's answer plus what the nearest rows are above theirs."""
    single = predictor.basis_of(sets).single
    residual = sets.nll - base(sets.kept)
    dropped = (~sets.kept).astype(np.float64)

    def said(asked: FloatArray, settings: Near, itself: bool) -> FloatArray:
        weight = (single / np.median(single)) ** settings.power
        inner = (asked * weight) @ dropped.T
        apart = (asked @ weight)[:, None] + dropped @ weight - 2 * inner
        apart = np.maximum(apart, 0.0)
        if not settings.others:
            apart[:, sets.text != 0] = np.inf
        if itself:
            apart[apart < 1e-9] = np.inf  # a set has one row: its own
        near = np.argsort(apart, axis=1, kind="stable")[:, : settings.count]
        far = np.take_along_axis(apart, near, axis=1)
        scaled = np.exp(-(far - far[:, :1]) / (settings.reach * (far[:, :1] + 1e-3)))
        found: FloatArray = (scaled * residual[near]).sum(axis=1) / scaled.sum(axis=1)
        return found

    asked = several(sets)

    def loss(settings: Near) -> float:
        return float(np.abs(said(dropped[asked], settings, True) - residual[asked]).mean())

    choices = {
        "power": (0.0, 0.5, 1.0),
        "count": (1, 3, 5, 10),
        "reach": (0.3, 1.0, 3.0),
        "others": (0.0, 1.0),
    }
    found = searched(Near(), choices, loss)
    return lambda kept: base(kept) + said((~kept).astype(np.float64), found, False)


def nearest(sets: Sets, rng: np.random.Generator) -> Fit:
    """The weighted mean of the nearest measured sets' nll."""
    return _nearest(sets, lambda kept: np.zeros(len(kept)))


def nearest_moved(sets: Sets, rng: np.random.Generator) -> Fit:
    """The same, each neighbour moved by the single costs of the blocks that differ."""
    return _nearest(sets, singles(sets, rng))
