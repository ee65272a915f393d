"""Where train episodes of many lanes begin, drawn by compiled code: what `lanes.start_of` draws, lane by lane.

Each lane has a generator of its own, so nothing can be drawn for several at once, and a call of
`Generator.integers` takes longer than a row is served. Here the two rules of NumPy are written out over
the functions that a bit generator offers to other languages (`BitGenerator.ctypes`).
"""

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from rapgym.arrays import FloatArray, IntArray
from rapgym.files.compiled import compiled

TRIED = 64  # draws on which the rules are compared with NumPy's before they are used


def _call(result: Any, returned: Any) -> Any:
    """What calls a C function, by address, with the address of a state."""

    def called(typing: Any, function: Any, state: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            pointer = ir.IntType(8).as_pointer()
            kind = ir.FunctionType(returned, [pointer]).as_pointer()
            function, state = given
            return builder.call(
                builder.inttoptr(function, kind), [builder.inttoptr(state, pointer)]
            )

        return result(types.int64, types.int64), code

    return intrinsic(called)


_next_uint32 = _call(types.uint32, ir.IntType(32))
_next_double = _call(types.float64, ir.DoubleType())


@compiled
def _below(next_uint32: int, state: int, most: int) -> np.int64:
    """`Generator.integers(most)`, 1 <= most < 2 ** 32: Lemire's rule on 32 bits."""
    if most == 1:
        return np.int64(0)
    many = np.uint64(most)
    low = np.uint64(0xFFFFFFFF)
    product = np.uint64(_next_uint32(next_uint32, state)) * many
    if product & low < many:
        threshold = (low + np.uint64(1) - many) % many
        while product & low < threshold:
            product = np.uint64(_next_uint32(next_uint32, state)) * many
    return np.int64(product >> np.uint64(32))


@compiled
def _draw(
    functions: IntArray, states: IntArray, most: IntArray, low: float, span: float,
    whole: IntArray, scale: FloatArray,
) -> None:  # fmt: skip
    for lane in range(len(states)):
        whole[0, lane] = _below(functions[0], states[lane], most[0])
        whole[1, lane] = _below(functions[0], states[lane], most[1])
        scale[lane] = low + span * _next_double(functions[1], states[lane])


def draw(
    rngs: Sequence[np.random.Generator], most: tuple[int, int], between: tuple[float, float]
) -> tuple[IntArray, IntArray, FloatArray]:
    """From each generator `integers(most[0])`, `integers(most[1])` and `uniform(*between)`: [B] each."""
    if not (_agrees() and all(type(rng.bit_generator) is np.random.PCG64 for rng in rngs)):
        return drawn_plainly(rngs, most, between)
    return _drawn(rngs, most, between)


def drawn_plainly(
    rngs: Sequence[np.random.Generator], most: tuple[int, int], between: tuple[float, float]
) -> tuple[IntArray, IntArray, FloatArray]:
    """The same by NumPy."""
    found = [(rng.integers(most[0]), rng.integers(most[1]), rng.uniform(*between)) for rng in rngs]
    row, offset, scale = zip(*found, strict=True) if found else ((), (), ())
    return np.array(row, np.int64), np.array(offset, np.int64), np.array(scale, np.float64)


def _drawn(
    rngs: Sequence[np.random.Generator], most: tuple[int, int], between: tuple[float, float]
) -> tuple[IntArray, IntArray, FloatArray]:
    whole, scale = np.empty((2, len(rngs)), dtype=np.int64), np.empty(len(rngs))
    if rngs:
        states = np.fromiter(
            (rng.bit_generator.ctypes.state_address for rng in rngs), np.int64, len(rngs)
        )
        _draw(_functions(), states, np.array(most, dtype=np.int64), between[0],
              between[1] - between[0], whole, scale)  # fmt: skip
    return whole[0], whole[1], scale


@cache
def _functions() -> IntArray:
    """The addresses of what draws from a state of `PCG64`; all of a process share them."""
    offered = np.random.PCG64(0).ctypes
    found = [ctypes.cast(each, ctypes.c_void_p).value
             for each in (offered.next_uint32, offered.next_double)]  # fmt: skip
    return np.array(found, dtype=np.int64)


_agreed: list[bool] = []


def _agrees() -> bool:
    """Whether the rules are NumPy's, on this processor and in this version, to the last bit."""
    if not _agreed:
        # Numbers that are drawn anew one time in three among them.
        tries = ((279, 342), (1, 3 * 2**30 + 1), (2**31 + 1, 1), (7, 2**20))
        ours, theirs = ([np.random.default_rng(s) for s in range(TRIED)] for _ in range(2))
        _agreed.append(
            all(
                (one == other).all()
                for most in tries
                for one, other in zip(
                    _drawn(ours, most, (0.9, 1.1)), drawn_plainly(theirs, most, (0.9, 1.1)),
                    strict=True,
                )
            )
        )  # fmt: skip
    return _agreed[0]
