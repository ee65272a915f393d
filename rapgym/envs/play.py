"""What the environment and its vector form share: lanes, how they are acted in, when episodes end."""

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from rapgym.arrays import BoolArray, FloatArray
from rapgym.envs.actions import Actions
from rapgym.envs.actions import actions as actions_of
from rapgym.envs.episodes import Episodes
from rapgym.envs.film import Film, Picture, text
from rapgym.envs.info import rows_info, strode_info
from rapgym.errors import InvalidSpec, MissingExtra
from rapgym.scenarios.lanes import Lanes, episode_rows
from rapgym.scenarios.story import Scenario, Split
from rapgym.world import simulator
from rapgym.world.records import Demand, Outcome
from rapgym.world.simulator import Step

if TYPE_CHECKING:
    from rapgym.envs.alone import Alone
    from rapgym.world.stride import Stride, Strode

WORD = np.dtype(np.uint64)  # what a stride reads actions as, and nothing else does
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


Done: TypeAlias = "Acted | Strode"  # by the reference and its twin, or in one compiled pass


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
        # Films need more of a row than a stride says.
        self._may_stride, self._kind = not filmed, kind
        self._seen: NDArray[np.float32] | None = None  # what the last stride saw, until it is given
        self._alone: Alone | None = None  # once the only lane has stridden

    def _stride(self) -> "Stride | None":
        """What takes steps of all lanes in one compiled pass, once the twin is loaded."""
        lanes = self.lanes
        if not self._may_stride or lanes.step is not simulator.step:  # as an audit may see to
            return None
        if lanes.strides:
            return lanes.stride
        if lanes.stride is None:
            if lanes.twin is None:
                return None
            from rapgym.world import stride as strides

            if not strides.is_worth(lanes.world):
                self._may_stride = False
                return None
            self._share(strides.Stride(lanes.world, lanes.layout, self._kind, self.playing,
                                      self.most_steps))  # fmt: skip
        stride = lanes.stride
        assert stride is not None
        stride.stand(lanes.state, self.actions.so_far)
        lanes.strides = True
        return stride

    def _share(self, made: "Stride") -> None:
        """Have what all keep up to date in the arrays of a stride."""
        lanes = self.lanes
        made.age[:], made.episode_rows[:], made.steps[:] = lanes.age, lanes.episode_rows, self.steps
        lanes.age, lanes.episode_rows, self.steps = made.age, made.episode_rows, made.steps
        self.actions.share(made)
        lanes.stride = made

    def __getstate__(self) -> dict[str, Any]:
        """Of a copy, whose arrays nobody shares."""
        return self.__dict__ | {"_seen": None, "_alone": None}

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
        self._seen = None
        which = np.flatnonzero(lanes)
        self.lanes.begin(which, [rngs[lane] for lane in which.tolist()], self.places[which])
        if self.films:
            for lane in which:
                self.films[lane].begin()
        self.actions.restart(lanes)
        self._have_begun(lanes)

    def read(self, actions: Any, lanes: int | None = None) -> NDArray[Any]:
        """Actions of one environment, or of so many lanes, as `act` takes them."""
        stride = self._stride()
        if stride is None:
            return super().read(actions, lanes)
        if lanes is None:
            return stride.read(super().read(actions)[None], checked=True)[0]
        found = stride.read(actions)
        if found is None:
            found = stride.read(super().read(actions, lanes), checked=True)
        return found

    def act(self, actions: NDArray[Any], lanes: BoolArray | None = None) -> Done:
        """Act in these lanes (all unless stated); actions of the others are ignored.

        Args:
            actions: of all lanes, as `read` gives them.

        Raises:
            InvalidAction: an episode has not begun yet, or is over.
        """
        lanes = self._acting(lanes)
        if actions.dtype == WORD:
            stride = self._stride()
            assert stride is not None, "who read the actions is at hand"
            strode = stride.act(actions, lanes)
            self.lanes.strode()
            self._seen = strode.said.seen
            return strode
        if self.lanes.strides:
            self.lanes.leave_stride()
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

    def step_alone(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]] | None:
        """A step of the only lane as Gymnasium's are, by `Alone`.

        None, and no step, where that is not at hand, no episode is under way or the action is not as its
        space samples them: `read` and `act` take it or say why not.
        """
        stride = self._stride()
        if stride is None or not self.playing[0]:
            return None
        if self._alone is None:
            from rapgym.envs.alone import Alone

            self._alone = Alone(stride, self.actions.mask()[0])
        taken = self._alone.step(action)
        if taken is None:
            return None
        self._seen = None
        self.lanes.strode()
        if self.observation == "dict":
            seen, reward, terminated, truncated, info = taken
            both = {"observations": seen, "action_mask": info["action_mask"].copy()}
            return both, reward, terminated, truncated, info
        return taken

    def seen(self) -> NDArray[np.float32]:
        """What each lane sees, [B, O]."""
        seen, self._seen = self._seen, None  # its caller's own: the next time it is written anew
        if seen is not None:
            return seen
        if self.lanes.strides:
            assert self.lanes.stride is not None
            return self.lanes.stride.look().said.seen
        return self.lanes.observe(self.actions.so_far)

    def info(self, acted: "Done | None" = None) -> dict[str, Any]:
        """What is said of a step, or without one of a reset: arrays with an entry for each lane."""
        if acted is not None and not isinstance(acted, Acted):
            return strode_info(acted, self.mask(acted))
        count, blocks = len(self.playing), self.lanes.world.blocks
        if acted is None:
            info = rows_info(count, blocks)
        else:
            info = rows_info(count, blocks, acted.served, acted.outcome, acted.asked)
        return info | {"action_mask": self.actions.mask()}

    def mask(self, strode: "Strode") -> NDArray[np.int8]:
        """Legal actions after a step, [B, M]."""
        return self.actions.mask() if strode.mask is None else strode.mask

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
