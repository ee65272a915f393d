"""JSON that came from elsewhere: refused before it takes thirty times its size in memory."""

import json
import math
from typing import Any

from rapgym.files import limits


def parsed(text: str | bytes, most_values: int | None = None) -> Any:
    """The value that a text states.

    Args:
        most_values: of what stands between commas and brackets; `limits.JSON_VALUES` where None.

    Raises:
        ValueError: it is no JSON, nested too deeply, holds too many values, or NaN or infinity.
    """
    if isinstance(text, bytes):
        text = text.decode()
    most = limits.JSON_VALUES if most_values is None else most_values
    # Each value but the first follows one of these; in a text they count as well, which harms nobody.
    if sum(map(text.count, ",[{")) > most:
        raise ValueError(f"it holds more than {most} values")
    try:
        return json.loads(text, parse_constant=_refused)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def whole(value: object) -> int:
    """A whole number of which sums stay in int64.

    Raises:
        ValueError: it is none.
    """
    if type(value) is not int or abs(value) >= 1 << 62:
        raise ValueError("a whole number is missing")
    return value


def number(value: object) -> float:
    """A finite number.

    Raises:
        ValueError: it is none.
    """
    if type(value) not in (int, float) or not math.isfinite(value):  # type: ignore[arg-type]
        raise ValueError("a number is missing")
    return float(value)  # type: ignore[arg-type]


def words(value: object) -> str:
    """A text.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, str):
        raise ValueError("a text is missing")
    return value


def _refused(constant: str) -> Any:
    raise ValueError(f"it holds {constant}")
