"""The section of a bench's report that says what was asked, and what the rows allow to say."""

from collections.abc import Sequence

from rapgym.bench.records import Score
from rapgym.report import bench as bench_report
from rapgym.report import findings, questions, roles
from rapgym.report import learning as learning_findings
from rapgym.report.page import Section, Table
from rapgym.report.questions import Asked

Group = Sequence[Score]


def hypotheses_section(
    entries: Sequence[Score], asked: Sequence[Asked], notes: Sequence[str]
) -> Section:
    """The questions of the field over the headline, and what was asked of every scenario.

    Args:
        notes: why nothing was asked over the headline.
    """
    rows = [
        row for group in bench_report.by_scenario(entries).values() for row in hypotheses(group)
    ]
    return Section(
        "hypotheses",
        "Hypotheses and verdicts",
        paragraphs=[
            "What was asked of every scenario, and what its rows allow to say. A verdict of a champion is of the "
            "choice on validation, corrected for the scenarios of the same traffic (Holm); the others are 95 % "
            "intervals, not corrected.",
        ],
        notes=notes,
        tables=[
            *_asked(asked),
            Table(
                "Scenario by scenario: the verdicts",
                [
                    "scenario",
                    "hypothesis",
                    "who",
                    "difference [95 %], nats",
                    "Holm p",
                    "verdict",
                    "rests on",
                ],
                rows,
                open=not asked,
            ),
        ],
    )


def _asked(asked: Sequence[Asked]) -> list[Table]:
    if not asked:
        return []
    rows = [[each.asked, each.hypothesis, each.verdict.replace("**", "")] for each in asked]
    details = [
        [
            each.asked,
            name,
            answer.verdict if answer else "not asked",
            (answer.number if answer else "").replace("`", ""),
        ]
        for each in asked
        for name, answer in each.answers
    ]
    return [
        Table(
            "The questions, over the headline",
            ["question", "hypothesis", "verdict"],
            rows,
            open=True,
            stacked=True,
        ),
        Table(
            "Their answers, scenario by scenario",
            ["question", "scenario or run", "verdict", "number"],
            details,
            stacked=True,
        ),
        Table(
            "What a verdict on a question means",
            ["rule"],
            [[questions.RULES.replace("\n", " ").replace("*", "")]],
            stacked=True,
        ),
    ]


def hypotheses(group: Group) -> list[list[str]]:
    """What was asked of one scenario, a row each, with the verdict that the statistics bear."""
    lookup = roles.lookup(group)
    rows = []
    asked = (
        ("the champion costs less than the lookup", "all"),
        ("the learned champion costs less than the lookup", "learned"),
    )
    for claim, family in asked:
        found = roles.champion_of(family)(group)
        if found is None or lookup is None:
            continue
        ends = bench_report.interval_of(found.champion_low, found.champion_high)
        p = (
            "-"
            if found.p_holm is None
            else f"{bench_report.shown_p(found.p_holm)} of {found.holm_tests}"
        )
        rows.append(
            [
                claim,
                found.policy,
                f"{found.cost - lookup.cost:+.4f} {ends}",
                p,
                found.verdict or "-",
            ]
        )
    learned, how = roles.champion_of("learned")(group), learning_findings.standing(group)
    if learned and how:
        ends = bench_report.interval_of(learned.behind_champion_low, learned.behind_champion_high)
        rows.append(
            ["learning costs less than the champion", learned.policy, f"{learned.behind_champion or 0:+.4f} {ends}", "-", how.rpartition(" ")[0]]
        )  # fmt: skip
    whole = roles.best_format(group)
    if whole and whole.behind_champion is not None:
        ends = bench_report.interval_of(whole.behind_champion_low, whole.behind_champion_high)
        rows.append(
            ["the best format of 8 or 4 bits costs less than the champion", whole.policy, f"{whole.behind_champion:+.4f} {ends}", "-", findings.against(whole)]
        )  # fmt: skip
    on_top = min(findings.pruned(group), key=lambda e: e.cost, default=None)
    if on_top and on_top.behind_unpruned is not None:
        ends = bench_report.interval_of(on_top.behind_unpruned_low, on_top.behind_unpruned_high)
        rows.append(
            ["pruning on top of a format costs less than the format", on_top.policy, f"{on_top.behind_unpruned:+.4f} {ends}", "-", findings.beside_unpruned(on_top)]
        )  # fmt: skip
    name, rests = bench_report.plain(group[0].scenario), bench_report.rests_on(group[0])
    return [[name, *row, rests] for row in rows]
