"""Every decision on record, in storage that fails and returns: `rapgym.testing.audit_machine`."""

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from rapgym.testing import world_machine
from rapgym.testing.audit_machine import AuditMachine


def test_what_was_acknowledged_stays_whatever_storage_does() -> None:
    count = world_machine.counted(AuditMachine)
    run_state_machine_as_test(
        AuditMachine, settings=settings(max_examples=60, stateful_step_count=25)
    )
    assert count().decisions >= 300
