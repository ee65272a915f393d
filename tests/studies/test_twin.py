"""Synthetic twins: their chances are what they say, their rows come from train, and they repeat."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import stories

from rapgym.errors import InvalidSpec
from rapgym.policies.policy import briefing
from rapgym.policies.reference import FrontierLookup
from rapgym.rollout import rollout
from rapgym.scenarios import worlds
from rapgym.studies.causal import twin
from rapgym.studies.causal.twin import Chain, Twin
from rapgym.workload import names, series


@pytest.fixture(scope="module")
def source() -> Twin:
    return twin.fit(stories.mixed(), neighbours=8)


def test_a_walk_goes_on_with_the_stated_chances() -> None:
    chain = Chain(
        np.array([[1, 2], [2, 0], [0, 1]]), np.array([[0.25, 1.0], [0.5, 1.0], [1.0, 1.0]])
    )
    steps = chain.walks(np.zeros(40_000, dtype=np.int64), 2, np.random.default_rng(0))
    assert {*np.unique(steps[:, 0])} == {1, 2}
    assert (steps[:, 0] == 1).mean() == pytest.approx(0.25, abs=0.01)
    assert (steps[steps[:, 0] == 2, 1] == 0).all(), "of the last state the second has no chance"
    walk = chain.walk(40_000, np.random.default_rng(1))
    assert (walk[1:][walk[:-1] == 0] == 1).mean() == pytest.approx(0.25, abs=0.02)


def test_neighbours_are_apart_in_time_and_have_a_successor() -> None:
    what = np.random.default_rng(2).normal(size=(2, 60, 3))
    found = twin.nearest(what, 5, apart=7)
    for state, likes in enumerate(found):
        assert (likes % 60 != 59).all(), "the last moment of a stretch goes on nowhere"
        same = likes // 60 == state // 60
        assert (np.abs(likes - state)[same] > 7).all()
        distance = ((what.reshape(-1, 3)[likes] - what.reshape(-1, 3)[state]) ** 2).sum(axis=1)
        assert (np.diff(distance) >= 0).all()
    with pytest.raises(InvalidSpec, match="too few"):
        twin.nearest(what[:, :10], 30, apart=7)


def test_balanced_chances_visit_each_state_as_often() -> None:
    likes = np.array([[1, 2, 3], [2, 3, 0], [3, 0, 1], [0, 1, 0]])
    chance = twin.balanced(likes)
    assert chance.sum(axis=1) == pytest.approx(np.ones(4))
    visits = np.bincount(likes.ravel(), chance.ravel(), minlength=4)
    assert visits == pytest.approx(np.ones(4), abs=1e-6)


def test_the_error_of_a_prediction_by_hand() -> None:
    # |1 - 2| and |4 - 2| average 1.5; two draws 3 apart take off 1.5.
    assert twin.crps(np.array([[1.0, 4.0]]), np.array([2.0])) == pytest.approx([0.0])
    assert twin.crps(np.array([[5.0, 5.0]]), np.array([2.0])) == pytest.approx([3.0])


def test_a_twin_holds_nothing_but_train_rows(source: Twin) -> None:
    story = source.story
    whole = worlds.workload(story)
    train = whole.part(series.split_rows(len(whole), "train", story.splits))
    asked = {*zip(train.batch, train.prompt_tokens, train.longest_prompt_tokens, strict=True)}
    assert {*map(tuple, source.asked)} <= asked
    assert {*source.held.tolist()} <= {*train.tenant_tokens.ravel().tolist()}
    assert len(source.held) == train.tenant_tokens.size


def test_a_seed_fixes_a_twin_and_policies_run_on_it(source: Twin, tmp_path: Path) -> None:
    drawn = twin.draw(source, 120, seed=3)
    again, other = twin.draw(source, 120, seed=3), twin.draw(source, 120, seed=4)
    assert (drawn.second == again.second).all()
    assert (drawn.rows.output_tokens == again.rows.output_tokens).all()
    assert (drawn.second != other.second).any()
    assert (drawn.rows.tenant_tokens == source.held[drawn.second]).all()
    # Each second goes on with one of the successors of the second before.
    seconds = drawn.second.ravel()
    assert (source.tenant.chain.successors[seconds[:-1]] == seconds[1:, None]).any(axis=1).all()
    story = twin.write(source, drawn, tmp_path)
    assert len(worlds.workload(story)) == 120
    assert not story.headline
    log = rollout.run(FrontierLookup, story, "test", briefing(story))
    assert log.row.shape == (30, 1)
    assert np.isfinite(log.mean_cost)


def test_a_twin_of_days_that_are_drawn_is_read_from_its_own_file(
    source: Twin, tmp_path: Path
) -> None:
    days = replace(source, story=replace(source.story, trace=f"{names.DRAWN}language/m-large"))
    assert days.story.is_drawn
    story = twin.write(days, twin.draw(days, 40, seed=0), tmp_path)
    assert len(worlds.workload(story)) == 40


def test_what_has_no_twin_says_so() -> None:
    with pytest.raises(InvalidSpec, match="without notice"):
        twin.fit(stories.noticed())
