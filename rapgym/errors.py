"""Every error that rapgym raises on purpose, one tree.

RapgymError
|-- InvalidSpec         a model, card, tenant or scenario whose numbers contradict each other
|-- InvalidAction       an action that an environment cannot read
|-- InvalidTrace        a request or memory trace that cannot be replayed
|-- InvalidTable        a quality table that is damaged, incomplete or of another model
|   `-- UnmeasuredSet   a kept set that has no row of its own
|-- InvalidPolicy       a policy that does not follow the protocol
|-- HeldOut             training asked for rows or columns that are kept from it
|-- InvalidResult       a results file or an audit log that cannot be read or does not replay
|-- AuditFailed         an audit log that cannot be written
|-- Unwritable          any other file that cannot be written; the message says where and what to do
|-- DataUnavailable     a file that is not on this machine; the message says how to get it
|   `-- WrongChecksum   a file whose content is not what its name promises
`-- MissingExtra        a command that needs an optional dependency; the message names the extra

A message says what is wrong, with which file or argument, and what to do about it.
"""


class RapgymError(Exception):
    """Base of all errors that rapgym raises on purpose; the command line prints it without a trace."""


class InvalidSpec(RapgymError, ValueError):
    """A model, card, tenant or scenario whose numbers contradict each other."""


class InvalidAction(RapgymError, ValueError):
    """An action that an environment cannot read: of another shape or type, or not a whole number."""


class InvalidTrace(RapgymError, ValueError):
    """A request or memory trace that cannot be replayed."""


class InvalidTable(RapgymError, ValueError):
    """A quality table that is damaged, incomplete or of another model."""


class UnmeasuredSet(InvalidTable, KeyError):
    """A kept set that has no row of its own."""

    __str__ = Exception.__str__  # KeyError would print the repr of the message


class InvalidPolicy(RapgymError, TypeError):
    """A policy that does not follow the protocol."""


class HeldOut(RapgymError, PermissionError):
    """Training asked for rows or columns that are kept from it."""

    __str__ = Exception.__str__


class InvalidResult(RapgymError, ValueError):
    """A results file or an audit log that cannot be read or does not replay."""


class AuditFailed(RapgymError, OSError):
    """An audit log that cannot be written; whoever must not serve unlogged stops here."""

    __str__ = Exception.__str__


class Unwritable(RapgymError, OSError):
    """A file that cannot be written: no space, no permission, no such folder. Nothing half-written is left."""

    __str__ = Exception.__str__


class DataUnavailable(RapgymError, FileNotFoundError):
    """A file that is not on this machine; the message says how to get it."""

    __str__ = Exception.__str__


class WrongChecksum(DataUnavailable):
    """A file whose content is not what its name promises."""


class MissingExtra(RapgymError, ImportError):
    """A command that needs an optional dependency; the message names the extra."""
