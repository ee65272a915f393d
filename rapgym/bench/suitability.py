"""Is a scenario worth benchmarking? Its numbers, and a check that looks at the train split alone.

The report of how train and test differ in load looks at both; nothing is decided by it.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from rapgym.arrays import BoolArray
from rapgym.bench import cells
from rapgym.bench.pieces import fitting_rows
from rapgym.errors import InvalidSpec
from rapgym.policies.policy import briefing
from rapgym.policies.reference import FrontierLookup
from rapgym.rollout import tuning as rollout_tuning
from rapgym.rollout.log import weighted_mean
from rapgym.scenarios import tables, worlds
from rapgym.scenarios.card import card_bytes
from rapgym.scenarios.story import Recorded, Scenario, Tenant
from rapgym.workload import series
from rapgym.world import bound
from rapgym.world.records import World

EASY_SHARE = 0.95  # of rows in which dense fits in every second
HARD_SHARE = 0.50  # of rows in which not even the floor fits
LEAST_ROOM = 0.05  # of the lookup's cost that is left between it and the bound


def fitting_share(world: World, kept: BoolArray) -> float:
    """Share of rows in which a kept set fits in every second."""
    return float(fitting_rows(world, kept).mean())


def numbers(story: Scenario) -> dict[str, Any]:
    """What a scenario consists of, for people."""
    world, table = worlds.world(story, "train"), tables.table(story)
    whole = worlds.workload(story)
    rows = {
        split: len(worlds.world(story, split).rows) for split in ("train", "validation", "test")
    }
    dense = np.ones(world.blocks, dtype=bool)
    credited = whole.origin.get("sources", {})
    return {
        "card_gib": story.card_gib,
        "served": f"{story.served}, {_requests(story.every)} of {story.trace}",
        "tenant": _tenant(story),
        "window_s": whole.window_s,
        "reserved_output_tokens": whole.reserve_tokens,
        "restore_s": story.restore_s,
        "reaction_s": world.reaction_s,
        "notice_s": story.notice_s,
        "quality_table": f"{table.name} {table.sha256[:12]}",
        "ceiling_nats": world.ceiling,
        "rows": rows,
        "pairings_of_test": story.offsets,
        "train_rows_where_dense_fits": fitting_share(world, dense),
        "train_rows_where_the_floor_fits": fitting_share(world, world.floor),
        "synthetic": story.synthetic,
        "origin": {k: v for k, v in whole.origin.items() if k != "sources"},
        "attribution": sorted({source["attribution"] for source in credited.values()}),
    }


def _requests(every: int) -> str:
    """Which requests of a trace one of `every` replicas serves: "every 2nd request"."""
    if every == 1:
        return "every request"
    in_the_teens = every // 10 % 10 == 1
    ending = "th" if in_the_teens else {1: "st", 2: "nd", 3: "rd"}.get(every % 10, "th")
    return f"every {every}{ending} request"


def _tenant(story: Scenario) -> str | None:
    match story.tenant:
        case Tenant(model, trace, every, pool_gib):
            return f"{model}, {_requests(every)} of {trace}, KV pool of {pool_gib} GiB"
        case Recorded(recording):
            return f"memory in use as recorded in {recording}"
    return None


@dataclass(frozen=True, slots=True)
class Load:
    """What the rows of one split ask of the card, paired as the hour was; shares are of 1."""

    rows: int
    requests: float  # a row, mean
    tokens: float  # in flight: prompt and reserved output of a row, of the served model, mean
    tokens_p95: float  # 95th percentile over rows
    left: float  # share of the card that the tenant leaves, mean over seconds
    left_p5: float  # 5th percentile over seconds
    falling_rows: float  # share of rows in which the limit falls below that of their first second
    fall: (
        float  # share of the card by which it falls at most in these, mean; 0 where there are none
    )
    fall_p95: float
    dense_fits: float  # share of rows in which it does in every second
    floor_fits: float


def load(story: Scenario) -> dict[Literal["train", "test"], Load]:
    """How train and test differ in load: a report for readers.

    It looks at test, so nothing may be chosen by it: no policy is told, and `check` does not use it.
    """
    return {"train": _load(story, "train"), "test": _load(story, "test")}


def _load(story: Scenario, split: Literal["train", "test"]) -> Load:
    world, whole = worlds.world(story, split), worlds.workload(story)
    part = whole.part(series.split_rows(len(whole), split, story.splits))
    tokens = part.prompt_tokens + part.batch * part.reserve_tokens
    left = world.rows.limit_bytes / card_bytes(story)
    fall = left[:, 0] - left.min(axis=1)
    falls = fall[fall > 0]
    return Load(
        rows=len(part),
        requests=float(part.batch.mean()),
        tokens=float(tokens.mean()),
        tokens_p95=float(np.quantile(tokens, 0.95)),
        left=float(left.mean()),
        left_p5=float(np.quantile(left, 0.05)),
        falling_rows=float((fall > 0).mean()),
        fall=float(falls.mean()) if len(falls) else 0.0,
        fall_p95=float(np.quantile(falls, 0.95)) if len(falls) else 0.0,
        dense_fits=fitting_share(world, np.ones(world.blocks, dtype=bool)),
        floor_fits=fitting_share(world, world.floor),
    )


def check(story: Scenario) -> str:
    """Say why a scenario is neither too easy nor too hard, by its train split.

    Raises:
        InvalidSpec: dense nearly always fits, nothing fits too often, or a reactive policy is at
            the bound already.
    """
    world, told = worlds.world(story, "train"), briefing(story)
    dense = fitting_share(world, np.ones(world.blocks, dtype=bool))
    floor = fitting_share(world, world.floor)
    if dense >= EASY_SHARE:
        raise InvalidSpec(f"{story.name} is too easy: dense fits in {dense:.0%} of train rows")
    if 1 - floor >= HARD_SHARE:
        raise InvalidSpec(f"{story.name} is too hard: the floor fits in {floor:.0%} of train rows")
    start = cells.test_start(world, story)
    least, output = bound.least_cost_rows(world, told.quality.at_counts, start, len(world.rows))
    lookup = rollout_tuning.train_cost(FrontierLookup, told)
    room = 1 - weighted_mean(least, output) / lookup
    if room < LEAST_ROOM:
        raise InvalidSpec(
            f"{story.name} leaves nothing to decide: the lookup costs {lookup:.4f} nats on train, "
            f"{room:.1%} above the bound"
        )
    return (
        f"dense fits in {dense:.0%} of train rows, the floor in {floor:.0%}; {room:.0%} of the "
        "lookup's cost lies above the bound"
    )
