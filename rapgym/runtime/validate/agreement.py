"""Predicted against measured: row by row, in total, and whether policies rank the same."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from rapgym.model import blocks
from rapgym.model.profiles import DeviceProfile
from rapgym.runtime.validate.profiling import predicted_seconds
from rapgym.runtime.validate.ranking import SURE
from rapgym.runtime.validate.records import POSITION_BOUNDS, Record, outcome_record
from rapgym.runtime.validate.trials import Trial
from rapgym.world import simulator
from rapgym.world.records import World

# On a GPU; on a CPU seconds are reported and no goal.
GOALS = {"bytes": 0.02, "nats": 0.02, "seconds": 0.05}
KINDS = ("prefill", "decode", "drop", "restore")


def predicted(world: World, trial: Trial) -> Record:
    """What the simulated world says of a trial."""
    state, proposal, source, strict = trial.arguments(world)
    _, outcome = simulator.step(world, state, proposal, source, strict)
    return outcome_record(outcome)


def row(world: World, record: Record, profile: DeviceProfile) -> Record:
    """Both sides of one trial.

    Args:
        world: with the columns that judge: test columns for test rows.
    """
    trial, found = Trial(**record["trial"]), record["measured"]
    told, seen = predicted(world, trial), record["outcome"]
    count, total, squares = _moments([part["tokens"]["prompt"] for part in found["segments"]]
                                     + [part["tokens"]["answer"] for part in found["segments"]])  # fmt: skip
    answers, answer_total, _ = _moments([part["tokens"]["answer"] for part in found["segments"]])
    spread = max(squares / count - (total / count) ** 2, 0.0) if count else 0.0
    sides: Record = {
        "row": trial.row,
        "tokens": int(world.rows.prompt_tokens[trial.row] + world.rows.reserved_tokens[trial.row]),
        "dropped": [int(n) for n in blocks.dropped_counts(_set(told["kept"], world))],
        "same": {name: told[name] == seen[name] for name in ("kept", "kept_end", "reason")},
        "reason": seen["reason"],
        "limit_bytes": found["limit_bytes"],
        "over_bytes": found["over_bytes"],
        "broke": found["broke"],
        "peak_bytes": _both(told["used_bytes"], max(found["peak_bytes"], default=0)),
        "nats": _both(_served_nats(world, told), _served_nats(world, seen)),
        "nats_se": float(np.sqrt(spread / count)) if count else None,
        "scored_tokens": int(count),
        "answer_nats": answer_total / answers if answers else None,
        "answer_tokens": int(answers),
        "cost": _both(_cost(world, told), _cost(world, seen)),
    }
    for name in ("stall_s", "emergency_s", "refused_s"):
        sides[name] = _both(told[name], seen[name])
    spent = {
        "prefill": sum(part["prefill_s"] for part in found["segments"]),
        "decode": sum(part["decode_s"] for part in found["segments"]),
        "drop": found["drop_s"],
        "restore": found["restore_s"],
    }
    if profile.latency is None:
        sides["seconds"] = {name: _both(None, spent[name]) for name in KINDS}
    else:
        guessed = predicted_seconds(profile, world.blocks, record)
        sides["seconds"] = {name: _both(guessed[name], spent[name]) for name in KINDS}
    return sides


def _set(key: str, world: World) -> Any:
    return blocks.kept_of(key, world.blocks)


def _both(told: Any, seen: Any) -> Record:
    return {"predicted": told, "measured": seen}


def _moments(parts: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    count, total, squares = np.array([*parts, [0, 0, 0]], dtype=float).sum(axis=0).tolist()
    return count, total, squares


def _served_nats(world: World, side: Record) -> float | None:
    """Mean over the row's served seconds, nats above dense."""
    served = world.window_s - side["stall_s"] - side["emergency_s"] - side["refused_s"]
    return side["loss_s"] / served if served > 0 else None


def _cost(world: World, side: Record) -> float:
    """Nats an output token above dense."""
    lost = side["stall_s"] + side["emergency_s"] + side["refused_s"]
    return float((side["loss_s"] + world.ceiling * lost) / world.window_s)


def totals(
    rows: Sequence[Record], records: Sequence[Record], n: int, sequence_tokens: int
) -> Record:
    """Errors over all distinct trials, term by term.

    Args:
        n: blocks of the model.
        sequence_tokens: length of the sequences on which the table was measured.
    """
    served = [each for each in rows if each["peak_bytes"]["predicted"] and not each["broke"]]
    peaks = np.array([[*each["peak_bytes"].values()] for each in served], dtype=float)
    relative = peaks[:, 1] / peaks[:, 0] - 1 if len(peaks) else np.zeros(1)
    found: Record = {
        "trials": len(rows),
        "same": {n: sum(r["same"][n] for r in rows) for n in ("kept", "kept_end", "reason")},
        "bytes": {
            "mean_relative": float(np.abs(relative).mean()),
            "worst_relative": float(relative[np.abs(relative).argmax()]),
        },
        "nats": _nats_total(served) | {"by_position": _by_position(records, n, sequence_tokens)},
        "seconds": {kind: _seconds_total(rows, kind) for kind in KINDS},
    }
    for name in ("stall_s", "emergency_s", "refused_s"):
        sides = ("predicted", "measured")
        found[name] = {side: float(sum(each[name][side] for each in rows)) for side in sides}
    return found


