"""Least expected cost over recorded futures that a learned metric chooses.

What the limit does owes nothing to what is kept, so each recorded stretch of it prices every kept
set exactly, as in `forecast`, whose J is minimised here too. Learned is which stretches count. The
seconds before now and those before stretch j go through one small network e, and j weighs

    w_j = (1 - blend) * nearness_j + blend * mean over networks of softmax_j(-|e(now) - e(j)|^2),

nearness being that of `forecast`. The networks are fitted to what was seen in hindsight: for each
second ahead and each threshold, the weighted share of stretches whose limit had fallen by so much
should say whether it now does (the Brier score, a proper one), no stretch being weighed that touches
the seconds it is asked about. Then blend, shift, caution and later, which are few, are chosen by
exact cost on rows that the networks did not see. Fitting thousands of weights to costs of single
futures instead, however exact those are, did worse: one hour holds too few of them.

Sources: hindsight learning for decision processes with exogenous inputs, Sinclair et al. 2023,
arXiv:2207.06272, and the variance that inputs bring, Mao et al. 2019, arXiv:1807.02264; the metric is
learned as in neighbourhood components analysis, Goldberger et al. 2004; Brier 1950.

Command of the published runs: rapgym train hindsight_futures --seeds 5 --publish
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from rapgym.baselines.forecast import Forecast, features
from rapgym.encoding import HISTORY
from rapgym.errors import InvalidPolicy
from rapgym.policies import trained
from rapgym.policies.policy import Briefing
from rapgym.policies.trained import TrainedPolicy
from rapgym.specs import FloatArray, IntArray
from rapgym.world import World

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rapgym.learning.training import Training

FUTURES = 128  # that count in one decision
MOST_STRETCHES = 4096  # taken evenly from longer splits
MOST_LEARNED = 65_536  # likewise, to fit the networks to
LARGEST = 6.0  # inputs are cut at plus and minus this many deviations
SCALING = ("level_unit", "mean", "scale")  # arrays of a policy besides its networks'


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run can choose; found on check splits, the same for every scenario."""

    networks: int = 2  # whose weights are averaged
    steps: int = 300  # of the optimiser, each
    asked: int = 256  # stretches in a step whose future is to be told
    known: int = 1024  # stretches in a step that may tell it
    units: int = 32  # of each of two hidden layers
    dimensions: int = 8  # of the space in which stretches are near
    dropout: float = 0.2
    learning_rate: float = 2e-3
    decay: float = 0.02
    thresholds: int = 24
    # Tried on the check split, the first of each before.
    shifts: tuple[float, ...] = (0.0, 1.0)
    blends: tuple[float, ...] = (1.0, 0.5, 0.0)
    cautions: tuple[float, ...] = (1.0, 0.8, 1.25)
    laters: tuple[float, ...] = (1.0,)


