"""How often intervals hold, and verdicts are right, where the truth is known: `results/coverage.json`.

    python -m rapgym.studies.coverage [--runs 1000] [--out baselines/results/coverage.json]

Three questions, each of the functions that `bench` itself calls:

- *made*: rows that are drawn at random, alike from burst to burst, whose truth is theirs in the long
  run. How often does the interval cover it; how often is a verdict *better* or *worse* where there is no
  difference; how often is it found where it is as large as the least effect that is named?
- *days*: the lookup and three other cheap policies on the package's long series. How often does the
  interval of a stretch, an hour for instance, cover the difference of its whole day? Where not in 90
  to 98 %, what is said of such stretches is called conditional on these rows.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rapgym.arrays import BoolArray, FloatArray
from rapgym.bench import pieces, score, verdicts
from rapgym.bench.pieces import Pieces
from rapgym.bench.score import Estimate
from rapgym.files import places, provenance, writing
from rapgym.policies import registry
from rapgym.policies.policy import briefing
from rapgym.rollout import rollout
from rapgym.scenarios import catalogue, worlds

OUT = places.RESULTS / "coverage.json"
SCENARIO = "days-large"
# Cheap policies beside the lookup, with settings that nobody tuned on these rows.
OTHERS: tuple[tuple[str, dict[str, float]], ...] = (
    ("frontier-margin", {"margin": 0.05}), ("keep-all", {}), ("gsi", {}),
)  # fmt: skip
DAY_S = 86400
STRETCHES_S = (
    854,
    3600,
    3 * 3600,
    6 * 3600,
    12 * 3600,
)  # the first is the test part of the Azure hour
WITHIN = (0.90, 0.98)  # coverage that an interval of 95 % is held to
SPREAD = 0.5  # of a made burst's cost about its mean, of the logarithm


Rows = tuple[FloatArray, FloatArray, Pieces]  # costs of two policies [T], and the rows' pieces


def bursts(
    rng: np.random.Generator, rows: int, effect: float, *, alike: float, heavy: bool
) -> Rows:
    """Bursts of random length with calm between them, in which two policies pay.

    Args:
        effect: what the first costs more on average, in units of a row's noise.
        alike: correlation of neighbouring rows of a burst's noise (AR(1)).
        heavy: whether a few bursts cost most: a lognormal severity each, drawn anew for both.
    """
    lengths = list[int]()
    while sum(lengths) < rows:
        lengths.append(int(2 + rng.geometric(1 / 6) + rng.geometric(1 / 8)))
    first = np.cumsum([0, *lengths[:-1]])
    of = np.repeat(np.arange(len(lengths)), lengths)[:rows]
    noise, step = rng.standard_normal(rows), np.sqrt(1 - alike**2)
    for t in range(1, rows):
        noise[t] = alike * noise[t - 1] + step * noise[t]
    severity = np.ones(len(lengths))
    if heavy:
        severity = rng.lognormal(-SPREAD, np.sqrt(2 * SPREAD), len(lengths))
    base = 2.0 + severity[of] * rng.random(rows)
    return base + effect + severity[of] * noise, base, Pieces("burst", first[first < rows], rows)


MADE: dict[str, Callable[..., Rows]] = {
    "AR(1) 0.3": partial(bursts, alike=0.3, heavy=False),
    "AR(1) 0.6": partial(bursts, alike=0.6, heavy=False),
    "heavy bursts": partial(bursts, alike=0.3, heavy=True),
}
LENGTHS = (60, 120, 240, 480)  # rows: about 4, 8, 15 and 30 pieces


def compared(
    one: FloatArray, other: FloatArray, output: FloatArray, found: Pieces, seed: int = 0
) -> Estimate:
    """Cost of one less the other's, as `bench` compares two policies; [T] each."""
    drawn = score.resamples(found, np.zeros(1, dtype=np.int64), seed)
    columns = [one[:, None], other[:, None], np.ones((len(one), 1))]
    here, there, whole = drawn.summed(columns, output[:, None].astype(np.int64))
    return score.difference(here, there, whole, found)


def covers(estimate: Estimate, truth: float, *, basic: bool = False) -> bool:
    """Whether an interval holds the truth; of the basic bootstrap, the same turned about the value."""
    low, high = estimate.low, estimate.high
    if basic:
        low, high = 2 * estimate.value - high, 2 * estimate.value - low
    return bool(low <= truth <= high)


