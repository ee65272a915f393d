"""Rules for the serving engine: what they decide of what they see."""

from typing import Any

import numpy as np
import pytest

from rapgym.arrays import FloatArray, IntArray
from rapgym.policies import serve_rules
from rapgym.policies.serve_rules import Fixed, Hurry, Hysteresis, Lookup
from rapgym.policies.serving import Grid, ServeBriefing, serve_briefing
from rapgym.policies.tuning import TUNING_BUDGET
from rapgym.scenarios.serving import ServeScenario
from rapgym.serving import sight
from rapgym.serving.engine import DROP

RNG = np.random.default_rng(0)
AMPLE = 1 << 20


@pytest.fixture(scope="module")
def told(serving_story: ServeScenario) -> ServeBriefing:
    return serve_briefing(serving_story)


def seen(
    told: ServeBriefing,
    limit_bytes: float,
    held: float = 0.0,
    queued: float = 0.0,
    prefill: float = 0.0,
) -> FloatArray:
    """An observation in which memory and demand are these, float32 [1, O]."""
    units, row = sight.units(told.train), np.zeros((1, sight.WIDTH), dtype=np.float32)
    row[:, sight.SLICES["limit"]] = limit_bytes / units[sight.CARD_BYTES]
    row[:, sight.SLICES["held"]] = held / units[sight.MOST_TOKENS]
    row[:, sight.SLICES["queue"].start + 1] = queued / units[sight.MOST_TOKENS]
    row[:, sight.SLICES["prefill"]] = prefill / units[sight.STEP_TOKENS]
    return row


def decided(policy: Any, told: ServeBriefing, *rows: FloatArray) -> IntArray:
    """The decision in each of these seconds, [T, 3]."""
    policy.reset(1, told)
    return np.array([policy.decide(row, RNG)[0].copy() for row in rows])


def need_bytes(told: ServeBriefing, counts: tuple[int, int], tokens: float) -> float:
    profile, where = told.train.profile, told.train.card
    reserved = profile.reserved_pages * profile.page_tokens
    return where.used_bytes(counts, 0) + (tokens + reserved) * where.token_bytes(counts)


def test_a_reading_is_what_was_seen(told: ServeBriefing) -> None:
    reading = told.read(seen(told, 500.0, held=6.0, queued=11.0, prefill=9.0))
    for name, wanted in (("limit_bytes", 500), ("held_tokens", 6), ("queued_tokens", 11),
                         ("prefill_tokens", 9)):  # fmt: skip
        assert getattr(reading, name)[0] == pytest.approx(wanted, rel=1e-6), name


def test_bytes_are_those_of_the_card(told: ServeBriefing) -> None:
    grid, world = Grid.of(told.train), told.train
    for attention in range(world.attention + 1):
        for ffn in range(world.ffn + 1):
            limit = need_bytes(told, (attention, ffn), 7)
            room = grid.room_tokens(np.array([limit]))[0, attention, ffn]
            assert room == pytest.approx(7.0)


def test_the_lookup_keeps_all_where_all_demand_fits(told: ServeBriefing) -> None:
    dense = need_bytes(told, (0, 0), 30)
    lookup = Lookup(margin=0.0, demand=1.0, price=1.0)
    enough = seen(told, dense + 1, held=10, queued=20)
    short = seen(told, dense - 30, held=10, queued=20)
    found = decided(lookup, told, enough, short)
    assert found[0].tolist() == [0, 0, DROP]
    assert found[1, :2].sum() > 0


def test_the_lookup_takes_the_least_harm_that_fits(told: ServeBriefing) -> None:
    """By brute force over all pairs, where a token without room costs more than any harm."""
    world, tokens = told.train, 12
    for limit in np.linspace(need_bytes(told, world.card.floor, tokens) + 1, AMPLE >> 10, 25):
        attention, ffn, _ = decided(
            Lookup(margin=0.0, demand=1.0, price=1e6), told, seen(told, limit, held=tokens)
        )[0]
        fits = {
            (a, f): world.harm.nll[a, f]
            for a in range(world.attention + 1)
            for f in range(world.ffn + 1)
            if need_bytes(told, (a, f), tokens) <= limit * (1 + 1e-7)
        }
        assert world.harm.nll[attention, ffn] == min(fits.values())


def test_a_margin_and_demand_ask_for_more_room(told: ServeBriefing) -> None:
    tight = seen(told, need_bytes(told, (0, 0), 10) + 1, held=10, queued=20)
    assert decided(Lookup(0.0, 0.0, 1.0), told, tight)[0, :2].sum() == 0
    assert decided(Lookup(0.2, 0.0, 1.0), told, tight)[0, :2].sum() > 0
    assert decided(Lookup(0.0, 1.0, 1.0), told, tight)[0, :2].sum() > 0


def test_hysteresis_drops_at_once_and_brings_back_late(told: ServeBriefing) -> None:
    little, much = (
        seen(told, limit, held=10) for limit in (need_bytes(told, (0, 0), 10) - 30, AMPLE)
    )
    patient = Hysteresis(margin=0.0, demand=1.0, price=1.0, seconds=3)
    found = decided(patient, told, much, little, much, much, much, little, much, much)
    dropped = found[:, :2].sum(axis=1) > 0
    assert dropped.tolist() == [False, True, True, True, False, True, True, True]


def test_hurry_drops_for_speed_where_prompts_wait(told: ServeBriefing) -> None:
    rate = told.train.profile.tokens_per_s
    hurry = Hurry(margin=0.0, demand=0.0, price=1.0, blocks_a_second=1.0)
    calm, pressed = (seen(told, AMPLE, prefill=waits * rate) for waits in (0.5, 1.5))
    found = decided(hurry, told, calm, pressed)
    assert found[:, 1].tolist() == [0, min(1, told.train.ffn)]


def test_settings_try_no_more_than_any_method_may(told: ServeBriefing) -> None:
    for name in serve_rules.RULES:
        settings = serve_rules.settings_of(name, told)
        sizes = {len(each) for each in settings.values()}
        assert len(sizes) <= 1, name
        assert max(sizes, default=1) <= TUNING_BUDGET, name


def test_lanes_that_try_settings_decide_as_each_would_alone(told: ServeBriefing) -> None:
    rows = [seen(told, limit, held=8, queued=queued, prefill=queued)
            for limit, queued in ((400.0, 3), (700.0, 50), (360.0, 0), (900.0, 9))]  # fmt: skip
    for name, rule in serve_rules.RULES.items():
        settings = serve_rules.settings_of(name, told)
        count = len(next(iter(settings.values()), [0]))
        together: Any = rule.make(**settings)
        together.reset(count, told)
        found = [together.decide(np.repeat(row, count, axis=0), RNG).copy() for row in rows]
        for lane in range(count):
            alone = rule.make(**{key: values[lane].item() for key, values in settings.items()})
            wanted = decided(alone, told, *rows)
            assert (np.array(found)[:, lane] == wanted).all(), (name, lane)


def test_fixed_counts_stay(told: ServeBriefing) -> None:
    found = decided(Fixed(1, 1, DROP), told, seen(told, AMPLE), seen(told, 0.0))
    assert found.tolist() == [[1, 1, DROP]] * 2
