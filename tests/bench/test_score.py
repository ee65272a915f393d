"""Differences, scores and their intervals, on data whose truth is known."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rapgym.arrays import FloatArray, IntArray
from rapgym.bench import score
from rapgym.bench.pieces import Pieces
from rapgym.bench.score import Estimate, Resamples, Summed

ONE = np.zeros(1, dtype=np.int64)


def even(rows: int, length: int = 6) -> Pieces:
    """Pieces of one length; the last may be shorter."""
    return Pieces("burst", np.arange(0, rows, length), rows)


def uneven(rows: int, seed: int = 0) -> Pieces:
    """Pieces of 2 to 14 rows."""
    lengths = np.random.default_rng(seed).integers(2, 15, rows)
    first = np.append(0, np.cumsum(lengths))
    return Pieces("burst", first[first < rows], rows)


ENDLESS = even(6_000_000)  # so many pieces that nothing is widened


def autoregressive(
    rng: np.random.Generator, rows: int, runs: int, strength: float = 0.6
) -> FloatArray:
    """Rows that resemble their neighbours, mean 0, standard deviation 1, [rows, runs]."""
    noise = rng.standard_normal((rows + 50, runs)) * np.sqrt(1 - strength**2)
    values = np.empty((rows + 50, runs))
    values[0] = rng.standard_normal(runs)
    for t in range(1, rows + 50):
        values[t] = strength * values[t - 1] + noise[t]
    return values[50:]


def estimates(
    offsets: int, runs: int, mean: float = 0.0, strength: float = 0.6, rows: int = 120
) -> list[Estimate]:
    """Differences of two policies' costs whose truth is `mean`, each on rows of its own.

    Cells share their served row's luck and their tenant row's luck, as turned pairings do.
    """
    turned = np.array([k * rows // offsets for k in range(offsets)])
    rng = np.random.default_rng([9, offsets])
    served, tenant = (autoregressive(rng, rows, runs, strength) for _ in range(2))
    luck = served[:, None] + np.stack([np.roll(tenant, -k, axis=0) for k in turned], axis=1)
    costs = mean + luck + 0.5 * rng.standard_normal((rows, offsets, runs))
    draws = score.resamples(even(rows, 12), turned)
    output, other = np.ones((rows, offsets), dtype=np.int64), np.zeros((rows, offsets))
    *one, two, whole = draws.summed([*np.moveaxis(costs, -1, 0), other, other + 1], output)
    return [score.difference(each, two, whole, draws.pieces) for each in one]


def scored(
    policy: FloatArray, reference: FloatArray, bound: FloatArray, output: IntArray, draws: Resamples
) -> Estimate:
    one, two, three = draws.summed([policy, reference, bound], output)
    return score.score(one, two, three, draws.pieces)


def compared(a: FloatArray, b: FloatArray, output: IntArray, draws: Resamples) -> Estimate:
    one, two, whole = draws.summed([a, b, np.ones_like(a)], output)
    return score.difference(one, two, whole, draws.pieces)


def test_score_is_0_at_the_reference_and_100_at_the_bound() -> None:
    rng = np.random.default_rng(0)
    bound, output = rng.random((40, 4)), rng.integers(1, 9, (40, 4))
    reference = bound + rng.random((40, 4))
    draws = score.resamples(even(40), np.array([0, 10, 20, 30]))
    at_reference = scored(reference, reference, bound, output, draws)
    at_bound = scored(bound, reference, bound, output, draws)
    assert at_reference == Estimate(0, 0, 0, 1, 0)
    assert (at_bound.value, at_bound.low, at_bound.high) == pytest.approx((100, 100, 100))
    half = scored((reference + bound) / 2, reference, bound, output, draws)
    assert half.value == pytest.approx(50)


def test_score_is_a_ratio_of_sums_weighted_by_output() -> None:
    # Row 1 of 3 tokens gains 1 of 2 nats, row 2 of 1 token gains 0 of 1: 3 of 7 in all.
    policy, reference = np.array([[1.0], [1.0]]), np.array([[2.0], [1.0]])
    bound, output = np.array([[0.0], [0.0]]), np.array([[3], [1]])
    found = scored(policy, reference, bound, output, score.resamples(even(2, 1), ONE))
    assert found.value == pytest.approx(100 * 3 / 7)


def test_nothing_to_win_is_no_score() -> None:
    same, output = np.ones((20, 1)), np.ones((20, 1), dtype=np.int64)
    assert np.isnan(scored(same, same, same, output, score.resamples(even(20), ONE)).value)


def test_equal_policies_are_tied_and_a_clear_lead_is_not() -> None:
    rng = np.random.default_rng(1)
    a, output = rng.random((60, 16)), rng.integers(1, 99, (60, 16))
    draws = score.resamples(even(60), np.arange(16))
    equal = compared(a, a.copy(), output, draws)
    assert equal == Estimate(0, 0, 0, 1, 0), (
        "equal to the last bit, whatever else is summed beside it"
    )
    lead = compared(a + 0.1, a, output, draws)
    assert not score.excludes_zero(equal)
    assert score.excludes_zero(lead)
    assert lead.p == pytest.approx(2 / (score.RESAMPLES + 1))


def test_sums_that_differ_by_rounding_are_equal() -> None:
    """Matrix products of equal columns may differ in their last bits; a tie must stay one."""
    one = Summed(3.0, np.array([1.0, 2.0, 3.0]))
    two = Summed(3.0 + 4e-16, np.array([1.0 + 2e-16, 2.0, 3.0 - 4e-16]))
    assert (one - two).total == 0
    assert (one - two).drawn.tolist() == [0, 0, 0]
    assert (one - Summed(2.0, one.drawn - 1e-9)).drawn == pytest.approx([1e-9] * 3, rel=1e-6)


def test_a_lead_within_the_tables_error_is_no_lead() -> None:
    """The error is part of the one interval, and so of the p-value."""
    drawn = 0.10 + 0.03 * np.random.default_rng(0).standard_normal(score.RESAMPLES)
    without, with_some, with_more = (
        score.estimate(0.10, drawn, ENDLESS, error) for error in (0.0, 0.02, 0.06)
    )
    assert score.excludes_zero(without)
    assert score.excludes_zero(with_some)
    assert not score.excludes_zero(with_more)
    assert without.p < with_some.p < 0.05 < with_more.p
    # Independent errors add in quadrature: 1.96 times the root of 0.03^2 + 0.06^2.
    assert with_more.high - with_more.low == pytest.approx(2 * 1.96 * 0.0671, rel=0.06)


@given(st.integers(1, 80), st.integers(0, 1000))
def test_as_many_pieces_are_drawn_as_there_are(rows: int, seed: int) -> None:
    pieces = uneven(rows, seed)
    draws = score.draws(len(pieces), np.random.default_rng(seed), 3)
    assert draws.sum(axis=1).tolist() == [len(pieces)] * 3


@given(st.integers(1, 80), st.integers(0, 1000))
def test_sums_of_pieces_equal_counts_of_rows_times_values(rows: int, seed: int) -> None:
    drawn = score.resamples(uneven(rows, seed), ONE, count=3)
    values = np.random.default_rng(seed).random((rows, 1, 2))
    counts = drawn.served[:, drawn.pieces.of_row]
    assert drawn.sums(values) == pytest.approx(counts @ values[:, 0])


def test_crossed_sums_equal_a_plain_loop() -> None:
    rng = np.random.default_rng(2)
    rows, offsets = 39, np.array([0, 3, 5])
    draws, values = score.resamples(uneven(rows), offsets, count=4), rng.random((rows, 3, 2))
    assert len(draws.pieces) > 2
    assert draws.tenant is not None
    served, tenant = (each[:, draws.pieces.of_row] for each in (draws.served, draws.tenant))
    expected = [
        sum(
            served[r, t] * tenant[r, (t + offset) % rows] * values[t, k]
            for t in range(rows)
            for k, offset in enumerate(offsets)
        )
        for r in range(4)
    ]
    assert draws.sums(values) == pytest.approx(np.array(expected))
    assert draws.sums(values[..., 0]) == pytest.approx(np.array(expected)[:, 0])


@pytest.mark.parametrize("offsets", [ONE, np.array([0, 13, 26])], ids=["one", "turned"])
def test_every_row_is_drawn_as_often_as_the_others(offsets: IntArray) -> None:
    costs, output = np.zeros((40, len(offsets))), np.ones((40, len(offsets)), dtype=np.int64)
    costs[[0, -1]] = 1.0
    (found,) = score.resamples(uneven(40), offsets).summed([costs], output)
    assert found.drawn.mean() == pytest.approx(found.total, rel=0.1)


def test_training_seeds_vary_in_the_interval_as_a_mean_of_so_many_does() -> None:
    """Five seeds that differ by chance: the interval of their mean is that of five values."""
    seeds = [Summed(total, np.full(score.RESAMPLES, total)) for total in (1.0, 2.0, 3.0, 4.0, 5.0)]
    shares = score.seed_shares(5, stream=0)
    assert shares.sum(axis=1) == pytest.approx(1)
    found = score.mean_of(seeds, shares)
    assert found.total == 3
    assert found.drawn.std() == pytest.approx(
        np.std([1, 2, 3, 4, 5], ddof=1) / np.sqrt(5), rel=0.05
    )
    other = score.seed_shares(5, stream=1)
    assert (shares != other).any(), "seeds of two policies have nothing in common"
    assert score.mean_of(seeds[:1], score.seed_shares(1, 0)) is seeds[0]


@pytest.mark.parametrize("offsets", [1, 16])
def test_intervals_cover_the_truth_on_one_pairing_and_on_turned_ones(offsets: int) -> None:
    found = estimates(offsets, runs=600, mean=0.3)
    assert 0.90 <= np.mean([each.low <= 0.3 <= each.high for each in found]) <= 0.98


@pytest.mark.parametrize("offsets", [1, 16])
def test_without_a_difference_p_is_below_5_percent_in_about_5_percent(offsets: int) -> None:
    found = estimates(offsets, runs=600)
    assert 0.02 <= np.mean([each.p < 0.05 for each in found]) <= 0.09
    assert 0.40 <= np.mean([each.p < 0.5 for each in found]) <= 0.60


def test_a_real_difference_is_found() -> None:
    found = estimates(1, runs=100, mean=1.0)
    assert np.mean([each.p < 0.05 for each in found]) > 0.8


# A p-value of just ALPHA, which is not below it.
@example(159, 8, 3.0, 0.0, 3)
@given(
    st.integers(40, 4000),
    st.integers(6, 60),
    st.floats(-4, 4),
    st.floats(0, 2),
    st.integers(0, 99),
)
def test_p_value_and_interval_say_the_same(
    count: int, pieces: int, value: float, error: float, seed: int
) -> None:
    drawn = value + np.random.default_rng(seed).standard_normal(count)
    found = score.estimate(value, drawn, even(6 * pieces), error)
    assert (found.p < score.ALPHA) == score.excludes_zero(found)


def test_p_value_by_hand() -> None:
    # With endless pieces nothing is widened: 9 of 199 draws are not above zero, so 2 x 10 / 200.
    drawn = np.concatenate([np.linspace(-1, 0, 9), np.linspace(1, 3, 190)])
    assert score.estimate(2.0, drawn, ENDLESS).p == pytest.approx(0.10)


def test_too_few_draws_are_no_interval() -> None:
    assert np.isnan(score.estimate(1.0, np.ones(39), even(60)).low)


def test_fewer_than_six_pieces_make_no_claim() -> None:
    drawn = np.linspace(1, 2, 200)
    assert np.isnan(score.estimate(1.5, drawn, even(30)).p)
    assert (
        score.estimate(1.5, drawn, even(30)).low < 1.5 < score.estimate(1.5, drawn, even(30)).high
    )
    assert score.estimate(1.5, drawn, even(36)).p < 0.05


def test_the_least_effect_by_hand() -> None:
    # 1.95996 for 95 %, 0.84162 for 80 % power; two independent errors in quadrature.
    assert score.least_effect(0.3, 10**9) == pytest.approx(0.3 * 2.80158, rel=1e-4)
    assert score.least_effect(0.3, 10**9, 0.4) == pytest.approx(0.5 * 2.80158, rel=1e-4)
    assert score.least_effect(0.3, 6) > 1.3 * score.least_effect(0.3, 10**9), "few pieces show less"


def test_an_effect_of_the_least_size_is_found_in_about_four_of_five() -> None:
    least = float(np.median([each.least for each in estimates(1, runs=300, rows=360)]))
    found = estimates(1, runs=300, mean=least, rows=360)
    assert 0.68 <= np.mean([each.p < 0.05 for each in found]) <= 0.90


def test_holm_by_hand() -> None:
    # Four p-values in order: 4 x .005, 3 x .01, 2 x .03, 1 x .04 raised to the one before it.
    assert score.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert score.holm([0.9, 0.8]) == [1.0, 1.0]
    assert score.holm([]) == []


@pytest.mark.parametrize("offsets", [1, 16])
def test_a_dozen_scenarios_without_a_difference_rarely_show_one(offsets: int) -> None:
    """The chance of any false finding, on rows as correlated as those of the shipped scenarios."""
    p = np.array([each.p for each in estimates(offsets, runs=1200, strength=0.3)]).reshape(-1, 12)
    assert np.mean([min(score.holm(family)) < 0.05 for family in p.tolist()]) <= 0.06
    assert np.mean(p.min(axis=1) < 0.05) > 0.2, "without the correction some would be found"


def test_the_least_p_value_can_pass_holm_over_fifty_scenarios() -> None:
    assert 50 * 2 / (score.RESAMPLES + 1) < 0.05


@pytest.mark.parametrize(("z", "t"), [(1.959964, 2.2622), (2.575829, 3.2498), (3.290527, 4.7809)])
def test_quantiles_of_few_pieces_are_those_of_student(z: float, t: float) -> None:
    # Student's t with 9 degrees of freedom at 97.5, 99.5 and 99.95 %, from printed tables.
    found = score.widening(10, np.array([z, -z]))
    assert found == pytest.approx([t / z * np.sqrt(10 / 9)] * 2, rel=2e-3)
    assert score.widening(20_000, np.array([z])) == pytest.approx([1], abs=2e-3)


def test_taking_pairings_for_independent_would_cover_far_less() -> None:
    """The reason for the crossed bootstrap: the mutation that this test is there to catch."""
    rows, offsets, runs = 120, 16, 100
    turned = np.array([k * rows // offsets for k in range(offsets)])
    rng = np.random.default_rng([9, offsets])
    served, tenant = autoregressive(rng, rows, runs), autoregressive(rng, rows, runs)
    luck = served[:, None] + np.stack([np.roll(tenant, -k, axis=0) for k in turned], axis=1)
    cells = (luck + 0.5 * rng.standard_normal(luck.shape)).reshape(-1, runs)
    error = cells.std(axis=0) / np.sqrt(len(cells))
    assert np.mean(np.abs(cells.mean(axis=0)) <= 1.96 * error) < 0.7