def _seconds_total(rows: Sequence[Record], kind: str) -> Record:
    told = [each["seconds"][kind]["predicted"] for each in rows]
    seen = np.array([each["seconds"][kind]["measured"] for each in rows])
    if not rows or None in told:
        return _both(None, float(seen.sum())) | {"relative": None, "median_relative": None}
    guessed = np.array(told)
    happened = seen > 0
    each = np.abs(guessed[happened] / seen[happened] - 1)
    return _both(float(guessed.sum()), float(seen.sum())) | {
        "relative": float(guessed.sum() / seen.sum() - 1) if seen.sum() else None,
        "median_relative": float(np.median(each)) if len(each) else None,
    }


def _nats_total(served: Sequence[Record]) -> Record:
    """Over trials that dropped something, by scored tokens; errors know that trials share text."""
    pruned = [r for r in served if any(r["dropped"]) and r["scored_tokens"]]
    if not pruned:
        return {"trials": 0, "predicted": None, "measured": None, "difference": None, "se": None}
    weight = np.array([each["scored_tokens"] for each in pruned], dtype=float)
    told, seen = (
        np.array([each["nats"][side] for each in pruned]) for side in ("predicted", "measured")
    )
    places = np.array([each["row"] for each in pruned])
    difference = float(np.average(seen - told, weights=weight))
    left = weight * (seen - told - difference)
    by_row = np.array([left[places == place].sum() for place in np.unique(places)])
    found: Record = _both(
        float(np.average(told, weights=weight)), float(np.average(seen, weights=weight))
    )
    found |= {
        "trials": len(pruned),
        "rows": len(by_row),
        "tokens": int(weight.sum()),
        "difference": difference,
        "se": float(np.sqrt((by_row**2).sum()) / weight.sum()) if len(by_row) > 1 else None,
        "mean_absolute": float(np.abs(seen - told).mean()),
    }
    return found


def _by_position(records: Sequence[Record], n: int, sequence_tokens: int) -> Record:
    """Measured nats of pruned rows by place in the request, and as the table would weigh places."""
    edges = [0, *POSITION_BOUNDS]
    sums = np.zeros((len(edges), 3))
    for record in records:
        for part in record["measured"]["segments"]:
            if not blocks.kept_of(part["kept"], n).all():
                sums += np.array(part["tokens"]["position"], dtype=float)
    nats = np.divide(sums[:, 1], sums[:, 0], out=np.full(len(sums), np.nan), where=sums[:, 0] > 0)
    bounds = [*edges, sequence_tokens]
    share = np.array([max(0, min(stop, sequence_tokens) - start)
                      for start, stop in pairwise(bounds)], dtype=float)  # fmt: skip
    seen = (sums[:, 0] > 0) & (share > 0)
    weighed = float(np.average(nats[seen], weights=share[seen])) if seen.any() else None
    return {
        "from": edges,
        "tokens": sums[:, 0].astype(int).tolist(),
        "nats": [None if np.isnan(value) else float(value) for value in nats],
        "at_table_lengths": weighed,
    }


def verdicts(found: Record, policy: Record, *, gpu: bool) -> list[Record]:
    """Goal by goal: met, missed (and by which term), or not to be told apart from it."""
    worst = abs(found["bytes"]["worst_relative"])
    nats = found["nats"]
    lines = [_goal("bytes", worst, None)]
    if nats["difference"] is not None:
        lines.append(_goal("nats", abs(nats["difference"]), nats["se"]))
    for kind in KINDS:
        off = found["seconds"][kind]["relative"]
        if off is not None:
            line = _goal("seconds", abs(off), None) | {"goal": f"seconds of {kind}"}
            lines.append(line if gpu else line | {"verdict": "reported"})
    order = {pair["verdict"] for pair in policy["pairs"]}
    ranking = "missed" if "other order" in order else "met"
    lines.append(
        {"goal": "ranking", "limit": None, "found": policy["spearman"], "verdict": ranking}
    )
    return lines


def _goal(name: str, found: float, se: float | None) -> Record:
    limit = GOALS[name]
    verdict = "met" if found <= limit else "missed"
    if se is not None and abs(found - limit) <= SURE * se:
        verdict = "undecided"
    return {"goal": name, "limit": limit, "found": found, "se": se, "verdict": verdict}
