"""The native vector form: B lanes of the same step, at different places in their rows."""

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from rapgym.arrays import BoolArray, FloatArray
from rapgym.envs.actions import actions as actions_of
from rapgym.envs.env import backend_step, close_step, observation_space
from rapgym.errors import InvalidSpec
from rapgym.scenarios.catalogue import story_of
from rapgym.scenarios.lanes import Lanes, row_info, start_of
from rapgym.scenarios.story import Scenario, Split


class RapVectorEnv(VectorEnv[Any, Any, Any]):
    """`num_envs` environments in one: lane by lane what `RapEnv` gives for the same seeds.

    In `RAP-v0` lanes stop at different steps: those that do are served together, the others wait.
    A lane whose episode ended is reset by its next step, which ignores its action
    (`AutoresetMode.NEXT_STEP`). Lane i is seeded with seed + i, as Gymnasium's own vector forms do.
    """

    def __init__(
        self,
        num_envs: int,
        actions: str,
        scenario: str | Scenario | Mapping[str, Any] = "chat-beside-code",
        split: Split = "train",
        offset: int = 0,
        observation: str = "flat",
        backend: str = "sim",
        max_episode_steps: int | None = None,
        length_share: float = 1.0,
        device_profile: str | None = None,
        device: str = "cpu",
    ) -> None:
        if backend == "device" and num_envs != 1:
            raise InvalidSpec("a device serves one lane: num_envs=1")
        if max_episode_steps is not None:
            raise InvalidSpec("episodes end with their rows; max_episode_steps cannot be set")
        self.num_envs = num_envs
        self.metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}
        self._offset, self._observation = offset, observation
        story = story_of(scenario, length_share, device_profile, stand_in=backend == "device")
        step = backend_step(backend, story, split, device)
        self.lanes = Lanes(story, split, num_envs, small_steps=actions == "blocks", step=step)
        self.layout = self.lanes.layout
        self._actions = actions_of(actions, self.lanes)
        size = self._actions.mask().shape[1]
        self.single_action_space = self._actions.space
        self.single_observation_space = observation_space(self.lanes, observation, size)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._rngs = [seeding.np_random(None)[0] for _ in range(num_envs)]
        self._ended = np.zeros(num_envs, dtype=bool)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode in every lane, or where `options["reset_mask"]` (bool [B]) says so."""
        options = options or {}
        lanes = np.asarray(options.get("reset_mask", np.ones(self.num_envs, dtype=bool)))
        if seed is None or isinstance(seed, Sequence):
            seeds = seed
        else:
            seeds = [operator.index(seed) + i for i in range(self.num_envs)]
        for lane in np.flatnonzero(lanes):
            if seeds is not None and seeds[lane] is not None:
                self._rngs[lane] = seeding.np_random(seeds[lane])[0]
        self._restart(lanes, int(options.get("offset", self._offset)))
        return self._observe(), self._masked({})

    def step(self, actions: Any) -> tuple[Any, FloatArray, BoolArray, BoolArray, dict[str, Any]]:
        reset_now = self._ended.copy()
        if reset_now.any():
            # Their actions belong to no episode; STOP-like entries keep `propose` in range.
            self._restart(reset_now, self._offset)
        proposal, served = self._actions.propose(actions)
        served = served & ~reset_now
        self._actions.restart(reset_now)  # forget what the ignored actions dropped
        reward, info = np.zeros(self.num_envs), dict[str, Any]()
        if served.any():
            asked = self.lanes.seen.demand.at(served)
            outcome = self.lanes.serve(proposal, served)
            reward[served] = outcome.reward
            self._actions.restart(served)
            for index, lane in enumerate(np.flatnonzero(served)):
                info = self._add_info(info, row_info(outcome, asked, index), int(lane))
        self._ended = self.lanes.ended & served
        terminated = np.zeros(self.num_envs, dtype=bool)
        return self._observe(), reward, terminated, self._ended.copy(), self._masked(info)

    def close_extras(self, **kwargs: Any) -> None:
        close_step(self.lanes.step)

    def action_masks(self) -> BoolArray:
        """Legal actions, bool [B, M]."""
        return self._actions.legal()

    def _restart(self, lanes: BoolArray, offset: int) -> None:
        inner = self.lanes
        for lane in np.flatnonzero(lanes):
            start = start_of(inner.world, inner.story, inner.split, self._rngs[lane], offset)
            inner.restart(int(lane), start)
        self._actions.restart(lanes)
        self._ended[lanes] = False

    def _masked(self, info: dict[str, Any]) -> dict[str, Any]:
        everywhere = np.ones(self.num_envs, dtype=bool)
        return info | {"action_mask": self._actions.mask(), "_action_mask": everywhere}

    def _observe(self) -> Any:
        flat = self.lanes.observe(self._actions.so_far)
        if self._observation == "flat":
            return flat
        return {"observations": flat, "action_mask": self._actions.mask()}
