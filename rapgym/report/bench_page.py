"""The report of a bench: the answer first, then what it rests on, and how to make it again."""

from collections.abc import Callable, Sequence
from pathlib import Path

from rapgym.bench import results
from rapgym.bench.records import Score
from rapgym.bench.results import Cell, Results
from rapgym.errors import InvalidResult, InvalidSpec, RapgymError
from rapgym.files import checked
from rapgym.model import blocks
from rapgym.report import answer, drawing, figures, findings, roles
from rapgym.report import bench as bench_report
from rapgym.report import film as report_film
from rapgym.report import learning as learning_findings
from rapgym.report.film import Film
from rapgym.report.page import Choice, Page, Picture, Section, Step, Table
from rapgym.report.provenance import provenance_section

Group = Sequence[Score]


def page(
    found: Results, path: Path, scenario: str | None = None, policy: str | None = None
) -> Page:
    """The report of a results file.

    Args:
        path: where it lies, for the commands on the page.
        scenario: id or name of the one that the film and the sections on quality show; that of
            `most_at_stake` unless stated.
        policy: whom the film shows; the scenario's champion unless stated.

    Raises:
        InvalidSpec: the file has no scores, or not this scenario or policy.
        InvalidResult: its scores contradict each other.
        MissingExtra: plotly is not installed.
    """
    drawing.graph_objects()
    if not found.scores:
        raise InvalidSpec(f"{path} holds no scores: it was not finished; run its bench again")
    try:
        return _page(found, path, scenario, policy)
    except RapgymError:
        raise
    except (LookupError, ValueError, TypeError, ArithmeticError) as error:
        raise InvalidResult(
            f"{path}: its scores contradict each other ({error!r}): check it with: rapgym verify {path}"
        ) from error


def _page(found: Results, path: Path, scenario: str | None, policy: str | None) -> Page:
    groups = bench_report.by_scenario(found.scores)
    shown = _asked(groups, scenario) if scenario else most_at_stake(found.scores)
    hero = policy or _hero(groups[shown])
    sections = [
        Section(
            "answer",
            "The answer",
            points=answer.sentences(found.scores),
            notes=[answer.note(found.scores), *_warnings(found.scores)],
        ),
        _costs(found.scores),
        _film(found, shown, hero),
        _gain(found.scores),
        _foresight(found.scores),
        _quality(found, shown, hero),
        _importance(shown),
        _decision_time(found.scores),
        _hypotheses(found.scores),
        Section(
            "found",
            "What was found",
            points=findings.overall(found.scores),
            tables=[_in_words(groups), *(_entries(name, group) for name, group in groups.items())],
        ),
        provenance_section(found, path, checked.sha256_of(path) if path.is_file() else None),
    ]
    count = len(groups)
    return Page(
        title="Is run-time pruning worth it?",
        subtitle=f"{path.name}: {count} scenario{'' if count == 1 else 's'}, "
        f"{len({e.policy for e in found.scores})} policies, rivals and bounds.",
        sections=sections,
    )


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


def _film(found: Results, scenario: str, policy: str) -> Section:
    title = "A card's hour, row by row"
    cell = _cell(found, scenario, policy)
    try:
        shown = report_film.filmed(
            results.frame([cell]), scenario, policy, seed=cell.about.seed, refuses_misfit=cell.about.refuses_misfit
        )  # fmt: skip
    except RapgymError as error:
        return Section(
            "film", title, notes=[f"There is no film of `{policy}` on `{scenario}`: {error}."]
        )
    rows = len(shown.reason)
    return Section(
        "film",
        title,
        paragraphs=[
            f"`{policy}` on `{scenario}`: the {rows} rows of {shown.window_s} s in which it paid most. From the top: "
            "memory in use by kind below the limit that the tenant leaves; which attention and which FFN blocks "
            "are kept (pale) or dropped (red), layer by layer; seconds in which nothing was served; each decision, "
            "coloured by the rule that made it."
        ],
        pictures=[
            Picture(
                "figure-film",
                report_film.drawn(shown),
                f"Film of {rows} decisions of {policy} on {scenario}: memory against the limit, kept blocks, "
                "lost seconds, reasons. The slider below reads each decision aloud as a sentence.",
                "Hover over a decision, or walk with the slider, for what `rapgym audit` says of it. Drag to zoom: "
                "all strips follow. Bytes and nats are as the policy knew them, by calibration text.",
                steps=_steps(shown),
            )
        ],
        tables=[_reasons(shown)],
    )


def _cell(found: Results, scenario: str, policy: str) -> Cell:
    cells = [c for c in found.of(scenario) if c.about.policy == policy]
    if not cells:
        raise InvalidSpec(f"the file has no policy {policy!r} on {scenario}")
    return cells[0]


def _steps(shown: Film) -> list[Step]:
    dropped = blocks.dropped_counts(shown.kept)
    found = []
    for i, (start, sentence) in enumerate(zip(shown.start_s.tolist(), shown.sentence, strict=True)):
        name = (
            f"row {i + 1} of {len(shown.reason)}, {start} s, {int(dropped[i].sum())} blocks dropped"
        )
        found.append(Step(name, start, f"Row {i + 1}, {start} s into the film: {sentence}"))
    return found


def _reasons(shown: Film) -> Table:
    rows = []
    for reason in dict.fromkeys(shown.reason):
        of = [i for i, own in enumerate(shown.reason) if own == reason]
        rows.append([reason, len(of), *(f"{s:.1f}" for s in shown.lost_s[of].sum(axis=0))])
    return Table(
        "What decided, and the seconds that were lost",
        ["decided by", "rows", "paused, s", "lost in emergencies, s", "refused, s"],
        rows,
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


def _hypotheses(entries: Sequence[Score]) -> Section:
    rows = [
        row for group in bench_report.by_scenario(entries).values() for row in hypotheses(group)
    ]
    return Section(
        "hypotheses",
        "Hypotheses and verdicts",
        paragraphs=[
            "What was asked of every scenario, and what its rows allow to say. A verdict of a champion is of the "
            "choice on validation, corrected for the scenarios of the same traffic (Holm); the others are 95 % "
            "intervals, not corrected."
        ],
        tables=[
            Table(
                "The verdicts",
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
                open=True,
            )
        ],
    )


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
