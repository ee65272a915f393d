"""Whether learning earns its place, in sentences: the learned champion beside the one that does not.

Both are chosen on validation; they are compared on the same test rows and the same resamples.
"""

from collections.abc import Sequence

from rapgym.bench.records import Score
from rapgym.report.bench import by_scenario

Entry = Score

BLIND = "dqn"  # sees no table beyond each block's greedy importance
ENOUGH = 0.95  # of the lookup's adaptivity
LEAST_ROOM = 0.005  # nats between lookup and bound, below which points of foresight say nothing


def overall(entries: Sequence[Entry]) -> list[str]:
    """What holds over the scenarios of the headline, in Markdown."""
    groups = [group for group in by_scenario(entries).values() if group[0].headline]
    return [text for text in (_beside(groups), _blind(groups)) if text]


def champions(group: Sequence[Entry]) -> tuple[Entry, Entry] | None:
    """A scenario's learned champion and the one of all that do not learn; None where one is missing."""
    found = [next((e for e in group if f in e.champion), None) for f in ("learned", "all")]
    return (found[0], found[1]) if found[0] and found[1] else None


def lead(group: Sequence[Entry]) -> tuple[float, float, float] | None:
    """By how many points of foresight the learned champion leads, and its 95 % interval.

    A point is a hundredth of what the lookup costs above the bound on these rows; the interval is that
    of the difference in cost, the table's error included, in the same unit. None where there is no
    champion of either kind, or next to nothing to win (`LEAST_ROOM`): then points say nothing.
    """
    both, by = champions(group), {entry.policy: entry for entry in group}
    if both is None or "frontier" not in by or "bound" not in by:
        return None
    room = by["frontier"].cost - by["bound"].cost
    learned = both[0]
    value, low, high = (
        learned.behind_champion, learned.behind_champion_low, learned.behind_champion_high
    )  # fmt: skip
    if room < LEAST_ROOM or value is None or low is None or high is None:
        return None
    return -100 * value / room, -100 * high / room, -100 * low / room


def standing(group: Sequence[Entry]) -> str | None:
    """How the learned champion's cost stands to the other's, in words."""
    both = champions(group)
    if both is None:
        return None
    low, high = both[0].behind_champion_low, both[0].behind_champion_high
    if low is None or high is None:
        return None
    if high < 0:
        return "less than"
    return "more than" if low > 0 else "what cannot be told from"


def sentence(group: Sequence[Entry]) -> str:
    """One scenario's; empty where either champion is missing."""
    both, found, how = champions(group), lead(group), standing(group)
    if both is None or how is None:
        return ""
    costs = f"{both[0].cost:.3f} against {both[1].cost:.3f}"
    led = (
        f": a lead of {found[0]:.1f} points of foresight [{found[1]:.1f}, {found[2]:.1f}]"
        if found
        else ""
    )
    return (
        f"The learned champion `{both[0].policy}` ({both[0].seeds} training seeds) costs {how} "
        f"`{both[1].policy}`, the champion of all that do not learn ({costs}){led}."
    )


def _beside(groups: Sequence[Sequence[Entry]]) -> str:
    said: dict[str, list[str]] = {}
    for group in groups:
        both, found, how = champions(group), lead(group), standing(group)
        if both is None or how is None:
            continue
        name = both[0].scenario.rpartition("-v")[0]
        points = f"{found[0]:+.0f}" if found else "next to nothing to win"
        said.setdefault(how, []).append(f"{name} ({both[0].policy}, {points})")
    if not said:
        return ""
    parts = [
        f"costs {how} the champion of those that do not learn on {len(names)}: {', '.join(names)}"
        for how, names in said.items()
    ]
    return (
        "**Learning**: the champion that validation chooses among trained policies "
        f"{'; '.join(parts)}. In brackets its lead in points of "
        "foresight; intervals of 95 %, the table's error included, not corrected for the number of "
        "scenarios."
    )


def _blind(groups: Sequence[Sequence[Entry]]) -> str:
    """Whether a policy that knows no table reaches the lookup's adaptivity."""
    shares = []
    for group in groups:
        by = {entry.policy: entry for entry in group}
        blind, lookup = by[BLIND].adaptivity if BLIND in by else None, by["frontier"].adaptivity
        if blind is not None and lookup:
            name = by[BLIND].scenario.rpartition("-v")[0]
            shares.append((blind / lookup, name))
    if not shares:
        return ""
    enough = [share for share, _ in shares if share >= ENOUGH]
    short = [f"{name} ({share:.0%})" for share, name in sorted(shares) if share < ENOUGH]
    return (
        f"**Without a table**: `{BLIND}`, which at run time sees no quality but each block's greedy "
        f"importance, reaches {ENOUGH:.0%} of the lookup's adaptivity on {len(enough)} of {len(shares)}"
        + (f"; not on {', '.join(short)}." if short else ".")
    )
