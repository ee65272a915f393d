"""What the long days show: a table of costs, sentences, each day of test, answers to the questions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rapgym.bench import results
from rapgym.bench.cells import ADMISSION, BOUND, LOOKUP, STATIC_REPAIRED
from rapgym.bench.records import Score
from rapgym.report import bench as bench_report
from rapgym.report import beside, findings, questions, roles
from rapgym.report import learning as learning_findings
from rapgym.report.bench import listed, plain
from rapgym.report.markdown import table
from rapgym.studies import days

Group = list[Score]
Entry = dict[str, Any]
MISSING = (
    "Not made for these worlds yet: `rapgym bench --scenario days-large $(python -m rapgym.studies.days "
    "--entrants days-large) --out baselines/results/days-large.csv.xz` makes it."
)
DOES = {
    "better": "beats it",
    "worse": "is worse",
    "equal": "is as good",
    "undecided": "is not told from it",
}


def published(folder: Path) -> list[Group]:
    """The entries of each scenario of days whose results lie in a folder."""
    found = [results.read_scores(path).scores for path in days.files(folder)]
    return [group for scores in found for group in bench_report.by_scenario(scores).values()]


def _studied(folder: Path) -> list[Entry]:
    found = beside.read(folder, days.OUT.name)
    return list(found["scenarios"]) if found else []


def section(folder: Path) -> str:
    """Everything that is said of days on a page of results."""
    groups, known = published(folder), _studied(folder)
    if not groups:
        return MISSING
    parts = [costs(groups), "\n".join(f"- {text}" for text in sentences(groups, known))]
    parts += [_by_day(entry) for entry in known]
    return "\n\n".join(parts)


def whole(folder: Path) -> str:
    """The same with every policy and rival in it."""
    tables = [bench_report.markdown(group).strip() for group in published(folder)]
    return "\n\n".join([section(folder), *tables])


def costs(groups: Sequence[Group]) -> str:
    """What each scenario costs."""
    rows = []
    for group in groups:
        by = {entry.policy: entry for entry in group}
        champion, learned = roles.champion_of("all")(group), roles.champion_of("learned")(group)
        rows.append(
            [
                f"`{plain(group[0].scenario)}`",
                *(f"{by[name].cost:.4f}" for name in (ADMISSION, STATIC_REPAIRED, LOOKUP)),
                *(_named(entry) for entry in (champion, learned)),
                f"{by[BOUND].cost:.4f}",
                *(_named(of(group)) for of in (roles.best_of_8_bits, roles.best_of_4_bits)),
                bench_report.rests_on(group[0]),
            ]
        )
    heads = ("scenario", "not pruning", "best fixed set, trimmed", "lookup", "champion",
             "learned champion", "bound", "whole model, 8 bits", "4 bits", "rests on")  # fmt: skip
    return table(heads, rows)


def _named(entry: Score | None) -> str:
    return "-" if entry is None else f"`{entry.policy}` {entry.cost:.4f}"


def sentences(groups: Sequence[Group], known: Sequence[Entry]) -> list[str]:
    """What follows, in Markdown, and what is missing."""
    said = [_worth(group) for group in groups]
    said += [findings.trimmed(groups), findings.beside_lookup(groups)]
    said += [learning_findings.beside_unlearned(groups), *map(_learned_nothing, groups)]
    for entry in known:
        where = f"`{plain(entry['scenario'])}`"
        if entry["untrained"]:
            said.append(f"Never trained for {where}, and so not run: {_names(entry['untrained'])}.")
        if entry["left_out"]:
            said.append(f"Left out of this bench of {where}: {_names(entry['left_out'])}.")
    return [text for text in said if text]


def _names(policies: Sequence[str]) -> str:
    return listed([f"`{name}`" for name in policies])


def _worth(group: Group) -> str:
    by = {entry.policy: entry for entry in group}
    gain = bench_report.interval(by[LOOKUP].gain, by[LOOKUP].gain_low, by[LOOKUP].gain_high)
    return (
        f"On `{plain(group[0].scenario)}` adapting at all is worth {gain} of 100 points of gain; what looking "
        f"ahead could add is {by[LOOKUP].behind_bound:.4f} nats."
    )


def _learned_nothing(group: Group) -> str:
    """Which methods are what they were before the first step of training; nothing where none is."""
    costs = {entry.policy: entry.seed_costs for entry in group}
    same = [name for name in costs if costs.get(f"{name}-untrained") == costs[name]]
    if not same:
        return ""
    return (
        f"On `{plain(group[0].scenario)}` {_names(same)} is what it was before its first step: no round of "
        "training cost less on the rows of train by which it stops."
    )


def _by_day(entry: Entry) -> str:
    """Each day of test of a scenario: the policies that its table names, beside the lookup."""
    shown = {name: costs for name, costs in entry["days"].items() if name in _SHOWN}
    lookup = entry["days"][LOOKUP]
    rows = [
        [
            f"`{name}`",
            *(f"{ours - zero:+.4f}" for ours, zero in zip(costs, lookup, strict=True)),
        ]
        for name, costs in shown.items()
    ]
    rows.insert(0, [f"`{LOOKUP}`, cost", *(f"{cost:.4f}" for cost in lookup)])
    heads = ("of which less the lookup's", *(f"day {11 + day}" for day in range(len(lookup))))
    return f"`{plain(entry['scenario'])}`, day by day of test:\n\n{table(heads, rows)}"


_SHOWN = (
    "keep-all",
    STATIC_REPAIRED,
    "frontier-margin",
    "frontier-recent",
    "frontier-hysteresis",
    "forecast",
    "forecast-plain",
    "hindsight",
    "forecast-hindsight",
    *questions.RL,
    "best-plan",
)


def answers(folder: Path) -> str:
    """What days answer to the questions of the field; nothing where none was benched."""
    rows = [
        [
            each["asked"],
            f"`{plain(entry['scenario'])}`",
            each["verdict"] or "not asked",
            each["number"],
        ]
        for entry in _studied(folder)
        for each in entry["questions"]
    ]
    if not rows:
        return ""
    return "The same questions over days of synthetic traffic, whose pieces are hours:\n\n" + table(
        ("question", "scenario", "verdict", "number"), rows, left=4
    )


def sentence(folder: Path) -> str:
    """What days say, for a page that says more; nothing where none was benched."""
    groups = published(folder)
    if not groups:
        return ""
    lookup, unpruned, trimmed, bound = (
        _range([entry.cost for group in groups for entry in group if entry.policy == name])
        for name in (LOOKUP, ADMISSION, STATIC_REPAIRED, BOUND)
    )
    counted = f"{len(groups)} scenarios, " if len(groups) > 1 else ""
    said = [
        f"**Over days** (synthetic, {counted}four days of test): the lookup costs {lookup} nats, not pruning "
        f"{unpruned}, the best set, trimmed, {trimmed}, the bound {bound}",
        *filter(None, [_champions(groups)]),
    ]
    return f"{'. '.join(said)}. Intervals are by hours of these days."


def _range(costs: Sequence[float]) -> str:
    ends = dict.fromkeys(f"{cost:.4f}" for cost in (min(costs), max(costs)))
    return " to ".join(ends)


def _champions(groups: Sequence[Group]) -> str:
    """On how many scenarios champions stand how beside the lookup, and by how much where they are told from it."""
    found: dict[str, list[str]] = {}
    for group in groups:
        champion = roles.champion_of("all")(group)
        if champion is not None and champion.verdict:
            less = champion.cost - next(each.cost for each in group if each.policy == LOOKUP)
            ends = bench_report.interval_of(champion.champion_low, champion.champion_high)
            found.setdefault(champion.verdict, []).append(f"{less:+.4f} {ends}")
    clauses = []
    for verdict in filter(found.__contains__, DOES):
        told = f" ({'; '.join(found[verdict])})" if verdict in ("better", "worse") else ""
        clauses.append(f"{DOES[verdict]} on {len(found[verdict])}{told}")
    return f"The champion {listed(clauses)}" if clauses else ""
