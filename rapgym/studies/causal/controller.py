"""A controller that is given the true distribution of futures, and what no causal one can beat.

It decides the rows of a twin (`rapgym.studies.causal.twin`) in a state that is known: from there, futures are drawn
as often as wanted, and what each set of the frontier costs in each is computed by the simulator.
What the next row pays to bring blocks back is counted as a base controller would pay it that ignores
what is loaded; so every choice is the best first step before that base (rollout: Bertsekas 2020,
ch. 2), and its score is one that a causal controller reaches: the best causal score is at least it.

From the same numbers follows what the best is at most, by information relaxation (Brown, Smith &
Sun 2010). A plan that knows all rows beforehand is charged for each choice what it costs *on
average over the futures* rather than in the one that came, and differences in value that the
future decided are taken away from it. In expectation no controller that chooses from the frontier
without knowing the future costs less than the cheapest such plan, whatever the quality of the base.
"""

from dataclasses import dataclass, replace

import numpy as np

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.errors import InvalidSpec
from rapgym.policies.reference import Frontier, frontier
from rapgym.studies.causal.twin import Drawn, Twin
from rapgym.world import simulator, stall
from rapgym.world.records import Rows, World
from rapgym.world.reward import token_loss

FUTURES = 128  # drawn at each row
BANK = 64  # futures of each state of the tenant, for the base controller
SHARES = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)  # of futures whose falls the base risks


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """A twin in bytes and tokens of the measured model: a row of demand and a limit for each state."""

    twin: Twin
    world: World  # whose rows are the twin's states of demand; its limits are not read
    limit_bytes: IntArray  # of each state of the tenant, [S]
    output_tokens: FloatArray  # expected of each state of demand, [R]
    front: Frontier
    loss: FloatArray  # of each set of the frontier, [K]
    reload_bytes: IntArray  # from each of them to each, [K, K]

    @property
    def used_bytes(self) -> IntArray:
        """Bytes of each set in each state of demand, [R, K]."""
        rows = self.world.rows
        tokens = rows.prompt_tokens + rows.reserved_tokens
        return self.front.used_bytes(self.world.footprint, tokens, rows.prompt_tokens)

    def stall(self, returning_bytes: IntArray) -> FloatArray:
        """Share of a row in which blocks come back."""
        return stall.row_share(self.world, returning_bytes)


def known(twin: Twin, world: World, limit_bytes: IntArray, states: Rows) -> Known:
    """What is known of a twin, by the columns of `world`.

    Args:
        limit_bytes: of each state of the tenant, [S].
        states: of each state of demand, R rows.

    Raises:
        InvalidSpec: blocks take longer than a second to come back: then stalls depend on what the
            future brings, and are not told apart from the rest of a row.
    """
    if stall.stall_s(world, world.footprint.weights.sum()) > 1:
        raise InvalidSpec(f"{twin.story.name}: all blocks must come back within a second")
    front = frontier(world.quality)
    return Known(
        twin,
        replace(world, rows=states),
        limit_bytes,
        twin.outputs.mean(axis=1),
        front,
        token_loss(front.nll, world.ceiling),
        stall.returning_between(world.footprint, front.kept[None], front.kept[None])[0],
    )


@dataclass(frozen=True, slots=True, eq=False)
class Base:
    """The best set that fits in all but a share of the futures; it ignores what is loaded."""

    level: IntArray  # the limit it counts on in each state of the tenant, bytes, [S]

    @classmethod
    def of(cls, at: Known, share: float, rng: np.random.Generator) -> "Base":
        states = np.arange(len(at.limit_bytes))
        lowest = np.empty((len(states), BANK), dtype=np.int64)
        for future in range(BANK):
            ahead = at.twin.tenant.chain.walks(states, at.world.window_s - 1, rng)
            lowest[:, future] = at.limit_bytes[ahead].min(axis=1)
        level = np.quantile(lowest, share, axis=1, method="lower").astype(np.int64)
        return cls(np.minimum(level, at.limit_bytes))

    def chosen(self, at: Known, used: IntArray, second: IntArray, row: IntArray) -> IntArray:
        """Index of its set in each state, int64 [n]; `used` as `at.used_bytes`."""
        return at.front.best_fitting(used[row], self.level[second])


def served(
    world: World, row: int, limits: IntArray, future: IntArray, kept: BoolArray
) -> tuple[FloatArray, BoolArray]:
    """One row with sets that were loaded: cost of a token, [m], and what is in memory after, [m, N].

    Args:
        row: of `world`, whose demand it is.
        limits: of each second in each future, [n, W].
        future: which one each set meets, [m]; kept: [m, N].
    """
    one = np.full(len(limits), row)
    rows = world.rows
    repeated = Rows(
        rows.batch[one],
        rows.prompt_tokens[one],
        rows.reserved_tokens[one],
        rows.longest_tokens[one],
        np.ones(len(limits), dtype=np.int64),
        limits,
    )
    there = replace(world, rows=repeated, mean_output_tokens=1.0)
    state = there.state(future, future)
    _, outcome = simulator.step(there, state, kept)
    return outcome.terms.total, outcome.kept_end


