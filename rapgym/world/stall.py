"""How blocks return: which bytes cross the host link, and how long a row waits for them.

Blocks that come back stall the batch for their bytes over the link. A stall pauses in seconds that are
not served, and ends with its row. Nothing else knows the link's rate; `rapgym.testing.model` says the
same once more, independently.
"""

import numpy as np
from numpy.typing import NDArray

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.model import blocks, memory
from rapgym.model.memory import Footprint
from rapgym.world.records import World


def returning_bytes(footprint: Footprint, loaded: BoolArray, kept: BoolArray) -> IntArray:
    """Bytes of weights that cross the link where a kept set follows what is loaded.

    KV caches are computed anew: nothing of them returns.

    Args:
        loaded, kept: bool [..., N] each, broadcast.

    Returns:
        int64 [...].
    """
    return memory.spent(kept & ~loaded, footprint.weights)


def missing_bytes(footprint: Footprint, loaded: BoolArray) -> IntArray:
    """Bytes that return until every block is loaded: bool [..., N] -> int64 [...]."""
    return memory.spent(~loaded, footprint.weights)


def returning_between(footprint: Footprint, loaded: BoolArray, kept: BoolArray) -> IntArray:
    """`returning_bytes` from each of M loaded sets to each of K kept sets.

    Args:
        loaded: bool [B, M, N]; kept: bool [B, K, N].

    Returns:
        int64 [B, M, K]. By counting bits: a product of matrices this small costs more in starting
        threads than in arithmetic.
    """
    total = np.zeros((len(loaded), loaded.shape[1], kept.shape[1]), dtype=np.int64)
    for kind, size in enumerate((footprint.attention_bytes, footprint.ffn_bytes)):
        gone, wanted = _words(~loaded[..., kind::2]), _words(kept[..., kind::2])
        returning = np.bitwise_count(gone[:, :, None] & wanted[:, None])
        total += size * returning.sum(axis=-1, dtype=np.int64)
    return total


def _words(bits: BoolArray) -> NDArray[np.uint64]:
    """bool [..., L] -> uint64 [..., ceil(L / 64)]."""
    packed = blocks.packed(bits)
    padding = [(0, 0)] * (packed.ndim - 1) + [(0, -packed.shape[-1] % 8)]
    return np.pad(packed, padding).view(np.uint64)


def stall_s(world: World, returning_bytes: IntArray) -> FloatArray:
    """Seconds that so many bytes take over the link, however long a row is: [...] -> [...]."""
    seconds: FloatArray = returning_bytes / world.restore_bytes_per_s
    return seconds


def row_bytes(world: World) -> float:
    """Bytes that cross the link in one row: the most that a row can stall for."""
    return world.restore_bytes_per_s * world.window_s


def row_share(world: World, returning_bytes: IntArray) -> FloatArray:
    """Share of a row of which nothing is refused or lost that waits for so many bytes, [...]."""
    share: FloatArray = np.minimum(stall_s(world, returning_bytes) / world.window_s, 1.0)
    return share


def in_second(left_s: FloatArray) -> FloatArray:
    """How much of one served second waits, `left_s` being what is left of the stall, s: [...]."""
    return np.minimum(left_s, 1.0)


def in_seconds(serving: BoolArray, stall_s: FloatArray) -> FloatArray:
    """How much of each second of a row waits.

    Args:
        serving: which seconds are served, bool [n, W].
        stall_s: how long the stall is in all, [n].

    Returns:
        float64 [n, W]: each served second takes what is left, up to itself; the others nothing.
    """
    waited: IntArray = np.cumsum(serving, axis=1) - serving
    return np.where(serving, np.clip(stall_s[:, None] - waited, 0.0, 1.0), 0.0)
