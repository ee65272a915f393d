"""How long a request stays in memory, and how many tokens a queued service holds each second."""

import heapq

import numpy as np

from rapgym.arrays import FloatArray, IntArray
from rapgym.errors import InvalidSpec

PREFILL_S_PER_TOKEN = 0.0002
DECODE_S_PER_TOKEN = 0.030
LONGEST_P99_WAIT_S = 60.0


def residence_s(prompt_tokens: IntArray, output_tokens: IntArray) -> FloatArray:
    """Seconds from a request's admission to its last token: prefill, then one step a token."""
    return PREFILL_S_PER_TOKEN * prompt_tokens + DECODE_S_PER_TOKEN * output_tokens


def window_s(prompt_tokens: IntArray, output_tokens: IntArray) -> int:
    """W: mean residence weighted by the tokens that reside, in whole seconds, at least 1.

    With windows of this length a window's batch holds as many tokens as are in flight on average
    (Little's law, weighted by tokens).
    """
    tokens = prompt_tokens + output_tokens
    stay = residence_s(prompt_tokens, output_tokens)
    return max(1, int(np.rint((stay * tokens).sum() / max(tokens.sum(), 1))))


def reserve_tokens(output_tokens: IntArray) -> int:
    """Output tokens that are reserved for a request: the 95th percentile, an observed value."""
    return int(np.percentile(output_tokens, 95, method="higher"))


def tenant_tokens(
    arrival_s: FloatArray,
    tokens: IntArray,
    stay_s: FloatArray,
    pool_tokens: int,
    start_s: float,
    seconds: int,
) -> IntArray:
    """Tokens that a service holds in each second, behind a first-come-first-served queue.

    A request holds all its tokens from its admission until it leaves; it is admitted when they
    fit into the pool beside those already there, and nobody overtakes. One that is larger than
    the pool is skipped.

    Args:
        arrival_s, tokens, stay_s: of each request, ascending arrivals, [R].
        start_s, seconds: seconds [start_s + k, start_s + k + 1), k < seconds, are asked for; the
            queue itself runs over all requests.

    Returns:
        int64 [seconds]: the highest number at any instant of each second, never above the pool.

    Raises:
        InvalidSpec: the 99th percentile of waiting is above 60 s: the pool is too small.
    """
    fitting = tokens <= pool_tokens
    arrival_s, tokens, stay_s = arrival_s[fitting], tokens[fitting], stay_s[fitting]
    admit_s = _admitted(arrival_s, tokens, stay_s, pool_tokens)
    waits = admit_s - arrival_s
    if len(waits) and np.percentile(waits, 99) > LONGEST_P99_WAIT_S:
        raise InvalidSpec(
            f"the tenant's requests wait {np.percentile(waits, 99):.0f} s (99th percentile) for a "
            f"pool of {pool_tokens} tokens; enlarge the pool or take every k-th request"
        )
    return _highest_each_second(admit_s, admit_s + stay_s, tokens, start_s, seconds)


def _admitted(
    arrival_s: FloatArray, tokens: IntArray, stay_s: FloatArray, pool_tokens: int
) -> FloatArray:
    """When each request is admitted, [R]: at once, but behind a queue where the pool is full.

    The queue is played from each first request that does not fit to the first that finds none of
    those who waited: all others are told at once, so that ten million take seconds.
    """
    admit_s = arrival_s.copy()
    if not len(arrival_s):
        return admit_s
    leave_s = arrival_s + stay_s
    order = np.argsort(leave_s, kind="stable")
    left = np.append(0, np.cumsum(tokens[order]))
    gone = left[np.searchsorted(leave_s[order], arrival_s, side="right")]
    # If nobody ever waited: what is held once a request has entered.
    full = np.flatnonzero(np.cumsum(tokens) - gone > pool_tokens)
    longest_s, clear = float(stay_s.max()), 0
    while (at := int(np.searchsorted(full, clear))) < len(full):
        first = int(full[at])
        since = int(np.searchsorted(arrival_s, arrival_s[first] - longest_s))
        there = since + np.flatnonzero(leave_s[since:first] > arrival_s[first])
        clear = _queue(admit_s, arrival_s, tokens, stay_s, pool_tokens, first, there)
    return admit_s


def _queue(
    admit_s: FloatArray,
    arrival_s: FloatArray,
    tokens: IntArray,
    stay_s: FloatArray,
    pool_tokens: int,
    first: int,
    there: IntArray,
) -> int:
    """Admit requests from `first` on, those of `there` in the pool, until nobody waited of all inside.

    Returns:
        The first request that finds only such as did not wait; R where none does.
    """
    leaving = list(
        zip((arrival_s[there] + stay_s[there]).tolist(), tokens[there].tolist(), strict=True)
    )
    heapq.heapify(leaving)
    held, clock_s, waited_until_s = int(tokens[there].sum()), -np.inf, -np.inf
    request, count = first, len(arrival_s)
    while request < count:
        # In parts: of millions, Python's own numbers would take gigabytes.
        part = slice(request, request + 4096)
        for arrives, size, stays in zip(
            arrival_s[part].tolist(), tokens[part].tolist(), stay_s[part].tolist(), strict=True
        ):
            clock_s = max(clock_s, arrives)
            while leaving and (leaving[0][0] <= clock_s or held + size > pool_tokens):
                leaves, freed = heapq.heappop(leaving)
                clock_s = max(clock_s, leaves)
                held -= freed
            if clock_s == arrives and waited_until_s <= arrives and request > first:
                return request
            admit_s[request] = clock_s
            held += size
            heapq.heappush(leaving, (clock_s + stays, size))
            if clock_s > arrives:
                waited_until_s = max(waited_until_s, clock_s + stays)
            request += 1
    return count


def _highest_each_second(
    admit_s: FloatArray, leave_s: FloatArray, tokens: IntArray, start_s: float, seconds: int
) -> IntArray:
    times = np.concatenate([leave_s, admit_s])
    changes = np.concatenate([-tokens, tokens])
    order = np.argsort(times, kind="stable")  # who leaves at an instant makes room first
    times, levels = times[order], np.cumsum(changes[order])
    # Several changes at one instant are one: only the last level of it ever held.
    last = np.append(times[1:] != times[:-1], True) if len(times) else np.zeros(0, dtype=bool)
    times, levels = times[last], levels[last]
    edges = start_s + np.arange(seconds)
    highest = np.append(0, levels)[np.searchsorted(times, edges, side="right")]
    second = np.floor(times - start_s).astype(np.int64)
    inside = (second >= 0) & (second < seconds)
    np.maximum.at(highest, second[inside], levels[inside])
    return highest
