"""Fill leaderboard/README.md from verified entries and the published results: `make leaderboard`.

Every entry's rows are replayed first, and of one its policy decides again: see `fully`. With --check
nothing is written, and the exit code says whether all hold and the page is what it would become.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rapgym.bench import results
from rapgym.bench.cells import ADMISSION, BEST_PLAN, BOUND
from rapgym.bench.records import Score
from rapgym.bench.results import Results
from rapgym.errors import RapgymError
from rapgym.files import places
from rapgym.files.shown import shown
from rapgym.policies import registry
from rapgym.report.bench import plain
from rapgym.report.markdown import table
from rapgym.scenarios import catalogue
from rapgym.scenarios.story import Scenario
from rapgym.submissions import check, submission
from rapgym.submissions.header import Stand
from rapgym.submissions.submission import Submission

ENTRIES = places.LEADERBOARD / "entries"
PAGE = places.LEADERBOARD / "README.md"
RESULTS = places.RESULTS / "bench.csv.xz"

INTRODUCTION = """\
# Leaderboard

Policies on the test splits of rapgym's scenarios. Every entry was run again from what it sent: its rows
replay, its scores follow from them, its policy decides the same in a process that cannot read test data.
[docs/submit.md](../docs/submit.md) has the rules and says how to send one. Names of rapgym's own methods
link to nothing: [docs/policies.md](../docs/policies.md) has them, and they are shown from the
[published results](../baselines/results/RESULTS.md).

A cell is the cost, nats an output token above the full bf16 model (lower is better), and the verdict
beside the frontier lookup: better, worse, equal or undecided. An entry's verdict is of that entry alone;
that of a champion among rapgym's own is corrected for its choice. Two rows of one verdict are not ranked
by their costs: the order is only that of reading, those on every scenario of the group first, by their
mean cost. What knows the future, or does not prune, stands in italics. "-" is not run, or not stated; "!"
marks rows that the reference policy served, for an answer could not be read. "table + n" passes are those
of the quality table, which every policy is told of, and n more. Verdicts on scenarios of an hour speak of
these rows alone: [docs/limits.md](../docs/limits.md)."""


@dataclass(frozen=True, slots=True)
class Row:
    """One policy on one group of scenarios."""

    name: str  # as Markdown
    stands: dict[str, Stand]  # by scenario id
    training: str
    calibration: str
    faltered: frozenset[str] = frozenset()  # scenario ids where answers could not be read

    def order(self, stories: Sequence[Scenario]) -> tuple[bool, float, str]:
        """Where it stands: rows on all scenarios by mean cost, then the others by name."""
        costs = [self.stands[each.id].cost for each in stories if each.id in self.stands]
        whole = len(costs) == len(stories)
        return not whole, sum(costs) / len(costs) if whole else 0.0, self.name


def entries() -> list[tuple[Path, Submission]]:
    """Every entry, by name; raises InvalidResult where one cannot be read or lies under another name."""
    found = [(path, submission.read(path)) for path in sorted(ENTRIES.iterdir())]
    for path, sent in found:
        if path.name != sent.name:
            raise RapgymError(
                f"leaderboard/entries/{path.name} is the entry {sent.name}: rename it"
            )
    return found


def fully(found: Sequence[tuple[Path, Submission]]) -> str:
    """The entry whose policy decides again: the one with the fewest rows, so that CI stays short."""
    sizes = {sent.name: sum(c.log.row.size for c in sent.rows.cells) for _, sent in found}
    return min(sizes, key=lambda name: (sizes[name], name), default="")


def faults(found: Sequence[tuple[Path, Submission]], again: str) -> list[str]:
    """What does not hold in any entry, a sentence each.

    Args:
        again: name of the entry whose policy decides again.
    """
    said = []
    for _, sent in found:
        try:
            # What holds pickles is run by hand, by somebody who trusts its authors.
            differing = check.differences(sent, again=sent.name == again)
        except RapgymError as error:
            differing = [str(error)]
        said += [f"{sent.name}: {each}" for each in differing]
    return said


def page(sent: Sequence[Submission], published: Results) -> str:
    """The whole page."""
    groups = dict.fromkeys(story.group for story in catalogue.shipped())
    parts = [INTRODUCTION]
    for group in groups:
        stories = [story for story in catalogue.shipped() if story.group == group]
        rows = [*map(_row_of_entry, sent), *_own(published.scores)]
        shown_rows = [row for row in rows if any(each.id in row.stands for each in stories)]
        if not shown_rows:
            continue
        # A scenario that nobody ran would be a column of dashes.
        ran = [story for story in stories if any(story.id in row.stands for row in shown_rows)]
        parts += [f"## {group}", _table(shown_rows, ran)]
    parts += ["## Entries", _provenance(sent)]
    return "\n\n".join(parts) + "\n"


def _table(rows: Sequence[Row], stories: Sequence[Scenario]) -> str:
    heads = ("policy", *(f"`{plain(story.id)}`" for story in stories), "training, h",
             "calibration, passes")  # fmt: skip
    listed = sorted(rows, key=lambda row: row.order(stories))
    lines = [
        [row.name, *(_cell(row, story.id) for story in stories), row.training, row.calibration]
        for row in listed
    ]  # fmt: skip
    return table(heads, lines)


def _cell(row: Row, scenario: str) -> str:
    stand = row.stands.get(scenario)
    if stand is None:
        return "-"
    words = (f"{stand.cost:.4f}", stand.verdict or "", "!" if scenario in row.faltered else "")
    return " ".join(filter(None, words))


def _row_of_entry(sent: Submission) -> Row:
    stated = sent.header.stated
    return Row(
        f"[**{sent.name}**](entries/{sent.name})",
        {stand.scenario: stand for stand in sent.header.scores},
        f"{stated.training_hours:g}",
        _calibration(sent, stated.calibration_passes),
        frozenset(cell.about.scenario for cell in sent.rows.cells if cell.about.fallback),
    )


def _calibration(sent: Submission, more: float) -> str:
    """Passes of the tables' designs where they are known, and what its authors add."""
    known = [cell.about.calibration_passes for cell in sent.rows.cells]
    tables = [each for each in known if each is not None]
    return f"{max(tables) + more:.0f}" if tables else f"table + {more:.0f}"


