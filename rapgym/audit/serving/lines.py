"""Seconds of a serving engine as lines of the audit log, and what such a line says once it is read."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rapgym.audit.decisions import Held
from rapgym.audit.read import Line
from rapgym.audit.serving import context as audit_context
from rapgym.audit.serving.context import WORLD, ServeContext
from rapgym.audit.serving.record import FIELDS, WRITTEN, ServeRecord
from rapgym.errors import InvalidSpec


@dataclass(frozen=True, slots=True)
class ServeSeconds:
    """A second of B lanes that has been served: fields of `ServeRecord` by name, one dict a lane."""

    lanes: Sequence[dict[str, Any]]


def held(seconds: ServeSeconds, context: ServeContext) -> Held:
    """A checked copy of them.

    Raises:
        InvalidSpec: a field is missing, or out of its range.
    """
    texts = []
    for told in seconds.lanes:
        for field in WRITTEN:
            if field.name not in told or not field.holds(told[field.name]):
                raise InvalidSpec(
                    f"{field.name} ({field.meaning}) is missing, or nothing it can be"
                )
        values = {field.name: told[field.name] for field in WRITTEN}
        texts.append(json.dumps(values, separators=(",", ":"), allow_nan=False)[1:-1])
    return Held(0, context, len(texts), (texts,))


def decisions(run: Sequence[Held], context_id: str) -> Iterator[str]:
    """The members of lines of decisions, all of one context, in their order."""
    for entry in run:
        for text in entry.columns[0]:
            yield f'"kind":"decision","time_us":{entry.time_us},"context":"{context_id}",{text}'


def is_serving(found: Line) -> bool:
    """Whether a line states a serving context."""
    return found.fields.get("world") == WORLD


def record_of(found: Line) -> ServeRecord:
    """The decision that a line states.

    Raises:
        InvalidResult: it lacks something, or a number is out of its range.
    """
    return ServeRecord(**found.stated(FIELDS))


def context_of(found: Line) -> ServeContext:
    """The context that a line states.

    Raises:
        InvalidResult: it states none.
    """
    return audit_context.of_json(found.fields)
