"""Rivals outside the action space: rows by hand, plain loops, and what their definitions promise."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import numpy as np
import pytest
import stories
from hypothesis import given
from hypothesis import strategies as st
from toy_table import CEILING
from toy_world import toy_rows, toy_series, toy_world
from worlds import int_rows, worlds

from rapgym.arrays import IntArray
from rapgym.errors import InvalidSpec
from rapgym.model import memory
from rapgym.model.shapes import BF16, Format, model_spec
from rapgym.quality.table import QualityTable
from rapgym.rivals import rivals
from rapgym.rivals import rules as rival_rules
from rapgym.rivals.rivals import Rival
from rapgym.rivals.rules import Batches, Played, Rule
from rapgym.rollout import rollout
from rapgym.rollout import tuning as rollout_tuning
from rapgym.rollout.log import EpisodeLog
from rapgym.scenarios import catalogue
from rapgym.scenarios import worlds as scenarios_worlds
from rapgym.scenarios.story import Scenario
from rapgym.testing import model
from rapgym.workload import series
from rapgym.world import simulator
from rapgym.world.records import Rows, World
from rapgym.world.shield import Reason

Request = tuple[int, int, int]  # prompt, reserved, realised output
RIVALS = rivals.every()
WHOLE = [rival for rival in RIVALS if not rival.prunes]  # tests/test_format_pruning.py has the rest
STATIC = [rival for rival in RIVALS if rival.rule == "static"]
OTHERS = [rival for rival in RIVALS if rival.rule != "static"]
DENSE = Rival("bf16", "static dense", "static")


def rows_of(batches: list[list[Request]], limit_bytes: IntArray) -> Rows:
    sums = np.array([[sum(r[i] for r in batch) for i in range(3)] for batch in batches])
    prompt, reserved, output = sums.T.astype(np.int64)
    count = np.array([len(batch) for batch in batches])
    return Rows(count, prompt, reserved, prompt + reserved, output, limit_bytes)


def table_of(world: World, batches: list[list[Request]]) -> Batches:
    most = max(map(len, batches))
    columns = np.full((3, len(batches), most + 1), -1)
    for row, batch in enumerate(batches):
        for k in range(most + 1):
            columns[:2, row, k] = [sum(r[i] for r in batch[:k]) for i in (0, 1)]
            columns[2, row, k] = sum(r[2] for r in batch[:k])
            if k > len(batch):
                columns[:2, row, k] = -1
    return rival_rules.batches(world, *columns)


def played(rule: Rule, row: Iterable[int], limit_row: Iterable[int] | None = None) -> Played:
    """One lane."""
    rows = np.array([*row])[:, None]
    return rival_rules.in_turn(
        rule, rows, rows if limit_row is None else np.array([*limit_row])[:, None]
    )


# By hand: dense takes 400 + 12 t bytes of t tokens, all block weights 300; C is 4, a row has 4 seconds.


def test_partial_admission_by_hand() -> None:
    # Dense needs 400, 460, 520 and 640 bytes for the first 0, 1, 2 and 3 requests, of 10 output tokens.
    asked = [[(5, 0, 6), (3, 2, 2), (10, 0, 2)]]
    world = toy_world(rows_of(asked, np.array([[530, 530, 470, 700]])))
    found = played(rival_rules.partial_admission(world, table_of(world, asked)), [0])
    # Two are admitted, 8 of 10 tokens; the second of them goes in second 2: 6 of 10 from there on.
    assert found.refused == pytest.approx([4 * (0.2 + 0.2 + 0.4 + 0.4) / 4])
    assert found.emergency == pytest.approx([4 * 0.6 / 4])
    assert found.stall.tolist() == found.quality.tolist() == [0]
    assert found.used_bytes.tolist() == [520]
    assert found.reason.tolist() == [Reason.REPAIRED]
    assert found.after.all(), "weights stay"

    told = replace(world, notice_s=1)
    found = played(rival_rules.partial_admission(told, table_of(told, asked)), [0])
    assert found.emergency.tolist() == [0]
    assert found.refused == pytest.approx([1.2])

    # In a format that costs 0.5 nats, what is served costs that: 8 + 8 + 0 + 6 tokens of 40.
    found = played(rival_rules.partial_admission(world, table_of(world, asked), 0.5), [0])
    assert found.quality == pytest.approx([0.5 * 22 / 40])


def test_partial_admission_evicts_weights_that_do_not_fit_and_pays_for_their_return() -> None:
    asked = [[(5, 0, 6)], [(5, 0, 6)], []]
    limits = np.array([[530, 350, 300, 350], [460, 460, 460, 460], [390, 400, 400, 400]])
    world = toy_world(rows_of(asked, limits))
    found = played(rival_rules.partial_admission(world, table_of(world, asked)), range(3))
    # Of 300 bytes 200 are left for blocks: the last two go, 100 bytes that come back in 1 s.
    assert found.refused == pytest.approx([4 * 3 / 4, 0, 4])
    assert found.after[0].tolist() == [True] * 4 + [False] * 2
    assert found.stall == pytest.approx([0, 4 * 1 / 4, 0])
    assert found.reason.tolist() == [Reason.POLICY, Reason.POLICY, Reason.REFUSED]
    assert found.used_bytes.tolist() == [460, 460, 0]
    assert found.after[2].tolist() == [True] * 5 + [False], "290 bytes are left for blocks"


def test_a_return_pauses_while_a_second_is_lost() -> None:
    # Blocks of 100 bytes come back at 50 bytes a second: 2 s, second 1 of which is an emergency.
    asked = [[(5, 0, 6)], [(5, 0, 6), (5, 0, 4)]]
    world = toy_world(
        rows_of(asked, np.array([[300] * 4, [520, 460, 460, 460]])), restore_bytes_per_s=50.0
    )
    found = played(rival_rules.partial_admission(world, table_of(world, asked)), range(2))
    assert found.emergency == pytest.approx([0, 4 * 0.6 / 4])
    assert found.stall == pytest.approx([0, 4 * (1 + 0.6) / 4]), "in seconds 0 and 2"
    assert found.refused == pytest.approx([4, 4 * 3 * 0.4 / 4])


def test_what_is_left_of_an_emergencys_second_goes_on() -> None:
    # As above, but a quarter of second 1 is lost: the return ends within it, after 0.75 s more, and
    # 0.25 s in second 2; what is left of that is served at 0.5 nats.
    asked = [[(5, 0, 6)], [(5, 0, 6), (5, 0, 4)]]
    world = toy_world(
        rows_of(asked, np.array([[300] * 4, [520, 460, 460, 460]])),
        restore_bytes_per_s=50.0,
        reaction_s=0.25,
    )
    found = played(rival_rules.partial_admission(world, table_of(world, asked), 0.5), range(2))
    assert found.emergency == pytest.approx([0, 4 * 0.6 * 0.25 / 4])
    assert found.stall == pytest.approx([0, 4 * (1 + 0.6 * 0.75 + 0.6 * 0.25) / 4])
    assert found.quality == pytest.approx([0, 0.5 * 0.6 * (0.75 + 1) / 4])

    # Streaming: 90 bytes are missing after the fall, 9 ms a step of 30 ms; a quarter of it is lost.
    rows = toy_rows([10], [[520, 520, 430, 520]])
    world = toy_world(rows, restore_bytes_per_s=10_000.0, reaction_s=0.25)
    found = played(rival_rules.weight_streaming(world), [0])
    assert found.emergency == pytest.approx([4 * 0.25 / 4])
    assert found.stall == pytest.approx([4 * (0.75 + 1) * 9 / 39 / 4])


def test_weight_streaming_by_hand() -> None:
    # 10 tokens: embeddings and KV take 220; a link of 10,000 bytes a second.
    rows = toy_rows([10, 10, 10], [[460, 460, 430, 520], [520] * 4, [520, 520, 210, 230]])
    world = toy_world(rows, restore_bytes_per_s=10_000.0)
    found = played(rival_rules.weight_streaming(world), range(3))
    # 60 bytes are missing, 6 ms a step of 30 ms; from second 2, which is lost, 90 bytes, 9 ms.
    slow, slower, back_s = 6 / 36, 9 / 39, 90 / 10_000
    assert found.stall == pytest.approx([4 * (slow + slow + slower) / 4, 4 * back_s / 4, 0])
    assert found.emergency == pytest.approx([4 / 4, 0, 0])
    # In the third row even embeddings and KV are too much for second 2.
    assert found.refused == pytest.approx([0, 0, 4 * 2 / 4])
    assert found.quality.tolist() == [0, 0, 0]
    assert found.after[:, 0].tolist() == [210, 300, 110], "110 bytes fit once the KV cache is gone"
    assert found.used_bytes.tolist() == [460, 520, 520]
    assert found.reason.tolist() == [Reason.REPAIRED, Reason.POLICY, Reason.POLICY]

    told = replace(world, notice_s=1)
    again = played(rival_rules.weight_streaming(told), range(3))
    assert again.emergency.tolist() == [0, 0, 0]
    assert again.stall[0] == pytest.approx(4 * (slow + slow + 2 * slower) / 4)


def test_a_static_format_by_hand(toy_story: Scenario) -> None:
    log = rivals.played(toy_story, rivals.rival("int8"), "test", 0.25)
    # A number takes one byte, and two more go with each output channel; embeddings take 100.
    attention, ffn = 3 * (5 + 2) + (5 + 5 * 2), 2 * (10 + 2 * 2) + (10 + 5 * 2)
    assert (attention, ffn) == (36, 48)
    rows = scenarios_worlds.world(toy_story, "test").rows
    lanes, count = toy_story.offsets, len(rows)
    for lane in range(lanes):
        for row in range(count):
            need = (
                100
                + 3 * (attention + ffn)
                + 12 * int(rows.prompt_tokens[row] + rows.reserved_tokens[row])
            )
            limit = rows.limit_bytes[(row + lane * count // lanes) % count]
            fits = np.logical_and.accumulate(need <= limit)
            assert log.refused[row, lane] == pytest.approx(CEILING * (~fits).mean())
            lost = log.stall[row, lane] / CEILING
            assert log.quality[row, lane] == pytest.approx(0.25 * (fits.mean() - lost))
            assert log.used_bytes[row, lane] == (need if fits[0] else 0)


# Plain loops, written from the rules' docstrings; they share no code with them.


@dataclass
class Row:
    """Seconds of a row by what became of its tokens: they add up to W."""

    served: float = 0.0
    stall: float = 0.0
    emergency: float = 0.0
    refused: float = 0.0


def plain_admission(
    world: World, batch: list[Request], limits: list[int], loaded: set[int]
) -> tuple[Row, set[int]]:
    foot, found = world.footprint, Row()
    weights = [foot.ffn_bytes if b % 2 else foot.attention_bytes for b in range(world.blocks)]
    tokens = sum(r[2] for r in batch)

    def need(admitted: list[Request]) -> int:
        prompt = sum(r[0] for r in admitted)
        held = prompt + sum(r[1] for r in admitted)
        activations = ceil(foot.activation_bytes_per_token * prompt)
        fixed = foot.fixed_bytes + activations + foot.margin_bytes
        return (
            fixed
            + sum(weights)
            + foot.layers * ceil(foot.model_kv_token_bytes * held / foot.layers)
        )

    admitted, left = list(batch), 0.0
    for second, limit in enumerate(limits):
        before = len(admitted)
        while admitted and need(admitted) > limit:
            admitted.pop()
        if need(admitted) > limit:
            found.refused += len(limits) - second
            loaded = set(range(world.blocks)) if second else set(loaded)
            room = min(limits[second:]) - foot.fixed_bytes - foot.margin_bytes
            return found, without_the_last(loaded, weights, room)
        if second == 0:
            missing = sum(weights[b] for b in range(world.blocks) if b not in loaded)
            left = missing / world.restore_bytes_per_s
        share = sum(r[2] for r in admitted) / tokens if tokens else 1.0
        found.refused += 1 - share
        lost = 0.0
        if second and len(admitted) < before and not world.notice_s:
            lost = min(world.reaction_s, 1.0)
        found.emergency += share * lost
        wait = min(left, 1.0 - lost)
        left -= wait
        found.stall += share * wait
        found.served += share * (1 - lost - wait)
    return found, set(range(world.blocks))


def without_the_last(loaded: set[int], weights: list[int], room: int) -> set[int]:
    """The last blocks go until the others fit; then those return that still do."""
    kept, gone = set(loaded), []
    while kept and sum(weights[b] for b in kept) > room:
        gone.append(max(kept))
        kept.remove(gone[-1])
    for block in reversed(gone):
        if sum(weights[b] for b in kept) + weights[block] <= room:
            kept.add(block)
    return kept


def plain_streaming(world: World, row: int, limits: list[int], loaded: int) -> tuple[Row, int]:
    foot, rows, found = world.footprint, world.rows, Row()
    weights = foot.layers * (foot.attention_bytes + foot.ffn_bytes)
    prompt, reserved = int(rows.prompt_tokens[row]), int(rows.reserved_tokens[row])
    fixed = foot.fixed_bytes + foot.margin_bytes
    kv = foot.layers * ceil(foot.model_kv_token_bytes * (prompt + reserved) / foot.layers)
    kv += ceil(foot.activation_bytes_per_token * prompt)
    left = 0.0
    for second, limit in enumerate(limits):
        if fixed + kv > limit:
            found.refused += len(limits) - second
            return found, max(0, min(loaded, min(limits[second:]) - fixed))
        room = min(limit - fixed - kv, weights)
        falls = second > 0 and room < loaded
        if second == 0:
            left = max(room - loaded, 0) / world.restore_bytes_per_s
            loaded = room
        loaded = min(loaded, room)
        lost = min(world.reaction_s, 1.0) if falls and not world.notice_s else 0.0
        found.emergency += lost
        wait = min(left, 1.0 - lost)
        left -= wait
        reading = (weights - loaded) / world.restore_bytes_per_s
        answered = (1 - lost - wait) * 0.03 / (0.03 + reading)
        found.served += answered
        found.stall += 1 - lost - answered
    return found, loaded


@dataclass(frozen=True)
class Case:
    world: World
    batches: list[list[Request]]
    row: IntArray  # [T, B]
    limit_row: IntArray  # [T, B]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    world = draw(worlds())
    request = st.tuples(st.integers(0, 6), st.integers(0, 4), st.integers(0, 9))
    rows, lanes, steps = len(world.rows), draw(st.integers(1, 3)), draw(st.integers(1, 6))
    batches = [draw(st.lists(request, max_size=3)) for _ in range(rows)]
    starts = [np.array(draw(int_rows(0, rows - 1, lanes))) for _ in range(2)]
    row, limit_row = ((start + np.arange(steps)[:, None]) % rows for start in starts)
    limits = np.array(draw(st.lists(
        st.lists(st.one_of(st.integers(90, 700), st.sampled_from([399, 400, 460, 520])),
                 min_size=world.window_s, max_size=world.window_s),
        min_size=rows, max_size=rows)))  # fmt: skip
    return Case(replace(world, rows=rows_of(batches, limits)), batches, row, limit_row)


def assert_same(found: Played, i: int, plain: Row, world: World) -> None:
    price = world.ceiling / world.window_s
    for name in ("stall", "emergency", "refused"):
        assert getattr(found, name)[i] == pytest.approx(price * getattr(plain, name)), name
    spent = plain.served + plain.stall + plain.emergency + plain.refused
    assert spent == pytest.approx(world.window_s), "every second counts once"


@given(cases())
def test_partial_admission_equals_a_plain_loop(case: Case) -> None:
    world, lanes = case.world, case.row.shape[1]
    rule = rival_rules.partial_admission(world, table_of(world, case.batches), nll=0.3)
    found = rival_rules.in_turn(rule, case.row, case.limit_row)
    for lane in range(lanes):
        loaded = set(range(world.blocks))
        for step, (row, turned) in enumerate(
            zip(case.row[:, lane], case.limit_row[:, lane], strict=True)
        ):
            limits = world.rows.limit_bytes[turned].tolist()
            plain, loaded = plain_admission(world, case.batches[row], limits, loaded)
            assert_same(found, step * lanes + lane, plain, world)
            quality = found.quality[step * lanes + lane]
            assert quality == pytest.approx(0.3 * plain.served / world.window_s)
            assert set(np.flatnonzero(found.after[step * lanes + lane])) == loaded


@given(cases())
def test_weight_streaming_equals_a_plain_loop(case: Case) -> None:
    world, lanes = case.world, case.row.shape[1]
    rule = rival_rules.weight_streaming(world, nll=0.3)
    found = rival_rules.in_turn(rule, case.row, case.limit_row)
    for lane in range(lanes):
        loaded = int(world.footprint.weights.sum())
        for step, (row, turned) in enumerate(
            zip(case.row[:, lane], case.limit_row[:, lane], strict=True)
        ):
            limits = world.rows.limit_bytes[turned].tolist()
            plain, loaded = plain_streaming(world, int(row), limits, loaded)
            assert_same(found, step * lanes + lane, plain, world)
            quality = found.quality[step * lanes + lane]
            assert quality == pytest.approx(0.3 * plain.served / world.window_s)
            assert found.after[step * lanes + lane, 0] == loaded


@given(cases(), st.floats(-0.5, 5))
def test_a_static_format_equals_the_plain_row_of_a_policy_that_refuses(
    case: Case, nll: float
) -> None:
    whole = frozenset(range(6))
    world = rivals.whole_world(case.world, case.world.footprint, nll)
    lanes = case.row.shape[1]
    found = rival_rules.in_turn(rival_rules.static(world), case.row, case.limit_row)
    plainly = model.PlainWorld.of(world)
    for lane in range(lanes):
        loaded = whole
        for step, (row, turned) in enumerate(
            zip(case.row[:, lane], case.limit_row[:, lane], strict=True)
        ):
            plain = model.serve(plainly, loaded, whole, int(row), int(turned), 1.0, strict=True)
            i, loaded = step * lanes + lane, plain.kept_end
            weight = int(world.rows.output_tokens[row]) / world.mean_output_tokens
            for name, term in plain.terms.items():
                assert weight * getattr(found, name)[i] == pytest.approx(term), name
            assert frozenset(np.flatnonzero(found.after[i]).tolist()) == loaded
            assert found.used_bytes[i] == plain.used_bytes


def model_of(world: World) -> Any:
    """A shape of as many layers; the case's own footprint replaces what follows from the rest."""
    return replace(model_spec("smollm2-135m"), layers=world.footprint.layers)


