"""The native vector form as Stable-Baselines3 wants it: SB3 ignores Gymnasium's vector forms."""

from copy import deepcopy
from typing import Any, Self

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.vec_env import VecEnv

from rapgym.arrays import BoolArray
from rapgym.envs.vector_env import RapVectorEnv
from rapgym.envs.vector_form import row_of
from rapgym.errors import InvalidSpec

# What all lanes share of the native form, as attributes of one of them.
SHARED = ("layout", "metadata", "render_mode", "spec")


class Lane:
    """One lane of the native form, seen as the environment that `DummyVecEnv` would hold there."""

    def __init__(self, native: RapVectorEnv, index: int) -> None:
        self._native, self._index = native, index
        # Spaces draw from generators of their own, so each lane has its own.
        self.action_space = deepcopy(native.single_action_space)
        self.observation_space = deepcopy(native.single_observation_space)

    @property
    def unwrapped(self) -> Self:
        return self

    @property
    def np_random(self) -> np.random.Generator:
        """What this lane's episodes are drawn from."""
        return self._native.rngs[self._index]

    @np_random.setter
    def np_random(self, rng: np.random.Generator) -> None:
        self._native.rngs[self._index] = rng
        self._native.seeds[self._index] = -1  # unknown, as Gymnasium writes it

    @property
    def np_random_seed(self) -> int:
        return self._native.seeds[self._index]

    def action_masks(self) -> BoolArray:
        """Legal actions, bool [M]."""
        return self._native.action_masks()[self._index]

    def render(self) -> Any:
        """As `RapEnv.render`."""
        return self._native.render_lane(self._index)

    def __getattr__(self, name: str) -> Any:
        if name in SHARED:
            return getattr(self._native, name)
        raise AttributeError(f"a lane of a native vector form has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in SHARED:
            raise InvalidSpec(f"{name} is the same for all lanes: state it where the form is made")
        super().__setattr__(name, value)


class RapVecEnv(VecEnv):
    """Lane by lane what `DummyVecEnv` over single environments gives, at the native form's speed.

    A lane whose episode ends is reset within the same step: its observation is the next episode's
    first, and `infos[lane]["terminal_observation"]` the last one's. `env_method("action_masks")`
    serves maskable policies. Lane i is seeded with seed + i.

    Example: `PPO("MlpPolicy", RapVecEnv.make("RAP-Counts-v0", 16, scenario="chat-gqa"))`.
    """

    def __init__(self, env: RapVectorEnv) -> None:
        if env.autoreset_mode == AutoresetMode.SAME_STEP:
            raise InvalidSpec("the adapter resets lanes itself: leave autoreset_mode out")
        self.native = env
        self.lanes = [Lane(env, index) for index in range(env.num_envs)]
        self._actions: Any = None
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
        self.metadata = {**self.metadata, "render_fps": env.metadata["render_fps"]}

    @classmethod
    def make(cls, env_id: str, lanes: int, **settings: Any) -> Self:
        """The adapter over `gymnasium.make_vec(id, num_envs=lanes, **settings)`.

        Raises:
            InvalidSpec: the id is no environment of rapgym's.
        """
        env = gymnasium.make_vec(env_id, num_envs=lanes, **settings).unwrapped
        if not isinstance(env, RapVectorEnv):
            raise InvalidSpec(f"{env_id} has no native vector form; RAP-v0 and its siblings have")
        return cls(env)

    def reset(self) -> Any:
        """Begin an episode in every lane; seeds and options given before count once."""
        options = self._options[0] if self._options else {}
        if any(other != options for other in self._options):
            raise InvalidSpec("all lanes take the same options")
        observation, _ = self.native.reset(seed=list(self._seeds), options=options)
        self.reset_infos = _by_lane(self.native.info(), self.num_envs)
        self._reset_seeds()
        self._reset_options()
        return observation

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        acted = self.native.act(self._actions)
        infos = _by_lane(self.native.info(acted), self.num_envs)
        over = acted.over
        for lane, ends in enumerate(over.tolist()):
            infos[lane]["TimeLimit.truncated"] = ends
        observation = self.native.observe()
        if over.any():
            last = observation
            self.native.begin(over)
            observation = self.native.observe()
            first = _by_lane(self.native.info(), self.num_envs)
            for lane in np.flatnonzero(over).tolist():
                infos[lane]["terminal_observation"] = row_of(last, lane)
                self.reset_infos[lane] = first[lane]
        if self.render_mode == "human":
            self.native.render()
        return observation, acted.reward.astype(np.float32), over, infos

    def close(self) -> None:
        self.native.close()

    def get_images(self) -> list[np.ndarray | None]:
        """A picture of each lane, with `render_mode="rgb_array"`."""
        if self.render_mode != "rgb_array":
            return [None] * self.num_envs
        return [*self.native.render()]

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute of each lane.

        Raises:
            AttributeError: lanes have none of this name.
        """
        return [getattr(self.lanes[lane], attr_name) for lane in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of these lanes.

        Raises:
            InvalidSpec: all lanes share it.
        """
        for lane in self._get_indices(indices):
            setattr(self.lanes[lane], attr_name, value)

    def env_method(
        self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any
    ) -> list[Any]:
        """Call a method of each lane: `action_masks`, `render`, or what `set_attr` put there.

        Raises:
            InvalidSpec: lanes have no such method.
        """
        methods = [
            getattr(self.lanes[lane], method_name, None) for lane in self._get_indices(indices)
        ]
        if not all(callable(method) for method in methods):
            raise InvalidSpec(f"lanes of a native vector form have no method {method_name!r}")
        return [method(*args, **kwargs) for method in methods if method is not None]

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Never: a native form is made without wrappers; `VecMonitor` and its like wrap this one."""
        return [False for _ in self._get_indices(indices)]

    def has_attr(self, attr_name: str) -> bool:
        """SB3's maskable policies ask for `action_masks` so."""
        return all(hasattr(lane, attr_name) for lane in self.lanes)


def _by_lane(info: dict[str, Any], lanes: int) -> list[dict[str, Any]]:
    """What arrays over lanes say of each, in the form of a single environment's info."""
    columns = {name: part if part.ndim > 1 else part.tolist() for name, part in info.items()}
    return [{name: part[lane] for name, part in columns.items()} for lane in range(lanes)]


class LeanVecEnv(RapVecEnv):
    """Step by step what `RapVecEnv` gives, faster: infos hold ends of episodes alone.

    For flat observations. With `ends_with_rows` an episode ends for the learner as soon as its row is
    served, while its world goes on: what a decision does to later rows is then not counted.
    """

    ends_with_rows = False

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        native = self.native
        acted = native.act(self._actions)
        reward, over = acted.reward.astype(np.float32), acted.over
        observation = native.observe()
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if over.any():
            for lane in np.flatnonzero(over).tolist():
                infos[lane] = {
                    "terminal_observation": observation[lane].copy(),
                    "TimeLimit.truncated": True,
                }
            native.begin(over)
            observation = native.observe()
        if self.ends_with_rows:
            return observation, reward, acted.served, [{} for _ in infos]
        return observation, reward, over, infos
