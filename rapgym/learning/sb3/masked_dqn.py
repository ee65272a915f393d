"""Stable-Baselines3's DQN for RAP-v0: legal actions alone are taken, and alone count in targets.

SB3's own knows no masks. Which drops are legal stands in the observation (`so_far`) but for the floor.
"""

from typing import Any

import numpy as np
import torch
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import nn
from torch.nn import functional

from rapgym.arrays import BoolArray


class Dueling(nn.Module):
    """Values of actions as a value of the state and advantages: what all share is learned once.

    Which action is best is a matter of the advantages, so they alone are shipped.
    """

    def __init__(self, inputs: int, actions: int) -> None:
        super().__init__()
        self.advantages, self.value = nn.Linear(inputs, actions), nn.Linear(inputs, 1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.value(hidden) + self.advantages(hidden)
        return found


class MaskedDQN(DQN):
    """Double DQN over rows: a small step's return is its row's reward and the value of the next row.

    Small steps are not discounted; what follows the row is, by `row_discount`.
    """

    def __init__(
        self,
        *args: Any,
        so_far: slice,
        droppable: BoolArray,
        row_discount: float,
        stop_share: float,
        **options: Any,
    ) -> None:
        """As DQN, and:

        Args:
            so_far: where an observation says what the row still keeps.
            droppable: blocks above the floor, bool [N].
            row_discount: of what follows a STOP; small steps are not discounted.
            stop_share: how often an exploring step is STOP; else it drops any legal block.
        """
        self.so_far, self.stop = so_far, len(droppable)
        self.droppable = droppable
        self.row_discount, self.stop_share = row_discount, stop_share
        self.last_loss = np.nan
        options |= {
            "replay_buffer_class": RowReplayBuffer,
            "replay_buffer_kwargs": {"stop": self.stop},
            "gamma": 1.0,
        }
        super().__init__(*args, **options)

    def legal(self, observation: np.ndarray) -> BoolArray:
        """Legal actions, bool [B, N + 1]."""
        drops = (observation[:, self.so_far] > 0.5) & self.droppable
        return np.concatenate([drops, np.ones((len(drops), 1), dtype=bool)], axis=1)

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """The legal action of the highest value, or now and then another legal one."""
        legal = self.legal(observation)
        with torch.no_grad():
            values = self.q_net(torch.from_numpy(observation)).numpy()
        actions = np.where(legal, values, -np.inf).argmax(axis=1)
        if deterministic or self.exploration_rate == 0:
            return actions, state
        lanes = len(actions)
        drawn = np.where(legal[:, :-1], np.random.rand(lanes, self.stop), -1.0)
        stops = (np.random.rand(lanes) < self.stop_share) | ~legal[:, :-1].any(axis=1)
        other = np.where(stops, self.stop, drawn.argmax(axis=1))
        explores = np.random.rand(lanes) < self.exploration_rate
        return np.where(explores, other, actions), state

    def _sample_action(
        self, learning_starts: int, action_noise: Any = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        # SB3's warm-up draws from the whole space; ours from what is legal.
        actions, _ = self.predict(self._last_obs)
        return actions, actions

    def train(self, gradient_steps: int, batch_size: int = 256) -> None:
        """Update towards double-DQN targets over legal next actions."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        for _ in range(gradient_steps):
            assert self.replay_buffer is not None
            data = self.replay_buffer.sample(batch_size)
            actions = data.actions.long()
            values = self.q_net(data.observations).gather(1, actions)[:, 0]
            loss = functional.smooth_l1_loss(values, self.targets(data))
            self.policy.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.q_net.parameters(), self.max_grad_norm)
            self.policy.optimizer.step()
        self._n_updates += gradient_steps
        self.last_loss = float(loss.item()) if gradient_steps else np.nan

    def targets(self, data: Any) -> torch.Tensor:
        """What the values of a sample's actions should be, [B]: row's reward and what follows."""
        following = data.next_observations
        reward: torch.Tensor = data.rewards[:, 0]
        if self.row_discount == 0:
            return reward
        with torch.no_grad():
            legal = torch.from_numpy(self.legal(following.numpy()))
            chosen = self.q_net(following).masked_fill(~legal, -torch.inf).argmax(1, keepdim=True)
            after = self.q_net_target(following).gather(1, chosen)[:, 0]
            target: torch.Tensor = reward + self.row_discount * (1 - data.dones[:, 0]) * after
        return target


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
