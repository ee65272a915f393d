"""The order of the N = 2 L blocks, and the key that names a kept set.

Blocks stand in the order attn0, ffn0, attn1, ffn1, ...: attention is even, FFN is odd.
"""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rapgym.arrays import BoolArray, IntArray
from rapgym.errors import InvalidSpec

KINDS = ("attention", "ffn")


def name(block: int) -> str:
    """`attn7` or `ffn7`, as tables, logs and explanations call a block."""
    return f"{('attn', 'ffn')[block % 2]}{block // 2}"


def dropped_counts(kept: BoolArray) -> IntArray:
    """How many attention and FFN blocks are dropped: bool [..., N] -> int64 [..., 2]."""
    dropped = ~np.asarray(kept, dtype=bool)
    return np.stack(
        [np.count_nonzero(dropped[..., kind::2], axis=-1) for kind in range(2)], axis=-1
    )


def floor_of(order: IntArray | Sequence[int], n: int) -> BoolArray:
    """The blocks that always stay, bool [n]: those that `order`, what may be dropped, does not name."""
    floor = np.ones(n, dtype=bool)
    floor[np.asarray(order, dtype=np.int64)] = False
    return floor


def packed(kept: BoolArray) -> NDArray[np.uint8]:
    """Eight blocks a byte, block 0 the most significant bit: bool [..., N] -> uint8 [..., ceil(N / 8)].

    Padded with zeros. Equal where the sets are, and in their order.
    """
    return np.packbits(kept, axis=-1)


def unpacked(packed: NDArray[np.uint8], n: int) -> BoolArray:
    """The kept sets of n blocks that were packed so: uint8 [..., ceil(n / 8)] -> bool [..., n]."""
    kept: BoolArray = np.unpackbits(packed, axis=-1, count=n).astype(bool)
    return kept


def raw_keys(kept: BoolArray) -> list[bytes]:
    """The packed bits of each kept set, bool [..., N], in C order: what tables and shares look up by."""
    rows = packed(kept)
    raw, width = rows.tobytes(), rows.shape[-1]
    return [raw[i : i + width] for i in range(0, len(raw), width)]


def key(kept: BoolArray) -> str:
    """Hexadecimal name of one kept set, block 0 the most significant bit; the last digit is padded.

    Keys of one model sort as their kept sets do, block by block, so that neighbours share their
    first blocks.
    """
    bits = np.asarray(kept, dtype=bool)
    if bits.ndim != 1 or bits.size == 0 or bits.size % 2:
        raise InvalidSpec(f"a kept set is bool [N] with N = 2 L, not an array of {bits.shape}")
    digits = -(-bits.size // 4)
    return packed(bits).tobytes().hex()[:digits]


def kept_of(key: str, n: int) -> BoolArray:
    """The kept set, bool [n], that `key` names.

    Raises:
        InvalidSpec: the key is not one of an n-block model.
    """
    return kept_sets_of([key], n)[0]


def kept_sets_of(keys: Sequence[str], n: int) -> BoolArray:
    """The kept sets that keys name, in one go: bool [len(keys), n].

    Raises:
        InvalidSpec: one of the keys is not of an n-block model.
    """
    digits = -(-n // 4)
    known = re.compile(f"[0-9a-fA-F]{{{digits}}}")
    for key in keys:
        if not known.fullmatch(key):
            raise InvalidSpec(f"{key!r} is no key of {n} blocks: it needs {digits} hex digits")
    padding = "0" * (digits % 2)
    raw = bytes.fromhex("".join([key + padding for key in keys]))
    octets = np.frombuffer(raw, dtype=np.uint8).reshape(len(keys), -(-digits // 2))
    bits = unpacked(octets, 8 * octets.shape[1])
    beyond = bits[:, n:].any(axis=1)
    if beyond.any():
        key = keys[int(np.argmax(beyond))]
        raise InvalidSpec(f"{key!r} is no key of {n} blocks: it needs {digits} hex digits")
    return bits[:, :n]
