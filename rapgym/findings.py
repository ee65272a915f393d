"""What the entries of a bench say, in sentences: no more than the statistics bear."""

from collections.abc import Sequence
from typing import Any

from rapgym.report import by_scenario, shown_p

Entry = dict[str, Any]

PRUNING = ("static", "reactive", "heuristic", "learned")
RIVAL = "rival"
FOUR_BITS = "int4"  # in the name of every rival with 4-bit weights


def sentences(entries: Sequence[Entry]) -> list[str]:
    """One paragraph a scenario, in Markdown."""
    return [
        f"**{name}**: " + " ".join(scenario_sentences(group))
        for name, group in by_scenario(entries).items()
    ]


def overall(entries: Sequence[Entry]) -> list[str]:
    """What holds over the scenarios of the headline: adapting, foresight, 4 bits; in Markdown."""
    groups = [group for group in by_scenario(entries).values() if group[0]["headline"]]
    said = [_adapting(groups), _foresight(groups)]
    four = "**int4**: the better of the static 4-bit rivals, beside the best pruning policy tried."
    other = "**Any other way**: the cheapest rival of all, beside the best pruning policy tried."
    said += [_beside(groups, four, FOUR_BITS), _beside(groups, other)]
    return [text for text in said if text]


def _adapting(groups: Sequence[Sequence[Entry]]) -> str:
    points = sorted(
        entry["adaptivity"]
        for group in groups
        for entry in group
        if entry["policy"] == "frontier" and entry["adaptivity"] is not None
    )
    if not points:
        return ""
    middle = points[len(points) // 2]
    return (
        f"**Adapting at all** is worth {points[0]:.0f} to {points[-1]:.0f} of 100 points (median "
        f"{middle:.0f}) over {len(points)} scenarios: that is what the frontier lookup, which looks "
        "neither back nor ahead, wins over the best single static set."
    )


def _foresight(groups: Sequence[Sequence[Entry]]) -> str:
    said: dict[str, list[str]] = {"better": [], "worse": [], "tie": []}
    for group in groups:
        champion = next((entry for entry in group if "all" in entry["champion"]), None)
        if champion is None or champion["foresight"] is None:
            continue
        points = (
            f"{_plain(champion['scenario'])} ({champion['policy']}, {champion['foresight']:.0f})"
        )
        said[champion["verdict"] or "tie"].append(points)
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
    """What the cheapest rival costs whose name holds `part`, scenario by scenario."""
    said: dict[str, list[str]] = {}
    for group in groups:
        found = [e for e in group if e["kind"] == RIVAL and part in e["policy"]]
        tried = [e["cost"] for e in group if e["kind"] in PRUNING and not e["fallback"]]
        if found and tried:
            best = min(found, key=lambda entry: entry["cost"])
            costs = f"{_plain(best['scenario'])} ({best['policy']}, {best['cost']:.3f} against {min(tried):.3f})"
            said.setdefault(_against(best), []).append(costs)
    if not said:
        return ""
    parts = [f"{what} on {len(names)}: {', '.join(names)}" for what, names in said.items()]
    return f"{told} It costs {'; it costs '.join(parts)}."


def _against(rival: Entry) -> str:
    if rival["behind_best_low"] > 0:
        return "more"
    if rival["behind_best_high"] >= 0:
        return "as much, within error,"
    if rival["behind_bound_high"] < 0:
        return "less, and less than the bound (pruning instead of it is pointless there),"
    return "less, though not surely less than the bound,"


def _plain(scenario: str) -> str:
    return scenario.rpartition("-v")[0] or scenario


def scenario_sentences(group: Sequence[Entry]) -> list[str]:
    """What adapting is worth, what foresight is worth, which policies tie, what rivals cost."""
    said = [adapting(group), foresight(group, "all"), foresight(group, "learned"), best(group)]
    return [text for text in (*said, *rivals(group)) if text]


def adapting(group: Sequence[Entry]) -> str:
    """What adapting at all is worth."""
    by = {entry["policy"]: entry for entry in group}
    costs = "the best static set costs {:.3f} nats a token, the frontier lookup {:.3f}, the bound {:.3f}"
    text = costs.format(*(by[name]["cost"] for name in ("static-best", "frontier", "bound")))
    if by["frontier"]["adaptivity"] is None:
        return f"{text}: there is nothing to adapt to."
    points, low, high = (
        by["frontier"][name] for name in ("adaptivity", "adaptivity_low", "adaptivity_high")
    )
    worth = f"{points:.0f} of 100 points [{low:.0f}, {high:.0f}]"
    if low <= 0 <= high:
        return f"{text}: adapting at all, {worth}, cannot be told from not adapting."
    return f"{text}: adapting at all is worth {worth}."


def foresight(group: Sequence[Entry], family: str) -> str:
    """What deciding better than the lookup is worth: of a champion, and after Holm's correction."""
    champion = next((entry for entry in group if family in entry["champion"]), None)
    whose = {"all": "Of policies that do not learn", "learned": "Of learned policies"}[family]
    if champion is None:
        return (
            "No champion was chosen, for validation costs are missing." if family == "all" else ""
        )
    start = f"{whose}, validation chooses `{champion['policy']}`"
    if champion["policy"] == "frontier":
        return f"{start}: the lookup itself."
    if champion["foresight"] is None:
        return f"{start}; the lookup leaves nothing to win."
    points = (
        f"{champion['foresight']:.1f} points of foresight [{champion['low']:.1f}, "
        f"{champion['high']:.1f}]"
    )
    if champion["verdict"] is None:
        return f"{start}: {points}, outside the headline and not tested."
    odds = f"{points}, Holm-adjusted p = {shown_p(champion['p_holm'])}"
    if champion["verdict"] == "tie":
        return f"{start}: a tie with the lookup ({odds})."
    beats = {"better": "beats the lookup", "worse": "is worse than the lookup"}
    return f"{start}, which {beats[champion['verdict']]}: {odds}."


def best(group: Sequence[Entry]) -> str:
    """The lowest cost on test and what ties with it: printed, but no claim rests on it."""
    tied = [entry for entry in group if entry["tied_for_best"]]  # the lowest ties with itself
    names = ", ".join(f"`{entry['policy']}`" for entry in tied[1:])
    text = f"The lowest cost on test has `{tied[0]['policy']}`, {tied[0]['cost']:.3f}"
    return f"{text}, not told apart from {names}." if names else f"{text}, alone."


def rivals(group: Sequence[Entry]) -> list[str]:
    """What rivals cost beside the best pruning policy, and whether 4 bits make pruning pointless."""
    found = [entry for entry in group if entry["kind"] == RIVAL]
    tried = [e for e in group if e["kind"] in PRUNING and not e["fallback"]]
    if not found or not tried:
        return []
    costs = ", ".join(f"`{entry['policy']}` {entry['cost']:.3f}" for entry in found)
    text = [f"Rivals cost {costs}, where the best pruning policy costs {tried[0]['cost']:.3f}."]
    four = [entry for entry in found if FOUR_BITS in entry["policy"]]
    if four:
        text.append(four_bits(min(four, key=lambda entry: entry["cost"])))
    return text


def four_bits(rival: Entry) -> str:
    """What the best rival of 4 bits means for pruning, intervals paired on the same resamples."""
    name = f"`{rival['policy']}`"
    if rival["behind_best_low"] > 0:
        return f"int4 does not make pruning pointless here: {name} costs more than the best policy tried."
    if rival["behind_best_high"] >= 0:
        return f"int4 does not make pruning pointless here: {name} ties with the best policy tried."
    if rival["behind_bound_high"] < 0:
        return f"int4 makes pruning pointless here: {name} costs less than every policy, the bound included."
    if rival["behind_bound_low"] > 0:
        return f"{name} is cheaper than every policy tried, but not than the bound."
    return f"{name} is cheaper than every policy tried, and not told apart from the bound."
