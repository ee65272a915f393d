"""Submissions whose policy is a file: a training run of rapgym's, and a model of Stable-Baselines3."""

import dataclasses
import json
import shutil
from pathlib import Path

import gymnasium
import pytest

from rapgym.bench import cells
from rapgym.bench.origin import origin, surroundings
from rapgym.bench.results import Cell, Results
from rapgym.errors import InvalidPolicy, InvalidResult
from rapgym.files import places
from rapgym.guard import landlock
from rapgym.guard.foreign import Terms
from rapgym.policies import registry
from rapgym.scenarios import catalogue
from rapgym.scenarios.story import Scenario
from rapgym.submissions import check, pack, stored, submission
from rapgym.submissions.header import Stated
from rapgym.submissions.stored import HEADER

STATED = Stated("a-run", ("A. Body",), "https://example.org/run", "MIT", training_hours=0.5)
RUNS = places.TRAINED / "hindsight" / "laptop-v0"


def found(story: Scenario, cell: Cell) -> Results:
    return Results({**origin([story], [0]), **surroundings()}, (cell,))


def test_a_training_run_needs_no_code_and_is_bound_to_its_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What packing leaves out, and takes three quarters of a bench.
    monkeypatch.setattr(cells, "validation_parts", lambda *_: ())
    story = catalogue.scenario("laptop")
    file = tmp_path / "mine.npz"
    shutil.copy(RUNS / "train-0.npz", file)
    bench = found(story, cells.policy_cell(story, registry.entry(str(file)), 0))
    made = pack.made(bench, str(file), STATED, tmp_path)
    assert str(tmp_path) not in made.header.text()
    (tmp_path / "a-run.zip").write_bytes(made.packed())
    file.unlink()
    sent = submission.read(tmp_path / "a-run.zip")
    assert set(sent.files) == {"policy/mine.npz"}
    assert sent.rows.cells[0].about.settings.keys() == {"sha256"}
    assert check.differences(sent, again=True) == []

    other = (RUNS / "train-1.npz").read_bytes()
    files = {**stored.read(tmp_path / "a-run.zip"), "policy/mine.npz": other}
    header = json.loads(files[HEADER])
    header["files"]["policy/mine.npz"] = submission.sha256(other)
    files[HEADER] = json.dumps(header).encode()
    (tmp_path / "forged.zip").write_bytes(stored.packed(files))
    said = check.differences(submission.read(tmp_path / "forged.zip"))
    assert any(each.startswith("settings of a-run on laptop-v0 is") for each in said)


@pytest.mark.skipif(not landlock.version(), reason="this kernel has no Landlock")
def test_a_saved_model_is_read_only_where_its_authors_are_trusted(
    one_pairing: Scenario, tmp_path: Path
) -> None:
    sb3 = pytest.importorskip("stable_baselines3")
    env = gymnasium.make("RAP-Counts-v0", scenario=one_pairing.name)
    model = sb3.PPO("MlpPolicy", env, n_steps=8, batch_size=8, device="cpu", seed=1)
    model.save(tmp_path / "model.zip")
    policy = f"sb3:{tmp_path / 'model.zip'}"
    terms = Terms(in_process=True, trust=True)
    cell = cells.user_cell(one_pairing, registry.entry(policy), 0, terms)
    with pytest.raises(InvalidResult, match="no rows of sb3:other"):
        pack.made(found(one_pairing, cell), "sb3:other.zip", STATED, tmp_path)
    # As if a process of its own had played it, which takes a while.
    alone = dataclasses.replace(cell, about=dataclasses.replace(cell.about, isolation="confined"))
    made = pack.made(found(one_pairing, alone), policy, STATED, tmp_path)
    assert made.header.policy == "sb3:model.zip"
    (tmp_path / "a-run.zip").write_bytes(made.packed())
    sent = submission.read(tmp_path / "a-run.zip")
    assert check.differences(sent) == []
    with pytest.raises(InvalidPolicy, match="--trust"):
        check.differences(sent, again=True)
    assert check.differences(sent, again=True, trust=True) == []
    assert made.rows.cells[0].about.policy == "a-run"
    in_process = pack.made(found(one_pairing, cell), policy, STATED, tmp_path)
    assert "--in-process" in check.differences(in_process)[0]
