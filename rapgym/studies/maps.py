"""The map of cards and loads of every scenario of an hour: who is cheapest where, published.

`python -m rapgym.studies.maps` (or `make maps`) writes `baselines/results/maps/NAME.json`, one file a
scenario, with costs on train and on held-out rows; what was finished is kept in the cache. `make readme`
draws the figure and fills the pages from them.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rapgym.bench import origin as bench_origin
from rapgym.errors import InvalidResult, RapgymError
from rapgym.files import places, writing
from rapgym.scenarios import catalogue
from rapgym.scenarios.story import Scenario
from rapgym.worth import sweep as worth_sweep
from rapgym.worth.sweep import Map

FOLDER = places.RESULTS / "maps"
DECIMALS = 6  # of costs, nats


def file_of(story: Scenario) -> Path:
    """Where the map of a scenario is published."""
    return FOLDER / f"{story.name}.json"


def told(found: Map, wall_s: float) -> dict[str, Any]:
    """A map as it is published, and what it depends on."""
    assert isinstance(found.story, Scenario)
    about = bench_origin.origin([found.story], [])
    kept = ("rapgym", "code_sha256", "numpy", "tables", "workloads")
    rounded: dict[str, Any] = _rounded(found.as_json())
    return {
        "origin": {name: about[name] for name in kept} | bench_origin.surroundings(),
        "wall_s": round(wall_s),
    } | rounded


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, DECIMALS)
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list | tuple) else value


def published(folder: Path = FOLDER) -> list[Map]:
    """Every map that is published, in the order of the scenarios.

    Raises:
        InvalidResult: a file is none, or of a scenario that has changed since.
    """
    found = []
    for story in catalogue.by_default():
        path = folder / f"{story.name}.json"
        if path.exists():
            found.append(_read(path, story))
    return found


def _read(path: Path, story: Scenario) -> Map:
    try:
        told = json.loads(path.read_text("utf-8"))
        found = Map.from_json(told)
    except (ValueError, LookupError, TypeError, AttributeError, RapgymError) as error:
        raise InvalidResult(f"{path} is no published map: {error}; run: make maps") from error
    here = json.loads(json.dumps(_rounded(worth_sweep.told(story)))) | {"id": story.id}
    if told["scenario"] != here:
        raise InvalidResult(f"{path}: {story.name} has changed since; run: make maps")
    return found


def write(stories: Sequence[Scenario], jobs: int | None, *, quiet: bool = False) -> None:
    """Play the maps of scenarios, and publish each as soon as it is there."""
    for story in stories:
        begun_s = time.monotonic()
        found = worth_sweep.sweep(story, jobs=jobs, quiet=quiet)
        text = json.dumps(told(found, time.monotonic() - begun_s), separators=(",", ":"))
        file_of(story).parent.mkdir(parents=True, exist_ok=True)
        with writing.written_aside(file_of(story)) as file:
            file.write(f"{text}\n".encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--scenario", action="append", metavar="NAME", help="all but those of days unless named"
    )
    parser.add_argument("--jobs", type=int, metavar="N", help="processes; one a processor")
    arguments = parser.parse_args()
    write(catalogue.named(arguments.scenario), arguments.jobs)


if __name__ == "__main__":
    main()
