"""Many lanes of the compiled engine, second by second: one compiled loop serves, accounts and observes.

A lane is a world, an engine's state and a book: what has been charged so far. Lanes may serve different
scenarios, as long as they have as many blocks to drop.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numba.typed import List
from numpy.typing import NDArray

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.files import checked, places
from rapgym.files.compiled import compiled, inner
from rapgym.serving import kernel, sight
from rapgym.serving.card import ATTENTION, FFN
from rapgym.serving.kernel import Lane, World
from rapgym.serving.sight import AGES_S, HIGHEST, STEPS_A_SECOND, WIDTH
from rapgym.serving.world import BACK_S, Part, ServeWorld

DRAIN_S = 600.0  # for which what is in flight at the end is served on; what is left then costs C

# What one second did, and how it left the engine: columns of a record, float64 [B, K].
WHOLE = ("arrived", "tokens", "on_time_tokens", "shed_tokens", "lost_tokens", "first_tokens",
         "finished", "paced", "good", "shed", "preemptions", "steps", "step_tokens", "waiting",
         "running", "pages_used", "attention_dropped", "ffn_dropped", "loading",
         "limit_bytes")  # fmt: skip
MEASURES = ("cost", "nats", "ttft_s", "tpot_s", "e2e_s", "now_s")
COLUMNS = (*WHOLE, *MEASURES)
(ARRIVED, TOKENS, ON_TIME, SHED_TOKENS, LOST, FIRST, FINISHED, PACED, GOOD, SHED, PREEMPTIONS, STEPS,
 STEP_TOKENS, WAITING, RUNNING, PAGES_USED, ATTENTION_DROPPED, FFN_DROPPED, LOADING, LIMIT, COST,
 NATS, TTFT, TPOT, E2E, NOW) = range(len(COLUMNS))  # fmt: skip


class Book(NamedTuple):
    """What a lane's requests have been charged so far, and what its observations need."""

    second: IntArray  # that has been reached, and the last one, [2]
    first: IntArray  # the first request that is still open, [1]
    counts: IntArray  # of the lane, a second ago
    cost: FloatArray  # of each request, a second ago, [R]
    nats: FloatArray
    made: IntArray
    on_time: IntArray
    closed: BoolArray  # finished or shed, [R]
    before: IntArray  # limit in the seconds before the start, [BACK_S]
    units: FloatArray


def book_of(world: ServeWorld, part: Part, requests: int) -> Book:
    """The book of a lane at the start of a part."""

    def whole(length: int) -> IntArray:
        return np.zeros(length, dtype=np.int64)

    return Book(
        second=np.array([0, part.seconds]),
        first=whole(1),
        counts=whole(kernel.COUNTS),
        cost=np.zeros(requests),
        nats=np.zeros(requests),
        made=whole(requests),
        on_time=whole(requests),
        closed=np.zeros(requests, dtype=bool),
        before=world.before(part),
        units=sight.units(world),
    )


# Accounts


