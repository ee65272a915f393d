"""A replay buffer whose transitions reach to the end of their row: only STOP is rewarded."""

from typing import Any

import numpy as np
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples

COLUMNS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts", "ready")


class RowReplayBuffer(ReplayBuffer):
    """Each small step with its whole row's reward, and the next row's start as what follows.

    What belongs to a row that has not been served yet is not sampled.
    """

    def __init__(self, *args: Any, stop: int, **options: Any) -> None:
        """As SB3's; `stop` is the action that ends a row."""
        super().__init__(*args, **options)
        self.stop = stop
        self.ready = np.zeros((self.buffer_size, self.n_envs), dtype=bool)
        self._steps = np.zeros(self.n_envs, dtype=np.int64)  # of each lane's row so far

    def begin(self) -> None:
        """Lanes begin anew: rows that they were in are never served."""
        self._steps[:] = 0

    def add(
        self,
        obs: np.ndarray,
        next_obs: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """Keep a step of every lane, and finish the rows of those that stop."""
        place = self.pos
        super().add(obs, next_obs, action, reward, done, infos)
        self.ready[place] = False
        self._steps += 1
        for lane in np.flatnonzero(np.asarray(action).ravel() == self.stop).tolist():
            # A row has fewer steps than the buffer, or its first ones are gone already.
            steps = min(int(self._steps[lane]), self.buffer_size)
            row = (place - np.arange(steps)) % self.buffer_size
            for column in (self.next_observations, self.rewards, self.dones, self.timeouts):
                column[row, lane] = column[place, lane]
            self.ready[row, lane] = True
            self._steps[lane] = 0

    def sample(self, batch_size: int, env: Any = None) -> ReplayBufferSamples:
        """Steps of rows that were served, drawn evenly."""
        row, lane = np.nonzero(self.ready[: self.buffer_size if self.full else self.pos])
        drawn = np.random.randint(len(row), size=batch_size)
        row, lane = row[drawn], lane[drawn]
        ends = self.dones[row, lane] * (1 - self.timeouts[row, lane])
        columns = (self.observations[row, lane], self.actions[row, lane],
                   self.next_observations[row, lane], ends[:, None],
                   self.rewards[row, lane][:, None])  # fmt: skip
        return ReplayBufferSamples(*map(self.to_torch, columns))

    def state(self) -> dict[str, Any]:
        """All that it holds."""
        filled = self.buffer_size if self.full else self.pos
        return {"columns": {name: getattr(self, name)[:filled] for name in COLUMNS},
                "pos": self.pos, "full": self.full}  # fmt: skip

    def restore(self, saved: dict[str, Any]) -> None:
        """Put `state` back; lanes begin anew."""
        for name, column in saved["columns"].items():
            getattr(self, name)[: len(column)] = column
        self.pos, self.full = saved["pos"], saved["full"]
        self.begin()
