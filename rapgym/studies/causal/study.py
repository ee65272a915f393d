"""How much of foresight is knowable: the best causal score in twins of the traces.

    OPENBLAS_NUM_THREADS=1 python -m rapgym.studies.causal.study    make results/causal.json, and print it

Foresight is 0 for the frontier lookup and 100 for a bound that knows the future. In a twin of a
trace (`rapgym.studies.causal.twin`) the distribution of futures is known, so the score of a controller that is
given it can be had, and what no causal controller exceeds (`controller`): the rest is
unknowable. Policies that see the past alone are tuned on the twin's train part and served on the
same test part, once with a long train part and once with as little as the trace has. Decisions read
calibration columns, scores test columns, as everywhere.

`--learned NAME=MODULE:FUNCTION` adds a policy that learns: FUNCTION takes a scenario (the twin's,
of which it may open the train part) and a seed, and gives what makes policy objects. `--add` keeps
what the results file holds of other scenarios, so that they can be run one by one.
"""

import argparse
import json
import platform
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import rapgym
from rapgym.bench import pieces
from rapgym.files import checked, places, writing
from rapgym.scenarios import catalogue, worlds
from rapgym.scenarios.story import Scenario
from rapgym.scenarios.tables import table
from rapgym.studies.causal import likeness as causal_likeness
from rapgym.studies.causal import twin
from rapgym.studies.causal.controller import FUTURES
from rapgym.studies.causal.page import section
from rapgym.studies.causal.scores import (
    BASE,
    BOUND,
    CAUSAL,
    LOOKUP,
    Learner,
    controlled,
    learner,
    oracles,
    scored,
    served,
    tuned,
)
from rapgym.studies.causal.twin import Drawn, Twin
from rapgym.workload import series

OUT = places.RESULTS / "causal.json"
COMMAND = "OPENBLAS_NUM_THREADS=1 python -m rapgym.studies.causal.study"
SCENARIOS = (
    "chat", "chat-bursty-8bit", "chat-gqa-8bit", "chat-mixed-8bit", "code-8bit", "chat-beside-code",
    "days-large",
)  # fmt: skip
ROWS = 4000  # of a twin: 2,800 to train on, 1,000 to test
SHORT_SEEDS = (1, 2, 3)  # of twins as short as the trace; the long one has 0
FORECAST = "forecast"
HEURISTICS = ("frontier-margin", "frontier-hysteresis", FORECAST)
OTHER_NEIGHBOURS = (0.25, 2.5)  # times the number that predicts best


