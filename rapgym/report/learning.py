"""Whether learning earns its place, in sentences: the learned champion beside the one that does not.

Both are chosen on validation; they are compared on the same test rows and the same resamples.
"""

from collections.abc import Sequence

from rapgym.bench.records import Score
from rapgym.bench.verdicts import LEAST_ROOM
from rapgym.report.bench import above, below, beyond, by_scenario, counted, plain

BLIND = "dqn"  # sees no table beyond each block's greedy importance
ENOUGH = 0.95  # of the lookup's gain


def overall(entries: Sequence[Score]) -> list[str]:
    """What holds over the scenarios of the headline, in Markdown."""
    groups = [group for group in by_scenario(entries).values() if group[0].headline]
    return [text for text in (beside_unlearned(groups), _blind(groups)) if text]


def champions(group: Sequence[Score]) -> tuple[Score, Score] | None:
    """A scenario's learned champion and the one of all that do not learn; None where one is missing."""
    found = [next((e for e in group if f in e.champion), None) for f in ("learned", "all")]
    return (found[0], found[1]) if found[0] and found[1] else None


def lead(group: Sequence[Score]) -> tuple[float, float, float] | None:
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


def standing(group: Sequence[Score]) -> str | None:
    """How the learned champion's cost stands to the other's, in words."""
    both = champions(group)
    if both is None:
        return None
    if below(both[0].behind_champion_high):
        return "costs less than"
    return "costs more than" if above(both[0].behind_champion_low) else "ties with"


def sentence(group: Sequence[Score]) -> str:
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
        f"The learned champion `{both[0].policy}` ({both[0].seeds} training seeds) {how} "
        f"`{both[1].policy}`, the champion of all that do not learn ({costs}){led}."
    )


def beside_unlearned(groups: Sequence[Sequence[Score]]) -> str:
    said: dict[str, list[str]] = {}
    for group in groups:
        both, how = champions(group), standing(group)
        if both and how:
            verb = how.rpartition(" ")[0]  # without "than" or "with"
            said.setdefault(verb, []).append(plain(both[0].scenario))
    if not said:
        return ""
    return (
        "**Learning**: validation also chooses a champion among trained policies. Beside the champion of "
        f"those that do not learn, the trained one {counted(said)}. Intervals of 95 % hold the table's "
        "error, training seeds and the choice on validation, and are not corrected for the number of "
        "scenarios." + beyond(groups)
    )


def blind_share(group: Sequence[Score]) -> float | None:
    """How much of the lookup's gain a policy that knows no table has; None where that is undefined."""
    by = {entry.policy: entry for entry in group}
    own, lookup = (by[name].gain if name in by else None for name in (BLIND, "frontier"))
    return None if own is None or not lookup else own / lookup


def _blind(groups: Sequence[Sequence[Score]]) -> str:
    """Whether a policy that knows no table reaches the lookup's gain."""
    shares = [
        (share, plain(group[0].scenario))
        for group in groups
        if (share := blind_share(group)) is not None
    ]
    if not shares:
        return ""
    enough, (least, where) = sum(share >= ENOUGH for share, _ in shares), min(shares)
    return (
        f"**Without a table**: `{BLIND}`, which at run time sees no quality but each block's greedy "
        f"importance, reaches {ENOUGH:.0%} of the lookup's gain on {enough} of {len(shares)} scenarios"
        + (f"; the least is {least:.0%} (`{where}`)." if enough < len(shares) else ".")
    )
