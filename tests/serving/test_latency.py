"""Percentiles of requests: three that are followed by hand, and the readable engine's on hostile seconds."""

from dataclasses import replace

import numpy as np
import pytest
from serving_worlds import HARM, SECOND, asked, card

from rapgym.rollout import serving as rollout
from rapgym.rollout.serving import Course
from rapgym.scenarios import serving_worlds
from rapgym.scenarios.serving import ServeScenario
from rapgym.serving import kernel, latency
from rapgym.serving.batch import DRAIN_S
from rapgym.serving.cost import Deadlines
from rapgym.serving.engine import Decision, Engine
from rapgym.serving.latency import Gathered, Waits
from rapgym.serving.requests import Requests
from rapgym.serving.world import Part, ServeWorld

# A step takes a second, and half a second for each sequence in it.
#  0.0 to 1.5  prompt of request 0: its first token
#  1.5 to 4.0  request 0 goes on; prompt of 1, whose only token it gives; 3 of the 8 of request 2's prompt
#  4.0 to 6.0  request 0 ends; the other 5, so the first token of request 2
#  6.0 to 7.5  request 2 ends
PROFILE = replace(SECOND, sequence_s=0.5)
THREE = ((0.0, 4, 3), (0.5, 4, 1), (1.0, 8, 2))
NEVER_FITS = (1.2, 100, 5)
DEADLINES = Deadlines(ttft_s=2.0, ttft_token_s=0.25, tpot_s=2.0)
BY_HAND = {
    # Waits of 1.5, 3.5 and 5 s: of the way from the first to the last, 95 % are 0.9 of the second half.
    "ttft_p50_s": 3.5, "ttft_p95_s": 3.5 + 0.9 * 1.5, "ttft_p99_s": 3.5 + 0.98 * 1.5,
    # Request 0: 4.5 s for two more tokens; request 2: 1.5 s for one; request 1 has none.
    "tpot_p50_s": 1.875, "tpot_p95_s": 1.5 + 0.95 * 0.75, "tpot_p99_s": 1.5 + 0.99 * 0.75,
    "e2e_p50_s": 6.0, "e2e_p95_s": 6.0 + 0.9 * 0.5, "e2e_p99_s": 6.0 + 0.98 * 0.5,
}  # fmt: skip


def waited(requests: Requests, shed_s: float = np.inf) -> Waits:
    """Of a part with these requests, thirty seconds long."""
    gathered = Gathered()
    gathered.add(*served(requests, shed_s))
    return gathered.waits()


def served(requests: Requests, shed_s: float = np.inf) -> tuple[kernel.World, kernel.Lane]:
    world = kernel.world_of(requests, card(20), PROFILE, HARM, DEADLINES)
    lane = kernel.lane_of(world, shed_s)
    kernel.run(world, lane, 30.0, 0, 0, 0)
    return world, lane


def test_three_requests_by_hand() -> None:
    found = waited(asked(*THREE))
    told = dict(zip(latency.PERCENTILES, found.percentiles, strict=True))
    assert told == pytest.approx(BY_HAND)
    # First tokens are due at 3, 3.5 and 5 s; request 0 takes 2.25 s a token, one of one token no time.
    assert found.counts.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("shed_s", [5.2, np.inf])
def test_what_never_finishes_is_in_no_percentile_and_meets_no_level(shed_s: float) -> None:
    """A fourth request that finds no pages: shed, or lost once nobody serves on."""
    _, lane = served(asked(*THREE, NEVER_FITS), shed_s)
    assert np.isnan(lane.shed_s[3]) == np.isinf(shed_s)
    found = waited(asked(*THREE, NEVER_FITS), shed_s)
    assert found.percentiles == pytest.approx([*BY_HAND.values()])
    assert found.counts.tolist() == [[0, 1, 2]]


