"""Observations: every entry documented, read back exactly, finite, and blind to the future."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_table import kept_without
from toy_world import CARD_BYTES, FOOTPRINT, WINDOW_S, lanes_at, toy_rows, toy_world, with_rows
from worlds import worlds

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.scenarios.catalogue import by_default
from rapgym.scenarios.lanes import Lanes, Start
from rapgym.scenarios.story import Scenario, Split
from rapgym.world import encoding
from rapgym.world.encoding import HISTORY, LARGEST, Layout
from rapgym.world.records import Rows, State, World


def layout_of(world: World, *, small_steps: bool = False) -> Layout:
    return encoding.layout(world, card_bytes=CARD_BYTES, small_steps=small_steps)


def observed(world: World, state: State, age: int, so_far: BoolArray | None = None) -> FloatArray:
    where = layout_of(world, small_steps=so_far is not None)
    ages = np.full(state.lanes, age)
    importance = (
        None if so_far is None else np.tile(np.linspace(0, 1, world.blocks), (state.lanes, 1))
    )
    return encoding.observe(world, where, encoding.visible(world, state, ages), so_far, importance)


@pytest.mark.parametrize("notice_s", [0, 1, 3, 4, 7, 8, 11])
@pytest.mark.parametrize("small_steps", [False, True])
def test_every_entry_belongs_to_one_documented_part(notice_s: int, small_steps: bool) -> None:
    world = toy_world(toy_rows([5] * 3, [[460] * 4] * 3), notice_s=notice_s)
    where = layout_of(world, small_steps=small_steps)
    names = [part.name for part in where.parts]
    assert len({*names}) == len(names)
    assert all(len(part.meaning) > 15 for part in where.parts)
    entries = [i for name in names for i in range(where.size)[where.slice_of(name)]]
    assert entries == list(range(where.size)), "the parts tile the observation, in their order"
    so_far = np.ones((2, 6), dtype=bool) if small_steps else None
    state = lanes_at(world, [0, 0], [0, 2])
    seen = observed(world, state, 0, so_far)
    assert seen.shape == (2, where.size)
    assert seen.dtype == np.float32
    with pytest.raises(KeyError):
        where.slice_of("future")


def test_headroom_is_what_a_margin_leaves() -> None:
    """3 tokens: dense takes 436 of the 500 bytes, and 30 are kept free; the card has 1000."""
    world = toy_world(toy_rows([3], [[500] * 4]))
    world = replace(world, footprint=replace(world.footprint, margin_bytes=30))
    where = layout_of(world, small_steps=True)
    seen = observed(world, world.state(np.array([0]), np.array([0])), 0, np.ones((1, 6), bool))[0]
    for name in ("headroom_dense", "headroom_loaded", "headroom_so_far"):
        assert seen[where.slice_of(name)] == pytest.approx((500 - 436 - 30) / 1000)


def test_an_observation_by_hand() -> None:
    # Third row of an episode; the tenant is one row ahead. 7 tokens: attention 68, dense 484.
    rows = Rows(
        batch=np.array([1, 2, 3, 4]),
        prompt_tokens=np.array([4, 1, 5, 9]),
        reserved_tokens=np.array([1, 2, 2, 9]),
        longest_tokens=np.array([5, 2, 4, 9]),
        output_tokens=np.array([1, 1, 1, 1]),
        limit_bytes=np.arange(16).reshape(4, 4) * 10 + 400,
    )
    world = toy_world(rows, notice_s=1)
    loaded = kept_without(2, 5)
    state = world.state(np.array([2]), np.array([3]), loaded=loaded[None])
    so_far = kept_without(4)
    where = layout_of(world, small_steps=True)
    seen = observed(world, state, 2, so_far[None])[0]
    unit = CARD_BYTES // (3 * 4)  # tokens of dense KV that fill the card
    assert where.token_unit == unit

    def part(name: str) -> FloatArray:
        return np.asarray(seen[where.slice_of(name)])

    expected: dict[str, object] = {
        "batch": 3 / 64,
        "prompt_tokens": 5 / unit,
        "reserved_tokens": 2 / unit,
        "longest_tokens": 4 / unit,
        "kv_share": 3 * 7 * 4 / 484,
        "limit": [0.520, 0.530],  # second 0 of tenant row 3, and the announced one
        # Six rows of before the episode repeat the limit now; then tenant rows 1 and 2.
        "recent_limit": [0.520] * 24 + [0.44, 0.45, 0.46, 0.47, 0.48, 0.49, 0.50, 0.51],
        "recent_demand": [3 / 64, 5 / unit, 2 / unit] * 6
        + [1 / 64, 4 / unit, 1 / unit, 2 / 64, 1 / unit, 2 / unit],
        "loaded": loaded,
        "headroom_dense": (520 - 484) / 1000,
        "headroom_loaded": (520 - (484 - 68 - 60)) / 1000,
        "so_far": so_far,
        "headroom_so_far": (520 - (484 - 68)) / 1000,
        "importance": np.linspace(0, 1, 6),
    }
    assert [*expected] == [p.name for p in where.parts], "nothing more is seen"
    for name, value in expected.items():
        assert part(name) == pytest.approx(
            np.atleast_1d(np.asarray(value, float)), rel=2e-7, abs=1e-7
        ), name


@given(worlds(), st.data())
def test_reading_gives_back_tokens_and_never_more_memory_than_there_is(
    world: World, data: st.DataObject
) -> None:
    rows = len(world.rows)
    at = np.array(data.draw(st.lists(st.integers(0, rows - 1), min_size=2, max_size=2)))
    loaded = np.array(data.draw(st.lists(st.booleans(), min_size=12, max_size=12))).reshape(2, 6)
    state = world.state(at, at[::-1].copy(), np.array([0.9, 1.1]), loaded)
    age = data.draw(st.integers(0, 10))
    seen = encoding.visible(world, state, np.full(2, age))
    found = encoding.read(layout_of(world), observed(world, state, age))
    asked = world.demand(state)
    for name in ("batch", "prompt_tokens", "reserved_tokens", "longest_tokens", "tokens"):
        assert (getattr(found, name) == getattr(asked, name)).all(), name
    assert (found.loaded == loaded).all()
    for read, true in (
        (found.limit_bytes, seen.limit_bytes[:, 0]),
        (found.announced_limit_bytes, seen.limit_bytes[:, 1:]),
        (found.recent_limit_bytes, seen.recent_limit_bytes.reshape(2, -1)),
    ):
        assert (read <= true).all()
        assert (read >= true - 1 - 1e-6 * np.abs(true)).all()


@given(
    st.integers(1, 2**50), st.lists(st.integers(-(2**50), 2**50), min_size=1, max_size=8),
    st.lists(st.integers(0, 10**6), min_size=1, max_size=8),
)  # fmt: skip
def test_reading_is_exact_at_any_size_of_card(
    card: int, limits: list[int], tokens: list[int]
) -> None:
    """As far as a limit is within 64 cards, and a batch within 64 cards' tokens, as all are."""
    limit = np.array(limits)[:, None] % card  # 0 <= limit < card
    shared = np.resize(np.array(tokens), len(limits))
    world = toy_world(
        Rows(shared * 0 + 1, shared, shared, 2 * shared, shared * 0, limit),
        footprint=replace(FOOTPRINT, model_kv_token_bytes=FOOTPRINT.layers),
    )
    where = replace(layout_of(world), card_bytes=card, token_unit=max(1, 10**6))
    state = lanes_at(world, range(len(limit)))
    seen = encoding.visible(world, state, np.zeros(len(limit), dtype=np.int64))
    found = encoding.read(where, encoding.observe(world, where, seen))
    assert (found.prompt_tokens == shared).all()
    assert (found.longest_tokens == 2 * shared).all()
    true = limit[:, 0]
    assert (found.limit_bytes <= true).all()
    assert (found.limit_bytes >= true - 1 - 1e-6 * true).all()


