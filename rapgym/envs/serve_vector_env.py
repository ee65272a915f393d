"""The native vector form of the serving environment: B lanes in one compiled loop."""

from collections.abc import Mapping, Sequence
from typing import Any

from gymnasium.vector import AutoresetMode

from rapgym.envs import screen
from rapgym.envs.episodes import whole
from rapgym.envs.serve_env import DEFAULT
from rapgym.envs.serve_play import ServePlay
from rapgym.envs.vector_form import VectorForm, mode_of
from rapgym.errors import InvalidSpec
from rapgym.scenarios.serving import ServeScenario, story_of
from rapgym.scenarios.story import Split
from rapgym.serving import sight

One = str | ServeScenario | Mapping[str, Any]


class ServeVectorEnv(VectorForm):
    """`num_envs` environments in one: lane by lane what `ServeEnv` gives for the same seeds.

    Lane i is seeded with seed + i. `scenario` may be a list, one a lane: scenarios whose tables let as
    many blocks of each kind be dropped. Resets, seeds and `max_episode_steps` are those of
    `RapVectorEnv`; an episode that `max_episode_steps` cuts is not drained.
    """

    def __init__(
        self,
        num_envs: int,
        scenario: One | Sequence[One] = DEFAULT,
        split: Split = "train",
        piece: int = 0,
        observation: str = "flat",
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
    ) -> None:
        count = whole("num_envs", num_envs, 1)
        # What is misspelt is said before anything is made.
        mode_of(autoreset_mode)
        screen.checked(render_mode)
        if isinstance(scenario, Sequence) and not isinstance(scenario, str):
            stories = [story_of(each) for each in scenario]
            if len(stories) != count:
                raise InvalidSpec(f"{len(stories)} scenarios were given for {count} lanes")
        else:
            stories = [story_of(scenario)] * count
        play = ServePlay(
            stories,
            split,
            observation=observation,
            piece=piece,
            most_steps=max_episode_steps,
            filmed=render_mode is not None,
        )
        self.worlds, self.layout = play.worlds, sight.SLICES
        self._stand(count, play, autoreset_mode, render_mode)
