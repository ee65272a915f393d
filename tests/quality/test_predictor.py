"""The predictor represents what was measured of real models: a synthetic truth with all of it."""

from dataclasses import asdict, replace

import numpy as np
import pytest

from rapgym.arrays import BoolArray, FloatArray
from rapgym.errors import InvalidTable
from rapgym.quality import predictor, predictor_tuning
from rapgym.quality.predictor import Sets, Settings

N = 24
HARD = 5  # a block that is nearly a hard constraint


def truth(kept: BoolArray) -> FloatArray:
    """Known nats of kept sets [J, N]: a few hard blocks, pairs that help and hurt, a sum that bends."""
    gone = (~kept).astype(float)
    single = 0.03 + 0.01 * (np.arange(N) % 4)
    single[HARD] = 1.2
    cost = gone @ single
    cost += 0.25 * gone[:, 8] * gone[:, 9] - 0.04 * gone[:, 14] * gone[:, 15]
    found: FloatArray = cost + 0.3 * cost**2
    return found


def drawn(count: int, seed: int) -> BoolArray:
    rng = np.random.default_rng(seed)
    return rng.random((count, N)) > rng.uniform(0.05, 0.6, (count, 1))


def measured(kept: BoolArray, noise: float = 0.0, text: int = 0) -> Sets:
    rng = np.random.default_rng(9)
    nll = truth(kept) + noise * rng.standard_normal(len(kept))
    return Sets(kept, nll, np.full(len(kept), noise), np.full(len(kept), text))


def joined(*parts: Sets) -> Sets:
    columns = ("kept", "nll", "nll_se", "text")
    return Sets(*(np.concatenate([getattr(part, name) for part in parts]) for name in columns))


DENSE = np.ones((1, N), dtype=bool)
SINGLES = ~np.eye(N, dtype=bool)
PAIRS = np.array([~(np.eye(N, dtype=bool)[b] | np.eye(N, dtype=bool)[b + 1]) for b in range(N - 1)])
KNOWN = measured(np.concatenate([DENSE, SINGLES, PAIRS, drawn(250, 1)]), noise=0.005)
UNSEEN = drawn(300, 2)


@pytest.fixture(scope="module")
def tuned() -> Settings:
    return predictor_tuning.tune(KNOWN, rows=120)


def mean_error(fitted: predictor.Predictor) -> float:
    return float(np.abs(fitted.nll(UNSEEN) - truth(UNSEEN)).mean())


def test_it_is_far_better_than_any_sum_of_effects(tuned: Settings) -> None:
    gone = (~KNOWN.kept).astype(float)
    effects = np.linalg.lstsq(gone, KNOWN.nll, rcond=None)[0]
    of_sum = np.abs((~UNSEEN) @ effects - truth(UNSEEN)).mean()
    fitted = predictor.fit(KNOWN, tuned)
    assert mean_error(fitted) < of_sum / 3
    assert predictor_tuning.spearman(truth(UNSEEN), fitted.nll(UNSEEN)) > 0.99


def test_dense_costs_nothing_and_measured_rows_are_met() -> None:
    fitted = predictor.fit(KNOWN, Settings())
    assert abs(float(fitted.nll(DENSE[0]))) < 1e-9
    assert np.abs(fitted.nll(KNOWN.kept) - KNOWN.nll).max() < 0.05


@pytest.mark.parametrize("pair", [(8, 9), (14, 15)])
def test_pairs_that_interact_do_so_in_the_answer_too(
    tuned: Settings, pair: tuple[int, int]
) -> None:
    fitted = predictor.fit(KNOWN, tuned)
    base = np.ones((4, N), dtype=bool)
    base[:, [2, 12, 20]] = False  # in no measured single or pair
    base[1, pair[0]] = base[2, pair[1]] = False
    base[3, list(pair)] = False

    def together(nll: FloatArray) -> float:
        return float(nll[3] - nll[1] - nll[2] + nll[0])

    assert together(fitted.nll(base)) == pytest.approx(together(truth(base)), abs=0.06)
    assert np.sign(together(fitted.nll(base))) == np.sign(together(truth(base)))


def test_a_hard_constraint_is_one(tuned: Settings) -> None:
    without = UNSEEN.copy()
    without[:, HARD] = False
    kept = UNSEEN | ~SINGLES[HARD]
    fitted = predictor.fit(KNOWN, tuned)
    assert (fitted.nll(without) - fitted.nll(kept) > 1.0).all()


