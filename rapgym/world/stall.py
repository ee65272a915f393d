"""What of a second serves: how long blocks take to return, and how long serving pauses as they leave.

Blocks that come back stall the batch for their bytes over the link. Where the limit falls below what is in
use, blocks go at once, and the first `reaction_s` of that second are not served, unless the tenant
had announced it. What is left of the second can serve: the stall goes on in it, and then tokens are
served. A stall pauses while nothing can serve, and ends with its row. Nothing else knows the link's rate
or the reaction; `rapgym.testing.model` says the same once more, independently.
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


def link_bytes_per_s(world: World) -> float:
    """Bytes that cross the link in a second: for compiled code, which says `stall_s` in its own words."""
    return world.restore_bytes_per_s


def row_bytes(world: World) -> float:
    """Bytes that cross the link in one row: the most that a row can stall for."""
    return world.restore_bytes_per_s * world.window_s


def row_share(world: World, returning_bytes: IntArray) -> FloatArray:
    """Share of a row of which nothing is refused or lost that waits for so many bytes, [...]."""
    share: FloatArray = np.minimum(stall_s(world, returning_bytes) / world.window_s, 1.0)
    return share


def pause_s(world: World) -> float:
    """How much of a second is lost in which blocks have to go at once, s: `reaction_s`, at most 1.

    Nothing where notice covers it: the blocks are gone by the time the memory is taken.
    """
    return 0.0 if world.notice_s >= 1 else min(world.reaction_s, 1.0)


def in_second(left_s: FloatArray, able_s: FloatArray) -> FloatArray:
    """How much of one second waits, s: [...].

    Args:
        left_s: what is left of the stall, [...].
        able_s: how much of the second can serve: neither refused nor lost as blocks go, [...].
    """
    return np.minimum(left_s, able_s)


def in_seconds(able_s: FloatArray, stall_s: FloatArray) -> FloatArray:
    """How much of each second of a row waits.

    Args:
        able_s: how much of each second can serve, [n, W].
        stall_s: how long the stall is in all, [n].

    Returns:
        float64 [n, W]: each second takes what is left of the stall, up to what of it can serve.
    """
    before: FloatArray = np.cumsum(able_s, axis=1) - able_s
    return np.minimum(np.maximum(stall_s[:, None] - before, 0.0), able_s)
