"""What scores become where one number of a scenario is another, in words and tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from rapgym.bench.cells import BOUND, LOOKUP
from rapgym.bench.sensitivity import FORESEEING, METHODS, Entry
from rapgym.errors import InvalidSpec
from rapgym.scenarios import catalogue

LABELS = {
    "": "as stated",
    "ceiling": "C = {} nats",
    "window_s": "W = {} s",
    "restore_s": "restore_s = {}",
    "reaction_s": "reaction_s = {}",
    "notice_s": "notice_s = {}",
    "card_gib": "card = {} GiB",
    "draw": "orders of draw {}",
    "told_domain": "told of {} alone",
    "domain": "{} alone, told and scored",
    "splits": "{} splits",
}

NOTE = """\
Costs are nats an output token above dense, on test text, settings retuned for each line on {pairings}
of its pairings (the bench tunes on all); in brackets what the settings of the scenario as stated cost there.
Difference: cost less the lookup's. Its 95 % interval, and that of gain (0 is the full model with partial
admission, 100 the bound; "-" where the series keeps no single requests), speak of these rows alone, are not
corrected for how many lines there are, and are without the quality table's own error: the bench would
leave some of these leads undecided.
C: policies are tuned at that C, where the rankings of a results file price the same proposals.
Draws: the grid of each, draw 0 included, crosses that draw's orders; as stated, it names the best sets
found. Blocked: outputs are reserved by the first 70 % of the hour, and what policies see of the past crosses
the seams between stretches. Long scenarios are left out: they would take too long."""


def label(entry: Entry) -> str:
    """What is changed, in words."""
    value = entry["value"]
    return LABELS[entry["field"]].format(f"{value:g}" if isinstance(value, float) else value)


def short_label(entry: Entry) -> str:
    """`label`, but a card by how much it is larger than the scenario's own, where that is known."""
    if entry["field"] != "card_gib":
        return label(entry)
    try:
        return f"card {entry['value'] - catalogue.scenario(entry['scenario']).card_gib:+g} GiB"
    except InvalidSpec:
        return label(entry)


def columns(found: Sequence[Entry]) -> list[list[str]]:
    """Heads, then one row an entry, of entries of one scenario."""
    names = [name for name in METHODS if name in found[0]["policies"]]
    foreseeing = [name for name in FORESEEING if name in names]
    head = ["changed", "dense fits", *names, BOUND, f"gain of {LOOKUP}"]
    more = (f"{what} of {name}" for name in foreseeing for what in ("foresight", "difference"))
    rows = [[*head, *more]]
    for entry in found:
        policies = entry["policies"]
        rows.append(
            [
                label(entry),
                f"{entry['dense_fits']:.0%}",
                *(_cost_text(policies[name]) for name in names),
                f"{policies[BOUND]['cost']:.4f}",
                _interval(*(policies[LOOKUP][f"gain{end}"] for end in ("", "_low", "_high"))),
                *(
                    text
                    for name in foreseeing
                    for text in _beside_lookup(policies[name], policies[LOOKUP])
                ),
            ]
        )
    return rows


def _cost_text(policy: Entry) -> str:
    stated = policy.get("stated_settings_cost")
    return f"{policy['cost']:.4f}" + ("" if stated is None else f" ({stated:.4f})")


def _beside_lookup(policy: Entry, lookup: Entry) -> list[str]:
    """Points of foresight, and the difference of cost with its interval."""
    points, less = policy["foresight"], policy["cost"] - lookup["cost"]
    ends = (policy["low"], policy["high"])
    shown = "-" if None in ends else f"{less:+.4f} [{ends[0]:+.4f}, {ends[1]:+.4f}]"
    return ["-" if points is None else f"{points:.1f}", shown]


def _interval(value: float | None, low: float | None, high: float | None) -> str:
    if value is None or low is None or high is None:
        return "-"
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def by_scenario(found: Mapping[str, Any]) -> dict[str, list[Entry]]:
    grouped: dict[str, list[Entry]] = {}
    for entry in found["entries"]:
        grouped.setdefault(entry["scenario"], []).append(entry)
    return grouped


def note(found: Mapping[str, Any]) -> str:
    skipped = [
        f"Left out: {each['scenario']}, {label(each)} ({each['why']})." for each in found["skipped"]
    ]
    return "\n".join([NOTE.format(pairings=found["tuning_pairings"]), *skipped])


def sentences(found: Mapping[str, Any]) -> list[str]:
    """What holds on how many lines, one sentence a scenario and method."""
    said = []
    for name, group in by_scenario(found).items():
        for policy in FORESEEING:
            ends = [
                (entry["policies"][policy]["low"], entry["policies"][policy]["high"])
                for entry in group
                if policy in entry["policies"] and entry["policies"][policy]["low"] is not None
            ]
            if ends:
                better, worse = sum(high < 0 for _, high in ends), sum(low > 0 for low, _ in ends)
                said.append(
                    f"{name}: `{policy}` is better than the lookup on {better} of {len(ends)} lines, "
                    f"worse on {worse}, and undecided on {len(ends) - better - worse}."
                )
    return said


def table(found: Mapping[str, Any]) -> str:
    """The tables of all scenarios, for a terminal."""
    parts = []
    for name, group in by_scenario(found).items():
        rows = columns(group)
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = [
            "  ".join(
                text.rjust(width) if i else text.ljust(width)
                for i, (text, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        parts.append("\n".join([name, *lines]))
    return "\n\n".join([*parts, "\n".join([*sentences(found), "", note(found)])])


def markdown(found: Mapping[str, Any]) -> str:
    """The same for the README."""
    parts = []
    for name, group in by_scenario(found).items():
        head, *rows = columns(group)
        lines = [f"**{name}**\n", f"| {' | '.join(head)} |"]
        lines.append(f"| --- |{' ---: |' * (len(head) - 1)}")
        parts.append("\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]))
    said = "\n".join(f"- {sentence}" for sentence in sentences(found))
    return "\n\n".join([*parts, said, note(found)])
