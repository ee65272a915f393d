"""Scores as text: the table of `rapgym bench`, Markdown for the pages, and what was found in words."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from rapgym.bench.records import Score

COLUMNS = (
    "policy", "kind", "adaptivity", "foresight [95 %]", "Holm p", "cost", "quality", "stall", "emerg.",
    "refused", "us p50/p99", "passes", "pays after", "unmeas.",
)  # fmt: skip
LEFT = 2  # columns that are set flush left


def _cells(entry: Score) -> list[str]:
    us = "-"
    if entry.decision_us_p50 is not None and entry.decision_us_p99 is not None:
        us = f"{entry.decision_us_p50:.0f}/{entry.decision_us_p99:.0f}"
    passes, p = entry.calibration_passes, entry.p_holm
    return [
        " ".join([entry.policy, *_marks(entry)]),
        entry.kind,
        _score(entry.adaptivity),
        _interval(entry.foresight, entry.low, entry.high),
        "-" if p is None else f"{shown_p(p)} of {entry.holm_tests}",
        f"{entry.cost:.4f}",
        *(f"{term:.4f}" for term in (entry.quality, entry.stall, entry.emergency, entry.refused)),
        us,
        "-" if passes is None else f"{passes:.0f}",
        shown_tokens(entry.break_even_tokens),
        f"{entry.unmeasured:.0%}",
    ]


def _marks(entry: Score) -> list[str]:
    champion = "++" if "all" in entry.champion else "+" if entry.champion else ""
    answer = "!" if entry.fallback else "=" if entry.tied_for_best else ""
    return [mark for mark in (champion, answer) if mark]


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _interval(value: float | None, low: float | None, high: float | None) -> str:
    if value is None or low is None or high is None:
        return "-"
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def shown_p(value: float) -> str:
    """Three digits, two where it is large; more where it would seem to be at the limit of 0.05."""
    if 0.0495 <= value < 0.0505:
        return f"{value:.4f}"
    return f"{value:.2f}" if value >= 0.095 else f"{value:.3f}"


def shown_tokens(value: float | None) -> str:
    """A number of tokens, to three digits: 4.13M."""
    if value is None:
        return "-"
    rounded = float(f"{value:.3g}")
    for unit, name in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if rounded >= unit:
            return f"{rounded / unit:.3g}{name}"
    return f"{rounded:.3g}"


def by_scenario(entries: Sequence[Score]) -> dict[str, list[Score]]:
    """Entries of each scenario, in order."""
    grouped: dict[str, list[Score]] = {}
    for entry in entries:
        grouped.setdefault(entry.scenario, []).append(entry)
    return grouped


def plain(scenario: str) -> str:
    """A scenario's name without its version."""
    return scenario.rpartition("-v")[0] or scenario


def above(end: float | None) -> bool:
    """Whether the end of an interval is known, and above 0."""
    return end is not None and end > 0


def below(end: float | None) -> bool:
    return end is not None and end < 0


MOST_NAMES = 2  # of scenarios in a sentence


def some(names: Sequence[str], whole: int | None = None, most: int = MOST_NAMES) -> str:
    """How many these are, and which where they are few: "2 of 11 scenarios (`one`, `two`)"."""
    text = f"{len(names)}" if whole is None else f"{len(names)} of {whole} scenarios"
    return text + (
        f" ({', '.join(f'`{name}`' for name in names)})" if 0 < len(names) <= most else ""
    )


def counted(said: Mapping[str, Sequence[str]]) -> str:
    """Where each of `said` holds: "ties on 9 of 11 scenarios and wins on 2 (`one`, `two`)".

    It names no more than `MOST_NAMES` of them.

    Args:
        said: names of the scenarios, by what holds on them.
    """
    held = {what: names for what, names in said.items() if names}
    whole, most, parts = sum(map(len, held.values())), MOST_NAMES, list[str]()
    for what, names in held.items():
        parts.append(f"{what} on {some(names, None if parts else whole, most)}")
        most -= len(names) if len(names) <= most else 0
    *first, last = parts or [""]
    return f"{', '.join(first)} and {last}" if first else last


def _title(name: str, group: Sequence[Score]) -> str:
    return name if group[0].headline else f"{name} (outside the headline)"


def table(entries: Sequence[Score]) -> str:
    """The table of one bench, for a terminal."""
    parts = []
    for name, group in by_scenario(entries).items():
        rows = [list(COLUMNS), *(_cells(entry) for entry in group)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
        text = [_title(name, group)]
        for row in rows:
            aligned = (
                cell.ljust(w) if i < LEFT else cell.rjust(w)
                for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            text.append("  " + "  ".join(aligned).rstrip())
        parts.append("\n".join(text))
    return "\n\n".join(parts) + "\n\n" + LEGEND


LEGEND = """\
adaptivity: 0 is the best static set, 100 the bound; foresight: 0 is the frontier lookup, 100 the bound.
Costs are nats an output token above the dense model in the scenario's own format, on test text.
'+': champion of its kind by cost on the validation part of train, '++': of all that do not learn;
Holm p: of no difference from the lookup, corrected for champions over as many scenarios of the headline
as stand behind "of";
'=': ties with the lowest cost on test (95 %, the quality table's error included);
'!': could not be read in some rows, which the reference policy served.
us: microseconds of one decision; passes: forward passes that calibration took; pays after: served
output tokens until what is saved against random drop (which knows from calibration what may go) has
paid for the calibration text, each token of it at C nats; unmeas.: rows whose quality was predicted.
Rivals have no place on the two scales."""


def warnings(entries: Sequence[Score]) -> str:
    """What a reader must know before the numbers: policies that did not answer."""
    return "\n".join(
        f"warning: {entry.policy} on {entry.scenario}: {entry.fallback:.0%} of its rows were "
        f"served by the reference policy, for its answer could not be read"
        + (f" ({entry.fault})" if entry.fault else "")
        for entry in entries
        if entry.fallback
    )


def ranking_lines(rankings: Sequence[dict[str, Any]]) -> str:
    """The order of policies at each value of C."""
    lines = ["ranking by cost at other values of C (nats):"]
    lines += [
        f"  {each['scenario']}  C={each['ceiling']:g}: {', '.join(each['ranking'])}"
        for each in rankings
    ]
    return "\n".join(lines)


def _escaped(text: str) -> str:
    """Text of a file's in a cell of a Markdown table: neither markup nor the end of the cell."""
    return html.escape(text, quote=False).replace("|", "&#124;").replace("`", "&#96;")


def markdown(entries: Sequence[Score]) -> str:
    """The same table in Markdown."""
    parts = []
    for name, group in by_scenario(entries).items():
        parts.append(f"**{_escaped(_title(name, group))}**\n")
        parts.append("| " + " | ".join(COLUMNS) + " |")
        parts.append("|" + " --- |" * LEFT + " ---: |" * (len(COLUMNS) - LEFT))
        parts += ["| " + " | ".join(map(_escaped, _cells(entry))) + " |" for entry in group]
        parts.append("")
    return "\n".join(parts)
