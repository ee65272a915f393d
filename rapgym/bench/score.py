"""From costs of rows to scores with intervals and p-values; pure, and the same for every policy.

A score is a ratio of sums over rows: 100 (reference - policy) / (reference - bound). Nothing is
trimmed, for rare bad rows are the subject.

How far intervals and p-values can be trusted, in simulations of 122 rows without any difference:
with neighbours correlated by 0.3 (cost differences of the shipped scenarios: 0 to 0.25) p < 0.05 in
4 to 5 %, and any of 12 scenarios after Holm's correction in 1 to 3 %. With 0.6 it is 5 to 7 % and
2 to 12 %, for blocks of 12 rows are short then. Where all the cost lies in about six rows of a
single pairing, Holm's correction fails (30 %): the sample does not show its own tail.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from rapgym.arrays import FloatArray, IntArray

BLOCK_ROWS = 12  # neighbouring rows that are drawn together, at least
LONGEST_BLOCK_S = 3600  # traffic of one hour resembles itself
LEAST_BLOCKS = 24  # with fewer there is little to draw from, so blocks stay shorter
# No p-value is below 2 / (RESAMPLES + 1) = 0.001: enough for Holm's correction over up to 50
# scenarios, of which the first is compared with 0.05 / 50.
RESAMPLES = 2000
LEVEL = 0.95
Z = 1.959964  # normal quantile of LEVEL, two-sided
ROUNDING = 1e-12  # relative; sums that differ by less are of equal costs


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its interval; NaN where it is not defined."""

    value: float
    low: float
    high: float
    p: float  # of "it is zero", two-sided; below 1 - LEVEL just where the interval excludes zero


@dataclass(frozen=True, slots=True, eq=False)
class Summed:
    """A sum over all cells: of the cells as they are, and of each resample."""

    total: float
    drawn: FloatArray  # [R]

    def __sub__(self, other: "Summed") -> "Summed":
        """The difference, exactly zero where it is of the size of rounding: equal costs are equal."""
        here, there = (np.append(each.drawn, each.total) for each in (self, other))
        less = here - there
        less[np.abs(less) <= ROUNDING * (np.abs(here) + np.abs(there))] = 0.0
        return Summed(float(less[-1]), less[:-1])


@dataclass(frozen=True, slots=True, eq=False)
class BlockDraws:
    """R draws of blocks of neighbouring rows, as many rows as there are; the last block is cut."""

    rows: int  # T
    length: int  # rows of a block
    first: IntArray  # first row of each block, [R, blocks]

    @property
    def lengths(self) -> IntArray:
        """Rows of each block of a draw, [blocks]."""
        blocks = self.first.shape[1]
        lengths = np.full(blocks, self.length)
        lengths[-1] = self.rows - (blocks - 1) * self.length
        return lengths

    def counts(self) -> FloatArray:
        """How often each row is drawn, [R, T]."""
        inside = np.arange(self.length) < self.lengths[:, None]
        drawn = (self.first[:, :, None] + np.arange(self.length))[:, inside]
        flat = drawn + self.rows * np.arange(len(drawn))[:, None]
        counts = np.bincount(flat.ravel(), minlength=self.rows * len(drawn))
        return counts.reshape(len(drawn), self.rows).astype(np.float64)

    def sums(self, values: FloatArray) -> FloatArray:
        """Sum over the rows of each draw: [T, ...] -> [R, ...]."""
        until = np.concatenate([np.zeros((1, *values.shape[1:])), np.cumsum(values, axis=0)])
        return (until[self.first + self.lengths] - until[self.first]).sum(axis=1)


