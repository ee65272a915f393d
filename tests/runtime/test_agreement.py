"""Profiles fitted to rows, and predicted against measured: on a device that is as the world says."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_device import CARD_BYTES, Memory, TableServer
from toy_table import kept_without
from toy_world import toy_rows, toy_world

from rapgym.errors import InvalidSpec
from rapgym.model import blocks
from rapgym.model.profiles import IDEAL, Latency, Work
from rapgym.report import validation
from rapgym.rollout import rollout
from rapgym.runtime.device.step import DeviceStep
from rapgym.runtime.validate import agreement, profiling, ranking
from rapgym.runtime.validate.records import Record, row_record
from rapgym.runtime.validate.trials import (
    Trial,
    alike,
    chosen_rows,
    fit_trials,
    is_strict,
    policy_log,
)
from rapgym.scenarios import catalogue
from rapgym.world.records import World

DENSE = blocks.key(np.ones(6, dtype=bool))
LATENCY = Latency(Work(0.01, 0.002, 0.003), Work(0.1, 0.02, 0.0), Work(0.0, 0.001, 0.005), 0.25)


def world() -> World:
    limits = [[600] * 4, [600, 600, 400, 600], [450] * 4, [230] * 4, [100] * 4]
    return toy_world(toy_rows([3, 10, 12, 14, 9], limits, [5, 20, 10, 10, 5]))


def proposals() -> dict[str, str]:
    return {
        "all": DENSE,
        "shallow": blocks.key(kept_without(2)),
        "deep": blocks.key(kept_without(2, 3, 4, 5)),
    }


def record(world: World, trial: Trial) -> Record:
    memory = Memory(world, blocks.kept_of(trial.loaded, world.blocks))
    step = DeviceStep(TableServer(memory), memory, memory, CARD_BYTES)
    _, outcome = step(world, *trial.arguments(world))
    assert step.last is not None
    found: Record = json.loads(json.dumps(row_record(trial, outcome, step.last)))
    return found


def with_work(found: Record, n: int) -> Record:
    """The record of a machine whose seconds are those of LATENCY."""
    for number, part in enumerate(found["measured"]["segments"]):
        kept = blocks.kept_of(part["kept"], n)
        tokens, steps, rows = 50 + 13 * number, 7 + number, 20 + 5 * number
        part |= {"prefill_tokens": tokens, "decode_steps": steps, "decode_tokens": rows}
        part["prefill_s"] = tokens * float(LATENCY.prefill_token.seconds(kept))
        part["decode_s"] = float(
            steps * LATENCY.decode_step.seconds(kept) + rows * LATENCY.decode_token.seconds(kept)
        )
    found["measured"]["drop_s"] = found["measured"]["dropped_blocks"] * LATENCY.drop_block_s
    return found


def all_trials(world: World) -> dict[str, dict[int, Trial]]:
    return {
        name: {row: Trial(row, row, DENSE, proposal) for row in range(len(world.rows))}
        for name, proposal in proposals().items()
    }


def test_a_machine_that_is_as_the_world_is_off_by_nothing() -> None:
    here = world()
    trials = all_trials(here)
    measured = {t: record(here, t) for per in trials.values() for t in per.values()}
    rows = {t: agreement.row(here, found, IDEAL) for t, found in measured.items()}
    total = agreement.totals([*rows.values()], [*measured.values()], 6, 64)
    assert total["same"] == dict.fromkeys(("kept", "kept_end", "reason"), len(rows))
    assert total["bytes"]["worst_relative"] == 0
    assert total["nats"]["difference"] == pytest.approx(0, abs=1e-9)
    for name in ("stall_s", "emergency_s", "refused_s"):
        assert total[name]["measured"] == pytest.approx(total[name]["predicted"])
    assert total["emergency_s"]["measured"] > 0
    assert total["refused_s"]["measured"] > 0
    ranks = ranking.policies(here, rows, trials)
    assert ranks["spearman"] == pytest.approx(1.0)
    assert {pair["verdict"] for pair in ranks["pairs"]} <= {"same order", "tie"}
    verdicts = {
        each["goal"]: each["verdict"] for each in agreement.verdicts(total, ranks, gpu=False)
    }
    assert verdicts["bytes"] == verdicts["nats"] == verdicts["ranking"] == "met"


def test_it_is_measured_how_long_serving_pauses_in_an_emergency() -> None:
    here = world()
    found = with_work(record(here, Trial(1, 1, DENSE, DENSE)), 6)
    calm = with_work(record(here, Trial(0, 0, DENSE, DENSE)), 6)
    assert len(found["measured"]["emergency_drop_s"]) == 1
    assert calm["measured"]["emergency_drop_s"] == []
    found["measured"]["emergency_drop_s"] = [0.25, 0.75]
    parts = [part for each in (found, calm) for part in each["measured"]["segments"]]
    step_s = sum(part["decode_s"] for part in parts) / sum(part["decode_steps"] for part in parts)
    told = profiling.reaction([found, calm])
    assert told == {
        "emergencies": 2, "release_s": 0.5, "longest_release_s": 0.75,
        "step_s": pytest.approx(step_s), "reaction_s": pytest.approx(0.5 + step_s),
    }  # fmt: skip
    lines = validation._reaction_lines({"stated_s": 0.1, **told})
    assert lines[0].startswith(f"reaction_s   0.100 stated, {0.5 + step_s:.3f} measured in 2 emerg")
    silent = profiling.reaction([calm])
    assert (silent["emergencies"], silent["reaction_s"]) == (0, None)
    assert validation._reaction_lines({"stated_s": 0.1, **silent}) == [
        "reaction_s   0.100 stated; no emergency to measure"
    ]
    profile, _ = profiling.fitted("here", here, [found, calm, calm])
    assert profile.reaction_s == profiling.reaction([found, calm, calm])["reaction_s"]
    assert profiling.fitted("here", here, [calm] * 3)[0].reaction_s is None


def test_the_report_says_which_goal_is_missed() -> None:
    here = world()
    trials = all_trials(here)
    measured = {t: record(here, t) for per in trials.values() for t in per.values()}
    for found in measured.values():
        found["measured"]["peak_bytes"] = [int(1.05 * p) for p in found["measured"]["peak_bytes"]]
    rows = {t: agreement.row(here, found, IDEAL) for t, found in measured.items()}
    total = agreement.totals([*rows.values()], [*measured.values()], 6, 64)
    ranks = ranking.policies(here, rows, trials)
    verdicts = {
        each["goal"]: each["verdict"] for each in agreement.verdicts(total, ranks, gpu=True)
    }
    assert verdicts["bytes"] == "missed"
    assert verdicts["nats"] == "met"


def test_policies_that_differ_by_less_than_the_error_are_a_tie() -> None:
    here = world()
    trials = all_trials(here)
    rows = {
        t: agreement.row(here, record(here, t), IDEAL)
        for per in trials.values()
        for t in per.values()
    }
    for row in range(len(here.rows)):
        cost = rows[trials["shallow"][row]]["cost"]
        cost["measured"] += 0.5  # the machine finds one policy dearer than the table says
    ranks = ranking.policies(here, rows, trials)
    ties = {tuple(p["policies"]) for p in ranks["pairs"] if p["verdict"] == "tie"}
    assert ties
    for pair in ranks["pairs"]:
        assert (tuple(pair["policies"]) in ties) == (abs(pair["measured"]) <= pair["error"])
    assert ranks["error"] == pytest.approx(np.sqrt(2) * np.std([0, 0.5, 0]))


def test_a_fitted_profile_finds_what_the_machine_adds() -> None:
    here = world()
    trials = [Trial(r, r, DENSE, p) for r in range(3) for p in proposals().values()]
    records = [with_work(record(here, trial), 6) for trial in trials]
    for found in records:
        added = 40 + 2 * int(here.rows.prompt_tokens[found["trial"]["row"]])
        found["measured"]["peak_bytes"] = [p + added for p in found["measured"]["peak_bytes"]]
    profile, residuals = profiling.fitted("found", here, records)
    assert profile.context_bytes == pytest.approx(40, abs=1)
    assert profile.activation_bytes_per_token == pytest.approx(2, abs=0.05)
    assert profile.margin_bytes <= 1
    assert residuals["prefill_relative"] == pytest.approx(0, abs=1e-6)
    for found in records:
        told = profiling.predicted_seconds(profile, 6, found)
        parts = found["measured"]["segments"]
        assert told["prefill"] == pytest.approx(sum(p["prefill_s"] for p in parts))
        assert told["decode"] == pytest.approx(sum(p["decode_s"] for p in parts))
        assert told["drop"] == pytest.approx(found["measured"]["drop_s"])


def test_nothing_is_fitted_to_two_rows() -> None:
    with pytest.raises(InvalidSpec, match="3 rows"):
        profiling.fitted("few", world(), [])


@given(st.integers(0, 10_000))
def test_no_coefficient_is_negative_and_none_fits_better(seed: int) -> None:
    rng = np.random.default_rng(seed)
    features, wanted = rng.normal(size=(8, 3)), rng.normal(size=8)
    found = profiling.least_squares(features, wanted)
    assert (found >= 0).all()
    error = ((features @ found - wanted) ** 2).sum()
    for near in found + 0.01 * rng.normal(size=(20, 3)):
        assert error <= ((features @ np.maximum(near, 0) - wanted) ** 2).sum() + 1e-12


def test_trials_that_end_the_same_are_measured_once() -> None:
    here = world()
    one = Trial(2, 2, DENSE, DENSE)
    kept = agreement.predicted(here, one)["kept"]
    assert alike(here, one) == alike(here, replace(one, proposal=kept))
    assert alike(here, one) != alike(here, replace(one, loaded=kept))


def test_calibration_trials_leave_dense_and_return() -> None:
    trials = fit_trials(world(), [0, 1])
    assert [t.row for t in trials] == [0, 0, 0, 1, 1, 1]
    for first, second in pairwise(trials):
        if first.row == second.row:
            assert second.loaded == first.proposal
    assert trials[2].proposal == DENSE


def test_rows_are_taken_from_emergencies_from_the_deep_and_over_the_load() -> None:
    here = world()
    start = here.state(np.array([0]), np.array([0]))
    log = rollout.proposed(here, np.ones((5, 1, 6), dtype=bool), start)
    chosen = chosen_rows(here, {"all": log}, np.arange(5), 4)
    assert 1 in chosen, "an emergency"
    assert len(set(chosen)) == 4
    assert 4 not in chosen_rows(here, {"all": log}, np.arange(4), 5), "its requests are not kept"


@pytest.mark.parametrize("name", ["static-best", "frontier-margin", "hindsight"])
def test_a_device_replays_one_pairing_with_the_settings_of_all(name: str) -> None:
    story = catalogue.story_of("chat-beside-code", 0.2, "cpu-2core", stand_in=True)
    assert story.offsets > 1
    log = policy_log(story, "test", name)
    assert log.row.shape[1] == 1
    assert is_strict(story, "test", name) == (name == "static-best")
