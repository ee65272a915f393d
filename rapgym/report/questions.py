"""The questions that rapgym was made for, each as a hypothesis with its verdict and the number behind it."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from rapgym.arrays import IntArray
from rapgym.bench import suitability, verdicts
from rapgym.bench.cells import BOUND, LOOKUP, STATIC_REPAIRED
from rapgym.bench.contest import Contest, contest_of
from rapgym.bench.pieces import LEAST_PIECES
from rapgym.bench.records import Score
from rapgym.bench.results import UNORDERED, Results
from rapgym.quality.predictor_tuning import spearman
from rapgym.report import bench as bench_report
from rapgym.report import roles
from rapgym.report import serving as serving_report
from rapgym.scenarios import tables

Verdict = Literal["confirmed", "refuted", "undecided"]
RL = ("dqn", "maskable_ppo", "ppo_counts")
GREEDY = "gsi"  # greedy order, as the paper's search has it, with nothing learned
SAME_ORDER = 0.95  # rank correlation from which calibration text orders sets as test text does
DAY_S = 24 * 3600
# Of the serving engine beside a recorded run: relative errors up to which the two agree.
AGREES = {"ttft_mean_s": 0.01, "tpot_mean_s": 0.01, "e2e_mean_s": 0.005}
FOUND: dict[str, Verdict] = {
    "better": "confirmed",
    "worse": "refuted",
    "equal": "refuted",
    "undecided": "undecided",
}
# What costs more than the lookup confirms that the lookup costs less.
SERVED: dict[str, Verdict] = {"more": "confirmed", "less": "refuted", "undecided": "undecided"}

RULES = f"""\
A difference of costs is *confirmed* where its 95 % interval lies below zero, beyond what matters;
*refuted* where it lies above, or where the whole of it is too small to matter; else *undecided*, as it
is with fewer than {LEAST_PIECES} bursts of traffic, whatever the interval. The RL method of a scenario is the one that cross-validation on train
chooses; the format is the cheapest on test, so that luck is on its side. These intervals are not corrected
for the number of questions. Calibration text orders sets as test text does where the rank correlation
of their costs, over the whole grid, is at least {SAME_ORDER:g}. Calibration pays for itself where the text
that it read is earned back, beside dropping blocks at random, by the output tokens of one day like the
test rows. Simulator and machine agree where the means of a recorded run are met within 1 % (first
token, token by token) and 0.5 % (end to end). Where requests wait, intervals are by hours of test."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one scenario, or one recorded run, says of a hypothesis."""

    verdict: Verdict
    number: str


@dataclass(frozen=True, slots=True)
class Question:
    """A question of the field, and how rapgym decides it on one scenario; None: it was not asked there."""

    asked: str
    hypothesis: str
    answer: Callable[[Contest, Sequence[Score]], Answer | None]


def _compared(contest: Contest, one: str | None, other: str | None) -> Answer | None:
    """Whether one policy costs less than another, on the same rows."""
    if one is None or other is None or not {one, other} <= contest.served.keys():
        return None
    found = contest.difference(one, other)
    lookup, bound = (contest.served[name].mean_cost for name in (LOOKUP, BOUND))
    verdict = verdicts.verdict(found, verdicts.margin(lookup, bound))
    return Answer(
        FOUND[verdict],
        f"`{one}` less `{other}`: {found.value:+.4f} {bench_report.interval_of(found.low, found.high)}",
    )


def best_rl(group: Sequence[Score]) -> str | None:
    """The RL method of least cost on train by cross-validation; None where none was trained."""
    trained = [e for e in group if e.policy in RL and e.validation_cost is not None]
    return min(trained, key=lambda e: e.validation_cost or 0.0).policy if trained else None


def _beats_format(contest: Contest, group: Sequence[Score]) -> Answer | None:
    champion, four = roles.champion_of("all")(group), roles.best_of_4_bits(group)
    if champion is None or four is None:
        return None
    return _compared(contest, champion.policy, four.policy)


def _moves(contest: Contest, group: Sequence[Score]) -> Answer | None:
    found = _compared(contest, LOOKUP, STATIC_REPAIRED)
    if found is None:
        return None
    falling = suitability.load(contest.story)["test"].falling_rows
    return Answer(found.verdict, f"{found.number}; the limit falls in {falling:.0%} of rows")


def _carries_over(contest: Contest, group: Sequence[Score]) -> Answer | None:
    found = tables.table(contest.story)
    calib, test = found.calibration(), found.test()
    costs = [columns.nll(calib.grid_kept)[0].ravel() for columns in (calib, test)]
    rank = spearman(*costs)
    return Answer(
        "confirmed" if rank >= SAME_ORDER else "refuted",
        f"rank correlation {rank:.3f} over {len(costs[0])} sets",
    )


def output_tokens_a_day(output_tokens: IntArray, window_s: int) -> float:
    """Output tokens of a day like these rows.

    Args:
        output_tokens: of each row and pairing, int64 [T, K]; those of the first pairing, the traffic as it was,
            are taken.
    """
    output = output_tokens[:, 0]
    return float(output.sum()) * DAY_S / (len(output) * window_s)


def _pays(contest: Contest, group: Sequence[Score]) -> Answer | None:
    lookup = roles.lookup(group)
    if lookup is None or lookup.calibration_tokens is None:
        return None
    if lookup.break_even_tokens is None and UNORDERED not in contest.served:
        return None  # nothing stood beside it
    a_day = output_tokens_a_day(contest.served[LOOKUP].output, contest.story.window_s)
    if lookup.break_even_tokens is None:
        return Answer("refuted", "it saves nothing beside dropping blocks at random")
    return Answer(
        "confirmed" if lookup.break_even_tokens <= a_day else "refuted",
        f"{lookup.break_even_tokens:,.0f} output tokens; a day has {a_day:,.0f}",
    )


