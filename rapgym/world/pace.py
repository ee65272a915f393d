"""Which of two equal steps serves rows sooner: the reference, or its compiled twin once that is loaded."""

from rapgym.world import simulator
from rapgym.world.simulator import Step

# Rows that the reference serves while the compiled twin would be loaded.
REFERENCE_ROWS = 2048


def step_for(rows: int) -> Step:
    """What serves so many rows, of all lanes together, soonest."""
    if rows < REFERENCE_ROWS:
        return simulator.step
    from rapgym.world import twin

    return twin.step