@given(cases())
def test_admitting_everybody_is_keeping_every_block(case: Case) -> None:
    """Where dense fits in every second, partial admission is the simulator's row of all blocks."""
    world = case.world
    rule = rival_rules.partial_admission(world, table_of(world, case.batches))
    row, limit_row = case.row.ravel(), case.limit_row.ravel()
    before = np.arange(len(row) * world.blocks).reshape(len(row), -1) % 5 != 0
    found = rule.play(row, limit_row, before)
    whole = np.ones_like(before)
    _, dense = simulator.step(world, world.state(row, limit_row, loaded=before), whole)
    asked = world.demand_of(row, np.ones(len(row)))
    need = world.footprint.used_bytes(whole, asked.tokens, asked.prompt_tokens)
    fits = need + world.footprint.margin_bytes <= world.rows.limit_bytes[limit_row].min(axis=1)
    weight = dense.output_tokens / world.mean_output_tokens
    total = found.quality + found.stall + found.emergency + found.refused
    assert (weight * total)[fits] == pytest.approx(dense.terms.total[fits])
    assert (found.after == whole)[fits].all()


# On whole scenarios.


@pytest.fixture(params=["toy", "chat-beside-code", "alone"])
def story(request: pytest.FixtureRequest) -> Scenario:
    if request.param == "toy":
        found: Scenario = request.getfixturevalue("toy_story")
        return found
    request.getfixturevalue("shaped")
    return stories.alone() if request.param == "alone" else catalogue.scenario(request.param)


