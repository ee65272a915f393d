"""Every decision on record, in storage that fails and returns: `rapgym.testing.audit_machine`."""

from rapgym.testing import world_machine
from rapgym.testing.audit_machine import AuditMachine


def test_what_was_acknowledged_stays_whatever_storage_does() -> None:
    world_machine.exercise(AuditMachine, examples=60, steps=25, least=300)
