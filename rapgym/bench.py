"""Run policies on the test splits of scenarios: logs on disk, resumable cell by cell."""

import hashlib
import importlib.metadata
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from rapgym import bound, datafiles, plan, provenance, results, rollout, scenario, series, simulator
from rapgym.episode_log import EpisodeLog
from rapgym.errors import InvalidResult, InvalidSpec
from rapgym.policies import registry
from rapgym.policies.policy import briefing
from rapgym.policies.reference import frontier
from rapgym.progress import Progress
from rapgym.quality import QualityTable
from rapgym.results import Cell, Results
from rapgym.scenario import Scenario
from rapgym.shield import Reason
from rapgym.specs import BoolArray
from rapgym.world import State, World

BOUND, BEST_PLAN = "bound", "best-plan"  # not policies: they know the future and the test columns
# Which ends of the score scale a cost is measured between.
STATIC, LOOKUP = "static-best", "frontier"


@dataclass(frozen=True, slots=True)
class Task:
    """One cell to run."""

    story: Scenario
    name: str
    run: Callable[[], Cell]


def tasks(stories: Sequence[Scenario], names: Sequence[str], seeds: Sequence[int]) -> list[Task]:
    """Every cell of a bench, the ends of both scales included."""
    wanted = [*dict.fromkeys([*names, STATIC, LOOKUP])]
    found = []
    for story in stories:
        for name in wanted:
            entry = registry.entry(name)
            found += [
                Task(story, f"{name}.{seed}", partial(policy_cell, story, entry, seed))
                for seed in seeds
            ]
        found.append(Task(story, BOUND, partial(bound_cell, story)))
        found.append(Task(story, BEST_PLAN, partial(plan_cell, story)))
    return found


def policy_cell(story: Scenario, entry: registry.Entry, seed: int) -> Cell:
    """Serve the test split with a policy that is told of train and calibration columns alone."""
    told = briefing(story)
    table = scenario.table(story)
    options = registry.settings(entry, told, table.sha256)
    make = partial(registry.build, entry, options)
    log = rollout.run(make, story, "test", told, seed)
    fallback = float((log.source == Reason.FALLBACK).mean())
    spent_us = rollout.decision_us(make(), story, told)
    about = {
        "policy": entry.name,
        "kind": entry.kind,
        "seed": seed,
        "settings": options,
        "on_misfit": "refuse" if rollout.refuses_misfit(make()) else "repair",
        "fallback": fallback,
        "fault": rollout.first_fault(make, story, told) if fallback else None,
        "decision_us_p50": float(np.quantile(spent_us, 0.5)),
        "decision_us_p99": float(np.quantile(spent_us, 0.99)),
        "calibration_passes": calibration_passes(table, entry.designs),
    }
    return scored(story, about, log)


def calibration_passes(table: QualityTable, designs: Sequence[str]) -> float | None:
    """Forward passes over calibration text that these designs took, None where not recorded.

    A pass is one of the whole model over 512-token sequences, one of each domain's text: prefixes
    that were reused count once.
    """
    spent = table.header.provenance.get("spent")
    if not isinstance(spent, list) or not designs:
        return None
    calib = {
        sample.name: min(sample.tokens)
        for sample in table.header.samples
        if sample.split == "calib"
    }
    unit = min(calib.values())
    return float(
        sum(
            part["passes"] * calib[part["sample"]] / unit
            for part in spent
            if part["sample"] in calib and part["design"] in designs
        )
    )


def scored(story: Scenario, about: dict[str, Any], log: EpisodeLog) -> Cell:
    """A cell with what the scorer adds: the same rows with test columns."""
    judged = rollout.replay(
        scenario.scoring_world(story), log, refuses_misfit=about["on_misfit"] == "refuse"
    )
    about = {"scenario": story.id, "blocks": log.kept.shape[-1], **about}
    return Cell(about, log, judged.nll, judged.measured, judged.quality)


def test_start(world: World, story: Scenario) -> State:
    """All pairings of a split before their first row."""
    starts = rollout.whole_split(world, story.offsets)
    rows = np.array([start.row for start in starts])
    offsets = np.array([start.offset for start in starts])
    return simulator.start(world, rows, (rows + offsets) % len(world.rows), np.ones(len(starts)))


def bound_cell(story: Scenario) -> Cell:
    """The bound: no rows are executed, so kept sets are empty and all its cost stands as quality."""
    world = scenario.scoring_world(story)
    start, rows = test_start(world, story), len(world.rows)
    cost, output = bound.least_cost_rows(world, world.quality.at_counts, start, rows)
    zeros, steps = np.zeros_like(output), np.arange(rows)[:, None]
    nothing: BoolArray = np.zeros((*output.shape, world.blocks), dtype=bool)
    nil = np.zeros(output.shape)
    log = EpisodeLog(
        row=(start.row + steps) % rows,
        limit_row=(start.limit_row + steps) % rows,
        proposal=nothing,
        source=zeros,
        kept=nothing,
        kept_end=nothing,
        reason=zeros,
        limit_bytes=zeros,
        used_bytes=zeros,
        nll=nil,
        measured=nil == 0,
        output_tokens=output,
        quality=cost,
        stall=nil,
        emergency=nil,
        refused=nil,
    )
    about = _oracle(story, BOUND)
    return Cell({"scenario": story.id, "blocks": world.blocks, **about}, log, nil, nil == 0, cost)


