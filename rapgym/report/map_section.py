"""A map that `rapgym map --json` printed, as a section of a bench's report."""

import json
from dataclasses import replace
from pathlib import Path

from rapgym.errors import InvalidResult, RapgymError
from rapgym.report import worth_page
from rapgym.report.page import Section
from rapgym.scenarios.story import restored
from rapgym.worth.point import Point
from rapgym.worth.sweep import Map

MOST_BYTES = 50_000_000


def read(path: Path) -> Map:
    """The map of a file of `rapgym map --json`.

    Raises:
        InvalidResult: it is not there, or no map.
    """
    wanted = "a map is made by: rapgym map SCENARIO --json > map.json"
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"it is larger than {MOST_BYTES / 1e6:g} MB")
        told = json.loads(path.read_text("utf-8"))
        story = restored({k: v for k, v in told["scenario"].items() if k != "id"})
        cards, loads = (tuple(float(v) for v in told[name]) for name in ("cards_gib", "loads"))
        points = tuple(map(Point.from_json, told["points"]))
        if len(points) != len(cards) * len(loads) or not points:
            raise ValueError("it has not one point for each card and load")
        return Map(story, cards, loads, points, Point.from_json(told["own"]))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, RapgymError) as error:  # fmt: skip
        raise InvalidResult(f"{path} is no map that can be read ({error}); {wanted}") from error


def section(path: Path) -> Section:
    """Who is cheapest over cards and loads, and what run-time pruning adds there.

    Raises:
        InvalidResult: the file is no map.
    """
    found = read(path)
    try:
        first, *rest = worth_page.page(found).sections
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        raise InvalidResult(f"{path} contradicts itself ({error!r}): make the map again") from error
    tables = [table for each in rest if each.anchor == "points" for table in each.tables]
    title = f"Over cards and loads: {found.story.id}"
    return replace(first, anchor="map", title=title, tables=tables)
