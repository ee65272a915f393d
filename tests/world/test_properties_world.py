"""State machines over the life of a world and of the shield alone: `rapgym.testing.world_machine`."""

from typing import Any

import pytest

from rapgym.arrays import BoolArray
from rapgym.testing import world_machine
from rapgym.testing.shield_machine import ShieldMachine
from rapgym.testing.world_machine import WorldMachine
from rapgym.world import twin
from rapgym.world.records import World
from rapgym.world.simulator import Step


class Lanes(WorldMachine):
    """Many lanes at once."""

    lanes = 48
    rows_at_once = 6


class Twins(Lanes):
    """The same served by the compiled twin."""

    @staticmethod
    def served_by(world: World, loaded: BoolArray) -> Step:
        return twin.step


class ManyShields(ShieldMachine):
    lanes = 48


# Examples, steps of each, and decisions that they come to at the least: over 20,000 in all with those
# of test_properties_env.py.
CI = {
    ShieldMachine: (30, 15, 500),
    ManyShields: (20, 15, 6_000),
    WorldMachine: (40, 20, 300),
    Lanes: (50, 15, 12_000),
    Twins: (30, 15, 7_000),
}


@pytest.mark.parametrize("machine", CI, ids=lambda machine: machine.__name__)
def test_promises_hold_after_every_rule(machine: type[Any]) -> None:
    examples, steps, least = CI[machine]
    world_machine.exercise(machine, examples=examples, steps=steps, least=least)