def total(log: EpisodeLog) -> Any:
    return log.quality + log.stall + log.emergency + log.refused


@pytest.mark.parametrize("rival", WHOLE, ids=lambda rival: rival.name)
def test_terms_add_up_to_a_cost_between_zero_and_the_ceiling(story: Scenario, rival: Rival) -> None:
    log, world = rivals.played(story, rival, "test", 0.1), scenarios_worlds.world(story, "test")
    assert log.row.shape == (len(world.rows), story.offsets)
    for name in ("quality", "stall", "emergency", "refused"):
        assert (getattr(log, name) >= 0).all()
    assert (total(log) <= world.ceiling + 1e-12).all()
    assert log.cost == pytest.approx(total(log))
    assert 0 < log.mean_cost < world.ceiling or rival.rule != "static"
    assert set(np.unique(log.reason)) <= {Reason.POLICY, Reason.REPAIRED, Reason.REFUSED}
    assert (log.used_bytes + world.footprint.margin_bytes <= log.limit_bytes)[
        log.reason != Reason.REFUSED
    ].all()


def test_rows_and_pairings_are_those_of_the_policies(story: Scenario) -> None:
    world = scenarios_worlds.world(story, "test")
    start = rollout.whole_split(world, story.offsets)
    for rival in WHOLE:
        log = rivals.played(story, rival, "test", 0.1)
        assert (log.row == np.arange(len(world.rows))[:, None]).all()
        offsets = np.array([each.offset for each in start])
        assert (log.limit_row == (log.row + offsets) % len(world.rows)).all()
        assert (log.limit_bytes == world.rows.limit_bytes[log.limit_row][..., 0]).all()
        assert (log.output_tokens == world.rows.output_tokens[log.row]).all()


