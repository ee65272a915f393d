"""What the entries of a bench say, in sentences: no more than the statistics bear.

A sentence counts scenarios and policies, and names them only where there are one or two: all of them
stand in the tables beside it.
"""

from collections.abc import Mapping, Sequence
from statistics import median

from rapgym.bench.cells import ADMISSION, KEEP_ALL, STATIC_REPAIRED
from rapgym.bench.records import Score, Verdict
from rapgym.bench.verdicts import CONDITIONAL
from rapgym.report import learning as learning_findings
from rapgym.report.bench import (
    above,
    below,
    beyond,
    by_scenario,
    counted,
    interval_of,
    plain,
    shown_p,
    some,
)

FOUR_BITS = "int4"  # in the name of every rival with 4-bit weights
PRUNED = "-pruned"  # ends the name of a rival that prunes on top of its format
EIGHT_BITS = "int8-int8-kv"  # the format with pruning on top of which a claim is made
# A rival's cost beside the bound: then pruning in its place has no point.
BELOW_BOUND = "costs less than the bound"


def sentences(entries: Sequence[Score]) -> list[str]:
    """One paragraph a scenario, in Markdown."""
    return [
        f"**{name}**: " + " ".join(scenario_sentences(group))
        for name, group in by_scenario(entries).items()
    ]


def overall(entries: Sequence[Score]) -> list[str]:
    """What holds over the scenarios of the headline, in Markdown: gain, foresight, formats."""
    groups = [group for group in by_scenario(entries).values() if group[0].headline]
    other = "**Not pruning at all**: the cheapest rival that leaves the model whole"
    four = "**Weights of 4 bits**: the cheapest rival that has them"
    said = [_beside(groups, other), worth(groups), trimmed(groups), beside_lookup(groups)]
    said += learning_findings.overall(entries)
    said += [_beside(groups, four, FOUR_BITS), _on_top(groups)]
    return [text for text in said if text]


def worth(groups: Sequence[Sequence[Score]]) -> str:
    points = sorted(
        entry.gain
        for group in groups
        for entry in group
        if entry.policy == "frontier" and entry.gain is not None
    )
    if not points:
        return ""
    return (
        f"**Adapting at all** is worth {_span(points)} of 100 points of gain (median {median(points):.0f}) over "
        f"{len(points)} scenarios, most of them variants of one hour of traffic. That is what the frontier "
        "lookup, which looks neither back nor ahead, wins over the full model that only refuses the newest "
        "requests." + beyond(groups)
    )


def trimmed(groups: Sequence[Sequence[Score]]) -> str:
    """Whether a set that never changes, trimmed where it does not fit, does as well as the lookup."""
    does: dict[Verdict, str] = {
        "worse": "costs more than the lookup",
        "better": "costs less",
        "equal": "is as good",
        "undecided": "is not told from it",
    }
    sets = [entry for group in groups for entry in group if entry.policy == STATIC_REPAIRED]
    said = _by_verdict(sets, does)
    if not said:
        return ""
    costs = {e.scenario: e.cost for group in groups for e in group if e.policy == KEEP_ALL}
    whole = [plain(e.scenario) for e in sets if e.verdict and costs.get(e.scenario) == e.cost]
    told = (
        "**One set for good, trimmed**: the best fixed set of train, from which the shield drops blocks in its "
        f"fixed order while memory is short, {said}."
    )
    if whole:
        told += f" It is the full model on {some(whole, len(groups))}."
    return told + beyond(groups)


def _by_verdict(entries: Sequence[Score], does: Mapping[Verdict, str]) -> str:
    """On how many scenarios entries have which verdict beside the lookup; empty where none has one.

    Args:
        does: what each verdict says.
    """
    said = {
        what: [plain(entry.scenario) for entry in entries if entry.verdict == verdict]
        for verdict, what in does.items()
    }
    return counted(said) if any(said.values()) else ""


def _span(points: Sequence[float]) -> str:
    return f"{points[0]:.0f} to {points[-1]:.0f}"


