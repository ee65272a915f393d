"""The kinds of predictors that `study` compares: each sees the rows it is fitted to, no others.

A kind chooses its own settings inside those rows: by leaving parts of them out, by marginal
likelihood, or by stopping early on a part of them. NumPy alone, so that times compare.
"""

from rapgym.studies.predictors.kinds.low_rank import low_rank
from rapgym.studies.predictors.kinds.neighbours import nearest, nearest_moved
from rapgym.studies.predictors.kinds.network import network
from rapgym.studies.predictors.kinds.processes import shipped, shipped_link
from rapgym.studies.predictors.kinds.shared import Kind
from rapgym.studies.predictors.kinds.sums import (
    additive,
    additive_link,
    pairs_link,
    pairs_local,
    singles,
)
from rapgym.studies.predictors.kinds.trees import trees

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
