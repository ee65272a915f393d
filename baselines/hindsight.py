"""A small network that has seen, of every recorded row, what each kept set would have cost.

Of the frontier's sets that fit in the seconds known it keeps the one with the least

    loss(k) + stall(k) + near(headroom of k) + level(bytes of k)

nats an output token. loss and stall follow from the table and from what is loaded. `near` and `level`
are what the network says of the rest, what falls of the limit will cost and what has to come back
in the row after: two curves for each row, lines between knots, over what the set leaves free now and
over what it takes. Falls are as deep as the tenant's requests, which is the first axis, and end where its
pool is full, which is the second.

Arrivals and memory do not depend on what is kept, so all sets' costs are known in every pair of a
second and a demand of the record (`learning.counterfactual`), and those that its own next choice
causes are counted in (hindsight learning, Sinclair et al. 2023, arXiv:2207.06272). The network
minimises the expected cost of a soft choice: no rewards are sampled. What is shipped is an ensemble in one
file, whose members learn from resampled stretches of time.

Command of the published runs: rapgym train hindsight --seeds 3 --publish
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.learning.hindsight.features import Inputs
from rapgym.policies import trained
from rapgym.policies.policy import Briefing
from rapgym.policies.reference import frontier
from rapgym.policies.trained import TrainedPolicy
from rapgym.scenarios.lanes import TOKEN_SCALES
from rapgym.world import pace, stall
from rapgym.world.encoding import HISTORY
from rapgym.world.once import once_a_world
from rapgym.world.records import World

if TYPE_CHECKING:
    from rapgym.learning.hindsight.quick import Quick
    from rapgym.learning.training import Training

DEMANDS = (16, 128)  # of the record, at least and at most
MOST_ROWS = 2048  # whose demand says which sets are worth keeping, taken evenly


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run can choose; found on train rows, the same for every scenario."""

    members: int = 8  # of the ensemble
    width: int = 20  # of each of two layers
    knots: int = 20  # of each curve
    seconds: int = 12_000  # of the record, at most
    pairs: int = 240_000  # of a second and a demand, within `DEMANDS`
    rounds: int = 10  # checks of the learning curve
    patience: int = 5  # checks without a better one
    steps: int = 100  # of a round
    batch: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    temperature: float = 0.02  # nats, of the soft choice
    noise: float = 0.15  # added to inputs, in standard deviations
    stretch_rows: int = 20  # are resampled together
    # Switches of the ablations.
    history: bool = True
    kv_share: bool = True  # and every other feature of demand
    recent_seconds: bool = True
    continuation: bool = True


def kept_sets(briefing: Briefing) -> tuple[BoolArray, FloatArray]:
    """Sets of the frontier that are worth keeping.

    Returns:
        bool [K, N], best first, and their nll, [K].
    """
    front, chosen = frontier(briefing.quality), useful_sets(briefing)
    return front.kept[chosen], front.nll[chosen]


def useful_sets(briefing: Briefing) -> IntArray:
    """Which of the frontier are the best that fits at some limit, for a demand of the briefing, [K]."""
    return _useful_sets(briefing.train)


