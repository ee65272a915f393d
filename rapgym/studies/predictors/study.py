"""Kinds of predictors of nll(kept), compared on kept sets that they were not fitted to.

    OPENBLAS_NUM_THREADS=1 python -m rapgym.studies.predictors.study    make results/predictors.json, print it

Every kind is given the same rows: a fifth of each design (random, near the greedy orders, grid) is
held out at once, each fifth in turn, and all of it again with other fifths. Each chooses its
settings inside the rows that it was given. Calibration columns, and test columns alone, mean of
the domains; on test columns one kind more starts from calibration columns, as the package does.
Beside it: a whole design held out, and errors when fewer sets are measured. It takes minutes on
one core.
"""

import argparse
import json
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import rapgym
from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.files import places, writing
from rapgym.quality.predictor import Sets
from rapgym.quality.table import QualityTable
from rapgym.studies.predictors.kinds import AVERAGED, KINDS
from rapgym.studies.predictors.kinds.processes import starting_from
from rapgym.studies.predictors.kinds.shared import Fit, Kind
from rapgym.studies.predictors.page import section
from rapgym.studies.predictors.scores import METRICS, counts_of, interval, resampled, scores

NAME = "smollm2-135m"
OUT = places.RESULTS / "predictors.json"
COMMAND = "OPENBLAS_NUM_THREADS=1 python -m rapgym.studies.predictors.study"
DESIGNS = ("random", "near", "grid")
FOLDS, REPEATS, SEED = 5, 3, 0
SHARES = (0.125, 0.25, 0.5)  # of the fitting rows, beside all of them
MEAN, FROM_CALIBRATION = "mean of four", "shipped from calibration"


@dataclass(frozen=True, slots=True)
class Timed:
    """What one fit said of the sets it had not seen, and how long it took."""

    said: FloatArray
    fit_s: float  # its search for settings included
    one_s: float  # to answer for one set
    thousand_s: float  # for 1,000 sets


def rows_by_design(sets: Sets, designs: Sequence[str]) -> dict[str, IntArray]:
    """The rows that may be held out: those of each design on the text that is answered for.

    Designs of which nothing is measured are left out.
    """
    named = np.array(designs)
    rows = {d: np.flatnonzero((named == d) & (sets.text == 0)) for d in DESIGNS}
    return {design: of_it for design, of_it in rows.items() if of_it.size}


def folds_of(
    by_design: Mapping[str, IntArray], count: int, folds: int, rng: np.random.Generator
) -> IntArray:
    """Which fold holds each of `count` rows out, the same share of each design; -1: none does."""
    fold = np.full(count, -1)
    for rows in by_design.values():
        fold[rng.permutation(rows)] = np.arange(len(rows)) % folds
    return fold


def fitting_rows(sets: Sets, out: BoolArray, share: float, rng: np.random.Generator) -> IntArray:
    """Rows that a fit is given: a share of those not held out, the first of them at any share the
    dense set and single removals, which are measured before all else."""
    inside = np.flatnonzero(~out)
    few = (~sets.kept[inside]).sum(axis=1) <= 1
    drawn = rng.permutation(inside[~few])
    return np.sort(np.concatenate([inside[few], drawn[: round(share * len(drawn))]]))


def timed(kind: Kind, given: Sets, asked: BoolArray, seed: int) -> Timed:
    begin = time.perf_counter()
    fit = kind(given, np.random.default_rng(seed))
    fit_s = time.perf_counter() - begin
    said = fit(asked)
    thousand = asked[np.arange(1000) % len(asked)]
    return Timed(said, fit_s, _least_s(fit, asked[:1], 10), _least_s(fit, thousand, 1))


def _least_s(fit: Fit, asked: BoolArray, times: int) -> float:
    found = []
    for _ in range(times):
        begin = time.perf_counter()
        fit(asked)
        found.append(time.perf_counter() - begin)
    return min(found)


def held_out(
    sets: Sets, fold: IntArray, kinds: Mapping[str, Kind], seed: int, share: float = 1.0
) -> dict[str, tuple[FloatArray, list[Timed]]]:
    """What each kind says of each row in a fold (NaN elsewhere), by fits that lack the fold's rows."""
    found = {name: (np.full(len(fold), np.nan), list[Timed]()) for name in kinds}
    for number in range(fold.max() + 1):
        out = fold == number
        given = sets.part(fitting_rows(sets, out, share, np.random.default_rng([seed, number])))
        for name, kind in kinds.items():
            one = timed(kind, given, sets.kept[out], seed)
            found[name][0][out] = one.said
            found[name][1].append(one)
    return found


