"""The same life on devices whose memory is fake and counted: in books, and under a real tiny model."""

from typing import Any

import pytest
from device_machines import DeviceMachine, LiveMachine, one_thread
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from rapgym.testing import world_machine

CI = {DeviceMachine: (30, 15, 100), LiveMachine: (8, 10, 10)}


@pytest.mark.parametrize("machine", CI, ids=lambda machine: machine.__name__)
def test_promises_hold_on_a_device_after_every_rule(machine: type[Any]) -> None:
    count = world_machine.counted(machine)
    examples, steps, least = CI[machine]
    with one_thread():
        run_state_machine_as_test(
            machine, settings=settings(max_examples=examples, stateful_step_count=steps)
        )
    assert count().decisions >= least
