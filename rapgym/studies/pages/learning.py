"""Learning, in Markdown: seeds, ablations, transfer, fine-tuning, from the bench and learning.json."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from rapgym.bench.records import Score
from rapgym.bench.verdicts import LEAST_ROOM
from rapgym.report import bench as bench_report
from rapgym.report import learning as learning_findings
from rapgym.report.markdown import table
from rapgym.scenarios.catalogue import shipped

Record = dict[str, Any]


def section(found: dict[str, Any]) -> str:
    """What learning.json holds."""
    makers = {
        "ablations": ablations,
        "transfer": transfer,
        "finetune": finetune,
    }
    parts = [make(found[name], found["ends"]) for name, make in makers.items() if name in found]
    return "\n\n".join(parts)


def carried(found: dict[str, Any]) -> str:
    """Whether what was learned on one scenario serves another, in one paragraph."""
    own, other = list[float](), list[float]()
    for record in found["transfer"]:
        points = foresight(record["test_cost"], found["ends"][record["scenario"]])
        if points is not None:
            (own if record["variant"] == record["scenario"] else other).append(points)
    worse = sum(points < 0 for points in other)
    return (
        "**Carrying over**: `hindsight` has a median of "
        f"{np.median(own):.0f} points of foresight on the scenario that it was trained on, and of "
        f"{np.median(other):.0f} on another; in {worse} of {len(other)} pairs it costs more than the lookup there. "
        "Retrain it for another card, host link or traffic."
    )


def champions(entries: Sequence[Score]) -> str:
    """The learned champion beside the other one, and all that learn."""
    rows = []
    for name, group in bench_report.by_scenario(entries).items():
        both, lead = learning_findings.champions(group), learning_findings.lead(group)
        if both is None:
            continue
        learned, other = both
        costs = [f"{e.policy} {e.cost:.4f}" for e in group if e.kind == "learned"]
        rows.append(
            [
                f"`{name}`",
                f"`{learned.policy}` {learned.cost:.4f}",
                f"{min(learned.seed_costs):.4f} to {max(learned.seed_costs):.4f}",
                f"`{other.policy}` {other.cost:.4f}",
                "-" if lead is None else f"{lead[0]:+.1f} [{lead[1]:.1f}, {lead[2]:.1f}]",
                f"{learned.decision_us_p50:.0f} / {other.decision_us_p50:.0f}",
                ", ".join(costs),
            ]
        )
    told = (
        "Both champions are chosen on validation. The lead is in points of foresight: a hundredth of what "
        "the lookup costs above the bound; its 95 % interval is of rows, of training seeds, of the choice "
        "on validation and of the table's error. Validation stops no training: a policy that is "
        "judged there was stopped by rows before it."
    )
    heads = ("scenario", "learned champion", "of its seeds", "champion that does not learn",
             "lead in points [95 %]", "us a decision, p50", "all that learn")  # fmt: skip
    return told + "\n\n" + table(heads, rows)


def ablations(records: Sequence[Record], ends: dict[str, dict[str, float]]) -> str:
    """What each input and the look ahead are worth."""
    variants, names = _in_order(records, "variant"), _in_order(records, "scenario")
    rows = []
    for name in names:
        cells = [f"`{name}`"]
        for variant in variants:
            some = [r for r in records if (r["scenario"], r["variant"]) == (name, variant)]
            validation = np.mean([r["validation_cost"] for r in some])
            test = [r["test_cost"] for r in some]
            spread = (max(test) - min(test)) / 2
            cells.append(f"{validation:.4f}, {np.mean(test):.4f} ± {spread:.4f}")
        rows.append(cells)
    seeds = len({r["seed"] for r in records})
    told = (
        f"**Ablations.** `hindsight` with one thing taken away, retrained with {seeds} seeds, told of fit "
        "alone. Mean cost on validation, then on test with half the spread of the seeds: differences "
        "within it say nothing."
    )
    return told + "\n\n" + table(("scenario", *variants), rows)


def transfer(records: Sequence[Record], ends: dict[str, dict[str, float]]) -> str:
    """Foresight of what was trained on one scenario, tested on another."""
    names = _in_order(records, "scenario")
    rows = []
    for learned in names:
        cells = [f"`{learned}`"]
        for tested in names:
            some = [r for r in records if (r["variant"], r["scenario"]) == (learned, tested)]
            points = foresight(_mean(some), ends[tested])
            shown = "-" if points is None else f"{points:.0f}"
            cells.append(f"**{shown}**" if learned == tested else shown)
        rows.append(cells)
    seeds = len({r["seed"] for r in records})
    told = (
        "**Does it carry over?** Points of foresight on test (0 the lookup, 100 the bound) of `hindsight`, "
        f"trained on the scenario of the row, tested on that of the column; "
        f"{seeds} of the seeds. Columns differ in card, restore time, notice, model shape, format and traffic; the "
        "policy is told of the column's bytes and table when it begins, and is not trained again."
    )
    return told + "\n\n" + table(("trained on", *(f"`{name}`" for name in names)), rows)


def finetune(records: Sequence[Record], ends: dict[str, dict[str, float]]) -> str:
    """A policy of other traffic on one's own recording: before and after, and one trained from scratch."""
    rows = []
    (name,) = _in_order(records, "scenario")
    for variant in _in_order(records, "variant"):
        some = [r for r in records if r["variant"] == variant]
        test = [r["test_cost"] for r in some]
        points = foresight(_mean(some), ends[name])
        rows.append(
            [
                variant,
                f"{np.mean([r['validation_cost'] for r in some]):.4f}",
                f"{_mean(some):.4f} ({min(test):.4f} to {max(test):.4f})",
                "-" if points is None else f"{points:.0f}",
                "-" if variant == "before" else f"{np.median([r['seconds'] for r in some]):.0f}",
            ]
        )
    told = (
        f"**On one's own recording.** `hindsight` of other traffic on `{name}`: one policy before, and after `rapgym "
        "train hindsight --from`, and others trained there from scratch (anew); the mean of "
        f"{len({r['seed'] for r in records})} seeds, the least and the most."
    )
    heads = ("policy", "validation", "test", "foresight", "seconds of training")
    return told + "\n\n" + table(heads, rows)


def foresight(cost: float, ends: dict[str, float]) -> float | None:
    """Points of foresight of a cost; None where the lookup leaves nothing to win."""
    room = ends["frontier"] - ends["bound"]
    return 100 * (ends["frontier"] - cost) / room if room >= LEAST_ROOM else None


def _mean(records: Sequence[Record]) -> float:
    return float(np.mean([r["test_cost"] for r in records]))


def _in_order(records: Iterable[Record], field: str) -> list[str]:
    names = dict.fromkeys(r[field] for r in records)
    order = [story.name for story in shipped()]
    return sorted(names, key=order.index) if field == "scenario" else [*names]
