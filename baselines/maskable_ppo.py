"""MaskablePPO on RAP-v0: sb3-contrib's, as it is, dropping block after block until it stops.

A row counts as an episode of its own: what its decision does to later rows (blocks that have to come
back) is not learned. Before any learning STOP is the likeliest action, so the agent begins as the dense proposal that the
shield cuts. What is shipped is the most probable legal action at each small step, without sampling.

Command of the published runs: rapgym train maskable_ppo --seeds 2 --publish
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from rapgym.arrays import BoolArray, FloatArray
from rapgym.learning.sb3.small_steps import SmallSteps
from rapgym.policies import trained
from rapgym.policies.policy import Briefing
from rapgym.policies.trained import TrainedPolicy

if TYPE_CHECKING:
    from rapgym.learning.training import Training


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run can choose; found on check splits, the same for every scenario."""

    steps: int = 200_000  # small ones
    rounds: int = 8  # checks of the learning curve
    patience: int = 5  # checks without a better one
    lanes: int = 128
    rollout: int = 32  # steps of each lane between updates
    batch: int = 1024
    epochs: int = 4
    learning_rate: float = 1e-3
    gamma: float = 1.0  # of small steps; a row is an episode of its own
    gae_lambda: float = 1.0
    entropy: float = 0.001
    width: int = 64
    stop_bias: float = 4.0  # by how much STOP is likelier than any one drop, before learning


class Agent:
    """The most probable small steps of a trained network."""

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
        self._policy, self._steps = policy, SmallSteps(policy.arrays, "pi")

    def reset(self, batch: int, briefing: Briefing) -> None:
        """Stand in a world; it has no memory of others.

        Raises:
            InvalidPolicy: the observations are not those that it was trained on.
        """
        self._policy.check_layout(briefing.layout)
        self._steps.reset(briefing)

    def propose(self, observation: FloatArray, rng: np.random.Generator) -> BoolArray:
        return self._steps.propose(observation)


def train(task: "Training") -> dict[str, np.ndarray]:
    """Learn on the task's rows; the arrays that cost least on its check split."""
    import torch
    from sb3_contrib import MaskablePPO
    from torch import nn

    from rapgym.learning.sb3 import agents as sb3_agents

    settings: Settings = task.settings
    env = task.vec_env("RAP-v0", settings.lanes)
    env.ends_with_rows = True
    mean, scale = sb3_agents.scaling(env, task.seed)
    if task.start is not None:
        mean, scale = task.start.arrays["mean"], task.start.arrays["scale"]
    model = MaskablePPO(
        "MlpPolicy", env, device="cpu", seed=task.seed, n_steps=settings.rollout,
        batch_size=settings.batch, n_epochs=settings.epochs, gamma=settings.gamma,
        learning_rate=settings.learning_rate, gae_lambda=settings.gae_lambda,
        ent_coef=settings.entropy,
        policy_kwargs={
            "features_extractor_class": sb3_agents.Scaled,
            "features_extractor_kwargs": {"mean": mean, "scale": scale},
            "net_arch": {"pi": [settings.width] * 2, "vf": [settings.width] * 2},
            "activation_fn": nn.ReLU,
        },
    )  # fmt: skip
    policy: Any = model.policy
    actor = nn.ModuleList([policy.mlp_extractor.policy_net, policy.action_net])
    with torch.no_grad():
        policy.action_net.bias[-1] = settings.stop_bias
    if task.start is not None:
        sb3_agents.load_layers(actor, "pi", task.start.arrays)

    def arrays() -> dict[str, np.ndarray]:
        return sb3_agents.rounded(actor, "pi", mean, scale)

    if task.saved is None:
        task.begin(arrays())
    else:
        sb3_agents.restore(model, task.saved)
    for turn in task.rounds(settings.rounds):
        sb3_agents.begin_round(model, task.round_seed)
        # Whole rollouts: SB3 rounds up.
        model.learn(settings.steps // settings.rounds, reset_num_timesteps=False)
        share, steps = (turn + 1) / settings.rounds, model.num_timesteps
        if task.advance(share, arrays(), steps=steps, state=lambda: sb3_agents.state(model)):
            break
    return task.best
