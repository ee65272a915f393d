"""`bench --trace`: own traces from files to scores, tuned on their own train part, and verified again."""

import json
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rapgym import cli
from rapgym.bench import cells, results, verify
from rapgym.bench import origin as bench_origin
from rapgym.bench import run as bench_run
from rapgym.bench.results import Results
from rapgym.errors import DataUnavailable, InvalidPolicy, InvalidResult
from rapgym.files import checked, places
from rapgym.policies import registry
from rapgym.policies.policy import briefing
from rapgym.report import worth
from rapgym.scenarios import catalogue, worlds
from rapgym.scenarios.story import Scenario
from rapgym.workload.trace import MemoryTrace, RequestTrace, write_memory, write_requests
from rapgym.worth import point as worth_point

GIB = 1 << 30
NAME = "laptop[memory=m.csv.gz,requests=r.csv,card=23.5,window=7]"
COMMAND = ["bench", "--trace", "m.csv.gz", "--requests", "r.csv", "--card", "23.5", "--window", "7", "--jobs",
           "1", "--quiet", "--policy", "frontier-margin", "--policy", "partial-admission",
           "--out", "own.csv.gz"]  # fmt: skip

pytestmark = pytest.mark.usefixtures("shaped", "here")


@pytest.fixture(scope="module")
def folder(shaped: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recordings of one time: others hold 2 to 7 GiB, requests come in waves."""
    made = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(4)
    at = np.arange(0, 470, 0.5)
    used = (4.5e9 + 2.4e9 * np.sin(at / 23) + rng.integers(0, 1 << 28, len(at))).astype(np.int64)
    write_memory(MemoryTrace("m", at, used, start_wall_s=2e9), made / "m.csv.gz")
    arrival_s = np.sort(rng.uniform(0, 470, 650))
    prompt, output = rng.integers(50, 2500, 650), rng.integers(5, 500, 650)
    write_requests(RequestTrace("r", arrival_s, prompt, output, start_wall_s=2e9), made / "r.csv")
    return made


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("RAPGYM_CACHE", str(folder / "cache"))
    yield
    worlds.forget()


@pytest.fixture
def found(folder: Path, here: None) -> Results:
    """The results of the command, run once."""
    if not (folder / "own.csv.gz").exists():
        with (folder / "said.txt").open("w") as said, redirect_stdout(said):
            assert cli.main(COMMAND) == 0
    return results.read(folder / "own.csv.gz")


def test_the_command_scores_policies_on_own_traces(found: Results) -> None:
    entries = {entry.policy: entry for entry in found.scores}
    assert {*entries} == {
        "frontier-margin", "partial-admission", "static-best-repaired", "keep-all", "frontier",
        "bound", "best-plan"
    }  # fmt: skip
    assert {entry.scenario for entry in entries.values()} == {f"{NAME}-v0"}
    assert entries["bound"].gain == pytest.approx(100)
    assert entries["frontier"].cost > entries["bound"].cost > 0, "memory is short at times"
    assert not any(entry.headline for entry in entries.values())


def test_the_command_ends_in_the_verdict_of_the_map(found: Results, folder: Path) -> None:
    said = (folder / "said.txt").read_text().replace("\n", " ")
    assert said.startswith("Quality comes from the reference table ")
    point = worth_point.played(catalogue.scenario(NAME))
    for sentence in worth.sentences(point):
        assert sentence in said
    costs = {entry.policy: entry.cost for entry in found.scores}
    assert point.test is not None
    for policy, way in (("frontier", "bf16-pruned"), ("partial-admission", "bf16-admission")):
        assert point.test.costs[way] == pytest.approx(costs[policy], abs=1e-8), "but for rounding"


def test_results_say_which_files_they_are_of(found: Results) -> None:
    files = found.header["files"][f"{NAME}-v0"]
    assert files == {name: checked.sha256_of(Path(name)) for name in ("m.csv.gz", "r.csv")}
    story = catalogue.scenario(NAME)
    assert found.header["workloads"] == {
        story.workload: checked.sha256_of(worlds.workload_file(story))
    }
    assert bench_origin.env_spec(story)["kwargs"]["scenario"] == NAME


def test_what_policies_tune_is_tuned_on_the_traces_own_train_part(found: Results) -> None:
    story = catalogue.scenario(NAME)
    for name in ("frontier-margin", "static-best-repaired"):
        entry = registry.entry(name)
        (cell,) = [cell for cell in found.cells if cell.about.policy == name]
        find = registry.tuning(entry)
        assert find is not None
        told = briefing(story)
        settings = json.loads(json.dumps(find(told)))
        assert cell.about.settings == settings == registry.settings(entry, told)
    assert NAME not in json.dumps(registry.tuned()), "rapgym's own file of settings is left alone"
    other = catalogue.scenario("laptop[memory=m.csv.gz,requests=r.csv,card=22,window=7]")
    with pytest.raises(InvalidPolicy, match="was not tuned for"):
        registry.settings(registry.entry("frontier-margin"), briefing(other))


def test_results_on_own_traces_verify(
    found: Results, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["verify", "own.csv.gz", "--jobs", "1"]) == 0
    assert "scores hold" in capsys.readouterr().out
    (folder / "cache" / places.TUNED.name).unlink()
    for series in (folder / "cache" / "workloads").iterdir():
        series.unlink()
    assert list(verify.differences(found, again=True)) == [], "nothing but the traces is needed"


def test_verify_refuses_where_the_traces_are_not_what_they_were(
    found: Results, folder: Path
) -> None:
    path = folder / "m.csv.gz"
    was = path.read_bytes()
    try:
        path.unlink()
        with pytest.raises(DataUnavailable, match=r"m\.csv\.gz is not there.*put the trace back"):
            list(verify.differences(found))
        flat = MemoryTrace("m", np.arange(0, 470, 0.5), np.full(940, GIB))
        write_memory(flat, path)
        with pytest.raises(InvalidResult, match=r"m\.csv\.gz has changed since"):
            list(verify.differences(found))
    finally:
        path.write_bytes(was)
    assert list(verify.differences(found)) == []


def test_a_file_of_ones_own_is_benched_and_verified(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["scenarios", "new", "mine.toml", "--like", "laptop", "--force"]) == 0
    path = Path("mine.toml")
    told = path.read_text("utf-8")
    told = told.replace('"azure-conv"', '"r.csv"').replace("every = 4", "every = 1")
    told = told.replace("recordings/python-project.csv.gz", "m.csv.gz")
    path.write_text(told, encoding="utf-8")
    command = ["bench", "--scenario", "mine.toml", "--policy", "frontier-margin", "--jobs", "1"]
    assert cli.main([*command, "--quiet", "--out", "mine.csv.gz"]) == 0
    found = results.read(folder / "mine.csv.gz")
    assert {cell.about.scenario for cell in found.cells} == {"mine.toml-v0"}
    files = found.header["files"]["mine.toml-v0"]
    assert files == {
        name: checked.sha256_of(Path(name)) for name in ("mine.toml", "r.csv", "m.csv.gz")
    }
    same = catalogue.scenario(NAME)
    assert catalogue.scenario("mine.toml").workload == same.workload, "made once, of its content"
    assert list(verify.differences(found)) == []
    capsys.readouterr()
    path.write_text(told.replace("card_gib = 23.5", "card_gib = 23"), encoding="utf-8")
    assert cli.main(["verify", "mine.csv.gz", "--jobs", "1"]) == 1
    assert "mine.toml has changed since the results were made" in capsys.readouterr().err
    path.write_text(told.replace("card_gib = 23.5", "card_gib = 2000"), encoding="utf-8")
    assert cli.main([*command, "--quiet", "--out", "no.csv.gz"]) == 2
    assert "mine.toml is too easy" in capsys.readouterr().err
    assert not list(folder.glob("no.csv.gz*"))


def test_a_forged_cell_on_own_traces_is_noticed(found: Results) -> None:
    forged = [
        replace(cell, about=replace(cell.about, settings={"margin": 0.123}))
        if cell.about.policy == "frontier-margin"
        else cell
        for cell in found.cells
    ]
    sentences = [*verify.differences(replace(found, cells=tuple(forged)))]
    assert any("settings of frontier-margin" in line for line in sentences)


def test_a_stopped_run_goes_on_and_parts_of_long_paths_have_names(
    found: Results, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = Path("x" * 200) / ("y" * 90)
    deep.mkdir(parents=True, exist_ok=True)
    (deep / "m.csv.gz").write_bytes((folder / "m.csv.gz").read_bytes())
    story = catalogue.scenario(f"laptop[memory={deep / 'm.csv.gz'},requests=r.csv,window=7]")
    calls = []
    bound = cells.bound_cell

    def noted(each: Scenario) -> results.Cell:
        calls.append(each.id)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return bound(each)

    monkeypatch.setattr(cells, "bound_cell", noted)
    monkeypatch.setattr(cells, "plan_cell", bound)
    out = folder / "deep.csv.gz"
    with pytest.raises(KeyboardInterrupt):
        bench_run.run([story], ["frontier"], out, quiet=True)
    parts = list((folder / "deep.csv.gz.parts").iterdir())
    assert len(parts) == 4, (
        "all that stands beside what was asked for was done, but for the two that know the future"
    )
    assert len(bench_run.run([story], ["frontier"], out, quiet=True).cells) == 6
    assert calls == [story.id] * 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--requests", "r.csv"], "--requests needs --trace"),
        (["--every", "2", "--served", "mistral-7b"], "--every needs --trace"),
        (["--card", "30"], "--card needs --trace"),
        (["--served", "llama9", "--scenario", "laptop"], "no model shape is called 'llama9'"),
        (["--scenario", "absent.toml"], "absent.toml is not there"),
        (["--trace", "absent.csv"], "put the trace back"),
        (["--trace", "r.csv", "--requests", "r.csv"], "these are requests, no memory"),
        (["--trace", "m.csv.gz", "--requests", "m.csv.gz"], "this is memory in use"),
        (["--trace", "m.csv.gz", "--requests", "r.csv", "--scenario", "absent"], "no scenario"),
        (["--trace", "a,b.csv"], "rename the file"),
        (["--gpu", "1"], "--gpu needs --trace"),
        (["--trace", "m.csv.gz", "--requests", "r.csv", "--unit", "h"], "--unit 'h' is none"),
    ],
)
def test_what_cannot_be_run_is_refused_in_a_sentence(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", *arguments, "--policy", "frontier", "--out", "no.csv.gz"]) == 2
    assert says in capsys.readouterr().err
    assert not Path("no.csv.gz").exists()