@inner
def _account(w: World, lane: Lane, book: Book, row: FloatArray) -> None:
    """Charge what has been delivered or shed since the last call, and say how the engine stands."""
    count, before = lane.counts, book.counts
    row[:] = 0.0
    for request in range(book.first[0], count[kernel.ARRIVED]):
        if book.closed[request]:
            continue
        made = lane.made[request]
        if made and not book.made[request]:
            row[FIRST] += 1
            row[TTFT] += lane.first_s[request] - w.arrival_s[request]
        row[COST] += lane.cost[request] - book.cost[request]
        row[NATS] += lane.nats[request] - book.nats[request]
        row[ON_TIME] += lane.on_time[request] - book.on_time[request]
        book.cost[request], book.nats[request] = lane.cost[request], lane.nats[request]
        book.made[request], book.on_time[request] = made, lane.on_time[request]
        if not np.isnan(lane.shed_s[request]):
            row[SHED_TOKENS] += w.output[request] - made
            book.closed[request] = True
        elif made == w.output[request]:
            book.closed[request] = True
            row[FINISHED] += 1
            row[E2E] += lane.last_s[request] - w.arrival_s[request]
            row[GOOD] += lane.on_time[request] == made
            if made > 1:
                row[PACED] += 1
                row[TPOT] += (lane.last_s[request] - lane.first_s[request]) / (made - 1)
    while book.first[0] < count[kernel.ARRIVED] and book.closed[book.first[0]]:
        book.first[0] += 1
    row[ARRIVED] = count[kernel.ARRIVED] - before[kernel.ARRIVED]
    row[TOKENS] = count[kernel.DELIVERED] - before[kernel.DELIVERED]
    row[SHED] = count[kernel.SHED] - before[kernel.SHED]
    row[PREEMPTIONS] = count[kernel.PREEMPTIONS] - before[kernel.PREEMPTIONS]
    row[STEPS] = count[kernel.STEPS] - before[kernel.STEPS]
    row[STEP_TOKENS] = count[kernel.STEP_TOKENS] - before[kernel.STEP_TOKENS]
    for each in range(len(count)):  # whole, numba would compile the text of an error for seconds
        before[each] = count[each]
    row[WAITING], row[RUNNING] = count[kernel.WAITING], count[kernel.RUNNING]
    row[PAGES_USED], row[LOADING] = count[kernel.PAGES_USED], count[kernel.LOADING]
    row[ATTENTION_DROPPED] = count[kernel.ATTENTION_DROPPED]
    row[FFN_DROPPED] = count[kernel.FFN_DROPPED]
    row[LIMIT] = _limit_before(w, book, book.second[0])
    row[NOW] = lane.number[kernel.NOW_S]


@inner
def _charge_lost(w: World, lane: Lane, book: Book, row: FloatArray) -> None:
    """Tokens that nobody will get cost C: the engine could not serve them on."""
    for request in range(book.first[0], len(w.arrival_s)):
        if not book.closed[request]:
            left = w.output[request] - lane.made[request]
            row[LOST] += left
            row[COST] += left * w.rates[2]
            book.closed[request] = True
    book.first[0] = len(w.arrival_s)


# Observations


@inner
def _limit_before(w: World, book: Book, second: int) -> int:
    """The limit in the second before."""
    if not second:
        return book.before[BACK_S - 1]
    return w.limit_bytes[min(second, len(w.limit_bytes)) - 1]


