"""Scores as text: the table of `rapgym bench`, and Markdown for the README."""

from collections.abc import Sequence
from typing import Any

COLUMNS = (
    ("policy", "policy"),
    ("kind", "kind"),
    ("adaptivity", "adaptivity"),
    ("foresight", "foresight [95 %]"),
    ("cost", "cost"),
    ("quality", "quality"),
    ("stall", "stall"),
    ("emergency", "emerg."),
    ("refused", "refused"),
    ("decision", "us p50/p99"),
    ("calibration_passes", "passes"),
    ("unmeasured", "unmeas."),
)


def _cells(entry: dict[str, Any]) -> list[str]:
    tie = " !" if entry["fallback"] else " =" if entry["tied_for_best"] else ""
    us = "-"
    if entry["decision_us_p50"] is not None:
        us = f"{entry['decision_us_p50']:.0f}/{entry['decision_us_p99']:.0f}"
    passes = entry["calibration_passes"]
    return [
        entry["policy"] + tie,
        entry["kind"],
        _score(entry["adaptivity"]),
        _interval(entry["foresight"], entry["low"], entry["high"]),
        f"{entry['cost']:.4f}",
        *(f"{entry[term]:.4f}" for term in ("quality", "stall", "emergency", "refused")),
        us,
        "-" if passes is None else f"{passes:.0f}",
        f"{entry['unmeasured']:.0%}",
    ]


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _interval(value: float | None, low: float | None, high: float | None) -> str:
    if value is None or low is None or high is None:
        return "-"
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def by_scenario(entries: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Entries of each scenario, in order."""
    grouped: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        grouped.setdefault(entry["scenario"], []).append(entry)
    return grouped


def table(entries: Sequence[dict[str, Any]]) -> str:
    """The table of one bench, for a terminal."""
    parts = []
    for name, group in by_scenario(entries).items():
        rows = [[title for _, title in COLUMNS], *(_cells(entry) for entry in group)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
        text = [name]
        for row in rows:
            first, second, *rest = (
                cell.ljust(w) if i < 2 else cell.rjust(w)
                for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            text.append("  " + "  ".join([first, second, *rest]).rstrip())
        parts.append("\n".join(text))
    return "\n\n".join(parts) + "\n\n" + LEGEND


LEGEND = (
    "adaptivity: 0 is the best static set, 100 the bound; foresight: 0 is the frontier lookup, 100 "
    "the bound.\nCosts are nats an output token above dense, on test text. '=': not told apart "
    "from the best (95 %);\n'!': could not be read in some rows, which the reference policy "
    "served.\nus: microseconds of one decision; passes: forward passes that calibration took; "
    "unmeas.: rows whose quality was predicted."
)


def warnings(entries: Sequence[dict[str, Any]]) -> str:
    """What a reader must know before the numbers: policies that did not answer."""
    return "\n".join(
        f"warning: {entry['policy']} on {entry['scenario']}: {entry['fallback']:.0%} of its rows were "
        f"served by the reference policy, for its answer could not be read"
        + (f" ({entry['fault']})" if entry["fault"] else "")
        for entry in entries
        if entry["fallback"]
    )


def ranking_lines(rankings: Sequence[dict[str, Any]]) -> str:
    """The order of policies at each value of C."""
    lines = ["ranking by cost at other values of C (nats):"]
    lines += [
        f"  {entry['scenario']}  C={entry['ceiling']:g}: {', '.join(entry['ranking'])}"
        for entry in rankings
    ]
    return "\n".join(lines)


def markdown(entries: Sequence[dict[str, Any]]) -> str:
    """The same table in Markdown."""
    parts = []
    for name, group in by_scenario(entries).items():
        titles = [title for _, title in COLUMNS]
        parts.append(f"**{name}**\n")
        parts.append("| " + " | ".join(titles) + " |")
        parts.append("|" + " --- |" * 2 + " ---: |" * (len(titles) - 2))
        parts += ["| " + " | ".join(_cells(entry)) + " |" for entry in group]
        parts.append("")
    return "\n".join(parts)
