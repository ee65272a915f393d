"""State machines over whole environments and guarded policies: `rapgym.testing.env_machines`."""

from typing import Any

import pytest

from rapgym.scenarios.story import Scenario
from rapgym.testing import world_machine
from rapgym.testing.env_machines import EnvMachine, GuardMachine


class Alone(EnvMachine):
    scenario = "toy"


class Vector(EnvMachine):
    scenario, lanes = "toy", 8


class Guarded(GuardMachine):
    scenario = "toy"


CI = {Alone: (20, 15, 300), Vector: (15, 12, 1_500), Guarded: (20, 15, 300)}


@pytest.mark.parametrize("machine", CI, ids=lambda machine: machine.__name__)
def test_promises_hold_in_an_environment(toy_story: Scenario, machine: type[Any]) -> None:
    examples, steps, least = CI[machine]
    world_machine.exercise(machine, examples=examples, steps=steps, least=least)
