"""Stable-Baselines3's PPO as it comes, with nothing of rapgym's but lanes: what a learner of others does."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecNormalize

from rapgym.learning.saved import as_policy
from rapgym.learning.sb3 import agents
from rapgym.learning.sb3.vec_env import RapVecEnv
from rapgym.policies.policy import Policy

ROLLOUT, BATCH = 16, 256  # steps of each lane between updates, and of a minibatch


@dataclass(frozen=True, slots=True)
class Normed:
    """A model beside the means that its observations are divided by: what `as_policy` asks."""

    model: Any
    lanes: VecNormalize

    @property
    def action_space(self) -> Any:
        return self.model.action_space

    @property
    def observation_space(self) -> Any:
        return self.model.observation_space

    def predict(self, observation: np.ndarray, *, deterministic: bool) -> Any:
        """As a model of Stable-Baselines3."""
        seen = self.lanes.normalize_obs(observation)
        return self.model.predict(seen, deterministic=deterministic)


def ppo(
    scenario: str, steps: int, *, lanes: int, gamma: float, observations: bool, reward: bool, seed: int
) -> Policy:  # fmt: skip
    """PPO trained on the learn rows of RAP-Counts-v0, as a policy that takes its likeliest actions.

    Args:
        steps: rows, of all lanes together; whole rollouts.
        observations, reward: whether `VecNormalize` divides them by their spread.
    """
    env = VecNormalize(
        RapVecEnv.make("RAP-Counts-v0", lanes, scenario=scenario, split="learn"),
        gamma=gamma, norm_obs=observations, norm_reward=reward,
    )  # fmt: skip
    env.seed(seed)
    model = PPO(
        "MlpPolicy", env, gamma=gamma, n_steps=ROLLOUT, batch_size=BATCH, device="cpu", seed=seed
    )
    agents.be_silent(model)
    model.learn(steps)
    env.training = False
    return as_policy(Normed(model, env))
