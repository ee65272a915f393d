"""Pairs of low rank: a factorised second-order model behind a link."""

from dataclasses import dataclass

import numpy as np

from rapgym.arrays import FloatArray
from rapgym.quality import predictor
from rapgym.quality.predictor import Sets
from rapgym.studies.predictors.kinds.shared import EFFECT, Fit, Link, for_search, searched, several


@dataclass(frozen=True, slots=True)
class LowRank:
    """Settings of a factorised second-order model behind a link."""

    scale: float = np.inf
    rank: int = 2
    noise: float = 0.04  # nats


def low_rank(sets: Sets, rng: np.random.Generator) -> Fit:
    """Effects of blocks, and of pairs through a few factors; rank and link chosen by leaving out."""
    few = for_search(sets)
    own = several(few)

    def loss(settings: LowRank) -> float:
        error = []
        for fold in range(2):
            out = own[fold::4]
            said = _factorised(few.part(np.setdiff1d(np.arange(len(few.nll)), out)), settings, 8)
            error.append(np.abs(said(few.kept[out]) - few.nll[out]))
        return float(np.concatenate(error).mean())

    choices = {"scale": (np.inf, 4.0, 2.0), "rank": (1, 2, 4, 8), "noise": (0.02, 0.04, 0.08)}
    return _factorised(sets, searched(LowRank(), choices, loss), 20)


def _factorised(sets: Sets, settings: LowRank, steps: int) -> Fit:
    """Least squares with a normal prior by Levenberg and Marquardt's method.

    z = x a + x V s V' x / 2 less its diagonal, with signs s; another text adds effects of its own.
    """
    link, single = Link(settings.scale), predictor.basis_of(sets).single
    tried = np.flatnonzero((~sets.kept).any(axis=0))
    x = (~sets.kept[:, tried]).astype(np.float64)
    other = x * (sets.text != 0)[:, None]
    d, rank = len(tried), settings.rank
    sign = np.where(np.arange(rank) % 2, -1.0, 1.0)
    precise = 1 / (settings.noise * link.slope(sets.nll) + 1e-6)
    target = link.sums(sets.nll)
    start = np.random.default_rng(0)
    prior = np.concatenate([single[tried], np.zeros(d + d * rank)])
    width = np.repeat([EFFECT, 0.3 * EFFECT, EFFECT], [d, d, d * rank])
    found = prior + np.concatenate([np.zeros(2 * d), 0.05 * start.standard_normal(d * rank)])

    def surface(x: FloatArray, values: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Sums without a text's own part, and the factors' scores, [J, rank]."""
        factors = values[2 * d :].reshape(rank, d)
        scores = x @ factors.T
        return x @ values[:d] + 0.5 * (scores**2 - x @ (factors**2).T) @ sign, scores

    def misfit(values: FloatArray) -> FloatArray:
        return (surface(x, values)[0] + other @ values[d : 2 * d] - target) * precise

    def loss(values: FloatArray) -> float:
        return float((misfit(values) ** 2).sum() + (((values - prior) / width) ** 2).sum())

    damping, best = 1.0, loss(found)
    for _ in range(steps):
        factors, scores = found[2 * d :].reshape(rank, d), surface(x, found)[1]
        slopes = [s * (scores[:, [r]] * x - x * factors[r]) for r, s in enumerate(sign)]
        jacobian = np.concatenate([x, other, *slopes], axis=1) * precise[:, None]
        normal = jacobian.T @ jacobian + np.diag(1 / width**2)
        uphill = jacobian.T @ misfit(found) + (found - prior) / width**2
        for _ in range(4):
            step = np.linalg.solve(normal + damping * np.diag(1 / width**2), -uphill)
            if (tried_loss := loss(found + step)) < best:
                found, best, damping = found + step, tried_loss, damping / 5
                break
            damping *= 8
    return lambda kept: link.nats(surface((~kept[:, tried]).astype(np.float64), found)[0])
