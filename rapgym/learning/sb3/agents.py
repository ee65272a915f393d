"""What methods on Stable-Baselines3 share: scaled inputs, weights as arrays, a logger that is silent."""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from rapgym.arrays import FloatArray
from rapgym.learning.sb3.vec_env import RapVecEnv

STEADY = 1e-4  # entries that vary less are left as they are: they serve as a bias
SIGNAL_STEPS = 64  # of every lane, to see how observations vary


class Scaled(BaseFeaturesExtractor):
    """Observations less `mean`, times `scale`, [O] each: part of the network, so saved with it."""

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, observation_space: spaces.Box, mean: FloatArray, scale: FloatArray) -> None:
        super().__init__(observation_space, int(np.prod(observation_space.shape)))
        self.register_buffer("mean", torch.as_tensor(mean, dtype=torch.float32))
        self.register_buffer("scale", torch.as_tensor(scale, dtype=torch.float32))

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return (observations - self.mean) * self.scale


def scaling(env: RapVecEnv, seed: int, stop_share: float = 0.2) -> tuple[FloatArray, FloatArray]:
    """Mean and 1 / standard deviation of what lanes see under random legal actions, [O] each.

    Args:
        stop_share: of steps that end a row where rows take several.
    """
    rng = np.random.default_rng(seed)
    env.seed(seed)
    seen = [env.reset()]
    seen += [env.step(_random_actions(env, rng, stop_share))[0] for _ in range(SIGNAL_STEPS)]
    values = np.concatenate(seen).astype(np.float64)
    mean, spread = values.mean(axis=0), values.std(axis=0)
    steady = spread < STEADY
    mean[steady] = 0.0
    scale = 1 / np.where(steady, 1.0, spread)
    return mean.astype(np.float32), scale.astype(np.float32)


def _random_actions(env: RapVecEnv, rng: np.random.Generator, stop_share: float) -> np.ndarray:
    space = env.action_space
    if isinstance(space, spaces.MultiDiscrete):
        return rng.integers(space.nvec, size=(env.num_envs, len(space.nvec)))
    draws = np.where(env.native.action_masks(), rng.random((env.num_envs, int(space.n))), -1.0)  # type: ignore[attr-defined]
    stops = rng.random(env.num_envs) < stop_share
    return np.where(stops, draws.shape[1] - 1, draws.argmax(axis=1))


def begin_round(model: Any, seed: int) -> None:
    """Begin episodes anew in every lane, from this seed: nothing of the last round's lanes is left."""
    model.env.seed(seed)
    model._last_obs = None
    model.action_space.seed(seed)
    be_silent(model)


def be_silent(model: Any) -> None:
    """Log nothing: left to itself, a model makes a folder SB3-... among temporary files."""
    model.set_logger(Logger(None, []))


def layers(module: nn.Module, prefix: str) -> dict[str, FloatArray]:
    """Weights [inputs, outputs] and biases of the linear layers of a module, by number."""
    linear = [each for each in module.modules() if isinstance(each, nn.Linear)]
    found: dict[str, FloatArray] = {}
    for i, layer in enumerate(linear):
        found[f"{prefix}{i}_weight"] = layer.weight.detach().numpy().T.copy()
        found[f"{prefix}{i}_bias"] = layer.bias.detach().numpy().copy()
    return found


def load_layers(module: nn.Module, prefix: str, arrays: dict[str, Any]) -> None:
    """Put arrays of `layers` back into a module of the same shape.

    Raises:
        KeyError, RuntimeError: they are of another shape.
    """
    linear = [each for each in module.modules() if isinstance(each, nn.Linear)]
    with torch.no_grad():
        for i, layer in enumerate(linear):
            weight = np.asarray(arrays[f"{prefix}{i}_weight"], dtype=np.float32).T
            layer.weight.copy_(torch.from_numpy(weight.copy()))
            layer.bias.copy_(torch.from_numpy(np.asarray(arrays[f"{prefix}{i}_bias"], np.float32)))


def rounded(
    module: nn.Module, prefix: str, mean: FloatArray, scale: FloatArray
) -> dict[str, np.ndarray]:
    """What is shipped of a network behind `Scaled`: weights in float16, the scaling in float32."""
    weights = {name: each.astype(np.float16) for name, each in layers(module, prefix).items()}
    return {**weights, "mean": mean, "scale": scale}


def state(model: Any) -> dict[str, Any]:
    """What the next round needs of a model; a replay buffer is not in it."""
    return {
        "policy": model.policy.state_dict(),
        "optimizer": model.policy.optimizer.state_dict(),
        "steps": model.num_timesteps,
        "updates": model._n_updates,
    }


def restore(model: Any, saved: dict[str, Any]) -> None:
    """Put `state` back."""
    model.policy.load_state_dict(saved["policy"])
    model.policy.optimizer.load_state_dict(saved["optimizer"])
    model.num_timesteps, model._n_updates = saved["steps"], saved["updates"]
