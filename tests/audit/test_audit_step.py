"""Every decision once: rollouts, environments and devices serve as before, and the log says how."""

import base64
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from audit_logs import context_of, found
from hypothesis import example, given, settings
from hypothesis import strategies as st
from table_device import lane, step_of
from toy_table import toy_columns
from toy_world import lanes_at, toy_rows, toy_world
from worlds import Trial, trials

from rapgym.arrays import BoolArray
from rapgym.audit import entry as audit_entry
from rapgym.audit import replay as audit_replay
from rapgym.audit import step as audit_step
from rapgym.audit.log import AuditLog
from rapgym.audit.record import Record
from rapgym.audit.step import AuditedGuard, AuditedStep
from rapgym.errors import InvalidSpec
from rapgym.guard.guard import Guarding
from rapgym.guard.watchdog import Rules
from rapgym.model import blocks
from rapgym.policies.policy import TOLD, briefing
from rapgym.policies.reference import FrontierLookup
from rapgym.rollout import rollout
from rapgym.scenarios.lanes import Lanes, Start
from rapgym.scenarios.story import Scenario
from rapgym.world import simulator
from rapgym.world.records import World
from rapgym.world.shield import Reason


def records(path: Path) -> list[Record]:
    return [audit_entry.record_of(line) for line in found(path) if line.kind == "decision"]


def keys(kept: BoolArray) -> list[str]:
    return [blocks.key(each) for each in kept.reshape(-1, kept.shape[-1])]


def same(one: Any, other: Any) -> bool:
    """Whether two outcomes are equal, array by array."""
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if not hasattr(one, "__slots__"):
        return np.array_equal(one, other)
    return all(same(getattr(one, name), getattr(other, name)) for name in one.__slots__)


def calibrated(world: World) -> World:
    """The world with columns that a log may speak of."""
    return replace(world, quality=toy_columns()) if world.quality.split == "test" else world


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")


@settings(max_examples=30)
@given(trials(), st.integers(1, 9))
def test_an_audited_world_is_the_same_world_and_its_log_replays(
    folder: Path, trial: Trial, batch: int
) -> None:
    world, at = calibrated(trial.world), trial.state
    path = folder / "trial.jsonl"
    path.unlink(missing_ok=True)
    plain, outcomes = at, []
    with AuditLog(path, batch=batch) as log:
        step = AuditedStep(simulator.step, log, context_of(world))
        for proposals in trial.proposals:
            at, outcome = step(world, at, proposals, None, trial.strict)
            plain, wanted = simulator.step(world, plain, proposals, None, trial.strict)
            assert same(outcome, wanted)
            assert same(at, plain)
            outcomes.append(outcome)
    everything = records(path)
    assert [record.decision for record in everything] == list(range(1, len(everything) + 1))
    rows = [record for record in everything if not record.second]
    for name in ("proposal", "kept"):
        wanted_keys = [key for o in outcomes for key in keys(getattr(o, name))]
        assert [getattr(record, name) for record in rows] == wanted_keys
    for name in ("limit_bytes", "used_bytes", "nll", "output_tokens", "refused", "measured"):
        numbers = [value for o in outcomes for value in getattr(o, name).tolist()]
        assert [getattr(record, name) for record in rows] == numbers, name
    assert [r.reason for r in rows] == [Reason(r).name.lower() for o in outcomes for r in o.reason]
    cost = [sum(record.cost or ()) for record in rows]  # type: ignore[arg-type]
    weights = [o.output_tokens / world.mean_output_tokens for o in outcomes]
    paid = [c * w for c, w in zip(cost, np.concatenate(weights), strict=True)]
    assert paid == pytest.approx([total for o in outcomes for total in o.terms.total])
    verified = audit_replay.verified(path)
    assert verified.sentences == []
    assert verified.decisions == len(everything)


# The limit falls in two seconds; in the second not even the floor, of 220 bytes, fits.
FALLING = toy_world(toy_rows([5], [[480, 330, 150, 150, 120]]))


