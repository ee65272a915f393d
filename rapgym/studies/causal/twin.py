"""A synthetic twin of a scenario's train rows, whose futures have a distribution that is known.

A Markov chain over the recorded seconds: from second s it goes on with the successor of one of the
seconds that were most like s, each as likely (the local bootstrap for Markov processes: Paparoditis
& Politis 2002). Demand moves likewise from row to row, and a row's outputs are those of one of the
rows with nearly its batch. So a twin looks like the trace that it is made of, goes on for as long
as wanted, and of each of its moments it is known what may follow, and how likely.

How many seconds count as most like s decides how much of the future is knowable: few, and a twin
follows its trace word by word; many, and it forgets what the trace remembers. `fit` takes the
number with the least error of prediction (CRPS: Gneiting & Raftery 2007) of what the trace itself
did next, at a moment whose own surroundings are left out.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from rapgym.arrays import FloatArray, IntArray
from rapgym.errors import InvalidSpec
from rapgym.scenarios import worlds
from rapgym.scenarios.story import Scenario
from rapgym.workload import series
from rapgym.workload.series import NOT_KEPT, Series

NEIGHBOURS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
BLUR = 0.01  # moments that are all alike, idle ones for instance, shall not name the same few
BALANCING, ROUGHLY = 400, 40  # rounds: what is off by little in each state adds up along a walk
SLOW_WEIGHT = 1.0
SLOW_SECONDS, SLOW_ROWS = (60,), (16, 64)
APART = 60  # steps: what is nearer in time does not count as a neighbour
# Of a long trace this many stretches of so many seconds, evenly spread, stand for the whole.
STRETCHES, STRETCH_S = 12, 1800
OUTPUTS = 32  # rows whose outputs a row may have
QUERIES, PATHS = 3000, 32  # moments predicted to choose a number of neighbours, and futures of each
_CHUNK = 512


@dataclass(frozen=True, slots=True, eq=False)
class Chain:
    """A Markov chain over S states, each with k successors."""

    successors: IntArray  # [S, k]
    until: FloatArray  # their chances, added up: the last is 1, [S, k]

    def __len__(self) -> int:
        return len(self.successors)

    def walks(self, start: IntArray, steps: int, rng: np.random.Generator) -> IntArray:
        """States after 1, 2, ... steps from each start: int64 [n] -> [n, steps]."""
        states, now = np.empty((len(start), steps), dtype=np.int64), start
        for step in range(steps):
            choice = (rng.random(len(now))[:, None] >= self.until[now]).sum(axis=1)
            now = states[:, step] = self.successors[now, choice]
        return states

    def walk(self, steps: int, rng: np.random.Generator) -> IntArray:
        """One long walk from a drawn state, int64 [steps]."""
        now, states = int(rng.integers(len(self))), np.empty(steps, dtype=np.int64)
        following, until = self.successors.tolist(), self.until.tolist()
        for step, drawn in enumerate(rng.random(steps).tolist()):
            states[step] = now = following[now][bisect_right(until[now], drawn)]
        return states


def features(values: FloatArray, slow: Sequence[int]) -> FloatArray:
    """What each moment and its past are like: [P, S] of P stretches -> [P, S, F], in own deviations.

    The value, how far it lies from one and from three steps before and from the mean, the least and
    the greatest of the last eight; and means over longer pasts. Differences count half, and long
    means twice: who mistakes a busy hour for a quiet one is wrong for long.

    Args:
        slow: steps of the longer pasts, which end at the stretch's beginning.
    """
    longest = max(slow)
    long = np.concatenate([np.repeat(values[:, :1], longest - 1, axis=1), values], axis=1)
    past = sliding_window_view(long, longest, axis=1)
    now, last = past[..., -1], past[..., -8:]
    before = (
        past[..., -2],
        past[..., -4],
        last.mean(axis=-1),
        last.min(axis=-1),
        last.max(axis=-1),
    )
    added = np.cumsum(values, axis=1)
    columns = [now, *(now - other for other in before)]
    for steps in slow:
        count = np.minimum(np.arange(values.shape[1]) + 1, steps)
        ago = np.concatenate([np.zeros((len(values), steps)), added], axis=1)[:, :-steps]
        columns.append((added - ago) / count)
    found = np.stack(columns, axis=-1).astype(np.float64)
    deviation = found.std(axis=(0, 1))
    weight = np.array([1.0, *[0.5] * 5, *[SLOW_WEIGHT] * len(slow)])
    blur = np.random.default_rng(0).normal(scale=BLUR, size=found.shape)
    return found / np.where(deviation > 0, deviation, 1.0) * weight + blur


def nearest(what: FloatArray, count: int, apart: int) -> IntArray:
    """The `count` states most like each, nearest first: float64 [P, S, F] -> int64 [P S, count].

    Args:
        apart: states nearer in time than that, in the same stretch, are not looked at; neither is
            the last of a stretch, which has no successor.

    Raises:
        InvalidSpec: there are too few states.
    """
    stretches, length, width = what.shape
    flat = what.reshape(-1, width)
    if len(flat) - stretches - 2 * apart < count:
        raise InvalidSpec(f"{len(flat)} moments are too few for {count} neighbours of each")
    squares = (flat**2).sum(axis=1)
    last = np.arange(1, stretches + 1) * length - 1
    found = np.empty((len(flat), count), dtype=np.int64)
    for first in range(0, len(flat), _CHUNK):
        rows = np.arange(first, min(first + _CHUNK, len(flat)))
        distance = squares - 2 * flat[rows] @ flat.T
        distance[:, last] = np.inf
        for i, row in enumerate(rows):
            start = row // length * length
            near = slice(max(row - apart, start), min(row + apart + 1, start + length))
            distance[i, near] = np.inf
        some = np.argpartition(distance, count - 1, axis=1)[:, :count]
        order = np.argsort(np.take_along_axis(distance, some, axis=1), axis=1)
        found[rows] = np.take_along_axis(some, order, axis=1)
    return found


def balanced(likes: IntArray, rounds: int = BALANCING) -> FloatArray:
    """Chances of each neighbour, [S, k], so that all states are visited about as often.

    Rows and columns are scaled in turn (Sinkhorn & Knopp 1967). With equal chances a walk would stay
    among ordinary moments, which are like many others, and seldom meet the extreme ones.
    """
    chance = np.full(likes.shape, 1 / likes.shape[1])
    for _ in range(rounds):
        visits = np.bincount(likes.ravel(), chance.ravel(), minlength=len(likes))
        chance = chance / visits[likes]
        chance = chance / chance.sum(axis=1, keepdims=True)
    return chance


def crps(drawn: FloatArray, true: FloatArray) -> FloatArray:
    """Continuous ranked probability score of n draws: [Q, n], [Q] -> [Q]; less is better.

    E|X - y| - E|X - X'| / 2, the second over distinct draws: unbiased for any n.
    """
    n = drawn.shape[1]
    ordered = np.sort(drawn, axis=1)
    spread = (ordered * (2 * np.arange(n) - n + 1)).sum(axis=1) * 2 / (n * (n - 1))
    error: FloatArray = np.abs(drawn - true[:, None]).mean(axis=1) - spread / 2
    return error


@dataclass(frozen=True, slots=True, eq=False)
class Predicted:
    """What a chain said at moments of its own trace, whose surroundings it did not use."""

    drawn: FloatArray  # greatest value of the steps ahead in each future, [Q, n]
    true: FloatArray  # and in the trace, [Q]

    @property
    def error(self) -> float:
        """Mean CRPS."""
        return float(crps(self.drawn, self.true).mean())

    def below(self, share: float) -> float:
        """How often the truth lay below the `share` quantile of what was said: `share`, at best.

        What is often said and often true, that nothing moves, lies below and above in proportion.
        """
        least = (self.drawn < self.true[:, None]).mean(axis=1)
        same = (self.drawn == self.true[:, None]).mean(axis=1)
        part = (share - least) / np.where(same > 0, same, 1.0)
        inside = np.where(same > 0, np.clip(part, 0.0, 1.0), least < share)
        return float(inside.mean())


def predicted(
    values: FloatArray,
    likes: IntArray,
    chance: FloatArray,
    steps: int,
    apart: int,
    rng: np.random.Generator,
) -> Predicted:
    """Predict the greatest value of the next `steps` at moments of the trace.

    Args:
        values: [P, S]; likes, chance: neighbours of each moment, [P S, k].
    """
    stretches, length = values.shape
    flat, place = values.ravel(), np.arange(values.size).reshape(stretches, length)
    moments = place[:, : length - steps].ravel()
    moments = moments[:: -(-len(moments) // QUERIES)]
    ahead = sliding_window_view(values, steps, axis=1)[:, 1:].reshape(-1, steps)
    asked = (moments // length) * (length - steps) + moments % length
    now = np.repeat(moments, PATHS)
    origin, most = now, np.full(len(now), -np.inf)
    for _ in range(steps):
        # A walk that came back to its own surroundings would know how the trace went on.
        after = likes[now] + 1
        known = (np.abs(after - origin[:, None]) <= apart) & (
            after // length == origin[:, None] // length
        )
        # The least of exponential times: each with its chance, and what is known last.
        key = rng.standard_exponential(after.shape) / chance[now] + np.where(known, 1e9, 0.0)
        now = after[np.arange(len(after)), key.argmin(axis=1)]
        most = np.maximum(most, flat[now])
    return Predicted(most.reshape(-1, PATHS), ahead[asked].max(axis=1))


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A chain, and how its number of neighbours was found."""

    chain: Chain
    errors: dict[int, float]  # CRPS by number of neighbours
    check: Predicted  # with the number that was taken


