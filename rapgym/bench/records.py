"""What a bench says, as frozen records: `About` describes a cell, `Score` is one scoreboard entry.

JSON stands at the edges alone: in the header of a results file, and in what `--json` prints.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from rapgym.errors import InvalidResult
from rapgym.guard.foreign import Isolation
from rapgym.policies.registry import Kind
from rapgym.scenarios.story import HEADLINE, Group

RIVAL: Kind = (
    "rival"  # another format, or no pruning at all: it has a cost, and no place on the scales
)
ORACLE: Kind = "bound"  # the kind of what knows the future
PRUNED = "pruned"  # the rule of a rival that prunes on top of its format

# What only the cells of some kinds hold, in JSON too.
_OF_POLICIES = ("fallback", "fault", "validation_parts")
_OF_RIVALS = ("quality_se",)
_OF_PRUNED_RIVALS = ("sets_se",)
_OF_USERS = ("isolation",)

# Of a policy beside the lookup, see `verdicts`.
Verdict = Literal["better", "worse", "equal", "undecided"]
Unit = Literal["day", "hour", "burst"]  # what a resample draws, see `pieces`
Record = TypeVar("Record")


@dataclass(frozen=True, slots=True)
class About:
    """What describes a cell: one policy, rival or oracle with one seed on one scenario.

    Costs are nats an output token above the dense model in the scenario's own format.
    """

    scenario: str  # id
    policy: str  # the name of an entrant, see `entrants`
    kind: Kind
    blocks: int  # N of the measured model
    ceiling: float  # C: nats that a token costs that is not served
    seed: int = 0
    # Of the policy itself, found on train; of a rival its rule and its format.
    settings: Mapping[str, Any] = field(default_factory=dict)
    # What happens where a proposal stops fitting inside a window.
    on_misfit: Literal["repair", "refuse"] = "repair"
    # Microseconds of one decision, median and 99th percentile; None where nobody decides row by row.
    decision_us_p50: float | None = None
    decision_us_p99: float | None = None
    # Cost on train by cross-validation; None of what has seen these rows, or decides nothing.
    validation_cost: float | None = None
    # Calibration text: tokens through the whole model, and the same in passes over 512-token
    # sequences; None where not recorded.
    calibration_passes: float | None = None
    calibration_tokens: float | None = None
    # Of policies: share of rows whose answer could not be read, 0 to 1, and what was wrong first.
    fallback: float = 0.0
    fault: str | None = None
    # What each piece of train adds to `validation_cost`: what a choice by it rests on.
    # Empty where there is no such cost.
    validation_parts: tuple[float, ...] = ()
    # Of rivals: standard error of what the format's rounding costs beyond the scenario's own, nats a
    # token; and that of the sets one that prunes serves from.
    quality_se: float = 0.0
    sets_se: float = 0.0
    # Of a user's policy: whether its process could read rows and columns; None of all others.
    isolation: Isolation | None = None

    @property
    def is_rival(self) -> bool:
        return self.kind == RIVAL

    @property
    def is_oracle(self) -> bool:
        return self.kind == ORACLE

    @property
    def decides(self) -> bool:
        """Whether a policy decided its rows one by one."""
        return not (self.is_rival or self.is_oracle)

    @property
    def prunes(self) -> bool:
        """Whether it is a rival that prunes on top of its format."""
        return self.is_rival and self.settings.get("rule") == PRUNED

    @property
    def refuses_misfit(self) -> bool:
        return self.on_misfit == "refuse"

    def as_json(self) -> dict[str, Any]:
        """Its fields by name; without those that cells of its kind do not have."""
        return as_plain({name: getattr(self, name) for name in self._names()})

    def _names(self) -> list[str]:
        absent: set[str] = set()
        if not self.decides:
            absent |= {*_OF_POLICIES}
        if not self.is_rival:
            absent |= {*_OF_RIVALS}
        if not self.prunes:
            absent |= {*_OF_PRUNED_RIVALS}
        if self.isolation is None:
            absent |= {*_OF_USERS}
        return [each.name for each in fields(self) if each.name not in absent]

    @classmethod
    def from_json(cls, given: object) -> "About":
        """The record of what `as_json` gives.

        Raises:
            InvalidResult: a field is unknown, missing or of another type; the message names it.
        """
        optional = {*_OF_POLICIES, *_OF_RIVALS, *_OF_PRUNED_RIVALS, *_OF_USERS}
        found = record_of(cls, given, "a cell", optional)
        assert isinstance(given, dict)  # `_read` refuses anything else
        _check_names(given.keys(), found._names(), "a cell")
        return found


@dataclass(frozen=True, slots=True)
class Score:
    """One entry of a scoreboard: a policy, rival or oracle on one scenario, seeds taken together.

    Costs are nats an output token above the full bf16 model, on test text,
    the mean over seeds. Ends of intervals are of 95 %. None stands where something is not defined: a rival has no place
    on the two scales, for instance.
    """

    scenario: str  # id
    group: Group  # that the scenario belongs to
    claims: bool  # whether its numbers carry a claim: if not, no family of tests counts it
    bits: int  # of the weights of its format: 16, 8 or 4
    traffic: str  # the trace that is served: scenarios of one traffic form one family of tests
    policy: str
    kind: Kind
    action_space: str
    # Points: 0 is not pruning, the full model in the scenario's format with partial admission; 100 the
    # bound.
    gain: float | None
    gain_low: float | None
    gain_high: float | None
    # Points: 0 is the frontier lookup, 100 the bound; None where next to nothing lies between them.
    foresight: float | None
    # Cost less the lookup's, nats: ends of its interval, of rows, training seeds and quality table.
    low: float | None
    high: float | None
    p_value: float | None  # of no such difference, not corrected; None of oracles
    # The least such difference, either way, that these rows could have shown with 80 % power: nats, and
    # points of foresight.
    least_effect: float | None
    least_effect_points: float | None
    unit: Unit  # the pieces that a resample draws
    pieces: int  # how many of them the rows are
    # Whether all this speaks of these rows alone: an interval of them need not hold for other days.
    conditional: bool
    cost: float  # the sum of the next four
    quality: float
    stall: float
    emergency: float
    refused: float
    validation_cost: float | None  # on train by cross-validation, with calibration columns
    # Standard error, nats, that the difference from the lookup has from quality tables.
    table_error: float | None
    # Cost less that of the policy with the lowest cost on test.
    behind_best: float
    behind_best_low: float | None
    behind_best_high: float | None
    tied_for_best: bool
    # Cost less that of the champion of all that do not learn; None where there is none.
    behind_champion: float | None
    behind_champion_low: float | None
    behind_champion_high: float | None
    # Of rivals: cost less that of the cheapest that prunes nothing.
    behind_unpruned: float | None
    behind_unpruned_low: float | None
    behind_unpruned_high: float | None
    # Cost less that of the bound.
    behind_bound: float
    behind_bound_low: float | None
    behind_bound_high: float | None
    unmeasured: float  # share of rows whose quality was predicted, 0 to 1
    fallback: float  # share of rows whose answer could not be read, 0 to 1
    fault: str | None  # what was wrong with the first of these
    decision_us_p50: float | None  # microseconds of one decision
    decision_us_p99: float | None
    calibration_passes: float | None  # forward passes over 512-token sequences
    calibration_tokens: float | None
    break_even_tokens: float | None  # served output tokens until calibration has paid for itself
    seeds: int  # how many
    seed_costs: tuple[float, ...]  # cost of each
    # Beside the lookup; of a champion after Holm's correction. None of what does not decide.
    verdict: Verdict | None = None
    champion: tuple[str, ...] = ()  # the families whose champion it is
    # Of the choice of each, made again in every resample, beside the lookup: p-values as the families
    # stand, and the ends of the widest interval.
    champion_p: tuple[float | None, ...] = ()
    champion_low: float | None = None
    champion_high: float | None = None
    # What depends on the other scenarios too: `champions.crowned` fills it in.
    p_holm: float | None = None  # `champion_p` after Holm's correction, the largest of its families
    holm_tests: int | None = None  # for how many scenarios
    # Of a user's policy: whether its process could read rows and columns; None of all others.
    isolation: Isolation | None = None

    @property
    def headline(self) -> bool:
        """Whether the scenario counts in what is said over all of them."""
        return self.group == HEADLINE and self.claims

    @property
    def is_rival(self) -> bool:
        return self.kind == RIVAL

    def as_json(self) -> dict[str, Any]:
        """Its fields by name, tuples as lists; `isolation` of users' policies alone."""
        absent = _OF_USERS if self.isolation is None else ()
        names = [each.name for each in fields(self) if each.name not in absent]
        return as_plain({name: getattr(self, name) for name in names})

    @classmethod
    def from_json(cls, given: object) -> "Score":
        """The record of what `as_json` gives.

        Raises:
            InvalidResult: a field is unknown, missing or of another type; the message names it.
        """
        return record_of(cls, given, "a score", {*_OF_USERS})


