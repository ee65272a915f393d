"""The answer in three sentences: numbers, intervals and verdicts are those of the entries, and no more."""

from typing import Any

import pytest
from plain_records import score_of

from rapgym.bench.records import Score
from rapgym.report import answer, roles


def scenario(name: str = "toy-v0", headline: bool = True, **of_format: Any) -> list[Score]:
    """Not pruning at 0.5, a format of 8 bits at 0.3 beside a champion at 0.1, the lookup at 0.12."""
    where = {"scenario": name, "claims": headline}
    beside = {"behind_champion": 0.2, "behind_champion_low": 0.05, "behind_champion_high": 0.4}
    beside |= {"behind_bound": 0.25, "behind_bound_low": 0.1, "behind_bound_high": 0.5} | of_format
    return [
        score_of("partial-admission", kind="rival", cost=0.5, gain=None, verdict=None, **where),
        score_of("int8-int8-kv", kind="rival", cost=0.3, gain=None, verdict=None, **where, **beside),
        score_of("int4-int8-kv", kind="rival", cost=0.6, gain=None, verdict=None, **where),
        score_of("frontier", kind="reactive", cost=0.12, verdict="equal", **where),
        score_of("mine", champion=("all",), verdict="better", champion_low=-0.03, champion_high=-0.01, **where),
        score_of("bound", kind="bound", cost=0.05, **where),
    ]  # fmt: skip


def test_three_sentences_say_what_the_entries_say() -> None:
    whole, formats, policy = answer.sentences(scenario())
    assert "costs 0.500 nats" in whole
    assert "wins back 90 [80, 95] of the 100 points" in whole
    assert "clearly above 0 on 1 of 1 scenario" in whole
    assert (
        "run-time pruning wins: on `toy` that format, `int8-int8-kv`, costs +0.2000 [+0.0500, +0.4000]"
        in formats
    )
    assert "costs more than the champion on 1 of 1 scenarios" in formats
    assert "validation chooses `mine` on 1 of 1 scenario" in policy
    assert "costs -0.0200 nats [-0.0300, -0.0100] beside the lookup (better)" in policy
    assert "use" not in policy.split(":")[0]
    assert "the champion where it is better" in policy


def test_an_interval_that_holds_zero_is_no_win() -> None:
    _, formats, _ = answer.sentences(scenario(behind_champion_low=-0.1))
    assert "neither wins nor loses beyond chance" in formats
    assert "ties with the champion" in formats
    _, formats, _ = answer.sentences(
        scenario(behind_champion=-0.2, behind_champion_low=-0.4, behind_champion_high=-0.05)
    )
    assert "run-time pruning loses: " in formats


def test_the_number_is_of_the_middle_scenario() -> None:
    three = [
        *scenario("low-v0", behind_champion=0.1),
        *scenario("high-v0", behind_champion=0.9),
        *scenario("middle-v0", behind_champion=0.3),
    ]
    _, formats, _ = answer.sentences(three)
    assert "on the middle scenario, `middle`, that format, `int8-int8-kv`, costs +0.3000" in formats
    assert "on 3 of 3 scenarios" in formats


def test_only_the_headline_is_spoken_of_where_there_is_one() -> None:
    both = [*scenario("aside-v0", headline=False, behind_champion=0.9), *scenario()]
    assert "`aside`" not in " ".join(answer.sentences(both))
    assert "1 scenario, of the headline" in answer.note(both)
    alone = scenario("aside-v0", headline=False)
    assert "`aside`" in answer.sentences(alone)[1]
    assert "none of them of the headline" in answer.note(alone)
    assert "conditional on these rows" in answer.note(alone)


def test_what_a_file_does_not_hold_is_said() -> None:
    whole, formats, policy = answer.sentences([score_of("frontier", kind="reactive")])
    assert "run `partial-admission` too" in whole
    assert "run `int8-int8-kv` too" in formats
    assert "does not hold a champion" in policy


@pytest.mark.parametrize(("cost", "policy"), [(0.3, "int8-int8-kv"), (0.7, "int4-int8-kv")])
def test_the_best_format_is_the_cheaper_one(cost: float, policy: str) -> None:
    eight = score_of("int8-int8-kv", kind="rival", cost=cost)
    four = score_of("int4-int8-kv", kind="rival", cost=0.6)
    pruned = score_of("int8-pruned", kind="rival", cost=0.01)
    found = roles.best_format([pruned, four, eight])
    assert found
    assert found.policy == policy
