"""What `import rapgym` offers: the names, what each loads, their examples, their types."""

import doctest
import json
import pkgutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from hostile_files import toy_results
from toy_table import toy_table

import rapgym
from rapgym import errors, heldout
from rapgym.bench import results as bench_results
from rapgym.bench.results import Cell
from rapgym.errors import HeldOut, InvalidPolicy, InvalidResult, InvalidSpec
from rapgym.files import places
from rapgym.model import blocks
from rapgym.quality import file as table_file
from rapgym.scenarios import catalogue
from rapgym.scenarios.story import Scenario
from rapgym.world.shield import Reason

# As DESIGN's section on the face and README name them.
PUBLIC = [
    "AuditLog",
    "Policy",
    "PolicyProcess",
    "__version__",
    "audit_env",
    "check_policy",
    "errors",
    "figures",
    "list_scenarios",
    "load_scenario",
    "load_table",
    "make_briefing",
    "make_world",
    "read_results",
    "read_table",
    "run_bench",
    "run_policy",
    "verify_results",
]
CALLED = [name for name in PUBLIC if name not in ("__version__", "errors", "figures")]

# Packages in the order of their imports: each may load those before it.
ORDER = ["errors", "arrays", "heldout", "files", "jobs", "model", "quality", "world", "workload",
         "recorder", "scenarios", "serving", "policies", "guard", "rollout", "envs", "rivals", "bench",
         "audit", "report", "learning", "runtime", "studies", "cli", "testing"]  # fmt: skip
HEAVY = {
    "jinja2",
    "numba",
    "pandas",
    "plotly",
    "pooch",
    "ray",
    "sb3_contrib",
    "stable_baselines3",
    "torch",
}


def test_the_public_names_are_these_in_order() -> None:
    assert rapgym.__all__ == PUBLIC == sorted(PUBLIC)
    assert dir(rapgym) == PUBLIC
    for name in PUBLIC:
        assert getattr(rapgym, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'register_all'"):
        rapgym.register_all  # type: ignore[attr-defined]  # noqa: B018
    namespace: dict[str, Any] = {}
    exec("from rapgym import *", namespace)
    assert {*PUBLIC} <= {*namespace}


def test_no_public_name_is_that_of_a_package_or_module_but_errors() -> None:
    within = {module.name for module in pkgutil.iter_modules(rapgym.__path__)}
    assert {"bench", "audit", "errors"} <= within
    assert within & {*PUBLIC} == {"errors"}
    assert rapgym.errors is errors


def test_a_name_loads_what_it_needs_and_no_more() -> None:
    """In one interpreter, from the first package to the last; each name loads none behind its own."""
    homes = {name: getattr(rapgym, name).__module__.split(".")[1] for name in CALLED}
    names = sorted(CALLED, key=lambda name: ORDER.index(homes[name]))
    code = f"""
import json, sys, rapgym
seen = {{}}
for name in {names!r}:
    getattr(rapgym, name)
    seen[name] = [m for m in sys.modules if m.startswith("rapgym.") or "." not in m]
print(json.dumps(seen))
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for name, modules in json.loads(done.stdout).items():
        assert not {*modules} & HEAVY, name
        ours = {module.split(".")[1] for module in modules if module.startswith("rapgym.")}
        assert homes[name] in ours
        # Registration of the ids is all that `envs` may have loaded before its turn.
        if "rapgym.envs.env" not in modules:
            ours -= {"envs"}
        behind = ORDER[ORDER.index(homes[name]) + 1 :]
        assert not ours & {*behind}, f"{name} of {homes[name]} loads {ours & {*behind}}"


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the examples in docstrings speak of; the results are those of `run_bench`'s own."""
    folder = tmp_path_factory.mktemp("examples")
    known = {"gymnasium": gymnasium, "np": np, "rapgym": rapgym, "folder": folder}
    known |= {"out": folder / "bench.csv.gz", "results": folder / "bench.csv.gz"}
    run_examples("run_bench", known)
    return known


def run_examples(name: str, known: dict[str, Any]) -> None:
    public = getattr(rapgym, name)
    found = doctest.DocTestParser().get_doctest(
        public.__doc__, known | {name: public}, name, None, None
    )
    assert found.examples, f"{name} has no example"
    told: list[str] = []
    outcome = doctest.DocTestRunner(verbose=False).run(found, out=told.append)
    assert outcome.failed == 0, "".join(told)


@pytest.mark.parametrize("name", [name for name in CALLED if name != "run_bench"])
def test_the_example_of_a_name_says_what_happens(name: str, examples: dict[str, Any]) -> None:
    run_examples(name, examples)


def test_a_bench_does_not_overwrite(examples: dict[str, Any]) -> None:
    before = examples["out"].read_bytes()
    with pytest.raises(InvalidSpec, match="is there already"):
        rapgym.run_bench(examples["out"], scenarios=["laptop"], policies=["gsi"])
    assert examples["out"].read_bytes() == before


def assert_same_rows(frame: Any, cells: tuple[Cell, ...]) -> None:
    """Row by row what the cells say, in the order of cell, pairing and step."""
    assert len(frame) == sum(cell.log.row.size for cell in cells)
    before = 0
    for cell in cells:
        rows, pairings = cell.log.row.shape
        own = frame.iloc[before : before + rows * pairings]
        before += rows * pairings
        step, pairing = own.step.to_numpy(), own.pairing.to_numpy()
        assert (pairing * rows + step).tolist() == list(range(rows * pairings))
        for name in ("scenario", "policy", "kind", "seed"):
            assert {*own[name]} == {getattr(cell.about, name)}
        for name in (
            "row",
            "limit_row",
            "limit_bytes",
            "used_bytes",
            "output_tokens",
            "nll",
            "cost",
        ):
            assert (own[name].to_numpy() == getattr(cell.log, name)[step, pairing]).all(), name
        for name in ("test_nll", "test_measured", "test_quality", "test_cost"):
            assert (own[name].to_numpy() == getattr(cell, name)[step, pairing]).all(), name
        for name in ("proposal", "kept", "kept_end"):
            sets = getattr(cell.log, name)[step, pairing]
            assert own[name].tolist() == [blocks.key(kept) for kept in sets]
        for name in ("source", "reason"):
            codes = getattr(cell.log, name)[step, pairing]
            assert own[name].tolist() == [Reason(code).name.lower() for code in codes]


def test_a_frame_of_results_says_what_the_cells_say(examples: dict[str, Any]) -> None:
    frame = rapgym.read_results(str(examples["results"]))
    assert {"bound", "frontier", "gsi", "keep-all", "partial-admission"} <= {*frame.policy}
    assert_same_rows(frame, bench_results.read(examples["results"]).cells)
    documented = rapgym.read_results.__doc__ or ""
    assert all(f"`{column}`" in documented for column in frame.columns)


def test_results_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidResult, match="rapgym bench --out"):
        rapgym.read_results(tmp_path / "none.csv.gz")


