"""Which of two equal steps serves rows sooner: the reference, or its compiled twin once that is loaded."""

import sys
from typing import TYPE_CHECKING

from rapgym.quality.columns import QualityColumns
from rapgym.world import simulator
from rapgym.world.records import World
from rapgym.world.simulator import Step

if TYPE_CHECKING:
    from rapgym.world.twin import Twin

# Rows that the reference serves while the compiled twin would be loaded.
REFERENCE_ROWS = 2048


def is_compiled(world: World, rows: int) -> bool:
    """Whether the twin serves so many rows, of all lanes together, sooner, and knows what quality is made of.

    It reads the columns of a table themselves: what answers in another way is asked by the reference.
    """
    return rows >= REFERENCE_ROWS and type(world.quality) is QualityColumns


_rows = 0  # of all runs in this process, see `is_worth`


def is_loaded(module: str = "twin") -> bool:
    """Whether compiled code is at hand, so that its use costs nothing beforehand."""
    return f"{__package__}.{module}" in sys.modules


def is_worth(world: World, rows: int) -> bool:
    """`is_compiled` for a run of so many rows that is one of several in this process.

    They are counted together, and once the twin is loaded it serves every run.
    """
    global _rows
    _rows += rows
    return is_compiled(world, REFERENCE_ROWS if is_loaded() else _rows)


def twin_for(world: World, rows: int) -> "Twin | None":
    """The twin of a world, where so many rows are served sooner with it."""
    if not is_compiled(world, rows):
        return None
    from rapgym.world import twin

    return twin.twin_of(world)


def step_for(world: World, rows: int) -> Step:
    """What serves so many rows of a world soonest."""
    if not is_compiled(world, rows):
        return simulator.step
    from rapgym.world import twin

    return twin.step
