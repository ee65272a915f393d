"""A serving world cut into parts: requests, limits, what lies before, and how starts are drawn."""

import numpy as np
import pytest
from serving_worlds import HARM, NLL, SECOND, card

from rapgym.errors import InvalidSpec
from rapgym.serving.cost import Deadlines
from rapgym.serving.world import BACK_S, PIECE_S, Means, Part, ServeWorld, Span, nested


def span(seconds: int, every_us: int = 700_000) -> Span:
    arrival_us = np.arange(0, seconds * 1_000_000, every_us)
    size = np.arange(len(arrival_us)) % 7 + 1
    return Span(arrival_us, size, size + 1, 1000 + np.arange(seconds))


def world(*spans: Span) -> ServeWorld:
    return ServeWorld(
        spans, card(9), 1200, SECOND, HARM, Deadlines(), shed_s=2.0, means=Means(1.0, 2.0, 3.0)
    )


def test_a_split_is_cut_into_hours() -> None:
    made = world(span(2 * PIECE_S + 5), span(30))
    assert made.pieces == (
        Part(0, 0, PIECE_S), Part(0, PIECE_S, PIECE_S), Part(0, 2 * PIECE_S, 5), Part(1, 0, 30),
    )  # fmt: skip
    arrived = sum(len(made.requests(part)) for part in made.pieces)
    assert arrived == sum(len(each.arrival_us) for each in made.spans), "each request in one piece"


def test_a_part_counts_from_its_own_start() -> None:
    made = world(span(100))
    part = Part(0, 7, 14)
    requests = made.requests(part)
    assert requests.arrival_s.tolist() == [k * 700_000 / 1e6 for k in range(20)]
    assert requests.prompt_tokens.tolist() == made.spans[0].prompt_tokens[10:30].tolist()
    assert made.card_of(part).limit_bytes.tolist() == list(range(1007, 1021))
    kernel_world, _ = made.served(part)
    assert kernel_world.limit_bytes.tolist() == list(range(1007, 1021))


def test_what_lies_before_a_part() -> None:
    made = world(span(100))
    assert made.before(Part(0, 70, 5)).tolist() == list(range(1010, 1070))
    assert made.before(Part(0, 0, 5)).tolist() == [1000] * BACK_S, "nothing: its first second"
    assert made.before(Part(0, 2, 5)).tolist() == [1000] * (BACK_S - 2) + [1000, 1001]


def test_starts_are_drawn_alike_from_everywhere() -> None:
    made, rng = world(span(30), span(12), span(5)), np.random.default_rng(0)
    drawn = [made.drawn(10, rng) for _ in range(4000)]
    assert {(part.span, part.start_s) for part in drawn} == {
        *((0, k) for k in range(21)), *((1, k) for k in range(3)), (2, 0),
    }  # fmt: skip
    assert {part.seconds for part in drawn if part.span < 2} == {10}
    assert {part.seconds for part in drawn if part.span == 2} == {5}, "a shorter one whole"
    first = sum(part == Part(0, 0, 10) for part in drawn)
    assert 100 < first < 220, "one in 25"


def test_a_world_whose_parts_do_not_fit_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="counts that have nats"):
        ServeWorld((span(5),), card(9), 1200, SECOND, nested(NLL[:2], 4.0, (1.0,)), Deadlines(), 2.0,
                   Means(1.0, 1.0, 1.0))  # fmt: skip
    with pytest.raises(InvalidSpec, match="a second at least"):
        span(0)


def test_shares_of_history_hold_on() -> None:
    assert nested(NLL, 4.0, (1.0,)).history_share.tolist() == [1.0, 1.0, 1.0]
    assert nested(NLL, 4.0, (1.0, 0.5)).history_share.tolist() == [1.0, 0.5, 0.5]


def test_the_most_tokens_are_those_beside_the_fewest_blocks() -> None:
    # 1200 less 100 fixed, one attention block of 40 and one FFN block of 60, at a byte a token and block.
    assert world(span(5)).most_tokens == 1200 - 100 - 40 - 60
