"""Array types that everything else speaks in, and arrays that cannot be changed."""

from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]
FloatArray = NDArray[np.floating[Any]]

# Costs that differ by less are equal, nats: how a processor adds numbers up moves the last digits.
TIE = 1e-9


def first_of_least(cost: FloatArray) -> int:
    """Index of the first entry that costs no more than the least, but for `TIE`: [K], K >= 1.

    The same on every processor, where the plain least may be one of equals here and another there.
    """
    return int((cost <= cost.min() + TIE).argmax())


def holds_in_all(lanes: BoolArray) -> bool:
    """`lanes.all()`, [B]: of few lanes a count is several times as quick."""
    return np.count_nonzero(lanes) == len(lanes)


def freeze(record: object) -> None:
    """Make the arrays of a frozen dataclass read-only, so that who is given it cannot change it."""
    for field in fields(record):  # type: ignore[arg-type]
        value = getattr(record, field.name)
        if isinstance(value, np.ndarray):
            value.setflags(write=False)