def changed_future(world: World, row: int, limit_row: int, age: int, fill: int) -> World:
    """Every number that is not known when lane (row, limit_row) of this age decides is another."""
    rows, total = world.rows, len(world.rows)
    known = [(row - back) % total for back in range(min(age, HISTORY) + 1)]
    demand_known = np.isin(np.arange(total), known)
    limit_known = np.zeros_like(rows.limit_bytes, dtype=bool)
    for back in range(1, min(age, HISTORY) + 1):
        limit_known[(limit_row - back) % total] = True
    for second in range(1 + world.notice_s):  # now, and what is announced
        ahead, at = divmod(second, world.window_s)
        limit_known[(limit_row + ahead) % total, at] = True

    def other(name: str) -> IntArray:
        return np.where(demand_known, getattr(rows, name), fill)

    return with_rows(
        world,
        batch=other("batch"),
        prompt_tokens=other("prompt_tokens"),
        reserved_tokens=other("reserved_tokens"),
        longest_tokens=other("longest_tokens"),
        output_tokens=np.full(total, fill),
        limit_bytes=np.where(limit_known, rows.limit_bytes, 7 * fill),
    )


@given(worlds(most_rows=5), st.integers(0, 4), st.integers(0, 4), st.integers(0, 4), st.booleans())
@settings(max_examples=100)
def test_nothing_of_the_future_is_seen(
    world: World, row: int, limit_row: int, age: int, small_steps: bool
) -> None:
    total = len(world.rows)
    row, limit_row, age = row % total, limit_row % total, min(age, total - 1)
    loaded = kept_without(3)[None]
    state = world.state(np.array([row]), np.array([limit_row]), np.array([1.1]), loaded)
    so_far = kept_without(2)[None] if small_steps else None
    before = observed(world, state, age, so_far)
    for fill in (0, 1, 93):
        other = changed_future(world, row, limit_row, age, fill)
        assert observed(other, state, age, so_far).tobytes() == before.tobytes()