def _own(scores: Sequence[Score]) -> list[Row]:
    """The rows of rapgym's own: what decides, and the ends of the scale."""
    ends = (BOUND, BEST_PLAN, ADMISSION)
    names = [each.name for each in registry.POLICIES]
    rows = []
    for name in (*names, *ends):
        own = [score for score in scores if score.policy == name]
        if not own:
            continue
        passes = [each.calibration_passes for each in own if each.calibration_passes is not None]
        learned = own[0].kind == "learned"
        rows.append(
            Row(
                f"*{name}*" if name in ends else name,
                {score.scenario: Stand.of(score) for score in own},
                f"[card](../baselines/cards/{name}.md)" if learned and _has_card(name) else "-",
                f"{max(passes):.0f}" if passes else "-",
                frozenset(score.scenario for score in own if score.fallback),
            )
        )
    return rows


def _has_card(name: str) -> bool:
    return (places.BASELINES / "cards" / f"{name}.md").is_file()


def _provenance(sent: Sequence[Submission]) -> str:
    """Whose each entry is, and with what its rows were made."""
    rows = []
    for each in sent:
        stated, made = each.header.stated, each.rows.header
        rows.append(
            [
                f"[{each.name}](entries/{each.name})",
                shown(", ".join(stated.authors)),
                f"[page]({stated.link})",
                stated.licence,
                _plain(made.get("date"), 10),
                f"{_plain(made.get('rapgym'), 12)}, code {_plain(made.get('code_sha256'), 8)}",
                str(len({cell.about.seed for cell in each.rows.cells})),
                stated.machine or "-",
                stated.note or "-",
            ]
        )
    heads = ("entry", "authors", "link", "licence", "date", "rapgym", "seeds", "trained on", "note")
    return table(heads, rows, left=len(heads))


def _plain(value: object, most: int) -> str:
    """A text of a stranger's header, without what is more than text on a page."""
    text = str(value)[:most]
    return text if all(c.isalnum() or c in ".-:" for c in text) else "?"


def main() -> int:
    try:
        found = entries()
        again = fully(found)
        wrong = faults(found, again)
        made = page([sent for _, sent in found], results.read(RESULTS))
    except RapgymError as error:
        print(f"rapgym: {shown(error)}", file=sys.stderr)
        return 1
    for each in wrong:
        print(shown(each), file=sys.stderr)
    if wrong:
        return 1
    print(f"{len(found)} entries hold; {again or 'none'} decided again")
    stale = not PAGE.is_file() or PAGE.read_text("utf-8") != made
    if "--check" in sys.argv[1:]:
        if stale:
            print(
                "leaderboard/README.md is not what its entries give; run: make leaderboard",
                file=sys.stderr,
            )
        return int(stale)
    PAGE.write_text(made, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
