"""Files of trained policies: read back whole, refused when damaged, hostile or of another world."""

import io
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from rapgym.arrays import BoolArray, FloatArray
from rapgym.bench import cells, entrants
from rapgym.bench import run as bench_run
from rapgym.errors import InvalidPolicy
from rapgym.files import checked, limits, places
from rapgym.policies import registry, trained
from rapgym.policies.basis import basis
from rapgym.policies.policy import FITS, Briefing, briefing, held_out
from rapgym.policies.trained import TrainedPolicy
from rapgym.rollout import rollout
from rapgym.scenarios.story import Scenario
from rapgym.world import encoding


class Weighted:
    """Keeps what its weights say: as simple as a learned policy can be."""

    def __init__(self, file: str, sha256: str) -> None:
        self._trained = trained.load(file, sha256)

    def reset(self, batch: int, briefing: Briefing) -> None:
        self._trained.check_layout(briefing.layout)

    def propose(self, observation: FloatArray, rng: np.random.Generator) -> BoolArray:
        return np.tile(self._trained.arrays["kept"] > 0, (len(observation), 1))


class Fixed:
    """Keeps one set."""

    def __init__(self, kept: BoolArray) -> None:
        self._kept = kept

    def reset(self, batch: int, briefing: Briefing) -> None:
        pass

    def propose(self, observation: FloatArray, rng: np.random.Generator) -> BoolArray:
        return np.tile(self._kept, (len(observation), 1))


ENTRY = registry.Entry(
    "weighted", "learned", "test_trained:Weighted", "what its weights say", (), train="nowhere:train"
)  # fmt: skip


@pytest.fixture
def run(toy_story: Scenario) -> TrainedPolicy:
    layout = briefing(toy_story, "learn").layout
    return TrainedPolicy(
        method="weighted",
        scenario=toy_story.id,
        told="train",
        seed=3,
        **basis(toy_story),
        observation=trained.observation_of(layout),
        training={"opened": ["check", "learn"], "seconds": 1.5},
        arrays={
            "kept": np.array([1, 1, 0, 1, 0, 1], np.int8),
            "half": np.linspace(-1, 1, 7).astype(np.float16),
            "turned": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        },
    )


