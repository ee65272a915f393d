"""Our own random numbers: known answers, and laws that are inverted as they should be."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapgym.workload import stream


def test_the_numbers_are_splitmix64s() -> None:
    # The first three outputs of SplitMix64 from seed 1234567, as its author's C program prints them.
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    found = stream.uniform(np.uint64(1234567), np.arange(3))
    assert found.tolist() == [((number >> 12) + 0.5) * 2.0**-52 for number in known]


def test_a_key_belongs_to_its_names_alone() -> None:
    assert stream.key("a", 1) == stream.key("a", 1)
    assert len({int(stream.key(*names)) for names in (("a", 1), ("a1",), ("a", 2), (1, "a"))}) == 4


def test_numbers_are_uniform_and_apart() -> None:
    keys = np.array([stream.key("client", number) for number in range(4)])
    found = stream.uniform(keys[:, None], np.arange(100_000))
    assert 0 < found.min() < found.max() < 1
    assert found.mean(axis=1) == pytest.approx(0.5, abs=0.004)
    assert found.var(axis=1) == pytest.approx(1 / 12, abs=0.001)
    assert np.abs(np.corrcoef(found) - np.eye(4)).max() < 0.015, "keys"
    for lag in (1, 2, 7):
        assert abs(np.corrcoef(found[0, lag:], found[0, :-lag])[0, 1]) < 0.015


@pytest.mark.parametrize("success", [1.0, 0.5, 0.04])
def test_trials_up_to_a_success(success: float) -> None:
    count = stream.geometric(stream.uniform(stream.key("g"), np.arange(200_000)), success)
    assert count.min() == 1
    assert count.mean() == pytest.approx(1 / success, rel=0.01)
    assert (count == 1).mean() == pytest.approx(success, abs=0.004)


@given(st.floats(1e-6, 1e6), st.floats(0.001, 0.999))
def test_a_gamma_quantile_has_its_share_below(shape: float, u: float) -> None:
    x = stream.gamma_quantile(np.array([u]), np.array([shape]))[0]
    if x < 1e-15:  # nothing beside a mean gap
        assert shape < 0.4
    elif shape < 1500:
        told = stream.gamma_logit(shape, np.array([x]))[0]
        assert told == pytest.approx(math.log(u / (1 - u)), abs=0.01)
    else:  # Wilson and Hilferty's approximation
        z = NormalDist().inv_cdf(u)
        root = 1 - 1 / (9 * shape) + z / (3 * math.sqrt(shape))
        assert x == pytest.approx(shape * root**3, rel=0.01 / math.sqrt(shape))


def test_gamma_logits_by_hand() -> None:
    x = np.array([0.01, 0.5, 2.0, 30.0])
    # Shape 1 is the exponential law; of shape 2 the share above x is (1 + x) exp(-x).
    assert stream.gamma_logit(1.0, x) == pytest.approx(np.log(-np.expm1(-x)) + x)
    above = (1 + x) * np.exp(-x)
    assert stream.gamma_logit(2.0, x) == pytest.approx(np.log((1 - above) / above), rel=1e-9)


@given(st.floats(1e-6, 1e5), st.lists(st.floats(1e-9, 1 - 1e-9), min_size=2, max_size=20))
def test_gamma_quantiles_ascend(shape: float, u: list[float]) -> None:
    found = stream.gamma_quantile(np.sort(u), np.full(len(u), shape))
    assert (np.diff(found) >= 0).all()


@pytest.mark.parametrize("shape", [0.1, 0.9, 30.0])
def test_gamma_numbers_have_mean_and_variance_of_their_law(shape: float) -> None:
    x = stream.gamma_quantile(
        stream.uniform(stream.key("m"), np.arange(400_000)), np.array([shape])
    )
    assert x.mean() == pytest.approx(shape, rel=0.02)
    assert x.var() == pytest.approx(shape, rel=0.04)


@given(st.lists(st.integers(1, 40_000), min_size=1, max_size=4), st.integers(0, 50_000))
def test_weibull_sums_are_those_of_a_plain_loop(several: list[int], first: int) -> None:
    key, shape, scale = stream.key("w"), 0.7, 4096.0
    ends = np.cumsum(several)
    u = stream.uniform(key, first + np.arange(ends[-1]))
    whole = np.rint((-np.log(u)) ** (1 / shape) * scale).astype(np.int64)
    found = stream.weibull_sums(key, first, shape, scale, ends)
    # The two ways of a power differ in the last bit: a whole number may fall to the other side.
    assert np.abs(found - np.cumsum(whole)[ends - 1]).max() <= 1
