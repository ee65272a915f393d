"""What the serving study found, in tables."""

from collections.abc import Sequence
from typing import Any

from rapgym.bench.serving import results
from rapgym.bench.serving.cells import KEEP_ALL, PATIENT, PATIENT_KEEP_ALL, PATIENT_LOOKUP, TUNED
from rapgym.files import places
from rapgym.quality.history import Share
from rapgym.report import bench as bench_report
from rapgym.report.bench import listed
from rapgym.report.markdown import table
from rapgym.report.serving import LATENCY_HEADS, bounds, by_cost, judged, latency_cells

Entry = dict[str, Any]
LATENCY = (
    "Percentiles are over the requests that finished and carry no interval; shares are of all that arrived. What is "
    "shed or lost misses every level:"
)
BENCH = places.RESULTS / "serving-bench.csv.xz"
BENCHED = (
    "rapgym bench --scenario serve-chat-bursty --scenario serve-chat-gqa --out "
    f"baselines/results/{BENCH.name}"
)
PLAIN = (
    "engine",
    "keep-all-drop",
    "fixed",
    "lookup",
)  # what a line of the brief table always names
SAID = {
    "engine": "The engine of today",
    "keep-all-drop": "Keeping all blocks until memory falls",
    "fixed": "One pair of counts for good, the best on train,",
}


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


def brief(found: Entry) -> str:
    """A line a scenario: the engine of today, what beats it, and what knowing the future would save."""
    rows = [_brief(entry) for entry in found["scenarios"]]
    heads = (
        "scenario", "engine of today", "keep-all, drop", "best counts for good", "lookup", "best other rule",
        "of the stretches: lookup", "best search",
    )  # fmt: skip
    said_of = "\n".join(f"- {line}" for line in said(found["scenarios"]))
    return "\n\n".join([table(heads, rows), said_of, patient(found["scenarios"])])


def patient(entries: Sequence[Entry]) -> str:
    """What rules cost that also choose how long a request may wait."""
    rows = []
    for entry in entries:
        rules, against = entry["rules"], entry["patient_against_lookup"]
        cells = [
            f"{_beside(rules[name], against.get(name))} ({rules[name]['settings']['shed_s']:g} s)"
            for name in (TUNED, PATIENT_KEEP_ALL, PATIENT_LOOKUP)
        ]
        rows.append([f"`{entry['scenario']}`", *cells])
    heads = ("scenario", "engine of today", "keep-all, drop", "lookup")
    told = [judged(entry["patient_against_lookup"][PATIENT_KEEP_ALL]) for entry in _known(entries)]
    return (
        "All of these give a request up that has no token after the time that its scenario states. Patient rules "
        "choose that time on train (in brackets); verdicts stand beside the patient lookup:\n\n"
        f"{table(heads, rows)}\n\n"
        f"- Patiently keeping all blocks until memory falls costs more than the patient lookup on "
        f"{told.count('more')} of {len(told)} scenarios with intervals, less on {told.count('less')}."
    )


def _known(entries: Sequence[Entry]) -> list[Entry]:
    """Those of which something is claimed: with intervals, and whose numbers carry a claim."""
    return [each for each in entries if each["claims"] and not _is_single(each)]


def _is_single(entry: Entry) -> bool:
    """Whether test is one part, so that there are no intervals."""
    return entry["rules"]["lookup"]["low"] is None


def _brief(entry: Entry) -> list[str]:
    rules, against = entry["rules"], entry["against_lookup"]
    others = [name for name in rules if name not in PLAIN and name not in PATIENT]
    other = min(others, key=lambda name: rules[name]["cost"])
    searched = ["-", "-"]
    if "stretches" in entry:
        stretches = entry["stretches"]
        least = min(each["cost"] for each in stretches["searches"].values())
        searched = [f"{stretches['rules']['lookup']['cost']:.4f}", f"{least:.4f}"]
    return [
        f"`{entry['scenario']}`",
        *(_beside(rules[name], against.get(name)) for name in PLAIN),
        f"`{other}` {_beside(rules[other], against[other])}",
        *searched,
    ]


def _beside(rule: Entry, beside: Entry | None) -> str:
    known = beside is not None and beside["low"] is not None
    return f"{rule['cost']:.4f}" + (f", {judged(beside)}" if beside and known else "")


