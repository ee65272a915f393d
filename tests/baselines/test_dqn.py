"""DQN: masks in acting and in targets, whole rows credited, and the shipped policy equal to torch's."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("stable_baselines3")

import torch
from gymnasium import spaces
from learning_worlds import small_run, torch_network

from rapgym.baselines import dqn
from rapgym.learning import runs
from rapgym.learning.sb3 import agents
from rapgym.learning.sb3.masked_dqn import MaskedDQN, RowReplayBuffer
from rapgym.learning.sb3.small_steps import SmallSteps, layout_of
from rapgym.learning.sb3.vec_env import RapVecEnv
from rapgym.policies.policy import briefing
from rapgym.scenarios.lanes import importance, importance_of
from rapgym.scenarios.story import Scenario
from rapgym.world import encoding

STOP = 6
LANES = 40


@pytest.fixture
def model(toy_story: Scenario) -> MaskedDQN:
    env = RapVecEnv.make("RAP-v0", 4, scenario="toy", split="learn")
    where, floor = env.native.layout, env.native.lanes.world.floor
    made = MaskedDQN(
        "MlpPolicy", env, device="cpu", seed=0, buffer_size=400, learning_starts=16, batch_size=16,
        train_freq=1, target_update_interval=4, so_far=where.slice_of("so_far"), droppable=~floor,
        row_discount=0.5, stop_share=0.3,
    )  # fmt: skip
    agents.be_silent(made)
    return made


def test_only_legal_actions_are_taken(model: MaskedDQN, monkeypatch: pytest.MonkeyPatch) -> None:
    env: Any = model.env
    taken, step = [], env.step_async

    def watched(actions: np.ndarray) -> None:
        assert env.native.action_masks()[np.arange(4), actions].all()
        taken.extend(actions.tolist())
        step(actions)

    monkeypatch.setattr(env, "step_async", watched)
    model.exploration_schedule = lambda _: 0.7
    model.exploration_rate = 0.7
    model.learn(400)
    assert {2, 3, 4, 5, STOP} <= {*taken}
    assert not {0, 1} & {*taken}, "never a block of the floor"
    observation = env.reset()
    best, _ = model.predict(observation, deterministic=True)
    with torch.no_grad():
        values = model.q_net(torch.from_numpy(observation)).numpy()
    values[:, :2] = -np.inf
    assert (best == values.argmax(axis=1)).all()


def test_targets_take_the_best_legal_next_action(model: MaskedDQN) -> None:
    observation: Any = model.env.reset()  # type: ignore[union-attr]
    where = model.so_far
    observation[1, where] = [1, 1, 0, 1, 1, 1]  # attn1 is gone
    with torch.no_grad():
        for net, more in ((model.q_net, 0.0), (model.q_net_target, 10.0)):
            last: Any = net.q_net[-1]
            last.weight.zero_()
            # The floor looks best, then attn1, then ffn2.
            last.bias.copy_(torch.tensor([9.0, 8.0, 7.0, 1.0, 2.0, 6.0, 5.0]) + more)
    from stable_baselines3.common.type_aliases import ReplayBufferSamples

    rows = torch.from_numpy(observation)
    rewards, dones = (
        torch.tensor([[-1.0], [-2.0], [0.0], [0.0]]),
        torch.tensor([[0.0]] * 3 + [[1.0]]),
    )
    data = ReplayBufferSamples(rows, torch.full((4, 1), STOP), rows, dones, rewards)
    assert model.targets(data).tolist() == [-1 + 0.5 * 17, -2 + 0.5 * 16, 0.5 * 17, 0.0]


def test_a_small_step_is_credited_with_its_row() -> None:
    space = spaces.Box(-1, 1, (1,), np.float32)
    buffer = RowReplayBuffer(8, space, spaces.Discrete(7), "cpu", n_envs=2, stop=STOP)
    seen = np.arange(10, dtype=np.float32)

    def add(step: int, actions: list[int], rewards: list[float]) -> None:
        now, then = (np.full((2, 1), seen[step + i]) for i in (0, 1))
        buffer.add(now, then, np.array(actions), np.array(rewards), np.zeros(2), [{}, {}])

    add(0, [2, STOP], [0.0, -3.0])
    add(1, [3, 2], [0.0, 0.0])
    add(2, [STOP, 4], [-1.0, 0.0])  # the second lane's second row is not served yet
    assert buffer.ready.tolist() == [[True, True], [True, False], [True, False], [False, False]]
    assert buffer.rewards[:3, 0].tolist() == [-1.0] * 3
    assert buffer.rewards[0, 1] == -3.0
    assert buffer.next_observations[:3, 0, 0].tolist() == [3.0] * 3
    drawn = buffer.sample(64)
    assert set(drawn.rewards[:, 0].tolist()) == {-1.0, -3.0}
    for step in (3, 4):  # round the end of the buffer: the oldest steps are overwritten
        add(step, [2, STOP], [0.0, -5.0])
    assert buffer.ready[0].tolist() == [False, True]
    assert buffer.full
    assert buffer.rewards[[1, 2, 3, 0], 1].tolist() == [-5.0] * 4


@pytest.mark.parametrize(("inputs", "actions"), [(269, 61), (229, 61), (357, 61)])
def test_networks_have_about_18_thousand_parameters(inputs: int, actions: int) -> None:
    w = dqn.width(inputs, actions, 18_000)
    count = (inputs + 1) * w + (w + 1) * w + (w + 1) * actions
    assert abs(count - 18_000) < 300


@pytest.mark.parametrize("method", ["dqn", "maskable_ppo"])
def test_decisions_are_those_of_torch_on_observations_of_the_environment(
    method: str, toy_story: Scenario, tmp_path: Path
) -> None:
    """10,000 decisions: small steps that torch takes in the environment, and the shipped policy's."""
    run = small_run(method, toy_story, tmp_path)
    run.do()
    found = run.finished()
    assert found is not None
    arrays, rng = dict(found.arrays), np.random.default_rng(1)
    prefix = "q" if method == "dqn" else "pi"
    # Livelier than what so short a training leaves, so that rows end in many different sets.
    shape = arrays[f"{prefix}2_weight"].shape
    arrays[f"{prefix}2_weight"] = rng.normal(0, 1, shape).astype(np.float16)
    told = briefing(toy_story, "learn")
    agent = runs.module_of(method).Agent.of(found)
    agent._steps = SmallSteps(arrays, prefix)
    agent.reset(LANES, told)
    values = torch_network(arrays, prefix)
    env = RapVecEnv.make("RAP-v0", LANES, scenario="toy", split="learn")
    env.seed(3)
    observation, plain = env.reset(), told.layout.size
    at_start, proposals, decided = observation[:, :plain].copy(), [], 0
    wanted = agent.propose(at_start, rng)
    while decided < 10_000:
        legal = env.native.action_masks()
        actions = np.where(legal, values(observation), -np.inf).argmax(axis=1)
        after: Any = env.step(actions)
        observation, _, _, infos = after
        served = np.flatnonzero([info["served"] for info in infos])
        for lane in served.tolist():
            assert (infos[lane]["proposal"] == wanted[lane]).all()
            proposals.append(infos[lane]["proposal"].tobytes())
        if len(served):
            wanted[served] = agent.propose(observation[served, :plain], rng)
        decided += len(served)
    assert len({*proposals}) > 4


