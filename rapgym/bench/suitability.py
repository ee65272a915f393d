"""Is a scenario worth benchmarking? Its numbers, and a check that looks at the train split alone.

The report of how train and test differ in load looks at both; nothing is decided by it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from rapgym.arrays import BoolArray
from rapgym.bench import cells
from rapgym.bench.pieces import fitting_rows
from rapgym.errors import InvalidSpec
from rapgym.jobs import parallel
from rapgym.jobs.progress import Progress
from rapgym.model import memory
from rapgym.model.shapes import model_spec
from rapgym.policies.policy import briefing
from rapgym.policies.reference import FrontierLookup
from rapgym.rollout import rollout
from rapgym.rollout.log import weighted_mean
from rapgym.scenarios import serving, serving_worlds, tables, worlds
from rapgym.scenarios.card import card_bytes
from rapgym.scenarios.serving import Assumed, ServeScenario
from rapgym.scenarios.story import GIB, Recorded, Scenario, Tenant
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
    rows = {split: len(worlds.world(story, split).rows) for split in ("train", "test")}
    dense, floor = _shares(story)
    credited = whole.origin.get("sources", {})
    train = _load(story, "train")
    return {
        "group": story.group,
        "claims": story.claims,
        **_card(story),
        "limit_gib_mean": train.left * story.card_gib,
        "limit_gib_p5": train.left_p5 * story.card_gib,
        "tokens_in_flight_mean": train.tokens,
        "tokens_in_flight_p95": train.tokens_p95,
        "window_s": whole.window_s,
        "reserved_output_tokens": whole.reserve_tokens,
        "restore_s": story.restore_s,
        "reaction_s": world.reaction_s,
        "notice_s": story.notice_s,
        "quality_table": f"{table.name} {table.sha256[:12]}",
        "ceiling_nats": world.ceiling,
        "rows": rows,
        "pairings_of_test": story.offsets,
        "train_rows_where_dense_fits": dense,
        "train_rows_where_the_floor_fits": floor,
        "synthetic": story.synthetic,
        "origin": {k: v for k, v in whole.origin.items() if k != "sources"},
        "attribution": sorted(
            {source["attribution"] for source in credited.values() if "attribution" in source}
        ),
    }


def _requests(every: int) -> str:
    """Which requests of a trace one of `every` replicas serves: "every 2nd request"."""
    if every == 1:
        return "every request"
    in_the_teens = every // 10 % 10 == 1
    ending = "th" if in_the_teens else {1: "st", 2: "nd", 3: "rd"}.get(every % 10, "th")
    return f"every {every}{ending} request"


def serving_numbers(story: ServeScenario) -> dict[str, Any]:
    """What follows from a serving scenario, its traffic left alone: that may be days, or not be here."""
    base, profile = story.base, serving.engine_profile(story)
    name = "assumed, from data sheets" if isinstance(story.profile, Assumed) else story.profile
    return {
        "base": base.name,
        "claims": story.claims,
        **_card(base),
        "profile": name,
        "prefill_tokens_per_s": profile.tokens_per_s,
        "step_tokens": profile.step_tokens,
        "max_sequences": profile.max_sequences,
        "shed_s": story.shed_s,
        "ttft_s": story.deadlines.ttft_s,
        "ttft_s_a_prompt_token": story.deadlines.ttft_token_s,
        "tpot_s": story.deadlines.tpot_s,
        "late_s": story.deadlines.late_s,
        "history_share": list(serving_worlds.history_share(story)),
        "restore_s": base.restore_s,
        "reaction_s": base.reaction_s,
        "quality_table": base.table,
        "splits": base.splits,
    }


def _card(story: Scenario) -> dict[str, Any]:
    """What stands on the card: the model served and the tenant."""
    served = model_spec(story.served)
    return {
        "card_gib": story.card_gib,
        "served": f"{story.served}, {_requests(story.every)} of {story.trace}",
        "form": f"weights {story.form.weights}, KV {story.form.kv}",
        "weights_gib": memory.weight_bytes(served, story.form) / GIB,
        "kv_kib_a_token": memory.model_kv_token_bytes(served, story.form.kv) / 1024,
        "tenant": _tenant(story),
    }


def _tenant(story: Scenario) -> str | None:
    match story.tenant:
        case Tenant(model, trace, every, pool_gib):
            weights_gib = memory.weight_bytes(model_spec(model)) / GIB
            return (
                f"{model}, {_requests(every)} of {trace}, KV pool of {pool_gib} GiB beside "
                f"{weights_gib:.1f} GiB of weights"
            )
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


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a scenario's train rows say of it; `fault` is "" where it is worth benchmarking."""

    fault: Literal["", "too easy", "too hard", "settled"]
    says: str


