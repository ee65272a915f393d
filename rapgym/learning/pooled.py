"""One network that learns from several scenarios at once, in units that they share.

Features, headroom and bytes are shares of each scenario's card; regrets are divided by what the lookup
loses there, so that each scenario weighs the same. Scenarios take turns, a batch each, in one step.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from rapgym.arrays import BoolArray, FloatArray
from rapgym.learning.hindsight.counterfactual import Recorded
from rapgym.learning.hindsight.two_curves import LEAST_RATE, SAMPLE, WARM_UP, Learner, knots_of

LEAST_REGRET = 1e-3  # nats an output token; less is not worth magnifying
HARD = 1e-6  # nats: a soft choice that is the least one
Features = Callable[[FloatArray], FloatArray]


class Pool:
    """A `Learner` for each scenario, all with the same weights, scaling and knots."""

    def __init__(
        self,
        records: Sequence[tuple[Recorded, Features]],
        blind: BoolArray,
        settings: Any,
        seed: int,
    ) -> None:
        """
        Args:
            records: of each scenario, and how its observations become features.
            blind, settings: as `Learner` has them; `batch` is divided among the scenarios.
        """
        alone = [Learner(each, read, blind, settings, seed) for each, read in records]
        start = _start(alone, settings, seed)
        self._settings = settings
        self._learners = [
            Learner(each, read, blind, settings, seed, start) for each, read in records
        ]
        first = self._learners[0]
        for learner in self._learners[1:]:
            learner.weights = first.weights
        self._optimizer, self.weights = first.optimizer, first.weights
        self.arrays = first.arrays
        rng = np.random.default_rng([seed, 3])
        self.scales = [lookup_regret(learner, settings, rng) for learner in self._learners]

    def learn(self, seed: int, round: int) -> float:
        """One round of steps; the mean regret in it, in shares of what the lookup loses."""
        settings, regrets = self._settings, []
        rng, whole = np.random.default_rng(seed), settings.rounds * settings.steps
        torch.manual_seed(seed)
        count = max(1, settings.batch // len(self._learners))
        for step in range(round * settings.steps, (round + 1) * settings.steps):
            share = min(1.0, (step + 1) / WARM_UP) * max(LEAST_RATE, 1 - step / whole)
            for group in self._optimizer.param_groups:
                group["lr"] = settings.learning_rate * share
            self._optimizer.zero_grad()
            total = 0.0
            for learner, scale in zip(self._learners, self.scales, strict=True):
                regret = learner._regret(*learner._draw(rng, count))
                regret = regret / (scale * len(self._learners))
                regret.backward()
                total += float(regret.detach())
            self._optimizer.step()
            regrets.append(total)
        return float(np.mean(regrets))


def lookup_regret(learner: Learner, settings: Any, rng: np.random.Generator) -> float:
    """What the choice by table and stall alone loses to the best, nats an output token."""
    kept = {name: learner.weights[name].detach().clone() for name in ("w3", "b3")}
    learner._settings = replace(settings, temperature=HARD, noise=0.0)
    with torch.no_grad():
        for name in kept:
            learner.weights[name].zero_()
        found = float(learner._regret(*learner._draw(rng, SAMPLE)))
        for name, values in kept.items():
            learner.weights[name].copy_(values)
    learner._settings = settings
    return max(found, LEAST_REGRET)


def _start(alone: Sequence[Learner], settings: Any, seed: int) -> dict[str, np.ndarray]:
    """Scaling and knots of all scenarios together, and weights that say nothing yet."""
    means = np.stack([each._fixed["mean"] for each in alone])
    scales = np.stack([each._fixed["scale"] for each in alone])
    inverse = 1.0 / np.where(scales > 0, scales, np.inf)
    spread = np.sqrt((inverse**2).mean(axis=0) + means.var(axis=0))
    seen = (scales > 0).any(axis=0)
    near, level = (
        knots_of(np.concatenate([each._fixed[name] for each in alone]), settings.knots)
        for name in ("near", "level")
    )
    scale = np.where(seen, 1.0 / np.where(seen, spread, 1.0), 0.0)
    fixed = {"mean": means.mean(axis=0), "scale": scale, "near": near, "level": level}
    weights = {name: tensor.detach().numpy() for name, tensor in alone[0].weights.items()}
    shape, out = weights["w3"].shape, len(near) + len(level)
    draw = np.random.default_rng([seed, 4])
    weights["w3"] = draw.normal(0, 0.01 * shape[1] ** -0.5, (*shape[:2], out))
    weights["b3"] = np.zeros((shape[0], 1, out))
    return {**fixed, **weights}
