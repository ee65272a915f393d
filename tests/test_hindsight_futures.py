"""The learned metric of futures: it learns what tells them, and decides as the forecast does."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_world

torch = pytest.importorskip("torch")

from rapgym import rollout
from rapgym.baselines import hindsight_futures as hindsight
from rapgym.baselines.forecast import Forecast, Futures
from rapgym.baselines.hindsight_futures import Agent, LearnedFutures, Metric, Settings, Stretches
from rapgym.encoding import HISTORY
from rapgym.errors import InvalidPolicy
from rapgym.learning.training import Training, seed_everything
from rapgym.policies.policy import briefing
from rapgym.scenario import Scenario
from rapgym.world import World

SMALL = Settings(steps=20, asked=64, known=128, units=8, dimensions=3, cautions=(1.0,))
W = toy_world.WINDOW_S


def world_of(limits: np.ndarray) -> World:
    rows = limits.reshape(-1, W)
    return toy_world.toy_world(toy_world.toy_rows([1] * len(rows), rows.tolist()))


def fitted(world: World, settings: Settings) -> LearnedFutures:
    stretches = Stretches.of(world, hindsight.MOST_LEARNED)
    seed_everything(0)
    arrays = hindsight._scaling(stretches)
    arrays |= hindsight._with(arrays, hindsight._fitted(arrays, None, 0, stretches, settings))
    return LearnedFutures(stretches, Metric.of(arrays), 1.0)


def toy_task(story: Scenario, folder: Path, settings: Settings = SMALL, seed: int = 0) -> Training:
    return Training("hindsight_futures", story, "fit", seed, settings, Agent, folder)


def test_it_learns_of_seconds_that_the_forecast_does_not_look_at() -> None:
    """A fall is announced by a short dip 12 seconds before, and the level meanwhile tells nothing."""
    rng = np.random.default_rng(0)
    limits = 500 + rng.integers(-40, 41, 4000)
    falls = np.arange(60, 3900, 40) + rng.integers(0, 10, 96)
    for second in falls:
        limits[second - 12] = 400
        limits[second : second + 3] = 150
    world = world_of(limits)
    learned = fitted(world, replace(SMALL, steps=200, units=24, dimensions=6, dropout=0.0))
    plain = Futures.of(world)

    def chance(ahead: np.ndarray, weight: np.ndarray) -> float:
        return float(weight[ahead[:, 0] < 200].sum())

    told = {}
    # The same seconds again, with other noise: before a fall, and with the dip left out.
    for name, dip in (("fall", 400), ("none", 500)):
        past = 500 + rng.integers(-40, 41, (40, HISTORY * W + 1))
        past[:, -12] = dip
        told[name] = [
            np.mean([chance(*each.after(one, 0.0)) for one in past]) for each in (learned, plain)
        ]
    assert told["fall"][0] > 0.5 and told["none"][0] < 0.1, "learned"
    assert told["fall"][1] < 0.3, "without learning the dip is out of sight"


def test_the_score_that_is_learned_by_equals_a_plain_loop() -> None:
    rng = np.random.default_rng(1)
    here, there = rng.normal(size=(5, 3)), rng.normal(size=(9, 3))
    fell_here, fell_there = rng.integers(0, 2, (5, 4)), rng.integers(0, 2, (9, 4))
    touches = rng.random((5, 9)) < 0.4
    wanted = []
    for asked in range(5):
        near = np.exp(-((there - here[asked]) ** 2).sum(axis=1)) * ~touches[asked]
        wanted.append((near @ fell_there / near.sum() - fell_here[asked]) ** 2)
    arguments = map(torch.from_numpy, (here, there, fell_here * 1.0, fell_there * 1.0, touches))
    assert float(hindsight.brier_score(*arguments)) == pytest.approx(np.mean(wanted))


def test_stretches_that_share_a_second_say_nothing_of_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    masks = []

    def spy(here: Any, there: Any, one: Any, other: Any, touches: Any) -> Any:
        masks.append((here, there, touches))
        return brier_score(here, there, one, other, touches)

    brier_score = hindsight.brier_score
    monkeypatch.setattr(hindsight, "brier_score", spy)
    last, touching = torch.arange(100), 7
    network = torch.nn.Linear(1, 1)
    network.weight.data[:], network.bias.data[:] = 1.0, 0.0
    fell = (torch.rand(100, 3) > 0.5).float()
    once = replace(SMALL, steps=1)
    hindsight._descend(network, last[:, None].float(), fell, last, touching, once)
    ((here, there, touches),) = masks
    assert (touches == ((here - there.T).abs() < touching)).all() and touches.any()


def test_the_numpy_places_equal_the_torch_network(toy_story: Scenario, tmp_path: Path) -> None:
    task = toy_task(toy_story, tmp_path)
    arrays = hindsight.train(task)
    metric, stretches = Metric.of(arrays), Stretches.of(task.briefing.train, 300)
    found = metric.places(stretches.past)
    assert found.shape == (len(arrays["weight0"]), len(stretches.past), SMALL.dimensions)
    for which, places in enumerate(found):
        layers: list[Any] = []
        for i in range(3):
            weight = torch.from_numpy(arrays[f"weight{i}"][which].astype(np.float32))
            layer = torch.nn.Linear(*weight.shape)
            layer.weight.data = weight.T.contiguous()
            layer.bias.data = torch.from_numpy(arrays[f"bias{i}"][which, 0].astype(np.float32))
            layers += [layer, torch.nn.SiLU()]
        with torch.no_grad():
            wanted = torch.nn.Sequential(*layers[:-1])(
                torch.from_numpy(metric.scaled(stretches.past))
            )
        np.testing.assert_allclose(places, wanted.numpy(), rtol=1e-4, atol=1e-5)


def test_a_stretch_counts_by_how_near_it_lies(toy_story: Scenario, tmp_path: Path) -> None:
    task = toy_task(toy_story, tmp_path)
    arrays = hindsight.train(task)
    metric, stretches = Metric.of(arrays), Stretches.of(task.briefing.train, 300)
    past = stretches.past[17]
    found = LearnedFutures(stretches, metric, 1.0).weights(past)
    wanted = np.zeros(len(found))
    places = metric.places(stretches.past).astype(np.float64)
    for network in places:
        near = np.exp(-((network - network[17]) ** 2).sum(axis=1))
        wanted += near / near.sum() / len(places)
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-7)


def test_without_the_metric_it_decides_as_the_forecast(toy_story: Scenario, tmp_path: Path) -> None:
    task = toy_task(toy_story, tmp_path)
    arrays = hindsight.train(task) | {"choice": np.array([1.0, 0.75, 0.5, 0.0])}
    told = briefing(toy_story, "fit")
    made = (lambda: Agent.of(task.policy(arrays)), lambda: Forecast(1.0, 0.75, 0.5))
    learned, plain = (rollout.run(make, toy_story, "validation", told) for make in made)
    assert (learned.proposal == plain.proposal).all()


def test_a_seed_fixes_the_policy_and_the_best_choice_is_kept(
    toy_story: Scenario, tmp_path: Path
) -> None:
    tasks = [toy_task(toy_story, tmp_path / str(i), seed=seed) for i, seed in enumerate((0, 0, 1))]
    first, again, other = (hindsight.train(task) for task in tasks)
    assert all((first[name] == again[name]).all() for name in first)
    assert (first["weight0"][0] != other["weight0"][0]).any()
    costs = [point["check_cost"] for point in tasks[0].curve.points]
    assert len(costs) == SMALL.networks + len(SMALL.shifts) * len(SMALL.blends)
    assert tasks[0].best_cost == min(costs) == tasks[0].check(first)


def test_it_goes_on_from_a_policy(toy_story: Scenario, tmp_path: Path) -> None:
    task = toy_task(toy_story, tmp_path / "first")
    start = task.policy(hindsight.train(task))
    still = replace(SMALL, steps=0)
    args = ("hindsight_futures", toy_story, "train", 5, still, Agent, tmp_path / "second")
    found = hindsight.train(Training(*args, start=start))
    assert (found["weight1"][0] == start.arrays["weight1"][0]).all()
    assert (found["level_unit"] == start.arrays["level_unit"]).all()


def test_where_nothing_ever_falls_it_trains_all_the_same() -> None:
    learned = fitted(world_of(np.full(800, 500)), SMALL)
    ahead, weight = learned.after(np.full(HISTORY * W + 1, 500), 1.0)
    assert (ahead == 500).all() and weight.sum() == pytest.approx(1.0)


def test_too_few_rows_are_refused(toy_story: Scenario, tmp_path: Path) -> None:
    task = toy_task(toy_story, tmp_path)
    few = world_of(np.full(80, 500))
    task.briefing = replace(task.briefing, train=few)
    with pytest.raises(InvalidPolicy, match="too few rows"):
        hindsight.train(task)
