"""Least expected cost over empirical futures: how the limit went on where the past was like now.

Of the frontier's sets that fit now it proposes the one with the least J, nats an output token:

    J(k) = loss(k) + stall(k) + later * back(k) + caution * E[worse(k) + later * more_back(k)]

- loss(k) = min(nll(k), C);
- stall(k) = C - loss(k), for the share of the row in which blocks come back that are not loaded;
- back(k) = C, for the share of a row in which all that k lacks would come back: a row that ends
  with few blocks is paid for by the rows after it;
- worse(k) = C - loss(k') for `reaction_s` of each second of a future in which blocks have to go, and
  loss(k') - loss(k) from that second on, where k' is what the shield's order leaves of k;
  more_back(k) = back(k') - back(k).

A future is a stretch of the limit in train whose last seconds were near to the last seconds now;
the nearer, the more it counts. What is near is told in whole numbers, ties go to the earlier stretch, and
costs that differ by less than 1e-9 nats to the better set: so every processor decides alike. With `caution` and `later` 0 this is the frontier lookup that counts
stalls. Left out: what the shield gives back where the last block to go freed more than was missing,
and that emergencies interrupt stalls.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isqrt
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from rapgym.arrays import TIE, BoolArray, FloatArray, IntArray, first_of_least
from rapgym.errors import InvalidPolicy
from rapgym.policies.policy import Briefing
from rapgym.policies.reference import Frontier, frontier
from rapgym.rollout import rollout
from rapgym.rollout import tuning as rollout_tuning
from rapgym.world import pace, stall
from rapgym.world.encoding import HISTORY, Reading
from rapgym.world.once import once_a_world
from rapgym.world.records import World
from rapgym.world.reward import token_loss

if TYPE_CHECKING:
    from rapgym.world.tally import Tally

NEIGHBOURS = 128  # futures that count; on chat, half and twice as many differ by under 1 %
MOST_STRETCHES = 4096  # taken evenly from longer splits
STEPS = 4096  # of a feature's unit: the grid on which pasts are compared
FARTHEST = 1 << 22  # steps; what lies farther apart in a feature counts as this far
FOLDS = 6  # while tuning
_tried = np.meshgrid((0.0, 1.0), (0.75, 1.0, 1.25), (0.0, 0.5, 1.0), indexing="ij")
SETTINGS = {  # all 0 first: nearly the lookup
    name: np.concatenate([[0.0], values.ravel()])
    for name, values in zip(("shift", "caution", "later"), _tried, strict=True)
}


def features(past: IntArray) -> IntArray:
    """What the last seconds were like: limits int64 [..., S], oldest first -> int64 [..., 6].

    The level, and how far it lies from one and from three seconds before, and from the mean, the
    lowest and the highest of the last eight; in eighths of a byte, so that the mean is exact.
    """
    now, last = 8 * past[..., -1], past[..., -8:]
    before = (
        8 * past[..., -2],
        8 * past[..., -4],
        last.sum(axis=-1) * 8 // last.shape[-1],
        8 * last.min(axis=-1),
        8 * last.max(axis=-1),
    )
    return np.stack([now, *(now - other for other in before)], axis=-1)


def deviation(values: IntArray) -> int:
    """Standard deviation of int64 [P], rounded down: by whole numbers of any size, so exact."""
    numbers = values.tolist()
    count, total = len(numbers), sum(numbers)
    squares = sum(number * number for number in numbers)
    return isqrt(count * squares - total * total) // count


@dataclass(frozen=True, slots=True)
class Futures:
    """P stretches of a split's limit: what each was like until a second, and how it went on."""

    past: IntArray  # features in steps of their units, [6, P]
    unit: IntArray  # twice the deviation of each feature, but once that of the level, [6]
    level: IntArray  # limit in the last second of the past, [P]
    ahead: IntArray  # limits in the seconds after it, [P, S]
    lowest: int  # limit of all stretches
    highest: int

    @classmethod
    def of(cls, world: World, without: slice = slice(0, 0)) -> Self:
        """The stretches of a world's rows, beginning in any second.

        Args:
            without: rows that no stretch may touch, neither with its past nor with what follows.

        Raises:
            InvalidPolicy: none is left.
        """
        limit, window_s = world.rows.limit_bytes, world.window_s
        past_s, ahead_s = _past_s(world), window_s - _known_s(world)
        # As in observations, what was before the first row repeats its first second.
        seconds = np.concatenate([np.repeat(limit[0, :1], past_s - 1), limit.ravel()])
        stretches = sliding_window_view(seconds, past_s + ahead_s)
        last = np.arange(len(stretches))  # second of the split in which the past ends
        start, stop = without.start * window_s, without.stop * window_s
        free = (last + ahead_s < start) | (last - past_s + 1 >= stop) | (start == stop)
        chosen = np.flatnonzero(free)
        if not len(chosen):
            raise InvalidPolicy("too few rows: each row's futures would be taken from itself")
        stretches = stretches[chosen[:: -(-len(chosen) // MOST_STRETCHES)]]
        past, ahead = features(stretches[:, :past_s]), stretches[:, past_s:].copy()
        spread = np.array([max(deviation(column), 8) for column in past.T])  # a byte at least
        unit = spread * np.array([1, 2, 2, 2, 2, 2])
        scaled = np.ascontiguousarray((past * STEPS // unit).T)
        level = stretches[:, past_s - 1].copy()
        return cls(scaled, unit, level, ahead, int(stretches.min()), int(stretches.max()))

    def after(self, past: IntArray, shift: float) -> tuple[IntArray, FloatArray]:
        """How the limit may go on: what followed the nearest pasts, the nearest first.

        Args:
            past: limits until the last second that is known.
            shift: share of the difference in level, now less then, that is added to what followed.

        Returns:
            Limits of the seconds ahead, int64 [n, S], and weights that sum to 1, [n].
        """
        now = (features(past) * STEPS // self.unit)[:, None]
        apart = np.clip(self.past - now, -FARTHEST, FARTHEST)
        count = self.past.shape[1]
        n = min(NEIGHBOURS, count)
        # Distance and place in one number, so that no two are equal: at most 6 * 2^44 * 2^12.
        key = (apart**2).sum(axis=0) * count + np.arange(count)
        distance, nearest = np.divmod(np.sort(np.partition(key, n - 1)[:n]), count)
        weight = 101 * distance[-1] - 100 * distance if distance[-1] else np.ones_like(distance)
        moved = np.rint(shift * (past[-1] - self.level[nearest])).astype(np.int64)
        ahead = np.clip(self.ahead[nearest] + moved[:, None], self.lowest, self.highest)
        return ahead, weight / weight.sum()


def _known_s(world: World) -> int:
    """Seconds of a row whose limit is known when it is decided."""
    return min(1 + world.notice_s, world.window_s)


def _past_s(world: World) -> int:
    """Seconds that a policy can look back on, the last that is known among them."""
    return HISTORY * world.window_s + 1


@dataclass(frozen=True, slots=True)
class Remains:
    """Of K sets, what is left of each as its blocks go one by one in the shield's order, [K, J]."""

    attention: IntArray  # blocks kept; the first of J is the whole set
    ffn: IntArray
    loss: FloatArray
    back: FloatArray

    @classmethod
    def of(cls, world: World, front: Frontier) -> Self:
        order = world.quality.order
        kept = np.repeat(front.kept[:, None], len(order) + 1, axis=1)
        for gone, block in enumerate(order, start=1):
            kept[:, gone:, block] = False
        share = stall.row_share(world, stall.missing_bytes(world.footprint, kept))
        attention, ffn = kept[..., 0::2].sum(axis=-1), kept[..., 1::2].sum(axis=-1)
        loss = token_loss(world.quality.nll(kept)[0], world.ceiling)
        return cls(attention, ffn, loss, world.ceiling * share)

    def used_bytes(self, world: World, tokens: int, prompt_tokens: int) -> IntArray:
        """Bytes of each for one demand, margin included, [K, J]."""
        footprint, asked = world.footprint, (np.array(tokens), np.array(prompt_tokens))
        used = footprint.counted_bytes(self.attention, self.ffn, *asked)
        return used + footprint.margin_bytes


@once_a_world
def _remains(world: World) -> Remains:
    """Of the frontier's sets."""
    return Remains.of(world, frontier(world.quality))


@once_a_world
def _all_futures(world: World) -> Futures:
    return Futures.of(world)


def expected_change(
    world: World,
    used_bytes: IntArray,
    loss: FloatArray,
    back: FloatArray,
    limits: IntArray,
    weight: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """E[worse] and E[more_back] of K sets that fit in the first second, float64 [K] each.

    Args:
        used_bytes, loss, back: of each set and what is left of it, [K, J].
        limits: of all seconds of the row in each future, [n, W]; weight: [n].
    """
    lowest = np.minimum.accumulate(limits, axis=1)
    falls = (lowest[:, 1:] < lowest[:, :-1]) & (lowest[:, 1:] < used_bytes[:, 0].max())
    future, second = np.nonzero(falls)  # F falls, those of a future in a row
    # How many blocks each set has lost after each fall, and after the fall before, [K, F].
    over = used_bytes[:, :, None] > lowest[future, second + 1]
    gone = over.view(np.uint8).sum(axis=1, dtype=np.uint8).astype(np.int64)  # J is below 256
    before = np.zeros_like(gone)
    before[:, 1:] = np.where(future[1:] == future[:-1], gone[:, :-1], 0)
    # Where not even the last of J fits, the rest of the row is refused.
    loss = np.pad(loss, ((0, 0), (0, 1)), constant_values=world.ceiling)
    back = np.pad(back, ((0, 0), (0, 1)), mode="edge")
    left = np.take_along_axis(loss, gone, axis=1)
    seconds_left = world.window_s - 1 - second
    worse = (left - np.take_along_axis(loss, before, axis=1)) * seconds_left
    worse += stall.pause_s(world) * (gone > before) * (world.ceiling - left)
    more_back = np.take_along_axis(back, gone, axis=1) - np.take_along_axis(back, before, axis=1)
    chance = weight[future]
    return (worse * chance).sum(axis=1) / world.window_s, (more_back * chance).sum(axis=1)


def worth_trying(used_bytes: IntArray, limit_bytes: int) -> IntArray:
    """Of sets in the order of their nll those that fit and take less than every better one.

    Returns:
        Their indices, best first; the smallest set where none fits.
    """
    fits = np.flatnonzero(used_bytes <= limit_bytes)
    if not len(fits):
        return np.array([used_bytes.argmin()])
    takes = used_bytes[fits]
    return fits[np.r_[True, takes[1:] < np.minimum.accumulate(takes)[:-1]]]


class Forecast:
    """At each row the set of the frontier with the least expected cost J."""

    lanes_apart = True
    _quick: "_Quick | None" = None

    def __init__(
        self, shift: float | FloatArray, caution: float | FloatArray, later: float | FloatArray
    ) -> None:
        """[B] each where lanes try several settings.

        Args:
            shift: as `Futures.after` takes it.
            caution: weight of what futures add to the cost of a row.
            later: weight of what has to come back after it.
        """
        self._settings = (shift, caution, later)

    def reset(self, batch: int, briefing: Briefing) -> None:
        self._briefing, self._world = briefing, briefing.train
        self._frontier = frontier(briefing.quality)
        self._remains = _remains(self._world)
        self._futures = self._all_futures()
        lanes = (np.broadcast_to(values, batch).tolist() for values in self._settings)
        self._lanes = [*zip(*lanes, strict=True)]
        self._of_lanes = np.array(self._lanes, dtype=np.float64)  # [B, 3]

    def _all_futures(self) -> Futures:
        return _all_futures(self._world)

    def propose(self, observation: FloatArray, rng: np.random.Generator) -> BoolArray:
        if pace.is_loaded():
            chosen = self._compiled().chosen(observation, self._of_lanes)
            return self._frontier.kept.take(chosen, axis=0)
        seen = self._briefing.read(observation)
        pasts, chosen = self._pasts(seen), np.empty(len(observation), dtype=np.int64)
        asked = seen.tokens.tolist(), seen.prompt_tokens.tolist()
        alike: dict[Any, list[int]] = {}  # lanes with one outlook: while tuning, all with one shift
        for lane, (tokens, prompt) in enumerate(zip(*asked, strict=True)):
            key = (pasts[lane].tobytes(), tokens, prompt, self._lanes[lane][0])
            alike.setdefault(key, []).append(lane)
        for (_, tokens, prompt, shift), lanes in alike.items():
            sets, change = self._outlook(pasts[lanes[0]], tokens, prompt, shift)
            chosen[lanes] = sets[self._best(seen.loaded[lanes], sets, change, lanes)]
        return self._frontier.kept[chosen]

    @property
    def tally_sets(self) -> BoolArray:
        return self._frontier.kept

    def tally(
        self, kept: "Tally", observation: FloatArray, row: IntArray, limit_row: IntArray
    ) -> None:
        """Serve rows in a lane for each setting, see `rollout.at_once.Tallied`."""
        seen = self._briefing.read(observation)
        given = (self._pasts(seen), seen.tokens, seen.prompt_tokens, row, limit_row)
        self._compiled().serve(kept, self._lanes, *given)

    def costs(self, seen: Reading, lane: int) -> tuple[IntArray, FloatArray]:
        """The sets of the frontier worth trying in a lane, best first, and J of each: [K] and [K]."""
        shift, caution, later = self._lanes[lane]
        past = self._pasts(seen, slice(lane, lane + 1))[0]
        sets, change = self._outlook(past, seen.tokens[lane], seen.prompt_tokens[lane], shift)
        return sets, self._judged(seen.loaded[lane], sets, change, caution, later)

    def _best(
        self, loaded: BoolArray, sets: IntArray, change: FloatArray, lanes: list[int]
    ) -> IntArray:
        """Of some sets the one that costs least in each of n lanes that share an outlook, [n].

        Args:
            loaded: blocks in memory, [n, N]; sets, change: as `_outlook` gives them.
            lanes: which they are.
        """
        costs = (
            self._judged(own, sets, change, *self._lanes[lane][1:])
            for own, lane in zip(loaded, lanes, strict=True)
        )
        return np.array([first_of_least(cost) for cost in costs])

    def _judged(
        self, loaded: BoolArray, sets: IntArray, change: FloatArray, caution: float, later: float
    ) -> FloatArray:
        """J of some sets, [K], where these blocks are in memory, [N]."""
        if self._quick is not None:
            return self._quick.judged(loaded, sets, change, caution, later)
        loss, back, worse, more_back = change
        world, wanted = self._world, self._frontier.kept[sets]
        returning = stall.returning_bytes(world.footprint, loaded, wanted)
        wait = (world.ceiling - loss) * stall.row_share(world, returning)
        found: FloatArray = loss + wait + later * back + caution * (worse + later * more_back)
        return found

    def _pasts(self, seen: Reading, lanes: slice = slice(None)) -> IntArray:
        """Limits until the last second that is known, [B, past_s]."""
        announced = seen.announced_limit_bytes[lanes, : _known_s(self._world) - 1]
        known = (seen.recent_limit_bytes[lanes], seen.limit_bytes[lanes, None], announced)
        return np.ascontiguousarray(np.concatenate(known, axis=1)[:, -_past_s(self._world) :])

    def _compiled(self) -> "_Quick":
        quick, told, futures = self._quick, self._briefing, self._futures
        if quick is None or quick.briefing is not told or quick.futures is not futures:
            self._quick = quick = _Quick(told, self._frontier, self._remains, futures)
        return quick

    def _outlook(
        self, past: IntArray, tokens: int, prompt_tokens: int, shift: float
    ) -> tuple[IntArray, FloatArray]:
        """The sets worth trying, [K]; their loss, back, E[worse] and E[more_back], [4, K]."""
        if pace.is_loaded():
            return self._compiled().outlook(past, tokens, prompt_tokens, shift)
        known = past[-_known_s(self._world) :]
        used = self._remains.used_bytes(self._world, tokens, prompt_tokens)
        sets = worth_trying(used[:, 0], known[0])
        loss, back = self._remains.loss[sets], self._remains.back[sets]
        ahead, weight = self._futures.after(past, shift)
        limits = np.concatenate([np.tile(known, (len(ahead), 1)), ahead], axis=1)
        change = expected_change(self._world, used[sets], loss, back, limits, weight)
        return sets, np.stack([loss[:, 0], back[:, 0], *change])


class _Quick:
    """The same by compiled code."""

    def __init__(
        self, briefing: Briefing, front: Frontier, remains: Remains, futures: Futures
    ) -> None:
        from rapgym.files.compiled import settled
        from rapgym.policies import quick_futures
        from rapgym.world.twin import fixed

        world, where, foot = briefing.train, briefing.layout, briefing.footprint
        self.briefing, self.futures = briefing, futures
        self._code, self._world = quick_futures, world
        bounds = [futures.lowest, futures.highest, STEPS, FARTHEST, NEIGHBOURS]
        parts = (futures.past.astype(np.float64), futures.unit, futures.level, futures.ahead)
        self._stretches = quick_futures.Stretches(*map(fixed, (*parts, np.array(bounds))))
        sizes = [foot.layers, foot.attention_bytes, foot.ffn_bytes, foot.model_kv_token_bytes,
                 foot.fixed_bytes, foot.margin_bytes, world.window_s, _known_s(world)]  # fmt: skip
        rates = [foot.activation_bytes_per_token, world.ceiling, stall.link_bytes_per_s(world),
                 stall.pause_s(world)]  # fmt: skip
        left = (front.kept, remains.attention, remains.ffn, remains.loss, remains.back)
        numbers = np.array(sizes, dtype=np.int64), np.array(rates, dtype=np.float64)
        self._sets = quick_futures.Sets(*map(fixed, (*left, *numbers)))
        names = ("prompt_tokens", "reserved_tokens", "limit", "recent_limit", "loaded")
        places = np.array([where.slice_of(name).start for name in names], dtype=np.int64)
        units = np.array([where.token_unit, where.card_bytes], dtype=np.float64)
        self._seen = quick_futures.Seen(fixed(places), fixed(units))
        self._scratch = quick_futures.scratch_of(self._stretches, self._sets, _past_s(world))
        self._choose = settled(quick_futures.choose)

    def chosen(self, observation: FloatArray, settings: FloatArray) -> IntArray:
        """As `Forecast.propose`, of the frontier's sets; `settings`: of each lane, [B, 3]."""
        from rapgym.world.twin import shown

        if len(observation) > len(settings):
            raise IndexError(f"{len(observation)} lanes, of which {len(settings)} have settings")
        found = np.empty(len(observation), dtype=np.int64)
        self._choose(
            self._stretches, self._sets, self._seen, shown(observation), settings, TIE,
            self._scratch, found,
        )  # fmt: skip
        return found

    def outlook(
        self, past: IntArray, tokens: int, prompt_tokens: int, shift: float
    ) -> tuple[IntArray, FloatArray]:
        """As `Forecast._outlook`."""
        most = len(self._sets.kept)
        chosen, found = np.empty(most, dtype=np.int64), np.empty((4, most))
        count = self._code.outlook(
            self._stretches, self._sets, past, int(tokens), int(prompt_tokens), float(shift),
            chosen, found, self._scratch,
        )  # fmt: skip
        return chosen[:count], np.ascontiguousarray(found[:, :count])

    def judged(
        self, loaded: BoolArray, sets: IntArray, change: FloatArray, caution: float, later: float
    ) -> FloatArray:
        """J of each set, [K]."""
        cost = np.empty(len(sets))
        self._code.judged(self._sets, loaded, sets, change, float(caution), float(later), cost)
        return cost

    def serve(
        self, kept: "Tally", lanes: Sequence[tuple[float, float, float]], *rows: IntArray
    ) -> None:
        """Decide and serve rows in lanes that all meet them.

        Args:
            lanes: shift, caution and later of each.
            rows: pasts, tokens, prompt tokens, rows and limit rows, [R, ...] each.
        """
        sets, most, world = self._sets.kept, len(self._sets.kept), self._world
        shifts, own = np.unique([shift for shift, _, _ in lanes], return_inverse=True)
        count = np.zeros(len(shifts), dtype=np.int64)
        tries = self._code.Tries(
            shifts, own.astype(np.int64), np.array([weights for _, *weights in lanes]),
            stall.returning_bytes(world.footprint, (sets | world.floor)[:, None], sets[None]),
            count, np.zeros((len(count), most), dtype=np.int64), np.zeros((len(count), 4, most)),
            np.zeros(most), np.zeros(len(own), dtype=np.int64),
        )  # fmt: skip
        kept.drive(self._code.serve, self._stretches, self._sets, self._scratch, tries, *rows, TIE)


class Plain(Forecast):
    """The expected cost as it stands, nothing tuned: every part of J counts once.

    A level that differs from that of a past is added to what followed it.
    """

    def __init__(self) -> None:
        super().__init__(shift=1.0, caution=1.0, later=1.0)


class CrossFitted(Forecast):
    """For tuning on the very rows that futures are taken from.

    It knows which row it decides, and takes the futures from stretches that touch none of the rows
    around it.
    """

    lanes_apart = False  # it counts rows

    def __init__(self, folds: Sequence[Futures], row: int, rows: int, **settings: Any) -> None:
        """`folds`: one for each part of the rows; `row`: of the first limit, of `rows` in turn."""
        super().__init__(**settings)
        self._folds, self._row, self._rows = folds, row, rows

    def _all_futures(self) -> Futures:
        return self._folds[0]

    def propose(self, observation: FloatArray, rng: np.random.Generator) -> BoolArray:
        self._futures = self._folds[self._row * len(self._folds) // self._rows]
        self._row = (self._row + 1) % self._rows
        return super().propose(observation, rng)

    def tally(
        self, kept: "Tally", observation: FloatArray, row: IntArray, limit_row: IntArray
    ) -> None:
        count, rows = len(self._folds), self._rows
        fold = (self._row + np.arange(len(row))) % rows * count // rows
        for part in np.split(np.arange(len(row)), 1 + np.flatnonzero(np.diff(fold))):
            self._futures = self._folds[fold[part[0]]]
            super().tally(kept, observation[part], row[part], limit_row[part])
        self._row = (self._row + len(row)) % rows


def folded(world: World, count: int) -> list[Futures]:
    """For each of `count` neighbouring parts of the rows, the futures that touch none of it."""
    rows = len(world.rows)
    edges = [-(-fold * rows // count) for fold in range(count + 1)]
    return [Futures.of(world, slice(start, stop)) for start, stop in pairwise(edges)]


def tune(briefing: Briefing) -> dict[str, Any]:
    """The settings with the least cost on the briefing's split, no row seeing its own future."""
    world = briefing.train
    folds, rows = folded(world, FOLDS), len(world.rows)
    starts = iter(rollout.whole_split(world, briefing.scenario.offsets))

    def make(**settings: Any) -> CrossFitted:
        """A policy for the next pairing."""
        return CrossFitted(folds, next(starts).offset, rows, **settings)

    return rollout_tuning.best_settings(make, SETTINGS, briefing)
