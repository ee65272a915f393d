"""The Gymnasium environments: a thin shell around one lane."""

from collections.abc import Mapping
from typing import Any

from rapgym.envs import screen
from rapgym.envs.info import of_lane, own, rows_info
from rapgym.envs.play import Acted, Play
from rapgym.envs.single_form import SingleForm
from rapgym.scenarios.catalogue import story_of
from rapgym.scenarios.story import Scenario, Split


class RapEnv(SingleForm):
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
    `info` has the same entries after each step and reset: `served` says whether a row was served,
    and the four terms add up to the negative reward. `reason` is a `rapgym.world.shield.Reason`.
    Rewards speak of calibration columns on every split; the scorer alone reads test columns.

    **Starting state.** Every block in memory. On `train`, `learn` and the folds `fit-k` the first row, the
    pairing with the tenant and a scaling of tokens by 0.9 to 1.1 are drawn from the seed; on
    `validation-k`, `check` and `test` the episode is the whole split, paired by `offset`.

    **Episode end.** Truncated after 64 rows where episodes start anywhere, after the whole split
    elsewhere. `env.spec.max_episode_steps` says how many steps that is at most. The registered spec
    leaves it open, since it holds for every split: a limit there would cut test episodes.
    `reward_threshold` is None: what can be reached differs by scenario, and a score lies between its
    rules and its bound. Episodes are undiscounted.

    **Faults.** An action that cannot be read, or is outside the space, raises `InvalidAction`, and so
    does a step before `reset` or after the end. A drop of the floor, or of what is dropped already, counts
    as STOP.

    **Arguments.**

    - `scenario`: a name, the path of a `.toml` file or a `Scenario`; `spec.to_json()` states a `Scenario`
      by its fields, and such a mapping is taken too, so that the spec of either makes the same environment
      again.
    - `split`: `train` and its parts `learn` and `check`; `fit-1` to `fit-3` and `validation-1` to
      `validation-3`, for cross-validation; `test`.
    - `offset`: the pairing of a whole split.
    - `observation`: `flat`, or `dict`: the same and the mask.
    - `backend`: `sim`, or `device`: the same rows on a live model, whose blocks, bytes and nats are real.
    - `length_share`: of all lengths, and of what the card holds above the dense weights.
    - `device_profile`: name or file of what a device adds to bytes.
    - `device`: the torch device of the live model.
    - `render_mode`: `ansi` gives words and a bar of memory, `rgb_array` a picture, `human` a window; the last
      two need the extra `render`.

    **Version history.** v0: first version.
    """

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
        render_mode: str | None = None,
    ) -> None:
        self.render_mode = screen.checked(render_mode)
        story = story_of(scenario, length_share, device_profile, stand_in=backend == "device")
        play = Play(
            story,
            split,
            1,
            actions,
            observation=observation,
            offset=offset,
            backend=backend,
            device=device,
            filmed=render_mode is not None,
        )
        self._stand(play)
        self.lanes = play.lanes
        self.layout = self.lanes.layout
        self._no_row = of_lane(rows_info(1, self.lanes.world.blocks), 0)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self._play.step_alone(action) or super().step(action)

    def _info(self, acted: Any = None) -> dict[str, Any]:
        # Nothing is counted anew for the small steps of a row.
        if acted is None or (isinstance(acted, Acted) and acted.outcome is None):
            return own(self._no_row) | {"action_mask": self._play.actions.mask()[0]}
        return super()._info(acted)
