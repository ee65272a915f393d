"""The lines that a replaying process leaves, and environments that are served by a device."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from table_device import CARD_BYTES, Memory, TableServer

import rapgym  # noqa: F401  # registers the ids
from rapgym.errors import InvalidResult
from rapgym.runtime.device import machine
from rapgym.runtime.device.step import DeviceStep
from rapgym.runtime.validate import replay, replaying
from rapgym.runtime.validate.replaying import Job
from rapgym.runtime.validate.trials import Trial
from rapgym.scenarios import worlds
from rapgym.scenarios.story import Scenario, Split

TRIAL = Trial(3, 4, "fc", "f0")


def line_of(trial: Trial, peak: int) -> dict[str, Any]:
    return {
        "trial": {name: getattr(trial, name) for name in Trial.__slots__},
        "measured": {"peak_bytes": [peak]},
    }


def test_a_line_that_was_cut_off_costs_that_line_alone(tmp_path: Path) -> None:
    path = tmp_path / "work" / "rows.jsonl"
    replaying.add_line(path, {"about": {"device": "one"}})
    replaying.add_line(path, line_of(TRIAL, 1))
    with path.open("a") as file:
        file.write('\n{"trial": {"row": 7, "limit')
    replaying.add_line(path, line_of(TRIAL, 2))
    assert len(replay.records(path)) == 2
    assert replay.by_trial(replay.records(path))[TRIAL]["measured"]["peak_bytes"] == [2]


def test_a_process_that_broke_off_is_reported_where_it_should_not(toy_story: Scenario) -> None:
    ended = replay.Ended(-9, {}, 1.0, exceeded=1)
    job = Job(toy_story, "test", (TRIAL,), Path("none"))
    with pytest.raises(InvalidResult, match="killed 1 times"):
        replay.check(ended, job)
    replay.check(ended, Job(toy_story, "test", (TRIAL,), Path("none"), shielded=False))
    replay.check(replay.Ended(0, {}, 1.0), job)


def test_the_environment_of_a_replaying_process_is_not_left_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    before = dict(os.environ)
    with replay._environment(2):
        assert os.environ["OMP_NUM_THREADS"] == "2"
        assert replay.ENVIRONMENT.items() <= os.environ.items()
    assert dict(os.environ) == before


class ClosedStep(DeviceStep):
    closed = 0

    def close(self) -> None:
        type(self).closed += 1


@pytest.fixture
def on_a_table_device(toy_story: Scenario, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """The device backend opens a device that is as the table says."""

    def opened(story: Scenario, split: Split, device: str) -> ClosedStep:
        world = worlds.world(story, split)
        memory = Memory(world, np.ones(world.blocks, dtype=bool))
        return ClosedStep(TableServer(memory), memory, memory, CARD_BYTES)

    monkeypatch.setattr(machine, "opened", opened)
    monkeypatch.setattr(ClosedStep, "closed", 0)
    return lambda: ClosedStep.closed


@pytest.mark.parametrize("env_id", ["RAP-v0", "RAP-Counts-v0", "RAP-KeptSet-v0"])
def test_an_environment_on_a_device_goes_as_the_simulated_one(
    on_a_table_device: Callable[[], int], env_id: str
) -> None:
    envs = [
        gymnasium.make(env_id, scenario="toy", backend=backend) for backend in ("sim", "device")
    ]
    for env in envs:
        env.reset(seed=5)
        env.action_space.seed(1)
    for _ in range(60):
        action = envs[0].action_space.sample()
        (seen, reward, _, ended, info), (theirs, paid, _, over, said) = (
            e.step(action) for e in envs
        )
        assert (seen == theirs).all()
        assert reward == pytest.approx(paid, abs=1e-9)
        assert ended == over
        assert info["served"] == said["served"]
        if info["served"]:
            assert (info["kept_end"] == said["kept_end"]).all()
            assert info["reason"] == said["reason"]
        if ended:
            break
    for env in envs:
        env.close()
    assert on_a_table_device() == 1, "the model and the tenant are let go once"


def test_a_vector_of_one_runs_on_a_device(on_a_table_device: Callable[[], int]) -> None:
    env = gymnasium.make_vec("RAP-KeptSet-v0", num_envs=1, scenario="toy", backend="device")
    env.reset(seed=0)
    env.step(np.ones((1, 6), dtype=np.int8))
    env.close()
    assert on_a_table_device() == 1
