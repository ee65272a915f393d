"""What all environments share of their episodes: how lanes are begun, acted in and observed, and when one ends."""

import operator
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Protocol

import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from rapgym.arrays import BoolArray, FloatArray, IntArray, holds_in_all
from rapgym.envs.actions import Choices, checked
from rapgym.envs.film import Picture
from rapgym.errors import InvalidAction, InvalidSpec

OBSERVATIONS = ("flat", "dict")
NO_LIMIT = -1  # of an episode's steps, as Gymnasium writes it


class Acted(Protocol):
    """What one step did in B lanes."""

    @property
    def over(self) -> BoolArray:
        """Lanes whose episode is over, [B]."""

    @property
    def reward(self) -> FloatArray:
        """float64 [B]."""


class Episodes(ABC):
    """Episodes of B lanes: begun, acted in, observed and, where asked for, drawn."""

    # What `reset` may be told of where an episode begins: a whole number under this name.
    option: ClassVar[str]
    actions: Choices

    def __init__(self, count: int, *, place: int, observation: str, most_steps: int | None) -> None:
        """Lanes where no episode has begun.

        Args:
            place: where episodes begin unless `reset` is told otherwise.
            most_steps: after which an episode is cut; what is served ends it alone unless stated.

        Raises:
            InvalidSpec: an argument is none of those there are.
        """
        self.place = whole(self.option, place, 0)
        if most_steps in (None, NO_LIMIT):
            self.most_steps = None
        else:
            self.most_steps = whole("max_episode_steps", most_steps, 1)
        if observation not in OBSERVATIONS:
            raise InvalidSpec(
                f"no observation kind {observation!r}; there are {', '.join(OBSERVATIONS)}"
            )
        self.observation = observation
        self.playing = np.zeros(count, dtype=bool)  # an episode has begun and is not over
        self._everyone = np.ones(count, dtype=bool)  # to read
        self.begun = np.zeros(count, dtype=bool)  # some episode has
        self.steps = np.zeros(count, dtype=np.int64)  # of each lane's episode
        self.places = np.full(count, self.place)  # where each lane's episodes begin

    @property
    @abstractmethod
    def longest(self) -> int:
        """What no episode takes more steps than."""

    @property
    @abstractmethod
    def bounds(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Lowest and highest of each number that a lane sees, [O] each."""

    @abstractmethod
    def seen(self) -> NDArray[np.float32]:
        """What each lane sees, [B, O]."""

    @abstractmethod
    def begin(self, lanes: BoolArray, rngs: list[np.random.Generator]) -> None:
        """Begin an episode in these lanes, bool [B], each from its own generator."""

    @abstractmethod
    def act(self, actions: IntArray, lanes: BoolArray | None = None) -> Acted:
        """Act in these lanes (all unless stated); actions of the others are ignored."""

    @abstractmethod
    def info(self, acted: Any = None) -> dict[str, Any]:
        """What is said of a step, or without one of a reset: arrays with an entry for each lane."""

    @abstractmethod
    def text(self, lane: int) -> str:
        """What happened of late in one lane, in words; for lanes that are filmed."""

    @abstractmethod
    def picture(self, lane: int) -> Picture:
        """The same as a picture, uint8 [height, width, 3]."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what serves."""

    @property
    def observation_space(self) -> spaces.Space[Any]:
        """Of one lane: float32 [O], or with the action mask beside it."""
        flat = spaces.Box(*self.bounds, dtype=np.float32)
        if self.observation == "flat":
            return flat
        mask = spaces.Box(0, 2, (self.actions.mask().shape[1],), np.int8)
        return spaces.Dict({"observations": flat, "action_mask": mask})

    def spec_of(self, spec: EnvSpec) -> EnvSpec:
        """The spec that Gymnasium gives, with what only scenario and split say."""
        if spec.max_episode_steps is None:
            spec.max_episode_steps = self.most_steps or self.longest
        return spec

    def pair(self, lanes: BoolArray, options: dict[str, Any] | None, seeded: BoolArray) -> None:
        """Begin these lanes' episodes where options say, under `option`, from now on.

        It holds until another place is named or a seed begins all anew, so through automatic resets.
        """
        self.places[lanes & seeded] = self.place
        if options is not None and self.option in options:
            self.places[lanes] = whole(self.option, options[self.option], 0)

    def read(self, actions: Any, lanes: int | None = None) -> IntArray:
        """`checked` actions of one environment, or of so many lanes."""
        return checked(actions, self.actions, lanes)

    def observe(self) -> Any:
        """What each lane sees: float32 [B, O], or a dict with the masks beside it."""
        flat = self.seen()
        if self.observation == "flat":
            return flat
        return {"observations": flat, "action_mask": self.actions.mask()}

    def _have_begun(self, lanes: BoolArray) -> None:
        """Note that an episode has just begun in these lanes."""
        self.playing |= lanes
        self.begun |= lanes
        self.steps[lanes] = 0

    def _acting(self, lanes: BoolArray | None) -> BoolArray:
        """The lanes that act.

        Raises:
            InvalidAction: an episode has not begun yet, or is over.
        """
        if lanes is None:
            lanes = self._everyone
        everyone = holds_in_all(self.playing)
        if not everyone and (lanes & ~self.playing).any():
            raise InvalidAction("no episode is under way: call reset() first, and after each end")
        return lanes

    def _ended(self, lanes: BoolArray, over: BoolArray) -> BoolArray:
        """Of the lanes that acted those whose episode is over: served to its end, or cut."""
        if self.most_steps is not None:
            over = over | (lanes & (self.steps >= self.most_steps))
        self.playing &= ~over
        return over


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
