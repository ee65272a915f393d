"""Static dropping of whole layers by ShortGPT's block influence (arXiv:2403.03853).

The influence of a layer is 1 less the mean cosine similarity of its input and output hidden states:
a layer that hardly turns its input is thought to be needless. It takes one forward pass over
calibration text, and no loss is ever looked at. Of the layers, only those may go of which the table
vouches for both blocks: a layer with a block of the floor is skipped, however small its influence.
"""

from typing import Any

import numpy as np

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.errors import InvalidTable
from rapgym.policies.policy import Briefing
from rapgym.quality.columns import QualityColumns
from rapgym.rollout import tuning as rollout_tuning


class StaticLayers:
    """One kept set for good: dense less the layers of least influence, refused where it misfits."""

    lanes_apart = True
    on_misfit = "refuse"

    def __init__(self, layers: int) -> None:
        """`layers`: how many go, as `tune` found it."""
        self._layers = layers

    def reset(self, batch: int, briefing: Briefing) -> None:
        self._kept = without_layers(briefing.quality)[self._layers]

    def propose(self, observation: FloatArray, rng: np.random.Generator) -> BoolArray:
        return np.tile(self._kept, (len(observation), 1))


def layer_order(quality: QualityColumns) -> IntArray:
    """Layers that can go whole, least influence first.

    Raises:
        InvalidTable: the table holds no block influence.
    """
    if quality.block_influence is None:
        raise InvalidTable(
            f"{quality.name} holds no block influence, by which layers are dropped whole; build it "
            "again with: rapgym measure"
        )
    ascending = np.argsort(quality.block_influence, kind="stable")
    whole = np.flatnonzero(~quality.floor[0::2] & ~quality.floor[1::2])
    return ascending[np.isin(ascending, whole)]


def without_layers(quality: QualityColumns) -> BoolArray:
    """The kept sets that lack 0, 1, ... layers, bool [K + 1, N]; it raises as `layer_order` does."""
    order = layer_order(quality)
    kept = np.ones((len(order) + 1, len(quality.floor)), dtype=bool)
    for count, layer in enumerate(order, start=1):
        kept[count:, 2 * layer : 2 * layer + 2] = False
    return kept


def tune(briefing: Briefing) -> dict[str, Any]:
    """The number of layers with the least cost on the briefing's split.

    Raises:
        InvalidTable: the table holds no block influence.
    """
    costs = rollout_tuning.fixed_sets_cost(
        briefing.train,
        without_layers(briefing.quality),
        refuses_misfit=True,
        offsets=briefing.scenario.offsets,
    )
    return {"layers": int(costs.argmin())}
