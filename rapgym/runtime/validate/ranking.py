"""Whether policies rank the same on the device as in the simulated world, and which are ties."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from rapgym.arrays import FloatArray
from rapgym.quality.predictor_tuning import spearman
from rapgym.runtime.validate.records import Record
from rapgym.runtime.validate.trials import Trial
from rapgym.world.records import World

SURE = 2.0  # standard errors beyond which a difference is taken for one


def policies(
    world: World, rows: Mapping[Trial, Record], trials: Mapping[str, Mapping[int, Trial]]
) -> Record:
    """Cost of each policy over the replayed rows, both ways, their order, and which are ties.

    Args:
        rows: trial -> both sides of it; trials that are alike share one.
        trials: policy -> row -> trial.
    """
    names = list(trials)
    places = sorted(trials[names[0]])
    output = world.rows.output_tokens[places].astype(float)
    cost = {
        side: np.array(
            [[rows[trials[name][place]]["cost"][side] for place in places] for name in names]
        )
        for side in ("predicted", "measured")
    }
    total = {side: each @ output / output.sum() for side, each in cost.items()}
    off = total["measured"] - total["predicted"]
    # What all policies are off by changes no order.
    error = float(np.sqrt(((off - off.mean()) ** 2).mean()) * np.sqrt(2))
    pairs = []
    for a, b in combinations(range(len(names)), 2):
        seen = cost["measured"][a] - cost["measured"][b]
        spread = _pair_error(rows, trials, (names[a], names[b]), places, output)
        told = float(total["predicted"][a] - total["predicted"][b])
        pairs.append(
            {
                "policies": [names[a], names[b]],
                "predicted": told,
                "measured": float(seen @ output / output.sum()),
                "error": max(error, SURE * spread),
                "verdict": _verdict(
                    told, float(seen @ output / output.sum()), max(error, SURE * spread)
                ),
            }
        )
    return {
        "costs": [
            {"policy": name, "predicted": float(total["predicted"][i]),
             "measured": float(total["measured"][i])}
            for i, name in enumerate(names)
        ],
        "spearman": _spearman(total["predicted"], total["measured"]),
        "error": error,
        "pairs": pairs,
    }  # fmt: skip


def _spearman(a: FloatArray, b: FloatArray) -> float | None:
    return spearman(a, b) if len(a) > 1 and np.ptp(a) > 0 and np.ptp(b) > 0 else None


def _verdict(told: float, seen: float, error: float) -> str:
    if abs(seen) <= error:
        return "tie"
    return "same order" if told * seen > 0 else "other order"


def _pair_error(
    rows: Mapping[Trial, Record],
    trials: Mapping[str, Mapping[int, Trial]],
    pair: tuple[str, str],
    places: Sequence[int],
    output: FloatArray,
) -> float:
    """Standard error of a difference in cost, from the tokens that were scored."""
    squares = 0.0
    for place, weight in zip(places, output / output.sum(), strict=True):
        one, other = (rows[trials[name][place]] for name in pair)
        if one is not other:
            squares += sum((weight * (side["nats_se"] or 0.0)) ** 2 for side in (one, other))
    return float(np.sqrt(squares))
