"""The report of a bench: the answer first, then what it rests on, and how to make it again."""

from collections.abc import Callable, Sequence
from pathlib import Path

from rapgym.bench import results
from rapgym.bench.cells import LOOKUP
from rapgym.bench.records import Score
from rapgym.bench.results import Results
from rapgym.errors import InvalidResult, InvalidSpec, RapgymError
from rapgym.files import checked
from rapgym.report import answer, beside, calibration, drawing, figures, findings, questions, roles
from rapgym.report import bench as bench_report
from rapgym.report.film_section import film_section
from rapgym.report.hypotheses import hypotheses_section
from rapgym.report.page import Choice, Page, Picture, Section, Table
from rapgym.report.provenance import provenance_section
from rapgym.report.questions import Asked
from rapgym.report.study_sections import (
    harm_section,
    machine_section,
    sensitivity_section,
    serving_section,
)
from rapgym.scenarios import catalogue

Group = Sequence[Score]


def page(
    found: Results,
    path: Path,
    scenario: str | None = None,
    policy: str | None = None,
    mapped: Section | None = None,
) -> Page:
    """The report of a results file.

    Args:
        path: where it lies, for the commands on the page; studies that lie beside it are shown too.
        scenario: id or name of the one that the film and the sections on quality show; that of
            `most_at_stake` unless stated.
        policy: whom the film shows; the scenario's champion unless stated.
        mapped: the section of a map, where one was made.

    Raises:
        InvalidSpec: the file has no scores, or not this scenario or policy.
        InvalidResult: its scores contradict each other.
        MissingExtra: plotly is not installed.
    """
    drawing.graph_objects()
    if not found.scores:
        raise InvalidSpec(f"{path} holds no scores: it was not finished; run its bench again")
    try:
        return _page(found, path, scenario, policy, mapped)
    except RapgymError:
        raise
    except (LookupError, ValueError, TypeError, ArithmeticError) as error:
        raise InvalidResult(
            f"{path}: its scores contradict each other ({error!r}): check it with: rapgym verify {path}"
        ) from error


def _page(
    found: Results, path: Path, scenario: str | None, policy: str | None, mapped: Section | None
) -> Page:
    groups = bench_report.by_scenario(found.scores)
    shown = _asked(groups, scenario) if scenario else most_at_stake(found.scores)
    hero = policy or _hero(groups[shown])
    folder = path.parent
    asked, notes = _asked_of(found, folder)
    sections = [
        Section(
            "answer",
            "The answer",
            points=answer.sentences(found.scores),
            notes=[answer.note(found.scores), *_warnings(found.scores)],
        ),
        _costs(found.scores),
        mapped,
        film_section(found, shown, hero),
        serving_section(folder),
        _gain(found.scores),
        _foresight(found.scores),
        _quality(found, shown, hero),
        _importance(shown),
        harm_section(folder, shown),
        calibration.section(found.scores, _days(found)),
        _decision_time(found.scores),
        sensitivity_section(folder),
        machine_section(folder),
        hypotheses_section(found.scores, asked, notes),
        Section(
            "found",
            "What was found",
            points=findings.overall(found.scores),
            tables=[_in_words(groups), *(_entries(name, group) for name, group in groups.items())],
        ),
        provenance_section(
            found,
            path,
            checked.sha256_of(path) if path.is_file() else None,
            beside.left_out(folder),
        ),
    ]
    count = len(groups)
    return Page(
        title="Is run-time pruning worth it?",
        subtitle=f"{path.name}: {count} scenario{'' if count == 1 else 's'}, "
        f"{len({e.policy for e in found.scores})} policies, rivals and bounds.",
        sections=[section for section in sections if section],
    )


def _asked_of(found: Results, folder: Path) -> tuple[list[Asked], list[str]]:
    """The questions of the field with their answers; or none, and why."""
    if not questions.asked_of(found.scores):
        return [], [
            "The questions of the field are asked of the headline and of days, and no scenario here is of them."
        ]
    try:
        runs, served = (beside.read(folder, name) for name in ("fidelity.json", "serving.json"))
        return questions.all_asked(found, runs, served), []
    except (RapgymError, LookupError, ValueError, TypeError, AttributeError) as error:
        return [], [f"The questions of the field cannot be asked of this file here: {error}."]