def test_results_that_were_edited_do_not_verify(examples: dict[str, Any], tmp_path: Path) -> None:
    found = bench_results.read(examples["results"])
    place = next(i for i, cell in enumerate(found.cells) if cell.about.policy == "gsi")
    cell = found.cells[place]
    quality = cell.log.quality + 0.125
    edited = replace(cell, log=replace(cell.log, quality=quality))
    path = tmp_path / "edited.csv.gz"
    cells = (*found.cells[:place], edited, *found.cells[place + 1 :])
    bench_results.write(path, replace(found, cells=cells))
    assert any("column quality: gsi" in sentence for sentence in rapgym.verify_results(path))


def test_a_frame_of_a_table_says_what_the_table_says(tmp_path: Path) -> None:
    table, path = toy_table(), tmp_path / "toy.csv.gz"
    table_file.write(path, table.header, table.file.rows)
    frame, rows = rapgym.read_table(path), table_file.read(path).rows
    assert len(frame) == len(rows)
    assert frame.kept.tolist() == [blocks.key(kept) for kept in rows.kept]
    assert frame["sample"].tolist() == list(rows.sample)
    assert (frame.attention_dropped + frame.ffn_dropped == (~rows.kept).sum(axis=1)).all()
    assert {*frame.split} == {"calib", "test"}
    for place, domain in enumerate(table.header.domains):
        for measure in table_file.PER_DOMAIN:
            np.testing.assert_array_equal(
                frame[f"{domain}_{measure}"], getattr(rows, measure)[:, place]
            )
    np.testing.assert_allclose(frame.nll, rows.nll.mean(axis=1))
    np.testing.assert_allclose(
        frame.nll_se, np.hypot.reduce(rows.nll_se, axis=1) / len(table.header.domains)
    )
    documented = rapgym.read_table.__doc__ or ""
    named = {column.replace(f"{d}_", "books_") for column in frame for d in table.header.domains}
    assert all(
        f"`{column}`" in documented for column in named if column.split("_")[0] not in "specs wiki"
    )


def test_training_reads_neither_frame(examples: dict[str, Any]) -> None:
    with heldout.only("fit"):
        with pytest.raises(HeldOut):
            rapgym.read_table("smollm2-135m")
        with pytest.raises(HeldOut):
            rapgym.read_results(examples["results"])


