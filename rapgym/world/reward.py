"""From seconds of a row to its cost: nats an output token above dense, split into four terms."""

from dataclasses import dataclass

import numpy as np

from rapgym.arrays import FloatArray


@dataclass(frozen=True, slots=True)
class Seconds:
    """How the W seconds of a row were spent in each of B lanes; every moment counts once.

    Order of precedence where several apply: refused, emergency, stall, served.
    """

    loss: FloatArray  # sum over served seconds of min(nll(kept) - nll(dense), C), nats, [B]
    stall: FloatArray  # seconds in which blocks came back over the host link, [B]
    emergency: FloatArray  # seconds for which serving paused while blocks had to go at once, [B]
    refused: FloatArray  # [B]


@dataclass(frozen=True, slots=True)
class Terms:
    """Weighted cost of a row; the four terms add up to the negative reward. Each float64 [B]."""

    quality: FloatArray
    stall: FloatArray
    emergency: FloatArray
    refused: FloatArray

    @property
    def total(self) -> FloatArray:
        return self.quality + self.stall + self.emergency + self.refused


def terms(seconds: Seconds, window_s: int, ceiling: float, weight: FloatArray) -> Terms:
    """Mean cost of the row's seconds times `weight`.

    Args:
        ceiling: C, nats: what a token costs that is not served.
        weight: output tokens of the row over those of a mean train row, [B].
    """
    share = weight / window_s
    return Terms(
        quality=share * seconds.loss,
        stall=share * ceiling * seconds.stall,
        emergency=share * ceiling * seconds.emergency,
        refused=share * ceiling * seconds.refused,
    )


def token_loss(nll: FloatArray, ceiling: float) -> FloatArray:
    """Cost of a served token: nats above dense, at most C; below zero where dropping helps."""
    return np.minimum(nll, ceiling)