def _days(found: Results) -> dict[str, float]:
    """Output tokens of a day like the test rows of each scenario whose lookup was run."""
    days = {}
    for cell in found.cells:
        if cell.about.policy != LOOKUP:
            continue
        try:
            window_s = catalogue.scenario(cell.about.scenario).window_s
        except RapgymError:  # a file of the user's that is no longer here
            continue
        days[cell.about.scenario] = questions.output_tokens_a_day(cell.log.output_tokens, window_s)
    return days


def _asked(groups: dict[str, list[Score]], scenario: str) -> str:
    for name in groups:
        if scenario in (name, bench_report.plain(name)):
            return name
    raise InvalidSpec(f"the file has no scenario {scenario!r}; it has {', '.join(groups)}")


def most_at_stake(entries: Sequence[Score]) -> str:
    """The scenario, of those that the answer speaks of, whose champion (or cheapest policy) pays most."""

    def stake(group: Group) -> float:
        champion = roles.champion_of("all")(group)
        return champion.cost if champion else min(entry.cost for entry in group)

    return max(roles.spoken_of(entries), key=stake)[0].scenario


def _hero(group: Group) -> str:
    """Whom the film shows: the champion, or the cheapest that decides."""
    champion = roles.champion_of("all")(group)
    deciding = [e for e in group if e.kind not in ("rival", "bound")]
    if champion is None and deciding:
        return min(deciding, key=lambda e: e.cost).policy
    return champion.policy if champion else group[0].policy


def _warnings(entries: Sequence[Score]) -> list[str]:
    return bench_report.warnings(entries).splitlines()


def _costs(entries: Sequence[Score]) -> Section:
    groups = bench_report.by_scenario(entries)
    rows = []
    for name, group in groups.items():
        found = [role.of(group) for role in roles.ROLES]
        rows.append(
            [bench_report.plain(name), *(f"{e.cost:.4f} ({e.policy})" if e else "-" for e in found)]
        )
    return Section(
        "costs",
        "Cost by scenario",
        paragraphs=[
            "Nats an output token above the full 16-bit model with memory enough, on test text; 0.1 nats are "
            "about 10 % of perplexity. Left is better, on a logarithmic axis."
        ],
        pictures=[
            Picture(
                "figure-costs",
                figures.cost_by_scenario(entries),
                f"Cost of up to {len(roles.ROLES)} ways to serve, on {len(groups)} scenarios; the table below "
                "holds every number.",
                "An arrow at the left end is a cost below the axis; its hover text says which.",
            )
        ],
        tables=[Table("The numbers", ["scenario", *(role.name for role in roles.ROLES)], rows)],
    )


def _choices(entries: Sequence[Score], holds: Callable[[Score], bool]) -> list[Choice]:
    names = dict.fromkeys(entry.scenario for entry in entries if holds(entry))
    return [Choice(bench_report.plain(name), drawing.label(name)) for name in names]


def _gain(entries: Sequence[Score]) -> Section:
    choices = _choices(entries, lambda e: e.gain is not None)
    rows = [
        [
            e.policy,
            bench_report.plain(e.scenario),
            bench_report.interval(e.gain, e.gain_low, e.gain_high),
        ]
        for e in entries
        if e.gain is not None
    ]
    if not rows:
        return Section(
            "gain",
            "Gain by policy",
            notes=["The file defines no gain: it needs not pruning and the bound."],
        )
    return Section(
        "gain",
        "Gain by policy",
        paragraphs=[
            "What a policy wins of what can be won over not pruning; intervals are of 95 %."
        ],
        pictures=[
            Picture(
                "figure-gain",
                figures.gain(entries),
                "Points of gain of each policy with intervals, one scenario at a time; the table below holds "
                "every number.",
                "0 is the full model that refuses what does not fit, 100 the bound; an arrow lies beyond the axis.",
                choices=choices,
            )
        ],
        tables=[Table("The numbers", ["policy", "scenario", "gain [95 %]"], rows)],
    )


