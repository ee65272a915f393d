"""What a name in a bench is: a policy, a rival or an oracle, and what each does under it."""

import pickle
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rapgym.bench import entrants
from rapgym.bench import run as bench_run
from rapgym.bench.entrants import Entrant, Oracle, PolicyEntrant, RivalEntrant
from rapgym.bench.records import About
from rapgym.bench.users import UserEntrant
from rapgym.errors import InvalidPolicy, InvalidSpec
from rapgym.policies import registry
from rapgym.rivals import rivals
from rapgym.scenarios.story import Scenario

MINE = (
    "import numpy as np\n"
    "class Mine:\n"
    "    def reset(self, batch, briefing): self.n = briefing.layout.blocks\n"
    "    def propose(self, observation, rng):\n"
    "        return np.ones((len(observation), self.n), dtype=bool)\n"
)
# Name -> what it is, its kind, and what its cell is called with seed 3.
NAMES: dict[str, tuple[type[Any], str, str]] = {
    "keep-all": (PolicyEntrant, "reactive", "keep-all.3"),
    "mine:Mine": (UserEntrant, "heuristic", "mine:Mine.3"),
    "partial-admission": (RivalEntrant, "rival", "partial-admission"),
    "bound": (Oracle, "bound", "bound"),
    "best-plan": (Oracle, "bound", "best-plan"),
}


@pytest.fixture(autouse=True)
def _mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_says_what_it_is(name: str) -> None:
    found = entrants.entrant(name)
    assert (type(found), found.kind, found.label(3)) == NAMES[name]
    assert found.name == name
    assert found.is_own == (name == "mine:Mine")
    assert pickle.loads(pickle.dumps(found)) == found, "cells run in processes of their own"
    assert {*found.implied} <= {field.name for field in fields(About)}


@pytest.mark.parametrize("name", NAMES)
def test_an_entrant_runs_its_cell_says_it_before_and_replays_it(
    name: str, one_pairing: Scenario
) -> None:
    found = entrants.entrant(name)
    (seed,) = found.seeds(one_pairing, [3])
    assert seed == (3 if isinstance(found, PolicyEntrant | UserEntrant) else 0)
    cell, facts = found.run(one_pairing, seed), found.facts(one_pairing, seed)
    assert (cell.about.policy, cell.about.seed) == (name, seed)
    assert len(found.implied) >= 3
    for field in found.implied:
        assert getattr(cell.about, field) == getattr(facts, field), field
    again = found.again(one_pairing, cell)
    assert (again.log.kept == cell.log.kept).all()
    assert np.array_equal(again.test_cost, cell.test_cost)


def test_only_what_proposes_of_itself_is_asked_again() -> None:
    decides = {name: entrants.entrant(name).decides for name in NAMES}
    assert decides == {
        "keep-all": True, "mine:Mine": False, "partial-admission": False, "bound": False, "best-plan": True
    }  # fmt: skip


def test_every_policy_and_rival_is_found_by_its_name() -> None:
    every = entrants.every()
    names = [each.name for each in every]
    assert names == [*(e.name for e in registry.POLICIES), *(r.name for r in rivals.every())]
    assert [entrants.entrant(name) for name in names] == every
    assert len({*names}) == len(names)


def test_an_unknown_name_is_refused_with_what_there_is() -> None:
    with pytest.raises(InvalidPolicy) as refused:
        entrants.entrant("nobody")
    told = str(refused.value)
    assert "no policy is called 'nobody'" in told
    for name in (*(each.name for each in entrants.every()), "bound", "best-plan", "module:Class"):
        assert name in told, name
    with pytest.raises(InvalidPolicy, match="no policy is called 'nobody'"):
        bench_run.tasks([], ["keep-all", "nobody"], [0])


def test_a_users_policy_that_cannot_be_loaded_says_so(toy_story: Scenario) -> None:
    found = entrants.entrant("mine:Yours")
    assert found.is_own
    with pytest.raises(InvalidPolicy, match="mine:Yours cannot be loaded"):
        found.run(toy_story, 0)


def test_a_training_run_is_no_users_policy(tmp_path: Path) -> None:
    with pytest.raises(InvalidPolicy):
        entrants.entrant(str(tmp_path / "absent.npz"))


def test_a_rival_without_its_table_says_which_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rivals, "every", lambda: rivals.WHOLE)
    for absent in rivals.PRUNED:
        with pytest.raises(InvalidSpec, match=f"{absent.name} needs the quality table smollm2"):
            entrants.entrant(absent.name)


def test_a_bench_runs_each_once_and_what_stands_beside_them(toy_story: Scenario) -> None:
    tasks = bench_run.tasks([toy_story], ["int8", "keep-all", "frontier", "int8"], [0, 1])
    assert [task.name for task in tasks] == [
        "int8", "keep-all.0", "keep-all.1", "frontier.0", "frontier.1",
        "partial-admission", "static-best-repaired.0", "static-best-repaired.1", "bound", "best-plan",
    ]  # fmt: skip


def test_a_policy_that_learns_is_ready_where_it_was_trained(
    toy_story: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: Entrant = entrants.entrant("dqn")
    assert not found.is_ready(toy_story)
    assert found.seeds(toy_story, [0, 1]) == []
    with pytest.raises(InvalidPolicy, match="rapgym train dqn"):
        bench_run.runnable([toy_story], ["dqn"])
    monkeypatch.setattr(registry, "trained_seeds", lambda entry, story: [4, 7])
    assert found.is_ready(toy_story)
    assert found.seeds(toy_story, [0, 1]) == [4, 7]


def test_a_bench_leaves_a_method_out_where_it_was_not_trained_and_says_so(
    toy_story: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(toy_story, name="elsewhere")
    monkeypatch.setattr(
        registry, "trained_seeds",
        lambda entry, story: [3] if entry.name == "dqn" and story == other else [],
    )  # fmt: skip
    names, out = bench_run.runnable([toy_story, other], None)
    assert "dqn" in names
    assert "dqn (toy)" in out
    assert "hindsight" in out
    assert not {"int8", "frontier", "int8-int8-kv"} & {word.partition(" ")[0] for word in out}
    found = [task.name for task in bench_run.tasks([toy_story, other], ["dqn"], [0])]
    assert found.count("dqn.3") == 1
    with pytest.raises(InvalidPolicy, match="rapgym train dqn"):
        bench_run.runnable([toy_story, other], ["dqn"])
