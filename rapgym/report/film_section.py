"""The section of a bench's report that plays one hour of a card, row by row."""

from rapgym.bench import results
from rapgym.bench.results import Cell, Results
from rapgym.errors import InvalidSpec, RapgymError
from rapgym.model import blocks
from rapgym.report import film as report_film
from rapgym.report.film import Film
from rapgym.report.page import Picture, Section, Step, Table


def film_section(found: Results, scenario: str, policy: str) -> Section:
    """The dearest hour of a policy on a scenario, or why there is no film of it."""
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
