"""What the native vector forms share: seeds, masks, resets, spec and pictures of B lanes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from rapgym.arrays import BoolArray, FloatArray
from rapgym.envs import screen
from rapgym.envs.episodes import Episodes, whole
from rapgym.envs.info import without
from rapgym.errors import InvalidAction, InvalidSpec


class VectorForm(VectorEnv[Any, Any, Any]):
    """`num_envs` lanes, seeded, reset and stepped as Gymnasium's own vector forms do it.

    A form makes its lanes and calls `_stand`.
    """

    # Older Gymnasium closes what is collected, even a form that was refused before it stood.
    closed = True

    def _stand(
        self,
        num_envs: int,
        play: Episodes,
        autoreset_mode: str | AutoresetMode,
        render_mode: str | None,
    ) -> None:
        """Stand over these lanes, none of which has begun."""
        self.num_envs = num_envs
        self.autoreset_mode = mode_of(autoreset_mode)
        self.render_mode = screen.checked(render_mode)
        self.metadata = {
            "render_modes": [*screen.MODES],
            "render_fps": screen.FPS,
            "autoreset_mode": self.autoreset_mode,
        }
        self._play: Any = play
        self.single_action_space = play.actions.space
        self.single_observation_space = play.observation_space
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        drawn = [seeding.np_random(None) for _ in range(num_envs)]
        self.rngs = [rng for rng, _ in drawn]  # one a lane
        self.seeds = [seed for _, seed in drawn]
        self._spec: EnvSpec | None = None
        self.closed = False
        self._marks = dict[str, str]()  # of the entries of `info`: see `_marked`

    @property
    def spec(self) -> EnvSpec | None:
        """Gymnasium's, with the most steps that an episode of this split can take."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        if spec is not None:
            spec = self._play.spec_of(spec)
            if "autoreset_mode" in spec.kwargs:  # as text it survives JSON
                spec.kwargs["autoreset_mode"] = self.autoreset_mode.value
        self._spec = spec

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The generator of each lane."""
        return tuple(self.rngs)

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """The seed of each lane."""
        return tuple(self.seeds)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode in every lane, or where `options["reset_mask"]` (bool [B]) says so.

        Raises:
            InvalidSpec: the mask is of another shape or type, or seeds are not one a lane.
        """
        lanes, seeds = self._lanes_of(options or {}), self._seeds_of(seed)
        for lane in np.flatnonzero(lanes).tolist() if seed is not None else ():
            if seeds[lane] is not None:
                self.rngs[lane], self.seeds[lane] = seeding.np_random(seeds[lane])
        self._play.pair(lanes, options, np.array([one is not None for one in seeds]))
        self.begin(lanes)
        if self.render_mode == "human":
            self.render()
        return self.observe(), self._marked(self.info())

    def step(self, actions: Any) -> tuple[Any, FloatArray, BoolArray, BoolArray, dict[str, Any]]:
        given = self._play.read(actions, self.num_envs)
        acting = self._play.playing.copy()
        if np.count_nonzero(acting) < self.num_envs:
            self._begin_ended(~acting)
        acted = self._play.act(given, acting)
        info, last = self.info(acted), dict[str, Any]()
        if self.autoreset_mode == AutoresetMode.SAME_STEP and acted.over.any():
            last = self._last(info, acted.over)
            info = without(info, acted.over)
            self.begin(acted.over)
            info["action_mask"] = self._play.actions.mask()
        if self.render_mode == "human":
            self.render()
        terminated = np.zeros(self.num_envs, dtype=bool)
        return self.observe(), acted.reward, terminated, acted.over, self._marked(info) | last

    def begin(self, lanes: BoolArray) -> None:
        """Begin an episode in these lanes, bool [B], paired as their last reset said."""
        self._play.begin(lanes, self.rngs)

    def act(self, actions: Any) -> Any:
        """A step alone, in all lanes: for adapters that reset, observe and inform themselves."""
        return self._play.act(self._play.read(actions, self.num_envs))

    def observe(self) -> Any:
        """What each lane sees now, batched."""
        return self._play.observe()

    def info(self, acted: Any = None) -> dict[str, Any]:
        """What is said of a step, or without one of a reset: arrays with an entry for each lane."""
        found: dict[str, Any] = self._play.info(acted)
        return found

    def render(self) -> Any:
        """A text or picture of each lane, as the environment alone gives it."""
        return screen.render_all(self.render_mode, self._play, self.num_envs)

    def render_lane(self, lane: int) -> Any:
        """A text or picture of one lane."""
        return screen.render(self.render_mode, self._play, lane)

    def close_extras(self, **kwargs: Any) -> None:
        if self.render_mode == "human":
            screen.close()
        self._play.close()

    def action_masks(self) -> BoolArray:
        """Legal actions, bool [B, M]."""
        return self._play.actions.legal()

    def _lanes_of(self, options: dict[str, Any]) -> BoolArray:
        lanes = np.asarray(options.get("reset_mask", np.ones(self.num_envs, dtype=bool)))
        if lanes.shape != (self.num_envs,) or lanes.dtype != bool:
            raise InvalidSpec(f"reset_mask is bool [{self.num_envs}], one a lane")
        return lanes

    def _seeds_of(self, seed: int | Sequence[int | None] | None) -> Sequence[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, Sequence) and not isinstance(seed, str):
            if len(seed) != self.num_envs:
                raise InvalidSpec(f"{len(seed)} seeds were given for {self.num_envs} lanes")
            return [None if one is None else whole("seed", one, 0) for one in seed]
        first = whole("seed", seed, 0)
        return [first + lane for lane in range(self.num_envs)]

    def _begin_ended(self, waiting: BoolArray) -> None:
        """Reset lanes whose episode has ended, where that is this step's business."""
        if self.autoreset_mode != AutoresetMode.NEXT_STEP or not self._play.begun[waiting].all():
            raise InvalidAction(
                f"no episode is under way in lanes {np.flatnonzero(waiting).tolist()}: call reset(), "
                "with options={'reset_mask': lanes} to spare the others"
            )
        self.begin(waiting)

    def _last(self, info: dict[str, Any], over: BoolArray) -> dict[str, Any]:
        """What episodes ended with, in Gymnasium's form: once those lanes are reset it is gone."""
        seen, final = self.observe(), np.full(self.num_envs, None, dtype=object)
        for lane in np.flatnonzero(over).tolist():
            final[lane] = row_of(seen, lane)
        last_info = info | {f"_{name}": over for name in info}
        return {
            "final_obs": final,
            "_final_obs": over,
            "final_info": last_info,
            "_final_info": over,
        }

    def _marked(self, info: dict[str, Any]) -> dict[str, Any]:
        """With the marks of Gymnasium that every lane has every entry."""
        if info.keys() != self._marks.keys():
            self._marks = {name: f"_{name}" for name in info}
        return info | dict.fromkeys(self._marks.values(), np.ones(self.num_envs, dtype=bool))


def row_of(observation: Any, lane: int) -> Any:
    """One lane of a batch of observations, copied."""
    if isinstance(observation, dict):
        return {name: part[lane].copy() for name, part in observation.items()}
    return observation[lane].copy()


def mode_of(named: Any) -> AutoresetMode:
    """Gymnasium's way to reset, by itself or as text.

    Raises:
        InvalidSpec: there is no such way.
    """
    try:
        return AutoresetMode(named)
    except ValueError:
        modes = ", ".join(mode.value for mode in AutoresetMode)
        raise InvalidSpec(f"no autoreset_mode {named!r}; there are {modes}") from None
