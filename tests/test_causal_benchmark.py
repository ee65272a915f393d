"""The causal controller: its world is the twin's, it lies between its base and what none can beat."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rapgym import bound, rollout, scenario, simulator, twin
from rapgym.twin import Drawn, Twin

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import causal_controller  # noqa: E402
import causal_page  # noqa: E402
import causal_scores  # noqa: E402
import causal_states  # noqa: E402

ROWS = 160


@pytest.fixture(scope="module")
def drawn_twin(tmp_path_factory: pytest.TempPathFactory) -> tuple[Twin, Drawn, Any]:
    source = twin.fit(scenario.scenario("chat-mixed"), neighbours=8)
    drawn = twin.draw(source, ROWS, seed=0)
    return source, drawn, twin.write(source, drawn, tmp_path_factory.mktemp("twin"))


def test_states_are_the_rows_of_the_scenario(drawn_twin: tuple[Twin, Drawn, Any]) -> None:
    source, drawn, story = drawn_twin
    of, part = causal_states.states(source), causal_states.part(drawn, "test")
    rows = scenario.world(story, "test").rows
    assert (of.limit_bytes[part.second] == rows.limit_bytes).all()
    for name in ("batch", "prompt_tokens", "reserved_tokens", "longest_tokens"):
        assert (getattr(of.demand, name)[part.row] == getattr(rows, name)).all(), name


def test_the_controller_beats_its_base_and_nothing_beats_what_none_can(
    drawn_twin: tuple[Twin, Drawn, Any],
) -> None:
    source, drawn, story = drawn_twin
    of, told = causal_states.states(source), scenario.world(story, "test")
    at = causal_controller.known(source, told, of.limit_bytes, of.demand)
    base = causal_controller.Base.of(at, 0.2, np.random.default_rng(0))
    part = causal_states.part(drawn, "test")
    found = causal_controller.prices(at, base, part, seed=0, futures=16)
    chosen = causal_controller.choices(at, found)
    charge = causal_controller.charge(at, found, chosen)
    least = causal_controller.least_charge(at, found)
    assert least <= charge + 1e-9
    # Judged by other futures, choices lose what was the luck of their own.
    fresh = causal_controller.prices(at, base, part, seed=1, futures=16)
    assert causal_controller.charge(at, fresh, chosen) > charge
    # The base as a plan is charged no less than the controller: each step is its best first one.
    loaded, charged = np.ones((1, at.world.blocks), dtype=bool), 0.0
    for t, choice in enumerate(found.base):
        charged += float(causal_controller._entering(at, found, t, loaded)[0, choice])
        loaded = found.end[t, choice][None]
    assert charge <= charged + 1e-9
    none = np.zeros(1, dtype=np.int64)
    start = simulator.start(told, none, none, np.ones(1))
    log = rollout.proposed(told, at.front.kept[chosen][:, None], start)
    lowest = bound.least_cost(told, told.quality.at_counts, start, len(told.rows))
    assert log.mean_cost >= float(lowest[0]) - 1e-12


def test_shares_are_of_the_causal_score() -> None:
    output = np.full((60, 1), 10)
    base = np.random.default_rng(0).uniform(0.9, 1.1, (60, 1))
    names = {causal_scores.LOOKUP: 1.0, causal_scores.CAUSAL: 0.6, causal_scores.BOUND: 0.2,
             "half-way": 0.8}  # fmt: skip
    found = causal_scores.scored({n: c * base for n, c in names.items()}, output, 7)
    assert found[causal_scores.CAUSAL]["foresight"] == pytest.approx(50)
    assert found["half-way"]["foresight"] == pytest.approx(25)
    assert found["half-way"]["share"] == pytest.approx(50)


def test_the_page_says_what_the_results_file_holds() -> None:
    found = json.loads((BENCHMARKS / "results" / "causal.json").read_text())
    page = causal_page.section(found)
    assert found["scenarios"]
    for one in found["scenarios"]:
        causal = one["twin"]["policies"][causal_scores.CAUSAL]
        assert f"| `{one['scenario']}` | {causal['foresight']:.0f} [" in page
        assert causal["foresight"] <= 100
