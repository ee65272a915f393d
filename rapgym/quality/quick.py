"""The predictor's answers by compiled code: for a set alone a fiftieth of the time, for many a half.

Every answer still meets every row of the fit once, so it costs as much as the table is long: a Gaussian
process knows no shorter way. `predictor.Predictor` is the reference; the two add up in another order, and
answers are rounded so that nobody sees it.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.files.compiled import compiled
from rapgym.quality.predictor import Predictor, features


class Parts(NamedTuple):
    """A fit as compiled code reads it: N blocks, P pairs of them, J rows."""

    effect: FloatArray  # of each block that is dropped, [N]
    alone: FloatArray  # what it adds by itself, nats, [N]
    first: IntArray  # block of each pair, [P]
    second: IntArray
    pair: FloatArray  # what it adds where both are dropped, nats, [P]
    dropped: NDArray[np.uint8]  # 1 where a row drops a block, [N, J]
    gone: IntArray  # attention and FFN blocks that each row drops, [2, J]
    weight: FloatArray  # of each row in the local part, nats, [J]
    near: FloatArray  # by how many attention and FFN blocks two sets differ, [L + 1, L + 1]


def parts_of(fit: Predictor) -> Parts:
    """A fit without a mean function, for compiled code."""
    assert fit.mean is None, "its mean function knows no compiled code"
    n = fit.rows.dropped.shape[1]
    whole = features(np.zeros((1, n), dtype=bool), fit.basis, fit.settings)
    gone = fit.rows.dropped > 0.5
    differ = np.arange(n // 2 + 1)
    apart = differ[:, None] * whole.decay[0] + differ * whole.decay[1]
    return Parts(
        effect=whole.effects[0],
        alone=whole.effects[0] * fit.effect_weights,
        first=np.array(fit.basis.first, dtype=np.int64),
        second=np.array(fit.basis.second, dtype=np.int64),
        pair=whole.pairs[0] * fit.pair_weights,
        dropped=np.ascontiguousarray(gone.T, dtype=np.uint8),
        gone=np.stack([gone[:, kind::2].sum(axis=1) for kind in range(2)]).astype(np.int64),
        weight=np.exp(fit.settings.local) * fit.weights,
        near=np.exp(-apart),
    )


def nll(parts: Parts, kept: BoolArray) -> FloatArray:
    """As `Predictor.nll`: bool [K, N] -> float64 [K]."""
    found = np.empty(len(kept))
    rows = len(parts.weight)
    _answer(
        parts,
        np.ascontiguousarray(kept),
        found,
        np.empty(rows),
        np.empty((2, rows), dtype=np.uint16),
    )
    return found


@compiled
def _answer(
    parts: Parts,
    kept: BoolArray,
    found: FloatArray,
    common: FloatArray,
    both: NDArray[np.uint16],
) -> None:
    """Args:
    kept: [K, N].
    common: scratch: the additive covariance with each row, [J].
    both: scratch: attention and FFN blocks that a set and each row drop, [2, J].
    """
    rows = len(parts.weight)
    for index in range(len(found)):
        total = 0.0
        common[:] = 0.0
        both[:] = 0
        own_attention = own_ffn = 0
        for block in range(len(parts.effect)):
            if kept[index, block]:
                continue
            total += parts.alone[block]
            square, kind = parts.effect[block] * parts.effect[block], block % 2
            own_attention += 1 - kind
            own_ffn += kind
            for row in range(rows):
                common[row] += square * parts.dropped[block, row]
            for row in range(rows):
                both[kind, row] += parts.dropped[block, row]
        for pair in range(len(parts.pair)):
            if not (kept[index, parts.first[pair]] or kept[index, parts.second[pair]]):
                total += parts.pair[pair]
        bent = 0.0
        for row in range(rows):
            attention = own_attention + parts.gone[0, row] - 2 * np.int64(both[0, row])
            ffn = own_ffn + parts.gone[1, row] - 2 * np.int64(both[1, row])
            bent += common[row] * parts.near[attention, ffn] * parts.weight[row]
        found[index] = total + bent