@pytest.mark.usefixtures("shaped", "toy_story")
class TestWorlds:
    """What takes a scenario takes a name, a version's name and an object."""

    def test_names_and_objects_are_the_same(self, toy_story: Scenario) -> None:
        world = rapgym.make_world("toy", "test")
        assert rapgym.make_world(toy_story, "test") is world
        assert (
            rapgym.make_briefing(toy_story).scenario == rapgym.load_scenario("toy-v0") == toy_story
        )
        larger = replace(toy_story, card_gib=2 * toy_story.card_gib)
        assert (rapgym.make_world(larger, "test").rows.limit_bytes > world.rows.limit_bytes).all()
        with pytest.raises(InvalidSpec, match="there are chat, "):
            rapgym.make_world("nowhere")
        with pytest.raises(InvalidSpec, match="no split 'tests'"):
            rapgym.run_policy("gsi", "toy", "tests")  # type: ignore[arg-type]

    def test_every_listed_scenario_loads(self) -> None:
        listed = rapgym.list_scenarios()
        assert sorted(listed) == sorted(each.name for each in catalogue.shipped())
        assert [rapgym.load_scenario(name).name for name in listed] == list(listed)
        headline = [rapgym.load_scenario(name).headline for name in listed]
        assert headline == sorted(headline, reverse=True)

    def test_a_frame_of_results_tells_pairings_apart(
        self, toy_story: Scenario, tmp_path: Path
    ) -> None:
        one = toy_results(toy_story)
        other = replace(one.cells[0], about=replace(one.cells[0].about, policy="other", seed=1))
        found = replace(one, cells=(one.cells[0], other))
        bench_results.write(tmp_path / "toy.csv.gz", found)
        frame = rapgym.read_results(tmp_path / "toy.csv.gz")
        assert frame.pairing.nunique() == toy_story.offsets > 1
        assert frame.step.nunique() > 1
        assert_same_rows(frame, bench_results.read(tmp_path / "toy.csv.gz").cells)

    @pytest.mark.parametrize(
        ("split", "told"),
        [("test", "train"), ("validation", "fit"), ("check", "learn"), ("train", "train"), ("fit", "fit")],
    )  # fmt: skip
    def test_a_policy_serves_a_whole_split(
        self, toy_story: Scenario, split: Any, told: str
    ) -> None:
        seen = []

        class Watching:
            def reset(self, batch: int, briefing: Any) -> None:
                seen.append(briefing.split)
                self.shape = batch, briefing.train.blocks

            def propose(self, observation: Any, rng: np.random.Generator) -> Any:
                return rng.random(self.shape) < 0.8

        log = rapgym.run_policy(Watching, toy_story, split, seed=3)
        assert log.row.shape == (len(rapgym.make_world("toy", split).rows), toy_story.offsets)
        assert seen == [told] * toy_story.offsets
        again = rapgym.run_policy(Watching(), "toy", split, seed=3)
        assert (again.proposal == log.proposal).all()
        assert (rapgym.run_policy(Watching, "toy", split, seed=4).proposal != log.proposal).any()

    def test_what_is_no_policy_is_refused(self) -> None:
        with pytest.raises(InvalidPolicy, match="needs the methods reset and propose"):
            rapgym.run_policy(object, "toy")
        with pytest.raises(InvalidPolicy, match="no policy is called 'best'"):
            rapgym.run_policy("best", "toy")


SCRIPT = """
import gymnasium
import numpy as np
import rapgym
from rapgym import Policy, errors

def cost(policy: Policy, scenario: str) -> float:
    return rapgym.run_policy(policy, scenario, "check", seed=1).mean_cost

story = rapgym.load_scenario(rapgym.list_scenarios()[0])
kept = rapgym.make_world(story).floor & rapgym.load_table("smollm2-135m").floor
reveal_type(rapgym.make_briefing(story).read)
reveal_type(rapgym.verify_results)
wrong: int = rapgym.load_scenario("laptop")
rapgym.register_all()
rapgym.run_policy("gsi", split="tests")
"""


@pytest.mark.slow
def test_a_users_script_sees_types(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    # From the repository, whose cache of types spares minutes; its settings are strict too.
    done = subprocess.run(
        [sys.executable, "-m", "mypy", str(tmp_path / "script.py")],
        cwd=places.PACKAGE.parent, capture_output=True, text=True,
    )  # fmt: skip
    lines = [line.partition("script.py:")[2] for line in done.stdout.splitlines()]
    faults = [line for line in lines if ": error:" in line]
    assert len(faults) == 3, done.stdout + done.stderr
    assert '"Scenario"' in faults[0]
    assert 'has no attribute "register_all"' in faults[1]
    assert "Literal['tests']" in faults[2]
    notes = [line for line in lines if "Revealed type" in line]
    assert "-> rapgym.world.encoding.Reading" in notes[0]
    assert "-> list[str]" in notes[1]