def tested(
    source: Twin, drawn: Drawn, story: Scenario, makers: Mapping[str, Learner], futures: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Costs on the test part by name, [T, 1] each; and what is known of the causal controller."""
    controller = controlled(source, drawn, story, futures)
    costs = {LOOKUP: served(tuned(LOOKUP, story, 0), story, story)}
    costs |= controller.pop("costs") | oracles(story)
    for name, make in makers.items():
        costs[name] = served(make(story, 0), story, story)
    return costs, controller


def of_twin(
    source: Twin, rows: int, short: int | None, makers: Mapping[str, Learner], futures: int,
    folder: Path,
) -> dict[str, Any]:  # fmt: skip
    """Scores of all on the test part of one twin.

    Args:
        short: rows of the twins whose train parts are as short as the trace's; None: none is drawn.
    """
    drawn = twin.draw(source, rows, seed=0)
    story = twin.write(source, drawn, folder)
    costs, controller = tested(source, drawn, story, makers, futures)
    output = worlds.world(story, "test").rows.output_tokens[:, None]
    for seed in SHORT_SEEDS if short else ():
        little = twin.write(source, twin.draw(source, short or 0, seed), folder)
        for name, make in makers.items():
            costs[_short(name, seed)] = served(make(little, seed), story, little)
    found = scored(costs, output, pieces.of_split(story))
    room = (found[LOOKUP]["cost"] - found[BOUND]["cost"]) * float(output.sum())
    return {
        "neighbours": drawn.rows.origin["neighbours"],
        "rows": rows,
        "test_rows": len(output),
        "sha256": checked.sha256_of(worlds.workload_file(story)),
        "base_share": controller["base_share"],
        "causal_gap": 100 * controller["gap"] / room,
        "policies": {name: each for name, each in found.items() if "@" not in name},
        "short_rows": short,
        "short": {name: _over_seeds(found, name) for name in makers} if short else {},
        "statistics": causal_likeness.statistics(drawn.rows),
    }


def _short(name: str, seed: int) -> str:
    return f"{name}@{seed}"


def _over_seeds(found: Mapping[str, Mapping[str, float]], name: str) -> dict[str, float]:
    """Mean over short train parts, and the least and the greatest."""
    each = [found[_short(name, seed)] for seed in SHORT_SEEDS]
    foresight = [one["foresight"] for one in each]
    told = {
        "foresight": float(np.mean(foresight)),
        "least": min(foresight),
        "greatest": max(foresight),
    }
    shares = [one["share"] for one in each if "share" in one]
    return told | ({"share": float(np.mean(shares))} if len(shares) == len(each) else {})


def of_scenario(
    name: str, rows: int, futures: int, learners: Mapping[str, Learner], folder: Path
) -> dict[str, Any]:
    """Everything about one scenario and its twin."""
    begin = time.perf_counter()
    story = catalogue.scenario(name)
    makers: dict[str, Learner] = {each: partial(tuned, each) for each in HEURISTICS} | {**learners}
    whole, source = worlds.workload(story), twin.fit(story)
    short = len(whole) if len(whole) < rows else None
    found = of_twin(source, rows, short, makers, futures, folder)
    forecast = {FORECAST: makers[FORECAST]}
    others = [
        of_twin(twin.fit(story, round(times * found["neighbours"])), rows, None, forecast, futures, folder)
        for times in OTHER_NEIGHBOURS
    ]  # fmt: skip
    trace = whole.part(series.split_rows(len(whole), "train", story.splits))
    return {
        "scenario": story.id,
        "workload_sha256": checked.sha256_of(worlds.workload_file(story)),
        "twin": found,
        "chains": {
            "tenant": causal_likeness.prediction(source.tenant),
            "demand": causal_likeness.prediction(source.demand),
        },
        "other_neighbours": others,
        "trace": {
            "rows": len(whole),
            "statistics": causal_likeness.statistics(trace),
        },
        "wall_s": round(time.perf_counter() - begin),
    }


def compare(
    names: Sequence[str],
    rows: int,
    futures: int,
    learners: Mapping[str, Learner],
    folder: Path,
) -> dict[str, Any]:
    """The comparison on each scenario's twin, as the results file holds it."""
    stories = [catalogue.scenario(name) for name in names]
    return {
        "command": COMMAND,
        "tables": {story.table: table(story).sha256 for story in stories},
        "futures": futures,
        "short_seeds": [*SHORT_SEEDS],
        "learned": [*learners],
        "heuristics": [*HEURISTICS],
        "names": {"lookup": LOOKUP, "base": BASE, "causal": CAUSAL, "bound": BOUND},
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "rapgym": rapgym.__version__,
        },
        "scenarios": [of_scenario(name, rows, futures, learners, folder) for name in names],
    }


def added(found: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """The comparison with what an earlier one holds of other scenarios, in the order of the list."""
    every = {one["scenario"]: one for one in (*before["scenarios"], *found["scenarios"])}
    order = [catalogue.scenario(name).id for name in SCENARIOS]
    tables = before["tables"] | found["tables"]
    return found | {
        "tables": tables,
        "scenarios": [every[scenario_id] for scenario_id in order if scenario_id in every],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--scenario", action="append", metavar="NAME", choices=SCENARIOS)
    parser.add_argument("--rows", type=int, default=ROWS, help="of a twin")
    parser.add_argument("--futures", type=int, default=FUTURES, help="drawn at each row")
    parser.add_argument("--learned", action="append", default=[], metavar="NAME=MODULE:FUNCTION")
    parser.add_argument("--add", action="store_true", help="keep other scenarios that FILE holds")
    parser.add_argument("--out", type=Path, default=OUT, metavar="FILE")
    arguments = parser.parse_args()
    learners = {
        name: learner(target)
        for name, _, target in (each.partition("=") for each in arguments.learned)
    }
    folder = checked.cache_folder() / "twins"
    names = arguments.scenario or SCENARIOS
    found = compare(names, arguments.rows, arguments.futures, learners, folder)
    if arguments.add and arguments.out.is_file():
        found = added(found, json.loads(arguments.out.read_text()))
    with writing.written_aside(arguments.out) as file:
        file.write((json.dumps(found, indent=1) + "\n").encode())
    print(section(found))


if __name__ == "__main__":
    main()
