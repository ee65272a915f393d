"""One training run as its method sees it: rows to learn from, rows to stop by, and a way to go on.

A method's `train(task)` works in rounds. Each round begins with random streams of its own, so that a
run which was killed goes on from its checkpoint to the same result:

    def train(task: Training) -> dict[str, np.ndarray]:
        network = ...
        if task.saved is None:
            task.begin(arrays_of(network))
        else:
            network.load_state_dict(task.saved["network"])
        for round in task.rounds(task.settings.rounds):  # seeds torch, numpy and random
            ...  # learn; begin lanes anew: task.vec_env(...).seed(task.round_seed)
            if task.advance((round + 1) / task.settings.rounds, arrays_of(network), steps=steps,
                            state=lambda: {"network": network.state_dict()}, loss=loss):
                break
        return task.best
"""

import dataclasses
import random
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rapgym.arrays import FloatArray
from rapgym.errors import InvalidPolicy
from rapgym.learning import checkpoint
from rapgym.learning.curve import Curve, Point
from rapgym.learning.sb3.vec_env import LeanVecEnv
from rapgym.policies.basis import basis
from rapgym.policies.policy import Briefing, Policy, Told, briefing
from rapgym.policies.trained import TrainedPolicy, observation_of
from rapgym.scenarios import worlds
from rapgym.scenarios.lanes import Lanes, Start
from rapgym.scenarios.story import Scenario, Split

Arrays = dict[str, np.ndarray]
# What is told of a split learns from most of it, and reads its curve on the rest.
PARTS: Mapping[Told, tuple[Told, Split]] = {
    "train": ("learn", "check"),
    "fit-1": ("learn-1", "check-1"),
    "fit-2": ("learn-2", "check-2"),
    "fit-3": ("learn-3", "check-3"),
}
CHECKPOINT_S = 20.0  # between checkpoints, at least
STRETCH_ROWS = 512  # that a check serves one after the other