def test_parts_are_sorted_as_one_list_of_requests() -> None:
    """The percentile of both parts is neither part's, nor their mean."""
    gathered = Gathered()
    gathered.add(*served(asked(*THREE)))
    gathered.add(*served(asked((0.25, 4, 1))))
    together = dict(zip(latency.PERCENTILES, gathered.waits().percentiles, strict=True))
    # Waits of 1.5, 1.5, 3.5 and 5 s: request 3 is alone, its step ends at 1.75 s.
    assert together["ttft_p50_s"] == pytest.approx(2.5)
    assert together["ttft_p99_s"] == pytest.approx(3.5 + 0.97 * 1.5)
    assert together["tpot_p50_s"] == pytest.approx(1.875), "a single token has no pace"
    assert gathered.waits().counts.tolist() == [[0, 1, 2], [0, 1, 1]]


def test_where_nothing_finishes_there_is_no_percentile() -> None:
    found = waited(asked(NEVER_FITS))
    assert np.isnan(found.percentiles).all()
    assert not found.counts.any()
    one = dict(zip(latency.PERCENTILES, waited(asked((0.0, 4, 1))).percentiles, strict=True))
    assert one["ttft_p99_s"] == one["ttft_p50_s"] == one["e2e_p95_s"] == 1.5
    assert np.isnan(one["tpot_p50_s"])


def test_seeds_have_the_mean_of_their_percentiles() -> None:
    both = [waited(asked(*THREE)), waited(asked((0.25, 4, 2)))]
    mean = latency.mean_of(both)
    assert mean.percentiles == pytest.approx((both[0].percentiles + both[1].percentiles) / 2)
    assert mean.counts.tolist() == [[0, 1, 1.5]]


# The readable engine


def linear(values: list[float], share: float) -> float:
    """A percentile as it is read off by hand: between two neighbours of the sorted list."""
    at = share / 100 * (len(values) - 1)
    low, ranked = int(at), sorted(values)
    high = min(low + 1, len(values) - 1)
    return ranked[low] + (at - low) * (ranked[high] - ranked[low])


@pytest.mark.parametrize("seed", range(3))
def test_replayed_parts_wait_as_in_the_readable_engine(
    serving_story: ServeScenario, seed: int
) -> None:
    world: ServeWorld = serving_worlds.world(serving_story, "train")
    parts = [Part(0, 100 + 150 * seed, 120), Part(0, 700 + 100 * seed, 60)]
    rng, most = np.random.default_rng(seed), [world.attention + 1, world.ffn + 1, 2]
    courses = [
        Course.of(rng.integers(0, most, (part.seconds, 3)), np.zeros(part.seconds, dtype=np.int64))
        for part in parts
    ]
    found = rollout.replayed(world, parts, courses).waits
    assert found is not None
    times: dict[str, list[float]] = {name: [] for name in latency.TIMES}
    deadlines, counts = world.deadlines, []
    for part, course in zip(parts, courses, strict=True):
        requests = world.requests(part)
        engine = Engine(requests, world.card_of(part), world.profile, world.shed_s)
        for second, decision in enumerate(course.by_second()[0].tolist(), 1):
            engine.decide(Decision(*decision))
            engine.run(float(second))
        engine.run(part.seconds + DRAIN_S)
        preempted = first_met = pace_met = 0
        made = np.bincount([token.request for token in engine.tokens], minlength=len(requests))
        for k, told in enumerate(engine.served):
            arrival_s, output = float(requests.arrival_s[k]), int(requests.output_tokens[k])
            due_s = deadlines.due_s(arrival_s, int(requests.prompt_tokens[k]), 0)
            preempted += told.preemptions > 0
            first_met += told.first_s <= due_s
            if made[k] < output:
                continue
            times["ttft"].append(told.first_s - arrival_s)
            times["e2e"].append(told.last_s - arrival_s)
            if output > 1:
                times["tpot"].append((told.last_s - told.first_s) / (output - 1))
            pace_met += output == 1 or times["tpot"][-1] <= deadlines.tpot_s
        counts.append([preempted, first_met, pace_met])
        assert preempted, "the world is hostile enough to tell"
        assert (made < requests.output_tokens).any(), "some never finish"
    assert found.counts.tolist() == counts
    wanted = [linear(times[name], share) for name in latency.TIMES for share in latency.QUANTILES]
    assert found.percentiles == pytest.approx(wanted, abs=2e-9)
