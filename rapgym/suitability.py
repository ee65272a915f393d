"""Is a scenario worth benchmarking? Its numbers, and a check that looks at the train split alone."""

from typing import Any

import numpy as np

from rapgym import bench, bound, rollout, scenario
from rapgym.episode_log import weighted_mean
from rapgym.errors import InvalidSpec
from rapgym.policies.policy import briefing
from rapgym.policies.reference import FrontierLookup
from rapgym.scenario import Scenario
from rapgym.specs import BoolArray, model_spec
from rapgym.world import World

EASY_SHARE = 0.95  # of rows in which dense fits in every second
HARD_SHARE = 0.50  # of rows in which not even the floor fits
LEAST_ROOM = 0.05  # of the lookup's cost that is left between it and the bound


def fitting_share(world: World, kept: BoolArray) -> float:
    """Share of rows in which a kept set fits in every second."""
    rows, footprint = world.rows, world.footprint
    tokens = rows.prompt_tokens + rows.reserved_tokens
    used = footprint.used_bytes(kept, tokens, rows.prompt_tokens) + footprint.margin_bytes
    return float((used[:, None] <= rows.limit_bytes).all(axis=1).mean())


def numbers(story: Scenario) -> dict[str, Any]:
    """What a scenario consists of, for people."""
    world, table = scenario.world(story, "train"), scenario.table(story)
    whole = scenario.workload(story)
    scale = scenario.scales(story, model_spec(table.model))
    rows = {
        split: len(scenario.world(story, split).rows) for split in ("train", "validation", "test")
    }
    dense = np.ones(world.blocks, dtype=bool)
    credited = whole.origin.get("sources", {})
    return {
        "card_gib": story.card_gib,
        "served": f"{story.served}, every {story.every}. request of {story.trace}",
        "tenant": story.tenant
        and f"{story.tenant.model}, every {story.tenant.every}. request of {story.tenant.trace}, "
        f"KV pool of {story.tenant.pool_gib} GiB",
        "window_s": whole.window_s,
        "reserved_output_tokens": whole.reserve_tokens,
        "restore_s": story.restore_s,
        "notice_s": story.notice_s,
        "quality_table": f"{table.name} {table.sha256[:12]}",
        "token_scale": float(scale.tokens),
        "byte_scale": float(scale.bytes),
        "ceiling_nats": world.ceiling,
        "rows": rows,
        "pairings_of_test": story.offsets,
        "train_rows_where_dense_fits": fitting_share(world, dense),
        "train_rows_where_the_floor_fits": fitting_share(world, world.floor),
        "synthetic": story.synthetic,
        "origin": {k: v for k, v in whole.origin.items() if k != "sources"},
        "attribution": sorted({source["attribution"] for source in credited.values()}),
    }


def check(story: Scenario) -> str:
    """Say why a scenario is neither too easy nor too hard, by its train split.

    Raises:
        InvalidSpec: dense nearly always fits, nothing fits too often, or a reactive policy is at
            the bound already.
    """
    world, told = scenario.world(story, "train"), briefing(story)
    dense = fitting_share(world, np.ones(world.blocks, dtype=bool))
    floor = fitting_share(world, world.floor)
    if dense >= EASY_SHARE:
        raise InvalidSpec(f"{story.name} is too easy: dense fits in {dense:.0%} of train rows")
    if 1 - floor >= HARD_SHARE:
        raise InvalidSpec(f"{story.name} is too hard: the floor fits in {floor:.0%} of train rows")
    start = bench.test_start(world, story)
    least, output = bound.least_cost_rows(world, told.quality.at_counts, start, len(world.rows))
    lookup = rollout.train_cost(FrontierLookup, told)
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
