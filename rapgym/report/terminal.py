"""A bench on a terminal: the columns that decide in 100 of a terminal's, all of them where asked for."""

import os
import sys
import textwrap
from collections.abc import Sequence
from typing import TextIO

from rapgym.bench.records import Score
from rapgym.files.shown import shown
from rapgym.report import answer
from rapgym.report import bench as bench_report

WIDTH = 100
LONGEST_NAME = (
    34  # of a policy with its marks; a longer one is cut, and --wide or --json show it whole
)
DECIDE = ("policy", "cost", "refused", "gain", "from lookup [95 %]", "verdict")
LEGEND = """\
cost: nats an output token, refusals in it; gain: 0 is not pruning, 100 the bound; -: not defined
from lookup: cost less the lookup's, below 0 is better; =: ties with the best; !: partly unreadable
+: champion of its kind on train, ++: of all that do not learn; --wide: all columns and their words"""
COLOURS = {"better": "32", "worse": "31"}  # of a verdict: green, red
BOLD = "1"


def is_coloured(stream: TextIO | None = None) -> bool:
    """Whether colours are wanted: of a terminal that has them, whose user has not set NO_COLOR."""
    own = sys.stdout if stream is None else stream
    return own.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def table(
    entries: Sequence[Score], *, wide: bool = False, top: int | None = None, colour: bool = False
) -> str:
    """Entries scenario by scenario, then what the columns mean.

    Args:
        wide: every column, however long the lines.
        top: so many entries of each scenario at most.
        colour: the escape codes of a terminal for champions and verdicts.
    """
    parts = []
    for name, group in bench_report.by_scenario(entries).items():
        some = sorted(group, key=lambda entry: entry.cost)[:top]
        text = [
            shown(bench_report.title(name, group)),
            *_lines(bench_report.in_order(some), wide=wide, colour=colour),
        ]
        if len(some) < len(group):
            text.append(f"  ... and {len(group) - len(some)} more, each of which costs more")
        parts.append("\n".join(text))
    return "\n\n".join([*parts, bench_report.LEGEND if wide else LEGEND])


def _lines(entries: Sequence[Score], *, wide: bool, colour: bool) -> list[str]:
    head = [*bench_report.COLUMNS, *bench_report.MORE] if wide else [*DECIDE]
    rows = [[shown(cell) for cell in _cells(entry, wide=wide)] for entry in entries]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [_line(head, widths)]
    for entry, row in zip(entries, rows, strict=True):
        codes = [""] * len(row)
        if colour and "all" in entry.champion:
            codes[0] = BOLD
        if colour and entry.verdict in COLOURS:
            codes[head.index("verdict")] = COLOURS[entry.verdict]
        lines.append(_line(row, widths, codes))
    return lines


def _cells(entry: Score, *, wide: bool) -> list[str]:
    every = dict(zip(bench_report.COLUMNS, bench_report.cells(entry), strict=True))
    more = dict(zip(bench_report.MORE, bench_report.more_cells(entry), strict=True))
    if wide:
        return [*every.values(), *more.values()]
    marks = every["policy"][len(entry.policy) :]
    return [_cut(entry.policy, LONGEST_NAME - len(marks)) + marks, *((every | more)[name] for name in DECIDE[1:])]  # fmt: skip


def _cut(name: str, longest: int) -> str:
    """The end of a name tells module:Class apart: what is too long loses its middle."""
    whole = shown(name)
    if len(whole) <= longest:
        return whole
    first = (longest - 1) // 2
    return f"{whole[:first]}…{whole[first + 1 - longest :]}"


def _line(cells: Sequence[str], widths: Sequence[int], codes: Sequence[str] = ()) -> str:
    padded = [c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]  # fmt: skip
    if any(codes):
        padded = [f"\x1b[{code}m{c}\x1b[0m" if code else c for c, code in zip(padded, codes, strict=True)]  # fmt: skip
    return ("  " + "  ".join(padded)).rstrip()


def sentences(entries: Sequence[Score]) -> str:
    """The bench's answer: three sentences and what they rest on, in lines of `WIDTH`."""
    told = [*answer.sentences(entries), answer.note(entries)]
    return "\n".join(wrapped(shown(each.replace("**", "").replace("`", ""))) for each in told)


def wrapped(text: str) -> str:
    """One paragraph in lines of `WIDTH`."""
    return textwrap.fill(text, WIDTH, break_on_hyphens=False)