@inner
def _observe(w: World, lane: Lane, book: Book, row: FloatArray, seen: FloatArray) -> None:
    """Write what a policy sees into `seen`, float32 [O]; `row` is the record of the last second."""
    second, count, units = book.second[0], lane.counts, book.units
    place = 0
    for ago in range(BACK_S, 0, -1):
        at = second - ago
        limit = w.limit_bytes[min(at, len(w.limit_bytes) - 1)] if at >= 0 else book.before[at]
        seen[place] = limit / units[sight.CARD_BYTES]
        place += 1
    bins = len(AGES_S) - 1
    known = np.searchsorted(w.arrival_s, float(second))  # all that have arrived by now
    last = known
    for index in range(bins):
        first = np.searchsorted(w.arrival_s, float(second - AGES_S[index + 1]))
        tokens = 0
        for request in range(first, last):
            tokens += w.prompt[request]
        width_s = AGES_S[index + 1] - AGES_S[index]
        seen[place + index] = (last - first) / width_s / units[sight.REQUESTS]
        seen[place + bins + index] = tokens / width_s / units[sight.PROMPT_TOKENS]
        last = first
    place += 2 * bins
    waiting, tokens, oldest_s = count[kernel.WAITING], 0, 0.0
    for each in range(waiting):
        request = lane.waiting[(count[kernel.WAITING_FIRST] + each) % len(lane.waiting)]
        tokens += lane.target[request]
        oldest_s = max(oldest_s, second - w.arrival_s[request])
    for request in range(count[kernel.ARRIVED], known):  # during the step in flight
        waiting += 1
        tokens += w.prompt[request]
        oldest_s = max(oldest_s, second - w.arrival_s[request])
    seen[place] = waiting / units[sight.MOST_SEQUENCES]
    seen[place + 1] = tokens / units[sight.MOST_TOKENS]
    seen[place + 2] = oldest_s / units[sight.OLDEST_S]
    running, prefill = count[kernel.RUNNING], 0
    attention = ffn = most_attention = most_ffn = 0
    for each in range(running):
        request = lane.running[each]
        prefill += max(0, lane.target[request] - lane.planned[request])
        attention += lane.attention[request]
        ffn += lane.ffn[request]
        most_attention = max(most_attention, lane.attention[request])
        most_ffn = max(most_ffn, lane.ffn[request])
    droppable = max(1, w.goes_next.shape[0] - 1), max(1, w.goes_next.shape[1] - 1)
    seen[place + 3] = running / units[sight.MOST_SEQUENCES]
    seen[place + 4] = count[kernel.PAGES_USED] * w.rules[2] / units[sight.MOST_TOKENS]
    seen[place + 5] = prefill / units[sight.STEP_TOKENS]
    seen[place + 6] = attention / max(1, running) / droppable[0]
    seen[place + 7] = ffn / max(1, running) / droppable[1]
    seen[place + 8] = most_attention / droppable[0]
    seen[place + 9] = most_ffn / droppable[1]
    seen[place + 10] = _free_tokens(w, lane, book) / units[sight.MOST_TOKENS]
    gone = count[kernel.ATTENTION_DROPPED], count[kernel.FFN_DROPPED]
    seen[place + 11] = (w.goes_next.shape[0] - 1 - gone[0]) / droppable[0]
    seen[place + 12] = (w.goes_next.shape[1] - 1 - gone[1]) / droppable[1]
    seen[place + 13] = count[kernel.LOADING] == ATTENTION
    seen[place + 14] = count[kernel.LOADING] == FFN
    seen[place + 15] = row[STEPS] / STEPS_A_SECOND
    seen[place + 16] = row[STEP_TOKENS] / units[sight.STEP_TOKENS]
    seen[place + 17] = row[TOKENS] / units[sight.OUTPUT_TOKENS]
    seen[place + 18] = row[PREEMPTIONS] / units[sight.REQUESTS]
    seen[place + 19] = row[SHED] / units[sight.REQUESTS]
    for each in range(len(seen)):
        seen[each] = min(max(seen[each], 0.0), HIGHEST[each])


@inner
def _free_tokens(w: World, lane: Lane, book: Book) -> int:
    """Tokens of the pages that are free under the limit of the second before."""
    count, layers = lane.counts, w.sizes[4]
    attention = layers - count[kernel.ATTENTION_DROPPED] + (count[kernel.LOADING] == ATTENTION)
    ffn = layers - count[kernel.FFN_DROPPED] + (count[kernel.LOADING] == FFN)
    weights = w.sizes[3] + attention * w.sizes[0] + ffn * w.sizes[1]
    room = max(0, _limit_before(w, book, book.second[0]) - weights) // (attention * w.sizes[2])
    pages = room // w.rules[2] - w.rules[3] - count[kernel.PAGES_USED]
    return max(0, pages) * w.rules[2]


# Lanes together


@compiled
def _listed(world: World, lane: Lane, book: Book) -> Any:
    return List([(world, lane, book)])


@compiled
def _add(lanes: Any, world: World, lane: Lane, book: Book) -> None:
    lanes.append((world, lane, book))


@compiled
def _put(lanes: Any, place: int, world: World, lane: Lane, book: Book) -> None:
    lanes[place] = (world, lane, book)


@compiled
def _look(lanes: Any, which: BoolArray, record: FloatArray, seen: FloatArray) -> None:
    for place in range(len(lanes)):
        if which[place]:
            world, lane, book = lanes[place]
            _observe(world, lane, book, record[place], seen[place])


def _together(entries: list[tuple[World, Lane, Book]]) -> Any:
    """Lanes as the compiled loop takes them."""
    lanes = _listed(*entries[0])
    for entry in entries[1:]:
        _add(lanes, *entry)
    return lanes