def _with_mean(said: dict[str, FloatArray]) -> dict[str, FloatArray]:
    if not {*AVERAGED} <= {*said}:
        return said
    return said | {MEAN: np.mean([said[name] for name in AVERAGED], axis=0)}


def compared(
    sets: Sets,
    designs: Sequence[str],
    kinds: Mapping[str, Kind],
    repeats: int,
    folds: int,
    shares: Sequence[float] = (),
) -> dict[str, Any]:
    """The comparison on one list of measured sets, as the results file holds it.

    Args:
        shares: of the fitting rows, for the learning curve, smallest first. Where there are none,
            no curve is made and no whole design is held out.
    """
    by_design = rows_by_design(sets, designs)
    folded, runs = [], []
    for repeat in range(repeats):
        rng = np.random.default_rng([SEED, repeat])
        folded.append(folds_of(by_design, len(sets.nll), folds, rng))
        runs.append(held_out(sets, folded[repeat], kinds, seed=repeat))
    said = _with_mean({name: np.stack([run[name][0] for run in runs]) for name in kinds})
    rng = np.random.default_rng(SEED)
    in_design = scores(sets.nll, by_design, said, rng)
    times = {name: [t for run in runs for t in run[name][1]] for name in kinds}
    found = {
        "rows": {
            "own_text": int((sets.text == 0).sum()),
            "other_text": int((sets.text != 0).sum()),
        },
        "sets": {design: len(rows) for design, rows in by_design.items()},
        "median_se": round(float(np.median(sets.nll_se[sets.text == 0])), 4),
        "kinds": {
            name: _times([times[n] for n in (AVERAGED if name == MEAN else (name,))])
            | {"held_out": in_design[name]}
            for name in said
        },
    }
    if not shares:
        return found
    whole = np.full(len(sets.nll), -1)
    for number, rows in enumerate(by_design.values()):
        whole[rows] = number
    unseen = held_out(sets, whole, kinds, seed=0)
    unseen_said = _with_mean({name: run[0][None] for name, run in unseen.items()})
    fewer = [held_out(sets, folded[0], kinds, seed=0, share=share) for share in shares]
    return found | {
        "unseen_design": scores(sets.nll, by_design, unseen_said, rng),
        "curve": [
            _step(sets, folded[0], share, {name: run[name][0] for name in kinds})
            for share, run in zip([*shares, 1.0], [*fewer, runs[0]], strict=True)
        ],
    }


def _step(sets: Sets, fold: IntArray, share: float, said: dict[str, FloatArray]) -> dict[str, Any]:
    """Errors on sets under 2 nats, all designs together, when a share of the rows is measured."""
    here = np.flatnonzero((fold >= 0) & (sets.nll < 2))
    counts = counts_of(len(here), np.random.default_rng(SEED))
    given = fitting_rows(sets, fold == 0, share, np.random.default_rng([0, 0]))
    kinds = {}
    for name, one in _with_mean(said).items():
        value = resampled(sets.nll[here], one[None, here], counts)
        kinds[name] = {metric: interval(value[metric]) for metric in METRICS}
    return {
        "share": share,
        "fitting_rows": len(given),
        "of_own_text": int((sets.text[given] == 0).sum()),
        "sets": len(here),
        "kinds": kinds,
    }


def _times(each: Sequence[Sequence[Timed]]) -> dict[str, float]:
    """Medians over fits, seconds; added up over the kinds that one is made of."""
    return {
        column: float(f"{sum(np.median([getattr(t, column) for t in ts]) for ts in each):.2g}")
        for column in ("fit_s", "one_s", "thousand_s")
    }


def compare(table: QualityTable, repeats: int = REPEATS, folds: int = FOLDS) -> dict[str, Any]:
    """Everything, for both splits of a table."""
    begin = time.perf_counter()
    calib, test = table.calibration().fitted_sets(), table.test().fitted_sets()
    more = {FROM_CALIBRATION: starting_from(calib[0], test[0].kept)}
    found = {
        "command": COMMAND,
        "table": {"name": table.name, "sha256": table.sha256},
        "model": table.model,
        "seed": SEED,
        "folds": folds,
        "repeats": repeats,
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "rapgym": rapgym.__version__,
        },
        "mean_of": [*AVERAGED],
        "splits": {
            "calib": compared(*calib, KINDS, repeats, folds, SHARES),
            "test": compared(*test, KINDS | more, repeats, folds),
        },
    }
    return found | {"wall_s": round(time.perf_counter() - begin)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--table", default=NAME, help="a shipped table's name, or a path")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    found = compare(QualityTable.load(arguments.table), arguments.repeats)
    with writing.written_aside(arguments.out) as file:
        file.write((json.dumps(found, indent=1) + "\n").encode())
    print(section(found))


if __name__ == "__main__":
    main()
