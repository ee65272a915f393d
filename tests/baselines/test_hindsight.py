"""Hindsight: the shipped policy is the network that was trained, and knows what it may know."""

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stories

torch = pytest.importorskip("torch")

from rapgym.arrays import FloatArray  # noqa: E402
from rapgym.baselines import hindsight  # noqa: E402
from rapgym.baselines.hindsight import Agent, Settings, kept_sets  # noqa: E402
from rapgym.learning.hindsight import two_curves  # noqa: E402
from rapgym.learning.hindsight.counterfactual import Recorded  # noqa: E402
from rapgym.learning.hindsight.features import Inputs  # noqa: E402
from rapgym.learning.training import Training, split_cost  # noqa: E402
from rapgym.policies import trained  # noqa: E402
from rapgym.policies.reference import FrontierLookup  # noqa: E402
from rapgym.policies.trained import TrainedPolicy  # noqa: E402
from rapgym.quality import table as quality_table  # noqa: E402
from rapgym.scenarios import (  # noqa: E402
    tables,
    worlds,
)
from rapgym.scenarios.lanes import Start  # noqa: E402
from rapgym.scenarios.story import Scenario, Split  # noqa: E402

SMALL = Settings(members=2, width=8, knots=8, seconds=300, pairs=5000, rounds=2, steps=40, batch=64)
Begin = Callable[..., Training]


@pytest.fixture
def opened() -> Iterator[Begin]:
    """Makes training runs, and ends them: a curve that stays open is written to when its folder is gone."""
    with ExitStack() as held:

        def opened(*given: Any, **named: Any) -> Training:
            task = Training(*given, **named)
            held.callback(task.close)
            return task

        yield opened


@pytest.fixture
def begin(opened: Begin, tmp_path: Path) -> Begin:
    def begin(story: Scenario, told: Any = "train", **changes: Any) -> Training:
        settings = replace(SMALL, **changes)
        return opened("hindsight", story, told, 0, settings, Agent, tmp_path / told)

    return begin


def recorded(task: Training) -> Recorded:
    told = task.briefing
    return Recorded.of(
        told.train,
        told.layout,
        kept_sets(told)[0],
        seconds=200,
        demands=8,
        scales=(0.9, 1.1),
        rng=np.random.default_rng(0),
    )


def learner(task: Training, **changes: Any) -> two_curves.Learner:
    inputs = Inputs(task.briefing.layout)
    blind = np.zeros(len(inputs.group), dtype=bool)
    return two_curves.Learner(recorded(task), inputs, blind, replace(SMALL, **changes), 0)


