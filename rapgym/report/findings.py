"""What the entries of a bench say, in sentences: no more than the statistics bear."""

from collections.abc import Sequence
from statistics import median

from rapgym.bench.records import Score
from rapgym.report import learning as learning_findings
from rapgym.report.bench import by_scenario, shown_p

Entry = Score

FOUR_BITS = "int4"  # in the name of every rival with 4-bit weights
PRUNED = "-pruned"  # ends the name of a rival that prunes on top of its format
EIGHT_BITS = "int8-int8-kv"  # the format with pruning on top of which a claim is made


def sentences(entries: Sequence[Entry]) -> list[str]:
    """One paragraph a scenario, in Markdown."""
    return [
        f"**{name}**: " + " ".join(scenario_sentences(group))
        for name, group in by_scenario(entries).items()
    ]


def overall(entries: Sequence[Entry]) -> list[str]:
    """What holds over the scenarios of the headline, in Markdown: adapting, foresight, formats."""
    groups = [group for group in by_scenario(entries).values() if group[0].headline]
    other = "**Not pruning at all**: the cheapest of the rivals that leave the model whole."
    four = "**int4**: the cheapest rival with weights of 4 bits."
    said = [_beside(groups, other), _adapting(groups), _foresight(groups)]
    said += learning_findings.overall(entries)
    said += [_beside(groups, four, FOUR_BITS), _on_top(groups)]
    return [text for text in said if text]


def _adapting(groups: Sequence[Sequence[Entry]]) -> str:
    points = sorted(
        entry.adaptivity
        for group in groups
        for entry in group
        if entry.policy == "frontier" and entry.adaptivity is not None
    )
    if not points:
        return ""
    text = (
        f"**Adapting at all** is worth {_span(points)} of 100 points (median {median(points):.0f}) over "
        f"{len(points)} scenarios, most of them variants of one hour of traffic: that is what the "
        "frontier lookup, which looks neither back nor ahead, wins over the best single static set."
    )
    admitting = sorted(score for group in groups if (score := _admitting(group)) is not None)
    if admitting:
        text += (
            " A static set is refused with its whole batch where it does not fit; the full model that "
            f"only refuses the newest requests would stand at {_span(admitting)} (median "
            f"{median(admitting):.0f}) on that scale, without any pruning."
        )
    return text


def _span(points: Sequence[float]) -> str:
    return f"{points[0]:.0f} to {points[-1]:.0f}"


def _admitting(group: Sequence[Entry]) -> float | None:
    """Where partial admission of the full model stands between the best static set and the bound."""
    cost = {entry.policy: entry.cost for entry in group}
    static, bound = cost["static-best"], cost["bound"]
    if "partial-admission" not in cost or static <= bound:
        return None
    return 100 * (static - cost["partial-admission"]) / (static - bound)


def _foresight(groups: Sequence[Sequence[Entry]]) -> str:
    said: dict[str, list[str]] = {"better": [], "worse": [], "tie": []}
    for group in groups:
        champion = next((entry for entry in group if "all" in entry.champion), None)
        if champion is None or champion.foresight is None:
            continue
        points = f"{_plain(champion.scenario)} ({champion.policy}, {champion.foresight:.0f})"
        said[champion.verdict or "tie"].append(points)
    if not any(said.values()):
        return ""
    text = (
        "**Deciding better than the lookup**: the champion that validation chooses among policies "
    )
    text += "that do not learn "
    parts = [
        f"{does} {len(said[kind])}: {', '.join(said[kind])}"
        for kind, does in (
            ("better", "beats it on"),
            ("worse", "is worse on"),
            ("tie", "is not told apart from it on"),
        )
        if said[kind]
    ]
    return text + "; ".join(parts) + ". In brackets its points of foresight."


def _beside(groups: Sequence[Sequence[Entry]], told: str, part: str = "") -> str:
    """What the cheapest unpruned rival costs whose name holds `part`, scenario by scenario."""
    said: dict[str, list[str]] = {}
    for group in groups:
        found = [entry for entry in unpruned(group) if part in entry.policy]
        champion = next((entry for entry in group if "all" in entry.champion), None)
        if found and champion:
            best = min(found, key=lambda entry: entry.cost)
            where = f"{_plain(best.scenario)} ({best.policy})"
            said.setdefault(against(best), []).append(where)
    if not said:
        return ""
    parts = [f"{what}, on {len(names)}: {', '.join(names)}" for what, names in said.items()]
    return f"{told} It costs {'; it costs '.join(parts)}."


def unpruned(group: Sequence[Entry]) -> list[Entry]:
    """The rivals of a scenario that leave the model whole."""
    return [e for e in group if e.is_rival and not e.policy.endswith(PRUNED)]


def pruned(group: Sequence[Entry]) -> list[Entry]:
    """The rivals of a scenario that prune on top of a format."""
    return [e for e in group if e.is_rival and e.policy.endswith(PRUNED)]


