"""The native vector form: B lanes of the same step, at different places in their rows."""

from collections.abc import Mapping
from typing import Any

from gymnasium.vector import AutoresetMode

from rapgym.envs import screen
from rapgym.envs.episodes import whole
from rapgym.envs.play import Play
from rapgym.envs.vector_form import VectorForm, mode_of
from rapgym.errors import InvalidSpec
from rapgym.scenarios.catalogue import story_of
from rapgym.scenarios.story import Scenario, Split


class RapVectorEnv(VectorForm):
    """`num_envs` environments in one: lane by lane what `RapEnv` gives for the same seeds.

    In `RAP-v0` lanes stop at different steps: those that do are served together, the others wait.
    Lane i is seeded with seed + i, as Gymnasium's own vector forms do. `info` holds arrays with an
    entry for each lane, in every step.

    **Resets.** `autoreset_mode` is Gymnasium's: with `NEXT_STEP` a lane whose episode ended is reset
    by its next step, which ignores its action; with `SAME_STEP` at once, and `info` has `final_obs`
    and `final_info` then; with `DISABLED` by `reset(options={"reset_mask": lanes})` alone. Its
    value as text will do. A pairing that `reset(options={"offset": k})` names holds through them.

    **Length.** `max_episode_steps` cuts each lane's episode after so many of its steps; with None or
    -1 rows alone end it.
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
        render_mode: str | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
    ) -> None:
        self.num_envs = whole("num_envs", num_envs, 1)
        if backend == "device" and num_envs != 1:
            raise InvalidSpec("a device serves one lane: num_envs=1")
        # What is misspelt is said before anything is made.
        mode_of(autoreset_mode)
        screen.checked(render_mode)
        story = story_of(scenario, length_share, device_profile, stand_in=backend == "device")
        play = Play(
            story,
            split,
            self.num_envs,
            actions,
            observation=observation,
            offset=offset,
            most_steps=max_episode_steps,
            backend=backend,
            device=device,
            filmed=render_mode is not None,
        )
        self.lanes = play.lanes
        self.layout = self.lanes.layout
        self._stand(self.num_envs, play, autoreset_mode, render_mode)
