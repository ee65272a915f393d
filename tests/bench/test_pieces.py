"""Pieces tile the rows, and are what one would count by hand."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapgym.bench import pieces
from rapgym.scenarios import worlds
from rapgym.scenarios.story import Scenario


def fits(text: str) -> np.ndarray:
    """ "." where the full model fits, "#" where it does not."""
    return np.array([mark == "." for mark in text])


def test_bursts_by_hand() -> None:
    """A burst begins where the model stops fitting; the calm behind it is its own."""
    found = pieces.pieces(fits("..##..#.###.."), 7)
    assert found.unit == "burst"
    assert found.first.tolist() == [0, 6, 8], "the calm before the first burst belongs to it"
    assert found.of_row.tolist() == [0] * 6 + [1] * 2 + [2] * 5
    assert found.sums(np.ones(13)).tolist() == [6, 2, 5]


@pytest.mark.parametrize("text", ["....", "####", ".##", "#"])
def test_rows_without_two_bursts_are_one_piece(text: str) -> None:
    assert pieces.pieces(fits(text), 7).first.tolist() == [0]


@given(st.lists(st.booleans(), min_size=1, max_size=200), st.integers(1, 60))
def test_pieces_tile_the_rows(calm: list[bool], window_s: int) -> None:
    found = pieces.pieces(np.array(calm), window_s)
    lengths = np.bincount(found.of_row, minlength=len(found))
    assert lengths.sum() == found.rows == len(calm)
    assert (lengths > 0).all()
    assert 1 <= found.effective <= len(found) + 1e-9


def test_long_splits_are_cut_by_the_hour_or_the_day() -> None:
    """Six of them are enough; what is left over goes to the last."""
    hours = pieces.pieces(np.ones(6 * 600 + 17, dtype=bool), 6)
    assert (hours.unit, len(hours)) == ("hour", 6)
    assert hours.sums(np.ones(hours.rows)).tolist() == [600] * 5 + [617]
    assert pieces.pieces(np.ones(6 * 600 - 1, dtype=bool), 6).unit == "burst"
    days = pieces.pieces(np.ones(6 * 1440, dtype=bool), 60)
    assert (days.unit, len(days)) == ("day", 6)
    assert pieces.pieces(np.ones(6 * 1440 - 1, dtype=bool), 60).unit == "hour"


def test_equal_pieces_count_whole_and_one_long_one_does_not() -> None:
    even = pieces.Pieces("burst", np.array([0, 5, 10]), 15)
    uneven = pieces.Pieces("burst", np.array([0, 1, 2]), 15)
    assert even.effective == pytest.approx(3)
    # 15^2 over 1 + 1 + 13^2.
    assert uneven.effective == pytest.approx(225 / 171)


def test_a_scenarios_pieces_begin_where_its_full_model_stops_fitting(toy_story: Scenario) -> None:
    world, found = worlds.world(toy_story, "test"), pieces.of_split(toy_story)
    dense = np.ones(world.blocks, dtype=bool)
    calm = []
    for t in range(len(world.rows)):
        tokens = world.rows.prompt_tokens[t] + world.rows.reserved_tokens[t]
        used = world.footprint.used_bytes(dense, tokens, world.rows.prompt_tokens[t])
        calm.append(bool((used <= world.rows.limit_bytes[t]).all()))
    begins = [t for t in range(1, len(calm)) if not calm[t] and calm[t - 1]]
    assert len(found) > 2
    assert found.first.tolist()[1:] == (begins if not calm[0] else begins[1:])


def test_no_piece_of_a_blocked_split_crosses_a_seam(toy_story: Scenario) -> None:
    from rapgym.workload import series

    story = replace(toy_story, splits="blocked")
    rows = series.split_rows(len(worlds.workload(story)), "test", "blocked")
    found = pieces.of_split(story)
    seams = np.flatnonzero(np.diff(rows) > 1) + 1
    assert len(seams) == 3
    assert set(seams.tolist()) <= set(found.first.tolist())