@settings(max_examples=30)
@given(trials())
@example(Trial(FALLING, lanes_at(FALLING, [0]), np.ones((1, 1, 6), dtype=bool), np.zeros(1, bool)))
def test_falls_in_mid_row_are_decisions_that_lead_to_what_is_kept_in_the_end(
    folder: Path, trial: Trial
) -> None:
    world, at = calibrated(trial.world), trial.state
    path = folder / "falls.jsonl"
    path.unlink(missing_ok=True)
    with AuditLog(path) as log:
        step = AuditedStep(simulator.step, log, context_of(world))
        _, outcome = step(world, at, trial.proposals[0], None, trial.strict)
    for index in range(at.lanes):
        own = [record for record in records(path) if record.lane == index]
        assert [record.second for record in own] == sorted({record.second for record in own})
        for before, after in pairwise(own):
            assert not before.refused, "what is refused is over"
            assert after.proposal == before.kept
            assert after.source == "emergency"
            assert after.reason == ("refused" if after.refused else "emergency")
            assert after.cost is None, "a row is paid for once"
        refused = bool(outcome.seconds.refused[index])
        assert own[-1].refused == refused
        if not refused:
            assert own[-1].kept == blocks.key(outcome.kept_end[index])


@settings(max_examples=30)
@given(trials(most_lanes=1))
def test_a_device_is_audited_alike(folder: Path, trial: Trial) -> None:
    world, at = calibrated(trial.world), lane(trial.state, 0)
    path = folder / "device.jsonl"
    path.unlink(missing_ok=True)
    used = []
    with AuditLog(path) as log:
        step = AuditedStep(step_of(world, at.loaded[0]), log, context_of(world))
        for proposals in trial.proposals:
            at, outcome = step(world, at, proposals[:1], None, trial.strict[:1])
            used.append(int(outcome.used_bytes[0]))
    rows = [record for record in records(path) if not record.second]
    assert [record.measured_bytes for record in rows] == used
    assert audit_replay.verified(path).sentences == []


