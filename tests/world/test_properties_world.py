"""State machines over the life of a world and of the shield alone: `rapgym.testing.world_machine`."""

from typing import Any

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from rapgym.testing import world_machine
from rapgym.testing.shield_machine import ShieldMachine
from rapgym.testing.world_machine import WorldMachine


class Lanes(WorldMachine):
    """Many lanes at once."""

    lanes = 48
    rows_at_once = 6


class ManyShields(ShieldMachine):
    lanes = 48


# Examples, steps of each, and decisions that they come to at the least: over 20,000 in all with those
# of test_properties_env.py.
CI = {
    ShieldMachine: (30, 15, 500),
    ManyShields: (20, 15, 6_000),
    WorldMachine: (40, 20, 300),
    Lanes: (50, 15, 12_000),
}


@pytest.mark.parametrize("machine", CI, ids=lambda machine: machine.__name__)
def test_promises_hold_after_every_rule(machine: type[Any]) -> None:
    count = world_machine.counted(machine)
    examples, steps, least = CI[machine]
    run_state_machine_as_test(
        machine, settings=settings(max_examples=examples, stateful_step_count=steps)
    )
    assert count().decisions >= least