@dataclass(frozen=True, slots=True, eq=False)
class Resamples:
    """Which rows of served time and of tenant time each resample draws.

    Served time and tenant time are drawn apart, in blocks of neighbouring rows that cross no seam,
    and a cell counts as often as both of its times do (the crossed, or pigeonhole, bootstrap:
    Owen 2007), so that pairings of the same rows are not taken for independent. With a single
    pairing both times are one, and blocks of it are drawn (moving-block bootstrap: Kuensch 1989).
    """

    served: BlockDraws
    tenant: BlockDraws | None  # None with a single pairing
    offsets: IntArray  # of the tenant's rows against the served ones, [K]

    @property
    def blocks(self) -> int:
        """That a draw of one time consists of: its independent pieces."""
        return self.served.first.shape[1]

    def sums(self, values: FloatArray) -> FloatArray:
        """Weighted sum over all cells in each resample: [T, K] -> [R], or [T, K, P] -> [R, P]."""
        if self.tenant is None:
            return self.served.sums(values.sum(axis=1))
        served, tenant = self.served.counts(), self.tenant.counts()
        total = np.zeros((len(served), *values.shape[2:]))
        for k, offset in enumerate(self.offsets):
            paired = np.roll(tenant, -int(offset), axis=1)  # row t meets tenant row t + offset
            total += (served * paired) @ values[:, k]
        return total

    def summed(self, costs: Sequence[FloatArray], output_tokens: IntArray) -> list[Summed]:
        """Output tokens times mean cost, summed, for each of P policies at once; [T, K] each.

        Blocks that cross no seam draw the first and last rows less often than the rest, so the mean
        of all draws is not the sum itself: draws are moved by that much (Lahiri 1992).
        """
        values = np.stack([cost * output_tokens for cost in costs], axis=-1)
        drawn, totals = self.sums(values), values.sum(axis=(0, 1))
        drawn += totals - drawn.mean(axis=0)
        return [Summed(float(total), drawn[:, i]) for i, total in enumerate(totals)]


