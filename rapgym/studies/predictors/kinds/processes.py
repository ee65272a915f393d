"""The predictor in the package, the same behind a link, and started from other columns."""

from dataclasses import replace

import numpy as np

from rapgym.arrays import BoolArray, FloatArray
from rapgym.model import blocks
from rapgym.quality import predictor, predictor_tuning
from rapgym.quality.predictor import Sets
from rapgym.studies.predictors.kinds.shared import Fit, Kind, Link


def shipped(sets: Sets, rng: np.random.Generator) -> Fit:
    """`rapgym.quality.predictor`, its scales found on these rows alone."""
    return predictor.fit(sets, predictor_tuning.tune(sets)).nll


def shipped_link(sets: Sets, rng: np.random.Generator) -> Fit:
    """The same behind a link, whichever makes the rows most likely."""
    best: tuple[float, Link, Sets] | None = None
    for scale in (np.inf, 4.0, 2.0):
        link = Link(scale)
        slope = link.slope(sets.nll)
        bent = replace(sets, nll=link.sums(sets.nll), nll_se=sets.nll_se * slope)
        settings = predictor_tuning.tune(bent, rows=250)
        score = predictor_tuning.log_likelihood(bent, settings) + float(np.log(slope).sum())
        if best is None or score > best[0]:
            best = score, link, bent
    assert best is not None
    _, link, bent = best
    fitted = predictor.fit(bent, predictor_tuning.tune(bent))
    return lambda kept: link.nats(fitted.nll(kept))


def starting_from(known: Sets, answered: BoolArray) -> Kind:
    """The shipped predictor of what a split adds to other columns, as the package fits test columns.

    Args:
        known: the other columns' sets.
        answered: all kept sets of the split, [J, N]. Those that a fit is not given are unknown to
            it in the other columns too.
    """

    def kind(sets: Sets, rng: np.random.Generator) -> Fit:
        held_out = {*blocks.raw_keys(answered)} - {*blocks.raw_keys(sets.kept)}
        seen = [row for row, name in enumerate(blocks.raw_keys(known.kept)) if name not in held_out]
        others = known.part(np.array(seen))
        fitted = shipped(others, rng)
        measured = dict(zip(blocks.raw_keys(others.kept), others.nll.tolist(), strict=True))

        def mean(kept: BoolArray) -> FloatArray:
            said = zip(blocks.raw_keys(kept), fitted(kept).tolist(), strict=True)
            return np.array([measured.get(name, value) for name, value in said])

        return predictor.fit(sets, predictor_tuning.tune(sets, mean), mean).nll

    return kind
