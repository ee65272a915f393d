"""Agreement of orders found on different draws of text."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapgym.quality.header import Orders, kendall_tau, spreads

ONE = Orders("order-0", (0, 2, 4, 6), (1, 3), (0, 1, 2, 3, 4, 6))
OTHER = Orders("order-1", (2, 0, 4, 8), (3, 1), (2, 0, 3, 4, 8, 1))


def test_two_draws_by_hand() -> None:
    attention, ffn, joint = spreads([ONE, OTHER])
    assert (attention.kind, attention.samples, attention.length) == (
        "attention",
        ("order-0", "order-1"),
        4,
    )
    assert (attention.shared, attention.half_shared) == (3, 2)
    assert attention.tau == pytest.approx(1 / 3), "of 0, 2 and 4: one pair of three is turned"
    assert (ffn.shared, ffn.half_shared, ffn.tau) == (2, 0, -1)
    assert (joint.shared, joint.half_shared) == (5, 2)
    assert len(spreads([ONE, OTHER, ONE])) == 9
    assert spreads([ONE]) == []


@given(st.permutations(range(6)))
def test_tau_is_one_for_itself_and_minus_one_for_the_reverse(order: list[int]) -> None:
    assert kendall_tau(order, order) == 1
    assert kendall_tau(order, order[::-1]) == -1
    assert kendall_tau(order, range(6)) == kendall_tau(range(6), order)


def test_tau_of_orders_that_share_fewer_than_two_blocks_is_not_known() -> None:
    assert math.isnan(kendall_tau([1, 2], [2, 3]))
