"""What the serving study found, in tables."""

from typing import Any

from rapgym.report.markdown import table

Entry = dict[str, Any]


def chosen(found: Entry) -> str:
    """What each card and load would have cost on train, and the point that the rule took."""
    rows = []
    for entry in found["entries"]:
        point = {name: entry[name] for name in ("card_gib", "every")}
        taken = found["chosen"][entry["scenario"]] == point
        costs = entry["costs"]
        rows.append(
            [
                f"`{entry['scenario']}`",
                f"{entry['every']}",
                f"{entry['card_gib']:g}" + (" (taken)" if taken else ""),
                *(f"{costs[name]:.4f}" for name in ("engine", "keep-all-drop", "lookup")),
                entry["why_not"] or "passes",
            ]
        )
    heads = (
        "scenario",
        "every k-th request",
        "card, GiB",
        "engine",
        "keep-all with drop",
        "lookup",
        "",
    )
    return found["rule"] + "\n\n" + table(heads, rows)


def findings(found: Entry) -> str:
    """What each rule cost on test, beside the tuned lookup, and what searches that know the future reach."""
    return "\n\n".join(_costs(entry) for entry in found["scenarios"])


def _costs(entry: Entry) -> str:
    against = entry["against_lookup"]
    rows = []
    for name, rule in sorted(entry["rules"].items(), key=lambda item: float(item[1]["cost"])):
        beside = against.get(name)
        told = (
            "" if beside is None
            else f"{beside['value']:+.4f}{_interval(beside, '+')} {verdict(beside)}"
        )  # fmt: skip
        rows.append(
            [
                f"`{name}`",
                f"{rule['cost']:.4f}{_interval(rule)}",
                told,
                f"{rule['nats']:.4f}",
                f"{rule['undelivered']:.1%}",
                f"{rule['goodput']:.1%}",
                f"{rule['ttft_s']:.2f}",
                f"{1000 * rule['tpot_s']:.1f}",
                f"{rule['attention']:.1f} / {rule['ffn']:.1f}",
                ", ".join(f"{key} {value:g}" for key, value in rule["settings"].items()) or "-",
            ]
        )
    heads = (
        "rule", "cost", "less the lookup's", "nats of what came", "undelivered", "goodput", "TTFT, s",
        "TPOT, ms", "attention / FFN dropped", "settings from train",
    )  # fmt: skip
    said = [f"**`{entry['scenario']}`**", table(heads, rows)]
    if "stretches" in entry:
        said.append(_stretches(entry["stretches"]))
    return "\n\n".join(said)


def _stretches(found: Entry) -> str:
    seconds = sum(part["seconds"] for part in found["parts"])
    searched = {f"{name}, knows the future": each for name, each in found["searches"].items()}
    both = {**found["rules"], **searched}
    rows = [
        [f"`{name}`", f"{each['cost']:.4f}", f"{each['nats']:.4f}", f"{each['undelivered']:.1%}"]
        for name, each in sorted(both.items(), key=lambda item: float(item[1]["cost"]))
    ]
    told = (
        f"On {len(found['parts'])} stretches of test, {seconds:,} s, beside searches that know it:"
    )
    return told + "\n\n" + table(("rule", "cost", "nats of what came", "undelivered"), rows)


def _interval(found: Entry, sign: str = "") -> str:
    """Nothing where test is a single part: how the next would differ is not known then."""
    return "" if found["low"] is None else f" [{found['low']:{sign}.4f}, {found['high']:{sign}.4f}]"


def verdict(beside: Entry) -> str:
    """In a word, whether a rule costs less than the lookup; its interval decides."""
    if beside["low"] is None:
        return "undecided: one part"
    if beside["high"] < 0:
        return "less"
    return "more" if beside["low"] > 0 else "not told apart"