def made(runs: int) -> Iterator[dict[str, Any]]:
    """What intervals and verdicts do on rows whose truth is known, a record a kind and length."""
    for name, make in MADE.items():
        for rows in LENGTHS:
            rng = np.random.default_rng([7, rows])
            output = np.ones(rows)
            none = [compared(a, b, output, p, i) for i in range(runs)
                    for a, b, p in (make(rng, rows, 0.0),)]  # fmt: skip
            effect = float(np.nanmedian([each.least for each in none]))
            some = [compared(a, b, output, p, i) for i in range(runs)
                    for a, b, p in (make(rng, rows, effect),)]  # fmt: skip
            counts = [len(make(rng, rows, 0.0)[2]) for _ in range(100)]
            yield {
                "rows": name,
                "length": rows,
                "pieces": float(np.mean(counts)),
                "coverage": _share(covers(each, 0.0) for each in none),
                "coverage_basic": _share(covers(each, 0.0, basic=True) for each in none),
                "false": _share(
                    verdicts.verdict(each, 0.0) in ("better", "worse") for each in none
                ),
                "claims": _share(not np.isnan(each.p) for each in none),
                "least_effect": effect,
                "found": _share(
                    verdicts.verdict(each, 0.0) == "worse" for each in some if not np.isnan(each.p)
                ),
            }


def _share(of: Iterator[bool]) -> float | None:
    every = list(of)
    return float(np.mean(every)) if every else None


def served() -> tuple[dict[str, FloatArray], FloatArray, BoolArray, int]:
    """Every row of the long series: costs by policy, output tokens, whether the full model fits, and
    seconds of a row. Train and test are served apart; calibration columns price both.
    """
    story = catalogue.scenario(SCENARIO)
    told, costs = briefing(story), dict[str, list[FloatArray]]()
    output, fits = list[FloatArray](), list[BoolArray]()
    for split in ("train", "test"):
        world = worlds.world(story, split)
        fits.append(pieces.fitting_rows(world, np.ones(world.blocks, dtype=bool)))
        output.append(world.rows.output_tokens.astype(np.float64))
        for name, options in (("frontier", {}), *OTHERS):
            make = partial(registry.build, registry.entry(name), options)
            log = rollout.run(make, story, split, told)
            costs.setdefault(name, []).append(log.cost[:, 0])
    joined = {name: np.concatenate(parts) for name, parts in costs.items()}
    return joined, np.concatenate(output), np.concatenate(fits), story.window_s


def days(
    costs: dict[str, FloatArray], output: FloatArray, fits: BoolArray, window_s: int, runs: int
) -> Iterator[dict[str, Any]]:
    """How often the interval of a stretch covers its day, a record a policy and length of stretch."""
    per_day = DAY_S // window_s
    whole = [slice(d * per_day, (d + 1) * per_day) for d in range(len(output) // per_day)]
    rng = np.random.default_rng(11)
    for name, _ in OTHERS:
        less = costs[name] - costs["frontier"]
        truth = [float((less * output)[d].sum() / output[d].sum()) for d in whole]
        for seconds in STRETCHES_S:
            rows, held, counts, units = seconds // window_s, list[bool](), list[int](), set[str]()
            for i in range(runs):
                day = int(rng.integers(len(whole)))
                at = whole[day].start + int(rng.integers(per_day - rows + 1))
                part = slice(at, at + rows)
                found = pieces.pieces(fits[part], window_s)
                here, there = costs[name][part], costs["frontier"][part]
                estimate = compared(here, there, output[part], found, i)
                held.append(covers(estimate, truth[day]))
                counts.append(len(found))
                units.add(found.unit)
            yield {
                "policy": name,
                "stretch_s": seconds,
                "unit": "/".join(sorted(units)),
                "pieces": float(np.mean(counts)),
                "coverage": _share(iter(held)),
            }


def whole(runs: int) -> dict[str, Any]:
    """What the results file holds."""
    made_ones, day_ones = list(made(runs)), list(days(*served(), runs))
    return {
        "rapgym": provenance.VERSION,
        "runs": runs,
        "resamples": score.RESAMPLES,
        "scenario": SCENARIO,
        "within": list(WITHIN),
        "made": made_ones,
        "days": day_ones,
        "holds_beyond": {
            unit: all(
                WITHIN[0] <= each["coverage"] <= WITHIN[1]
                for each in day_ones
                if each["unit"] == unit
            )
            for unit in ("hour", "burst")
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000, metavar="N")
    parser.add_argument(
        "--out", type=Path, default=OUT, metavar="FILE", help=f"default: {OUT.name}"
    )
    arguments = parser.parse_args()
    found = whole(arguments.runs)
    with writing.written_aside(arguments.out) as file:
        file.write((json.dumps(found, indent=1, allow_nan=False) + "\n").encode())
    for each in (*found["made"], *found["days"]):
        print(each)


if __name__ == "__main__":
    main()