def check(story: Scenario) -> str:
    """Say why a scenario is neither too easy nor too hard, by its train split.

    Raises:
        InvalidSpec: dense nearly always fits, nothing fits too often, or a reactive policy is at
            the bound already; the message says which card would do.
    """
    found = _judged(story)
    if found.fault:
        raise InvalidSpec(f"{story.name} {found.says}; {_advice(story, found)}")
    return found.says


def check_all(
    stories: Sequence[Scenario],
    *,
    jobs: int | None = 1,
    ray: str | None = None,
    quiet: bool = False,
) -> None:
    """Check scenarios side by side; raises as `check` does for the first that is refused."""
    calls = [partial(check, story) for story in stories]
    with Progress("check", len(calls), quiet=quiet) as progress:
        for place, _ in parallel.results(calls, jobs, ray=ray):
            progress.advance(note=stories[place].name)


def _judged(story: Scenario) -> Verdict:
    world, told = worlds.world(story, "train"), briefing(story)
    dense, floor = _shares(story)
    if dense >= EASY_SHARE:
        return Verdict("too easy", f"is too easy: dense fits in {dense:.0%} of train rows")
    if 1 - floor >= HARD_SHARE:
        return Verdict("too hard", f"is too hard: the floor fits in {floor:.0%} of train rows")
    start = cells.test_start(world, story)
    least, output = bound.least_cost_rows(world, told.quality.at_counts, start, len(world.rows))
    lookup = rollout.run(FrontierLookup, story, "train", told).mean_cost
    room = 1 - weighted_mean(least, output) / lookup
    if room < LEAST_ROOM:
        return Verdict(
            "settled",
            f"leaves nothing to decide: the lookup costs {lookup:.4f} nats on train, {room:.1%} above "
            "the bound",
        )
    return Verdict(
        "",
        f"dense fits in {dense:.0%} of train rows, the floor in {floor:.0%}; {room:.0%} of the "
        "lookup's cost lies above the bound",
    )


def _shares(story: Scenario) -> tuple[float, float]:
    """Of train rows, those in which dense and those in which the floor fits in every second."""
    world = worlds.world(story, "train")
    dense = np.ones(world.blocks, dtype=bool)
    return fitting_share(world, dense), fitting_share(world, world.floor)


CARDS = 5  # that are tried in the range between too hard and too easy
WIDEST = 4096.0  # times the stated card, and that part of it: where a better one is looked for
HALVINGS = 20


def _advice(story: Scenario, found: Verdict) -> str:
    """Which card would make the scenario worth benchmarking, by its train split: the nearest tried."""
    hardest, easiest = _edge(story, _is_hard), _edge(story, lambda each: not _is_easy(each))
    tried = np.geomspace(hardest, easiest, CARDS + 2)[1:-1]
    for card_gib in sorted(
        map(_rounded, tried), key=lambda each: abs(np.log(each / story.card_gib))
    ):
        if not _judged(replace(story, card_gib=card_gib)).fault:
            word = "lower" if card_gib < story.card_gib else "raise"
            return f"{word} card_gib from {story.card_gib:g} to {card_gib:g}"
    return (
        f"no card_gib between {hardest:.3g} and {easiest:.3g} leaves anything to decide: change the load "
        "(every, trace, tenant) or the format (form, table)"
    )


def _is_hard(story: Scenario) -> bool:
    return 1 - _shares(story)[1] >= HARD_SHARE


def _is_easy(story: Scenario) -> bool:
    return _shares(story)[0] >= EASY_SHARE


def _edge(story: Scenario, below: Callable[[Scenario], bool]) -> float:
    """The card, GiB, up to which `below` holds of the scenario, and above which it does not."""
    low, high = story.card_gib / WIDEST, story.card_gib * WIDEST
    for _ in range(HALVINGS):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if below(replace(story, card_gib=middle)) else (low, middle)
    return float(np.sqrt(low * high))


def _rounded(card_gib: float) -> float:
    """Three digits, as one would write them in a file."""
    return float(f"{card_gib:.3g}")
