"""What a map goes over: cards, loads, restore times, formats on the card; and the scenario at a place of it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, TypeAlias, get_args

from rapgym.errors import InvalidSpec
from rapgym.scenarios import card, tables, worlds
from rapgym.scenarios import load as scenarios_load
from rapgym.scenarios.serving import ServeScenario
from rapgym.scenarios.story import Scenario
from rapgym.worth import ways

Name = Literal["card", "load", "restore", "format"]
NAMES: tuple[Name, ...] = get_args(Name)
USUAL: tuple[Name, Name] = ("card", "load")  # of a map that is told no other
Value: TypeAlias = float | str
Story: TypeAlias = Scenario | ServeScenario

# Times the scenario's own, unless others are asked for.
CARDS = (0.5, 0.63, 0.8, 1.0, 1.25, 1.6, 2.0)
LOADS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)
RESTORES = (0.1, 0.3, 1.0, 3.0, 10.0)
# A point of a serving scenario takes many times one of windows: fewer of them.
SERVED_CARDS = (0.8, 0.9, 1.0, 1.15, 1.4)
SERVED_REPLICAS = 3  # loads: as one of so many replicas at least
SERVED_RESTORES = (0.1, 1.0, 10.0)


@dataclass(frozen=True, slots=True)
class Axis:
    """One direction of a map."""

    name: Name
    # GiB of the card; times the requests; seconds until all blocks are back; a format. Ascending.
    values: tuple[Value, ...]

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Self:
        """An axis from its fields.

        Raises:
            ValueError, KeyError, TypeError: it is none.
        """
        name, values = told["name"], tuple(told["values"])
        kind = str if name == "format" else (int, float)
        if name not in NAMES or not all(isinstance(value, kind) for value in values):
            raise ValueError("it has an axis that no map is over")
        return cls(name, values)

    @property
    def says(self) -> str:
        return {
            "card": "card, GiB", "load": "times the requests", "restore": "restore time, s",
            "format": "format on the card",
        }[self.name]  # fmt: skip

    def shown(self, value: Value) -> str:
        """A value with its unit, in a few characters."""
        if isinstance(value, str):
            return value
        return {"card": f"{value:g} GiB", "load": f"{value:g} x", "restore": f"{value:g} s"}[
            self.name
        ]


def base_of(story: Story) -> Scenario:
    """The scenario of windows whose card, model and table these are."""
    return story.base if isinstance(story, ServeScenario) else story


def axis(story: Story, name: Name, values: Sequence[Value] | None = None) -> Axis:
    """The axis of a map around a scenario.

    Args:
        values: around the scenario's own unless stated.

    Raises:
        InvalidSpec: a value cannot be, or nothing depends on it.
    """
    base, served = base_of(story), isinstance(story, ServeScenario)
    if name == "restore" and worlds.is_link_measured(base):
        raise InvalidSpec(
            f"{story.name}: its device profile has measured the link, so nothing depends on a stated restore time: "
            "name a map over card, load or format"
        )
    if name == "format":
        known = list(dict.fromkeys(way.format for way in ways.possible(base)))
        wanted = [form for form in ways.PRUNED if form in known] if values is None else [*values]
        if strange := [form for form in wanted if form not in known]:
            raise InvalidSpec(
                f"{strange[0]!r} is no format of which the quality of {base.served} is known: there are "
                f"{', '.join(known)}"
            )
        return Axis(name, tuple(form for form in known if form in wanted))
    if values is None:
        found = _around(story, name)
    elif name == "load" and served:
        found = [_replicas(story, value)[1] for value in map(_number, values)]
    else:
        found = [_number(value) for value in values]
    return Axis(name, tuple(sorted({*found})))


def _number(value: Value) -> float:
    number = float(value)
    if not (math.isfinite(number) and number > 0):
        raise InvalidSpec(f"the values of a map are above 0, not {value}")
    return number


def _around(story: Story, name: Name) -> list[float]:
    base, served = base_of(story), isinstance(story, ServeScenario)
    if name == "load":
        if served:
            most = max(base.every, SERVED_REPLICAS)
            return [base.every / replicas for replicas in range(1, most + 1)]
        return list(LOADS)
    own = base.card_gib if name == "card" else base.restore_s
    times: tuple[float, ...] = RESTORES if name == "restore" else CARDS
    if served:
        times = SERVED_RESTORES if name == "restore" else SERVED_CARDS
    return [own if each == 1 else float(f"{own * each:.3g}") for each in times]


def _replicas(story: Story, load: float) -> tuple[int, float]:
    """As one of how many replicas a server gets a load, and what that load is exactly.

    Raises:
        InvalidSpec: no number of replicas gives it.
    """
    own = base_of(story).every
    count = max(1, round(own / load))
    if abs(own / count - load) > 0.01 * load:
        near = ", ".join(f"{own / k:.3g}" for k in range(1, max(own, SERVED_REPLICAS) + 1))
        raise InvalidSpec(
            f"{story.name} serves single requests, every {own} of its trace: its load can be {near}, "
            f"or less for one of more replicas, not {load:g}"
        )
    return count, own / count


@dataclass(frozen=True, slots=True)
class Place:
    """Where a point of a map lies."""

    card_gib: float
    load: float  # times the scenario's own requests
    restore_s: float  # of the format in which the scenario is stated
    format: str = ""  # the only one on the card; "" where each may be

    def value(self, name: Name) -> Value:
        """Its value along an axis."""
        values: dict[Name, Value] = {
            "card": self.card_gib, "load": self.load, "restore": self.restore_s, "format": self.format
        }  # fmt: skip
        return values[name]

    @classmethod
    def own(cls, story: Story) -> "Place":
        """Of a scenario as it is; one that is served has the format that it states."""
        base = base_of(story)
        form = ways.name_of(base.form) if isinstance(story, ServeScenario) else ""
        return cls(base.card_gib, 1.0, base.restore_s, form)

    def along(self, name: Name, value: Value) -> "Place":
        """The place with another value along one axis."""
        if name == "format":
            return replace(self, format=str(value))
        number = float(value)
        if name == "card":
            return replace(self, card_gib=number)
        return replace(self, load=number) if name == "load" else replace(self, restore_s=number)


def at(story: Story, place: Place) -> Story:
    """The scenario as it is at a place; itself at its own.

    Raises:
        InvalidSpec, InvalidTrace: there is no such load; see `rapgym.scenarios.load.under`.
    """
    if isinstance(story, Scenario):
        found = scenarios_load.under(story, place.load)
        return replace(found, card_gib=place.card_gib, restore_s=place.restore_s)
    form, base = ways.FORMATS[place.format], story.base
    # The same link: other bytes take another time over it.
    times = card.footprint(base, form).weights.sum() / card.footprint(base).weights.sum()
    every = _replicas(story, place.load)[0]
    changed = replace(
        base,
        card_gib=place.card_gib,
        every=every,
        series_sha256=base.series_sha256 if every == base.every else "",
        restore_s=place.restore_s * float(times),
        form=form,
        table=tables.table_name(tables.base_name(base), form),
    )
    return replace(story, base=changed)
