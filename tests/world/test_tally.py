"""Rows that compiled code serves and forgets cost what the reference says, to the last bit."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_table import ALL_SETS
from worlds import int_rows, worlds

from rapgym.arrays import BoolArray, FloatArray
from rapgym.baselines import forecast, frontier_hysteresis, frontier_margin, frontier_recent
from rapgym.policies.policy import Briefing, Policy, briefing
from rapgym.rollout import at_once, rollout, tuning
from rapgym.scenarios.catalogue import scenario
from rapgym.world import simulator
from rapgym.world.records import World
from rapgym.world.tally import Tally
from rapgym.world.tally_kernel import NONE


@given(st.data(), worlds(), st.booleans())
def test_sets_proposed_in_turn(data: st.DataObject, world: World, strict: bool) -> None:
    """A lane may propose what it has in memory, too."""
    every: BoolArray = np.array(ALL_SETS)
    lanes, steps = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 8))
    sets = every[data.draw(int_rows(0, 63, data.draw(st.integers(1, 4))))] | world.floor
    chosen = np.array(
        data.draw(st.lists(int_rows(NONE, len(sets) - 1, lanes), min_size=steps, max_size=steps))
    )
    row, count = np.arange(steps) % len(world.rows), len(world.rows)
    limit_row = (row + data.draw(st.integers(0, count - 1))) % count
    quick, total = np.zeros(lanes), np.zeros(lanes)
    tally = Tally(world, sets, quick, refuses_misfit=strict, rows=steps)
    for part in np.array_split(np.arange(steps), 2):
        tally.serve(row[part], limit_row[part], chosen[part])
    proposed, before = tally.proposed
    loaded = np.ones((lanes, world.blocks), dtype=bool)
    for t in range(steps):
        own = (chosen[t] == NONE)[:, None]
        proposal = np.where(own, loaded | world.floor, sets[chosen[t]])
        assert (proposed[t] == proposal[0]).all()
        assert (before[t] == loaded[0]).all()
        ones = np.ones(lanes, dtype=np.int64)
        state = world.state(row[t] * ones, limit_row[t] * ones, loaded=loaded)
        state, outcome = simulator.step(world, state, proposal, None, np.full(lanes, strict))
        loaded = state.loaded
        total += outcome.terms.total * world.mean_output_tokens
    assert (quick == total).all()


def in_turn(
    make: Callable[[], Policy], told: Briefing, copies: int, monkeypatch: pytest.MonkeyPatch
) -> FloatArray:
    """Costs of settings as the reference way gives them: row by row."""
    with monkeypatch.context() as patch:
        patch.setattr(at_once, "can_tally", lambda *given: False)
        return tuning.train_costs(make, told, copies)


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (frontier_margin.FrontierMargin, {"margin": frontier_margin.MARGINS}),
        (frontier_recent.FrontierRecent, frontier_recent.SETTINGS),
        (frontier_hysteresis.FrontierHysteresis, frontier_hysteresis.SETTINGS),
        (forecast.CrossFitted, forecast.SETTINGS),
    ],
    ids=["margin", "recent", "hysteresis", "forecast"],
)
@pytest.mark.parametrize("name", ["laptop", "chat-gqa-8bit"])
def test_settings_cost_what_they_cost_row_by_row(
    name: str, make: Any, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    story = scenario(name)
    told, count = briefing(story, "fit-2"), len(next(iter(settings.values())))
    folds = forecast.folded(told.train, forecast.FOLDS)

    def maker() -> Callable[[], Policy]:
        if make is not forecast.CrossFitted:
            return lambda: make(**settings)
        starts = iter(rollout.whole_split(told.train, story.offsets))
        rows = len(told.rows)
        return lambda: make(folds, next(starts).offset, rows, **settings)

    costs = tuning.train_costs(maker(), told, count)
    assert len(np.unique(costs)) > 3, "settings matter"
    assert (costs == in_turn(maker(), told, count, monkeypatch)).all()