@once_a_world
def _useful_sets(world: World) -> IntArray:
    front, rows = frontier(world.quality), world.rows
    some = slice(None, None, -(-len(rows) // MOST_ROWS))
    scale = np.array([TOKEN_SCALES[0], 1.0, TOKEN_SCALES[1]])[:, None]
    prompt, reserved = (
        np.rint(scale * column[some]).astype(np.int64).ravel()
        for column in (rows.prompt_tokens, rows.reserved_tokens)
    )
    used = front.used_bytes(world.footprint, prompt + reserved, prompt)
    smallest = np.minimum.accumulate(used, axis=1)
    useful = (used[:, 1:] < smallest[:, :-1]).any(axis=0)
    found = np.flatnonzero(np.append(True, useful))
    found.setflags(write=False)
    return found


class Agent:
    """The set with the least cost by table and network; a decision takes a few matrix products."""

    lanes_apart = True
    builds_on = ("schema", "blocks")  # its inputs are found by name, whatever the length of a row
    _stands_in: Briefing | None = None  # whose world; it remembers no rows
    of_frontier: IntArray  # its sets' places among those of the frontier, once it is reset, [K]

    def __init__(self, file: str, sha256: str | None = None) -> None:
        self._begin(trained.load(file, sha256))

    @classmethod
    def of(cls, policy: TrainedPolicy) -> Self:
        """The agent of a policy that is in memory."""
        agent = cls.__new__(cls)
        agent._begin(policy)
        return agent

    def _begin(self, policy: TrainedPolicy) -> None:
        self._policy = policy

    def reset(self, batch: int, briefing: Briefing) -> None:
        """Stand in a world: its sets, their bytes, and the first layer in terms of observations.

        Raises:
            InvalidPolicy: the observations are not those that it was trained on.
        """
        if briefing is self._stands_in:
            return
        where, world, footprint = briefing.layout, briefing.train, briefing.footprint
        self._policy.check_layout(where)
        front, self.of_frontier = frontier(briefing.quality), useful_sets(briefing)
        self._kept, nll = front.kept[self.of_frontier], front.nll[self.of_frontier]
        self._loss = np.minimum(nll, world.ceiling)
        self._attention = self._kept[:, 0::2].sum(axis=1).astype(np.float64)
        ffn = self._kept[:, 1::2].sum(axis=1)
        self._ffn_share = ffn * (footprint.ffn_bytes / where.card_bytes)
        self._fixed_bytes = footprint.fixed_bytes + footprint.margin_bytes
        self._activation_bytes, self._unit = footprint.activation_bytes_per_token, where.token_unit
        # What each set's blocks take of a row to come back, one by one and all of them.
        shares = footprint.weights / stall.row_bytes(world)
        self._row_share = (self._kept * shares).astype(np.float32)
        self._row_bytes = self._row_share.sum(axis=1)
        self._to_lose = world.ceiling - self._loss
        self._card, self._bytes = float(where.card_bytes), footprint
        self._inputs = Inputs(where)
        self._read, self._limit = self._inputs.reader(), where.slice_of("limit")
        self._loaded = where.slice_of("loaded")
        self._prompt = where.slice_of("prompt_tokens").start
        self._reserved = where.slice_of("reserved_tokens").start
        self._where = where
        self._quick: Quick | None = None
        self._fold(self._policy.arrays, self._inputs.linear)
        self._stands_in = briefing

    def _fold(self, arrays: dict[str, np.ndarray], linear: FloatArray) -> None:
        """Members side by side, the scaling of features within the first layer's weights."""
        a = {name: array.astype(np.float64) for name, array in arrays.items()}
        members, features, width = a["w1"].shape
        first = a["w1"].transpose(1, 0, 2).reshape(features, -1) * a["scale"][:, None]
        second = np.zeros((members * width, members * width))
        for member, own in enumerate(a["w2"]):
            part = slice(member * width, (member + 1) * width)
            second[part, part] = own
        layers = (
            (linear.T @ first, a["b1"].ravel() - a["mean"] @ first),
            (second, a["b2"].ravel()),
            (a["w3"].reshape(members * width, -1) / members, a["b3"].mean(axis=(0, 1))),
        )
        self._layers = [tuple(np.ascontiguousarray(x, np.float32) for x in each) for each in layers]
        self._near, self._level = a["near"], a["level"]
        self._members, self._width = len(a["w1"]), width

    def propose(self, observation: FloatArray, rng: np.random.Generator) -> BoolArray:
        if self._quick is None and pace.is_loaded():
            self._quick = self._compiled()
        if self._quick is None:
            return self._kept[[self._choose(seen) for seen in observation]]
        chosen, whole = self._quick.chosen(observation)
        if not whole:  # two sets cost nearly the same: the reference tells
            for lane in np.flatnonzero(chosen < 0):
                chosen[lane] = self._choose(observation[lane])
        return self._kept.take(chosen, axis=0)

    def quick_costs(self, seen: FloatArray) -> FloatArray | None:
        """`costs` of one observation, but for `quick.NEAR`, by compiled code; None before that is loaded."""
        if self._quick is None and pace.is_loaded():
            self._quick = self._compiled()
        return None if self._quick is None else self._quick.costs(seen)

    def _compiled(self) -> "Quick":
        from rapgym.learning.hindsight import quick
        from rapgym.world.twin import fixed

        (first, first_bias), (second, second_bias), (third, third_bias) = self._layers
        width, foot, where = self._width, self._bytes, self._where
        parts = [slice(m * width, (m + 1) * width) for m in range(self._members)]
        start, now, recent, rest = self._inputs.places
        places = [start, now, recent, HISTORY, where.window_s, self._prompt, self._reserved,
                  self._limit.start, self._limit.stop - self._limit.start, self._loaded.start]  # fmt: skip
        sizes = [foot.layers, foot.attention_bytes, foot.model_kv_token_bytes, self._fixed_bytes]
        units = [self._unit, self._card, self._activation_bytes]
        net = quick.Net(
            fixed(np.array(places, dtype=np.int64)), fixed(rest.astype(np.int64)),
            fixed(first), fixed(first_bias), fixed(np.stack([second[p, p] for p in parts])),
            fixed(second_bias), fixed(third), fixed(third_bias), fixed(self._near),
            fixed(self._level), fixed(self._row_share.T), fixed(self._to_lose), fixed(self._loss),
            fixed(self._attention), fixed(self._ffn_share),
            fixed(np.array(sizes, dtype=np.int64)), fixed(np.array(units, dtype=np.float64)),
        )  # fmt: skip
        return quick.Quick(net)

    def _choose(self, seen: FloatArray) -> int:
        cost, used = self.costs(seen)
        best = int(cost.argmin())
        return best if cost[best] < np.inf else int(used.argmin())

    def costs(self, seen: FloatArray) -> tuple[FloatArray, FloatArray]:
        """What it minimises, of each of its K sets, and the share of the card that each takes.

        Args:
            seen: one observation, float32 [O].

        Returns:
            Nats an output token, infinite where a set does not fit, [K]; and [K].
        """
        prompt = round(seen.item(self._prompt) * self._unit)
        tokens = prompt + round(seen.item(self._reserved) * self._unit)
        per_attention = self._bytes.kept_attention_bytes(np.array(tokens))
        used = self._attention * (per_attention / self._card)
        used += self._ffn_share
        used += (self._fixed_bytes + math.ceil(self._activation_bytes * prompt)) / self._card
        limits = seen[self._limit]
        limit = limits.item(0) if len(limits) == 1 else float(limits.min())
        (first, first_bias), (second, second_bias), (third, third_bias) = self._layers
        hidden = self._read(seen).dot(first)
        hidden += first_bias
        hidden = np.tanh(hidden, out=hidden).dot(second)
        hidden += second_bias
        values = np.tanh(hidden, out=hidden).dot(third)
        values += third_bias
        split = len(self._near)
        cost = self._row_share.dot(seen[self._loaded])
        cost = np.minimum(self._row_bytes - cost, 1.0) * self._to_lose
        cost += self._loss
        cost += np.interp(limit - used, self._near, values[:split], left=np.inf)
        cost += np.interp(used, self._level, values[split:])
        return cost, used


def train(task: "Training") -> dict[str, np.ndarray]:
    """Learn on the task's rows; the arrays that cost least on its check split."""
    from rapgym.learning.hindsight.counterfactual import Recorded
    from rapgym.learning.hindsight.two_curves import Learner

    settings: Settings = task.settings
    told = task.briefing
    world = told.train
    seconds = min(settings.seconds, world.rows.limit_bytes.size)
    demands = int(np.clip(settings.pairs // seconds, *DEMANDS))
    recorded = Recorded.of(
        world, told.layout, kept_sets(told)[0], seconds=seconds, demands=demands,
        scales=TOKEN_SCALES, rng=np.random.default_rng([task.seed, 2]),
    )  # fmt: skip
    inputs = Inputs(told.layout)
    start = None if task.start is None else task.start.arrays
    learner = Learner(recorded, inputs, _blind(inputs, settings), settings, task.seed, start)
    if task.saved is None:
        task.begin(learner.arrays())
    else:
        learner.restore(task.saved)
    for turn in task.rounds(settings.rounds):
        regret = learner.learn(task.round_seed, turn)
        share, steps = (turn + 1) / settings.rounds, (turn + 1) * settings.steps
        if task.advance(share, learner.arrays(), steps=steps, state=learner.state, regret=regret):
            break
    return task.best


def _blind(inputs: Inputs, settings: Settings) -> BoolArray:
    """Features that an ablation hides, [F]."""
    hidden = {"demand"} if not settings.kv_share else set()
    if not settings.history:
        hidden |= {"history", "recent"}
    if not settings.recent_seconds:
        hidden.add("recent")
    return np.isin(inputs.group, sorted(hidden))
