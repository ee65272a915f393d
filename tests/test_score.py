"""Scores and their intervals, on data whose truth is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapgym import score
from rapgym.specs import FloatArray

ONE = np.zeros(1, dtype=np.int64)


def autoregressive(rng: np.random.Generator, rows: int, strength: float = 0.6) -> FloatArray:
    """Rows that resemble their neighbours, mean 0, standard deviation 1."""
    noise = rng.standard_normal(rows + 50) * np.sqrt(1 - strength**2)
    values = np.empty(rows + 50)
    values[0] = rng.standard_normal()
    for t in range(1, rows + 50):
        values[t] = strength * values[t - 1] + noise[t]
    return values[50:]


def test_score_is_0_at_the_reference_and_100_at_the_bound() -> None:
    rng = np.random.default_rng(0)
    bound, output = rng.random((40, 4)), rng.integers(1, 9, (40, 4))
    reference = bound + rng.random((40, 4))
    draws = score.resamples(40, np.array([0, 10, 20, 30]), 7)
    at_reference = score.score(reference, reference, bound, output, draws)
    at_bound = score.score(bound, reference, bound, output, draws)
    assert (at_reference.value, at_reference.low, at_reference.high) == (0, 0, 0)
    assert (at_bound.value, at_bound.low, at_bound.high) == pytest.approx((100, 100, 100))
    half = score.score((reference + bound) / 2, reference, bound, output, draws)
    assert half.value == pytest.approx(50)


def test_score_is_a_ratio_of_sums_weighted_by_output() -> None:
    # Row 1 of 3 tokens gains 1 of 2 nats, row 2 of 1 token gains 0 of 1: 3 of 7 in all.
    policy, reference = np.array([[1.0], [1.0]]), np.array([[2.0], [1.0]])
    bound, output = np.array([[0.0], [0.0]]), np.array([[3], [1]])
    found = score.score(policy, reference, bound, output, score.resamples(2, ONE, 7))
    assert found.value == pytest.approx(100 * 3 / 7)


def test_nothing_to_win_is_no_score() -> None:
    same, output = np.ones((20, 1)), np.ones((20, 1), dtype=np.int64)
    assert np.isnan(score.score(same, same, same, output, score.resamples(20, ONE, 7)).value)


def test_equal_policies_are_tied_and_a_clear_lead_is_not() -> None:
    rng = np.random.default_rng(1)
    a, output = rng.random((60, 1)), np.ones((60, 1), dtype=np.int64)
    draws = score.resamples(60, ONE, 7)
    assert score.tied(score.difference(a, a, output, draws))
    assert not score.tied(score.difference(a + 0.1, a, output, draws))


@given(st.integers(1, 80), st.integers(0, 1000))
def test_blocks_cross_no_seam(rows: int, seed: int) -> None:
    counts = score.block_draws(rows, min(12, rows), np.random.default_rng(seed), 3)
    assert counts.sum(axis=1).tolist() == [rows] * 3
    # Without wrapping, the first row is drawn by one block start only: never more than blocks there are.
    assert (counts <= -(-rows // min(score.BLOCK_ROWS, rows))).all()


def test_crossed_sums_equal_a_plain_loop() -> None:
    rng = np.random.default_rng(2)
    rows, offsets = 9, np.array([0, 3, 5])
    draws, values = score.resamples(rows, offsets, 7, count=4), rng.random((rows, 3))
    assert draws.tenant is not None
    expected = [
        sum(
            draws.served[r, t] * draws.tenant[r, (t + offset) % rows] * values[t, k]
            for t in range(rows)
            for k, offset in enumerate(offsets)
        )
        for r in range(4)
    ]
    assert draws.sums(values) == pytest.approx(expected)


def coverage(offsets: int, runs: int, rows: int = 120) -> float:
    """How often a nominal 95 % interval of a difference holds the truth, on autocorrelated rows.

    Cells share their served row's luck and their tenant row's luck, as turned pairings do.
    """
    turned = np.array([k * rows // offsets for k in range(offsets)])
    held, output = 0, np.ones((rows, offsets), dtype=np.int64)
    for seed in range(runs):
        rng = np.random.default_rng([9, offsets, seed])
        served, tenant = autoregressive(rng, rows), autoregressive(rng, rows)
        luck = served[:, None] + np.stack([np.roll(tenant, -k) for k in turned], axis=1)
        cost = 0.3 + luck + 0.5 * rng.standard_normal((rows, offsets))
        draws = score.resamples(rows, turned, 7, seed=seed, count=300)
        found = score.difference(cost, np.zeros_like(cost), output, draws)
        held += found.low <= 0.3 <= found.high
    return held / runs


def test_intervals_cover_the_truth_on_one_pairing_and_on_turned_ones() -> None:
    assert 0.90 <= coverage(1, runs=300) <= 0.98
    assert 0.90 <= coverage(16, runs=300) <= 0.98


def test_blocks_are_as_long_as_the_split_allows() -> None:
    assert score.block_rows(122, 7) == 12, "an hour of traffic: a dozen rows"
    assert score.block_rows(14_400, 6) == 600, "a day: an hour"
    assert score.block_rows(5, 7) == 5


def test_intervals_of_few_blocks_are_wider_and_of_many_are_not() -> None:
    # Student's t at 97.5 % with 9 degrees of freedom is 2.2622.
    assert score.widening(10) == pytest.approx(2.2622 / 1.959964 * np.sqrt(10 / 9), rel=2e-3)
    assert score.widening(2000) == pytest.approx(1, abs=2e-3)


def test_taking_pairings_for_independent_would_cover_far_less() -> None:
    """The reason for the crossed bootstrap: the mutation that this test is there to catch."""
    rows, offsets, runs, held = 120, 16, 100, 0
    turned = np.array([k * rows // offsets for k in range(offsets)])
    for seed in range(runs):
        rng = np.random.default_rng([9, offsets, seed])
        served, tenant = autoregressive(rng, rows), autoregressive(rng, rows)
        luck = served[:, None] + np.stack([np.roll(tenant, -k) for k in turned], axis=1)
        cells = (luck + 0.5 * rng.standard_normal((rows, offsets))).ravel()
        error = cells.std() / np.sqrt(len(cells))
        held += abs(cells.mean()) <= 1.96 * error
    assert held / runs < 0.7


def test_interquartile_mean_drops_the_outer_quarters() -> None:
    assert score.interquartile_mean(np.array([0.0, 1, 2, 100])) == pytest.approx(1.5)
    assert score.interquartile_mean(np.array([5.0])) == 5
    # Five values: the outer ones go, the next count three quarters each.
    expected = (0.75 * 1 + 2 + 0.75 * 3) / 2.5
    assert score.interquartile_mean(np.array([-9.0, 1, 2, 3, 99])) == pytest.approx(expected)