def test_small_steps_are_seen_as_the_environment_shows_them(toy_story: Scenario) -> None:
    """First layer and corrections amount to the product with the whole observation."""
    told = briefing(toy_story, "learn")
    where, rng = layout_of(told), np.random.default_rng(0)
    units = 5
    arrays = {
        "q0_weight": rng.normal(size=(where.size, units)), "q0_bias": rng.normal(size=units),
        "q1_weight": np.zeros((units, units)), "q1_bias": np.zeros(units),
        "q2_weight": np.zeros((units, 7)), "q2_bias": np.array([0, 0, 5.0, 4, 3, 2, 1]),
        "mean": rng.normal(size=where.size), "scale": rng.uniform(0.5, 2, where.size),
    }  # fmt: skip
    steps = SmallSteps(arrays, "q")
    steps.reset(told)
    env = RapVecEnv.make("RAP-v0", 8, scenario="toy", split="learn")
    env.seed(0)
    observation = env.reset()
    lanes = env.native.lanes
    assert steps.propose(observation[:, : told.layout.size])[:, 2:].sum() == 0, "all that may go"
    kept = np.tile([True, True, False, True, False, False], (8, 1))
    after = encoding.observe(lanes.world, where, lanes.seen, kept, importance(lanes.world, kept))
    product = (after - arrays["mean"]) * arrays["scale"] @ arrays["q0_weight"] + arrays["q0_bias"]
    rows = observation[:, : told.layout.size] @ steps._row + steps._row_bias
    tokens = lanes.world.footprint.kv_bytes(lanes.seen.demand.tokens) / where.card_bytes
    freed = 2 * tokens[:, None] * steps._headroom
    rises = steps._block + steps._pair[[2, 4, 5]].sum(axis=0)
    known = importance_of(rises, kept[0], lanes.world.floor, lanes.world.ceiling)
    corrected = rows + steps._drop[[2, 4, 5]].sum(axis=0) + freed + known @ steps._of_importance
    assert corrected == pytest.approx(product, abs=1e-3)
