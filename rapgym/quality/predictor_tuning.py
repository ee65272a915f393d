"""How a predictor's scales are found when a table is built, and how far it is off on unseen sets."""

from dataclasses import fields, replace
from typing import Any

import numpy as np

from rapgym.arrays import FloatArray, IntArray
from rapgym.quality.predictor import Mean, Sets, Settings, basis_of, features, prior_covariance

HELD_OUT = ("grid", "random", "near")  # designs on which the error is stated
FOLDS = 10
TUNE_ROWS = 450  # marginal likelihood of so many rows is enough for a dozen scales


def log_likelihood(sets: Sets, settings: Settings, mean: FloatArray | None = None) -> float:
    """Log marginal likelihood of the rows, nats; minus infinity where it cannot be computed."""
    rows = features(sets.kept, basis_of(sets), settings)
    n = len(sets.nll)
    # The values as one more row: its part of the root is what a triangular solve would give.
    bordered = np.full((n + 1, n + 1), 1e12)
    bordered[:n, :n] = prior_covariance(rows, sets.text, mean, sets.nll_se, settings)
    bordered[n, :n] = bordered[:n, n] = sets.nll if mean is None else sets.nll - mean
    try:
        root = np.linalg.cholesky(bordered)
    except np.linalg.LinAlgError:
        return -np.inf
    white = root[n, :n]
    return float(-0.5 * white @ white - np.log(np.diagonal(root)[:n]).sum())


def tune(sets: Sets, mean: Mean | None = None, rows: int = TUNE_ROWS) -> Settings:
    """Settings that make the measured rows likely: a search along each in turn, deterministic.

    Rows of the text that is answered for go first, spread evenly, until `rows` are chosen.
    """
    first, others = np.flatnonzero(sets.text == 0), np.flatnonzero(sets.text != 0)
    chosen = _spread(first, rows)
    sets = sets.part(np.concatenate([chosen, _spread(others, max(rows - len(chosen), rows // 4))]))
    start = None if mean is None else mean(sets.kept)
    names = [entry.name for entry in fields(Settings) if start is not None or entry.name != "slope"]
    best = Settings()
    score = log_likelihood(sets, best, start)
    for step in (1.0, 1.0, 0.5, 0.5, 0.25):
        for name in names:
            for sign in (1, -1):
                value = round(getattr(best, name) + sign * step, 3)
                tried = replace(best, **{name: float(np.clip(value, -15, 5))})
                if (found := log_likelihood(sets, tried, start)) > score + 1e-3:
                    best, score = tried, found
                    break
    return best


def _spread(rows: IntArray, count: int) -> IntArray:
    if len(rows) <= count:
        return rows
    return rows[np.linspace(0, len(rows) - 1, count).astype(np.int64)]


def left_out(
    sets: Sets,
    designs: tuple[str, ...],
    settings: Settings,
    mean: Mean | None = None,
    blind_mean: FloatArray | None = None,
) -> FloatArray:
    """What is predicted of each row by a fit that lacks its tenth of its design, float64 [J].

    Rows of `HELD_OUT` designs on the text answered for are left out, one design at a time, while
    the rows of the others stay in the fit; the rest is NaN.

    Args:
        designs: what each row was first measured for, [J].
        blind_mean: what the mean function would say of each row if it had not seen it either;
            NaN where it may see it, [J].
    """
    start = np.zeros(len(sets.nll)) if mean is None else mean(sets.kept)
    known = start if blind_mean is None else np.where(np.isnan(blind_mean), start, blind_mean)
    rows = features(sets.kept, basis_of(sets), settings)
    factor = None if mean is None else start
    precision = np.linalg.inv(prior_covariance(rows, sets.text, factor, sets.nll_se, settings))
    residual = sets.nll - start
    scaled = precision @ residual
    answer = np.full(len(sets.nll), np.nan)
    for design in HELD_OUT:
        here = np.flatnonzero((np.array(designs) == design) & (sets.text == 0))
        if len(here) < FOLDS:
            continue
        for fold in range(FOLDS):
            out = here[fold::FOLDS]
            # Leaving rows out of a Gaussian process needs no new fit: a block of the inverse does.
            surprise = np.linalg.solve(precision[np.ix_(out, out)], scaled[out])
            answer[out] = known[out] + residual[out] - surprise
    return answer


def held_out(sets: Sets, designs: tuple[str, ...], said: FloatArray) -> list[dict[str, Any]]:
    """`errors` of each design that `left_out` answered for, as a table's header stores them."""
    found = []
    for design in HELD_OUT:
        here = np.flatnonzero((np.array(designs) == design) & ~np.isnan(said))
        if here.size:
            found.append({"design": design} | errors(sets.nll[here], said[here]))
    return found


def errors(nll: FloatArray, predicted: FloatArray) -> dict[str, Any]:
    """How far predictions are from measurements, nats: of all sets, and of those below 2 nats."""
    found = {}
    for name, part in (("all", np.ones(len(nll), dtype=bool)), ("below_2_nats", nll < 2)):
        error = np.abs(predicted - nll)[part]
        if part.sum() >= 2:
            found[name] = {
                "sets": int(part.sum()),
                "spearman": round(spearman(nll[part], predicted[part]), 4),
                "median_abs": round(float(np.median(error)), 4),
                "mean_abs": round(float(error.mean()), 4),
                "worst": round(float(error.max()), 4),
            }
    return found


def spearman(a: FloatArray, b: FloatArray) -> float:
    """Rank correlation, ties in the order in which they come."""
    ranks = [np.argsort(np.argsort(values, kind="stable")) for values in (a, b)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])