def beside_lookup(groups: Sequence[Sequence[Score]]) -> str:
    does: dict[Verdict, str] = {
        "better": "beats it",
        "worse": "is worse",
        "equal": "is as good",
        "undecided": "is not told from it",
    }
    champions = [entry for group in groups for entry in group if "all" in entry.champion]
    said = _by_verdict(champions, does)
    if not said:
        return ""
    return (
        "**Deciding better than the lookup**: the champion, which validation chooses among policies that "
        f"do not learn, {said}." + beyond(groups)
    )


def _beside(groups: Sequence[Sequence[Score]], told: str, part: str = "") -> str:
    """What the cheapest unpruned rival costs whose name holds `part`, scenario by scenario."""
    said: dict[str, list[str]] = {}
    for group in groups:
        found = [entry for entry in unpruned(group) if part in entry.policy]
        champion = next((entry for entry in group if "all" in entry.champion), None)
        if found and champion:
            best = min(found, key=lambda entry: entry.cost)
            said.setdefault(against(best), []).append(plain(best.scenario))
    if not said:
        return ""
    pointless = " Below the bound, pruning in its place has no point."
    return f"{told} {counted(said)}.{pointless if BELOW_BOUND in said else ''}"


def unpruned(group: Sequence[Score]) -> list[Score]:
    """The rivals of a scenario that leave the model whole."""
    return [e for e in group if e.is_rival and not e.policy.endswith(PRUNED)]


def pruned(group: Sequence[Score]) -> list[Score]:
    """The rivals of a scenario that prune on top of a format."""
    return [e for e in group if e.is_rival and e.policy.endswith(PRUNED)]


def _on_top(groups: Sequence[Sequence[Score]]) -> str:
    """Whether pruning on top of 8 bits has a point, where the cheapest rival that prunes nothing is."""
    said: dict[str, list[str]] = {}
    fits: list[str] = []
    for group in groups:
        by = {entry.policy: entry for entry in group}
        own, whole = by.get(EIGHT_BITS + PRUNED), unpruned(group)
        if own is None or not whole:
            continue
        name = plain(own.scenario)
        said.setdefault(beside_unpruned(own), []).append(name)
        if fits_always(group):
            fits.append(name)
    if not said:
        return ""
    text = (
        "**Pruning on top of 8 bits** (weights and KV cache; the frontier lookup drops blocks): beside the "
        f"cheapest rival that prunes nothing, it {counted(said)}. Intervals of 95 %, not corrected for "
        "the number of scenarios."
    )
    if fits:
        text += (
            f" Without pruning the same format fits in every second of {some(fits)}: there, nothing is "
            "left to prune for."
        )
    return text


def fits_always(group: Sequence[Score]) -> bool | None:
    """Whether the full model in 8 bits fits in every second of a scenario; None where it was not run."""
    refused = next((entry.refused for entry in group if entry.policy == EIGHT_BITS), None)
    return None if refused is None else refused == 0


def beside_unpruned(rival: Score) -> str:
    """How a rival's cost stands to that of the cheapest that prunes nothing, 95 % intervals."""
    if above(rival.behind_unpruned_low):
        return "costs more"
    return "costs less" if below(rival.behind_unpruned_high) else "ties"


def against(rival: Score) -> str:
    """How a rival's cost stands to the champion's and to the bound, 95 % intervals, uncorrected."""
    if above(rival.behind_champion_low):
        return "costs more than the champion"
    if not below(rival.behind_champion_high):
        return "ties with the champion"
    if below(rival.behind_bound_high):
        return BELOW_BOUND
    if above(rival.behind_bound_low):
        return "costs less than the champion but more than the bound"
    return "costs less than the champion and ties with the bound"


def scenario_sentences(group: Sequence[Score]) -> list[str]:
    """What adapting is worth, what foresight is worth, which policies tie, what rivals cost."""
    said = [adapting(group), foresight(group, "all"), foresight(group, "learned")]
    said += [learning_findings.sentence(group), best(group)]
    return [text for text in (*said, *rivals(group)) if text]


