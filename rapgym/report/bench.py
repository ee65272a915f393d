"""Scores as cells and Markdown: what terminal, pages and reports show of them, and how it is said."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from rapgym.bench.pieces import LEAST_PIECES
from rapgym.bench.records import Score
from rapgym.bench.verdicts import CONDITIONAL, EQUAL_POINTS, EQUAL_SHARE, LEAST_ROOM

# Columns of every table, and those that stand beside them; `terminal` says which a terminal shows.
COLUMNS = ("policy", "cost", "quality", "stall", "emerg.", "refused", "gain", "foresight", "verdict",
           "least effect")  # fmt: skip
MORE = ("kind", "gain [95 %]", "from lookup [95 %]", "Holm p", "us p50/p99", "passes", "pays after",
        "unmeas.")  # fmt: skip


def cells(entry: Score) -> list[str]:
    """The cells of `COLUMNS`."""
    terms = (entry.cost, entry.quality, entry.stall, entry.emergency, entry.refused)
    return [
        " ".join([entry.policy, *_marks(entry)]),
        *(f"{term:.4f}" for term in terms),
        _score(entry.gain),
        _score(entry.foresight),
        entry.verdict or "-",
        "-" if entry.least_effect is None else f"{entry.least_effect:.4f}",
    ]


def more_cells(entry: Score) -> list[str]:
    """The cells of `MORE`."""
    us = "-"
    if entry.decision_us_p50 is not None and entry.decision_us_p99 is not None:
        us = f"{entry.decision_us_p50:.0f}/{entry.decision_us_p99:.0f}"
    passes, p = entry.calibration_passes, entry.p_holm
    return [
        entry.kind,
        interval(entry.gain, entry.gain_low, entry.gain_high),
        interval_of(entry.low, entry.high),
        "-" if p is None else f"{shown_p(p)} of {entry.holm_tests}",
        us,
        "-" if passes is None else f"{passes:.0f}",
        shown_tokens(entry.break_even_tokens),
        f"{entry.unmeasured:.0%}",
    ]


def _marks(entry: Score) -> list[str]:
    champion = "++" if "all" in entry.champion else "+" if entry.champion else ""
    answer = "!" if entry.fallback else "=" if entry.tied_for_best else ""
    apart = {"none": "(in-process)", "open": "(files open)"}.get(entry.isolation or "", "")
    return [mark for mark in (champion, answer, apart) if mark]


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def interval(value: float | None, low: float | None, high: float | None) -> str:
    """Points with their interval: "12.5 [3.0, 20.0]"."""
    if value is None or low is None or high is None:
        return "-"
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def interval_of(low: float | None, high: float | None, sign: str = "+") -> str:
    """The interval of a difference of costs, nats: "[-0.0120, +0.0030]"; of a cost without a sign."""
    return "-" if low is None or high is None else f"[{low:{sign}.4f}, {high:{sign}.4f}]"


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
    return listed(parts)


def listed(parts: Sequence[str]) -> str:
    """Words as a sentence lists them: "one, two and three"; empty where there are none."""
    *first, last = parts or [""]
    return f"{', '.join(first)} and {last}" if first else last


def title(name: str, group: Sequence[Score]) -> str:
    """A scenario's name, what its intervals rest on, and whether they speak of these rows alone."""
    said = [] if group[0].headline else ["outside the headline"]
    return f"{name} ({'; '.join([*said, rests_on(group[0])])})"


def rests_on(entry: Score) -> str:
    """What an entry's intervals rest on: "8 bursts: conditional on these rows"."""
    count = f"{entry.pieces} {entry.unit}{'s' if entry.pieces != 1 else ''}"
    return f"{count}: {CONDITIONAL}" if entry.conditional else count


def beyond(groups: Sequence[Sequence[Score]], what: str = "this") -> str:
    """What is added to a sentence over scenarios some of which speak of their rows alone; or nothing."""
    count = sum(group[0].conditional for group in groups)
    if not count:
        return ""
    return f" On {count} of {len(groups)} scenarios {what} is {CONDITIONAL}."


def in_order(group: Sequence[Score]) -> list[Score]:
    """A scenario's entries by cost; where its weights have 16 bits, the rivals of 8 bits first.

    Those are what one would deploy before anything is pruned.
    """
    first = [e for e in group if group[0].bits == 16 and is_of_8_bits(e)]
    return [*first, *(e for e in group if e not in first)]


def is_of_8_bits(entry: Score) -> bool:
    """Whether it is a rival with 8 bits and none of 4."""
    return entry.is_rival and "int8" in entry.policy and "int4" not in entry.policy


LEGEND = f"""\
Costs: nats an output token above the full model, on test text; terms add up to the cost.
gain: 0 is not pruning (the full model, newest requests refused first), 100 the bound.
foresight: 0 is the frontier lookup, 100 the bound; "-" where less than {LEAST_ROOM} nats lie between.
verdict: beside the lookup; "equal" is within {EQUAL_POINTS:g} points of foresight or {EQUAL_SHARE:.0%} of its cost.
least effect: nats from the lookup that these rows could have shown with 80 % power.
"{CONDITIONAL}": intervals of these pieces need not hold for another hour or day; of fewer
than {LEAST_PIECES} pieces nothing is claimed.
'+': champion of its kind by cost on train, cross-validated, '++': of all that do not learn: their
verdict is of the choice, corrected for the scenarios of the same traffic (Holm).
'=': not told from the lowest cost on test (95 %, the quality table's error included).
'!': could not be read in some rows, which the reference policy served.
'(in-process)': a user's code that ran where its rows were played, by --in-process: nothing vouches for
it, and it is no champion. '(files open)': in a process of its own that this system lets read all files.
Rivals have a cost and no place on the two scales."""


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
    """The same table in Markdown, with more columns."""
    parts, columns = [], (*COLUMNS, *MORE)
    for name, group in by_scenario(entries).items():
        parts.append(f"**{_escaped(title(name, group))}**\n")
        parts.append("| " + " | ".join(columns) + " |")
        parts.append("| ---" + " | ---:" * (len(columns) - 1) + " |")
        rows = ((*cells(entry), *more_cells(entry)) for entry in in_order(group))
        parts += ["| " + " | ".join(map(_escaped, row)) + " |" for row in rows]
        parts.append("")
    return "\n".join(parts)