@pytest.fixture
def shipped(
    run: TrainedPolicy, toy_story: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The file of a run where bench looks for it, of a method that bench knows; its folds are there."""
    monkeypatch.setattr(places, "TRAINED", tmp_path / "trained")
    monkeypatch.setattr(registry, "POLICIES", (*registry.POLICIES, ENTRY))
    for fit in FITS:
        fold = replace(run, told=fit, seed=0, training={"opened": [fit], "seconds": 1.0})
        trained.write(places.TRAINED / f"{trained.place('weighted', toy_story, fit, 0)}.npz", fold)
    path = places.TRAINED / f"{trained.place('weighted', toy_story, 'train', 3)}.npz"
    trained.write(path, run)
    return path


def test_a_file_gives_back_what_was_written(run: TrainedPolicy, tmp_path: Path) -> None:
    trained.write(tmp_path / "a.npz", run)
    found = trained.read(tmp_path / "a.npz")
    assert replace(found, arrays={}) == replace(run, arrays={})
    assert found.arrays.keys() == run.arrays.keys()
    for name, array in run.arrays.items():
        assert found.arrays[name].dtype == array.dtype
        assert (found.arrays[name] == array).all()
    trained.write(tmp_path / "b.npz", found)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def _with_entry(name: str, content: bytes) -> Callable[[bytes], bytes]:
    def changed(whole: bytes) -> bytes:
        buffer = io.BytesIO(whole)
        with zipfile.ZipFile(buffer, "a") as packed:
            packed.writestr(name, content)
        return buffer.getvalue()

    return changed


def _npy(array: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def _claiming(shape: tuple[int, ...]) -> bytes:
    """An array that says it is larger than it is."""
    buffer = io.BytesIO()
    claim = {"descr": "<f8", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, claim)
    return buffer.getvalue() + bytes(64)


HOSTILE: dict[str, Callable[[bytes], bytes]] = {
    "cut short": lambda whole: whole[: len(whole) // 2],
    "nothing": lambda whole: b"",
    "no zip": lambda whole: b"PK" + whole[:40],
    "a pickle": _with_entry("x.npy", _npy(np.array([{}], dtype=object), allow_pickle=True)),
    "an enormous array": _with_entry("x.npy", _claiming((1 << 40, 1 << 20))),
    "a bomb": _with_entry("x.npy", bytes(limits.WEIGHTS + 1)),
    "no array": _with_entry("x.npy", b"words"),
    "text": _with_entry("x.npy", _npy(np.array(["words"]))),
    "not a number": _with_entry("x.npy", _npy(np.array([np.nan]))),
}


def test_a_run_says_with_which_seed(run: TrainedPolicy, tmp_path: Path) -> None:
    trained.write(tmp_path / "a.npz", replace(run, seed=-1))
    with pytest.raises(InvalidPolicy, match="or with which seed"):
        trained.read(tmp_path / "a.npz")


def test_seeds_are_told_in_their_order(
    run: TrainedPolicy, toy_story: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "TRAINED", tmp_path)
    for seed in (11, 2, 3):
        place = trained.place("weighted", toy_story, "train", seed)
        trained.write(tmp_path / f"{place}.npz", replace(run, told="train", seed=seed))
    assert trained.seeds("weighted", toy_story, "train") == [2, 3, 11]


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused(run: TrainedPolicy, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.npz"
    trained.write(path, run)
    path.write_bytes(HOSTILE[kind](path.read_bytes()))
    with pytest.raises(InvalidPolicy, match="no trained policy that can be read"):
        trained.read(path)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a//b", "a/../b", "", "a\0b", ".."])
def test_names_cannot_leave_their_folder(name: str) -> None:
    with pytest.raises(InvalidPolicy, match="is no name of a trained policy"):
        trained.load(name)


def test_another_file_than_was_meant_is_refused(shipped: Path, run: TrainedPolicy) -> None:
    file, sha256 = "weighted/" + shipped.parent.name + "/train-3", checked.sha256_of(shipped)
    assert trained.load(file, sha256).seed == 3
    trained.write(shipped, replace(run, training={**run.training, "seconds": 2.0}))
    with pytest.raises(InvalidPolicy, match="is not the policy that was meant"):
        trained.load(file, sha256)


def test_observations_that_mean_something_else_are_refused(
    run: TrainedPolicy, toy_story: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = briefing(toy_story).layout
    run.check_layout(layout)
    fewer = replace(layout, parts=layout.parts[:-1])
    with pytest.raises(InvalidPolicy, match="observations whose parts is"):
        run.check_layout(fewer)
    monkeypatch.setattr(encoding, "SCHEMA", encoding.SCHEMA + 1)
    with pytest.raises(InvalidPolicy, match="observations whose schema is"):
        run.check_layout(layout)


@pytest.mark.parametrize(
    ("told", "opened", "allowed"),
    [
        ("fit-3", ["learn-3", "check-3"], True),
        ("fit-3", ["learn-3", "validation-3"], False),
        ("fit-3", ["learn", "check"], False),
        ("fit-3", ["learn-3", "test"], False),
        ("fit-3", ["test columns", "learn-3"], False),
        ("train", ["fit-3", "validation-3"], True),
        ("train", ["fit-3", "a whole workload"], False),
        ("train", [], False),
        ("train", None, False),
    ],
)
def test_bench_refuses_a_policy_that_opened_what_it_is_judged_on(
    shipped: Path, run: TrainedPolicy, toy_story: Scenario, told: Any, opened: Any, allowed: bool
) -> None:
    training = {} if opened is None else {"opened": opened}
    path = shipped.with_name("x.npz")
    trained.write(path, replace(run, told=told, training=training))
    entry = registry.entry(str(path))
    if allowed:
        assert cells.policy_cell(toy_story, entry, 3).about.kind == "learned"
        return
    with pytest.raises(
        InvalidPolicy, match=r"while training|does not say what its training opened"
    ):
        cells.policy_cell(toy_story, entry, 3)


def test_bench_runs_a_method_with_the_seeds_of_its_training_runs(
    shipped: Path, run: TrainedPolicy, toy_story: Scenario
) -> None:
    trained.write(shipped.with_name("train-11.npz"), replace(run, seed=11))
    names = [task.name for task in bench_run.tasks([toy_story], ["weighted"], [0])]
    assert {"weighted.3", "weighted.11"} < {*names}
    cell = cells.policy_cell(toy_story, registry.entry("weighted"), 3)
    assert cell.about.settings == {
        "file": trained.place("weighted", toy_story, "train", 3),
        "sha256": checked.sha256_of(shipped),
    }
    own = registry.build(registry.entry("weighted"), cell.about.settings)
    log = rollout.run(lambda: own, toy_story, "test", briefing(toy_story), 3)
    assert (log.proposal == cell.log.proposal).all()
    assert (log.proposal[0, 0] == (run.arrays["kept"] > 0)).all()
    assert cell.about.validation_cost is not None
    assert cell.about.validation_cost > 0


def test_how_a_run_began_stands_beside_it_in_a_bench(
    shipped: Path, run: TrainedPolicy, toy_story: Scenario
) -> None:
    asked = entrants.entrants(["weighted"])
    assert "weighted-untrained" in [each.name for each in asked]
    assert "weighted-untrained" not in [each.name for each in entrants.entrants(["keep-all"])]
    (start,) = (each for each in asked if each.name == "weighted-untrained")
    assert list(start.seeds(toy_story, [0])) == [], (
        "a run that did not keep how it began has no row"
    )
    began = replace(run, arrays={"kept": np.array([1, 1, 1, 1, 1, 0], np.int8)})
    place = trained.place("weighted", toy_story, "train", 3, untrained=True)
    trained.write(places.TRAINED / f"{place}.npz", began)
    assert list(start.seeds(toy_story, [0])) == [3]
    assert trained.seeds("weighted", toy_story, "train") == [3], "and is no run of its own"
    cell = start.run(toy_story, 3)
    assert (cell.log.proposal == (began.arrays["kept"] > 0)).all()
    assert cell.about.settings["file"] == place
    assert cell.about.kind == "reactive"
    assert cell.about.validation_cost is None, "no champion"


@pytest.mark.parametrize("told", ["train", "fit-2"])
def test_one_run_alone_has_no_validation_cost(
    told: Any, shipped: Path, run: TrainedPolicy, toy_story: Scenario
) -> None:
    """Told of train it has seen all of it, told of a fold two thirds."""
    path = shipped.with_name("x.npz")
    opened = {"opened": [told], "seconds": 1.0}
    trained.write(path, replace(run, told=told, training=opened))
    cell = cells.policy_cell(toy_story, registry.entry(str(path)), 3)
    assert cell.about.validation_cost is None


def test_each_third_of_train_is_judged_by_the_run_that_knows_the_others(
    shipped: Path, run: TrainedPolicy, toy_story: Scenario
) -> None:
    """Blocked cross-validation: the sum over all rows, each served by its own fold's run."""
    paid = output = 0.0
    for number, fit in enumerate(FITS):
        kept = np.ones(6, np.int8)
        kept[-1 - number] = 0
        fold = replace(run, told=fit, seed=0, arrays={"kept": kept}, training={"opened": [fit]})
        trained.write(places.TRAINED / f"{trained.place('weighted', toy_story, fit, 0)}.npz", fold)
        told = briefing(toy_story, fit)
        log = rollout.run(lambda kept=kept: Fixed(kept > 0), toy_story, held_out(fit), told, 3)  # type: ignore[misc]
        paid += float((log.cost * log.output_tokens).sum())
        output += float(log.output_tokens.sum())
    cell = cells.policy_cell(toy_story, registry.entry("weighted"), 3)
    assert cell.about.validation_cost == pytest.approx(paid / output)
    (places.TRAINED / f"{trained.place('weighted', toy_story, 'fit-2', 0)}.npz").unlink()
    with pytest.raises(InvalidPolicy, match=r"fit-2-3; make it with rapgym train"):
        cells.policy_cell(toy_story, registry.entry("weighted"), 3)


def test_a_run_of_another_table_or_workload_is_refused(
    shipped: Path, run: TrainedPolicy, toy_story: Scenario
) -> None:
    entry, told = registry.entry("weighted"), briefing(toy_story)
    other = "0" * 64
    for name, word in (("table", "table"), ("workload", "workload"), ("world", "numbers")):
        trained.write(shipped, replace(run, **cast(Any, {f"{name}_sha256": other})))
        with pytest.raises(InvalidPolicy, match=f"another {word}.*rapgym train weighted"):
            registry.settings(entry, told, 3)


def test_a_method_that_was_not_trained_says_how_to(shipped: Path, toy_story: Scenario) -> None:
    entry, told = registry.entry("weighted"), briefing(toy_story)
    with pytest.raises(InvalidPolicy, match=r"rapgym train weighted --scenario"):
        registry.settings(entry, told, 4)


def test_bench_leaves_out_what_was_trained_nowhere_here_unless_it_is_asked_for(
    shipped: Path, toy_story: Scenario
) -> None:
    names, out = bench_run.runnable([toy_story], None)
    assert "weighted" in names
    assert "frontier" in names
    assert "int4" in names
    assert not {*names} & {*out}
    shipped.unlink()
    names, out = bench_run.runnable([toy_story], None)
    assert "weighted" not in names
    assert "weighted" in out
    with pytest.raises(InvalidPolicy, match=r"rapgym train weighted --scenario"):
        bench_run.runnable([toy_story], ["weighted", "frontier"])