def plan_cell(story: Scenario) -> Cell:
    """The best plan found that the environment executes, chosen with test rows and columns."""
    world, told = scenario.scoring_world(story), scenario.world(story, "test")
    start, rows = test_start(world, story), len(world.rows)
    proposals = plan.best_plan(world, frontier(world.quality).kept, start, rows)
    log = rollout.proposed(told, proposals, start)
    return scored(story, _oracle(story, BEST_PLAN), log)


def _oracle(story: Scenario, name: str) -> dict[str, Any]:
    return {
        "policy": name,
        "kind": "bound",
        "seed": 0,
        "settings": {},
        "on_misfit": "repair",
        "decision_us_p50": None,
        "decision_us_p99": None,
        "calibration_passes": None,
    }


def origin(stories: Sequence[Scenario], seeds: Sequence[int]) -> dict[str, Any]:
    """What a result depends on: two runs of one origin give the same rows."""
    return {
        "rapgym": importlib.metadata.version("rapgym"),
        "code_sha256": code_sha256(),
        "seeds": list(seeds),
        "scenarios": {story.id: asdict(story) for story in stories},
        "env_spec": {story.id: env_spec(story) for story in stories},
        "tables": {story.table: scenario.table(story).sha256 for story in stories},
        "workloads": {
            story.workload: datafiles.sha256_of(series.FOLDER / f"{story.workload}.csv.gz")
            for story in stories
        },
    }


@cache
def code_sha256() -> str:
    """Of every Python file and every tuned setting of the package: cells of other code are rerun."""
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    tuned = folder / "policies" / registry.TUNED_FILE
    # A walk does not follow the symlink that `baselines` is in a clone.
    for path in sorted({*folder.rglob("*.py"), *(folder / "baselines").glob("*.py"), tuned}):
        if path.is_file():
            digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def env_spec(story: Scenario) -> dict[str, Any]:
    """What `gym.make` takes to get the environment of a scenario's test split."""
    return {"id": "RAP-KeptSet-v0", "kwargs": {"scenario": story.name, "split": "test"}}


def surroundings() -> dict[str, Any]:
    """When and with what a result was made; two results may differ here and agree."""
    packages = ("numpy", "gymnasium", "pandas")
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": provenance.commit(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
    }


def run(
    stories: Sequence[Scenario],
    names: Sequence[str],
    out: Path,
    *,
    seeds: Sequence[int] = (0,),
    summary: Callable[[Results], dict[str, Any]] = lambda found: {},
    quiet: bool = False,
) -> Results:
    """Run every cell that `out`'s folder of parts does not hold yet, then write `out`.

    A cell is kept as soon as it is done, so that a run that was killed goes on where it stopped.
    The parts are removed once the results file is complete.

    Args:
        summary: what the header shall hold beside the origin: scores, for instance.
    """
    origin_here = origin(stories, seeds)
    if out.is_dir():
        raise InvalidSpec(f"{out} is a folder; --out names a file")
    parts = out.with_name(f"{out.name}.parts")
    parts.mkdir(parents=True, exist_ok=True)  # says at once where nothing can be written
    cells, work = [], tasks(stories, names, seeds)
    with Progress("bench", len(work), quiet=quiet) as progress:
        for task in work:
            plain = re.sub(r"[^A-Za-z0-9.-]", "-", task.name)
            path = parts / f"{task.story.id}.{plain}.csv.gz"
            # What a user's own file holds now is not known to be what it held then.
            cell = None if ":" in task.name else _finished(path, origin_here)
            if cell is None:
                cell = task.run()
                results.write(path, Results(origin_here, (cell,)))
                progress.advance(note=f"{task.name} on {task.story.name}")
            else:
                progress.advance(skipped=True)
            cells.append(cell)
    found = Results({**origin_here, **surroundings()}, tuple(cells))
    found = Results({**found.header, **summary(found)}, found.cells)
    results.write(out, found)
    shutil.rmtree(parts, ignore_errors=True)
    return found


def _finished(path: Path, origin_here: dict[str, Any]) -> Cell | None:
    """The cell of a part, if it is whole and of the same origin; else it is run again."""
    try:
        part = results.read(path)
    except InvalidResult:
        return None
    return part.cells[0] if part.header == origin_here else None
