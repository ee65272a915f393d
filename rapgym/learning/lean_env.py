"""The adapter for Stable-Baselines3 without each row's info, which training does not read."""

from typing import Any

import numpy as np

from rapgym.learning.vec_env import RapVecEnv


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
