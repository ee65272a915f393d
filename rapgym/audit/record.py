"""One decision as a line of the audit log states it: `Record`, the one table of its fields.

Each field says what values it has (kind, unit, range, shape), what it means, and where the writer
finds it in `Decisions`. The rest follows: the writer's lines and checks (`decisions`, `chain`), what a
reader accepts (`entry`), and the columns of an export (`summary`). Numbers have ranges in which no
arithmetic overflows.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import NoneType
from typing import Annotated, Any, get_args, get_type_hints

from rapgym.world.shield import Reason

LARGEST_TOKENS = 1 << 31
LARGEST_BYTES = 1 << 60
LARGEST_NUMBER = 1e300
LARGEST_OBSERVATION = 1 << 14  # entries
LATEST_US = (1 << 53) - 1
LONGEST_KEY = 256  # characters
LONGEST_STATE = 32  # characters
REASONS = tuple(reason.name.lower() for reason in Reason)  # by number
TERMS = ("quality", "stall", "emergency", "refused")  # of a row's cost


@dataclass(frozen=True, slots=True)
class Kind(ABC):
    """What values a field has in one lane."""

    unit: str = ""
    shape: str = ""  # of one value: N blocks, O entries of an observation

    @abstractmethod
    def holds(self, value: Any) -> bool:
        """Whether a line may say this."""

    @property
    def bounds(self) -> tuple[int, int] | None:
        """The least and the most that a value may be, where that is the whole rule."""
        return None

    @property
    def outside(self) -> str:
        """What is said of a value that is not within them."""
        return ""

    def rule(self, column: list[Any]) -> str:
        """The rule that a column of decisions breaks, or nothing; the column is not empty."""
        bounds = self.bounds
        if bounds is None or (bounds[0] <= min(column) and max(column) <= bounds[1]):
            return ""
        return self.outside

    @property
    def ruled(self) -> bool:
        """Whether there is such a rule."""
        return self.bounds is not None or type(self).rule is not Kind.rule

    def read(self, value: Any) -> Any:
        """What a reader makes of a value that holds."""
        return value


@dataclass(frozen=True, slots=True)
class Whole(Kind):
    low: int = 0
    high: int = LARGEST_BYTES

    def holds(self, value: Any) -> bool:
        return type(value) is int and self.low <= value <= self.high

    @property
    def bounds(self) -> tuple[int, int]:
        return self.low, self.high

    @property
    def outside(self) -> str:
        return f"goes from {self.low} to {self.high} {self.unit}".rstrip()


@dataclass(frozen=True, slots=True)
class Number(Kind):
    """NaN and the infinities are written as null."""

    def holds(self, value: Any) -> bool:
        return type(value) in (int, float) and -LARGEST_NUMBER < value < LARGEST_NUMBER


@dataclass(frozen=True, slots=True)
class Numbers(Number):
    """A number, or null, for each part."""

    parts: tuple[str, ...] = ()

    def holds(self, value: Any) -> bool:
        return (
            isinstance(value, list)
            and len(value) == len(self.parts)
            and all(part is None or Number.holds(self, part) for part in value)
        )

    def rule(self, column: list[Any]) -> str:
        told = all(len(value) == len(self.parts) for value in column)
        return "" if told else f"has {len(self.parts)} parts"

    def read(self, value: Any) -> Any:
        return tuple(value)


@dataclass(frozen=True, slots=True)
class Flag(Kind):
    def holds(self, value: Any) -> bool:
        return type(value) is bool


@dataclass(frozen=True, slots=True)
class Text(Kind):
    def holds(self, value: Any) -> bool:
        return isinstance(value, str)


@dataclass(frozen=True, slots=True)
class Rule(Text):
    """A number of `shield.Reason`, written as its name."""

    def holds(self, value: Any) -> bool:
        return value in REASONS

    @property
    def bounds(self) -> tuple[int, int]:
        return 0, len(REASONS) - 1

    @property
    def outside(self) -> str:
        return "is a number of shield.Reason"


@dataclass(frozen=True, slots=True)
class Word(Text):
    """Letters alone: a watchdog's state."""

    def holds(self, value: Any) -> bool:
        return (
            isinstance(value, str)
            and len(value) <= LONGEST_STATE
            and value.isascii()
            and value.isidentifier()
        )

    def rule(self, column: list[Any]) -> str:
        return "" if all(map(self.holds, column)) else f"is at most {LONGEST_STATE} letters"


@dataclass(frozen=True, slots=True)
class KeptSet(Text):
    """Which blocks stay, written as `blocks.key`."""

    def holds(self, value: Any) -> bool:
        return isinstance(value, str) and 0 < len(value) <= LONGEST_KEY


