"""The guard of serving policies: whatever one answers, a second is decided, and by the stated rule."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rapgym.arrays import FloatArray, IntArray
from rapgym.errors import InvalidPolicy
from rapgym.guard.foreign import Foreign, Terms
from rapgym.guard.guard import Guarding
from rapgym.guard.serving import RULES, ServeGuard, answered, read_decision
from rapgym.guard.watchdog import Rules
from rapgym.policies import registry
from rapgym.policies.serve_rules import Fixed, Lookup
from rapgym.policies.serving import ServeBriefing, serve_briefing
from rapgym.rollout import serving as rollout
from rapgym.rollout.serving import Run, play
from rapgym.scenarios import serving_worlds
from rapgym.scenarios.serving import ServeScenario
from rapgym.serving import batch
from rapgym.serving.world import Part, ServeWorld
from rapgym.world.shield import Reason

MOST = np.array([2, 3, 1])
PARTS = [Part(0, 60, 90), Part(0, 500, 60)]
REFERENCE = partial(Lookup, 0.0, 0.5, 0.3)


class Raises:
    """Has its own code run wherever it is looked at."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("no")

    def __array__(self, *more: Any) -> Any:
        raise RuntimeError("no")


NONE: list[Any] = [
    None, "abc", [1, 2], [1, 2, 0, 0], [[1, 2, 0]], [3, 0, 0], [0, 4, 0], [0, 0, 2], [-1, 0, 0],
    [0.5, 0, 0], [np.nan, 0, 0], [np.inf, 0, 0], [True, False, True], [10**30, 0, 0], ["1", "2", "0"],
    [1j, 0, 0], object(), Raises(), {0: 1}, [None, 0, 0], [[1], 2, 0],
]  # fmt: skip


@pytest.mark.parametrize("answer", NONE, ids=range(len(NONE)))
def test_what_is_no_decision_is_none(answer: Any) -> None:
    assert read_decision(answer, MOST) is None


@pytest.mark.parametrize(
    "answer", [[2, 3, 1], (0, 0, 0), np.array([1.0, 2.0, 0.0]), np.array([1, 1, 1], dtype=np.int8)]
)
def test_three_whole_numbers_within_bounds_are_one(answer: Any) -> None:
    found = read_decision(answer, MOST)
    assert found is not None
    assert np.array_equal(found, np.asarray(answer))


def test_lanes_are_read_one_by_one() -> None:
    class Mixed(Fixed):
        def decide(self, observation: FloatArray, rng: np.random.Generator) -> Any:
            return [[1, 1, 0], "no", [9, 9, 9], [2, 3, 1]]

    decided, readable, fault = answered(Mixed(), np.zeros((4, 1)), np.random.default_rng(0), MOST)
    assert readable.tolist() == [True, False, False, True]
    assert decided.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 0], [2, 3, 1]]
    assert "up to 2, 3, 1" in str(fault)


@pytest.fixture(scope="module")
def told(serving_story: ServeScenario) -> ServeBriefing:
    return serve_briefing(serving_story)


@pytest.fixture(scope="module")
def world(serving_story: ServeScenario) -> ServeWorld:
    return serving_worlds.world(serving_story, "train")


class Stray(Fixed):
    """Drops nothing, but for some seconds in which it does something else."""

    def __init__(self, seconds: tuple[int, ...], does: Callable[[IntArray], Any]) -> None:
        super().__init__()
        self._seconds, self._does = seconds, does

    def reset(self, batch: int, briefing: ServeBriefing) -> None:
        super().reset(batch, briefing)
        self._second = -1

    def decide(self, observation: FloatArray, rng: np.random.Generator) -> Any:
        self._second += 1
        usual = super().decide(observation, rng)
        return self._does(usual) if self._second in self._seconds else usual


def _raise(usual: IntArray) -> IntArray:
    raise ValueError("lost")


def _exit(usual: IntArray) -> IntArray:
    raise SystemExit(3)


def _sleep(usual: IntArray) -> IntArray:
    time.sleep(1.3)
    return usual