def as_plain(values: dict[str, Any]) -> dict[str, Any]:
    """Fields of a record as JSON has them: tuples as lists."""
    return {n: list(value) if isinstance(value, tuple) else value for n, value in values.items()}


def record_of(cls: type[Record], given: object, what: str, optional: set[str]) -> Record:
    """A record from a JSON object that names all of its fields but some `optional` ones.

    Raises:
        InvalidResult: a field is unknown, missing or of another type; the message names it.
    """
    if not isinstance(given, dict):
        raise InvalidResult(f"{what} is described by no object")
    hints = get_type_hints(cls)
    _check_names(given.keys() | optional, hints.keys(), what)
    values = {}
    for name, value in given.items():
        try:
            values[name] = _value(hints[name], value)
        except (ValueError, OverflowError):
            raise InvalidResult(
                f"{name} of {what} is {str(value)[:80]!r}, not {_told(hints[name])}"
            ) from None
    return cls(**values)


def _check_names(given: Any, wanted: Any, what: str) -> None:
    unknown, missing = {*given} - {*wanted}, {*wanted} - {*given}
    if unknown:
        raise InvalidResult(f"{what} has what none has: {', '.join(sorted(unknown))[:200]}")
    if missing:
        raise InvalidResult(f"{what} lacks {', '.join(sorted(missing))}")


def _value(hint: Any, value: Any) -> Any:
    """What a field of this type holds of a JSON value.

    Raises:
        ValueError: it is of another type.
        OverflowError: it is an integer too large for a field of floats.
    """
    kind, inner = get_origin(hint), get_args(hint)
    if kind in (Union, UnionType):  # of one type and None
        return None if value is None else _value(inner[0], value)
    if kind is Literal:
        if type(value) is str and value in inner:
            return value
    elif kind is tuple:
        if type(value) is list:
            return tuple(_value(inner[0], each) for each in value)
    elif kind is Mapping:
        if type(value) is dict:
            return value
    elif hint is float:
        if type(value) in (int, float) and math.isfinite(value):
            return float(value)
    elif type(value) is hint:
        return value
    raise ValueError


def _told(hint: Any) -> str:
    """A field's type in words."""
    kind, inner = get_origin(hint), get_args(hint)
    if kind in (Union, UnionType):
        return f"{_told(inner[0])} or null"
    if kind is Literal:
        return f"one of {', '.join(inner)}"
    if kind is tuple:
        return f"a list, each {_told(inner[0])}"
    if kind is Mapping:
        return "an object"
    return {str: "text", int: "a whole number", float: "a number", bool: "true or false"}[hint]