def test_a_row_that_is_refused_half_way_is_over(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with AuditLog(path) as log:
        step = AuditedStep(simulator.step, log, context_of(FALLING))
        step(FALLING, lanes_at(FALLING, [0]), np.ones((1, 6), dtype=bool))
    told = [(record.second, record.reason, record.limit_bytes) for record in records(path)]
    assert told == [(0, "policy", 480), (1, "emergency", 330), (2, "refused", 150)]


# Of that row, from `second` on, as it was written when the log computed falls for itself.
FALLS = (
    '"second":1,"batch":1,"prompt_tokens":5,"reserved_tokens":0,"longest_tokens":5,"limit_bytes":330,'
    '"budget_bytes":230,"used_bytes":280,"lane":0,"row":0,"limit_row":0,"late_us":null,'
    '"measured_bytes":null,"output_tokens":null,"nll":0.65,"readable":null,"pinned":null,'
    '"measured":true,"cost":null,"watchdog":null,"refuses_misfit":false,"refused":false,'
    '"source":"emergency","reason":"emergency","proposal":"fc","kept":"c4","loaded":"fc",'
    '"own_proposal":null,"observation":null',
    '"second":2,"batch":1,"prompt_tokens":5,"reserved_tokens":0,"longest_tokens":5,"limit_bytes":150,'
    '"budget_bytes":50,"used_bytes":0,"lane":0,"row":0,"limit_row":0,"late_us":null,'
    '"measured_bytes":null,"output_tokens":null,"nll":0.65,"readable":null,"pinned":null,'
    '"measured":true,"cost":null,"watchdog":null,"refuses_misfit":false,"refused":true,'
    '"source":"emergency","reason":"refused","proposal":"c4","kept":"c0","loaded":"c4",'
    '"own_proposal":null,"observation":null',
)


@pytest.mark.parametrize("live", [False, True])
def test_falls_are_written_as_ever(tmp_path: Path, live: bool) -> None:
    path = tmp_path / "log.jsonl"
    step = step_of(FALLING, np.ones(6, dtype=bool)) if live else simulator.step
    with AuditLog(path) as log:
        AuditedStep(step, log, context_of(FALLING))(
            FALLING, lanes_at(FALLING, [0]), np.ones((1, 6), dtype=bool)
        )
    lines = [line for line in path.read_text().splitlines() if '"source":"emergency"' in line]
    assert [line[line.index('"second"') : line.rindex(',"sha256"')] for line in lines] == [*FALLS]


def test_a_fall_that_the_step_did_not_tell_is_not_on_record(tmp_path: Path) -> None:
    """The log keeps what happened; a step that serves otherwise is believed."""

    def lasting(*given: Any) -> Any:
        following, outcome = simulator.step(*given)
        return following, replace(outcome, falls=outcome.falls[:1])

    path = tmp_path / "log.jsonl"
    with AuditLog(path) as log:
        step = AuditedStep(lasting, log, context_of(FALLING))
        step(FALLING, lanes_at(FALLING, [0]), np.ones((1, 6), dtype=bool))
    assert [record.second for record in records(path)] == [0, 1]


def test_a_world_with_test_columns_is_not_audited(toy_story: Scenario) -> None:
    from rapgym.scenarios import worlds

    with pytest.raises(InvalidSpec, match="calibration columns"):
        context_of(worlds.scoring_world(toy_story))


def test_a_rollout_is_logged_row_by_row_with_what_the_policy_saw(
    toy_story: Scenario, tmp_path: Path
) -> None:
    seen = []

    class Watching(FrontierLookup):
        def propose(self, observation: Any, rng: np.random.Generator) -> BoolArray:
            seen.append(observation.copy())
            return super().propose(observation, rng)

    told, start = briefing(toy_story), Start(0, 3, 1.0, 40)
    plain = rollout.episode(FrontierLookup(), Lanes(toy_story, "test", 2), start, told, [0])
    lanes = Lanes(toy_story, "test", 2)
    path = tmp_path / "log.jsonl"
    with AuditLog(path) as log:
        audit_step.audit(lanes, log, policy="frontier")
        audited = rollout.episode(Watching(), lanes, start, told, [0])
    assert same(audited, plain)
    rows = [record for record in records(path) if not record.second]
    assert [(r.row, r.limit_row, r.lane) for r in rows] == [
        (row, limit_row, lane)
        for row, limit_row in zip(plain.row[:, 0], plain.limit_row[:, 0], strict=True)
        for lane in range(2)
    ]
    assert [r.kept for r in rows] == keys(plain.kept)
    raw = [base64.b64decode(record.observation or "") for record in rows]
    assert raw == [row.tobytes() for batch in seen for row in batch]
    assert audit_replay.verified(path).sentences == []


@pytest.mark.parametrize("name", ["RAP-v0", "RAP-Counts-v0", "RAP-KeptSet-v0"])
@pytest.mark.parametrize("many", [False, True])
def test_environments_are_audited_decision_by_decision(
    toy_story: Scenario, tmp_path: Path, name: str, many: bool
) -> None:
    path, served, lanes = tmp_path / "log.jsonl", 0, 3 if many else 1
    options: dict[str, Any] = {"scenario": "toy", "split": "train"}
    env: Any = gymnasium.make_vec(name, 3, **options) if many else gymnasium.make(name, **options)
    with AuditLog(path) as log:
        audit_step.audit_env(env, log, policy="random")
        env.reset(seed=0)
        env.action_space.seed(0)
        for _ in range(120):
            *_, info = env.step(env.action_space.sample())
            served += int(np.sum(info["served"]))
            if not many and env.unwrapped.lanes.ended[0]:
                env.reset()
        env.close()
        assert log.held == 0, "close writes what is held"
    rows = [record for record in records(path) if not record.second]
    assert len(rows) == served > 30
    whole = name != "RAP-v0" or not many
    assert all(record.observation is not None for record in rows) or not whole
    assert audit_replay.verified(path).sentences == []
    assert {record.lane for record in rows} == set(range(lanes))


@pytest.mark.parametrize("many", [False, True])
def test_an_environment_is_audited_through_its_wrappers(
    toy_story: Scenario, tmp_path: Path, many: bool
) -> None:
    options: dict[str, Any] = {"scenario": toy_story, "split": "test"}
    env: Any
    if many:
        env = gymnasium.wrappers.vector.RecordEpisodeStatistics(
            gymnasium.make_vec("RAP-Counts-v0", 2, **options)
        )
    else:
        env = gymnasium.wrappers.RecordEpisodeStatistics(gymnasium.make("RAP-Counts-v0", **options))
    with AuditLog(tmp_path / "log.jsonl") as log:
        audit_step.audit_env(env, log, policy="wrapped")
        env.reset(seed=0)
        for _ in range(5):
            env.step(np.zeros((2, 2) if many else 2, dtype=np.int64))
        with pytest.raises(InvalidSpec, match="audited already"):
            audit_step.audit_env(env, log, policy="twice")
        env.close()
    rows = [record for record in records(tmp_path / "log.jsonl") if not record.second]
    assert [record.lane for record in rows] == ([0, 1] if many else [0]) * 5
    assert audit_replay.verified(tmp_path / "log.jsonl").sentences == []


def test_what_is_no_environment_of_rapgyms_is_not_audited(tmp_path: Path) -> None:
    many = gymnasium.make_vec("RAP-Counts-v0", 2, vectorization_mode="sync", scenario="toy")
    with AuditLog(tmp_path / "log.jsonl") as log:
        for env in (gymnasium.make("CartPole-v1"), many):
            with pytest.raises(InvalidSpec, match="no environment of rapgym"):
                audit_step.audit_env(env, log, policy="mine")
            env.close()


class Wild:
    """Answers nonsense, answers late, answers badly, answers well."""

    def reset(self, batch: int, briefing: Any) -> None:
        self.row, self.batch, self.n = 0, batch, briefing.train.blocks

    def propose(self, observation: Any, rng: np.random.Generator) -> Any:
        self.row += 1
        if self.row % 7 == 3:
            return "nonsense"
        if self.row % 7 == 5:
            time.sleep(0.12)
        return np.zeros((self.batch, self.n), dtype=bool)


def test_a_guard_logs_all_that_its_decision_depended_on(
    toy_story: Scenario, tmp_path: Path
) -> None:
    path, lanes = tmp_path / "log.jsonl", Lanes(toy_story, "test", 1)
    rules = Rules(window_rows=8, factor=1.0, tolerance=0.0, hand_back_rows=8, trips=2)
    with AuditLog(path) as log:
        audit_step.audit(lanes, log, policy="wild")
        lanes.restart(0, Start(0, 0, 1.0, 60))
        guard = AuditedGuard(Wild(), lanes, briefing(toy_story), Guarding(rules, deadline_ms=100))
        rng, served = np.random.default_rng(0), []
        for row in range(40):
            if row == 30:
                guard.pin_dense()
            served.append(guard.serve(rng))
    rows = [record for record in records(path) if not record.second]
    assert len(rows) == 40
    for record, one in zip(rows, served, strict=True):
        decided = one.decided
        assert record.source == Reason(decided.source[0]).name.lower()
        assert record.own_proposal == blocks.key(decided.asked[0])
        assert record.readable == decided.readable[0]
        assert (record.late_us or 0) > 0 or not decided.late
        assert record.observation == base64.b64encode(decided.observation[0].tobytes()).decode()
    sources = {record.source for record in rows}
    assert {"fallback", "watchdog", "override"} <= sources
    assert {record.watchdog for record in rows} >= {"policy", "reference"}
    assert any(record.late_us for record in rows)
    verified = audit_replay.verified(path)
    assert (verified.sentences, verified.differing) == ([], 0)


@pytest.mark.parametrize(("takes_ns", "late_us"), [(1_000_000, 0), (1_000_001, 1), (1_001_001, 2)])
def test_what_is_late_by_a_moment_is_on_record_as_late(
    toy_story: Scenario,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    takes_ns: int,
    late_us: int,
) -> None:
    """Rounded down it would be on record as in time, and the decision would not replay."""
    now = [0]
    monkeypatch.setattr(time, "perf_counter_ns", lambda: now[0])

    class Slow(FrontierLookup):
        def propose(self, observation: Any, rng: np.random.Generator) -> BoolArray:
            now[0] += takes_ns
            return super().propose(observation, rng)

    path, lanes = tmp_path / "log.jsonl", Lanes(toy_story, "test", 1)
    with AuditLog(path) as log:
        audit_step.audit(lanes, log, policy="slow")
        lanes.restart(0, Start(0, 0, 1.0, 60))
        guard = AuditedGuard(Slow(), lanes, briefing(toy_story), Guarding(deadline_ms=1.0))
        guard.serve(np.random.default_rng(0))
    record = records(path)[0]
    assert record.late_us == late_us
    assert record.source == ("fallback" if late_us else "policy")
    assert audit_replay.verified(path).sentences == []


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_policy_serves_a_whole_split_for_the_log(
    toy_story: Scenario, tmp_path: Path, split: Any
) -> None:
    path = tmp_path / "log.jsonl"
    with AuditLog(path) as log:
        count = audit_step.log_run(log, toy_story, split, "frontier")
    told = briefing(toy_story, TOLD[split])
    plain = rollout.run(FrontierLookup, toy_story, split, told)
    rows = [record for record in records(path) if not record.second]
    assert len(rows) == count == plain.row.size
    assert [r.kept for r in rows] == keys(plain.kept.swapaxes(0, 1))
    assert [line.kind for line in found(path)].count("context") == 1