def said(entries: Sequence[Entry]) -> list[str]:
    """What follows, in sentences: how often each plain rule costs more than the lookup."""
    known = _known(entries)
    lines = []
    for name, words in SAID.items():
        words_of = [judged(entry["against_lookup"][name]) for entry in known]
        lines.append(
            f"{words} costs more than the lookup on {words_of.count('more')} of {len(known)} scenarios with "
            f"intervals, less on {words_of.count('less')}."
        )
    single = [f"`{entry['scenario']}`" for entry in entries if _is_single(entry)]
    if single:
        lines.append(
            f"{listed(single)}: a case study, whose test is one part, so that nothing is claimed."
        )
    silent = [f"`{entry['scenario']}`" for entry in entries if not entry["claims"]]
    if silent:
        lines.append(
            f"{listed(silent)}: train had no card and load with enough to decide, so that nothing is claimed."
        )
    return lines


def sentence(found: Entry) -> str:
    """What the scenarios with intervals say, for a page that says more."""
    told, words = list[str](), set[str]()
    for entry in _known(found["scenarios"]):
        both = entry["against_lookup"][KEEP_ALL], entry["patient_against_lookup"][PATIENT_KEEP_ALL]
        words |= {judged(each) for each in both}
        less, patient_less = (
            f"{each['value']:.3f} [{each['low']:.3f}, {each['high']:.3f}]" for each in both
        )
        told.append(f"{less} on `{bench_report.plain(entry['scenario'])}` ({patient_less})")
    pays = ": deciding ahead pays" if words == {"more"} else ""
    return (
        "**Where requests wait** (`RAP-Serve-v0`, synthetic days): beside dropping as memory falls the lookup saves "
        f"{listed(told)}; in brackets where both choose how long requests wait{pays}. Intervals by hours."
    )


def shares(found: Sequence[Share]) -> str:
    """What stays of a drop's damage in what was computed under it, as it was measured."""
    rows = [
        [
            each.kind, f"{each.count}", f"{each.throughout:.3f}", f"{each.context:.3f}", f"{each.answer:.3f}",
            f"{each.share:.2f} ({each.share_se:.2f})",
        ]
        for each in found
    ]  # fmt: skip
    heads = (
        "blocks",
        "dropped",
        "throughout, nats",
        "in the context",
        "in the answer",
        "share that stays (error)",
    )
    return table(heads, rows)


def latency() -> str:
    """What requests waited for under each policy of the published bench, or how to make that."""
    if not BENCH.is_file():
        return f"Not made for these worlds yet: `{BENCHED}` makes it."
    found = results.read(BENCH)
    told = [
        f"Made by `{BENCHED}` on {found.header['date'][:10]}; `rapgym verify` of that file serves every second again."
    ]
    for name in dict.fromkeys(score.scenario for score in found.scores):
        played = [s for s in found.scores if s.scenario == name and s.cost is not None]
        rows = [[f"`{each.policy}`", *(latency_cells(each.as_json()) or [])] for each in played]
        told += [f"**`{name}`**, the least cost first", table(("policy", *LATENCY_HEADS), rows)]
    return "\n\n".join(told)


def findings(found: Entry) -> str:
    """What each rule cost on test, beside the tuned lookup, and what searches that know the future reach."""
    return "\n\n".join(_costs(entry) for entry in found["scenarios"])


def _costs(entry: Entry) -> str:
    against = entry["against_lookup"]
    rows = []
    for name, rule in by_cost(entry["rules"]):
        beside = against.get(name)
        told = (
            "" if beside is None
            else f"{beside['value']:+.4f}{bounds(beside, '+')} {verdict(beside)}"
        )  # fmt: skip
        rows.append(
            [
                f"`{name}`",
                f"{rule['cost']:.4f}{bounds(rule)}",
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
    latency = [
        [f"`{name}`", *cells]
        for name, rule in by_cost(entry["rules"])
        if (cells := latency_cells(rule)) is not None
    ]
    if latency:
        said += [LATENCY, table(("rule", *LATENCY_HEADS), latency)]
    if "stretches" in entry:
        said.append(_stretches(entry["stretches"]))
    return "\n\n".join(said)


def _stretches(found: Entry) -> str:
    seconds = sum(part["seconds"] for part in found["parts"])
    searched = {f"{name}, knows the future": each for name, each in found["searches"].items()}
    both = {**found["rules"], **searched}
    rows = [
        [f"`{name}`", f"{each['cost']:.4f}", f"{each['nats']:.4f}", f"{each['undelivered']:.1%}"]
        for name, each in by_cost(both)
    ]
    told = (
        f"On {len(found['parts'])} stretches of test, {seconds:,} s, beside searches that know it:"
    )
    return told + "\n\n" + table(("rule", "cost", "nats of what came", "undelivered"), rows)


def verdict(beside: Entry) -> str:
    """`judged`, and why where that is so from the start."""
    return judged(beside) + (": one part" if beside["low"] is None else "")
