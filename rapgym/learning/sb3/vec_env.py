"""The native vector form as Stable-Baselines3 wants it: SB3 ignores Gymnasium's vector forms."""

from typing import Any, Self

import gymnasium
import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from rapgym.envs.vector_env import RapVectorEnv
from rapgym.errors import InvalidSpec


class RapVecEnv(VecEnv):
    """Lane by lane what `DummyVecEnv` over single environments gives, at the native form's speed.

    A lane whose episode ends is reset within the same step: its observation is the next episode's
    first, and `infos[lane]["terminal_observation"]` the last one's. `env_method("action_masks")`
    serves maskable policies. Lane i is seeded with seed + i.

    Example: `PPO("MlpPolicy", RapVecEnv.make("RAP-Counts-v0", 16, scenario="chat-gqa"))`.
    """

    def __init__(self, env: RapVectorEnv) -> None:
        self.native = env
        self.render_mode = None
        self._actions: Any = None
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

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
        observation, info = self.native.reset(seed=list(self._seeds), options=options)
        self.reset_infos = [_of_lane(info, lane) for lane in range(self.num_envs)]
        self._reset_seeds()
        self._reset_options()
        return observation

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        observation, reward, terminated, truncated, info = self.native.step(self._actions)
        infos = [_of_lane(info, lane) for lane in range(self.num_envs)]
        done = terminated | truncated
        for lane in range(self.num_envs):
            infos[lane]["TimeLimit.truncated"] = bool(truncated[lane] and not terminated[lane])
        if done.any():
            last = observation
            observation, first = self.native.reset(options={"reset_mask": done})
            for lane in np.flatnonzero(done).tolist():
                infos[lane]["terminal_observation"] = _row(last, lane)
                self.reset_infos[lane] = _of_lane(first, lane)
        return observation, reward.astype(np.float32), done, infos

    def close(self) -> None:
        self.native.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The native form's attribute, the same for each lane."""
        return [getattr(self.native, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise InvalidSpec("lanes of a native vector form have no attributes of their own")

    def env_method(
        self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any
    ) -> list[Any]:
        """Lane by lane; `action_masks` is what there is.

        Raises:
            InvalidSpec: another method is asked for.
        """
        if method_name != "action_masks":
            raise InvalidSpec(f"lanes of a native vector form have no method {method_name!r}")
        masks = self.native.action_masks()
        return [masks[lane] for lane in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False for _ in self._get_indices(indices)]

    def has_attr(self, attr_name: str) -> bool:
        """SB3's maskable policies ask for `action_masks` so."""
        return hasattr(self.native, attr_name)


def _row(observation: Any, lane: int) -> Any:
    """One lane of a batch of observations, copied."""
    if isinstance(observation, dict):
        return {name: part[lane].copy() for name, part in observation.items()}
    return observation[lane].copy()


def _of_lane(info: dict[str, Any], lane: int) -> dict[str, Any]:
    """What a Gymnasium vector's info says of one lane."""
    found: dict[str, Any] = {}
    for name, value in info.items():
        if name.startswith("_") or not info[f"_{name}"][lane]:
            continue
        found[name] = _of_lane(value, lane) if isinstance(value, dict) else value[lane]
    return found


class LeanVecEnv(RapVecEnv):
    """Step by step what `RapVecEnv` gives, faster: infos hold ends of episodes alone.

    For flat observations. With `ends_with_rows` an episode ends for the learner as soon as its row is
    served, while its world goes on: what a decision does to later rows is then not counted.
    """

    ends_with_rows = False

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        native = self.native
        proposal, served = native._actions.propose(self._actions)
        reward = np.zeros(self.num_envs, dtype=np.float32)
        if served.any():
            reward[served] = native.lanes.serve(proposal, served).reward
            native._actions.restart(served)
        done = native.lanes.ended & served
        observation = native._observe()
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if done.any():
            for lane in np.flatnonzero(done).tolist():
                infos[lane] = {
                    "terminal_observation": observation[lane].copy(),
                    "TimeLimit.truncated": True,
                }
            native._restart(done, native._offset)
            observation = native._observe()
        if self.ends_with_rows:
            return observation, reward, served, [{} for _ in infos]
        return observation, reward, done, infos