def observations(task: Training, count: int) -> FloatArray:
    """What lookups see on the rows to learn from, float32 [at least count, O]."""
    lanes, rng = task.lanes(40), np.random.default_rng(0)
    rows = len(lanes.world.rows)
    for lane in range(lanes.count):
        lanes.restart(lane, Start(int(rng.integers(rows)), int(rng.integers(rows)),
                                          float(rng.uniform(0.9, 1.1)), rows))  # fmt: skip
    policy, seen = FrontierLookup(), []
    policy.reset(lanes.count, task.briefing)
    for _ in range(-(-count // lanes.count)):
        seen.append(lanes.observe())
        lanes.serve(policy.propose(seen[-1], rng))
    return np.concatenate(seen)


def torch_costs(task: Training, arrays: dict[str, np.ndarray], seen: FloatArray) -> FloatArray:
    """What the network says of each set, in torch, bytes and stalls from the reading, [B, K]."""
    told, read = task.briefing, task.briefing.read(seen)
    sets, nll = kept_sets(told)
    world, memory = told.train, told.footprint
    used = memory.used_bytes(sets, read.tokens[:, None], read.prompt_tokens[:, None])
    headroom = (read.limit_bytes[:, None] - used - memory.margin_bytes) / told.layout.card_bytes
    taken = (used + memory.margin_bytes) / told.layout.card_bytes
    back = np.where(sets & ~read.loaded[:, None], memory.weights, 0).sum(axis=2)
    stall = np.minimum(back / world.restore_bytes_per_s / world.window_s, 1)
    loss = np.minimum(nll, world.ceiling)
    features = (Inputs(told.layout)(seen) - arrays["mean"]) * arrays["scale"]
    names = ("w1", "b1", "w2", "b2", "w3", "b3")
    weights = {name: torch.from_numpy(arrays[name].astype(np.float32)) for name in names}
    values = two_curves.curves(weights, torch.from_numpy(features.astype(np.float32)))
    values, split = values.mean(dim=0, keepdim=True), len(arrays["near"])
    near = two_curves.interpolated(values[..., :split], arrays["near"], headroom)
    level = two_curves.interpolated(values[..., split:], arrays["level"], taken)
    certain = np.where(headroom >= 0, loss + stall * (world.ceiling - loss), np.inf)
    found: FloatArray = certain + (near + level)[0].numpy()
    return found


@pytest.mark.usefixtures("shaped")
def test_it_chooses_as_the_torch_network_on_10_000_observations(begin: Begin) -> None:
    task = begin(stories.mixed())
    arrays = learner(task).arrays()
    rng = np.random.default_rng(0)  # curves that matter, as those of a network that has learnt
    for name in ("b1", "b2", "b3"):
        arrays[name] = rng.normal(0, 0.3, arrays[name].shape).astype(np.float16)
    arrays["w3"] = (arrays["w3"] * 200 * rng.random(arrays["w3"].shape)).astype(np.float16)
    agent, seen = Agent.of(task.policy(arrays)), observations(task, 10_000)
    agent.reset(len(seen), task.briefing)
    sets, _ = kept_sets(task.briefing)
    costs = torch_costs(task, arrays, seen)
    chosen = (agent.propose(seen, rng)[:, None] == sets).all(axis=2).argmax(axis=1)
    fits = np.isfinite(costs).any(axis=1)
    assert fits.sum() > 9000
    assert len(np.unique(chosen)) > 20
    assert (chosen != np.isfinite(costs).argmax(axis=1))[fits].mean() > 0.2, "unlike the lookup"
    best = costs.argmin(axis=1)
    assert (chosen == best)[fits].mean() > 0.999
    every = np.arange(len(seen))[fits]
    apart = costs[every, chosen[fits]] - costs[every, best[fits]]
    assert apart.max() < 1e-4, "where they differ it is a tie within float32"


def test_lanes_do_not_know_of_each_other(toy_story: Scenario, begin: Begin) -> None:
    task = begin(toy_story)
    policy, seen = task.policy(hindsight.train(task)), observations(task, 200)
    agent, rng = Agent.of(policy), np.random.default_rng(0)
    agent.reset(len(seen), task.briefing)
    together = agent.propose(seen, rng)
    agent.reset(1, task.briefing)
    alone = np.concatenate([agent.propose(seen[[i]], rng) for i in range(len(seen))])
    assert (together == alone).all()


def test_it_learns_to_cost_less_than_the_lookup(toy_story: Scenario, begin: Begin) -> None:
    task = begin(toy_story, steps=200)
    hindsight.train(task)
    lookup = split_cost(FrontierLookup, toy_story, "check", task.briefing)
    assert task.check(task.best) < 0.85 * lookup, "a learner that prefers what costs most gains 5 %"


@pytest.mark.usefixtures("shaped")
def test_the_shipped_size_chooses_as_its_torch_network(begin: Begin) -> None:
    task = begin(stories.mixed())
    whole = Settings()
    arrays = learner(task, members=whole.members, width=whole.width, knots=whole.knots).arrays()
    rng = np.random.default_rng(0)
    arrays["w3"] = (arrays["w3"] * 200 * rng.random(arrays["w3"].shape)).astype(np.float16)
    agent, seen = Agent.of(task.policy(arrays)), observations(task, 1000)
    agent.reset(1, task.briefing)
    expected = torch_costs(task, arrays, seen)
    for one, costs in zip(seen, expected, strict=True):
        np.testing.assert_allclose(agent.costs(one)[0], costs, atol=1e-4)


def test_a_killed_run_goes_on_to_the_same_arrays(
    toy_story: Scenario, begin: Begin, opened: Begin, tmp_path: Path
) -> None:
    def run(folder: str, watch: Callable[[float, str], None]) -> Training:
        return opened("hindsight", toy_story, "train", 0, replace(SMALL, rounds=4), Agent,
                      tmp_path / folder, checkpoint_s=0.0, watch=watch)  # fmt: skip

    def die(share: float, note: str) -> None:
        if share > 0.6:
            raise KeyboardInterrupt

    whole = hindsight.train(run("whole", lambda share, note: None))
    killed = run("killed", die)
    with pytest.raises(KeyboardInterrupt):
        hindsight.train(killed)
    killed.close()
    resumed = run("killed", lambda share, note: None)
    assert resumed.saved is not None
    again = hindsight.train(resumed)
    assert all((again[name] == array).all() for name, array in whole.items())


def test_it_opens_no_rows_or_columns_beyond_those_it_may(
    toy_story: Scenario, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, world = set(), worlds.world

    def watched(story: Scenario, split: Split) -> Any:
        opened.add(split)
        return world(story, split)

    def scorer(*_: Any) -> Any:
        raise AssertionError("test columns were asked for")

    monkeypatch.setattr(worlds, "world", watched)
    monkeypatch.setattr(worlds, "scoring_world", scorer)
    task = begin(toy_story)
    hindsight.train(task)
    assert opened == {"learn", "check"}


def test_it_runs_on_its_file_and_the_briefing_alone(
    toy_story: Scenario, begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = begin(toy_story)
    policy, seen = task.policy(hindsight.train(task)), observations(task, 40)
    trained.write(tmp_path / "policy.npz", policy)
    assert (tmp_path / "policy.npz").stat().st_size < 40_000

    def closed(*_: Any) -> Any:
        raise AssertionError("a table or other rows were asked for")

    monkeypatch.setattr(quality_table.QualityTable, "load", closed)
    monkeypatch.setattr(tables, "table", closed)
    for name in ("world", "workload", "scoring_world"):
        monkeypatch.setattr(worlds, name, closed)
    agent, same = Agent(str(tmp_path / "policy.npz")), Agent.of(policy)
    for each in (agent, same):
        each.reset(len(seen), task.briefing)
    rng = np.random.default_rng(0)
    assert (agent.propose(seen, rng) == same.propose(seen, rng)).all()


@pytest.mark.parametrize(
    ("switch", "parts"),
    [
        ("history", ("recent_limit",)),
        ("kv_share", ("kv_share", "headroom_dense")),
    ],
)
def test_an_ablated_network_does_not_see_what_is_hidden(
    toy_story: Scenario, begin: Begin, switch: str, parts: tuple[str, ...]
) -> None:
    def curves_move(**changes: bool) -> bool:
        task = begin(toy_story, **changes)
        agent, seen = Agent.of(task.policy(hindsight.train(task))), observations(task, 40)
        agent.reset(1, task.briefing)
        other = seen.copy()
        for part in parts:
            other[:, task.briefing.layout.slice_of(part)] += 0.3
        pairs = zip(seen, other, strict=True)
        return any((agent.costs(a)[0] != agent.costs(b)[0]).any() for a, b in pairs)

    assert curves_move()
    assert not curves_move(**{switch: False})


def test_continuation_counts_what_comes_back_later(toy_story: Scenario, begin: Begin) -> None:
    task = begin(toy_story)
    whole, blind = learner(task), learner(task, continuation=False)
    d, at = np.zeros(64, dtype=np.int64), np.arange(64)
    after = whole._after(d, at, np.tile(whole._loss, (64, 1)))
    assert (after >= 0).all()
    assert after.max() > 0.1, "seconds of the row after are lost where blocks return"
    assert after[:, 0].mean() <= after[:, -1].mean(), "more returns after a smaller set"
    with torch.no_grad():
        assert float(whole._regret(d, at)) != float(blind._regret(d, at))


def test_a_learner_goes_on_where_it_stood(toy_story: Scenario, begin: Begin) -> None:
    task = begin(toy_story)
    first, second = learner(task), learner(task)
    first.learn(1, 0)
    second.restore(copy.deepcopy(first.state()))
    again = [(each.learn(2, 1), each.arrays()) for each in (first, second)]
    assert again[0][0] == again[1][0]
    assert all((again[0][1][name] == array).all() for name, array in again[1][1].items())


def test_training_begins_with_the_policy_that_it_is_given(
    toy_story: Scenario, begin: Begin, opened: Begin, tmp_path: Path
) -> None:
    task = begin(toy_story)
    first: TrainedPolicy = task.policy(hindsight.train(task))
    task = opened("hindsight", toy_story, "train", 1, replace(SMALL, learning_rate=0.0), Agent,
                  tmp_path / "tuned", start=first)  # fmt: skip
    tuned = hindsight.train(task)
    assert all((tuned[name] == array).all() for name, array in first.arrays.items())


def test_where_nothing_fits_it_proposes_the_smallest_set(toy_story: Scenario, begin: Begin) -> None:
    task = begin(toy_story)
    agent, seen = Agent.of(task.policy(hindsight.train(task))), observations(task, 1)[:1]
    seen[:, task.briefing.layout.slice_of("limit")] = 0.0
    agent.reset(1, task.briefing)
    kept = agent.propose(seen, np.random.default_rng(0))[0]
    assert kept.sum() == kept_sets(task.briefing)[0].sum(axis=1).min()
