"""What the quality table's own error does to the difference of two policies' costs.

The bootstrap of `rapgym.bench.score` draws rows; it knows nothing of the text on which kept sets were
measured. Two policies' costs differ through the sets they serve from, so the table's error of the
difference is that of the sum over sets of (share_a - share_b) nll(set). It has two parts:

- The text's. Errors of different sets come from the same text and go together to a degree that a
  table does not store. With one correlation between 0 and 1 for all pairs, the variance lies
  between those of independent and of wholly correlated errors; the larger is taken: an upper limit
  under that assumption, though not under every correlation.
- The predictor's, of sets without a row: its held-out error, independent from set to set. (On the
  reference table the mean of 199 signed held-out errors is -0.011 nats, where chance alone gives
  0.010: no part in common was found. Sets near each other may share more than sets drawn at random.)
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rapgym.model import blocks
from rapgym.quality.columns import QualityColumns

# A normal error's standard deviation over its mean absolute value.
SD_OVER_MEAN_ABS = math.sqrt(math.pi / 2)

Shares = Mapping[bytes, float]  # packed bits of a kept set -> share of output tokens served from it


@dataclass(frozen=True, slots=True)
class SetError:
    """Standard errors of one set's nll, nats."""

    text: float
    predictor: float = 0.0  # zero where the set is measured


def predictor_error(held_out: Sequence[Mapping[str, Any]], ceiling: float) -> float:
    """Standard error of a predicted nll, nats: of the design that is predicted worst.

    Args:
        held_out: as `QualityTable.held_out` gives it.
        ceiling: what to take where the table stores no such error, for then nothing is known.
    """
    known = [float(design["all"]["mean_abs"]) for design in held_out if "all" in design]
    return SD_OVER_MEAN_ABS * max(known) if known else ceiling


def set_errors(
    names: Sequence[bytes], columns: QualityColumns, predictor: float
) -> dict[bytes, SetError]:
    """Errors of each set's nll; none where the loss is capped at C.

    Args:
        names: packed bits of the sets.
        predictor: standard error of a prediction, nats.
    """
    if not names:
        return {}
    packed = np.frombuffer(b"".join(names), dtype=np.uint8).reshape(len(names), -1)
    kept = blocks.unpacked(packed, len(columns.floor))
    nll, measured = columns.nll(kept)
    # A set without a row is predicted from rows on this text, and shares their error.
    text = np.full(len(names), float(np.median(columns.sets.nll_se[1:])))
    text[measured] = columns.nll_se(kept[measured])
    missed = np.where(measured, 0.0, predictor)
    matters = nll < columns.ceiling
    errors = zip((text * matters).tolist(), (missed * matters).tolist(), strict=True)
    return {name: SetError(*error) for name, error in zip(names, errors, strict=True)}


def difference_error(a: Shares, b: Shares, errors: Mapping[bytes, SetError]) -> float:
    """Standard error of the difference of two policies' costs, nats an output token.

    Args:
        a, b: what each serves from.
        errors: of every set in either.
    """
    less = {name: a.get(name, 0.0) - b.get(name, 0.0) for name in sorted({*a, *b})}
    text = [share * errors[name].text for name, share in less.items()]
    predictor = [share * errors[name].predictor for name, share in less.items()]
    return math.hypot(max(math.hypot(*text), abs(math.fsum(text))), *predictor)
