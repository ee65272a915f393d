"""The questions of the field: hypotheses, verdicts, and the numbers behind them."""

import dataclasses

import pytest
import report_pages

from rapgym.bench import verdicts
from rapgym.bench.contest import Contest, contest_of
from rapgym.bench.pieces import LEAST_PIECES
from rapgym.bench.records import Score
from rapgym.bench.results import Results
from rapgym.bench.score import Estimate
from rapgym.report import hypotheses, questions
from rapgym.scenarios.story import Scenario


@pytest.fixture(scope="module")
def benched(toy_story: Scenario, tmp_path_factory: pytest.TempPathFactory) -> Results:
    with pytest.MonkeyPatch.context() as patch:
        return report_pages.toy_bench(toy_story, tmp_path_factory.mktemp("q") / "b.csv.gz", patch)


@pytest.fixture(scope="module")
def contest(benched: Results) -> Contest:
    return contest_of(list(benched.cells))


def asked(start: str) -> questions.Question:
    (found,) = [each for each in questions.QUESTIONS if each.asked.startswith(start)]
    return found


def test_a_difference_is_the_one_of_the_contest(contest: Contest) -> None:
    found = questions._compared(contest, "frontier", "partial-admission")
    assert found is not None
    assert f"{contest.difference('frontier', 'partial-admission').value:+.4f}" in found.number
    assert len(contest.pieces) < LEAST_PIECES
    assert found.verdict == "undecided", "of so few pieces nothing is claimed"
    assert questions._compared(contest, None, "frontier") is None
    assert questions._compared(contest, "gsi", "frontier") is None


@pytest.mark.parametrize(
    ("value", "low", "high", "p", "verdict"),
    [
        (-0.2, -0.3, -0.1, 0.01, "confirmed"),
        (0.2, 0.1, 0.3, 0.01, "refuted"),
        (-0.001, -0.002, -0.0005, 0.01, "refuted"),  # too small to matter
        (-0.2, -0.5, 0.1, 0.2, "undecided"),
    ],
)
def test_an_interval_decides(
    value: float, low: float, high: float, p: float, verdict: str,
    contest: Contest, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    told = Estimate(value=value, low=low, high=high, p=p, least=0.1)
    monkeypatch.setattr(Contest, "difference", lambda self, one, other: told)
    monkeypatch.setattr(verdicts, "margin", lambda lookup, bound: 0.01)
    found = questions._compared(contest, "frontier", "keep-all")
    assert found is not None
    assert found.verdict == verdict


def test_rl_is_asked_where_it_was_trained_and_cross_validation_chooses_it(
    benched: Results, contest: Contest
) -> None:
    scores = list(benched.scores)
    assert questions.best_rl(scores) is None
    assert asked("Is RL better").answer(contest, scores) is None
    one = next(entry for entry in scores if entry.policy == "frontier")

    def trained(policy: str, validation: float | None, test: float) -> Score:
        return dataclasses.replace(
            one, policy=policy, validation_cost=validation, cost=test, kind="learned"
        )

    tried = [
        trained("dqn", 0.2, 0.1),
        trained("ppo_counts", 0.1, 0.9),
        trained("maskable_ppo", None, 0.0),
    ]
    assert questions.best_rl([*scores, *tried]) == "ppo_counts", "by train, never by test"


def test_calibration_is_set_against_a_day_of_output(benched: Results, contest: Contest) -> None:
    scores = list(benched.scores)
    lookup = next(entry for entry in scores if entry.policy == "frontier")
    others = [entry for entry in scores if entry is not lookup]
    told = contest.served["frontier"].output[:, 0]
    day = told.mean() / contest.story.window_s * 86_400

    def after(tokens: float | None) -> questions.Answer | None:
        changed = dataclasses.replace(lookup, calibration_tokens=9.0, break_even_tokens=tokens)
        return asked("With the cost").answer(contest, [*others, changed])

    assert after(None) is None, "nothing stood beside it"
    contest = dataclasses.replace(
        contest, served={**contest.served, "random": contest.served["frontier"]}
    )
    soon, late, never = after(0.9 * day), after(1.1 * day), after(None)
    verdicts = [each.verdict for each in (soon, late, never) if each]
    assert verdicts == ["confirmed", "refuted", "refuted"]
    assert soon is not None
    assert f"a day has {day:,.0f}" in soon.number


def test_one_verdict_of_several() -> None:
    assert questions.overall(["confirmed"] * 3) == "**confirmed** (3 of 3)"
    mixed = questions.overall(["undecided", "confirmed", "undecided", "refuted"])
    assert mixed == "confirmed on 1, refuted on 1, undecided on 2 of 4"
    assert questions.overall([]).startswith("not asked")


def test_a_recorded_run_is_met_within_what_was_said() -> None:
    near = {name: {"error": -most} for name, most in questions.AGREES.items()}
    far = near | {"e2e_mean_s": {"error": 0.0051}}
    runs = [{"run": "near", "measures": near}, {"run": "far", "measures": far}]
    found = questions.recorded(runs)
    assert [(name, each and each.verdict) for name, each in found] == [
        ("near", "confirmed"),
        ("far", "refuted"),
    ]


@pytest.mark.parametrize(
    ("more", "verdict", "number"),
    [
        ({"value": 0.2, "low": 0.1, "high": 0.3}, "confirmed", "-0.2000 nats a token [-0.3000, -0.1000]"),
        ({"value": -0.2, "low": -0.3, "high": -0.1}, "refuted", "+0.2000 nats a token [+0.1000, +0.3000]"),
        ({"value": 0.2, "low": -0.1, "high": 0.5}, "undecided", "-0.2000 nats a token [-0.5000, +0.1000]"),
        ({"value": 0.2, "low": None, "high": None}, "undecided", "-0.2000 nats a token, one part"),
    ],
)  # fmt: skip
def test_where_requests_wait_the_interval_decides(
    more: dict[str, float | None], verdict: str, number: str
) -> None:
    toy = {"scenario": "serve-toy-v0", "claims": True, "against_lookup": {"engine": more}}
    served = {"scenarios": [toy, toy | {"claims": False}]}
    (name, answer), silent = questions.waiting(served, "against_lookup", "engine")
    assert silent == ("serve-toy", None)
    assert answer == questions.Answer(verdict, number)  # type: ignore[arg-type]
    assert name == "serve-toy"


def test_a_report_shows_questions_with_verdicts_and_what_these_mean(benched: Results) -> None:
    told = questions.Answer("confirmed", "`a` less `b`: -0.1")
    asked = [questions.Asked("Is it?", "It is", [("one", told), ("two", None)])]
    first, details, *_, rules, own = hypotheses.hypotheses_section(benched.scores, asked, []).tables
    assert first.rows == [["Is it?", "It is", "confirmed (1 of 1)"]]
    assert [row[1:] for row in details.rows] == [
        ["one", "confirmed", "a less b: -0.1"],
        ["two", "not asked", ""],
    ]
    assert "Calibration pays for itself" in str(rules.rows[0][0])
    assert all(isinstance(cell, str) for row in own.rows for cell in row)
    (alone,) = hypotheses.hypotheses_section(benched.scores, [], ["why"]).tables
    assert alone.open
    assert alone.rows == own.rows