@dataclass(frozen=True, slots=True, eq=False)
class Prices:
    """What each set of the frontier costs at each row of a drawn stretch, stalls not counted."""

    expected: FloatArray  # over the futures, the next row's return under the base included, [T, K]
    weight: FloatArray  # output tokens expected of each row, [T]
    base: IntArray  # set of the base controller, [T]
    refused: BoolArray  # not even the smallest set fits: nothing is decided, [T]
    end: BoolArray  # in memory after the row as it came, [T, K, N]


def prices(at: Known, base: Base, drawn: Drawn, seed: int, futures: int = FUTURES) -> Prices:
    """Price every set at every row of a drawn stretch, in units of nats times output tokens."""
    rng, used = np.random.default_rng([seed, 1]), at.used_bytes
    rows, count = len(drawn.row), len(at.loss)
    window_s = at.world.window_s
    expected = np.full((rows, count), np.inf)
    end = np.repeat(at.front.kept[None], rows, axis=0)
    first = drawn.second[:, 0]
    refused = np.all(used[drawn.row] > at.limit_bytes[first][:, None], axis=1)
    for t in range(rows):
        row = int(drawn.row[t])
        start = np.full(futures, first[t])
        ahead = at.twin.tenant.chain.walks(start, window_s, rng)
        next_row = at.twin.demand.chain.walks(np.full(futures, row), 1, rng)[:, 0]
        limits = np.concatenate(
            [at.limit_bytes[start][:, None], at.limit_bytes[ahead[:, :-1]]], axis=1
        )
        fits = np.flatnonzero(used[row] <= limits[0, 0])
        if not len(fits):
            fits = np.array([used[row].argmin()])
        cost = np.repeat(at.loss[fits][:, None], futures, axis=1)
        back = base.chosen(at, used, ahead[:, -1], next_row)
        pays = at.output_tokens[next_row] * (at.world.ceiling - at.loss[back])
        pays = np.where(used[next_row, back] <= at.limit_bytes[ahead[:, -1]], pays, 0.0)
        returning = at.reload_bytes[fits[:, None], back]
        which, future = np.nonzero(used[row][fits][:, None] > limits.min(axis=1))
        if len(which):
            found, left = served(at.world, row, limits, future, at.front.kept[fits[which]])
            cost[which, future] = found
            wanted = at.front.kept[back[future]]
            returning[which, future] = stall.returning_bytes(at.world.footprint, left, wanted)
        later = pays * at.stall(returning)
        expected[t, fits] = (at.output_tokens[row] * cost + later).mean(axis=1)
        came = at.limit_bytes[drawn.second[t]][None]
        loses = fits[used[row][fits] > came.min()]
        if len(loses):
            none = np.zeros(len(loses), dtype=np.int64)
            end[t, loses] = served(at.world, row, came, none, at.front.kept[loses])[1]
    return Prices(
        expected,
        at.output_tokens[drawn.row],
        base.chosen(at, used, first, drawn.row),
        refused,
        end,
    )


def _entering(at: Known, found: Prices, t: int, loaded: BoolArray) -> FloatArray:
    """What each choice at row t costs beyond the base's return: bool [M, N] -> float64 [M, K].

    Its stall and its expected cost, less what the base would have paid to return: that was in the
    expected cost of the row before.
    """
    returning = stall.returning_between(at.world.footprint, loaded[None], at.front.kept[None])[0]
    pays = found.weight[t] * (at.world.ceiling - at.loss) * at.stall(returning)
    if found.refused[t]:
        return np.broadcast_to(found.expected[t], returning.shape)
    entering: FloatArray = pays + found.expected[t] - pays[:, [found.base[t]]]
    return entering


def choices(at: Known, found: Prices) -> IntArray:
    """The controller's set at each row, int64 [T]."""
    chosen = np.empty(len(found.weight), dtype=np.int64)
    loaded = np.ones((1, at.world.blocks), dtype=bool)
    for t in range(len(chosen)):
        chosen[t] = _entering(at, found, t, loaded)[0].argmin()
        loaded = found.end[t, chosen[t]][None]
    return chosen


def charge(at: Known, found: Prices, chosen: IntArray) -> float:
    """What sets are charged, one a row, as a plan's are in `least_charge`.

    By prices of other futures than those that the sets were chosen by: who judges a choice by the
    draws that it was made on takes their luck for its own.
    """
    loaded, total = np.ones((1, at.world.blocks), dtype=bool), 0.0
    for t, choice in enumerate(chosen.tolist()):
        total += float(_entering(at, found, t, loaded)[0, choice])
        loaded = found.end[t, choice][None]
    return total


def least_charge(at: Known, found: Prices) -> float:
    """The least that a plan is charged that knows all rows: at most what a causal one is, on average.

    Errors of the sampled prices can only lower it (the mean of a least is at most the least mean).
    """
    rows = len(found.weight)
    everything = np.ones((1, at.world.blocks), dtype=bool)
    least = _entering(at, found, 0, everything)[0]
    for t in range(1, rows):
        open_ones = np.flatnonzero(np.isfinite(least))
        # Sets that leave the same behind differ in nothing later: the cheapest stands for all.
        ends, group = np.unique(found.end[t - 1, open_ones], axis=0, return_inverse=True)
        cheapest = np.full(len(ends), np.inf)
        np.minimum.at(cheapest, group.ravel(), least[open_ones])
        least = (cheapest[:, None] + _entering(at, found, t, ends)).min(axis=0)
    return float(least.min())
