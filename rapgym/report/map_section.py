"""A map that `rapgym map --json` printed, as a section of a bench's report."""

import json
from dataclasses import replace
from pathlib import Path

from rapgym.errors import InvalidResult, RapgymError
from rapgym.report import worth_page
from rapgym.report.page import Section
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
        return Map.from_json(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, RapgymError) as error:  # fmt: skip
        raise InvalidResult(f"{path} is no map that can be read ({error}); {wanted}") from error


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
