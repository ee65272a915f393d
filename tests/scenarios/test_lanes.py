"""Lanes: what serves them, and what they share with those who call."""

import numpy as np
import pytest

from rapgym.scenarios.catalogue import story_of
from rapgym.scenarios.lanes import Lanes, Start
from rapgym.world import pace


@pytest.fixture(params=[0, 1 << 62], ids=["compiled", "reference"])
def lanes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Lanes:
    monkeypatch.setattr(pace, "REFERENCE_ROWS", request.param)
    found = Lanes(story_of("laptop"), "train", 3)
    assert (found.twin is None) == bool(request.param)
    return found


@pytest.mark.parametrize("served", [None, [True, True, True], [True, False, True]])
def test_neither_a_proposal_nor_an_outcome_is_a_way_into_lanes(
    lanes: Lanes, served: list[bool] | None
) -> None:
    rng = np.random.default_rng(0)
    proposal = rng.random((3, lanes.world.blocks)) < 0.9
    which = None if served is None else np.array(served)
    given = proposal.copy()
    outcome = lanes.serve(proposal, which)
    proposal[:] = ~proposal
    assert (outcome.proposal == (given if which is None else given[which])).all()
    before, seen = lanes.state.loaded.copy(), lanes.observe()
    outcome.kept_end[:] = ~outcome.kept_end
    assert (lanes.state.loaded == before).all()
    assert (lanes.observe() == seen).all()
    seen[:] = 0
    assert lanes.observe().any(), "an observation is the caller's own"


def test_some_lanes_wait_while_others_are_served(lanes: Lanes) -> None:
    full = np.ones((3, lanes.world.blocks), dtype=bool)
    lanes.serve(full, np.array([True, False, True]))
    assert lanes.state.row.tolist() == [1, 0, 1]
    assert lanes.age.tolist() == [1, 0, 1]
    lanes.serve(full)
    assert lanes.state.row.tolist() == [2, 1, 2]


def test_what_a_row_asks_for_is_known_before_it_is_observed(lanes: Lanes) -> None:
    lanes.restart(1, Start(7, 2, 1.1, 9))
    before = lanes.asked
    lanes.observe()
    for found, wanted in ((before, lanes.asked), (before, lanes.world.demand(lanes.state))):
        for name in ("batch", "prompt_tokens", "reserved_tokens", "longest_tokens"):
            assert (getattr(found, name) == getattr(wanted, name)).all(), name


def test_lanes_go_over_to_compiled_code_once_they_have_served_many_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pace, "REFERENCE_ROWS", 7)
    lanes = Lanes(story_of("laptop"), "train", 3)
    full = np.ones((3, lanes.world.blocks), dtype=bool)
    for rows, is_compiled in ((3, False), (6, False), (9, True)):
        lanes.serve(full)
        assert (lanes.twin is not None) == is_compiled, rows
