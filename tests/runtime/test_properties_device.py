"""The same life on devices whose memory is fake and counted: in books, and under a real tiny model."""

from typing import Any

import pytest
from device_machines import DeviceMachine, LiveMachine, one_thread

from rapgym.testing import world_machine

CI = {DeviceMachine: (30, 15, 100), LiveMachine: (8, 10, 10)}


@pytest.mark.parametrize("machine", CI, ids=lambda machine: machine.__name__)
def test_promises_hold_on_a_device_after_every_rule(machine: type[Any]) -> None:
    examples, steps, least = CI[machine]
    with one_thread():
        world_machine.exercise(machine, examples=examples, steps=steps, least=least)