DOES: dict[str, Callable[[IntArray], Any]] = {
    "raises": _raise, "exits": _exit, "garbage": lambda usual: "?", "too many": lambda usual: usual + 50,
    "another shape": lambda usual: usual[:, :2], "late": _sleep,
}  # fmt: skip


@pytest.mark.parametrize("does", DOES)
def test_a_second_without_a_usable_answer_is_the_references(
    does: str, world: ServeWorld, told: ServeBriefing
) -> None:
    guarding = Guarding(deadline_ms=1000.0) if does == "late" else None
    make = partial(Stray, (5, 6, 40), DOES[does])
    run = rollout.guarded(make, REFERENCE, world, PARTS, told, guarding=guarding)
    assert run.fault
    seen = list[IntArray]()
    reference = REFERENCE()
    reference.reset(len(PARTS), told)

    def see(first: int, second: int, shown: Any, acting: Any) -> None:
        seen.append(reference.decide(shown.copy(), np.random.default_rng(0)))

    again = rollout.replayed(world, PARTS, run.courses, see)
    assert np.array_equal(again.record, run.served.record)
    for lane, course in enumerate(run.courses):
        decisions, source = course.by_second()
        stood_in = np.flatnonzero(source == Reason.FALLBACK)
        assert stood_in.tolist() == [5, 6, 40]
        assert (decisions[source == Reason.POLICY] == 0).all()
        for second in stood_in:
            assert np.array_equal(decisions[second], seen[second][lane])


def test_a_good_policy_is_served_as_without_a_guard(world: ServeWorld, told: ServeBriefing) -> None:
    run = rollout.guarded(REFERENCE, REFERENCE, world, PARTS, told)
    assert np.array_equal(run.served.record, play(REFERENCE, world, PARTS, told).record)
    assert run.fault is None


def test_a_policy_that_cannot_begin_is_named(world: ServeWorld, told: ServeBriefing) -> None:
    class Broken(Fixed):
        def reset(self, batch: int, briefing: ServeBriefing) -> None:
            raise KeyError("nothing")

    with pytest.raises(InvalidPolicy, match=r"Broken\.reset raises"):
        rollout.guarded(Broken, REFERENCE, world, PARTS, told)


# In a process of its own