def block_rows(rows: int, window_s: int) -> int:
    """Length of a block: 12 rows, or up to an hour where the split has 24 such blocks or more."""
    return min(rows, max(BLOCK_ROWS, min(LONGEST_BLOCK_S // window_s, rows // LEAST_BLOCKS)))


def block_draws(rows: int, length: int, rng: np.random.Generator, resamples: int) -> BlockDraws:
    """Blocks of `length` rows of `rows`, without wrapping."""
    first = rng.integers(rows - length + 1, size=(resamples, -(-rows // length)))
    return BlockDraws(rows, length, first)


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
    return Resamples(served, tenant, np.asarray(offsets, dtype=np.int64))


def mean_cost(cost: FloatArray, output_tokens: IntArray) -> float:
    """Sum of output tokens times mean cost, over the sum of output tokens; [T, K] each."""
    return float((cost * output_tokens).sum() / output_tokens.sum())


def score(policy: Summed, reference: Summed, bound: Summed, blocks: int) -> Estimate:
    """100 (reference - policy) / (reference - bound), with its interval.

    Returns:
        NaN where the reference is at the bound: nothing can be won there.
    """
    room = reference - bound
    if room.total <= ROUNDING * max(1.0, abs(reference.total)):
        return Estimate(np.nan, np.nan, np.nan, np.nan)
    return ratio(reference - policy, room, blocks, unit=100)


def difference(a: Summed, b: Summed, output: Summed, blocks: int) -> Estimate:
    """Cost of `a` less cost of `b`, nats an output token, paired on the same resamples."""
    return ratio(a - b, output, blocks)


def ratio(over: Summed, under: Summed, blocks: int, unit: float = 1.0) -> Estimate:
    """`unit` times a ratio of sums; resamples in which `under` is not positive are left out."""
    usable = under.drawn > 0
    drawn = unit * over.drawn[usable] / under.drawn[usable]
    return estimate(unit * over.total / under.total, drawn, blocks)


def estimate(value: float, drawn: FloatArray, blocks: int) -> Estimate:
    """A value with the percentile interval and p-value of its bootstrap distribution, [R].

    The distribution is first widened about the value for the few blocks behind it: each order
    statistic by `widening` at its own quantile, for what it is the tails that Holm's correction looks at.
    Interval and p-value come from the same order statistics (Davison & Hinkley 1997, ch. 4 and 5),
    so that neither can deny the other.

    Returns:
        No interval where there are fewer than 40 draws.
    """
    count = len(drawn)
    rank = int(count * (1 - LEVEL) / 2 + 1e-9)  # the last that leaves 2 rank / (R + 1) < 1 - LEVEL
    if rank == 0:
        return Estimate(value, np.nan, np.nan, np.nan)
    widened = np.sort(value + _widenings(blocks, count) * (np.sort(drawn) - value))
    beyond = min(np.count_nonzero(widened <= 0), np.count_nonzero(widened >= 0))
    p = min(1.0, 2 * (int(beyond) + 1) / (count + 1))
    return Estimate(value, float(widened[rank - 1]), float(widened[-rank]), p)


@lru_cache(maxsize=64)
def _widenings(blocks: int, count: int) -> FloatArray:
    """`widening` at the quantile of each of `count` draws in order."""
    normal = NormalDist()
    ranks = (normal.inv_cdf(i / (count + 1)) for i in range(1, count + 1))
    return widening(blocks, np.fromiter(ranks, np.float64, count))


def widening(blocks: int, z: FloatArray) -> FloatArray:
    """By how much a quantile from `blocks` independent pieces is widened; 1 in the limit.

    A percentile interval of b pieces is too short by sqrt((b - 1) / b) and by what Student's t with
    b - 1 degrees of freedom has over the normal (Efron & Tibshirani 1993, ch. 12; Hesterberg 2015):
    without it ten blocks cover 86 % where 95 % is meant, and the far tails are missed by more.

    Args:
        z: the normal's quantile, any shape.
    """
    freedom = max(blocks - 1, 3)  # fewer than four blocks leave nothing to estimate from
    # Cornish-Fisher expansion of Student's t over z (Abramowitz & Stegun 26.7.5): at z = 3.3 it is
    # 0.1 % short with 9 degrees of freedom, 4 % with 3.
    s, f = z**2, float(freedom)
    t = 1 + (s + 1) / (4 * f) + (5 * s**2 + 16 * s + 3) / (96 * f**2)
    t += (3 * s**3 + 19 * s**2 + 17 * s - 15) / (384 * f**3)
    t += (79 * s**4 + 776 * s**3 + 1482 * s**2 - 1920 * s - 945) / (92160 * f**4)
    return t * np.sqrt((f + 1) / f)


def with_error(found: Estimate, error: float) -> Estimate:
    """The estimate with a further, independent standard error in its interval, in quadrature.

    Its p-value speaks of the resamples alone, and is not kept.
    """
    low, high = (
        np.hypot(max(side, 0.0), Z * error)
        for side in (found.value - found.low, found.high - found.value)
    )
    return Estimate(found.value, found.value - float(low), found.value + float(high), np.nan)


def tied(found: Estimate, error: float = 0.0) -> bool:
    """Whether a difference cannot be told from none.

    Args:
        found: the difference; one that is exactly zero is a tie.
        error: a standard error that the interval does not hold: of the quality table, for instance.
    """
    whole = with_error(found, error) if error else found
    return bool(whole.low <= 0 <= whole.high)


def holm(p: Sequence[float]) -> list[float]:
    """p-values of one family, adjusted for how many they are (Holm 1979, step-down).

    A hypothesis whose adjusted value is below 0.05 is refused with at most 5 % chance that any true
    one of the family is, whatever the dependence among them.
    """
    adjusted, worst = [0.0] * len(p), 0.0
    for step, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        worst = max(worst, min(1.0, (len(p) - step) * p[i]))
        adjusted[i] = worst
    return adjusted


def middle_half(values: Sequence[float]) -> FloatArray:
    """How much each value counts in the interquartile mean, fractional edges; sums to 1, [n]."""
    n, index = len(values), np.arange(len(values))
    weight = np.clip(np.minimum(index + 1, 0.75 * n) - np.maximum(index, 0.25 * n), 0, None)
    found = np.empty(n)
    found[np.argsort(np.asarray(values, dtype=np.float64), kind="stable")] = weight / weight.sum()
    return found


def interquartile_mean(values: Sequence[float]) -> float:
    """Mean of the middle half, over training seeds only (Agarwal et al. 2021)."""
    return float(middle_half(values) @ np.asarray(values, dtype=np.float64))