def fit_chain(
    values: FloatArray,
    what: FloatArray,
    steps: int,
    apart: int = APART,
    counts: Sequence[int] = NEIGHBOURS,
) -> Fitted:
    """The chain over the moments of a trace, [P, S], that predicts `steps` ahead best."""
    likes = nearest(what, max(counts), apart)
    tried = {
        k: predicted(
            values,
            likes[:, :k],
            balanced(likes[:, :k], ROUGHLY),
            steps,
            apart,
            np.random.default_rng(0),
        )
        for k in counts
    }
    errors = {k: said.error for k, said in tried.items()}
    best = min(errors, key=lambda k: errors[k])
    until = np.cumsum(balanced(likes[:, :best]), axis=1)
    return Fitted(Chain(likes[:, :best] + 1, until / until[:, -1:]), errors, tried[best])


@dataclass(frozen=True, slots=True, eq=False)
class Twin:
    """What a twin of a scenario's workload is drawn from."""

    story: Scenario  # whose train rows it imitates
    tenant: Fitted  # from second to second
    held: IntArray  # tenant's tokens in each of its states, [S]
    demand: Fitted  # from row to row
    asked: IntArray  # batch, prompt tokens and longest prompt in each of its states, [R, 3]
    outputs: IntArray  # each as likely for a row in that state, [R, J]
    reserve_tokens: int
    origin: dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """Rows drawn from a twin, and the states behind them."""

    rows: Series
    second: IntArray  # state of the tenant in each second, [T, W]
    row: IntArray  # state of demand, [T]


