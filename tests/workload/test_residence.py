"""Residence, W, the reserve, and the tenant's queue: by hand and against a plain event simulation."""

from collections import deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapgym.errors import InvalidSpec
from rapgym.workload import residence


def test_residence_by_hand() -> None:
    # 1000 prompt tokens prefill in 0.2 s; 100 output tokens take 3 s.
    stay = residence.residence_s(np.array([1000, 0, 0]), np.array([100, 1, 0]))
    assert stay == pytest.approx([3.2, 0.03, 0.0])


def test_the_window_weighs_residence_by_tokens() -> None:
    # 100 tokens stay 3.0 s (prompt 0); 9,900 stay 1.98 s: 1.9902 s rounds to 2. Unweighted: 2.49.
    assert residence.window_s(np.array([0, 9900]), np.array([100, 0])) == 2
    assert residence.window_s(np.array([1]), np.array([0])) == 1, "at least a second"


def test_the_reserve_is_an_observed_output() -> None:
    assert residence.reserve_tokens(np.arange(1, 101)) == 96
    assert residence.reserve_tokens(np.array([5, 900])) == 900


def held(
    arrival_s: list[float],
    tokens: list[int],
    stay_s: list[float],
    pool: int,
    start: float,
    seconds: int,
) -> list[int]:
    found = residence.tenant_tokens(
        np.array(arrival_s),
        np.array(tokens, dtype=np.int64),
        np.array(stay_s),
        pool,
        start,
        seconds,
    )
    assert found.dtype == np.int64
    return [int(level) for level in found]


def test_a_queue_by_hand() -> None:
    # A pool of 10. At 0.5 A (6) comes for 2 s, at 0.75 B (5) must wait for A, at 1.0 C (1) would fit
    # beside A but may not overtake B. At 2.5 A leaves: B and C come in (6), B until 5.5, C until 3.0.
    arrivals, tokens, stays = [0.5, 0.75, 1.0], [6, 5, 1], [2.0, 3.0, 0.5]
    assert held(arrivals, tokens, stays, 10, 0.0, 7) == [6, 6, 6, 5, 5, 5, 0]
    # C leaves at 3.0, the very start of second 3: from then on there are 5.
    assert held(arrivals, tokens, stays, 10, 3.0, 1) == [5]


def test_the_highest_instant_of_a_second_counts() -> None:
    # 4 for a quarter second in the middle of second 1, and 9 for another in second 2.
    assert held([1.25, 2.5, 2.5], [4, 4, 5], [0.25] * 3, 9, 0.0, 4) == [0, 4, 9, 0]


def test_who_leaves_makes_room_at_that_instant() -> None:
    assert held([0.0, 1.0], [10, 10], [1.0, 1.0], 10, 0.0, 3) == [10, 10, 0]


def test_a_request_larger_than_the_pool_is_skipped_and_holds_nobody_up() -> None:
    assert held([0.0, 0.25, 0.5], [3, 11, 4], [2.0, 9.0, 1.0], 10, 0.0, 3) == [7, 7, 0]


def test_what_came_before_is_still_there() -> None:
    """The queue runs over the whole trace, whatever seconds are asked for."""
    arrivals, tokens, stays = [0.0, 0.0, 0.0], [6, 6, 6], [2.0, 2.0, 2.0]
    assert held(arrivals, tokens, stays, 6, 4.0, 3) == [6, 6, 0]


def test_no_tenant_request_holds_nothing() -> None:
    assert held([], [], [], 10, 0.0, 3) == [0, 0, 0]


def test_a_pool_that_is_too_small_is_refused() -> None:
    # Each waits for those before it: the last of 100 for 99 s; at 0.6 s each the 99th percentile of
    # waiting is under 60 s.
    requests = np.zeros(100), np.full(100, 7, dtype=np.int64)
    residence.tenant_tokens(*requests, np.full(100, 0.6), 10, 0.0, 1)
    with pytest.raises(InvalidSpec, match=r"wait 98 s.*enlarge the pool"):
        residence.tenant_tokens(*requests, np.full(100, 1.0), 10, 0.0, 1)


def plain_levels(
    arrivals: list[float], tokens: list[int], stays: list[float], pool: int
) -> list[tuple[float, int]]:
    """(time, level from then on), event by event: first leave, then queue, then admit in order."""
    coming = deque(sorted((a, i) for i, a in enumerate(arrivals) if tokens[i] <= pool))
    queue: deque[int] = deque()
    inside: list[tuple[float, int]] = []
    levels: list[tuple[float, int]] = []
    while coming or inside:
        now = min([coming[0][0]] if coming else [], default=np.inf)
        now = min([now, *(leaves for leaves, _ in inside)])
        inside = [(leaves, i) for leaves, i in inside if leaves > now]
        while coming and coming[0][0] == now:
            queue.append(coming.popleft()[1])
        while queue and sum(tokens[i] for _, i in inside) + tokens[queue[0]] <= pool:
            admitted = queue.popleft()
            inside.append((now + stays[admitted], admitted))
        levels.append((now, sum(tokens[i] for _, i in inside)))
    assert not queue
    return levels


@st.composite
def queues(draw: st.DrawFn) -> tuple[list[float], list[int], list[float], int]:
    count = draw(st.integers(0, 12))
    quarters = st.lists(st.integers(0, 40), min_size=count, max_size=count)
    arrivals = [q / 4 for q in sorted(draw(quarters))]  # exact, so that ties are ties
    tokens = draw(st.lists(st.integers(1, 12), min_size=count, max_size=count))
    stays = [(q + 1) / 4 for q in draw(quarters)]
    return arrivals, tokens, stays, draw(st.integers(0, 20))


@given(queues(), st.integers(-2, 20), st.integers(1, 30))
def test_the_queue_equals_a_plain_event_simulation(
    queue: tuple[list[float], list[int], list[float], int], start_quarters: int, seconds: int
) -> None:
    arrivals, tokens, stays, pool = queue
    levels, start = plain_levels(arrivals, tokens, stays, pool), start_quarters / 4
    try:
        found = held(arrivals, tokens, stays, pool, start, seconds)
    except InvalidSpec:  # waits of more than 60 s
        assert max(time for time, _ in levels) > 60
        return
    for second, level in enumerate(found):
        begin, end = start + second, start + second + 1
        before = [value for time, value in levels if time <= begin][-1:]
        during = [value for time, value in levels if begin <= time < end]
        assert level == max([0, *before, *during])
        assert level <= pool, "never above the pool"


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(1, 12), st.integers(1, 6)), min_size=1, max_size=60
    )
)
def test_the_queue_admits_as_one_that_is_played_from_the_start(
    requests: list[tuple[int, int, int]],
) -> None:
    """Most of a long trace is not played: what waits is admitted at the same instants all the same."""
    waits, tokens, stays = (np.array(column) for column in zip(*requests, strict=True))
    arrival_s, stay_s, pool = np.cumsum(waits) / 2.0, stays / 2.0, 12
    leaving: list[tuple[float, int]] = []
    clock_s, wanted = 0.0, []
    for arrives, size, stay in zip(arrival_s, tokens, stay_s, strict=True):
        clock_s = max(clock_s, arrives)
        leaving = sorted(each for each in leaving if each[0] > clock_s)
        while sum(held for _, held in leaving) + size > pool:
            clock_s = leaving.pop(0)[0]
        leaving = sorted([*(each for each in leaving if each[0] > clock_s), (clock_s + stay, size)])
        wanted.append(clock_s)
    assert residence._admitted(arrival_s, tokens, stay_s, pool).tolist() == wanted