def test_what_is_known_is_seen() -> None:
    """The test above would pass an observation that sees nothing: each known number matters."""
    rng = np.random.default_rng(0)
    total = HISTORY + 2
    rows = Rows(
        batch=rng.integers(1, 9, total),
        prompt_tokens=rng.integers(1, 9, total),
        reserved_tokens=rng.integers(1, 9, total),
        longest_tokens=rng.integers(1, 9, total),
        output_tokens=rng.integers(1, 9, total),
        limit_bytes=rng.integers(300, 600, (total, WINDOW_S)),
    )
    world = toy_world(rows)
    state = world.state(np.array([HISTORY]), np.array([HISTORY]), loaded=kept_without()[None])
    before = observed(world, state, HISTORY)
    for row in range(HISTORY + 1):
        for name in ("batch", "prompt_tokens", "reserved_tokens"):
            column = getattr(rows, name).copy()
            column[row] += 1
            other = with_rows(world, **{name: column})
            assert observed(other, state, HISTORY).tobytes() != before.tobytes(), (name, row)
        for second in range(WINDOW_S if row < HISTORY else 1):
            limit = rows.limit_bytes.copy()
            limit[row, second] -= 1
            other = with_rows(world, limit_bytes=limit)
            assert observed(other, state, HISTORY).tobytes() != before.tobytes(), (row, second)


@given(worlds(), st.integers(1, 10**9))
def test_observations_are_finite_and_within_bounds_whatever_is_asked(
    world: World, many: int
) -> None:
    rows = replace(
        world.rows,
        batch=world.rows.batch * many,
        prompt_tokens=world.rows.prompt_tokens * many,
        limit_bytes=world.rows.limit_bytes * (many if many % 2 else -many),
    )
    state = lanes_at(world, [0])
    seen = observed(replace(world, rows=rows), state, 3, np.ones((1, 6), dtype=bool))
    assert np.isfinite(seen).all()
    assert (np.abs(seen) <= LARGEST).all()


@pytest.mark.parametrize("story", by_default(), ids=lambda story: story.name)
@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.usefixtures("shaped")
def test_no_scenario_comes_near_the_bounds(story: Scenario, split: Split) -> None:
    lanes = Lanes(story, split, 1)
    rows = len(lanes.world.rows)
    assert rows > 40
    for row in range(0, rows, max(1, rows // 200)):
        lanes.restart(0, Start(row, 0, 1.1, 64))
        seen = lanes.observe()
        assert np.abs(seen).max() < LARGEST / 4
        found = encoding.read(lanes.layout, seen)
        assert found.tokens[0] == lanes.world.demand(lanes.state).tokens[0]
        true = lanes.world.rows.limit_bytes[row, 0]
        assert true - 1 - 1e-6 * true <= found.limit_bytes[0] <= true
