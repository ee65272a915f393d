"""A map that `rapgym map --json` printed, as a section of a bench's report."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from rapgym.errors import InvalidResult, RapgymError
from rapgym.report import worth_page
from rapgym.report.page import Section
from rapgym.scenarios import serving
from rapgym.scenarios.story import restored
from rapgym.worth.axes import NAMES, Axis
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
        fields = {k: v for k, v in told["scenario"].items() if k != "id"}
        story = serving.story_of(fields) if "base" in fields else restored(fields)
        x, y = (_axis(told[name]) for name in ("x", "y"))
        points = tuple(map(Point.from_json, told["points"]))
        if len(points) != len(x.values) * len(y.values) or not points:
            raise ValueError("it has not one point for each place")
        return Map(story, x, y, points, Point.from_json(told["own"]))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, RapgymError) as error:  # fmt: skip
        raise InvalidResult(f"{path} is no map that can be read ({error}); {wanted}") from error


def _axis(told: Any) -> Axis:
    name, values = told["name"], tuple(told["values"])
    kind = str if name == "format" else (int, float)
    if name not in NAMES or not all(isinstance(value, kind) for value in values):
        raise ValueError("it has an axis that no map is over")
    return Axis(name, values)


def section(path: Path) -> Section:
    """Who is cheapest over its two axes, and what run-time pruning adds there.

    Raises:
        InvalidResult: the file is no map.
    """
    found = read(path)
    try:
        first, *rest = worth_page.page(found).sections
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        raise InvalidResult(f"{path} contradicts itself ({error!r}): make the map again") from error
    tables = [table for each in rest if each.anchor == "points" for table in each.tables]
    title = f"Over {found.x.says} and {found.y.says}: {found.story.id}"
    return replace(first, anchor="map", title=title, tables=tables)
