"""Lanes of the serving engine together: accounts that add up, observations without the future."""

import copy
import pickle
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import toy_serving

from rapgym.arrays import FloatArray, IntArray
from rapgym.scenarios import serving_worlds
from rapgym.scenarios.serving import ServeScenario
from rapgym.serving import batch, sight
from rapgym.serving.batch import DRAIN_S, Batch
from rapgym.serving.engine import Decision, Engine
from rapgym.serving.world import Part, ServeWorld, Span

PART = Part(0, 30, 120)
ALL = np.ones(1, dtype=bool)


@pytest.fixture(scope="module")
def world(serving_story: ServeScenario) -> ServeWorld:
    return serving_worlds.world(serving_story, "train")


def decisions(world: ServeWorld, seconds: int, seed: int) -> IntArray:
    """Wild ones, [T, 3]."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, [world.attention + 1, world.ffn + 1, 2], (seconds, 3))


def played(world: ServeWorld, part: Part, asked: IntArray) -> tuple[Batch, FloatArray, FloatArray]:
    """A lane after these decisions, with records [T, K] and observations [T + 1, O]."""
    lanes = Batch([world])
    lanes.begin(0, part)
    lanes.look(ALL)
    records, seen = [], [lanes.seen[0].copy()]
    for decision in asked:
        lanes.advance(decision[None], ALL)
        records.append(lanes.record[0].copy())
        seen.append(lanes.seen[0].copy())
    return lanes, np.array(records), np.array(seen)


def reference(world: ServeWorld, part: Part, asked: IntArray) -> Engine:
    """The readable engine under the same decisions, drained."""
    engine = Engine(world.requests(part), world.card_of(part), world.profile, world.shed_s)
    for second, decision in enumerate(asked.tolist(), 1):
        engine.decide(Decision(*decision))
        engine.run(float(second))
    engine.run(part.seconds + DRAIN_S)
    return engine


@pytest.mark.parametrize("seed", range(4))
def test_every_output_token_is_charged_once(world: ServeWorld, seed: int) -> None:
    part = Part(0, 200 * seed, 120)
    asked = decisions(world, part.seconds, seed)
    _, records, _ = played(world, part, asked)
    total = dict(zip(batch.COLUMNS, records.sum(axis=0), strict=True))
    engine, requests = reference(world, part, asked), world.requests(part)
    harm, deadlines = world.harm, world.deadlines
    cost = nats = 0.0
    made = np.zeros(len(requests), dtype=np.int64)
    on_time = np.int64(0)
    for token in engine.tokens:
        at = token.request
        own = harm.nats(token.attention, token.ffn, token.ffn_now)
        due_s = deadlines.due_s(
            float(requests.arrival_s[at]), int(requests.prompt_tokens[at]), token.index
        )
        nats += own
        cost += harm.cost(own, token.at_s - due_s, deadlines.late_s)
        on_time += token.at_s <= due_s
        made[at] += 1
    left = requests.output_tokens - made
    assert (left >= 0).all()
    assert total["cost"] == pytest.approx(cost + harm.ceiling * left.sum(), abs=1e-9)
    assert total["nats"] == pytest.approx(nats, abs=1e-9)
    assert total["tokens"] == made.sum()
    assert total["on_time_tokens"] == on_time
    assert total["shed_tokens"] + total["lost_tokens"] == left.sum()
    assert total["arrived"] == len(requests)
    shed = ~np.isnan([each.shed_s for each in engine.served])
    assert total["shed"] == shed.sum()
    assert total["shed_tokens"] == left[shed].sum()
    assert shed.any(), "the world is hostile enough to tell"
    assert total["preemptions"]
    finished = [k for k in range(len(requests)) if not left[k]]
    served = engine.served
    assert total["finished"] == len(finished)
    assert total["first_tokens"] == np.count_nonzero(made)
    waits = [served[k].first_s - requests.arrival_s[k] for k in np.flatnonzero(made)]
    assert total["ttft_s"] == pytest.approx(sum(waits))
    whole = [served[k].last_s - requests.arrival_s[k] for k in finished]
    assert total["e2e_s"] == pytest.approx(sum(whole))
    paced = [k for k in finished if made[k] > 1]
    between = [(served[k].last_s - served[k].first_s) / (made[k] - 1) for k in paced]
    assert total["paced"] == len(paced)
    assert total["tpot_s"] == pytest.approx(sum(between))
    assert total["preemptions"] == sum(each.preemptions for each in served)
    assert (total["steps"], total["step_tokens"]) == (
        len(engine.steps), sum(step.work.tokens for step in engine.steps),
    )  # fmt: skip


def test_what_can_never_be_served_is_charged_at_the_end(world: ServeWorld) -> None:
    """Memory goes for good while sequences run: they are preempted, and nothing fits any more."""
    (span, *_) = world.spans
    limit = np.append(np.full(20, 800), np.full(span.seconds - 20, 100))
    starved = replace(world, spans=(replace(span, limit_bytes=limit),))
    part = Part(0, 0, 60)
    asked = np.zeros((60, 3), dtype=np.int64)
    lanes, records, _ = played(starved, part, asked)
    total = dict(zip(batch.COLUMNS, records.sum(axis=0), strict=True))
    assert total["lost_tokens"] > 0
    assert (records[:-1, batch.LOST] == 0).all(), "at the end, not before"
    output = int(starved.requests(part).output_tokens.sum())
    assert total["tokens"] + total["shed_tokens"] + total["lost_tokens"] == output
    gone = (total["shed_tokens"] + total["lost_tokens"]) * world.harm.ceiling
    made = lanes.entries[0][1].cost.sum() - total["shed_tokens"] * world.harm.ceiling
    assert total["cost"] == pytest.approx(gone + made)


def changed(world: ServeWorld, from_s: int) -> ServeWorld:
    """The same up to a second; from it on other requests, and another limit."""
    (span, *_) = world.spans
    past = span.arrival_us < (PART.start_s + from_s) * 1_000_000
    rest_us = span.arrival_us[~past] + 13_337
    limit = span.limit_bytes.copy()
    limit[PART.start_s + from_s :] = 333
    other = Span(
        np.append(span.arrival_us[past], rest_us),
        np.append(span.prompt_tokens[past], span.prompt_tokens[~past] + 3),
        np.append(span.output_tokens[past], span.output_tokens[~past] + 2),
        limit,
    )
    return replace(world, spans=(other,))


@pytest.mark.parametrize("second", [0, 1, 7, 40, 119])
def test_an_observation_holds_nothing_of_the_future(world: ServeWorld, second: int) -> None:
    asked = decisions(world, second, 5)
    _, records, seen = played(world, PART, asked)
    _, others, also = played(changed(world, second), PART, asked)
    assert seen.tobytes() == also.tobytes()
    assert records.tobytes() == others.tobytes(), "nor does a reward"
    further = decisions(world, min(second + 20, 120), 5)
    further[:second] = asked
    _, _, later = played(world, PART, further)
    _, _, unlike = played(changed(world, second), PART, further)
    assert later.tobytes() != unlike.tobytes(), "it makes a difference once it has come"


def test_an_observation_tells_no_output_length(world: ServeWorld) -> None:
    asked = decisions(world, 60, 3)
    lanes, _, seen = played(world, PART, asked)
    made, lane, _ = lanes.entries[0]
    open_ones = np.flatnonzero(lane.promised < made.output)
    assert (lane.promised[open_ones] > 0).any(), "some are under way"
    (span, *_) = world.spans
    first = int(np.searchsorted(span.arrival_us, PART.start_s * 1_000_000))
    output = span.output_tokens.copy()
    output[first + open_ones] += 40
    longer = replace(world, spans=(replace(span, output_tokens=output),))
    _, _, also = played(longer, PART, asked)
    assert seen.tobytes() == also.tobytes()


def test_parts_of_an_observation_say_what_they_name(world: ServeWorld) -> None:
    second = 45
    lanes, records, seen = played(world, PART, decisions(world, second, 2))
    (span, *_), part = world.spans, sight.SLICES
    made, _, _ = lanes.entries[0]
    now = seen[-1].astype(np.float64)
    until = PART.start_s + second
    assert now[part["limit"]] == pytest.approx(
        span.limit_bytes[until - 60 : until] / world.card_bytes
    )
    arrival_s = made.arrival_s
    ago = second - arrival_s[arrival_s < second]
    edges = np.array(sight.AGES_S)
    counts = np.array([((ago > low) & (ago <= high)).sum() for low, high in pairwise(edges)])
    assert now[part["arrivals"]] == pytest.approx(counts / np.diff(edges) / world.means.requests)
    prompts = made.prompt[arrival_s < second]
    tokens = [prompts[(ago > low) & (ago <= high)].sum() for low, high in pairwise(edges)]
    wanted = np.array(tokens) / np.diff(edges) / world.means.prompt_tokens
    assert now[part["prompts"]] == pytest.approx(wanted)
    engine = Engine(world.requests(PART), world.card_of(PART), world.profile, world.shed_s)
    for at, decision in enumerate(decisions(world, second, 2).tolist(), 1):
        engine.decide(Decision(*decision))
        engine.run(float(at))
    noticed = (
        len(engine.waiting)
        + len(engine.running)
        + sum(each.last_s == each.last_s or each.shed_s == each.shed_s for each in engine.served)
    )
    unnoticed = list(range(noticed, int((arrival_s < second).sum())))
    waiting = [(arrival_s[each.request], each.target) for each in engine.waiting]
    waiting += [(arrival_s[k], made.prompt[k]) for k in unnoticed]
    sequences, most = world.profile.max_sequences, world.most_tokens
    assert now[part["queue"]] == pytest.approx([
        len(waiting) / sequences,
        sum(target for _, target in waiting) / most,
        max((second - at for at, _ in waiting), default=0) / world.shed_s,
    ])  # fmt: skip
    assert now[part["running"]] == pytest.approx([len(engine.running) / sequences])
    size = world.profile.page_tokens
    assert now[part["held"]] == pytest.approx([engine.pages.used * size / most])
    left = sum(max(0, each.target - each.planned) for each in engine.running)
    assert now[part["prefill"]] == pytest.approx([left / world.profile.step_tokens])
    histories = np.array([(each.attention, each.ffn) for each in engine.running]).reshape(-1, 2)
    droppable = world.attention, world.ffn
    if len(histories):
        expected = [*(histories.mean(axis=0) / droppable), *(histories.max(axis=0) / droppable)]
        assert now[part["histories"]] == pytest.approx(expected)
    gone, loading = engine.counts, None if engine.loading is None else engine.loading[0]
    assert now[part["kept"]] == pytest.approx(1 - np.array(gone) / droppable)
    assert now[part["loading"]].tolist() == [loading == 0, loading == 1]
    held = engine._held
    card = replace(world.card_of(PART), limit_bytes=span.limit_bytes[until - 1 : until])
    pages = card.room_tokens(held, 0.0) // size - world.profile.reserved_pages - engine.pages.used
    assert now[part["free"]] == pytest.approx([max(0, pages) * size / most])
    last = dict(zip(batch.COLUMNS, records[-1], strict=True))
    means = world.means
    assert now[part["last"]] == pytest.approx([
        last["steps"] / 20, last["step_tokens"] / world.profile.step_tokens,
        last["tokens"] / means.output_tokens, last["preemptions"] / means.requests,
        last["shed"] / means.requests,
    ])  # fmt: skip


def test_observations_stay_within_their_bounds(world: ServeWorld) -> None:
    for seed in range(3):
        _, _, seen = played(world, Part(0, 100, 200), decisions(world, 200, seed))
        assert (seen >= 0).all()
        assert (seen <= sight.HIGHEST).all()
    assert len(sight.HIGHEST) == sight.WIDTH == seen.shape[1]


def test_lanes_do_not_meet(world: ServeWorld, serving_story: ServeScenario) -> None:
    """Three lanes, of two scenarios, in turn and alone."""
    poorer = serving_worlds.world(
        replace(serving_story, profile=replace(toy_serving.PROFILE, base_s=0.08)), "train"
    )
    worlds, parts = [world, poorer, world], [PART, PART, Part(0, 300, 90)]
    together = Batch(worlds)
    for lane, part in enumerate(parts):
        together.begin(lane, part)
    asked = [decisions(world, 80, seed) for seed in range(3)]
    alone = [played(*each)[1:] for each in zip(worlds, parts, asked, strict=True)]
    done, rng = [0, 0, 0], np.random.default_rng(0)
    while min(done) < 80:
        acting = (rng.random(3) < 0.6) & (np.array(done) < 80)
        actions = np.array([asked[k][min(done[k], 79)] for k in range(3)])
        together.advance(actions, acting)
        for lane in np.flatnonzero(acting).tolist():
            records, seen = alone[lane]
            assert together.record[lane].tobytes() == records[done[lane]].tobytes()
            done[lane] += 1
            assert together.seen[lane].tobytes() == seen[done[lane]].tobytes()


def test_a_copy_goes_its_own_way(world: ServeWorld) -> None:
    asked = decisions(world, 60, 4)
    lanes, _, _ = played(world, PART, asked[:30])
    for other in (copy.deepcopy(lanes), pickle.loads(pickle.dumps(lanes))):
        for decision in asked[30:]:
            other.advance(decision[None], ALL)
        _, records, seen = played(world, PART, asked)
        assert other.record[0].tobytes() == records[-1].tobytes()
        assert other.seen[0].tobytes() == seen[-1].tobytes()
    lanes.advance(asked[30][None], ALL)
    assert lanes.record[0].tobytes() == records[30].tobytes(), "the first stands where it stood"


def test_lanes_of_one_batch_drop_as_many_blocks(world: ServeWorld) -> None:
    harm = replace(world.harm, nll=world.harm.nll[:-1], history_share=world.harm.history_share)
    goes_next = world.card.goes_next[:-1]
    other = replace(world, harm=harm, card=replace(world.card, goes_next=goes_next))
    with pytest.raises(ValueError, match="as many blocks"):
        Batch([world, other])


def test_a_loop_is_kept_by_the_engine_that_it_holds() -> None:
    """Numba's key holds what a function closes over: another engine's source is another key."""
    one, other = batch._loop(1), batch._loop(2)
    keys = [each._cache._index_key(None, each.targetctx.codegen()) for each in (one, other)]  # type: ignore[attr-defined]
    assert keys[0] != keys[1]
    again = batch._loop(1)
    assert again._cache._index_key(None, again.targetctx.codegen()) == keys[0]  # type: ignore[attr-defined]


def test_places_are_those_of_the_names() -> None:
    assert [batch.COLUMNS[k] for k in (batch.LOST, batch.LOADING, batch.COST, batch.NOW)] == [
        "lost_tokens", "loading", "cost", "now_s",
    ]  # fmt: skip
