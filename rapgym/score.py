"""From costs of rows to scores with intervals; pure, and the same for every policy.

A score is a ratio of sums over rows: 100 (reference - policy) / (reference - bound). Nothing is
trimmed, for rare bad rows are the subject.
"""

from dataclasses import dataclass

import numpy as np

from rapgym.specs import FloatArray, IntArray

BLOCK_ROWS = 12  # neighbouring rows that are drawn together, at least
LONGEST_BLOCK_S = 3600  # traffic of one hour resembles itself
LEAST_BLOCKS = 24  # with fewer there is little to draw from, so blocks stay shorter
RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its interval; NaN where it is not defined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Resamples:
    """How often each row of each pairing counts in each resample.

    Served time and tenant time are drawn apart, in blocks of neighbouring rows that cross no seam,
    and a cell counts as often as both of its times do (the crossed, or pigeonhole, bootstrap:
    Owen 2007), so that pairings of the same rows are not taken for independent. With a single
    pairing both times are one, and blocks of it are drawn (moving-block bootstrap: Kuensch 1989).
    """

    served: FloatArray  # times that each served row is drawn, [R, T]
    tenant: FloatArray | None  # likewise for tenant rows, [R, T]; None with a single pairing
    offsets: IntArray  # of the tenant's rows against the served ones, [K]
    blocks: int  # that a draw of one time consists of: its independent pieces

    def sums(self, values: FloatArray) -> FloatArray:
        """Weighted sum over all cells in each resample: [T, K] -> [R]."""
        if self.tenant is None:
            return self.served @ values.sum(axis=1)
        total = np.zeros(len(self.served))
        for k, offset in enumerate(self.offsets):
            paired = np.roll(self.tenant, -int(offset), axis=1)  # row t meets tenant row t + offset
            total += (self.served * paired) @ values[:, k]
        return total


def block_rows(rows: int, window_s: int) -> int:
    """Length of a block: 12 rows, or up to an hour where the split has 24 such blocks or more."""
    return min(rows, max(BLOCK_ROWS, min(LONGEST_BLOCK_S // window_s, rows // LEAST_BLOCKS)))


def block_draws(rows: int, length: int, rng: np.random.Generator, resamples: int) -> FloatArray:
    """How often each of `rows` rows is drawn by blocks of `length` without wrapping, [R, rows]."""
    blocks = -(-rows // length)
    first = rng.integers(rows - length + 1, size=(resamples, blocks))
    drawn = (first[:, :, None] + np.arange(length)).reshape(resamples, -1)[:, :rows]
    flat = drawn + rows * np.arange(resamples)[:, None]
    counts = np.bincount(flat.ravel(), minlength=rows * resamples)
    return counts.reshape(resamples, rows).astype(np.float64)


def resamples(
    rows: int, offsets: IntArray, window_s: int, seed: int = 0, count: int = RESAMPLES
) -> Resamples:
    """Draws that all policies of a scenario share, so that differences are paired.

    Args:
        rows: T, rows of the split.
        offsets: tenant row minus served row of each pairing, modulo T, [K].
        window_s: seconds of a row.
    """
    rng, length = np.random.default_rng([seed, rows]), block_rows(rows, window_s)
    served = block_draws(rows, length, rng, count)
    tenant = block_draws(rows, length, rng, count) if len(offsets) > 1 else None
    return Resamples(served, tenant, np.asarray(offsets, dtype=np.int64), -(-rows // length))


def mean_cost(cost: FloatArray, output_tokens: IntArray) -> float:
    """Sum of output tokens times mean cost, over the sum of output tokens; [T, K] each."""
    return float((cost * output_tokens).sum() / output_tokens.sum())


def score(
    policy: FloatArray,
    reference: FloatArray,
    bound: FloatArray,
    output_tokens: IntArray,
    draws: Resamples,
) -> Estimate:
    """100 (reference - policy) / (reference - bound), with a percentile interval.

    Args:
        policy, reference, bound: mean cost of each row, [T, K].

    Returns:
        NaN where the reference is at the bound: nothing can be won there.
    """
    gain, room = (reference - policy) * output_tokens, (reference - bound) * output_tokens
    if room.sum() <= 1e-12 * max(1.0, float((np.abs(reference) * output_tokens).sum())):
        return Estimate(np.nan, np.nan, np.nan)
    gains, rooms = draws.sums(gain), draws.sums(room)
    usable = rooms > 0
    ratios = 100 * gains[usable] / rooms[usable]
    value = 100 * float(gain.sum() / room.sum())
    return Estimate(value, *interval(value, ratios, draws.blocks))


def difference(a: FloatArray, b: FloatArray, output_tokens: IntArray, draws: Resamples) -> Estimate:
    """Cost of `a` less cost of `b`, nats an output token, paired on the same resamples."""
    values = draws.sums((a - b) * output_tokens) / draws.sums(output_tokens.astype(np.float64))
    value = mean_cost(a - b, output_tokens)
    return Estimate(value, *interval(value, values, draws.blocks))


def interval(value: float, drawn: FloatArray, blocks: int) -> tuple[float, float]:
    """Percentile interval of a bootstrap distribution, widened for the few blocks behind it.

    A percentile interval of b independent pieces is too short by sqrt((b - 1) / b) and by what
    Student's t with b - 1 degrees of freedom has over the normal (Efron & Tibshirani 1993, ch. 12;
    Hesterberg 2015): without it ten blocks cover 86 % where 95 % is meant.
    """
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    wider = widening(blocks)
    return value - wider * (value - float(low)), value + wider * (float(high) - value)


def widening(blocks: int) -> float:
    """By how much an interval from `blocks` independent pieces is widened; 1 in the limit."""
    freedom = max(blocks - 1, 3)  # fewer than four blocks leave nothing to estimate from
    z = 1.959964
    # Cornish-Fisher expansion of Student's t at 97.5 % (Abramowitz & Stegun 26.7.5).
    t = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    return t / z * float(np.sqrt((freedom + 1) / freedom))


def tied(estimate: Estimate) -> bool:
    """Whether a difference cannot be told from none: its interval holds zero, or it is exactly zero."""
    return bool(estimate.low <= 0 <= estimate.high)


def interquartile_mean(values: FloatArray) -> float:
    """Mean of the middle half, over training seeds only (Agarwal et al. 2021); fractional edges."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    n = len(ordered)
    index = np.arange(n)
    weight = np.clip(np.minimum(index + 1, 0.75 * n) - np.maximum(index, 0.25 * n), 0, None)
    return float((ordered * weight).sum() / weight.sum())