def test_shapes_batches_and_repetition_agree() -> None:
    fitted = predictor.fit(KNOWN, Settings())
    whole = fitted.nll(UNSEEN)
    one_by_one = np.array([float(fitted.nll(kept)) for kept in UNSEEN[:20]])
    np.testing.assert_allclose(whole[:20], one_by_one, rtol=0, atol=1e-9)
    np.testing.assert_allclose(
        fitted.nll(UNSEEN.reshape(3, 100, N)), whole.reshape(3, 100), atol=1e-9
    )
    np.testing.assert_array_equal(predictor.fit(KNOWN, Settings()).nll(UNSEEN), whole)


def test_a_mean_function_is_corrected_by_few_rows() -> None:
    few = measured(drawn(40, 3), noise=0.005)
    elsewhere = predictor.fit(KNOWN, Settings())  # another text: all costs a fifth higher
    few = replace(few, nll=1.2 * few.nll)
    fitted = predictor.fit(few, Settings(), elsewhere.nll)
    alone = predictor.fit(few, Settings())
    wanted = 1.2 * truth(UNSEEN)
    error = np.abs(fitted.nll(UNSEEN) - wanted).mean()
    assert error < np.abs(elsewhere.nll(UNSEEN) - wanted).mean() / 2
    assert error < np.abs(alone.nll(UNSEEN) - wanted).mean() / 2


def test_rows_of_another_text_help_but_do_not_bias() -> None:
    other = measured(drawn(200, 4), noise=0.005, text=1)
    other = replace(other, nll=1.1 * other.nll)  # a text on which all costs more
    own = measured(np.concatenate([SINGLES, drawn(40, 5)]), noise=0.005)
    with_other = mean_error(predictor.fit(joined(own, other), Settings()))
    assert with_other < mean_error(predictor.fit(own, Settings()))
    blended = joined(own, replace(other, text=np.zeros(200, dtype=np.int64)))
    assert with_other < mean_error(predictor.fit(blended, Settings()))


def test_what_is_left_out_is_not_seen() -> None:
    designs = ("single",) * (len(KNOWN.nll) - 250) + ("random",) * 250
    said = predictor_tuning.left_out(KNOWN, designs, Settings())
    out = np.flatnonzero(np.array(designs) == "random")[3 :: predictor_tuning.FOLDS]
    rest = KNOWN.part(np.setdiff1d(np.arange(len(KNOWN.nll)), out))
    afresh = predictor.fit(rest, Settings())
    np.testing.assert_allclose(said[out], afresh.nll(KNOWN.kept[out]), atol=1e-4)
    assert np.isnan(said[: len(KNOWN.nll) - 250]).all()
    (stated,) = predictor_tuning.held_out(KNOWN, designs, said)
    assert stated["design"] == "random"
    assert stated["all"]["sets"] == 250
    assert stated["all"]["mean_abs"] == pytest.approx(
        np.nanmean(np.abs(said - KNOWN.nll)), abs=1e-4
    )


def test_a_blind_mean_stands_in_for_one_that_saw_the_rows() -> None:
    designs = ("random",) * len(KNOWN.nll)
    said = predictor_tuning.left_out(KNOWN, designs, Settings(), truth)
    blind = predictor_tuning.left_out(KNOWN, designs, Settings(), truth, truth(KNOWN.kept) + 0.5)
    np.testing.assert_allclose(blind, said + 0.5)


def test_tuning_makes_the_rows_likelier(tuned: Settings) -> None:
    before = predictor_tuning.log_likelihood(KNOWN, Settings())
    assert predictor_tuning.log_likelihood(KNOWN, tuned) > before
    assert predictor_tuning.tune(KNOWN, rows=120) == tuned, "deterministic"


def test_settings_come_back_from_a_header_or_are_refused() -> None:
    assert predictor.settings_of(asdict(Settings(pair=1.5))) == Settings(pair=1.5)
    assert predictor.settings_of(None) == Settings()
    refused: tuple[object, ...] = (
        [],
        {"pairs": 1.0},
        {"pair": "1"},
        {"pair": 1e9},
        {"pair": float("nan")},
    )
    for bad in refused:
        with pytest.raises(InvalidTable):
            predictor.settings_of(bad)
