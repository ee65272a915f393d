"""The map: every place of a grid played, what was finished kept and taken up again."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Self

from rapgym.bench import origin as bench_origin
from rapgym.errors import InvalidSpec
from rapgym.files import checked, provenance
from rapgym.jobs import kept
from rapgym.jobs.progress import Progress
from rapgym.rivals import rivals
from rapgym.scenarios import serving, worlds
from rapgym.scenarios.serving import ServeScenario
from rapgym.scenarios.story import Scenario, Tenant, described, restored
from rapgym.workload import names
from rapgym.worth import axes, served, ways
from rapgym.worth import point as worth_point
from rapgym.worth.axes import Axis, Place, Story, Value
from rapgym.worth.point import Point

MOST_POINTS = 400


@dataclass(frozen=True, slots=True)
class Map:
    """A grid of points around a scenario's own."""

    story: Story
    x: Axis  # from left to right
    y: Axis  # line by line
    points: tuple[Point, ...]  # along x at the first value of y, then at the next
    own: Point  # the scenario as it is

    @property
    def base(self) -> Scenario:
        """The scenario of windows whose card, model and table these are."""
        return axes.base_of(self.story)

    def at(self, x: Value, y: Value) -> Point:
        return self.points[self.y.values.index(y) * len(self.x.values) + self.x.values.index(x)]

    def shown(self, point: Point) -> str:
        """Where a point lies: "24 GiB, 0.5 x"."""
        return ", ".join(axis.shown(point.place.value(axis.name)) for axis in (self.x, self.y))

    def as_json(self) -> dict[str, Any]:
        return {
            "rapgym": provenance.VERSION,
            "scenario": told(self.story) | {"id": self.story.id},
            "ways": {way.name: way.says for way in ways.EVERY if way.name in self.own.train.costs},
            "x": asdict(self.x),
            "y": asdict(self.y),
            "own": self.own.as_json(),
            "points": [point.as_json() for point in self.points],
        }

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Self:
        """A map from what `as_json` gives.

        Raises:
            ValueError, LookupError, TypeError, AttributeError: it is none.
            RapgymError: its scenario cannot be.
        """
        fields = {name: value for name, value in told["scenario"].items() if name != "id"}
        story = serving.story_of(fields) if "base" in fields else restored(fields)
        x, y = (Axis.from_json(told[name]) for name in "xy")
        points = tuple(map(Point.from_json, told["points"]))
        if len(points) != len(x.values) * len(y.values) or not points:
            raise ValueError("it has not one point for each place")
        return cls(story, x, y, points, Point.from_json(told["own"]))


def told(story: Story) -> dict[str, Any]:
    """A scenario's fields, of either kind."""
    return described(story) if isinstance(story, Scenario) else asdict(story)


def sweep(
    story: Story,
    x: Axis | None = None,
    y: Axis | None = None,
    *,
    held_out: bool = True,
    jobs: int | None = 1,
    ray: str | None = None,
    quiet: bool = False,
) -> Map:
    """Play a grid of places, and the scenario as it is.

    What an earlier run finished under the same code, tables and series is taken from the cache.

    Args:
        x, y: two different axes; cards and loads around the scenario's own unless stated.
        held_out: also the test rows; without, nothing of them is opened.

    Raises:
        InvalidSpec: the axes are the same, a place cannot be, the grid is too large, or the scenario is
            one of days.
        InvalidTrace: a load leaves a part of the series without requests.
    """
    x, y = (
        stated or axes.axis(story, name) for stated, name in zip((x, y), axes.USUAL, strict=True)
    )
    count = len(x.values) * len(y.values)
    if not 0 < count <= MOST_POINTS:
        raise InvalidSpec(f"a map has 1 to {MOST_POINTS} points, not {count}")
    if x.name == y.name:
        raise InvalidSpec(f"a map is over two different axes, not {x.name} twice")
    if axes.base_of(story).is_drawn:
        raise InvalidSpec(
            f"{story.name} lasts days, and a map plays its rows for each point: name a scenario of an hour"
        )
    own = Place.own(story)
    places = [
        own.along(x.name, here).along(y.name, there) for there in y.values for here in x.values
    ]
    wanted = [*places] if own in places else [*places, own]
    stories = [axes.at(story, place) for place in wanted]  # whose series are made here, once
    order = [*turns(len(x.values), len(y.values)), *range(count, len(wanted))]
    found = _found(
        story, stories, wanted, order, held_out=held_out, jobs=jobs, ray=ray, quiet=quiet
    )  # fmt: skip
    return Map(story, x, y, tuple(found[:count]), found[wanted.index(own)])


def turns(columns: int, lines: int) -> list[int]:
    """Places of a grid, line after line, in an order in which those played first are like all.

    A small card takes ten times a large one. Each run of so many places as there are columns holds one
    of every column, and its lines lie apart: what is left is then told from what was.
    """
    across = [place * _apart(columns) % columns for place in range(columns)]
    return [
        (column * _apart(lines) + turn) % lines * columns + column
        for turn in range(lines)
        for column in across
    ]


def _apart(count: int) -> int:
    """How far apart of so many places two are that follow each other, so that each has its turn."""
    return next(
        k for k in range(max(round(count * 3 / 8), 1), 2 * count) if math.gcd(k, count) == 1
    )


def _found(
    own: Story,
    stories: Sequence[Story],
    places: Sequence[Place],
    order: Sequence[int],
    *,
    held_out: bool,
    jobs: int | None,
    ray: str | None,
    quiet: bool,
) -> list[Point]:
    keys = [
        _basis(story, place, held_out=held_out)
        for story, place in zip(stories, places, strict=True)
    ]
    work = checked.cache_folder() / "maps" / f"{_key(own)}.jsonl"
    calls = [_call(stories[i], places[i], held_out=held_out) for i in order]
    bases, found = [keys[i] for i in order], dict[int, Point]()
    with Progress("map", len(places), quiet=quiet) as progress:
        for number, point, before in kept.results(
            calls, bases, work, jobs, ray=ray, told=Point.as_json, read=Point.from_json
        ):
            i = order[number]
            found[i] = point
            progress.advance(
                note=f"{places[i].card_gib:g} GiB at {places[i].load:g} times the load",
                skipped=before,
            )
    return [found[i] for i in range(len(places))]


def _call(story: Story, place: Place, *, held_out: bool) -> Callable[[], Point]:
    if isinstance(story, ServeScenario):
        return partial(served.played, story, place, held_out=held_out)
    return partial(worth_point.played, story, place, held_out=held_out)


def _key(story: Story) -> str:
    """What the work of a scenario is kept under."""
    return story.key if isinstance(story, Scenario) else f"serve-{_sha256(told(story))[:16]}"


def _basis(story: Story, place: Place, *, held_out: bool) -> str:
    """Sha256 of all that a point depends on."""
    return _sha256(
        {
            "code": bench_origin.code_sha256(),
            "tables": rivals.tables(axes.base_of(story)),
            "workload": _workload(story),
            "story": told(story),
            "place": asdict(place),
            "held_out": held_out,
        }
    )


def _workload(story: Story) -> list[str]:
    """What identifies the traffic: the series, or the traces of single requests."""
    if isinstance(story, Scenario):
        return [checked.sha256_once(worlds.workload_file(story))]
    tenant = story.base.tenant
    traces = [story.base.trace, *([tenant.trace] if isinstance(tenant, Tenant) else [])]
    return [names.sha256(trace) for trace in traces]


def _sha256(told: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
