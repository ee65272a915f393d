"""The Gymnasium environments: a thin shell around one lane."""

import importlib.util
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from rapgym.arrays import BoolArray
from rapgym.envs.actions import actions as actions_of
from rapgym.errors import InvalidSpec, MissingExtra
from rapgym.scenarios.catalogue import story_of
from rapgym.scenarios.lanes import Lanes, row_info, start_of
from rapgym.scenarios.story import Scenario, Split
from rapgym.world import simulator
from rapgym.world.simulator import Step

OBSERVATIONS = ("flat", "dict")
BACKENDS = ("sim", "device")  # the simulated world, or the same rows on a live model


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


def observation_space(lanes: Lanes, kind: str, mask_size: int) -> spaces.Space[Any]:
    """Of one lane: float32 [O], or with the action mask beside it."""
    flat = spaces.Box(lanes.layout.low, lanes.layout.high, dtype=np.float32)
    if kind == "flat":
        return flat
    if kind == "dict":
        mask = spaces.Box(0, 2, (mask_size,), np.int8)
        return spaces.Dict({"observations": flat, "action_mask": mask})
    raise InvalidSpec(f"no observation kind {kind!r}; there are {', '.join(OBSERVATIONS)}")


class RapEnv(gymnasium.Env[Any, Any]):
    """Which blocks of a language model stay in memory, decided anew for each window of a workload.

    **Description.** Time is cut into windows of W seconds. The requests that arrived in the window
    before are this row's batch. A kept set is proposed, the shield cuts it to what fits now, and
    the batch is served while the memory limit moves on: see `rapgym.world.simulator`.

    **Action space.** By id: `RAP-v0` Discrete(N + 1), drop one block of this row's set or STOP
    (N); `RAP-Counts-v0` MultiDiscrete([A + 1, F + 1]), how many attention and FFN blocks are
    dropped along the table's grid; `RAP-KeptSet-v0` MultiBinary(N), the kept set at once.
    Legal actions stand in `info["action_mask"]` (int8), `action_masks()` (bool), and with
    `observation="dict"` in the observation.

    **Observation space.** float32 [O]; `env.unwrapped.layout.parts` names every entry, its unit
    and its range. Nothing of the future is in it.

    **Rewards.** 0 before a row is served; then minus the row's cost, nats an output token above
    dense (a token not served costs C), weighted by output tokens over those of a mean train row.
    `info` of a served row carries the four terms, which add up to the negative reward. Rewards
    speak of calibration columns on every split; the scorer alone reads test columns.

    **Starting state.** Every block in memory. On `train`, `learn` and the folds `fit-k` the first row, the
    pairing with the tenant and a scaling of tokens by 0.9 to 1.1 are drawn from the seed; on
    `validation-k`, `check` and `test` the episode is the whole split, paired by `offset`.

    **Episode end.** Truncated after 64 rows where episodes start anywhere, after the whole split
    elsewhere.
    Episodes are undiscounted.

    **Arguments.** `scenario` (a name or a `Scenario`; `spec.to_json()` states a `Scenario` by its
    fields, and such a mapping is taken too, so that the spec of either makes the same environment
    again), `split` (`train` and its parts `learn` and `check`; `fit-1` to `fit-3` and
    `validation-1` to `validation-3`, for cross-validation; `test`), `offset`, `observation` (`flat`, `dict`), `length_share` (of all lengths, and of what the card holds above
    the dense weights), `device_profile` (name or file: what a device adds to bytes), `backend`
    (`sim`, or `device`: the same rows on a live model, whose blocks, bytes and nats are real, on
    the torch device that `device` names).

    **Version history.** v0: first version.
    """

    metadata = {"render_modes": []}  # noqa: RUF012  # Gymnasium declares it on the instance

    def __init__(
        self,
        actions: str,
        scenario: str | Scenario | Mapping[str, Any] = "chat-beside-code",
        split: Split = "train",
        offset: int = 0,
        observation: str = "flat",
        backend: str = "sim",
        length_share: float = 1.0,
        device_profile: str | None = None,
        device: str = "cpu",
    ) -> None:
        self._offset, self._observation = offset, observation
        story = story_of(scenario, length_share, device_profile, stand_in=backend == "device")
        step = backend_step(backend, story, split, device)
        self.lanes = Lanes(story, split, 1, small_steps=actions == "blocks", step=step)
        self.layout = self.lanes.layout
        self._actions = actions_of(actions, self.lanes)
        self.action_space = self._actions.space
        size = self._actions.mask().shape[1]
        self.observation_space = observation_space(self.lanes, observation, size)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; `options={"offset": k}` chooses another pairing of this split."""
        super().reset(seed=seed)
        offset = int((options or {}).get("offset", self._offset))
        lanes = self.lanes
        lanes.restart(0, start_of(lanes.world, lanes.story, lanes.split, self.np_random, offset))
        self._actions.restart(np.ones(1, dtype=bool))
        return self._observe(), self._masked({})

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        proposal, served = self._actions.propose(np.asarray(action)[None])
        if not served[0]:
            return self._observe(), 0.0, False, False, self._masked({})
        asked = self.lanes.seen.demand
        outcome = self.lanes.serve(proposal)
        self._actions.restart(served)
        info = self._masked(row_info(outcome, asked, 0))
        ended = bool(self.lanes.ended[0])
        return self._observe(), float(outcome.reward[0]), False, ended, info

    def close(self) -> None:
        close_step(self.lanes.step)
        super().close()

    def action_masks(self) -> BoolArray:
        """Legal actions as Stable-Baselines3's maskable policies want them, bool [M]."""
        return self._actions.legal()[0]

    def _masked(self, info: dict[str, Any]) -> dict[str, Any]:
        return info | {"action_mask": self._actions.mask()[0]}

    def _observe(self) -> Any:
        flat = self.lanes.observe(self._actions.so_far)[0]
        if self._observation == "flat":
            return flat
        return {"observations": flat, "action_mask": self._actions.mask()[0]}
