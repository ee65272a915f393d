"""From costs of rows to differences and scores with intervals and p-values; pure, the same for all.

Costs are primary: nats an output token. A score is a ratio of sums over rows,
100 (reference - policy) / (reference - bound). Nothing is trimmed, for rare bad rows are the subject.

Pieces of rows are drawn with replacement (see `pieces`), of served time and of tenant time apart, and
with them training seeds; every policy meets the same draws. One interval, of the percentile bootstrap,
widened for few pieces, gives low, high, p and verdict; the quality table's own error is part of it. How
often it covers the truth is simulated by `python -m rapgym.studies.coverage`, and stands in
`baselines/results/coverage.json`: of eight or more pieces that are alike in 93 to 97 %; but an hour's
pieces say little of its day, so what is said of less than days is said of these rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from rapgym.arrays import FloatArray, IntArray
from rapgym.bench.pieces import LEAST_PIECES, Pieces

# No p-value is below 2 / (RESAMPLES + 1) = 0.001: enough for Holm's correction over up to 50
# scenarios, of which the first is compared with 0.05 / 50.
RESAMPLES = 2000
ALPHA = 0.05  # a claim needs a smaller p-value
LEVEL = 1 - ALPHA  # of intervals
POWER = 0.8  # with which a least effect would have been shown
ROUNDING = 1e-12  # relative; sums that differ by less are of equal costs
SEEDS = 1 << 16  # of the generator that draws training seeds: apart from that of rows


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its interval; NaN where it is not defined."""

    value: float
    low: float
    high: float
    # Of "it is zero", two-sided; below ALPHA just where the interval excludes zero. NaN where there
    # are too few pieces for a claim.
    p: float
    least: float  # the least value that could have been shown with POWER


NOTHING = Estimate(np.nan, np.nan, np.nan, np.nan, np.nan)


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
class Resamples:
    """How often each resample draws each piece of served time and of tenant time.

    The two are drawn apart, and a cell counts as often as both of its times do (the crossed, or
    pigeonhole, bootstrap: Owen 2007), so that pairings of the same rows are not taken for independent.
    With a single pairing both times are one.
    """

    pieces: Pieces
    served: FloatArray  # [R, P]
    tenant: FloatArray | None  # [R, P]; None with a single pairing
    offsets: IntArray  # of the tenant's rows against the served ones, [K]

    def sums(self, values: FloatArray) -> FloatArray:
        """Weighted sum over all cells in each resample: [T, K] -> [R], or [T, K, S] -> [R, S]."""
        if self.tenant is None:
            found: FloatArray = self.served @ self.pieces.sums(values.sum(axis=1))
            return found
        count, of_row = len(self.pieces), self.pieces.of_row
        crossed = np.zeros((count * count, *values.shape[2:]))  # by served piece, then the tenant's
        for k, offset in enumerate(self.offsets):
            # Row t meets tenant row t + offset.
            np.add.at(crossed, of_row * count + np.roll(of_row, -int(offset)), values[:, k])
        by_tenant = np.tensordot(self.served, crossed.reshape(count, count, -1), axes=1)
        summed = np.einsum("rj,rjs->rs", self.tenant, by_tenant)
        return summed.reshape(len(summed), *values.shape[2:])

    def summed(self, costs: Sequence[FloatArray], output_tokens: IntArray) -> list[Summed]:
        """Output tokens times mean cost, summed, for each of S policies at once; [T, K] each."""
        values = np.stack([cost * output_tokens for cost in costs], axis=-1)
        drawn, totals = self.sums(values), values.sum(axis=(0, 1))
        return [Summed(float(total), drawn[:, i]) for i, total in enumerate(totals)]


def draws(count: int, rng: np.random.Generator, resamples: int) -> FloatArray:
    """How often each of `count` pieces is drawn in each resample of as many, [R, count]."""
    return rng.multinomial(count, np.full(count, 1 / count), size=resamples).astype(np.float64)


def resamples(
    pieces: Pieces, offsets: IntArray, seed: int = 0, count: int = RESAMPLES
) -> Resamples:
    """Draws that all policies of a scenario share, so that differences are paired.

    Args:
        offsets: tenant row minus served row of each pairing, modulo T, [K].
    """
    rng = np.random.default_rng([seed, pieces.rows])
    served = draws(len(pieces), rng, count)
    tenant = draws(len(pieces), rng, count) if len(offsets) > 1 else None
    return Resamples(pieces, served, tenant, np.asarray(offsets, dtype=np.int64))


def seed_shares(seeds: int, stream: int, count: int = RESAMPLES) -> FloatArray:
    """How much each of a policy's seeds counts in each resample; sums to 1, [R, seeds].

    One fewer is drawn than there are, with replacement: then a mean over them varies as the mean of
    so many seeds does. What was run with a single seed is what it is: nothing is drawn.

    Args:
        stream: which draws; policies have their own, for their seeds have nothing in common.
    """
    if seeds == 1:
        return np.ones((count, 1))
    rng = np.random.default_rng([SEEDS, seeds, stream])
    return rng.multinomial(seeds - 1, np.full(seeds, 1 / seeds), size=count) / (seeds - 1)


def mean_of(seeds: Sequence[Summed], shares: FloatArray) -> Summed:
    """The mean over a policy's seeds, which are drawn as `seed_shares` says, [R, seeds]."""
    if len(seeds) == 1:
        return seeds[0]
    drawn = np.stack([each.drawn for each in seeds], axis=1)
    return Summed(float(np.mean([each.total for each in seeds])), (drawn * shares).sum(axis=1))


def mean_cost(cost: FloatArray, output_tokens: IntArray) -> float:
    """Sum of output tokens times mean cost, over the sum of output tokens; [T, K] each."""
    return float((cost * output_tokens).sum() / output_tokens.sum())


