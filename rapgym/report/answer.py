"""A bench's answer in three sentences of plain words: what not pruning costs, what pruning wins, which policy.

A sentence over several scenarios counts them, and gives the number and the interval of the middle one:
the scenario that has the lower median of what the sentence is about.
"""

from collections import Counter
from collections.abc import Callable, Sequence

from rapgym.bench.cells import ADMISSION
from rapgym.bench.records import Score
from rapgym.report import findings, roles
from rapgym.report.bench import above, below, beyond, counted, interval_of, plain

Group = Sequence[Score]
VERDICTS = {
    "better": "better than the lookup",
    "worse": "worse than the lookup",
    "equal": "as good as the lookup",
    "undecided": "not told from the lookup",
}


def sentences(entries: Sequence[Score]) -> list[str]:
    """The three, in Markdown; each says so where the file holds nothing to answer with."""
    groups = roles.spoken_of(entries)
    return [not_pruning(groups), beside_formats(groups), which_policy(groups)]


def note(entries: Sequence[Score]) -> str:
    """What the three rest on: how many scenarios, and whether they speak of their rows alone."""
    groups = roles.spoken_of(entries)
    which = (
        "of the headline" if groups and groups[0][0].headline else "none of them of the headline"
    )
    text = f"This speaks of {_scenarios(len(groups))}, {which}; intervals are of 95 %."
    return text + beyond(groups)


def _scenarios(count: int) -> str:
    return f"{count} scenario{'' if count == 1 else 's'}"


def _middle(groups: Sequence[Group], value: Callable[[Group], float | None]) -> Group | None:
    """The scenario with the lower median of a value, among those that have it."""
    held = [(found, i) for i, group in enumerate(groups) if (found := value(group)) is not None]
    return groups[sorted(held)[(len(held) - 1) // 2][1]] if held else None


def _on(group: Group, count: int) -> str:
    """How a sentence names the scenario whose number it gives."""
    name = f"`{plain(group[0].scenario)}`"
    return f"on {name}" if count == 1 else f"on the middle scenario, {name},"


def _span(values: Sequence[float]) -> str:
    low, high = f"{min(values):.3f}", f"{max(values):.3f}"
    return low if low == high else f"{low} to {high}"


def not_pruning(groups: Sequence[Group]) -> str:
    """What the full model costs that refuses what does not fit, and what the lookup wins back of it."""
    unpruned, lookup = roles.named(ADMISSION), roles.lookup
    both = [g for g in groups if unpruned(g) and lookup(g)]
    middle = _middle(both, lambda group: _entry(lookup(group)).gain)
    if middle is None:
        return (
            "**Not pruning**: this file does not hold what it costs; run `partial-admission` too."
        )
    costs = [_entry(unpruned(group)).cost for group in both]
    found = _entry(lookup(middle))
    clear = sum(bool((_entry(lookup(g)).gain_low or 0) > 0) for g in both)
    verdict = f"clearly above 0 on {clear} of {_scenarios(len(both))}"
    ends = (
        ""
        if found.gain_low is None or found.gain_high is None
        else f" [{found.gain_low:.0f}, {found.gain_high:.0f}]"
    )
    return (
        f"**Not pruning** costs {_span(costs)} nats an output token above a full model with memory enough, "
        "for requests that do not fit are refused; dropping blocks at run time, as the frontier lookup does, "
        f"wins back {found.gain or 0:.0f}{ends} of the 100 points of gain that can be won "
        f"{_on(middle, len(both))} and is {verdict}."
    )


def beside_formats(groups: Sequence[Group]) -> str:
    """What the champion's cost is beside the best format of 8 or 4 bits that leaves the model whole."""
    formats = [(g, found) for g in groups if (found := roles.best_format(g)) is not None]
    both = [(g, found) for g, found in formats if found.behind_champion is not None]
    middle = _middle([g for g, _ in both], lambda g: _entry(roles.best_format(g)).behind_champion)
    if middle is None:
        return (
            "**Against a smaller format**: this file does not hold both a champion and a format of 8 or 4 "
            "bits; run `int8-int8-kv` too."
        )
    said: dict[str, list[str]] = {}
    for group, found in both:
        said.setdefault(findings.against(found), []).append(plain(group[0].scenario))
    best = _entry(roles.best_format(middle))
    value, low, high = (
        best.behind_champion or 0.0, best.behind_champion_low, best.behind_champion_high
    )  # fmt: skip
    ends = "" if low is None or high is None else f" {interval_of(low, high)}"
    does = "wins" if value >= 0 else "loses"
    if not (below(high) or above(low)):
        does = "neither wins nor loses beyond chance"
    return (
        f"**Against the best format of 8 or 4 bits** that prunes nothing, run-time pruning {does}: "
        f"{_on(middle, len(both))} that format, `{best.policy}`, costs {value:+.4f}{ends} nats beside the "
        f"champion; over all, such a format {counted(said)}."
    )


def which_policy(groups: Sequence[Group]) -> str:
    """Which policy validation chooses, and what may be said of it beside the lookup."""
    champion, lookup = roles.champion_of("all"), roles.lookup
    both = [g for g in groups if champion(g) and lookup(g)]
    middle = _middle(both, lambda group: _entry(champion(group)).cost - _entry(lookup(group)).cost)
    if middle is None:
        return "**Which policy**: this file does not hold a champion; run more policies than one."
    chosen = Counter(_entry(champion(group)).policy for group in both)
    name, count = chosen.most_common(1)[0]
    said: dict[str, list[str]] = {}
    for group in both:
        verdict = _entry(champion(group)).verdict
        told = "has no verdict" if verdict is None else f"is {VERDICTS[verdict]}"
        said.setdefault(told, []).append(plain(group[0].scenario))
    found = _entry(champion(middle))
    low, high = (
        (found.low, found.high)
        if found.champion_low is None or found.champion_high is None
        else (found.champion_low, found.champion_high)
    )
    difference = found.cost - _entry(lookup(middle)).cost
    better = any(_entry(champion(group)).verdict == "better" for group in both)
    use = (
        "the champion where it is better, else the frontier lookup"
        if better
        else "the frontier lookup"
    )
    ends = "" if low is None or high is None else f" {interval_of(low, high)}"
    told = "" if found.verdict is None else f" ({found.verdict})"
    return (
        f"**Which policy**: {use}; validation chooses `{name}` on {count} of {_scenarios(len(both))}, the "
        f"champion {counted(said)}, and {_on(middle, len(both))} it costs {difference:+.4f} nats{ends} beside "
        f"the lookup{told}."
    )


def _entry(entry: Score | None) -> Score:
    assert entry is not None  # whoever asks has looked
    return entry
