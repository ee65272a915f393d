"""What served parts cost, and less than others on the same parts, with an interval."""

import numpy as np

from rapgym.bench import score
from rapgym.bench.pieces import Pieces
from rapgym.bench.score import Estimate
from rapgym.rollout.serving import Served
from rapgym.serving import batch


def estimate(one: Served, other: Served | None = None) -> Estimate:
    """Cost of one, or less that of another on the same parts, with its interval: parts are drawn, as in `bench`."""
    count = len(one.parts)
    pieces = Pieces("hour", np.arange(count), count)
    against = np.zeros(count) if other is None else other.record[:, batch.COST]
    columns = [each[:, None] for each in (one.record[:, batch.COST], against, one.tokens)]
    drawn = score.resamples(pieces, np.zeros(1, dtype=np.int64))
    here, there, tokens = drawn.summed(columns, np.ones((count, 1), dtype=np.int64))
    return score.difference(here, there, tokens, pieces)