@dataclass(frozen=True, slots=True)
class Stretches:
    """P stretches of a split's limit: the seconds until one, and those after it that are not known."""

    past: IntArray  # limits, oldest first, [P, S]
    ahead: IntArray  # in the seconds after it, [P, A]
    last: IntArray  # second of the split in which the past ends, ascending, [P]

    @classmethod
    def of(cls, world: World, most: int) -> Self:
        """The stretches of a world's rows, beginning in any second, `most` of them."""
        limit, window_s = world.rows.limit_bytes, world.window_s
        past_s = HISTORY * window_s + 1
        ahead_s = window_s - min(1 + world.notice_s, window_s)
        # As in observations, what was before the first row repeats its first second.
        seconds = np.concatenate([np.repeat(limit[0, :1], past_s - 1), limit.ravel()])
        every = sliding_window_view(seconds, past_s + ahead_s)
        last = np.arange(len(every))[:: -1 - (len(every) - 1) // most][::-1]
        return cls(every[last, :past_s], every[last, past_s:], last)

    def falls(self) -> IntArray:
        """By how much the limit has fallen in each second ahead at the worst, 0 or less, [P, A]."""
        if not self.ahead.shape[1]:
            return self.ahead
        lowest = np.minimum.accumulate(self.ahead, axis=1)
        return np.minimum(lowest - self.past[:, -1:], 0)


def inputs(past: IntArray, level: float, unit: float) -> FloatArray:
    """What the networks see, before scaling: limits [..., S], oldest first -> float64 [..., I].

    In units of `unit`, levels against `level`: each of the last 24 seconds against now; what
    `forecast` looks at; the same over 3, 4, 20 and all seconds, and how restless they were; every
    fourth of the seconds from the lowest to the highest.
    """
    seconds = past / unit
    now, recent = seconds[..., -1], seconds[..., -20:]
    steps = np.abs(np.diff(seconds, axis=-1))
    told = features(past) / unit
    told[..., 0] -= level / unit
    more = (
        now - seconds[..., -3],
        now - seconds[..., -4:].min(axis=-1),
        now - recent.mean(axis=-1),
        now - recent.min(axis=-1),
        now - seconds.mean(axis=-1),
        now - seconds.min(axis=-1),
        now - seconds.max(axis=-1),
        seconds.std(axis=-1),
        steps[..., -8:].mean(axis=-1),
        steps.mean(axis=-1),
    )
    before = (seconds[..., :-1] - now[..., None])[..., -24:].clip(-LARGEST, LARGEST)
    levels = np.sort(seconds[..., 1:], axis=-1)[..., ::4] - level / unit
    return np.concatenate([before, told, np.stack(more, axis=-1), levels], axis=-1)


@dataclass(frozen=True, slots=True)
class Metric:
    """The networks: limits of past seconds -> a place in the space where stretches are near."""

    level: float
    unit: float
    mean: FloatArray  # of the inputs, [I]
    scale: FloatArray
    layers: tuple[tuple[FloatArray, FloatArray], ...]  # weights [M, in, out], biases [M, 1, out]

    @classmethod
    def of(cls, arrays: dict[str, np.ndarray]) -> Self:
        level, unit = arrays["level_unit"].tolist()
        layers = tuple(
            (arrays[f"weight{i}"].astype(np.float32), arrays[f"bias{i}"].astype(np.float32))
            for i in range(3)
        )
        return cls(level, unit, arrays["mean"], arrays["scale"], layers)

    def scaled(self, past: IntArray) -> FloatArray:
        """Inputs of the networks, float32 [P, I]."""
        seen = (inputs(past, self.level, self.unit) - self.mean) / self.scale
        return seen.clip(-LARGEST, LARGEST).astype(np.float32)

    def places(self, past: IntArray) -> FloatArray:
        """Limits [P, S] -> one place for each network, float32 [M, P, D]."""
        found = self.scaled(past)[None]
        for i, (weight, bias) in enumerate(self.layers):
            found = found @ weight + bias
            if i + 1 < len(self.layers):
                found = found / (1 + np.exp(-found))
        return found


class LearnedFutures:
    """Recorded stretches, weighed for what is seen now; in place of `forecast.Futures`."""

    def __init__(self, stretches: Stretches, metric: Metric, blend: float) -> None:
        self._stretches, self._metric, self._blend = stretches, metric, blend
        self._places = metric.places(stretches.past)
        self._square = (self._places**2).sum(axis=2)
        told = features(stretches.past)
        self._unit = np.maximum(told.std(axis=0), 1.0) * np.array([1.0, 2.0, 2.0, 2.0, 2.0, 2.0])
        self._told = np.ascontiguousarray((told / self._unit).T)
        seconds = (stretches.past[:, -1:], stretches.ahead)
        self._lowest = min(int(part.min(initial=stretches.past.min())) for part in seconds)
        self._highest = max(int(part.max(initial=stretches.past.max())) for part in seconds)

    def weights(self, past: IntArray) -> FloatArray:
        """How much each stretch counts where the limit was `past`, float64 [P], sum 1."""
        found = np.zeros(len(self._stretches.past))
        if self._blend > 0:
            place = self._metric.places(past[None])
            score = 2 * (self._places @ place.transpose(0, 2, 1))[..., 0] - self._square
            near = np.exp(score - score.max(axis=1, keepdims=True))
            found += self._blend * (near / near.sum(axis=1, keepdims=True)).mean(axis=0)
        if self._blend < 1:
            distance = ((self._told - (features(past) / self._unit)[:, None]) ** 2).sum(axis=0)
            n = min(FUTURES, len(distance))
            nearest = np.argpartition(distance, n - 1)[:n]
            near = 1 - distance[nearest] / max(1.01 * distance[nearest].max(), 1e-12)
            found[nearest] += (1 - self._blend) * near / near.sum()
        return found

    def after(self, past: IntArray, shift: float) -> tuple[IntArray, FloatArray]:
        """As `forecast.Futures.after`: limits of the seconds ahead, [n, A], and weights, [n]."""
        weight = self.weights(past)
        n = min(FUTURES, len(weight))
        chosen = np.argpartition(weight, len(weight) - n)[-n:]
        moved = np.rint(shift * (past[-1] - self._stretches.past[chosen, -1])).astype(np.int64)
        ahead = self._stretches.ahead[chosen] + moved[:, None]
        return ahead.clip(self._lowest, self._highest), weight[chosen] / weight[chosen].sum()


class Agent(Forecast):
    """At each row the set of the frontier with the least expected cost over weighed futures."""

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
        shift, caution, later, self._blend = policy.arrays["choice"].tolist()
        super().__init__(shift, caution, later)

    def reset(self, batch: int, briefing: Briefing) -> None:
        """Stand in a world: the briefing's rows are the recorded futures.

        Raises:
            InvalidPolicy: the observations are not those that it was trained on.
        """
        self._policy.check_layout(briefing.layout)
        super().reset(batch, briefing)

    def _all_futures(self) -> Any:
        stretches = Stretches.of(self._world, MOST_STRETCHES)
        return LearnedFutures(stretches, Metric.of(self._policy.arrays), self._blend)


def train(task: "Training") -> dict[str, np.ndarray]:
    """Fit the networks, one a round; then one round for each choice; the best on the check split."""
    settings: Settings = task.settings
    stretches = Stretches.of(task.briefing.train, MOST_LEARNED)
    past_s = stretches.past.shape[1]
    if len(stretches.past) < 4 * past_s:
        raise InvalidPolicy("too few rows: each stretch would be told its own future")
    initial = None if task.start is None else task.start.arrays
    arrays = _scaling(stretches) if initial is None else {n: initial[n] for n in SCALING}
    if task.saved is not None:
        arrays = {name: np.asarray(array) for name, array in task.saved["arrays"].items()}
    tried = [*product(settings.shifts, settings.cautions, settings.laters, settings.blends)]
    count = settings.networks + len(tried)
    for round in task.rounds(count):
        if round < settings.networks:
            arrays |= _with(arrays, _fitted(arrays, initial, round, stretches, settings))
        arrays["choice"] = np.array(tried[max(round - settings.networks, 0)])
        state = {"arrays": dict(arrays)}
        if task.advance((round + 1) / count, arrays, state=partial(dict, state)):
            break
    return task.best


def _scaling(stretches: Stretches) -> dict[str, np.ndarray]:
    """Level and unit of the limit; mean and deviation of each input."""
    now = stretches.past[:, -1]
    level, unit = float(now.mean()), max(float(now.std()), 1.0)
    seen = inputs(stretches.past, level, unit)
    scale = seen.std(axis=0) + 1e-3
    return dict(zip(SCALING, (np.array([level, unit]), seen.mean(axis=0), scale), strict=True))


def _with(
    arrays: dict[str, np.ndarray], layers: Sequence[tuple[FloatArray, FloatArray]]
) -> dict[str, np.ndarray]:
    """The layers of all networks so far and of one more, rounded to float16."""
    found = {}
    for i, layer in enumerate(layers):
        for name, array in zip((f"weight{i}", f"bias{i}"), layer, strict=True):
            new = np.atleast_2d(array)[None].astype(np.float16)
            found[name] = np.concatenate([arrays[name], new]) if name in arrays else new
    return found


def _fitted(
    arrays: dict[str, np.ndarray],
    initial: dict[str, np.ndarray] | None,
    which: int,
    stretches: Stretches,
    settings: Settings,
) -> list[tuple[FloatArray, FloatArray]]:
    """Weights [in, out] and biases [out] of one network, by the Brier score of falls.

    Args:
        arrays: hold the scaling of inputs.
        initial: of a policy that it begins as, its network number `which`.
    """
    import torch
    from torch import nn

    metric = Metric(*arrays["level_unit"].tolist(), arrays["mean"], arrays["scale"], ())
    seen = torch.from_numpy(metric.scaled(stretches.past))
    sizes = [seen.shape[1], settings.units, settings.units, settings.dimensions]
    linear = [nn.Linear(a, b) for a, b in pairwise(sizes)]
    if initial is not None:
        for i, layer in enumerate(linear):
            weight = initial[f"weight{i}"][which % len(initial[f"weight{i}"])]
            bias = initial[f"bias{i}"][which % len(initial[f"bias{i}"])]
            layer.weight.data = torch.from_numpy(weight.astype(np.float32).T.copy())
            layer.bias.data = torch.from_numpy(bias[0].astype(np.float32))
    dropped = nn.Dropout(settings.dropout)
    network = nn.Sequential(linear[0], nn.SiLU(), dropped, linear[1], nn.SiLU(), linear[2])
    falls = stretches.falls() / metric.unit
    some = np.unique(falls[falls < 0])
    if len(some):  # else nothing ever falls, and any metric will do
        levels = np.quantile(falls[falls < 0], np.linspace(0.02, 0.98, settings.thresholds))
        fell = torch.from_numpy(falls[:, :, None] <= levels).flatten(1).float()
        last = torch.from_numpy(stretches.last.copy())
        touching = stretches.past.shape[1] + stretches.ahead.shape[1]
        _descend(network, seen, fell, last, touching, settings)
    return [(layer.weight.detach().numpy().T, layer.bias.detach().numpy()) for layer in linear]


def _descend(
    network: "nn.Module",
    seen: "torch.Tensor",
    fell: "torch.Tensor",
    last: "torch.Tensor",
    touching: int,
    settings: Settings,
) -> None:
    """Fit a network in place.

    Args:
        seen: inputs, [P, I].
        fell: whether the limit fell by so much, 1 or 0, [P, seconds * thresholds].
        last: second in which each past ends, [P]; stretches nearer than `touching` are not weighed.
    """
    import torch

    optimizer = torch.optim.AdamW(
        network.parameters(), lr=settings.learning_rate, weight_decay=settings.decay
    )
    decline = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, settings.steps)
    for _ in range(settings.steps):
        asked = torch.randint(len(seen), (settings.asked,))
        known = torch.randint(len(seen), (settings.known,))
        places = network(seen[asked]), network(seen[known])
        touches = (last[asked, None] - last[known]).abs() < touching
        brier = brier_score(*places, fell[asked], fell[known], touches)
        optimizer.zero_grad()
        brier.backward()
        optimizer.step()
        decline.step()


def brier_score(
    here: "torch.Tensor",
    there: "torch.Tensor",
    fell_here: "torch.Tensor",
    fell_there: "torch.Tensor",
    touches: "torch.Tensor",
) -> "torch.Tensor":
    """Of what near stretches say of each fall, against what came, the mean.

    Args:
        here, there: places of the Q stretches that are asked about [Q, D], of those that tell [K, D].
        fell_here, fell_there: whether each of F falls came, 1 or 0, [Q, F] and [K, F].
        touches: which tellers share seconds with what is asked, and say nothing, bool [Q, K].
    """
    score = 2 * here @ there.T - (there**2).sum(dim=1)
    weight = score.masked_fill(touches, -1e9).softmax(dim=1)
    return ((weight @ fell_there - fell_here) ** 2).mean()