def test_a_smaller_format_is_never_refused_where_a_larger_fits(story: Scenario) -> None:
    by_name = {
        rival.name: rivals.played(story, rival, "test", 0.1).refused for rival in (DENSE, *STATIC)
    }
    for smaller, larger in (
        ("int8", "bf16"),
        ("int4", "int8"),
        ("int4-int8-kv", "int4"),
        ("int4-int8-kv", "int8-kv"),
        ("int8-int8-kv", "int8"),
        ("int8-int8-kv", "int8-kv"),
    ):
        if story.table != "toy":  # heads of one number: scales outweigh what int8 KV saves
            assert (by_name[smaller] <= by_name[larger]).all(), (smaller, larger)
    assert (by_name["int4"] <= by_name["bf16"]).all()
    assert (by_name["bf16"] > 0).any(), "else nothing was tried"


def test_admitting_a_part_refuses_no_more_than_refusing_the_batch(story: Scenario) -> None:
    for rival in STATIC:
        whole = rivals.played(story, rival, "test", 0.1)
        part = rivals.played(story, rivals.rival(f"{rival.name}-admission"), "test", 0.1)
        assert (part.refused <= whole.refused + 1e-9).all(), rival.name


def test_static_dense_is_the_policy_that_keeps_every_block_and_refuses(
    shaped: QualityTable,
) -> None:
    """But for the floor that a policy falls back to: the scenario never evicts dense weights."""
    story = stories.alone()
    world = scenarios_worlds.world(story, "test")
    whole = np.ones((1, world.blocks), dtype=bool)
    log = rivals.played(story, DENSE, "test", 0.0)
    assert log.kept_end.all()
    cost = rollout_tuning.fixed_sets_cost(world, whole, refuses_misfit=True, offsets=story.offsets)
    assert log.mean_cost == pytest.approx(cost[0])


