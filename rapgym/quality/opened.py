"""A fit whose sums are opened into tables: a prediction in a few hundred nanoseconds instead of microseconds.

The local part of a prediction is a sum over rows of `weight * common * near`. Which blocks a row drops
splits into two patterns: its *tabled* blocks (up to 8, FFN blocks first) and the rest. `near` is a product
over blocks and `common` a sum, so with k and s of the rest of a set and one of the A patterns that rows have
there, it is the sum over patterns of

    k[A] * (s[A] * times[tabled bits, A] + plus[tabled bits, A]),

where `times` and `plus` add up over the rows of a pattern and stand in a table by all that the tabled bits
can say. k and s come from a table for each group of the other bits. No sum is cut short: answers are those
of `predictor.Predictor` but for the last digits, and rounding hides those.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.quality.columns import QualityColumns
from rapgym.quality.predictor import features

TABLED = 8  # blocks at most: with more, tables grow sooner than sums get shorter
GROUPS = 4  # in which the other blocks are looked up
MOST_BLOCKS = 64  # of a model: bits of a word
MOST_OTHERS = 32  # blocks that may be dropped and are not tabled


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """The tables of a fit; a set is a word, bit by bit whether a block is gone."""

    squeezed: NDArray[np.uint32]  # by byte of the word and its value: the bits of `place`, [8, 256]
    tabled_bits: int  # lowest bits of a place
    group_bits: int  # of each group above them
    mask: NDArray[np.uint64]  # of each block and each pair that adds something by itself, [M]
    value: FloatArray  # what it adds where all of it is gone, nats, [M]
    tabled: FloatArray  # `times` and then `plus`, [2 ** tabled bits, 2 * A]
    groups: FloatArray  # k and then s of each group, [2, GROUPS, 2 ** group bits, A]


def is_opened(columns: QualityColumns) -> bool:
    """Whether these columns' fit can be opened: it starts from zero and few enough blocks may be dropped."""
    droppable = int((~columns.floor).sum())
    return (
        columns.mean is None
        and len(columns.floor) <= MOST_BLOCKS
        and droppable - TABLED <= MOST_OTHERS
    )


def opened(columns: QualityColumns) -> Opened:
    """Open the fit of these columns, for which `is_opened`."""
    assert is_opened(columns), "too many blocks, or a mean function"
    fit = columns.fitted
    n = len(columns.floor)
    whole = features(np.zeros((1, n), dtype=bool), fit.basis, fit.settings)
    effect, decay = whole.effects[0], whole.decay
    droppable = np.flatnonzero(~columns.floor)
    first = np.concatenate([droppable[droppable % 2 == 1], droppable[droppable % 2 == 0]])
    tabled, others = np.sort(first[:TABLED]), np.sort(first[TABLED:])
    width = -(-len(others) // GROUPS)
    groups = [others[index * width : (index + 1) * width] for index in range(GROUPS)]

    gone = fit.rows.dropped > 0.5
    patterns, which = _distinct(gone[:, others])
    own, of_own = _distinct(gone[:, tabled])
    weight = np.zeros((len(own), len(patterns)))
    np.add.at(weight, (of_own, which), np.exp(fit.settings.local) * fit.weights)
    near, common = _looked_up(own, effect[tabled], decay[tabled], len(tabled))
    times_plus = np.concatenate([near @ weight, (near * common) @ weight], axis=1)

    of_groups = [
        _looked_up(patterns[:, np.searchsorted(others, each)], effect[each], decay[each], width)
        for each in groups
    ]
    pairs = np.isin(fit.basis.first, droppable) & np.isin(fit.basis.second, droppable)
    one = np.uint64(1)
    first_bit = one << fit.basis.first[pairs].astype(np.uint64)
    second_bit = one << fit.basis.second[pairs].astype(np.uint64)
    return Opened(
        squeezed=_squeezed(np.concatenate([tabled, *groups])),
        tabled_bits=len(tabled),
        group_bits=width,
        mask=np.concatenate([one << droppable.astype(np.uint64), first_bit | second_bit]),
        value=np.concatenate(
            [(effect * fit.effect_weights)[droppable], (whole.pairs[0] * fit.pair_weights)[pairs]]
        ),
        tabled=times_plus,
        groups=np.array([[near for near, _ in of_groups], [common for _, common in of_groups]]),
    )


def _distinct(rows: BoolArray) -> tuple[BoolArray, IntArray]:
    """The distinct ones of some rows, bool [J, b], and which of them each row is, [J]."""
    words = rows @ (1 << np.arange(rows.shape[1]))
    _, first, which = np.unique(words, return_index=True, return_inverse=True)
    return rows[first], which.reshape(-1)


def _looked_up(
    patterns: BoolArray, effect: FloatArray, decay: FloatArray, bits: int
) -> tuple[FloatArray, FloatArray]:
    """How near each pattern is to all that some bits can say, and what both drop: [2 ** bits, A] each.

    Args:
        patterns: [A, b], b <= bits; effect, decay: of those blocks, [b].
    """
    said = (np.arange(1 << bits)[:, None] >> np.arange(patterns.shape[1])) & 1
    gone, other = said.astype(np.float64), patterns.astype(np.float64)
    differ = (gone * decay) @ (1 - other).T + ((1 - gone) * decay) @ other.T
    return np.exp(-differ), (gone * effect**2) @ other.T


def _squeezed(bits: IntArray) -> NDArray[np.uint32]:
    """For each byte of a word and each value, the bits of the place: bits[i] of the word is its bit i."""
    found = np.zeros((8, 256), dtype=np.uint32)
    values = np.arange(256)
    for place, bit in enumerate(bits.tolist()):
        found[bit // 8] |= (((values >> (bit % 8)) & 1) << place).astype(np.uint32)
    return found
