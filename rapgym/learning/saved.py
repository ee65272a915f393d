"""A trained model of Stable-Baselines3 as a policy: one that was trained on an environment of whole rows."""

from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from rapgym.arrays import BoolArray, FloatArray
from rapgym.errors import InvalidPolicy
from rapgym.policies.policy import Briefing, Policy


class ModelPolicy:
    """Asks a model that was trained on `RAP-Counts-v0` or `RAP-KeptSet-v0` what it would do."""

    def __init__(self, model: Any) -> None:
        """Take a model with Stable-Baselines3's `predict`, `action_space` and `observation_space`.

        Raises:
            InvalidPolicy: it is none, or it decides block by block, in several steps a row.
        """
        if not callable(getattr(model, "predict", None)):
            raise InvalidPolicy(f"{type(model).__name__} has no predict: it is no trained model")
        space = getattr(model, "action_space", None)
        if not isinstance(space, spaces.MultiDiscrete | spaces.MultiBinary):
            raise InvalidPolicy(
                f"a model with the actions {space} is no policy of whole rows: train it on "
                "RAP-Counts-v0 or RAP-KeptSet-v0"
            )
        self._model, self._counts = model, isinstance(space, spaces.MultiDiscrete)

    def reset(self, batch: int, briefing: Briefing) -> None:
        """Begin an episode.

        Raises:
            InvalidPolicy: the model was trained for other observations or other blocks.
        """
        self._grid = briefing.quality.grid_kept
        seen, actions = self._model.observation_space.shape, self._model.action_space
        wanted = (briefing.layout.size,)
        if seen != wanted:
            raise InvalidPolicy(f"the model sees {seen}, but observations here are {wanted}")
        here = self._grid.shape[:2] if self._counts else (briefing.train.blocks,)
        trained = tuple(actions.nvec.tolist()) if self._counts else actions.shape
        if trained != here:
            raise InvalidPolicy(f"the model's actions are {trained}, but here they are {here}")

    def propose(self, observation: FloatArray, rng: np.random.Generator) -> BoolArray:
        """float32 [B, O] -> proposal, bool [B, N]: the model's likeliest actions."""
        actions, _ = self._model.predict(observation, deterministic=True)
        chosen = np.asarray(actions)
        if not self._counts:
            return chosen.astype(bool)
        kept: BoolArray = self._grid[chosen[:, 0], chosen[:, 1]]
        return kept


def as_policy(model: Any) -> Policy:
    """A trained model of Stable-Baselines3 (or sb3-contrib) as a policy of rapgym's.

    Args:
        model: trained on `RAP-Counts-v0` or `RAP-KeptSet-v0`.

    Raises:
        InvalidPolicy: it is no such model.

    Example:
        >>> model = stable_baselines3.PPO("MlpPolicy", gymnasium.make("RAP-Counts-v0"))
        >>> log = rapgym.run_policy(rapgym.learning.as_policy(model), "laptop", "check")
    """
    return ModelPolicy(model)


class SavedModel(ModelPolicy):
    """A model in a .zip file of Stable-Baselines3: `rapgym bench --policy sb3:model.zip --trust`.

    Such a file holds pickles, which run whatever they say as they are read.
    """

    def __init__(self, path: str) -> None:
        """Read it.

        Raises:
            InvalidPolicy: no algorithm that is installed can read it.
        """
        super().__init__(_loaded(Path(path)))


def _loaded(path: Path) -> Any:
    import stable_baselines3

    known = [getattr(stable_baselines3, name) for name in ("PPO", "A2C")]
    try:
        import sb3_contrib
    except ImportError:
        pass
    else:
        known += [getattr(sb3_contrib, name) for name in ("MaskablePPO", "TRPO")]
    faults = []
    for algorithm in known:
        try:
            return algorithm.load(path, device="cpu")
        except Exception as error:
            faults.append(f"{algorithm.__name__}: {error}")
    raise InvalidPolicy(f"{path} is no model of {', '.join(faults)[:1000]}")
