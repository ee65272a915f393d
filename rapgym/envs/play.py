"""What the environment and its vector form share: lanes, how they are acted in, when episodes end."""

import importlib.util
import operator
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.envs.actions import actions as actions_of
from rapgym.envs.actions import checked
from rapgym.envs.film import Film
from rapgym.errors import InvalidAction, InvalidSpec, MissingExtra
from rapgym.scenarios.lanes import Lanes, episode_rows, start_of
from rapgym.scenarios.story import Scenario, Split
from rapgym.world import simulator
from rapgym.world.records import Demand, Outcome
from rapgym.world.simulator import Step

OBSERVATIONS = ("flat", "dict")
BACKENDS = ("sim", "device")  # the simulated world, or the same rows on a live model
NO_LIMIT = -1  # of an episode's steps, as Gymnasium writes it


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
        reward = np.zeros(len(self.served))
        if self.outcome is not None:
            reward[self.served] = self.outcome.reward
        return reward


class Play:
    """Episodes of B lanes: begun, acted in, observed and, where asked for, drawn."""

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
        self.offset = whole("offset", offset, 0)
        if most_steps in (None, NO_LIMIT):
            self.most_steps = None
        else:
            self.most_steps = whole("max_episode_steps", most_steps, 1)
        if observation not in OBSERVATIONS:
            raise InvalidSpec(
                f"no observation kind {observation!r}; there are {', '.join(OBSERVATIONS)}"
            )
        self.observation, self.backend = observation, backend
        step = backend_step(backend, story, split, device)
        self.lanes = Lanes(story, split, count, small_steps=kind == "blocks", step=step)
        self.actions = actions_of(kind, self.lanes)
        self.films = [Film(self.lanes, lane, count) for lane in range(count)] if filmed else []
        self.playing = np.zeros(count, dtype=bool)  # an episode has begun and is not over
        self.begun = np.zeros(count, dtype=bool)  # some episode has
        self.steps = np.zeros(count, dtype=np.int64)  # of each lane's episode
        self.offsets = np.full(count, self.offset)

    @property
    def longest(self) -> int:
        """What no episode takes more steps than: every row, as slowly as actions allow."""
        return episode_rows(self.lanes.world, self.lanes.split) * self.actions.most_steps

    @property
    def observation_space(self) -> spaces.Space[Any]:
        """Of one lane: float32 [O], or with the action mask beside it."""
        layout = self.lanes.layout
        flat = spaces.Box(layout.low, layout.high, dtype=np.float32)
        if self.observation == "flat":
            return flat
        mask = spaces.Box(0, 2, (self.actions.mask().shape[1],), np.int8)
        return spaces.Dict({"observations": flat, "action_mask": mask})

    def spec_of(self, spec: EnvSpec) -> EnvSpec:
        """The spec that Gymnasium gives, with what only scenario, split and backend say."""
        if spec.max_episode_steps is None:
            spec.max_episode_steps = self.most_steps or self.longest
        spec.nondeterministic = self.backend == "device"
        return spec

    def pair(self, lanes: BoolArray, options: dict[str, Any] | None, seeded: BoolArray) -> None:
        """Take the pairing of `options["offset"]` for these lanes' episodes from now on.

        It holds until another is named or a seed begins all anew, so through automatic resets.
        """
        self.offsets[lanes & seeded] = self.offset
        if options is not None and "offset" in options:
            self.offsets[lanes] = whole("offset", options["offset"], 0)

    def begin(self, lanes: BoolArray, rngs: list[np.random.Generator]) -> None:
        """Begin an episode in these lanes, bool [B], each from its own generator."""
        inner = self.lanes
        for lane in np.flatnonzero(lanes).tolist():
            offset = int(self.offsets[lane])
            start = start_of(inner.world, inner.story, inner.split, rngs[lane], offset)
            inner.restart(lane, start)
            if self.films:
                self.films[lane].begin()
        self.actions.restart(lanes)
        self.playing |= lanes
        self.begun |= lanes
        self.steps[lanes] = 0

    def act(self, actions: IntArray, lanes: BoolArray | None = None) -> Acted:
        """Act in these lanes (all unless stated); actions of the others are ignored.

        Args:
            actions: of all lanes, as `checked` gives them.

        Raises:
            InvalidAction: an episode has not begun yet, or is over.
        """
        lanes = np.ones(len(self.playing), dtype=bool) if lanes is None else lanes
        if (lanes & ~self.playing).any():
            raise InvalidAction("no episode is under way: call reset() first, and after each end")
        proposal, served = self.actions.propose(actions)
        served = served & lanes
        if not lanes.all():
            self.actions.restart(~lanes)  # forget what ignored actions dropped
        self.steps[lanes] += 1
        outcome = asked = None
        if served.any():
            asked = self.lanes.seen.demand.at(served)
            limits = self.lanes.world.limits(self.lanes.state)[served] if self.films else None
            outcome = self.lanes.serve(proposal, served)
            self.actions.restart(served)
            if limits is not None:
                for index, lane in enumerate(np.flatnonzero(served)):
                    self.films[lane].add(outcome, asked, limits[index], index)
        over = self.lanes.ended & served
        if self.most_steps is not None:
            over |= lanes & (self.steps >= self.most_steps)
        self.playing &= ~over
        return Acted(served, over, outcome, asked)

    def read(self, actions: Any, lanes: int | None = None) -> IntArray:
        """`checked` actions of one environment, or of so many lanes."""
        return checked(actions, self.actions, lanes)

    def observe(self) -> Any:
        """What each lane sees: float32 [B, O], or a dict with the masks beside it."""
        flat = self.lanes.observe(self.actions.so_far)
        if self.observation == "flat":
            return flat
        return {"observations": flat, "action_mask": self.actions.mask()}

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


def whole(name: str, value: Any, least: int) -> int:
    """A whole number that is at least so large.

    Raises:
        InvalidSpec: it is none.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least or isinstance(value, bool):
        raise InvalidSpec(f"{name} is a whole number from {least} on, not {value!r}")
    return number