class Training:
    """The run of one method on one scenario with one seed."""

    def __init__(
        self,
        method: str,
        story: Scenario,
        told: Told,
        seed: int,
        settings: Any,
        agent: Any,
        folder: Path,
        *,
        start: TrainedPolicy | None = None,
        minutes: float | None = None,
        checkpoint_s: float = CHECKPOINT_S,
        watch: Callable[[float, str], None] = lambda share, note: None,
    ) -> None:
        """Stand before the first round, or where a killed run of the same kind left off.

        Args:
            settings: a frozen dataclass of the method's.
            agent: the method's NumPy policy class; `agent.of(trained)` builds one.
            folder: where curve and checkpoint are kept.
            start: a policy whose weights the method begins with, if any.
            minutes: stop then, wherever the run is; a stop by the clock cannot be repeated.
            watch: told of the share that is done, and a note.

        Raises:
            InvalidPolicy: nothing is trained for this split, or `start` is another method's.
        """
        if told not in PARTS:
            raise InvalidPolicy(f"nothing is trained on {told}; there are {', '.join(PARTS)}")
        if start is not None and start.method != method:
            raise InvalidPolicy(f"a policy of {start.method} is no start for {method}")
        self.method, self.story, self.told, self.seed = method, story, told, seed
        self.settings, self.agent, self.folder, self.start = settings, agent, folder, start
        self.learn_split, self.check_split = PARTS[told]
        self.briefing: Briefing = briefing(story, self.learn_split)
        self.round_seed = 0
        self.device = "cpu"
        self.basis = basis(story)
        self._minutes, self._checkpoint_s, self._watch = minutes, checkpoint_s, watch
        self._best: Arrays = {}
        self.untrained: Arrays = {}  # the arrays before the first round, once `begin` has told them
        self._best_cost, self._stale, self._round, self._stopped = np.inf, 0, -1, False
        self._spent_s = 0.0
        self.saved: Any = None  # what `state` gave when the checkpoint was written
        points = self._restore()
        self.curve = Curve(folder, points)
        self._began_s = self._saved_s = time.monotonic()

    # What a method works with

    @property
    def best(self) -> Arrays:
        """The arrays that cost least on the check split so far; `curve` says what each cost."""
        if not self._best:
            raise InvalidPolicy(f"{self.method} never called advance: it has no best arrays")
        return self._best

    @property
    def seconds(self) -> float:
        """Wall clock spent so far, an earlier part of the run included."""
        return self._spent_s + time.monotonic() - self._began_s

    def vec_env(self, env_id: str, lanes: int, **settings: Any) -> LeanVecEnv:
        """An environment on the rows to learn from, for Stable-Baselines3."""
        return LeanVecEnv.make(
            env_id, lanes, scenario=self.story, split=self.learn_split, **settings
        )

    def lanes(self, count: int) -> Lanes:
        """Bare lanes on the rows to learn from, for a method with a loop of its own."""
        return Lanes(self.story, self.learn_split, count)

    def rounds(self, count: int) -> Iterator[int]:
        """Rounds that are still to do, of `count`; each seeds torch, numpy and random first."""
        for turn in range(self._round + 1, count):
            if self._stopped:
                return
            self._round = turn
            self.round_seed = int(np.random.SeedSequence([self.seed, turn]).generate_state(1)[0])
            seed_everything(self.round_seed)
            yield turn

    def begin(self, arrays: Arrays) -> None:
        """Keep the arrays with which the method begins, and judge them: the curve's first point."""
        self.untrained = {name: np.array(array) for name, array in arrays.items()}
        self.advance(0.0, arrays)

    def advance(
        self,
        share: float,
        arrays: Arrays,
        *,
        steps: int = 0,
        state: Callable[[], Any] | None = None,
        **numbers: float,
    ) -> bool:
        """Judge the arrays on the check split, draw the curve, and see whether to go on.

        Args:
            share: of the whole run that is done, 0 to 1.
            steps: environment steps or updates so far: the curve's axis.
            state: gives all that the next round needs, once a checkpoint is due; nested dicts and
                lists of tensors, arrays, numbers and strings.
            numbers: more for the curve.

        Returns:
            True where the run should stop: `settings.patience` checks without a better one, or out
            of time.
        """
        cost = self.check(arrays)
        if cost < self._best_cost:
            self._best = {name: np.array(array) for name, array in arrays.items()}
            self._best_cost, self._stale = cost, 0
        else:
            self._stale += 1
        self.curve.add({"share": share, "steps": steps, "seconds": self.seconds,
                        "check_cost": cost, **numbers})  # fmt: skip
        self._watch(share, f"{self.story.name} seed {self.seed}: check {cost:.4f}")
        self._stopped = self._stale >= getattr(self.settings, "patience", np.inf) or (
            self._minutes is not None and self.seconds > 60 * self._minutes
        )
        if state is not None and time.monotonic() - self._saved_s >= self._checkpoint_s:
            self._save(state())
        return self._stopped

    def check(self, arrays: Arrays) -> float:
        """Cost of the policy with these arrays on the check split, all pairings, nats a token."""
        return split_cost(
            lambda: self.agent.of(self.policy(arrays)), self.story, self.check_split, self.briefing
        )

    # What surrounds a method

    def policy(self, arrays: Arrays, training: dict[str, Any] | None = None) -> TrainedPolicy:
        """These arrays as a policy of this run."""
        return TrainedPolicy(
            method=self.method,
            scenario=self.story.id,
            told=self.told,
            seed=self.seed,
            observation=self._observation(),
            training=training or {"opened": [self.learn_split, self.check_split]},
            arrays=arrays,
            **self.basis,
        )

    def _observation(self) -> dict[str, Any]:
        """What the policy builds on: all of the layout, unless its class says `builds_on` less."""
        whole = observation_of(self.briefing.layout)
        return {name: whole[name] for name in getattr(self.agent, "builds_on", whole)}

    def close(self) -> None:
        """The run is over, or interrupted."""
        self.curve.close()

    def forget(self) -> None:
        """The policy is written: the checkpoint has served."""
        self._checkpoint.unlink(missing_ok=True)

    @property
    def _key(self) -> dict[str, Any]:
        """What a checkpoint must agree with."""
        start = None if self.start is None else self.start.training.get("date", "")
        return {"run": [self.method, self.story.id, self.told, self.seed, start],
                "settings": dataclasses.asdict(self.settings), **self.basis}  # fmt: skip

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def _save(self, state: Any) -> None:
        content = {"key": self._key, "state": state, "round": self._round, "best": self._best,
                   "best_cost": float(self._best_cost), "stale": self._stale,
                   "stopped": self._stopped, "seconds": self.seconds,
                   "untrained": self.untrained,
                   "points": self.curve.points}  # fmt: skip
        checkpoint.write(self._checkpoint, content)
        self._saved_s = time.monotonic()

    def _restore(self) -> list[Point]:
        found = checkpoint.read(self._checkpoint)
        if found is None or found["key"] != checkpoint.plain(self._key):
            return []
        self.saved, self._round = found["state"], found["round"]
        self._best, self._best_cost = found["best"], found["best_cost"]
        self._stale, self._stopped = found["stale"], found["stopped"]
        self._spent_s, self.untrained = found["seconds"], found.get("untrained", {})
        points: list[Point] = found["points"]
        return points


def seed_everything(seed: int) -> None:
    """Seed the global streams of torch, numpy and random."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def split_cost(make: Callable[[], Policy], story: Scenario, split: Split, told: Briefing) -> float:
    """Cost on a whole split in all its pairings, nats an output token: `rollout.run` side by side.

    Pairings are lanes here, so it is for policies whose lanes know nothing of each other. A split
    longer than `STRETCH_ROWS` is cut into stretches, which begin with every block in memory.
    """
    world = worlds.world(story, split)
    rows = len(world.rows)
    count = -(-rows // STRETCH_ROWS)
    first = np.arange(count) * rows // count  # of each stretch
    length = np.diff(np.append(first, rows))
    starts = [
        Start(int(row), k * rows // story.offsets, 1.0, int(each))
        for k in range(story.offsets)
        for row, each in zip(first, length, strict=True)
    ]
    lanes, policy, rng = Lanes(story, split, len(starts)), make(), np.random.default_rng(0)
    for lane, start in enumerate(starts):
        lanes.restart(lane, start)
    policy.reset(len(starts), told)
    total = output = 0.0
    for _ in range(int(length.max())):
        left = ~lanes.ended  # stretches differ by one row
        outcome = lanes.serve(policy.propose(lanes.observe(), rng))
        total += float(outcome.terms.total[left].sum()) * world.mean_output_tokens
        output += float(outcome.output_tokens[left].sum())
    return total / max(output, 1.0)


def float16(arrays: Mapping[str, FloatArray]) -> Arrays:
    """Weights as they are shipped: rounded to float16."""
    return {name: np.asarray(array).astype(np.float16) for name, array in arrays.items()}
