"""Our own random numbers: the same on every machine and with every version of NumPy.

Uniform numbers come from SplitMix64 read by its counter: number `i` of a key is a hash of the key and
`i`, so that any of them can be had without those before it. All else follows by inversion. What a
logarithm or an exponential gives may differ between machines in its last bit; whoever stores a number
rounds it to a grid that is coarser than that by many orders.

Source: Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators, OOPSLA 2014.
"""

import hashlib
import math
from functools import cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from rapgym.arrays import FloatArray, IntArray

_GOLDEN, _FIRST, _SECOND = (
    np.uint64(number) for number in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)
_BLOCK = 1 << 14
with np.errstate(over="ignore"):
    _STEPS = np.arange(_BLOCK, dtype=np.uint64) * _GOLDEN
KeyArray = NDArray[np.uint64]

# The table of `gamma_quantile`: shapes and probabilities between which it is linear.
LEAST_LOG_SHAPE, MOST_LOG_SHAPE = -14.0, 7.0
STEPS = 16  # to one unit of log shape, and of the logit of a probability
MOST_LOGIT = 37.0  # of the probabilities that 53 bits tell from 0 and 1
_LEAST_LOG = -40.0  # of a quantile: whatever is smaller is nothing beside a mean gap
_GRID = 1 << 16  # knots are multiples of 1 / this, so that no last bit is in them


