"""State machines over the life of a world and of the shield alone: `rapgym.testing.machines`."""

from typing import Any

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from rapgym.testing import machines
from rapgym.testing.machines import ShieldMachine, WorldMachine


class Lanes(WorldMachine):
    """Many lanes at once."""

    lanes = 48
    rows_at_once = 6


class ManyShields(ShieldMachine):
    lanes = 48


CI = {ShieldMachine: (30, 15), ManyShields: (8, 15), WorldMachine: (40, 20), Lanes: (20, 15)}


@pytest.mark.parametrize("machine", CI, ids=lambda machine: machine.__name__)
def test_promises_hold_after_every_rule(machine: type[Any]) -> None:
    count = machines.counted(machine)
    examples, steps = CI[machine]
    run_state_machine_as_test(
        machine, settings=settings(max_examples=examples, stateful_step_count=steps)
    )
    print(machine.__name__, count())
