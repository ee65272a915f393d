"""What a line of an audit log says, once it is read: one decision, or what decisions have in common.

Numbers have ranges in which no arithmetic overflows.
"""

from collections.abc import Mapping

from rapgym.audit import context as audit_context
from rapgym.audit.context import AuditContext
from rapgym.audit.read import Line
from rapgym.audit.record import FIELDS, Record, Whole
from rapgym.audit.serving import lines as serving_lines
from rapgym.audit.serving.context import ServeContext
from rapgym.audit.serving.record import ServeRecord
from rapgym.errors import InvalidResult

_LOST = Whole("decisions", high=1 << 53)


def record_of(found: Line) -> Record:
    """The decision that a line states.

    Raises:
        InvalidResult: it lacks something, or a number is out of its range.
    """
    return Record(**found.stated(FIELDS))


def context_of(found: Line) -> tuple[str, AuditContext | ServeContext]:
    """The context that a line states, of either world, and its id.

    Raises:
        InvalidResult: it states none, or one of another id.
    """
    context: AuditContext | ServeContext
    if serving_lines.is_serving(found):
        context = serving_lines.context_of(found)
    else:
        context = audit_context.of_json(found.fields)
    if found.fields.get("context") != context.id:
        raise InvalidResult(f"line {found.head.seq} states a context of another id than it says")
    return context.id, context


def decision_of(
    found: Line, contexts: Mapping[str, AuditContext | ServeContext]
) -> Record | ServeRecord:
    """The decision that a line states, of the world of its context.

    Raises:
        InvalidResult: it lacks something, or a number is out of its range.
    """
    context = contexts.get(str(found.fields.get("context")))
    if isinstance(context, ServeContext):
        return serving_lines.record_of(found)
    return record_of(found)


def lost_of(found: Line) -> int:
    """How many decisions a line of kind `gap` says are missing.

    Raises:
        InvalidResult: it does not say.
    """
    decisions = found.fields.get("decisions")
    if not _LOST.holds(decisions):
        raise InvalidResult(f"line {found.head.seq} does not say how many decisions are missing")
    assert isinstance(decisions, int)
    return decisions
