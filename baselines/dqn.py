"""DQN on RAP-v0, RAP-style: a small network drops block after block until it stops.

Stable-Baselines3's DQN with masks in acting and exploring, and in targets where there are any: only STOP
is rewarded, so a small step is credited with its whole row's reward, and with `row_discount` above 0 also
with the value of the next row's start, over legal actions. The published runs use 0: they look no further
than their row. Of quality tables it sees each block's greedy importance, which RAP-v0's observation holds,
and no more. Before learning STOP is worth more than any drop: it begins as the dense proposal that the
shield cuts. Five settings were tried on the check rows of two scenarios, one seed each.

Command of the published runs: rapgym train dqn --seeds 2 --publish
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from rapgym.arrays import BoolArray, FloatArray
from rapgym.learning.sb3.small_steps import SmallSteps, layout_of
from rapgym.policies import trained
from rapgym.policies.policy import Briefing
from rapgym.policies.trained import TrainedPolicy

if TYPE_CHECKING:
    from rapgym.learning.training import Training


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run can choose; found on check splits, the same for every scenario."""

    steps: int = 1_000_000  # small ones
    rounds: int = 10  # checks of the learning curve
    patience: int = 10  # checks without a better one: the best come late, when it explores little
    lanes: int = 64
    buffer: int = 50_000  # transitions
    batch: int = 256
    updates: int = 2  # after each step of all lanes
    tau: float = 0.01  # of the target network, at each step of all lanes
    learning_rate: float = 1e-3
    row_discount: float = 0.0  # of the rows that follow; small steps are not discounted
    explore: float = 0.4  # share of exploring steps in the first round, falling to explore_end
    explore_end: float = 0.02
    stop_share: float = 0.5  # of exploring steps
    stop_bias: float = 0.05  # by how much STOP is worth more than a drop, before learning
    parameters: int = 18_000  # of the network, about


class Agent:
    """The small steps of the highest value by a trained network."""

    in_step = True

    def __init__(self, file: str, sha256: str | None = None) -> None:
        self._begin(trained.load(file, sha256))

    @classmethod
    def of(cls, policy: TrainedPolicy) -> Self:
        """The agent of a policy that is in memory."""
        agent = cls.__new__(cls)
        agent._begin(policy)
        return agent

    def _begin(self, policy: TrainedPolicy) -> None:
        self._policy, self._steps = policy, SmallSteps(policy.arrays, "q")

    def reset(self, batch: int, briefing: Briefing) -> None:
        """Stand in a world; it has no memory of others.

        Raises:
            InvalidPolicy: the observations are not those that it was trained on.
        """
        self._policy.check_layout(briefing.layout)
        self._steps.reset(briefing)

    def propose(self, observation: FloatArray, rng: np.random.Generator) -> BoolArray:
        return self._steps.propose(observation)


def width(inputs: int, actions: int, parameters: int) -> int:
    """Units of each of two hidden layers, so that a network has about so many parameters."""
    # w**2 + (inputs + actions + 2) w + actions = parameters
    half = (inputs + actions + 2) / 2
    return max(1, round(float(np.sqrt(half**2 + parameters - actions)) - half))


def train(task: "Training") -> dict[str, np.ndarray]:
    """Learn on the task's rows; the arrays that cost least on its check split."""
    import torch
    from torch import nn

    from rapgym.learning.sb3 import agents as sb3_agents
    from rapgym.learning.sb3.masked_dqn import Dueling, MaskedDQN

    settings: Settings = task.settings
    env = task.vec_env("RAP-v0", settings.lanes)
    mean, scale = sb3_agents.scaling(env, task.seed)
    if task.start is not None:
        mean, scale = task.start.arrays["mean"], task.start.arrays["scale"]
    where, floor = layout_of(task.briefing), task.briefing.train.floor
    units = width(where.size, len(floor) + 1, settings.parameters)
    model = MaskedDQN(
        "MlpPolicy", env, device="cpu", seed=task.seed, buffer_size=settings.buffer,
        batch_size=settings.batch, learning_rate=settings.learning_rate,
        learning_starts=settings.batch, train_freq=1, gradient_steps=settings.updates,
        tau=settings.tau, target_update_interval=settings.lanes,
        so_far=where.slice_of("so_far"), droppable=~floor,
        row_discount=settings.row_discount, stop_share=settings.stop_share,
        policy_kwargs={
            "features_extractor_class": sb3_agents.Scaled,
            "features_extractor_kwargs": {"mean": mean, "scale": scale},
            "net_arch": [units] * 2,
            "activation_fn": nn.ReLU,
        },
    )  # fmt: skip
    for net in (model.q_net, model.q_net_target):
        net.q_net[-1] = Dueling(units, len(floor) + 1)
    model.policy.optimizer = torch.optim.Adam(model.q_net.parameters(), lr=settings.learning_rate)
    buffer: Any = model.replay_buffer
    body: Any = model.q_net.q_net
    advantages = body[-1].advantages
    network = nn.ModuleList([*body[:-1], advantages])
    with torch.no_grad():
        advantages.weight.zero_()
        advantages.bias.fill_(-settings.stop_bias)
        advantages.bias[-1] = 0.0
    if task.start is not None:
        sb3_agents.load_layers(network, "q", task.start.arrays)
    model.q_net_target.load_state_dict(model.q_net.state_dict())

    def arrays() -> dict[str, np.ndarray]:
        return sb3_agents.rounded(network, "q", mean, scale)

    def state() -> dict[str, Any]:
        return {**sb3_agents.state(model), "buffer": buffer.state(), "calls": model._n_calls}

    if task.saved is None:
        task.begin(arrays())
    else:
        sb3_agents.restore(model, task.saved)
        buffer.restore(task.saved["buffer"])
        model._n_calls = task.saved["calls"]
    for turn in task.rounds(settings.rounds):
        sb3_agents.begin_round(model, task.round_seed)
        buffer.begin()
        gone = turn / max(settings.rounds - 1, 1)
        rate = settings.explore + gone * (settings.explore_end - settings.explore)
        model.exploration_schedule = lambda _, rate=rate: rate  # type: ignore[misc]
        model.exploration_rate = rate
        model.learn(settings.steps // settings.rounds, reset_num_timesteps=False)
        share, steps = (turn + 1) / settings.rounds, model.num_timesteps
        if task.advance(share, arrays(), steps=steps, state=state, loss=model.last_loss,
                        explore=rate):  # fmt: skip
            break
    return task.best