@dataclass(frozen=True, slots=True)
class Floats(Kind):
    """float32, little-endian, written in base64."""

    longest: int = LARGEST_OBSERVATION

    def holds(self, value: Any) -> bool:
        return isinstance(value, str) and len(value) <= 4 * (4 * self.longest // 3 + 1)


@dataclass(frozen=True, slots=True)
class Of:
    """What a field means, and the attribute of `Decisions` that it is: its own name unless stated.

    `LINE` is said of what whoever writes a line adds.
    """

    meaning: str
    source: str = ""


LINE = "line"

Count = Annotated[int, Whole()]
Tokens = Annotated[int, Whole("tokens", high=LARGEST_TOKENS)]
Bytes = Annotated[int, Whole("bytes", low=-LARGEST_BYTES)]
Perhaps = Annotated[int | None, Whole()]
PerhapsFlag = Annotated[bool | None, Flag()]
PerhapsKept = Annotated[str | None, KeptSet(shape="N")]
Decider = Annotated[str, Rule()]
Kept = Annotated[str, KeptSet(shape="N")]


@dataclass(frozen=True, slots=True)
class Record:
    """The table, in the order of a line. What may be None is so where it is not known."""

    seq: Annotated[Count, Of("number of the line, counted from 0", LINE)]
    decision: Annotated[Count, Of("number of the decision in the log, counted from 1", LINE)]
    time_us: Annotated[int, Whole("us", high=LATEST_US), Of("since 1970, UTC", LINE)]
    context: Annotated[str, Text(), Of("id of what decisions have in common", LINE)]
    second: Annotated[
        int, Whole("s", high=1 << 20), Of("of the row; above 0 for what a fall in mid-row forced")
    ]
    batch: Annotated[
        int, Whole("requests", high=LARGEST_TOKENS), Of("requests of the row", "demand.batch")
    ]
    prompt_tokens: Annotated[Tokens, Of("of all prompts", "demand.prompt_tokens")]
    reserved_tokens: Annotated[Tokens, Of("room for output", "demand.reserved_tokens")]
    longest_tokens: Annotated[
        Tokens, Of("prompt and reserve of the longest request", "demand.longest_tokens")
    ]
    limit_bytes: Annotated[Bytes, Of("as seen when this was decided")]
    budget_bytes: Annotated[Bytes, Of("of the limit, for blocks")]
    used_bytes: Annotated[Bytes, Of("of what is kept, by the footprint; 0 where refused", LINE)]
    lane: Annotated[Perhaps, Of("of the world, among those that are served at once")]
    row: Annotated[Perhaps, Of("of the scenario's split")]
    limit_row: Annotated[Perhaps, Of("of the split, whose limits the row met")]
    late_us: Annotated[
        int | None, Whole("us"), Of("by how much the answer missed its deadline; 0 in time")
    ]
    measured_bytes: Annotated[int | None, Whole("bytes"), Of("in use on a device")]
    output_tokens: Annotated[int | None, Whole("tokens"), Of("weight of the row's cost")]
    nll: Annotated[
        float | None, Number("nats a token"), Of("above dense, of what is kept; calibration")
    ]
    readable: Annotated[PerhapsFlag, Of("the policy's answer was a proposal")]
    pinned: Annotated[PerhapsFlag, Of("an operator has pinned a kept set")]
    measured: Annotated[PerhapsFlag, Of("nll is measured, not predicted")]
    cost: Annotated[
        tuple[float | None, ...] | None,
        Numbers("nats a token", str(len(TERMS)), TERMS),
        Of("of the row, by its terms"),
    ]
    watchdog: Annotated[str | None, Word(), Of("state of the lane's")]
    refuses_misfit: Annotated[bool, Flag(), Of("what does not fit is refused, not repaired")]
    refused: Annotated[bool, Flag(), Of("the requests were refused", "decision.refused")]
    source: Annotated[Decider, Of("whose the proposal is")]
    reason: Annotated[Decider, Of("by which rule", "decision.reason")]
    proposal: Annotated[Kept, Of("what reached the shield")]
    kept: Annotated[Kept, Of("what was executed", "decision.kept")]
    loaded: Annotated[PerhapsKept, Of("blocks in memory before")]
    own_proposal: Annotated[PerhapsKept, Of("the policy's, whether or not it reached the shield")]
    observation: Annotated[str | None, Floats(shape="O"), Of("as the policy saw it")]


@dataclass(frozen=True, slots=True)
class Field:
    """A field of `Record`, as its annotation states it."""

    name: str
    kind: Kind
    optional: bool
    meaning: str
    source: str  # of `Decisions`; LINE where it is not of them

    def holds(self, value: Any) -> bool:
        """Whether a line may say this."""
        return self.optional if value is None else self.kind.holds(value)


def _field(name: str, hint: Any) -> Field:
    values, kind, of = get_args(hint)
    return Field(name, kind, NoneType in get_args(values), of.meaning, of.source or name)


def fields_of(table: type) -> tuple[Field, ...]:
    """The fields of a table such as `Record`, in its order."""
    hints = get_type_hints(table, include_extras=True)
    return tuple(_field(name, hint) for name, hint in hints.items())


FIELDS = fields_of(Record)
# Those that `Decisions` have, in this order.
DECIDED = tuple(field for field in FIELDS if field.source != LINE)