QUESTIONS = (
    Question(
        "Is RL better than greedy search without RL?",
        "The RL method costs less than the greedy order, dropped until the rest fits",
        lambda contest, group: _compared(contest, best_rl(group), GREEDY),
    ),
    Question(
        "Than a lookup table?",
        "The RL method costs less than the frontier lookup",
        lambda contest, group: _compared(contest, best_rl(group), LOOKUP),
    ),
    Question(
        "Is deciding at run time better than INT4?",
        "The champion of all that do not learn costs less than the cheapest format with 4-bit weights that "
        "leaves the model whole",
        _beats_format,
    ),
    Question(
        "Does it pay under a workload that really moves?",
        "The lookup costs less than the best fixed set, which the shield trims where it does not fit",
        _moves,
    ),
    Question(
        "Does it hold with calibration text disjoint from test text?",
        "Text that no test token comes from orders the sets as test text does",
        _carries_over,
    ),
    Question(
        "With the cost of calibration counted?",
        "The lookup's calibration pays for itself within a day",
        _pays,
    ),
)
MACHINE = "Does the simulator agree with the machine?"
AGREE = "The serving engine, fitted on half of a recorded run, meets the whole"
# Of RAP-Serve-v0: in which comparison of serving.json the lookup is asked what, beside which rule.
WAITING = {
    ("against_lookup", "engine"): (
        "Does it pay where requests wait?",
        "The lookup costs less than the engine of today, which sheds and preempts",
    ),
    ("against_lookup", "keep-all-drop"): (
        "Where requests wait, does deciding ahead pay?",
        "The lookup costs less than keeping all blocks until memory falls",
    ),
    ("patient_against_lookup", "keep-all-tuned"): (
        "And where each rule also chooses how long a request may wait?",
        "The lookup costs less than keeping all blocks until memory falls, both with the best patience of train",
    ),
}


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, and what each scenario, or recorded run, answers; None: it was not asked there."""

    asked: str
    hypothesis: str
    answers: Sequence[tuple[str, Answer | None]]

    @property
    def verdict(self) -> str:
        """One verdict of all answers, in Markdown."""
        return overall([each.verdict for _, each in self.answers if each])


def all_asked(
    found: Results, runs: Sequence[dict[str, Any]] | None, served: dict[str, Any] | None = None
) -> list[Asked]:
    """Every question with its answers over the headline's scenarios; where none is of it, over those of days.

    Args:
        runs: recorded runs beside their simulation, as fidelity.json has them; None: they are not here,
            and nothing is asked of the machine.
        served: the study of the serving engine, as serving.json has it; None: nothing is asked of it.
    """
    groups = asked_of(found.scores)
    contests = [contest_of(list(found.of(group[0].scenario))) for group in groups]
    asked = [
        Asked(
            question.asked,
            question.hypothesis,
            [
                (bench_report.plain(group[0].scenario), question.answer(contest, group))
                for contest, group in zip(contests, groups, strict=True)
            ],
        )
        for question in QUESTIONS
    ]
    if served is not None:
        asked += [
            Asked(question, hypothesis, waiting(served, beside, rule))
            for (beside, rule), (question, hypothesis) in WAITING.items()
        ]
    return asked if runs is None else [*asked, Asked(MACHINE, AGREE, recorded(runs))]


def asked_of(entries: Sequence[Score]) -> list[list[Score]]:
    """The scenarios that the questions are asked of: those of the headline; of days, where none is of it."""
    groups = list(bench_report.by_scenario(entries).values())
    headline = [group for group in groups if group[0].headline]
    return headline or [group for group in groups if group[0].group == "days"]


def waiting(served: dict[str, Any], beside: str, rule: str) -> list[tuple[str, Answer | None]]:
    """What each serving scenario says of a lookup beside a rule; a single part of test decides nothing.

    One whose numbers carry no claim is not asked.
    """
    found: list[tuple[str, Answer | None]] = []
    for entry in served["scenarios"]:
        if not entry["claims"]:
            found.append((bench_report.plain(entry["scenario"]), None))
            continue
        more = entry[beside][rule]  # cost of the rule, less the lookup's
        told = f"{-more['value']:+.4f} nats a token"
        if more["low"] is None:
            told += ", one part"
        else:
            told += f" {bench_report.interval_of(-more['high'], -more['low'])}"
        answer = Answer(SERVED[serving_report.judged(more)], told)
        found.append((bench_report.plain(entry["scenario"]), answer))
    return found


def recorded(runs: Sequence[dict[str, Any]]) -> list[tuple[str, Answer | None]]:
    """What each recorded run says of the serving engine; `runs` as fidelity.json has them."""
    found: list[tuple[str, Answer | None]] = []
    for run in runs:
        errors = {name: run["measures"][name]["error"] for name in AGREES}
        holds = all(abs(errors[name]) <= most for name, most in AGREES.items())
        told = ", ".join(
            f"{name.removesuffix('_s')} {error:+.2%}" for name, error in errors.items()
        )
        found.append((run["run"], Answer("confirmed" if holds else "refuted", told)))
    return found


def overall(said: Sequence[Verdict]) -> str:
    """One verdict of several: the one that all share, or how many say what."""
    if not said:
        return "not asked: none was trained or run"
    count = Counter(said)
    if len(count) == 1:
        return f"**{said[0]}** ({len(said)} of {len(said)})"
    return ", ".join(
        f"{verdict} on {count[verdict]}" for verdict in get_args(Verdict) if count[verdict]
    ) + (f" of {len(said)}")
