"""Array types that everything else speaks in, and arrays that cannot be changed."""

from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]
FloatArray = NDArray[np.floating[Any]]


def freeze(record: object) -> None:
    """Make the arrays of a frozen dataclass read-only, so that who is given it cannot change it."""
    for field in fields(record):  # type: ignore[arg-type]
        value = getattr(record, field.name)
        if isinstance(value, np.ndarray):
            value.setflags(write=False)
