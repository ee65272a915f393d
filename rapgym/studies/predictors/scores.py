"""How far predictions are from measurements, with intervals over sets and differences between kinds."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rapgym.arrays import FloatArray, IntArray

RESAMPLES = 1000
METRICS = ("spearman", "median_abs", "mean_abs")
PARTS = {"all": np.inf, "below_2_nats": 2.0}
REFERENCE = "shipped"
GOAL_SPEARMAN, GOAL_MEDIAN = 0.98, 0.03  # nats; of held-out sets that cost under 2 nats

Resampled = dict[str, FloatArray]  # metric -> its value, then its value in each resample


def counts_of(sets: int, rng: np.random.Generator) -> IntArray:
    """How often each set is drawn, [1 + RESAMPLES, sets]; in the first row each once."""
    drawn = rng.multinomial(sets, np.full(sets, 1 / sets), RESAMPLES)
    return np.concatenate([np.ones((1, sets), dtype=np.int64), drawn])


def _ranks(values: FloatArray, counts: IntArray) -> FloatArray:
    """Mid-rank of each set among the drawn ones, [resamples, sets]."""
    order = np.argsort(values, kind="stable")
    found = np.empty(counts.shape)
    found[:, order] = counts[:, order].cumsum(axis=1) - (counts[:, order] - 1) / 2
    return found


def _correlations(a: FloatArray, b: FloatArray, counts: IntArray) -> FloatArray:
    total = counts.sum(axis=1, keepdims=True)
    a = a - (counts * a).sum(axis=1, keepdims=True) / total
    b = b - (counts * b).sum(axis=1, keepdims=True) / total
    across = (counts * a * b).sum(axis=1)
    spread = (counts * a**2).sum(axis=1) * (counts * b**2).sum(axis=1)
    return np.divide(across, np.sqrt(spread), out=np.zeros(len(across)), where=spread > 0)


def _medians(values: FloatArray, counts: IntArray) -> FloatArray:
    order = np.argsort(values, kind="stable")
    reached, total = counts[:, order].cumsum(axis=1), counts.sum(axis=1, keepdims=True)
    places = ((reached <= (total - 1) // 2).sum(axis=1), (reached <= total // 2).sum(axis=1))
    ordered = values[order]
    found: FloatArray = (ordered[places[0]] + ordered[places[1]]) / 2
    return found


def resampled(nll: FloatArray, said: FloatArray, counts: IntArray) -> Resampled:
    """Each metric, the mean over repeats, of all sets and of each resample of sets.

    Args:
        nll: measured, [sets].
        said: predicted by fits that had not seen the set, [repeats, sets].
        counts: how often each resample draws each set, [1 + resamples, sets].
    """
    truth, total = _ranks(nll, counts), counts.sum(axis=1)
    found: dict[str, list[FloatArray]] = {metric: [] for metric in METRICS}
    for one in said:
        error = np.abs(one - nll)
        found["spearman"].append(_correlations(truth, _ranks(one, counts), counts))
        found["median_abs"].append(_medians(error, counts))
        found["mean_abs"].append(counts @ error / total)
    return {metric: np.mean(values, axis=0) for metric, values in found.items()}


def interval(values: FloatArray) -> list[float]:
    """The value, and the 95 % interval of its resamples."""
    low, high = np.percentile(values[1:], [2.5, 97.5])
    return [round(float(v), 4) for v in (values[0], low, high)]


def scores(
    nll: FloatArray,
    designs: Mapping[str, IntArray],
    said: Mapping[str, FloatArray],
    rng: np.random.Generator,
) -> dict[str, list[dict[str, Any]]]:
    """What each kind reaches by design and part, and how that differs from the shipped predictor.

    Args:
        designs: which rows each holds.
        said: by each kind, [repeats, rows].

    Returns:
        By kind, one entry a design and part; metrics are [value, low, high], and so are those
        under `less_shipped`, whose interval is of the difference on the same resamples.
    """
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in said}
    for design, rows in designs.items():
        for part, below in PARTS.items():
            here = rows[nll[rows] < below]
            if len(here) < 3:
                continue
            counts = counts_of(len(here), rng)
            values = {k: resampled(nll[here], s[:, here], counts) for k, s in said.items()}
            for kind, own in values.items():
                entry: dict[str, Any] = {"design": design, "part": part, "sets": len(here)}
                entry |= {metric: interval(own[metric]) for metric in METRICS}
                if REFERENCE in values and kind != REFERENCE:
                    entry["less_shipped"] = {
                        metric: interval(own[metric] - values[REFERENCE][metric])
                        for metric in METRICS
                    }
                found[kind].append(entry)
    return found


def goal(entry: Mapping[str, Any]) -> str:
    """Whether a design's sets under 2 nats are predicted as wished: yes, no, or open.

    Open: an interval holds the goal, so that other sets of the design may decide otherwise.
    """
    spearman, median = entry["spearman"], entry["median_abs"]
    if spearman[1] >= GOAL_SPEARMAN and median[2] <= GOAL_MEDIAN:
        return "yes"
    if spearman[2] < GOAL_SPEARMAN or median[1] > GOAL_MEDIAN:
        return "no"
    return "open"


def verdict(entry: Mapping[str, Any], metric: str) -> str:
    """Beside the shipped predictor: better, worse, or a tie where the interval holds zero."""
    _, low, high = entry["less_shipped"][metric]
    if low <= 0 <= high:
        return "tie"
    return "better" if (low > 0) == (metric == "spearman") else "worse"
