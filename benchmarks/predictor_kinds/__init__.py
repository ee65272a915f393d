"""The kinds of predictors that `predictors.py` compares: each sees the rows it is fitted to, no others.

A kind chooses its own settings inside those rows: by leaving parts of them out, by marginal
likelihood, or by stopping early on a part of them. NumPy alone, so that times compare.
"""

from predictor_kinds.low_rank import low_rank
from predictor_kinds.neighbours import nearest, nearest_moved
from predictor_kinds.network import network
from predictor_kinds.processes import shipped, shipped_link, starting_from
from predictor_kinds.shared import Fit, Kind
from predictor_kinds.sums import additive, additive_link, pairs_link, pairs_local, singles
from predictor_kinds.trees import trees

__all__ = ["AVERAGED", "KINDS", "Fit", "Kind", "starting_from"]

KINDS: dict[str, Kind] = {
    "shipped": shipped,
    "shipped + link": shipped_link,
    "sum of singles": singles,
    "fitted sum": additive,
    "fitted sum + link": additive_link,
    "pairs + link": pairs_link,
    "pairs + link + local": pairs_local,
    "low rank": low_rank,
    "network": network,
    "nearest": nearest,
    "nearest + singles": nearest_moved,
    "boosted trees": trees,
}
# The mean of what these say: no weights, so nothing to choose.
AVERAGED = ("shipped", "pairs + link", "low rank", "network")