def fit(story: Scenario, neighbours: int | None = None) -> Twin:
    """The twin of a scenario's train rows.

    Args:
        neighbours: how many seconds count as most like one, in place of the number that predicts
            best: to see what hangs on it.

    Raises:
        InvalidSpec: its train rows are too few, or follow no single stretch of time.
    """
    if story.splits == "blocked" or story.notice_s:
        raise InvalidSpec(f"{story.name}: twins are made of splits by time without notice")
    whole = worlds.workload(story)
    train = whole.part(series.split_rows(len(whole), "train", story.splits))
    window = train.window_s
    stretches = _stretches(len(train), max(STRETCH_S // window, 1))
    held = train.tenant_tokens[stretches].reshape(len(stretches), -1)
    asked = np.stack([train.batch, train.prompt_tokens, train.longest_prompt_tokens], axis=1)[
        stretches
    ]
    tokens = (asked[..., 1] + asked[..., 0] * train.reserve_tokens).astype(np.float64)
    seconds = held.astype(np.float64)
    counts = NEIGHBOURS if neighbours is None else (neighbours,)
    tenant = fit_chain(seconds, features(seconds, SLOW_SECONDS), window - 1, counts=counts)
    demand = fit_chain(tokens, _demand_features(asked), 1, apart=8)
    flat = asked.reshape(-1, 3)
    output = train.output_tokens[stretches].ravel()
    return Twin(
        story, tenant, held.ravel(), demand, flat, _outputs(flat[:, 0], output, train.reserve_tokens),
        train.reserve_tokens,
        {"pool_tokens": story.pool_tokens, "twin_of": story.id,
         "neighbours": tenant.chain.successors.shape[1]},
    )  # fmt: skip


def _stretches(rows: int, length: int) -> IntArray:
    """Row numbers of evenly spread stretches, [P, S]; a single one where the trace is short."""
    if rows <= STRETCHES * length:
        return np.arange(rows)[None]
    first = np.linspace(0, rows - length, STRETCHES).astype(np.int64)
    return first[:, None] + np.arange(length)


def _demand_features(asked: IntArray) -> FloatArray:
    """Batch and prompt tokens, and what they were like before: [P, S, 3] -> [P, S, 14]."""
    columns = (asked[..., 0], asked[..., 1])
    return np.concatenate(
        [features(column.astype(np.float64), SLOW_ROWS) for column in columns], axis=-1
    )


def _outputs(batch: IntArray, output: IntArray, reserve: int) -> IntArray:
    """Outputs of the rows with nearly the same batch, scaled to it, [R, J]."""
    served = np.flatnonzero(batch > 0)
    count = min(OUTPUTS, len(served))
    found = np.zeros((len(batch), count), dtype=np.int64)
    ordered = served[np.argsort(batch[served], kind="stable")]
    middle = np.searchsorted(batch[ordered], batch)
    first = np.clip(middle - count // 2, 0, len(ordered) - count)
    near = ordered[first[:, None] + np.arange(count)]
    scaled = np.rint(output[near] / batch[near] * batch[:, None]).astype(np.int64)
    found[:] = np.minimum(scaled, batch[:, None] * reserve)
    return found


def draw(twin: Twin, rows: int, seed: int) -> Drawn:
    """Rows of a twin; a seed fixes them."""
    rng, window = np.random.default_rng([seed, rows]), twin.story.window_s
    second = twin.tenant.chain.walk(rows * window, rng).reshape(rows, window)
    row = twin.demand.chain.walk(rows, rng)
    output = twin.outputs[row, rng.integers(twin.outputs.shape[1], size=rows)]
    batch, prompt, longest = twin.asked[row].T.copy()
    unlisted = np.array([NOT_KEPT] * rows, dtype=object)
    origin = twin.origin | {"rows": rows, "seed": seed, "synthetic": True}
    drawn = Series(
        window, twin.reserve_tokens, batch, prompt, output, longest, twin.held[second], unlisted, origin
    )  # fmt: skip
    return Drawn(drawn, second, row)


def write(twin: Twin, drawn: Drawn, folder: Path) -> Scenario:
    """A scenario of drawn rows, kept in a folder: the twin's in everything but its workload.

    Whatever serves, trains on or scores a scenario does so with this one; no list names it.
    """
    about = drawn.rows.origin
    name = f"twin-{twin.story.name}-{about['neighbours']}-{about['rows']}-{about['seed']}"
    path = folder.resolve() / f"{name}.csv.gz"
    series.write(drawn.rows, path)
    return replace(
        twin.story,
        name=name,
        story=f"Drawn from what the train rows of {twin.story.name} were like.",
        workload=str(path).removesuffix(".csv.gz"),  # an absolute path: not one of traces/
        trace="twin",  # nor one that is drawn from a trace's name
        synthetic=True,
        group="own",
        offsets=1,  # further rows are drawn, not paired anew
        splits="time",
        series_sha256="",
    )
