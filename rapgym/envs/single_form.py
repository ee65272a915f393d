"""What the single environments share: a thin shell around one lane."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec

from rapgym.arrays import BoolArray
from rapgym.envs import screen
from rapgym.envs.episodes import Episodes
from rapgym.envs.info import of_lane


class SingleForm(gymnasium.Env[Any, Any]):
    """One lane, reset and stepped as Gymnasium's environments are.

    A form checks its render mode, makes its lane and calls `_stand`.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012  # as Gymnasium declares it
        "render_modes": [*screen.MODES],
        "render_fps": screen.FPS,
    }

    def _stand(self, play: Episodes) -> None:
        """Stand over this lane, where no episode has begun."""
        self._play: Any = play
        self.action_space = play.actions.space
        self.observation_space = play.observation_space
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

        `options` may name another pairing or hour of this split (`{"offset": k}`, in `RAP-Serve-v0`
        `{"piece": k}`), for this episode and those after it until another is named or a seed is given.
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
        reward, over = float(acted.reward[0]), bool(acted.over[0])
        return self._observe(), reward, False, over, self._info(acted)

    def render(self) -> Any:
        """What happened of late: text of `ansi`, uint8 [height, width, 3] of `rgb_array`."""
        return screen.render(self.render_mode, self._play)

    def close(self) -> None:
        if self.render_mode == "human":
            screen.close()
        self._play.close()
        super().close()

    def action_masks(self) -> BoolArray:
        """Legal actions as Stable-Baselines3's maskable policies want them, bool [M]."""
        legal: BoolArray = self._play.actions.legal()[0]
        return legal

    def _info(self, acted: Any = None) -> dict[str, Any]:
        return of_lane(self._play.info(acted), 0)

    def _observe(self) -> Any:
        seen = self._play.observe()
        if isinstance(seen, dict):
            return {name: part[0] for name, part in seen.items()}
        return seen[0]
