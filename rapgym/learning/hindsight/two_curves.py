"""Learns two curves a row from the costs of all sets: near falls of the limit, and its lowest levels.

The network behind `baselines/hindsight.py`, which decides with it in NumPy. A set's cost is what the
table says of it, its stall, and the curves' values at what it leaves free and at what it takes.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.learning.hindsight.counterfactual import SIDES, Recorded
from rapgym.learning.training import float16

SAMPLE = 4096  # pairs that show how features vary
WARM_UP = 50  # steps
LEAST_RATE = 0.02  # of the learning rate, at the end
MOST_WEIGHT_AFTER = 3.0  # of the row after, over the row's own
STEADY = 1e-4  # a feature that varies less does not count
Weights = dict[str, torch.Tensor]


def curves(weights: Weights, features: torch.Tensor) -> torch.Tensor:
    """Scaled features [B, F] -> values at knots, [members, B, near and level]."""
    hidden = torch.tanh(features @ weights["w1"] + weights["b1"])
    hidden = torch.tanh(hidden @ weights["w2"] + weights["b2"])
    return hidden @ weights["w3"] + weights["b3"]


def interpolated(values: torch.Tensor, knots: FloatArray, places: FloatArray) -> torch.Tensor:
    """Curves through `values` [E, B, G] at places [B, K], constant beyond the knots: [E, B, K]."""
    before = np.clip(np.searchsorted(knots, places, side="right") - 1, 0, len(knots) - 2)
    share = np.clip((places - knots[before]) / np.diff(knots)[before], 0.0, 1.0)
    at, towards = torch.from_numpy(before), torch.from_numpy(share.astype(np.float32))
    at = at.expand(len(values), -1, -1)
    return values.gather(2, at) * (1 - towards) + values.gather(2, at + 1) * towards


def knots_of(values: FloatArray, count: int) -> FloatArray:
    """Quantiles of values: ascending, no two the same, float32 [2 to `count`]."""
    found = np.unique(np.quantile(values, np.linspace(0, 1, count)).astype(np.float32))
    return found if len(found) > 1 else np.array([found[0], found[0] + 1], dtype=np.float32)


class Learner:
    """An ensemble while it learns."""

    def __init__(
        self,
        recorded: Recorded,
        inputs: Callable[[FloatArray], FloatArray],
        blind: BoolArray,
        settings: Any,
        seed: int,
        start: dict[str, np.ndarray] | None = None,
    ) -> None:
        """
        Args:
            inputs: from observations [B, O] to features [B, F].
            blind: features that the network shall not see, [F].
            settings: `baselines.hindsight.Settings`.
            start: arrays of a policy to begin with, if any.
        """
        self._recorded, self._inputs, self._settings = recorded, inputs, settings
        world = recorded.world
        self._loss, self._ceiling = recorded.remains.loss[:, 0], world.ceiling
        self._card = recorded.layout.card_bytes
        self._limit = recorded.layout.slice_of("limit")
        self._used = recorded.used[..., 0] / self._card  # [3, D, K]
        if start is None:
            fixed, weights = self._begin(blind, np.random.default_rng(seed), seed)
        else:
            fixed = {name: start[name].astype(np.float64) for name in ("mean", "scale", "near", "level")}  # fmt: skip
            weights = {name: torch.from_numpy(start[name].astype(np.float32))
                       for name in ("w1", "b1", "w2", "b2", "w3", "b3")}  # fmt: skip
        self._fixed = fixed
        self.weights: Weights = {n: w.clone().requires_grad_() for n, w in weights.items()}
        self.optimizer = torch.optim.AdamW(
            self.weights.values(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        # Members differ by which stretches of time they learn from, and how often.
        stretch = recorded.second // (settings.stretch_rows * world.window_s)
        _, stretch = np.unique(stretch, return_inverse=True)
        drawn = np.random.default_rng([seed, 1]).poisson(
            1.0, (settings.members, int(stretch.max()) + 1)
        )
        counts = drawn if settings.members > 1 else np.ones_like(drawn)
        self._counts = torch.from_numpy(counts[:, stretch].astype(np.float32))

    def _begin(
        self, blind: BoolArray, rng: np.random.Generator, seed: int
    ) -> tuple[dict[str, FloatArray], Weights]:
        """Scaling, knots, and weights that say nothing yet."""
        recorded, settings = self._recorded, self._settings
        d, at = self._draw(rng, SAMPLE)
        loaded = np.ones((SAMPLE, recorded.world.blocks), dtype=bool)
        features = self._inputs(recorded.observe(0, d, at, loaded))
        spread = features.std(axis=0)
        scale = np.where(blind | (spread < STEADY), 0.0, 1.0 / np.maximum(spread, STEADY))
        falls = recorded.falls() / self._card
        falls = falls[falls > 0] if (falls > 0).any() else np.array([0.1])
        near = np.append(knots_of(falls, settings.knots - 3), falls.max() * np.array([1.5, 2.5]))
        near = np.unique(np.append(0.0, near).astype(np.float32))
        level = knots_of(recorded.world.rows.limit_bytes / self._card, settings.knots)
        fixed = {"mean": features.mean(axis=0), "scale": scale, "near": near, "level": level}
        members, width = settings.members, settings.width
        out, draw = len(near) + len(level), torch.Generator().manual_seed(seed)

        def normal(spread: float, *shape: int) -> torch.Tensor:
            return torch.randn(members, *shape, generator=draw) * spread

        weights = {
            "w1": normal(len(scale) ** -0.5, len(scale), width), "b1": normal(0.1, 1, width),
            "w2": normal(width**-0.5, width, width), "b2": torch.zeros(members, 1, width),
            "w3": normal(0.01 * width**-0.5, width, out), "b3": torch.zeros(members, 1, out),
        }  # fmt: skip
        return fixed, weights

    def arrays(self) -> dict[str, np.ndarray]:
        """As they are shipped."""
        rounded = float16({n: w.detach().numpy() for n, w in self.weights.items()})
        return rounded | {name: a.astype(np.float32) for name, a in self._fixed.items()}

    def state(self) -> dict[str, Any]:
        """All that the next round needs."""
        weights = {name: tensor.detach() for name, tensor in self.weights.items()}
        return {"weights": weights, "optimizer": self.optimizer.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Stand where `state` was given."""
        with torch.no_grad():
            for name, tensor in self.weights.items():
                tensor.copy_(torch.as_tensor(state["weights"][name]))
        self.optimizer.load_state_dict(state["optimizer"])

    def learn(self, seed: int, turn: int) -> float:
        """One round of steps; the mean regret of the soft choice in it, nats an output token."""
        settings, regrets = self._settings, []
        rng, whole = np.random.default_rng(seed), settings.rounds * settings.steps
        torch.manual_seed(seed)
        for step in range(turn * settings.steps, (turn + 1) * settings.steps):
            share = min(1.0, (step + 1) / WARM_UP) * max(LEAST_RATE, 1 - step / whole)
            for group in self.optimizer.param_groups:
                group["lr"] = settings.learning_rate * share
            regret = self._regret(*self._draw(rng, settings.batch))
            self.optimizer.zero_grad()
            regret.backward()
            self.optimizer.step()
            regrets.append(float(regret.detach()))
        return float(np.mean(regrets))

    def _draw(self, rng: np.random.Generator, count: int) -> tuple[IntArray, IntArray]:
        demands, seconds = len(self._recorded.row), len(self._recorded.second)
        return rng.integers(0, demands, count), rng.integers(0, seconds, count)

    def _regret(self, d: IntArray, at: IntArray) -> torch.Tensor:
        """What the soft choice costs above the best, by the costs that were recorded."""
        recorded, everything = self._recorded, np.ones((len(d), self._recorded.world.blocks), bool)
        free, _ = self._scores(-1, d, at, everything, 0.0)
        before = _least(free, self._used[0, d])
        passed = recorded.passed_before(d, at, before)
        stall = recorded.missing[before, passed] * (self._ceiling - self._loss)
        loaded = recorded.left(before, passed)
        scores, fits = self._scores(0, d, at, loaded, stall, learning=True)
        cost = recorded.cost[d, at] + stall
        if self._settings.continuation:
            cost = cost + self._after(d, at, scores.detach().mean(dim=0).numpy())
        best = np.where(fits, cost, np.inf).min(axis=1, keepdims=True)
        above = torch.from_numpy(np.where(fits, cost - best, 0.0).astype(np.float32))
        weight = recorded.weight[d] * fits.any(axis=1)
        chance = torch.softmax(-scores.clamp(max=1e6) / self._settings.temperature, dim=2)
        each = (chance * above).sum(dim=2) * torch.from_numpy(weight.astype(np.float32))
        return (each * self._counts[:, at]).mean()

    def _after(self, d: IntArray, at: IntArray, scores: FloatArray) -> FloatArray:
        """What has to come back in the row after costs there, [B, K], were its set chosen as now."""
        recorded = self._recorded
        now = _least(scores, self._used[1, d])
        passed = recorded.passed[d, at].astype(np.int64)
        gone = passed[np.arange(len(d)), now]
        stall = recorded.missing[now, gone] * (self._ceiling - self._loss)
        after, _ = self._scores(1, d, at, recorded.left(now, gone), stall)
        following = _least(after, self._used[2, d])
        share = recorded.missing[np.arange(scores.shape[1]), passed, following[:, None]]
        weight = recorded.weight_after[d] / np.maximum(recorded.weight[d], 1e-9)
        lost = np.minimum(weight, MOST_WEIGHT_AFTER) * (self._ceiling - self._loss[following])
        found: FloatArray = share * lost[:, None]
        return found

    def _scores(
        self, side: int, d: IntArray, at: IntArray, loaded: BoolArray, stall: Any,
        learning: bool = False,
    ) -> tuple[Any, BoolArray]:  # fmt: skip
        """What the choice minimises, infinite where a set does not fit; and which fit, [B, K].

        Returns:
            Of the ensemble, NumPy [B, K]; of each member in torch, [E, B, K], where it is learning.
        """
        seen = self._recorded.observe(side, d, at, loaded)
        used = self._used[SIDES.index(side), d]
        headroom = seen[:, self._limit].min(axis=1)[:, None].astype(np.float64) - used
        features = (self._inputs(seen) - self._fixed["mean"]) * self._fixed["scale"]
        scaled = torch.from_numpy(features.astype(np.float32))
        certain = torch.from_numpy(
            np.where(headroom >= 0, self._loss + stall, np.inf).astype(np.float32)
        )
        with torch.set_grad_enabled(learning):
            if learning:
                scaled = scaled + self._settings.noise * torch.randn_like(scaled)
            values = curves(self.weights, scaled)
            values = values if learning else values.mean(dim=0, keepdim=True)
            split = len(self._fixed["near"])
            near = interpolated(values[..., :split], self._fixed["near"], headroom)
            scores = certain + near + interpolated(values[..., split:], self._fixed["level"], used)
        return (scores if learning else scores[0].numpy()), headroom >= 0


def _least(scores: FloatArray, used: FloatArray) -> IntArray:
    """The set with the least score of each row; the smallest where none fits, [B]."""
    found: IntArray = np.where(
        np.isfinite(scores).any(axis=1), scores.argmin(axis=1), used.argmin(axis=1)
    )
    return found
