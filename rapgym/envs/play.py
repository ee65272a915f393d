"""What the environment and its vector form share: lanes, how they are acted in, when episodes end."""

import importlib.util
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.envs.actions import Actions
from rapgym.envs.actions import actions as actions_of
from rapgym.envs.episodes import Episodes
from rapgym.envs.film import Film, Picture, text
from rapgym.envs.info import rows_info
from rapgym.errors import InvalidSpec, MissingExtra
from rapgym.scenarios.lanes import Lanes, episode_rows
from rapgym.scenarios.story import Scenario, Split
from rapgym.world import simulator
from rapgym.world.records import Demand, Outcome
from rapgym.world.simulator import Step

BACKENDS = ("sim", "device")  # the simulated world, or the same rows on a live model


@dataclass(frozen=True, slots=True)
class Acted:
    """What one step did in B lanes."""

    served: BoolArray  # lanes whose row is finished, [B]
    over: BoolArray  # lanes whose episode is, [B]
    outcome: Outcome | None  # of the served lanes alone, if there are any
    asked: Demand | None

    @property
    def reward(self) -> FloatArray:
        """float64 [B]; 0 where no row was served."""
        if self.outcome is None:
            return np.zeros(len(self.served))
        found = self.outcome.reward
        if len(found) < len(self.served):
            reward = np.zeros(len(self.served))
            reward[self.served] = found
            return reward
        return found


class Play(Episodes):
    """Episodes over rows of a workload."""

    option = "offset"
    actions: Actions

    def __init__(
        self,
        story: Scenario,
        split: Split,
        count: int,
        kind: str,
        *,
        observation: str = "flat",
        offset: int = 0,
        most_steps: int | None = None,
        backend: str = "sim",
        device: str = "cpu",
        filmed: bool = False,
    ) -> None:
        """Stand `count` lanes where no episode has begun.

        Args:
            kind: of actions; see `rapgym.envs.actions`.
            most_steps: after which an episode is cut; rows alone end it unless stated.
            filmed: rows are kept for pictures.

        Raises:
            InvalidSpec: an argument is none of those there are.
            MissingExtra, DataUnavailable: the device backend lacks packages, weights or texts.
        """
        super().__init__(count, place=offset, observation=observation, most_steps=most_steps)
        self.backend = backend
        step = backend_step(backend, story, split, device)
        self.lanes = Lanes(story, split, count, small_steps=kind == "blocks", step=step)
        self.actions = actions_of(kind, self.lanes)
        self.films = [Film(self.lanes, lane, count) for lane in range(count)] if filmed else []

    @property
    def longest(self) -> int:
        """What no episode takes more steps than: every row, as slowly as actions allow."""
        return episode_rows(self.lanes.world, self.lanes.split) * self.actions.most_steps

    @property
    def bounds(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Lowest and highest of each number that a lane sees, [O] each."""
        return self.lanes.layout.low, self.lanes.layout.high

    def spec_of(self, spec: EnvSpec) -> EnvSpec:
        """The spec that Gymnasium gives, with what only scenario, split and backend say."""
        spec = super().spec_of(spec)
        spec.nondeterministic = self.backend == "device"
        return spec

    def begin(self, lanes: BoolArray, rngs: list[np.random.Generator]) -> None:
        """Begin an episode in these lanes, bool [B], each from its own generator."""
        which = np.flatnonzero(lanes)
        self.lanes.begin(which, [rngs[lane] for lane in which.tolist()], self.places[which])
        if self.films:
            for lane in which:
                self.films[lane].begin()
        self.actions.restart(lanes)
        self._have_begun(lanes)

    def act(self, actions: IntArray, lanes: BoolArray | None = None) -> Acted:
        """Act in these lanes (all unless stated); actions of the others are ignored.

        Args:
            actions: of all lanes, as `checked` gives them.

        Raises:
            InvalidAction: an episode has not begun yet, or is over.
        """
        lanes = self._acting(lanes)
        proposal, served = self.actions.propose(actions)
        served = served & lanes
        if not lanes.all():
            self.actions.restart(~lanes)  # forget what ignored actions dropped
        self.steps[lanes] += 1
        outcome = asked = None
        if served.any():
            asked = self.lanes.asked if served.all() else self.lanes.asked.at(served)
            limits = self.lanes.world.limits(self.lanes.state)[served] if self.films else None
            outcome = self.lanes.serve(proposal, served)
            self.actions.restart(served)
            if limits is not None:
                for index, lane in enumerate(np.flatnonzero(served)):
                    self.films[lane].add(outcome, asked, limits[index], index)
        over = self._ended(lanes, self.lanes.ended & served)
        return Acted(served, over, outcome, asked)

    def seen(self) -> NDArray[np.float32]:
        """What each lane sees, [B, O]."""
        return self.lanes.observe(self.actions.so_far)

    def info(self, acted: Acted | None = None) -> dict[str, Any]:
        """What is said of a step, or without one of a reset: arrays with an entry for each lane."""
        count, blocks = len(self.playing), self.lanes.world.blocks
        if acted is None:
            info = rows_info(count, blocks)
        else:
            info = rows_info(count, blocks, acted.served, acted.outcome, acted.asked)
        return info | {"action_mask": self.actions.mask()}

    def text(self, lane: int) -> str:
        """The rows of late of one lane, in words; for lanes that are filmed."""
        return text(self.films[lane], self.actions.so_far)

    def picture(self, lane: int) -> Picture:
        """The same as a picture, uint8 [height, width, 3]."""
        from rapgym.envs.picture import draw

        return draw(self.films[lane], self.actions.so_far)

    def close(self) -> None:
        """Let go of what serves the rows."""
        close_step(self.lanes.step)


def backend_step(backend: str, story: Scenario, split: Split, device: str) -> Step:
    """What serves the rows of an environment; whoever takes it calls its `close`, if it has one.

    Raises:
        InvalidSpec: there is no such backend.
        MissingExtra, DataUnavailable: the device backend lacks packages, weights or texts.
    """
    if backend not in BACKENDS:
        raise InvalidSpec(f"no backend {backend!r}; there are {', '.join(BACKENDS)}")
    if backend == "sim":
        return simulator.step
    if importlib.util.find_spec("torch") is None:
        raise MissingExtra("torch is not installed; run: pip install 'rapgym[device]'")
    from rapgym.runtime.device.machine import opened

    return opened(story, split, device)


def close_step(step: Step) -> None:
    """Let go of the model and the tenant of a device."""
    close = getattr(step, "close", None)
    if close is not None:
        close()