MINE = (
    "import numpy as np\n"
    "class Mine:\n"
    "    def reset(self, batch, briefing): self.told, self.seconds = briefing, 0\n"
    "    def decide(self, observation, rng):\n"
    "        self.seconds += 1\n"
    "        seen = self.told.read(observation)\n"
    "        if self.seconds == 4: raise ValueError('lost')\n"
    "        drawn = rng.integers(0, 2, len(observation))\n"
    "        return np.stack([drawn, (seen.running > 2).astype(int), drawn], axis=1)\n"
    "class Ends(Mine):\n"
    "    def decide(self, observation, rng):\n"
    "        import os\n"
    "        os._exit(3)\n"
    "class Windows:\n"
    "    def reset(self, batch, briefing): pass\n"
    "    def propose(self, observation, rng): pass\n"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine_serves.py").write_text(MINE)
    return tmp_path


def run_of(name: str, folder: Path, world: ServeWorld, told: ServeBriefing, **terms: Any) -> Run:
    entry = registry.Entry(name, "heuristic", name, "", ())
    with Foreign(entry, {}, Terms(folders=(str(folder),), **terms), "serving") as make:
        return rollout.guarded(make, REFERENCE, world, PARTS, told, seed=3)


def test_elsewhere_a_policy_decides_as_it_does_here(
    folder: Path, world: ServeWorld, told: ServeBriefing
) -> None:
    elsewhere = run_of("mine_serves:Mine", folder, world, told)
    here = run_of("mine_serves:Mine", folder, world, told, in_process=True)
    assert np.array_equal(elsewhere.served.record, here.served.record)
    assert "lost" in str(elsewhere.fault)
    source = elsewhere.courses[0].by_second()[1]
    assert np.flatnonzero(source == Reason.FALLBACK).tolist() == [3]


def test_a_process_that_ends_is_no_result(
    folder: Path, world: ServeWorld, told: ServeBriefing
) -> None:
    with pytest.raises(InvalidPolicy, match="broke off"):
        run_of("mine_serves:Ends", folder, world, told)


def test_a_policy_of_windows_is_told_what_it_needs(
    folder: Path, world: ServeWorld, told: ServeBriefing
) -> None:
    with pytest.raises(InvalidPolicy, match="reset and decide"):
        run_of("mine_serves:Windows", folder, world, told)


# The watchdog

WATCHED = Guarding(Rules(window_rows=60, factor=1.05, tolerance=1.0, hand_back_rows=30))
LONG = [Part(0, 0, 400)]
# In the toy world keeping every block costs far more than keeping the fewest.
FEWEST = partial(Fixed, 2, 2, 1)


class Worst(Fixed):
    """Drops nothing until a second, then does as the reference does."""

    def __init__(self, until: int) -> None:
        super().__init__()
        self._until, self._reference = until, FEWEST()

    def reset(self, batch: int, briefing: ServeBriefing) -> None:
        super().reset(batch, briefing)
        self._reference.reset(batch, briefing)
        self._second = 0

    def decide(self, observation: FloatArray, rng: np.random.Generator) -> IntArray:
        self._second += 1
        both = (self, self._reference)[self._second > self._until]
        return Fixed.decide(both, observation, rng)


def test_the_watchdog_bounds_what_a_bad_policy_costs(
    world: ServeWorld, told: ServeBriefing
) -> None:
    bad = play(partial(Worst, 10**6), world, LONG, told)
    good = play(FEWEST, world, LONG, told)
    run = rollout.guarded(partial(Worst, 10**6), FEWEST, world, LONG, told, guarding=WATCHED)
    source = run.courses[0].by_second()[1]
    assert source[0] == Reason.POLICY
    assert source[-1] == Reason.WATCHDOG
    assert bad.cost > good.cost + 0.2, "there is something to guard against"
    assert run.served.cost < good.cost + 0.5 * (bad.cost - good.cost)


def test_it_hands_back_to_a_policy_that_has_proven_itself(
    world: ServeWorld, told: ServeBriefing
) -> None:
    run = rollout.guarded(partial(Worst, 150), FEWEST, world, LONG, told, guarding=WATCHED)
    source = run.courses[0].by_second()[1]
    taken = np.flatnonzero(source == Reason.WATCHDOG)
    assert 0 < taken[0] <= 150
    assert source[-1] == Reason.POLICY
    assert np.flatnonzero(source == Reason.POLICY)[-1] > taken[-1]


@pytest.mark.parametrize("guarding", [WATCHED, Guarding(RULES)], ids=["short", "as shipped"])
def test_it_leaves_a_policy_alone_that_does_as_well(
    guarding: Guarding, world: ServeWorld, told: ServeBriefing
) -> None:
    run = rollout.guarded(FEWEST, FEWEST, world, LONG, told, guarding=guarding)
    assert (run.courses[0].by_second()[1] == Reason.POLICY).all()
    assert np.array_equal(run.served.record, play(FEWEST, world, LONG, told).record)


def test_a_policys_shadow_is_the_served_engine_while_it_decides(
    world: ServeWorld, told: ServeBriefing
) -> None:
    lanes = batch.begun([world] * len(LONG), LONG)
    guard = ServeGuard(Worst(150), FEWEST(), lanes, told, WATCHED)
    rng, acting, back = np.random.default_rng(0), np.ones(1, dtype=bool), 0
    for _ in range(400):
        before = guard.watchdog
        decided = guard.decide(rng)
        lanes.advance(decided.decisions, acting)
        guard.judge(acting)
        assert before is not None
        assert guard.watchdog is not None
        if guard.watchdog.policy_decides[0]:
            assert guard._shadows.policy.seen.tobytes() == lanes.seen.tobytes()
            back += not before.policy_decides[0]
    assert back, "it was handed back at least once"