def _foresight(entries: Sequence[Score]) -> Section:
    held = [e for e in entries if e.low is not None and not e.is_rival]
    if not held:
        return Section(
            "foresight", "Foresight by policy", notes=["The file has no lookup to compare with."]
        )
    rows = [
        [
            e.policy,
            bench_report.plain(e.scenario),
            "-" if e.foresight is None else f"{e.foresight:.1f}",
            bench_report.interval_of(e.low, e.high),
            e.verdict or "-",
        ]
        for e in held
    ]
    return Section(
        "foresight",
        "Foresight by policy",
        paragraphs=[
            "What looking back or ahead adds to the frontier lookup, which does neither: cost less the lookup's, "
            "left of 0 is better. Points of foresight are the same on a scale on which 100 is the bound."
        ],
        pictures=[
            Picture(
                "figure-foresight",
                figures.foresight(entries),
                "Cost of each policy less the lookup's with intervals, one scenario at a time; the table below "
                "holds every number.",
                "Intervals of 95 % hold rows, training seeds and the quality table's error; an arrow lies beyond the axis.",
                choices=_choices(held, lambda e: True),
            )
        ],
        tables=[
            Table(
                "The numbers",
                ["policy", "scenario", "foresight, points", "from lookup [95 %], nats", "verdict"],
                rows,
            )
        ],
    )


def _quality(found: Results, scenario: str, policy: str) -> Section:
    title = "Nats against bytes freed"
    users = list(dict.fromkeys([policy, "frontier", "static-best"]))
    cells = [c for c in found.of(scenario) if c.about.policy in users and c.about.seed == 0]
    try:
        figure = figures.nats_against_bytes(results.frame(cells), scenario, *users)
    except RapgymError as error:
        return Section("quality", title, notes=[f"It cannot be drawn for `{scenario}`: {error}."])
    return Section(
        "quality",
        title,
        paragraphs=[
            f"Every measured set of blocks of `{scenario}` by what it frees and what it costs; marked are the sets that "
            f"{', '.join(f'`{user}`' for user in users)} served from, larger where they served more."
        ],
        pictures=[
            Picture(
                "figure-quality",
                figure,
                f"Nats a token of measured sets against GiB freed on {scenario}, by the search that found them, "
                "with formats of the whole model and the sets that policies used.",
                "Low and right is good. A triangle frees its bytes without dropping a block. Sets that cost more than "
                "refusing the request are beyond the axis.",
            )
        ],
    )


def _importance(scenario: str) -> Section:
    title = "Which blocks matter, for which text"
    try:
        figure = figures.importance(scenario)
    except RapgymError as error:
        return Section(
            "importance", title, notes=[f"It cannot be drawn for `{scenario}`: {error}."]
        )
    return Section(
        "importance",
        title,
        pictures=[
            Picture(
                "figure-importance",
                figure,
                "Nats that dropping each attention and FFN block adds, by layer and kind of text.",
                "Nats a token that the greedy order pays when it drops a block; darker is dearer, grey is never "
                "dropped. What is dark for one kind of text alone is what a mean over texts would hide.",
            )
        ],
    )


def _decision_time(entries: Sequence[Score]) -> Section:
    timed = [e for e in entries if e.decision_us_p50 and e.decision_us_p99]
    if not timed:
        return Section("time", "Decision time", notes=["Nothing in this file decides row by row."])
    rows = [
        [
            e.policy,
            bench_report.plain(e.scenario),
            f"{e.decision_us_p50:.1f}",
            f"{e.decision_us_p99:.1f}",
        ]
        for e in timed
    ]
    return Section(
        "time",
        "Decision time",
        paragraphs=[
            "What one decision takes on the machine that ran the bench; a row lasts seconds."
        ],
        pictures=[
            Picture(
                "figure-time",
                figures.decision_time(entries),
                "Microseconds a decision of each policy, median and 99th percentile; the table below holds every "
                "number.",
                "Microseconds, on a logarithmic axis.",
                choices=_choices(timed, lambda e: True),
            )
        ],
        tables=[
            Table("The numbers", ["policy", "scenario", "median, µs", "99th percentile, µs"], rows)
        ],
    )


def _in_words(groups: dict[str, list[Score]]) -> Table:
    rows = [
        [bench_report.plain(name), " ".join(findings.scenario_sentences(group)).replace("`", "")]
        for name, group in groups.items()
    ]
    return Table(
        "Scenario by scenario, in words", ["scenario", "what its rows say"], rows, stacked=True
    )


def _entries(name: str, group: Group) -> Table:
    head = [*bench_report.COLUMNS, *bench_report.MORE]
    rows = [
        [*bench_report.cells(e), *bench_report.more_cells(e)] for e in bench_report.in_order(group)
    ]
    return Table(bench_report.title(name, group), head, rows)