def score(
    policy: Summed, reference: Summed, bound: Summed, pieces: Pieces, error: float = 0.0
) -> Estimate:
    """100 (reference - policy) / (reference - bound), with its interval.

    Args:
        error: a standard error of the difference of costs that rows do not hold, in their unit as
            summed.

    Returns:
        NaN where the reference is at the bound: nothing can be won there.
    """
    room = reference - bound
    if room.total <= ROUNDING * max(1.0, abs(reference.total)):
        return NOTHING
    return ratio(reference - policy, room, pieces, error, unit=100)


def difference(
    a: Summed, b: Summed, output: Summed, pieces: Pieces, error: float = 0.0
) -> Estimate:
    """Cost of `a` less cost of `b`, nats an output token, paired on the same resamples.

    Args:
        error: a standard error of it that rows do not hold, nats: of the quality table.
    """
    return ratio(a - b, output, pieces, error * output.total)


def ratio(
    over: Summed, under: Summed, pieces: Pieces, error: float = 0.0, unit: float = 1.0
) -> Estimate:
    """`unit` times a ratio of sums; resamples in which `under` is not positive are left out.

    Args:
        error: a further, independent standard error of `over`.
    """
    usable = under.drawn > 0
    drawn = unit * over.drawn[usable] / under.drawn[usable]
    return estimate(unit * over.total / under.total, drawn, pieces, unit * error / under.total)


def estimate(value: float, drawn: FloatArray, pieces: Pieces, error: float = 0.0) -> Estimate:
    """A value with the percentile interval and p-value of its bootstrap distribution, [R].

    The distribution is first widened about the value for the few pieces behind it: each order
    statistic by `widening` at its own quantile, for what it is the tails that Holm's correction looks
    at. Then a normal error of its own is added to each draw. Interval and p-value come from the same
    order statistics (Davison & Hinkley 1997, ch. 4 and 5), so that neither can deny the other.

    Returns:
        No interval where there are fewer than 40 draws, no p-value of fewer than `LEAST_PIECES`.
    """
    count = len(drawn)
    rank = int(count * ALPHA / 2 + 1e-9)  # the last that leaves 2 rank / (R + 1) < ALPHA
    if rank == 0:
        return Estimate(value, np.nan, np.nan, np.nan, np.nan)
    spread = value + _widenings(pieces.effective, count) * (np.sort(drawn) - value)
    if error:
        spread = np.sort(spread + error * _noise(count))
    beyond = min(np.count_nonzero(spread <= 0), np.count_nonzero(spread >= 0))
    p = min(1.0, 2 * (int(beyond) + 1) / (count + 1)) if len(pieces) >= LEAST_PIECES else np.nan
    least = least_effect(float(drawn.std()), pieces.effective, error)
    return Estimate(value, float(spread[rank - 1]), float(spread[-rank]), p, least)


def least_effect(deviation: float, pieces: float, error: float = 0.0) -> float:
    """The least effect that would have been shown with 80 % power: (z_(alpha/2) + z_(0.8)) errors.

    Both quantiles are those that the interval has, widened for few pieces.

    Args:
        deviation: standard deviation of the resamples.
        error: a further standard error.
    """
    normal = NormalDist()
    z = np.array([normal.inv_cdf((1 + LEVEL) / 2), normal.inv_cdf(POWER)])
    return float(np.hypot(deviation * widening(pieces, z), error) @ z)


@lru_cache(maxsize=64)
def _widenings(pieces: float, count: int) -> FloatArray:
    """`widening` at the quantile of each of `count` draws in order."""
    return widening(pieces, _quantiles(count))


@lru_cache(maxsize=64)
def _quantiles(count: int) -> FloatArray:
    """Of the normal, evenly spread in probability, ascending, [count]."""
    normal = NormalDist()
    ranks = (normal.inv_cdf(i / (count + 1)) for i in range(1, count + 1))
    return np.fromiter(ranks, np.float64, count)


@lru_cache(maxsize=64)
def _noise(count: int) -> FloatArray:
    """Standard normal errors, independent of the order of draws, [count]."""
    return np.random.default_rng([SEEDS, count]).permutation(_quantiles(count))


def widening(pieces: float, z: FloatArray) -> FloatArray:
    """By how much a quantile from so many independent pieces is widened; 1 in the limit.

    A percentile interval of b pieces is too short by sqrt((b - 1) / b) and by what Student's t with
    b - 1 degrees of freedom has over the normal (Efron & Tibshirani 1993, ch. 12; Hesterberg 2015):
    without it ten pieces cover 86 % where 95 % is meant, and the far tails are missed by more.

    Args:
        pieces: as many of one length; of unequal ones, see `Pieces.effective`.
        z: the normal's quantile, any shape.
    """
    freedom = max(pieces - 1, 3)  # fewer than four pieces leave nothing to estimate from
    # Cornish-Fisher expansion of Student's t over z (Abramowitz & Stegun 26.7.5): at z = 3.3 it is
    # 0.1 % short with 9 degrees of freedom, 4 % with 3.
    s, f = z**2, float(freedom)
    t = 1 + (s + 1) / (4 * f) + (5 * s**2 + 16 * s + 3) / (96 * f**2)
    t += (3 * s**3 + 19 * s**2 + 17 * s - 15) / (384 * f**3)
    t += (79 * s**4 + 776 * s**3 + 1482 * s**2 - 1920 * s - 945) / (92160 * f**4)
    return t * np.sqrt((f + 1) / f)


def excludes_zero(found: Estimate) -> bool:
    """Whether the whole interval lies on one side of zero; not where there is none."""
    return bool(found.low > 0 or found.high < 0)


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
