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

WORD = 64
ATTENTION = np.uint64(0x5555555555555555)  # even bits


class Parts(NamedTuple):
    """A fit as compiled code reads it: N blocks, P pairs of them, J rows."""

    effect: FloatArray  # of each block that is dropped, [N]
    alone: FloatArray  # what it adds by itself, nats, [N]
    first: IntArray  # block of each pair, [P]
    second: IntArray
    pair: FloatArray  # what it adds where both are dropped, nats, [P]
    dropped: NDArray[np.uint8]  # 1 where a row drops a block, [N, J]
    gone: NDArray[np.uint64]  # the same as words, [J, words]
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
        gone=words_of(gone),
        weight=np.exp(fit.settings.local) * fit.weights,
        near=np.exp(-apart),
    )


def words_of(sets: BoolArray) -> NDArray[np.uint64]:
    """A bit for each block, block 0 the lowest of the first word: bool [K, N] -> uint64 [K, words]."""
    packed = np.packbits(sets, axis=1, bitorder="little")
    octets = np.zeros((len(sets), -(-sets.shape[1] // WORD) * WORD // 8), dtype=np.uint8)
    octets[:, : packed.shape[1]] = packed
    return octets.view("<u8").astype(np.uint64)


def nll(parts: Parts, kept: BoolArray) -> FloatArray:
    """As `Predictor.nll`: bool [K, N] -> float64 [K]."""
    found = np.empty(len(kept))
    _answer(parts, words_of(~kept), found, np.empty(len(parts.weight)))
    return found


@compiled
def _ones(bits: np.uint64) -> int:
    bits -= (bits >> np.uint64(1)) & np.uint64(0x5555555555555555)
    bits = (bits & np.uint64(0x3333333333333333)) + (
        (bits >> np.uint64(2)) & np.uint64(0x3333333333333333)
    )
    bits = (bits + (bits >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((bits * np.uint64(0x0101010101010101)) >> np.uint64(56))  # type: ignore[return-value]


@compiled
def _is_gone(key: NDArray[np.uint64], index: int, block: int) -> bool:
    word = key[index, block // WORD] >> np.uint64(block % WORD)
    return (word & np.uint64(1)) == np.uint64(1)


@compiled
def _answer(parts: Parts, key: NDArray[np.uint64], found: FloatArray, common: FloatArray) -> None:
    """Args:
    key: what each set drops, [K, words].
    common: scratch, [J].
    """
    rows, words = parts.gone.shape
    for index in range(len(found)):
        total = 0.0
        common[:] = 0.0
        for block in range(len(parts.effect)):
            if _is_gone(key, index, block):
                total += parts.alone[block]
                square = parts.effect[block] * parts.effect[block]
                for row in range(rows):
                    common[row] += square * parts.dropped[block, row]
        for pair in range(len(parts.pair)):
            if _is_gone(key, index, parts.first[pair]) and _is_gone(key, index, parts.second[pair]):
                total += parts.pair[pair]
        for row in range(rows):
            attention = ffn = 0
            for word in range(words):
                differ = key[index, word] ^ parts.gone[row, word]
                attention += _ones(differ & ATTENTION)
                ffn += _ones(differ & ~ATTENTION)
            common[row] *= parts.near[attention, ffn] * parts.weight[row]
        bent = 0.0
        for row in range(rows):
            bent += common[row]
        found[index] = total + bent
