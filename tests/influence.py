"""Tables that say how much each layer changes what passes through it."""

from dataclasses import dataclass, fields, replace

import numpy as np

from rapgym.arrays import FloatArray
from rapgym.policies.policy import Briefing
from rapgym.quality.columns import QualityColumns


@dataclass(frozen=True, eq=False)
class WithInfluence(QualityColumns):
    """Columns of a table that holds a block influence, or none."""

    block_influence: FloatArray | None = None  # [L]


def told_of_influence(told: Briefing, influence: list[float] | None) -> Briefing:
    """The briefing, as a table with this influence gives it."""
    held = {field.name: getattr(told.quality, field.name) for field in fields(told.quality)}
    held["block_influence"] = None if influence is None else np.array(influence)
    return replace(told, train=replace(told.train, quality=WithInfluence(**held)))