def _loop(source: int) -> Callable[..., None]:
    """The loop over lanes, compiled for the engine's source.

    Numba keeps what it compiled until the file of the function itself changes. This one has the engine
    inside it: what it closes over is part of the key under which it is kept, so a loop that holds an
    older engine is not taken.
    """

    @compiled
    def advance(
        lanes: Any, actions: IntArray, acting: BoolArray, record: FloatArray, seen: FloatArray
    ) -> None:
        for place in range(len(lanes) if source >= 0 else 0):
            if not acting[place]:
                continue
            world, lane, book = lanes[place]
            attention, ffn, on_fall = actions[place]
            book.second[0] += 1
            until_s = float(book.second[0])
            kernel.run(world, lane, until_s, attention, ffn, on_fall)
            if book.second[0] < book.second[1]:
                _account(world, lane, book, record[place])
            else:
                kernel.run(world, lane, until_s + DRAIN_S, attention, ffn, on_fall)
                _account(world, lane, book, record[place])
                _charge_lost(world, lane, book, record[place])
            _observe(world, lane, book, record[place], seen[place])

    return advance


_SOURCE = places.PACKAGE / "serving" / "kernel.py"
_advance = _loop(int(checked.sha256_of(_SOURCE)[:12], 16))


def begun(worlds: Sequence[ServeWorld], parts: Sequence[Part]) -> "Batch":
    """A lane at the start of each part, of its world, whose first observations are there."""
    lanes = Batch([*worlds])
    for lane, part in enumerate(parts):
        lanes.begin(lane, part)
    lanes.look(np.ones(len(parts), dtype=bool))
    return lanes


class Batch:
    """B lanes, each in a part of its world. A copy of it goes its own way."""

    def __init__(self, worlds: list[ServeWorld]) -> None:
        """Lanes of these worlds, none of which has begun.

        Raises:
            ValueError: they have different numbers of blocks to drop.
        """
        if len({(world.attention, world.ffn) for world in worlds}) != 1:
            raise ValueError("lanes of one batch have as many blocks to drop")
        self.worlds = worlds
        self.parts: list[Part] = [world.pieces[0] for world in worlds]
        self.record: FloatArray = np.zeros((len(worlds), len(COLUMNS)))
        self.seen: NDArray[np.float32] = np.zeros((len(worlds), WIDTH), dtype=np.float32)
        self.entries: list[tuple[World, Lane, Book]] = []
        self._lanes: Any = None

    def begin(self, lane: int, part: Part) -> None:
        """Begin a part in one lane; `look` sees it."""
        self.parts[lane] = part
        self._set(lane, part)
        self.record[lane] = 0.0

    def _set(self, lane: int, part: Part) -> None:
        made, state = self.worlds[lane].served(part)
        entry = made, state, book_of(self.worlds[lane], part, len(made.arrival_s))
        if not self.entries:
            self.entries = [entry] * len(self.worlds)
            self._lanes = _together(self.entries)
        _put(self._lanes, lane, *entry)
        self.entries[lane] = entry

    def follow(self, lane: int, other: "Batch") -> None:
        """Let a lane stand where the same lane of another batch stands, in the same part."""
        for here, there in zip(self.entries[lane][1:], other.entries[lane][1:], strict=True):
            for array, value in zip(here, there, strict=True):
                array[...] = value
        self.record[lane], self.seen[lane] = other.record[lane], other.seen[lane]

    def close(self) -> None:
        """Nothing is held open."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lanes"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lanes = _together(self.entries) if self.entries else None

    def look(self, which: BoolArray) -> None:
        """Write into `seen` what these lanes see, bool [B]."""
        _look(self._lanes, which, self.record, self.seen)

    def advance(self, actions: IntArray, acting: BoolArray) -> None:
        """Serve a second more in these lanes under their decisions.

        The last second of a part serves on what is in flight, under the same decision.

        Args:
            actions: attention and FFN blocks dropped, standing order, int64 [B, 3].
            acting: bool [B]; of the others `record` and `seen` stay.
        """
        _advance(self._lanes, np.ascontiguousarray(actions), acting, self.record, self.seen)
