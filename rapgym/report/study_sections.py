"""Sections of a bench's report that rest on studies beside it: harm, sensitivity, the machine, serving."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rapgym.errors import RapgymError
from rapgym.quality import harm
from rapgym.quality.table import QualityTable
from rapgym.report import bench as bench_report
from rapgym.report import beside, drawing, questions, study_figures
from rapgym.report import fidelity as fidelity_report
from rapgym.report import sensitivity as sensitivity_report
from rapgym.report.page import Choice, Picture, Section, Table
from rapgym.report.serving import LATENCY_HEADS, bounds, by_cost, latency_cells
from rapgym.scenarios import catalogue, tables

NUMBERS = "the table below holds every number."


def harm_section(folder: Path, scenario: str) -> Section:
    """What dropping blocks does to each kind of text, by the table of a scenario, and to a choice of four.

    Sets are judged here, from the table; the choice was made by quality.json's model, where that lies
    beside the results and is of the same table.
    """
    anchor, title = "harm", "Harm by kind of input"
    try:
        table = tables.base_table(catalogue.scenario(scenario))
        judged = text_of(table)
    except RapgymError as error:
        return Section(anchor, title, notes=[f"It cannot be drawn for `{scenario}`: {error}."])

    def made(found: Any) -> Section:
        return _harm(table, with_choice(judged, found, table.sha256), found)

    return beside.section(folder, "quality.json", anchor, title, made) or _harm(table, judged, None)


def text_of(table: QualityTable) -> list[dict[str, Any]]:
    """Entries of the sets and formats that a table has measured on its largest test sample.

    Raises:
        UnmeasuredSet: it has none of them.
    """
    found, missing = [], None
    for main in harm.main_sets(table):
        try:
            found.append({"name": main.name, "key": main.key} | harm.text_quality(table, main))
        except RapgymError as error:
            missing = error
    if not found and missing:
        raise missing
    return found


def with_choice(
    judged: Sequence[dict[str, Any]], found: Mapping[str, Any], sha256: str
) -> list[dict[str, Any]]:
    """The same entries with the fields of the choice of four, where it was made with this table."""
    if found["table"]["sha256"] != sha256:
        return [*judged]
    chose = {each["name"]: each for each in found["sets"]}
    fields = ("accuracy", "accuracy_se", "accuracy_difference", "accuracy_difference_se")
    return [
        each | {name: float(chose[each["name"]][name]) for name in fields}
        if each["name"] in chose
        else each
        for each in judged
    ]


def _harm(table: QualityTable, sets: Sequence[dict[str, Any]], found: Any) -> Section:
    chosen = any("accuracy" in each for each in sets)
    rows = []
    for each in sets:
        row = [
            each["name"],
            f"{each['nll']:.4f}",
            *(f"{nats:.4f}" for nats in each["nll_by_domain"].values()),
            each["worst_domain"],
            f"{each['nll_p95']:.4f}",
            f"{each['top1']:.1%}",
            f"{each['kl']:.4f}",
        ]
        if chosen:
            row += (
                [f"{each['accuracy']:.1%}", f"{100 * each['accuracy_difference']:+.1f} ± {100 * study_figures.Z_95 * each['accuracy_difference_se']:.1f}"]
                if "accuracy" in each
                else ["-", "-"]
            )  # fmt: skip
        rows.append(row)
    tokens = sum(table.header.sample(harm.SAMPLE).tokens)
    said = (
        f"Nats a token above the whole model for each kind of text, on {tokens:,} test tokens of `{table.name}`. "
        "A mean over texts hides what one kind of them loses: the worst is the mark that lies furthest right. The "
        "bar is what the worst twentieth of sequences loses at least."
    )
    if chosen:
        said += (
            f" Below: which of four continuations is the true one, {found['choice']['items']} questions, in points "
            "of accuracy beside the whole model with 95 % intervals."
        )
    domains = list(sets[0]["nll_by_domain"])
    head = ["set or format", "mean", *domains, "worst", "95th percentile of sequences", "same first token", "KL"]  # fmt: skip
    if chosen:
        head += ["right of four", "points beside the whole model"]
    pictures = [
        Picture(
            "figure-harm",
            study_figures.harm(sets),
            f"Nats of {len(sets)} sets of blocks and formats for each of {len(domains)} kinds of text, with the tail "
            f"over sequences; {NUMBERS}",
            "Left is better.",
        )
    ]
    if chosen:
        pictures.append(
            Picture(
                "figure-choice",
                study_figures.choice(sets),
                f"Points of accuracy that sets of blocks and formats lose in a choice of four; {NUMBERS}",
                "Right is better; chance is 25 % right.",
            )
        )
    return Section(
        "harm",
        "Harm by kind of input",
        paragraphs=[said],
        pictures=pictures,
        tables=[Table("The numbers", head, rows)],
    )


def sensitivity_section(folder: Path) -> Section | None:
    """Whether what was found holds where one number of a scenario is another; None without the study."""
    return beside.section(
        folder, "sensitivity.json", "sensitivity", "Where one number is another", _sensitivity
    )


def _sensitivity(found: Any) -> Section:
    groups = sensitivity_report.by_scenario(found)
    listed = []
    for name, group in groups.items():
        head, *rows = sensitivity_report.columns(group)
        listed.append(Table(name, head, rows))
    return Section(
        "sensitivity",
        "Where one number is another",
        paragraphs=[
            "One number of a scenario is changed at a time, and every policy tuned again: what looks ahead beside "
            "the lookup, left of 0 is better."
        ],
        points=sensitivity_report.sentences(found),
        pictures=[
            Picture(
                "figure-sensitivity",
                study_figures.sensitivity(found),
                f"Cost less the lookup's on {len(found['entries'])} variants of {len(groups)} scenarios, one scenario "
                f"at a time; {NUMBERS}",
                "Intervals of 95 % speak of these rows alone, and are without the table's own error.",
                choices=_choices(groups),
            )
        ],
        tables=[
            *listed,
            Table(
                "How to read this",
                ["line"],
                [[sensitivity_report.note(found).replace("\n", " ")]],
                stacked=True,
            ),
        ],
    )


def _choices(names: Sequence[str] | Mapping[str, Any]) -> list[Choice]:
    return [Choice(bench_report.plain(name), drawing.label(name)) for name in names]


def machine_section(folder: Path) -> Section | None:
    """The simulated serving engine beside recorded runs of a real one; None without the study."""
    return beside.section(folder, "fidelity.json", "machine", "Simulator against machine", _machine)


def _machine(runs: Any) -> Section:
    rows = [
        [
            run["run"],
            fidelity_report.name_of(name),
            f"{each['measured']:.4f}",
            f"{each['simulated']:.4f}",
            f"{each['error']:+.2%}",
        ]
        for run in runs
        for name, each in run["measures"].items()
    ]
    said = [
        f"`{name}`: **{each.verdict}** ({each.number})"
        for name, each in questions.recorded(runs)
        if each
    ]
    return Section(
        "machine",
        "Simulator against machine",
        paragraphs=[
            f"{questions.AGREE}: a profile that is fitted to the first half of a recorded run of a serving engine "
            "serves the same requests in the simulated one."
        ],
        points=said,
        pictures=[
            Picture(
                "figure-machine",
                study_figures.fidelity(runs),
                f"By how many per cent the simulated engine misses each measure of {len(runs)} recorded runs; {NUMBERS}",
                "0 is what the machine did.",
            )
        ],
        tables=[Table("The numbers", ["run", "measure", "measured", "simulated", "error"], rows)],
    )


def serving_section(folder: Path) -> Section | None:
    """What each rule costs where requests wait; None without the study."""
    return beside.section(folder, "serving.json", "serving", "Where requests wait", _serving)


def _serving(found: Any) -> Section:
    if not found["scenarios"]:
        raise ValueError("it holds no scenario")
    rows = []
    for entry in found["scenarios"]:
        for name, rule in by_cost(entry["rules"]):
            less = entry["against_lookup"].get(name)
            rows.append(
                [
                    name,
                    bench_report.plain(entry["scenario"]),
                    f"{rule['cost']:.4f}{bounds(rule)}",
                    "-" if less is None else f"{less['value']:+.4f}{bounds(less, '+')}",
                    f"{rule['nats']:.4f}",
                    f"{rule['undelivered']:.1%}",
                    f"{rule['goodput']:.1%}",
                    f"{rule['ttft_s']:.2f}",
                    f"{1000 * rule['tpot_s']:.0f}",
                    f"{rule['preemptions']:.3f}",
                ]
            )  # fmt: skip
    head = ["rule", "scenario", "cost [95 %], nats", "less the lookup's [95 %]", "nats of dropping", "never delivered",
            "in time", "first token, s", "a token, ms", "preemptions a request"]  # fmt: skip
    latency = [
        [name, bench_report.plain(entry["scenario"]), *cells]
        for entry in found["scenarios"]
        for name, rule in by_cost(entry["rules"])
        if (cells := latency_cells(rule)) is not None
    ]
    tables = [Table("The numbers", head, rows)]
    if latency:
        heads = ["rule", "scenario", *LATENCY_HEADS]
        tables += [Table("Latency by percentiles, and what became of requests", heads, latency)]
    return Section(
        "serving",
        "Where requests wait",
        paragraphs=[
            "RAP-Serve: a queue and continuous batching. What each rule costs on test, nats an output token, tuned on "
            "train. `rapgym report --serve SCENARIO` shows an hour of it, second by second."
        ],
        pictures=[
            Picture(
                "figure-serving",
                study_figures.serving_costs(found),
                f"Cost of each rule with its interval, one of {len(found['scenarios'])} scenarios at a time; {NUMBERS}",
                "Left is better. Intervals are of 95 %, by hours of test; none where it is a single part.",
                choices=_choices([entry["scenario"] for entry in found["scenarios"]]),
            )
        ],
        tables=tables,
    )
