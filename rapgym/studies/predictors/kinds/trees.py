"""Boosted trees over yes-or-no questions."""

import numpy as np

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.quality import predictor
from rapgym.quality.predictor import Sets
from rapgym.studies.predictors.kinds.shared import Fit, a_sixth
from rapgym.studies.predictors.kinds.sums import additive

TREES, DEPTH, BAGS, SHRINK = 250, 3, 3, 0.12


def trees(sets: Sets, rng: np.random.Generator) -> Fit:
    """Boosted trees over what is dropped and how much, starting from the fitted sum of effects.

    Each of a few bags stops where a sixth of the rows, its own, are predicted best.
    """
    base, single = additive(sets, rng), predictor.basis_of(sets).single
    tried = np.flatnonzero((~sets.kept).any(axis=0))
    levels = np.quantile((~sets.kept) @ single, np.linspace(0.05, 0.95, 16))

    def questions(kept: BoolArray, text: IntArray) -> FloatArray:
        gone = ~kept
        by_kind = [gone[:, kind::2].sum(axis=1)[:, None] >= np.arange(1, 16) for kind in (0, 1)]
        cost = (gone @ single)[:, None] >= levels
        asked = np.concatenate([gone[:, tried], *by_kind, cost, (text != 0)[:, None]], axis=1)
        return asked.astype(np.float64)

    asked, residual = questions(sets.kept, sets.text), sets.nll - base(sets.kept)
    grown: list[list[tuple[IntArray, FloatArray]]] = []
    for _ in range(BAGS):
        judged = a_sixth(sets, rng)
        left, bag, losses = residual.copy(), [], [float(np.abs(residual[judged]).mean())]
        for _ in range(TREES):
            tree, leaf = _grown(asked, np.where(judged, 0, left), ~judged)
            left = left - tree[1][leaf]
            bag.append(tree)
            losses.append(float(np.abs(left[judged]).mean()))
        grown.append(bag[: int(np.argmin(losses))])

    def answer(kept: BoolArray) -> FloatArray:
        mine = questions(kept, np.zeros(len(kept), dtype=np.int64)) > 0
        total = np.zeros(len(kept))
        for split, value in (tree for bag in grown for tree in bag):
            place = np.zeros(len(kept), dtype=np.int64)
            for _ in range(DEPTH):
                place = 2 * place + 1 + mine[np.arange(len(kept)), split[place]]
            total += value[place - (2**DEPTH - 1)]
        return base(kept) + total / BAGS

    return answer


def _grown(
    asked: FloatArray, residual: FloatArray, used: BoolArray
) -> tuple[tuple[IntArray, FloatArray], IntArray]:
    """A tree of full depth as (question of each inner node, shrunk mean of each leaf), and each
    row's leaf."""
    split = np.zeros(2**DEPTH - 1, dtype=np.int64)
    leaf = np.zeros(len(residual), dtype=np.int64)
    for depth in range(DEPTH):
        nodes = 2**depth
        here = (leaf[:, None] == np.arange(nodes)) * used[:, None]
        total, rows = here.T @ residual, here.sum(axis=0)
        yes, many = (here * residual[:, None]).T @ asked, here.T.astype(np.float64) @ asked
        no, few = total[:, None] - yes, rows[:, None] - many
        gain = np.where((many >= 4) & (few >= 4), yes**2 / (many + 1) + no**2 / (few + 1), -1.0)
        split[nodes - 1 : 2 * nodes - 1] = chosen = gain.argmax(axis=1)
        leaf = 2 * leaf + asked[np.arange(len(leaf)), chosen[leaf]].astype(np.int64)
    leaves = 2**DEPTH
    rows = np.bincount(leaf[used], minlength=leaves)
    value = SHRINK * np.bincount(leaf, residual * used, minlength=leaves) / (rows + 1)
    return (split, value), leaf