def test_partial_admission_counts_a_whole_batch_as_the_row_does(story: Scenario) -> None:
    """Scaled and rounded alike: dense bytes of all requests are those of the row."""
    world, log = (
        scenarios_worlds.world(story, "test"),
        rivals.played(story, rivals.rival("partial-admission"), "test", 0.0),
    )
    asked = world.demand_of(log.row, np.ones(log.row.shape))
    need = world.footprint.used_bytes(log.kept, asked.tokens, asked.prompt_tokens)
    fits = need + world.footprint.margin_bytes <= log.limit_bytes
    assert (fits == (log.reason == Reason.POLICY)).all()
    assert (log.used_bytes == need)[fits].all()
    assert fits.any()
    assert not fits.all()


def test_partial_admission_reads_the_single_requests_of_its_split(toy_story: Scenario) -> None:
    world = scenarios_worlds.world(toy_story, "train")
    log = rivals.played(toy_story, rivals.rival("partial-admission"), "train", 0.0)
    whole = toy_series()
    for lane in range(toy_story.offsets):
        loaded = set(range(world.blocks))
        for row in range(len(world.rows)):
            batch = [
                (int(prompt), whole.reserve_tokens, int(output))
                for prompt, _, output in (r.partition("/") for r in whole.requests[row].split())
            ]
            limits = world.rows.limit_bytes[log.limit_row[row, lane]].tolist()
            plain, loaded = plain_admission(world, batch, limits, loaded)
            assert log.refused[row, lane] == pytest.approx(CEILING * plain.refused / 4)
            assert log.emergency[row, lane] == pytest.approx(CEILING * plain.emergency / 4)
            assert log.stall[row, lane] == pytest.approx(CEILING * plain.stall / 4)
            assert set(np.flatnonzero(log.kept_end[row, lane])) == loaded
    assert (log.stall > 0).any()
    assert (log.emergency > 0).any()


