"""PPO on RAP-Counts-v0: how many attention and FFN blocks go, along the table's grid.

Stable-Baselines3's PPO as it is. The policy's first choice, before any learning, is to drop nothing:
the shield then cuts. What is shipped is the most probable pair of counts, without sampling.

Command of the published runs: rapgym train ppo_counts --seeds 2 --publish
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.policies import trained
from rapgym.policies.policy import Briefing
from rapgym.policies.trained import TrainedPolicy
from rapgym.world import pace

if TYPE_CHECKING:
    from rapgym.learning.training import Training


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run can choose; found on check splits, the same for every scenario."""

    steps: int = 400_000  # one a row
    rounds: int = 8  # checks of the learning curve
    patience: int = 5  # checks without a better one
    lanes: int = 256
    rollout: int = 16  # steps of each lane between updates
    batch: int = 1024
    epochs: int = 6
    learning_rate: float = 2e-3
    gamma: float = 0.0  # of the rows that follow
    gae_lambda: float = 1.0
    entropy: float = 0.001
    width: int = 64
    shyness: float = 0.5  # by how much each further block is less likely to go, before learning


class Agent:
    """The most probable counts of a trained network."""

    in_step = True
    _stands_in: Briefing | None = None  # whose world; it remembers no rows

    def __init__(self, file: str, sha256: str | None = None) -> None:
        self._begin(trained.load(file, sha256))

    @classmethod
    def of(cls, policy: TrainedPolicy) -> Self:
        """The agent of a policy that is in memory."""
        agent = cls.__new__(cls)
        agent._begin(policy)
        return agent

    def _begin(self, policy: TrainedPolicy) -> None:
        self._policy = policy
        weights = {name: array.astype(np.float32) for name, array in policy.arrays.items()}
        # (x - mean) * scale @ W + b, in one product.
        self._first = weights["scale"][:, None] * weights["pi0_weight"]
        self._bias = weights["pi0_bias"] - weights["mean"] @ self._first
        self._rest = [(weights[f"pi{i}_weight"], weights[f"pi{i}_bias"]) for i in (1, 2)]

    def reset(self, batch: int, briefing: Briefing) -> None:
        """Forget nothing: it has no memory.

        Raises:
            InvalidPolicy: the observations are not those that it was trained on.
        """
        if briefing is self._stands_in:
            return
        self._policy.check_layout(briefing.layout)
        self._grid = briefing.quality.grid_kept  # [A + 1, F + 1, N]
        self._quick: Callable[[FloatArray], BoolArray | None] | None = None
        self._stands_in = briefing

    def propose(self, observation: FloatArray, rng: np.random.Generator) -> BoolArray:
        if self._quick is None and pace.is_loaded():
            self._quick = self._compiled()
        kept = None if self._quick is None else self._quick(observation)
        return self._grid[self.counts(observation)] if kept is None else kept

    def _compiled(self) -> Callable[[FloatArray], BoolArray | None]:
        """From observations to sets, bool [B, N]; None where two counts are nearly as likely."""
        from rapgym.files.compiled import settled
        from rapgym.learning.sb3 import quick
        from rapgym.world.twin import fixed, shown

        (second, second_bias), (last, last_bias) = self._rest
        parts = (self._first, self._bias, second, second_bias, last, last_bias)
        net, grid, counts = quick.Net(*map(fixed, parts)), fixed(self._grid), settled(quick.counts)
        scratch = quick.scratch_of(net, 0)

        def proposed(observation: FloatArray) -> BoolArray | None:
            kept = np.empty((len(observation), grid.shape[-1]), dtype=bool)
            return kept if counts(net, grid, shown(observation), kept, scratch) else None

        return proposed

    def counts(self, observation: FloatArray) -> tuple[IntArray, IntArray]:
        """Attention and FFN blocks to drop by NumPy, int64 [B] each."""
        hidden = np.maximum(observation @ self._first + self._bias, 0)
        (weight, bias), (last, last_bias) = self._rest
        logits = np.maximum(hidden @ weight + bias, 0) @ last + last_bias
        split = self._grid.shape[0]
        return logits[:, :split].argmax(axis=1), logits[:, split:].argmax(axis=1)


def train(task: "Training") -> dict[str, np.ndarray]:
    """Learn on the task's rows; the arrays that cost least on its check split."""
    from stable_baselines3 import PPO
    from torch import nn

    from rapgym.learning.sb3 import agents as sb3_agents

    settings: Settings = task.settings
    env = task.vec_env("RAP-Counts-v0", settings.lanes)
    mean, scale = sb3_agents.scaling(env, task.seed)
    if task.start is not None:
        mean, scale = task.start.arrays["mean"], task.start.arrays["scale"]
    model = PPO(
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
    begin_shy(policy.action_net, env.action_space.nvec, settings.shyness)  # type: ignore[attr-defined]
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


def begin_shy(layer: Any, sizes: Any, shyness: float) -> None:
    """Make small counts likely: the bias of count k falls by `shyness` a block."""
    import torch

    with torch.no_grad():
        layer.bias.copy_(torch.cat([-shyness * torch.arange(float(size)) for size in sizes]))
