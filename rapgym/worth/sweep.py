"""The map: every card and load of a grid played, what was finished kept and taken up again."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rapgym.bench import origin as bench_origin
from rapgym.errors import InvalidSpec
from rapgym.files import checked, provenance
from rapgym.jobs import parallel
from rapgym.jobs.progress import Progress
from rapgym.rivals import rivals
from rapgym.scenarios import load as scenarios_load
from rapgym.scenarios import worlds
from rapgym.scenarios.story import Scenario, described
from rapgym.worth import point as worth_point
from rapgym.worth import ways
from rapgym.worth.point import Point

# Times the scenario's own card and requests, unless others are asked for.
CARDS = (0.5, 0.63, 0.8, 1.0, 1.25, 1.6, 2.0)
LOADS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)
MOST_POINTS = 400


@dataclass(frozen=True, slots=True)
class Map:
    """A grid of points around a scenario's own."""

    story: Scenario
    cards: tuple[float, ...]  # GiB, ascending
    loads: tuple[float, ...]  # times the scenario's requests, ascending
    points: tuple[Point, ...]  # card after card of the first load, then of the next
    own: Point  # the scenario as it is

    def at(self, card_gib: float, load: float) -> Point:
        return self.points[self.loads.index(load) * len(self.cards) + self.cards.index(card_gib)]

    def as_json(self) -> dict[str, Any]:
        return {
            "rapgym": provenance.VERSION,
            "scenario": described(self.story) | {"id": self.story.id},
            "ways": {way.name: way.says for way in ways.EVERY if way.name in self.own.train.costs},
            "cards_gib": list(self.cards),
            "loads": list(self.loads),
            "own": self.own.as_json(),
            "points": [point.as_json() for point in self.points],
        }


def cards_around(story: Scenario) -> tuple[float, ...]:
    """The cards of the map unless others are asked for: half the scenario's to twice it, GiB."""
    return tuple(float(f"{story.card_gib * times:.3g}") if times != 1 else story.card_gib
                 for times in CARDS)  # fmt: skip


def sweep(
    story: Scenario,
    cards: Sequence[float] | None = None,
    loads: Sequence[float] | None = None,
    *,
    held_out: bool = True,
    jobs: int | None = 1,
    ray: str | None = None,
    quiet: bool = False,
) -> Map:
    """Play a grid of cards and loads, and the scenario as it is.

    What an earlier run finished under the same code, tables and series is taken from the cache.

    Args:
        cards: GiB; `cards_around` unless stated.
        loads: times the scenario's requests; `LOADS` unless stated.
        held_out: also the test rows; without, nothing of them is opened.

    Raises:
        InvalidSpec: a card or load cannot be, the grid is too large, or the scenario is one of days.
        InvalidTrace: a load leaves a part of the series without requests.
    """
    columns = tuple(sorted({*(cards_around(story) if cards is None else cards)}))
    lines = tuple(sorted({*(LOADS if loads is None else loads)}))
    if not columns or not lines or len(columns) * len(lines) > MOST_POINTS:
        raise InvalidSpec(f"a map has 1 to {MOST_POINTS} points, not {len(columns) * len(lines)}")
    if story.is_drawn:
        raise InvalidSpec(
            f"{story.name} lasts days, and a map plays its rows for each point: name a scenario of an hour"
        )
    under = {load: scenarios_load.under(story, load) for load in lines}  # made here, once
    wanted = [(load, replace(under[load], card_gib=card)) for load in lines for card in columns]
    if (1.0, story) not in wanted:
        wanted.append((1.0, story))
    found = _found(story, wanted, held_out=held_out, jobs=jobs, ray=ray, quiet=quiet)
    grid = tuple(found[: len(columns) * len(lines)])
    return Map(story, columns, lines, grid, found[wanted.index((1.0, story))])


def _found(
    own: Scenario,
    wanted: Sequence[tuple[float, Scenario]],
    *,
    held_out: bool,
    jobs: int | None,
    ray: str | None,
    quiet: bool,
) -> list[Point]:
    keys = [_basis(story, load, held_out=held_out) for load, story in wanted]
    work = checked.cache_folder() / "maps" / f"{own.key}.jsonl"
    kept = dict(_kept(work))
    found = {place: kept[key] for place, key in enumerate(keys) if key in kept}
    left = [place for place in range(len(wanted)) if place not in found]
    calls = [
        partial(worth_point.played, wanted[i][1], wanted[i][0], held_out=held_out) for i in left
    ]
    work.parent.mkdir(parents=True, exist_ok=True)
    with Progress("map", len(wanted), quiet=quiet) as progress:
        progress.advance(len(found), skipped=True)
        for place, point in parallel.results(calls, jobs, ray=ray):
            i = left[place]
            found[i] = point
            with work.open("a") as file:
                # It begins a line even after one that was cut off as it was written.
                file.write("\n" + json.dumps({"basis": keys[i], "point": point.as_json()}))
            progress.advance(note=f"{point.card_gib:g} GiB at {point.load:g} times the load")
    return [found[i] for i in range(len(wanted))]


def _basis(story: Scenario, load: float, *, held_out: bool) -> str:
    """Sha256 of all that a point depends on."""
    told = {
        "code": bench_origin.code_sha256(),
        "tables": rivals.tables(story),
        "workload": checked.sha256_once(worlds.workload_file(story)),
        "story": described(story),
        "load": load,
        "held_out": held_out,
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _kept(work: Path) -> Iterator[tuple[str, Point]]:
    """What earlier runs left: basis and point."""
    if not work.exists():
        return
    for line in work.read_text("utf-8", "replace").splitlines():
        try:
            kept = json.loads(line)
            yield str(kept["basis"]), Point.from_json(kept["point"])
        except (ValueError, KeyError, TypeError):
            continue  # cut off as it was written: played again
