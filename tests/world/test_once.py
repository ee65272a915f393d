"""What follows from columns is made once for each, and goes when they go."""

import gc
import weakref

from toy_table import toy_columns

from rapgym.arrays import FloatArray
from rapgym.quality.columns import QualityColumns
from rapgym.world.once import once_for_columns


def test_what_follows_from_columns_is_made_once_and_goes_when_they_go() -> None:
    asked = list[int]()

    @once_for_columns
    def copied(columns: QualityColumns) -> FloatArray:
        asked.append(id(columns))
        return columns.at_counts.copy()

    first, second = toy_columns(), toy_columns("test")
    made = copied(first)
    assert copied(first) is made
    assert copied(second) is not made
    assert asked == [id(first), id(second)]
    gone = weakref.ref(made)
    del first, made
    gc.collect()
    assert gone() is None