def key(*names: object) -> np.uint64:
    """The key of a stream of numbers that belongs to these names."""
    text = "\0".join(map(str, names))
    return np.uint64(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little"))


def uniform(keys: KeyArray | np.uint64, index: IntArray) -> FloatArray:
    """Numbers in (0, 1): of each key, uint64 [...], the one of this index; both broadcast."""
    with np.errstate(over="ignore"):
        return _hashed(keys + (index.astype(np.uint64) + np.uint64(1)) * _GOLDEN)


def _hashed(state: KeyArray) -> FloatArray:
    """The number that follows from each state of a generator; the array of states is used up."""
    for shift, factor in ((30, _FIRST), (27, _SECOND), (31, None)):
        state ^= state >> np.uint64(shift)
        if factor is not None:
            state *= factor
    # The middle of one of 2^52 equal parts: never 0 or 1, and 1 - u is as exact as u.
    state >>= np.uint64(12)
    found = state.astype(np.float64)
    found += 0.5
    found *= 2.0**-52
    return found


def geometric(u: FloatArray, success: float) -> IntArray:
    """Trials up to the first success, at least 1: the inverse of its law at u, [...] -> [...]."""
    if success >= 1:
        return np.ones(u.shape, dtype=np.int64)
    found: IntArray = np.floor(np.log(u) / math.log1p(-success)).astype(np.int64) + 1
    return found


def weibull_sums(
    key: np.uint64, first: int, shape: float, scale: float, ends: IntArray
) -> IntArray:
    """Sums of one Weibull law's numbers, each rounded to a whole one: the first `ends`, [M] -> [M].

    Args:
        key, first: number `first` of this key is the one that the first follows from.
        scale: of the law, so large that whole numbers tell its values apart.
        ends: ascending, >= 1.
    """
    total = int(ends[-1])
    begins = np.arange(0, total, _BLOCK)
    sums, done = np.empty(len(ends), dtype=np.int64), 0
    stops = np.searchsorted(ends, begins + _BLOCK, side="right")
    # In blocks that stay in the cache of a processor, each in place.
    for begin, stop, start in zip(
        begins.tolist(), stops.tolist(), [0, *stops[:-1].tolist()], strict=True
    ):
        size = min(_BLOCK, total - begin)
        with np.errstate(over="ignore"):
            base = key + np.uint64(first + begin + 1) * _GOLDEN
        found = _hashed(_STEPS[:size] + base)
        np.log(found, out=found)
        np.negative(found, out=found)
        np.log(found, out=found)
        found *= 1 / shape
        found += math.log(scale)
        np.exp(found, out=found)
        running = np.cumsum(np.rint(found, out=found).astype(np.int64))
        sums[start:stop] = done + running[ends[start:stop] - begin - 1]
        done += int(running[-1])
    return sums


def gamma_quantile(u: FloatArray, shape: FloatArray) -> FloatArray:
    """Of scale 1: x whose share u is below it, [...] -> [...]; broadcast.

    Between the knots of a table, linear in the logit of u and in log shape; above shape e^7 linear
    in the inverse square root of the shape, towards the normal law. Relative error of a quantile
    that matters: a few 1e-4. Ascends in u.
    """
    knots, normal = _gamma_table()
    log_shape = np.log(np.maximum(shape, math.exp(LEAST_LOG_SHAPE)))
    root = np.sqrt(np.maximum(shape, 1))
    row = (np.minimum(log_shape, MOST_LOG_SHAPE) - LEAST_LOG_SHAPE) * STEPS
    below = np.minimum(row.astype(np.int64), len(knots) - 2)
    up = row - below
    # Above the last shape, from its row towards the normal one.
    beyond = log_shape > MOST_LOG_SHAPE
    at = np.clip((np.log(u) - np.log1p(-u) + MOST_LOGIT) * STEPS, 0, knots.shape[1] - 1)
    left = np.minimum(at.astype(np.int64), knots.shape[1] - 2)
    right = at - left
    width, flat = knots.shape[1], knots.ravel()
    corner = below * width + left
    low = flat[corner] + (flat[corner + 1] - flat[corner]) * right
    corner = corner + width
    high = flat[corner] + (flat[corner + 1] - flat[corner]) * right
    y = low + (high - low) * up
    if np.any(beyond):
        far = normal[left] + (normal[left + 1] - normal[left]) * right
        share = math.exp(MOST_LOG_SHAPE / 2) / root
        y = np.where(beyond, far + (high - far) * share, y)
    found: FloatArray = np.exp(y / root + np.maximum(log_shape, 0))
    return found


@cache
def _gamma_table() -> tuple[FloatArray, FloatArray]:
    """Knots y [shapes, logits], and those of the normal law [logits].

    y is the logarithm of the quantile for shapes up to 1, and (log x - log shape) sqrt(shape) above.
    """
    logits = np.arange(-MOST_LOGIT * STEPS, MOST_LOGIT * STEPS + 1) / STEPS
    count = int((MOST_LOG_SHAPE - LEAST_LOG_SHAPE) * STEPS) + 1
    knots = np.empty((count, len(logits)))
    for row in range(count):
        shape = math.exp(LEAST_LOG_SHAPE + row / STEPS)
        root = math.sqrt(max(shape, 1.0))
        middle = max(math.log(shape), 0.0)
        y = np.linspace(_LEAST_LOG, 5.0, 1441) if shape < 1 else np.linspace(-40, 14, 1729)
        told = gamma_logit(shape, np.exp(y / root + middle))
        # Far out neighbours may give the same: the quantile there is the first of them.
        rises = np.append(True, np.diff(np.maximum.accumulate(told)) > 0) & np.isfinite(told)
        knots[row] = np.interp(logits, told[rises], y[rises])
    law = NormalDist()
    normal = np.array([_normal_quantile(law, logit) for logit in logits.tolist()])
    return np.rint(knots * _GRID) / _GRID, np.rint(normal * _GRID) / _GRID


def _normal_quantile(law: NormalDist, logit: float) -> float:
    """Of the probability with this logit."""
    tail = 1 / (1 + math.exp(abs(logit)))
    return math.copysign(law.inv_cdf(tail), logit)


def gamma_logit(shape: float, x: FloatArray) -> FloatArray:
    """log P - log Q of a gamma law of scale 1, P the share below x and Q above, [M] -> [M].

    P by its series up to shape + 1 and Q by its continued fraction above, each where it is exact.
    """
    log_weight = shape * np.log(x) - x - math.lgamma(shape)
    found = np.empty(len(x))
    near = x < shape + 1
    if near.any():
        part, term, total = x[near], np.full(near.sum(), 1 / shape), np.full(near.sum(), 1 / shape)
        steps = 0
        while (term > total * 1e-17).any():
            steps += 1
            term = term * part / (shape + steps)
            total = total + term
        log_below = np.minimum(log_weight[near] + np.log(total), -1e-300)
        found[near] = log_below - np.log(-np.expm1(log_below))
    if not near.all():
        part = x[~near]
        # Lentz' method on 1/(x+1-a- 1(1-a)/(x+3-a- ...)).
        b = part + 1 - shape
        c, d = np.full(len(part), 1e300), 1 / b
        total = d
        for step in range(1, 2000):
            a = -step * (step - shape)
            b = b + 2
            d = 1 / (a * d + b)
            c = b + a / c
            total = total * (c * d)
            if (np.abs(c * d - 1) < 1e-15).all():
                break
        log_above = np.minimum(log_weight[~near] + np.log(total), -1e-300)
        found[~near] = np.log(-np.expm1(log_above)) - log_above
    return found
