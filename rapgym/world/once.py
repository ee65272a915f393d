"""What follows from a world or from columns alone, computed once: many episodes begin in the same few worlds."""

from collections.abc import Callable
from functools import wraps
from typing import TypeVar
from weakref import WeakKeyDictionary

from rapgym.quality.columns import QualityColumns
from rapgym.world.records import World

Made = TypeVar("Made")

MOST_WORLDS = 8  # told of train and of each third's rest, on two scenarios


def once_a_world(make: Callable[[World], Made]) -> Callable[[World], Made]:
    """Remember what was made of the worlds asked for last, by object; who is given it must not change it."""
    made: list[tuple[World, Made]] = []

    @wraps(make)
    def found(world: World) -> Made:
        for held, each in made:
            if held is world:
                return each
        new = make(world)
        made[:] = [(world, new), *made[: MOST_WORLDS - 1]]
        return new

    return found


def once_for_columns(make: Callable[[QualityColumns], Made]) -> Callable[[QualityColumns], Made]:
    """Remember what was made of columns, by object, for as long as they live; it must not hold them."""
    made: WeakKeyDictionary[QualityColumns, Made] = WeakKeyDictionary()

    @wraps(make)
    def found(columns: QualityColumns) -> Made:
        if columns not in made:
            made[columns] = make(columns)
        return made[columns]

    return found