def adapting(group: Sequence[Score]) -> str:
    """What adapting at all is worth."""
    by = {entry.policy: entry for entry in group}
    named = {
        ADMISSION: "not pruning costs",
        "frontier": "the frontier lookup",
        "bound": "the bound",
    }
    costs = (f"{what} {by[name].cost:.3f}" for name, what in named.items() if name in by)
    text, lookup = ", ".join(costs) + " nats a token", by["frontier"]
    points, low, high = lookup.gain, lookup.gain_low, lookup.gain_high
    if points is None or low is None or high is None:
        return f"{text}." if ADMISSION not in by else f"{text}: there is nothing to gain."
    worth = f"{points:.0f} of 100 points of gain [{low:.0f}, {high:.0f}]"
    if low <= 0 <= high:
        return f"{text}: adapting at all, {worth}, is not told from not pruning."
    return f"{text}: adapting at all is worth {worth}."


def foresight(group: Sequence[Score], family: str) -> str:
    """What deciding better than the lookup is worth: of a champion, and after Holm's correction."""
    champion = next((entry for entry in group if family in entry.champion), None)
    whose = {"all": "Of policies that do not learn", "learned": "Of learned policies"}[family]
    if champion is None:
        return (
            "No champion was chosen, for validation costs are missing." if family == "all" else ""
        )
    start = f"{whose}, validation chooses `{champion.policy}`"
    if champion.policy == "frontier":
        return f"{start}: the lookup itself."
    ends = interval_of(champion.champion_low, champion.champion_high)
    odds = f"{_less_lookup(champion, group):+.4f} nats {ends}"
    if champion.foresight is not None:
        odds += f", {champion.foresight:.1f} points of foresight"
    if champion.p_holm is not None:
        odds += f", Holm-adjusted p = {shown_p(champion.p_holm)}"
    elif not champion.headline:
        odds += ", outside the headline and in no family of tests"
    if champion.conditional:
        odds += f", {CONDITIONAL}"
    if champion.verdict == "undecided" and champion.least_effect is not None:
        odds += f"; {champion.least_effect:.4f} could have been shown"
    said = {
        "better": ", which beats the lookup",
        "worse": ", which is worse than the lookup",
        "equal": ", which is as good as the lookup",
        "undecided": ", which is not told from the lookup",
        None: "",
    }
    return f"{start}{said[champion.verdict]} ({odds})."


def _less_lookup(entry: Score, group: Sequence[Score]) -> float:
    return entry.cost - next(each.cost for each in group if each.policy == "frontier")


def best(group: Sequence[Score]) -> str:
    """The lowest cost on test and what ties with it: printed, but no claim rests on it."""
    least, *tied = [entry for entry in group if entry.tied_for_best]  # it ties with itself
    text = f"`{least.policy}` has the lowest cost on test, {least.cost:.3f}"
    if not tied:
        return f"{text}, alone."
    more = f" and {len(tied) - 1} more" if tied[1:] else ""
    return f"{text}, and ties with `{tied[0].policy}`{more}."


def rivals(group: Sequence[Score]) -> list[str]:
    """What the cheapest rivals that prune nothing mean for pruning, and what pruning adds to them."""
    found = unpruned(group)
    champion = next((entry for entry in group if "all" in entry.champion), None)
    if not found or champion is None:
        return []
    said = []
    whole = "The cheapest rival that prunes nothing"
    for told, part in ((whole, ""), (f"{whole}, of 4 bits", FOUR_BITS)):
        some = [entry for entry in found if part in entry.policy]
        if some:
            best = min(some, key=lambda entry: entry.cost)
            costs = f"{best.cost:.3f} against {champion.cost:.3f}"
            said.append(f"{told}, `{best.policy}`, {against(best)} ({costs}).")
    on_top = pruned(group)
    if on_top:
        best = min(on_top, key=lambda entry: entry.cost)
        costs = f"{best.cost:.3f} against {min(entry.cost for entry in found):.3f}"
        said.append(
            f"With pruning on top, the cheapest is `{best.policy}`: beside the cheapest that prunes "
            f"nothing it {beside_unpruned(best)} ({costs})."
        )
    return said