def test_formats_cost_what_each_text_says(
    toy_story: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def format_nll(table: QualityTable, form: Format, split: str, domain: str | None) -> float:
        if form == BF16:
            return 0.0
        asked.append((form, split, domain))
        return {"calib": 0.25, "test": 0.5}[split]

    monkeypatch.setattr(QualityTable, "format_nll", format_nll, raising=False)
    int4 = rivals.rival("int4")
    told, judged = (rivals.log(toy_story, int4, "test", text) for text in ("calib", "test"))
    assert asked == [(Format("int4"), "calib", None), (Format("int4"), "test", None)]
    assert judged.quality == pytest.approx(2 * told.quality)
    assert (told.nll == 0.25).all()
    assert (judged.nll == 0.5).all()
    assert (told.refused == judged.refused).all()
    for name in ("partial-admission", "weight-streaming"):
        log = rivals.played(toy_story, rivals.rival(name), "test", 0.0)
        assert (log.quality == 0).all(), "dense"


def test_the_cost_in_the_served_models_own_bytes(shaped: QualityTable) -> None:
    story, int8 = catalogue.scenario("chat-beside-code"), rivals.rival("int8")
    model, whole = model_spec("llama2-7b"), scenarios_worlds.workload(story)
    part = whole.part(series.split_rows(len(whole), "test"))
    tokens = part.prompt_tokens + part.batch * part.reserve_tokens
    need = memory.weight_bytes(model, Format("int8")) + 512 * 1024 * tokens
    limit = 44 * 2**30 - memory.weight_bytes(model) - 512 * 1024 * part.tenant_tokens
    assert limit.min() > memory.weight_bytes(model, Format("int8")), "weights are never evicted"
    ceiling, cost, rows = scenarios_worlds.world(story, "test").ceiling, 0.0, len(part)
    for k in range(16):
        turned = limit[(np.arange(rows) + k * rows // 16) % rows]
        served = np.logical_and.accumulate(need[:, None] <= turned, axis=1).mean(axis=1)
        cost += ((ceiling * (1 - served) + 0.2 * served) * part.output_tokens).sum()
    expected = cost / (16 * part.output_tokens.sum())
    found = rivals.played(story, int8, "test", 0.2).mean_cost
    assert found == pytest.approx(expected)


def test_there_are_rivals_of_every_rule() -> None:
    """Tests above go through those of a rule: of none they would say nothing."""
    rules = {rival.rule for rival in RIVALS}
    assert rules == {"static", "partial-admission", "weight-streaming", "pruned"}


def test_an_unknown_rival_is_refused_by_name() -> None:
    assert [rivals.rival(rival.name) for rival in RIVALS] == [*RIVALS]
    with pytest.raises(
        InvalidSpec, match="int4-int8-kv-admission, partial-admission, weight-streaming"
    ):
        rivals.rival("int2")
