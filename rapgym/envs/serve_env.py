"""The serving environment: a thin shell around one lane."""

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec

from rapgym.arrays import BoolArray
from rapgym.envs import screen
from rapgym.envs.info import of_lane
from rapgym.envs.serve_play import Acted, ServePlay
from rapgym.scenarios.serving import ServeScenario, story_of
from rapgym.scenarios.story import Split
from rapgym.serving import sight

DEFAULT = "serve-days-mid"


class ServeEnv(gymnasium.Env[Any, Any]):
    """How much of a model stays in memory while it serves, decided anew each second.

    **Description.** One replica behind a queue batches continuously, as vLLM V1 does, on a card whose
    free memory moves. What a decision does lasts: a queue is paid for later, a sequence keeps the damage
    of what it was prefilled with, a freed byte is room for another request. See `rapgym.serving.engine`.

    **Action space.** MultiDiscrete([A + 1, F + 1, 2]): attention and FFN blocks dropped, along the
    table's attention-only and FFN-only orders, and what goes first where memory falls below what is in
    use: 0 the last admitted sequences, 1 blocks. An engine that does not prune is (0, 0, 0). All are
    legal; `info["action_mask"]` and `action_masks()` say so.

    **Observation space.** float32 [O], all from 0 up; `sight.PARTS` names every part, its unit and its
    range, `sight.SLICES` where it lies (`env.unwrapped.layout`). Nothing of the future is in it.

    **Rewards.** Minus the cost charged in this second, nats: of each output token what it was computed
    under and how late it came, C for each token shed; over the mean output tokens of a second of train.
    `info` has the three terms, and every count and measure of the second: `rapgym.serving.batch.COLUMNS`.
    Rewards speak of calibration columns on every split.

    **Starting state.** An idle engine with every block in memory. On `train`, `fit` and `learn` the first
    second is drawn from the seed; elsewhere `piece` says which hour of the split it is.

    **Episode end.** Truncated after 600 s on `train`, `fit` and `learn`, after the hour elsewhere (the
    last of a stretch may be shorter). What is in flight then is served on under the decision that
    stands and charged to the last step; what is not delivered after 600 s more costs C.

    **Actions that cannot be read**, or are outside the space, raise `InvalidAction`, and so does a
    step before `reset` or after the end.

    **Arguments.** `scenario` (the name of a serving scenario, a `.toml` file, a `ServeScenario` or its
    fields), `split`, `piece`, `observation` (`flat`, `dict`), `render_mode` (`ansi`, `rgb_array`, `human`;
    the last two need the extra `render`).
    """

    metadata: dict[str, Any] = {  # noqa: RUF012  # as Gymnasium declares it
        "render_modes": [*screen.MODES],
        "render_fps": screen.FPS,
    }

    def __init__(
        self,
        scenario: str | ServeScenario | Mapping[str, Any] = DEFAULT,
        split: Split = "train",
        piece: int = 0,
        observation: str = "flat",
        render_mode: str | None = None,
    ) -> None:
        self.render_mode = screen.checked(render_mode)
        self._play = ServePlay(
            [story_of(scenario)],
            split,
            observation=observation,
            piece=piece,
            filmed=render_mode is not None,
        )
        self.world = self._play.worlds[0]
        self.layout = sight.SLICES
        self.action_space = self._play.actions.space
        self.observation_space = self._play.observation_space
        self._spec: EnvSpec | None = None

    @property
    def spec(self) -> EnvSpec | None:
        """Gymnasium's, with the most steps that an episode of this split can take."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        self._spec = None if spec is None else self._play.spec_of(spec)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode.

        `options={"piece": k}` chooses another hour of this split, for this episode and those after it
        until another is named or a seed is given.
        """
        super().reset(seed=seed)
        everywhere = np.ones(1, dtype=bool)
        self._play.pair(everywhere, options, everywhere & (seed is not None))
        self._play.begin(everywhere, [self.np_random])
        if self.render_mode == "human":
            self.render()
        return self._observe(), self._info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        acted = self._play.act(self._play.read(action)[None])
        if self.render_mode == "human":
            self.render()
        return (
            self._observe(),
            float(acted.reward[0]),
            False,
            bool(acted.over[0]),
            self._info(acted),
        )

    def render(self) -> Any:
        """The seconds of late: text of `ansi`, uint8 [height, width, 3] of `rgb_array`."""
        return screen.render(self.render_mode, self._play.films, None)

    def close(self) -> None:
        if self.render_mode == "human":
            screen.close()
        super().close()

    def action_masks(self) -> BoolArray:
        """Legal actions as Stable-Baselines3's maskable policies want them, bool [M]: all."""
        return self._play.actions.legal()[0]

    def _info(self, acted: Acted | None = None) -> dict[str, Any]:
        return of_lane(self._play.info(acted), 0)

    def _observe(self) -> Any:
        seen = self._play.observe()
        if isinstance(seen, dict):
            return {name: part[0] for name, part in seen.items()}
        return seen[0]