def _on_top(groups: Sequence[Sequence[Entry]]) -> str:
    """Whether pruning on top of 8 bits has a point, where the cheapest rival that prunes nothing is."""
    said: dict[str, list[str]] = {}
    fits: list[str] = []
    for group in groups:
        by = {entry.policy: entry for entry in group}
        own, whole = by.get(EIGHT_BITS + PRUNED), unpruned(group)
        if own is None or not whole:
            continue
        best = min(whole, key=lambda entry: entry.cost)
        name = _plain(own.scenario)
        shown = f"{name} ({own.cost:.3f}, {best.policy} {best.cost:.3f})"
        said.setdefault(beside_unpruned(own), []).append(shown)
        if EIGHT_BITS in by and by[EIGHT_BITS].refused == 0:
            fits.append(name)
    if not said:
        return ""
    parts = [f"{what} on {len(names)}: {', '.join(names)}" for what, names in said.items()]
    text = (
        "**Pruning on top of 8 bits** (weights and KV; the frontier lookup drops blocks) costs "
        f"{'; '.join(parts)}. Intervals of 95 %, not corrected for the number of scenarios."
    )
    if fits:
        text += (
            f" Without pruning the same format fits in every second of {len(fits)} "
            f"({', '.join(fits)}): there is nothing to prune for."
        )
    return text


def beside_unpruned(rival: Entry) -> str:
    """How a rival's cost stands to that of the cheapest that prunes nothing, 95 % intervals."""
    low, high = rival.behind_unpruned_low, rival.behind_unpruned_high
    if low is not None and low > 0:
        return "more than the cheapest rival that prunes nothing"
    if high is not None and high < 0:
        return "less than the cheapest rival that prunes nothing"
    return "what cannot be told from the cheapest rival that prunes nothing"


def against(rival: Entry) -> str:
    """How a rival's cost stands to the champion's and to the bound, 95 % intervals, uncorrected."""
    low, high = rival.behind_champion_low, rival.behind_champion_high
    if low is not None and low > 0:
        return "more than the champion"
    if high is None or high >= 0:
        return "what cannot be told from the champion's cost"
    low, high = rival.behind_bound_low, rival.behind_bound_high
    if high is not None and high < 0:
        return "less than the bound, so that pruning instead of it has no point"
    if low is not None and low > 0:
        return "less than the champion, though more than the bound"
    return "less than the champion, and what cannot be told from the bound"


def _plain(scenario: str) -> str:
    return scenario.rpartition("-v")[0] or scenario


def scenario_sentences(group: Sequence[Entry]) -> list[str]:
    """What adapting is worth, what foresight is worth, which policies tie, what rivals cost."""
    said = [adapting(group), foresight(group, "all"), foresight(group, "learned")]
    said += [learning_findings.sentence(group), best(group)]
    return [text for text in (*said, *rivals(group)) if text]


def adapting(group: Sequence[Entry]) -> str:
    """What adapting at all is worth."""
    by = {entry.policy: entry for entry in group}
    costs = "the best static set costs {:.3f} nats a token, the frontier lookup {:.3f}, the bound {:.3f}"
    text = costs.format(*(by[name].cost for name in ("static-best", "frontier", "bound")))
    lookup = by["frontier"]
    points, low, high = lookup.adaptivity, lookup.adaptivity_low, lookup.adaptivity_high
    if points is None or low is None or high is None:
        return f"{text}: there is nothing to adapt to."
    worth = f"{points:.0f} of 100 points [{low:.0f}, {high:.0f}]"
    if low <= 0 <= high:
        return f"{text}: adapting at all, {worth}, cannot be told from not adapting."
    return f"{text}: adapting at all is worth {worth}."


def foresight(group: Sequence[Entry], family: str) -> str:
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
    if champion.foresight is None:
        return f"{start}; the lookup leaves nothing to win."
    points = (
        f"{champion.foresight:.1f} points of foresight [{champion.low:.1f}, {champion.high:.1f}]"
    )
    if champion.verdict is None or champion.p_holm is None:
        return f"{start}: {points}, outside the headline and not tested."
    odds = f"{points}, Holm-adjusted p = {shown_p(champion.p_holm)}"
    if champion.verdict == "tie":
        return f"{start}: a tie with the lookup ({odds})."
    beats = {"better": "beats the lookup", "worse": "is worse than the lookup"}
    return f"{start}, which {beats[champion.verdict]}: {odds}."


def best(group: Sequence[Entry]) -> str:
    """The lowest cost on test and what ties with it: printed, but no claim rests on it."""
    tied = [entry for entry in group if entry.tied_for_best]  # the lowest ties with itself
    names = ", ".join(f"`{entry.policy}`" for entry in tied[1:])
    text = f"`{tied[0].policy}` has the lowest cost on test, {tied[0].cost:.3f}"
    return f"{text}, not told apart from {names}." if names else f"{text}, alone."


def rivals(group: Sequence[Entry]) -> list[str]:
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
            said.append(f"{told}, `{best.policy}`, costs {against(best)} ({costs}).")
    on_top = pruned(group)
    if on_top:
        best = min(on_top, key=lambda entry: entry.cost)
        costs = f"{best.cost:.3f} against {min(entry.cost for entry in found):.3f}"
        said.append(
            f"With pruning on top, the cheapest is `{best.policy}`: it costs "
            f"{beside_unpruned(best)} ({costs})."
        )
    return said
