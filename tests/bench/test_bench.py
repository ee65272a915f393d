"""The bench on the toy scenario: cells, resuming, results that replay, and scores from rows."""

import copy
import gzip
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from toy_world import least_cost, tuned

from rapgym import cli
from rapgym.bench import cells, entrants, pieces, results, scoreboard, verify
from rapgym.bench import run as bench_run
from rapgym.bench.pieces import Pieces
from rapgym.bench.results import Results
from rapgym.errors import InvalidPolicy, InvalidResult
from rapgym.files import headed, places
from rapgym.model import blocks, memory
from rapgym.policies import registry, tuning
from rapgym.policies.policy import FITS, briefing, held_out
from rapgym.report import bench as bench_report
from rapgym.rollout import rollout
from rapgym.rollout import tuning as rollout_tuning
from rapgym.scenarios import worlds
from rapgym.scenarios.story import Scenario
from rapgym.world import plan, stall

MINE = (  # a module of a user's, with one policy
    "import numpy as np\n"
    "class Mine:\n"
    "    def reset(self, batch, briefing): self.n = briefing.layout.blocks\n"
    "    def propose(self, observation, rng):\n"
    "        return np.ones((len(observation), self.n), dtype=bool)\n"
)
NAMES = ["keep-all", "random", "frontier-margin", "partial-admission"]
# What is run whatever is asked for.
ALWAYS = {
    "frontier", "partial-admission", "keep-all", "static-best-repaired", "bound", "best-plan"
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _toy_settings(toy_story: Scenario, one_pairing: Scenario) -> Iterator[None]:
    """Settings for the toy scenarios, as `rapgym policies tune` would keep them."""
    kept: dict[str, dict[str, Any]] = {
        "static-best": {"kept": blocks.key(np.array([1, 1, 0, 1, 0, 0], dtype=bool))},
        "static-best-repaired": {"kept": blocks.key(np.array([1, 1, 1, 1, 0, 0], dtype=bool))},
        "frontier-margin": {"margin": 0.05},
    }
    found = {
        policy: {story.id: tuned(story, settings) for story in (toy_story, one_pairing)}
        for policy, settings in kept.items()
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "tuned", lambda: found)
        yield


@pytest.fixture(scope="module")
def benched(toy_story: Scenario, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    """One bench for every test that only reads it."""
    out = tmp_path_factory.mktemp("bench") / "bench.csv.gz"
    return out, bench_run.run([toy_story], NAMES, out, summary=scoreboard.summed_up, quiet=True)


@pytest.fixture
def finished(benched: tuple[Path, Results]) -> tuple[Path, Results]:
    """A finished bench, with a header of the test's own: some change theirs."""
    out, found = benched
    return out, replace(found, header=copy.deepcopy(found.header))


def test_bench_runs_what_it_is_asked_and_what_stands_beside_it(
    finished: tuple[Path, Results],
) -> None:
    _, found = finished
    policies = [cell.about.policy for cell in found.cells]
    assert {*policies} == {*NAMES, *ALWAYS}
    assert len(policies) == len({*policies})
    entries = {entry.policy: entry for entry in found.scores}
    assert entries["partial-admission"].gain is None, "a rival has no place on the scale"
    assert entries["frontier"].foresight == 0
    assert entries["frontier"].verdict == "equal"
    assert entries["bound"].gain == entries["bound"].foresight == pytest.approx(100)
    whole, least = (entries[name].cost for name in ("partial-admission", "bound"))
    for entry in entries.values():
        if not entry.is_rival:
            assert entry.gain == pytest.approx(100 * (whole - entry.cost) / (whole - least))
    for entry in entries.values():
        terms = sum(getattr(entry, term) for term in ("quality", "stall", "emergency", "refused"))
        assert terms == pytest.approx(entry.cost)
        assert entry.cost >= entries["bound"].cost - 1e-12


def test_entries_carry_what_machines_read(finished: tuple[Path, Results]) -> None:
    wanted = {"scenario", "policy", "kind", "gain", "foresight", "low", "high", "cost",
              "quality", "stall", "emergency", "refused", "decision_us_p50", "decision_us_p99",
              "calibration_passes", "verdict", "least_effect"}  # fmt: skip
    entries = json.loads(json.dumps([entry.as_json() for entry in finished[1].scores]))
    assert len(entries) > len(NAMES)
    for entry in entries:
        assert wanted <= entry.keys()


def test_a_results_file_reads_back_as_it_was(finished: tuple[Path, Results]) -> None:
    out, found = finished
    again = results.read(out)
    assert again.header == found.header
    assert again.scores == found.scores
    for one, two in zip(found.cells, again.cells, strict=True):
        assert one.about == two.about
        assert (one.log.kept == two.log.kept).all()
        assert (one.log.reason == two.log.reason).all()
        assert two.test_cost == pytest.approx(one.test_cost, abs=1e-8)


def test_a_fresh_results_file_verifies(finished: tuple[Path, Results]) -> None:
    assert list(verify.differences(results.read(finished[0]))) == []


@pytest.mark.parametrize("column", ["kept", "kept_end", "limit_bytes", "test_quality", "refused"])
def test_verify_names_the_line_that_was_changed(
    column: str, finished: tuple[Path, Results], tmp_path: Path
) -> None:
    header, lines = headed.unpack(finished[0].read_bytes())
    of_cell = lines[results.COLUMNS.index("cell")].split(",")
    at = [entry for entry, cell in enumerate(of_cell) if cell == "0"][57]  # a row of the first cell
    index = results.COLUMNS.index(column)
    fields = lines[index].split(",")
    if column.startswith("kept"):
        fields[at] = "c0" if fields[at] != "c0" else "fc"
    else:
        fields[at] = str(float(fields[at]) + 1).removesuffix(".0")
    lines[index] = ",".join(fields)
    path = tmp_path / "changed.csv.gz"
    path.write_bytes(headed.pack(header, lines))
    found = list(verify.differences(results.read(path)))
    assert any(f"entry {at} of column {column}: " in sentence for sentence in found), found


def forged(found: Results, who: str, **change: Any) -> Results:
    """The results with one cell described otherwise, and scores that fit the description."""
    cells_now = [
        replace(cell, about=replace(cell.about, **change)) if cell.about.policy == who else cell
        for cell in found.cells
    ]
    return scoreboard.summed_up(replace(found, cells=tuple(cells_now)))


@pytest.mark.parametrize(
    ("policy", "key", "value"),
    [
        ("keep-all", "kind", "learned"),
        ("keep-all", "ceiling", 0.01),
        ("keep-all", "fallback", 0.5),
        ("keep-all", "calibration_tokens", 1.0),
        ("frontier-margin", "settings", {"margin": 0.3}),
        ("best-plan", "kind", "heuristic"),
        ("bound", "kind", "rival"),
        ("partial-admission", "quality_se", 5.0),
        ("partial-admission", "kind", "heuristic"),
    ],
)
def test_verify_finds_a_cell_that_is_described_wrongly(
    policy: str, key: str, value: Any, finished: tuple[Path, Results]
) -> None:
    forgery = forged(finished[1], policy, **{key: value})
    assert list(verify.differences(finished[1])) == []
    sentences = list(verify.differences(forgery))
    assert any(policy in sentence for sentence in sentences)


@pytest.mark.parametrize(
    ("policy", "stands_for"),
    [("best-plan", "frontier-margin"), ("best-plan", "genius"), ("frontier-margin", "best-plan")],
)
def test_verify_finds_a_cell_under_a_name_that_it_was_not_run_for(
    policy: str, stands_for: str, finished: tuple[Path, Results]
) -> None:
    forgery = forged(finished[1], policy, policy=stands_for)
    assert any(stands_for in sentence for sentence in verify.differences(forgery))


def test_verify_says_where_a_policy_costs_less_than_the_bound(
    finished: tuple[Path, Results],
) -> None:
    assert not any("the bound" in sentence for sentence in verify.differences(finished[1]))
    cells_now = [
        replace(cell, test_quality=cell.test_quality - 9) if cell.about.policy == "random" else cell
        for cell in finished[1].cells
    ]
    forgery = scoreboard.summed_up(replace(finished[1], cells=tuple(cells_now)))
    sentences = list(verify.differences(forgery))
    assert any("a policy on toy-v0 costs -" in sentence for sentence in sentences)


@pytest.mark.parametrize("copies", [0, 2])
def test_verify_finds_cells_that_are_missing_or_doubled(
    copies: int, finished: tuple[Path, Results]
) -> None:
    found = finished[1]
    kept = [
        cell for cell in found.cells for _ in range(copies if cell.about.policy == "random" else 1)
    ]
    forgery = scoreboard.summed_up(replace(found, cells=tuple(kept)))
    assert any("its cells are not those" in sentence for sentence in verify.differences(forgery))


def test_only_deciding_again_finds_what_another_policy_proposed(
    finished: tuple[Path, Results],
) -> None:
    """Rows of the best plan, which knows the future, under the name of a policy."""
    (plan_cell,) = (cell for cell in finished[1].cells if cell.about.policy == "best-plan")
    swapped = [
        replace(plan_cell, about=cell.about) if cell.about.policy == "frontier-margin" else cell
        for cell in finished[1].cells
    ]
    forgery = scoreboard.summed_up(replace(finished[1], cells=tuple(swapped)))
    assert list(verify.differences(forgery)) == []
    sentences = list(verify.differences(forgery, again=True))
    assert any("frontier-margin on toy-v0 proposes something else" in each for each in sentences)
    assert list(verify.differences(finished[1], again=True)) == []


def test_deciding_again_finds_a_wrong_validation_cost(finished: tuple[Path, Results]) -> None:
    for name, value in (("validation_cost", -1.0), ("validation_parts", (0.5, 0.25))):
        forgery = forged(finished[1], "keep-all", **{name: value})
        sentences = list(verify.differences(forgery, again=True))
        assert any(f"{name} of keep-all" in each for each in sentences), name


def test_the_parts_of_a_validation_cost_are_of_its_pieces(
    toy_story: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the rows of each piece add, weighted by tokens: together they are the cost."""
    entry = registry.entry("keep-all")
    make = partial(registry.build, entry, {})
    logs = [
        rollout.run(make, toy_story, held_out(fit), briefing(toy_story, fit), 0) for fit in FITS
    ]

    def halves(story: Scenario, split: str) -> Pieces:
        return Pieces("burst", np.array([0, 8]), len(logs[int(split[-1]) - 1]))

    monkeypatch.setattr(pieces, "of_split", halves)
    found = cells.validation_parts(toy_story, entry, 0)
    whole = sum(log.output_tokens.sum() for log in logs)
    paid = [log.cost * log.output_tokens / whole for log in logs]
    assert found == pytest.approx([part.sum() for each in paid for part in (each[:8], each[8:])])
    assert sum(found) == pytest.approx(sum(each.sum() for each in paid))
    assert cells.policy_cell(toy_story, entry, 0).about.validation_parts == found


def test_results_of_an_earlier_edition_say_so(
    finished: tuple[Path, Results], tmp_path: Path
) -> None:
    header, lines = headed.unpack(finished[0].read_bytes())
    path = tmp_path / "old.csv.gz"
    path.write_bytes(headed.pack({**header, "schema": 2}, lines))
    with pytest.raises(InvalidResult, match=r"written by an earlier edition .* run again: rapgym"):
        results.read(path)


def test_verify_finds_a_score_that_its_rows_do_not_give(finished: tuple[Path, Results]) -> None:
    found = finished[1]
    scores = [*found.scores]
    assert scores[2].foresight is not None
    scores[2] = replace(scores[2], foresight=scores[2].foresight + 5)
    sentences = list(verify.differences(replace(found, scores=tuple(scores))))
    assert len(sentences) == 1
    assert "foresight" in sentences[0]


@pytest.mark.parametrize(("more", "holds"), [(1e-13, True), (1e-3, False)])
def test_rankings_hold_up_to_another_processors_rounding(
    more: float, holds: bool, finished: tuple[Path, Results]
) -> None:
    found = finished[1]
    found.header["rankings"][1]["costs"]["random"] += more
    sentences = list(verify.differences(found))
    assert [each[:28] for each in sentences] == ([] if holds else ["the rankings at other values"])
    found.header["rankings"][1]["ranking"].reverse()
    assert any("the rankings at other" in sentence for sentence in verify.differences(found))


def test_verify_refuses_results_of_another_table(finished: tuple[Path, Results]) -> None:
    found = finished[1]
    found.header["tables"]["toy"] = "0" * 64
    with pytest.raises(InvalidResult, match="another table toy"):
        list(verify.differences(found))


def test_long_results_are_packed_with_a_wider_window_and_read_within_the_limit_of_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    header, lines = {"format": "toy"}, ["a,b", *(f"{i},{i % 7}" for i in range(1000))]
    short = headed.pack(header, lines, xz=True)
    monkeypatch.setattr(headed, "LONG", 100)
    long = headed.pack(header, lines, xz=True)
    assert long != short
    assert headed.unpack(long) == headed.unpack(short) == (header, lines)


def test_a_file_packed_as_xz_holds_the_same_in_fewer_bytes(finished: tuple[Path, Results]) -> None:
    path, found = finished
    smaller = path.with_suffix(".xz")
    results.write(smaller, found)
    again = results.read(smaller)
    assert again.header == results.read(path).header
    for one, other in zip(again.cells, found.cells, strict=True):
        assert one.about == other.about
        assert (one.log.used_bytes == other.log.used_bytes).all()
    assert smaller.stat().st_size < path.stat().st_size
    whole = smaller.read_bytes()
    for damaged in (whole[:-1], whole[:100], whole + b"x", b"\xfd7zXZ\0"):
        smaller.write_bytes(damaged)
        with pytest.raises(InvalidResult, match="no results file"):
            results.read(smaller)


def noting(ran: list[str], original: Callable[..., Any]) -> Callable[..., Any]:
    """`cells.policy_cell`, which also writes down whom it ran."""

    def cell(story: Scenario, entry: Any, seed: int) -> Any:
        ran.append(entry.name)
        return original(story, entry, seed)

    return cell


def test_a_stopped_bench_goes_on_where_it_stopped(
    toy_story: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, ran = tmp_path / "bench.csv.gz", list[str]()
    original = cells.policy_cell

    def counted(story: Scenario, entry: Any, seed: int) -> Any:
        if len(ran) == 2:
            raise KeyboardInterrupt
        ran.append(entry.name)
        return original(story, entry, seed)

    monkeypatch.setattr(cells, "policy_cell", counted)
    with pytest.raises(KeyboardInterrupt):
        bench_run.run([toy_story], NAMES, out, quiet=True)
    assert not out.exists()
    before = list(ran)
    monkeypatch.setattr(cells, "policy_cell", noting(ran, original))
    found = bench_run.run([toy_story], NAMES, out, quiet=True)
    assert len(ran) == len(set(ran)), f"{before} ran twice"
    assert len(found.cells) == len({*NAMES, *ALWAYS})
    assert not out.with_name("bench.csv.gz.parts").exists()


def test_parts_of_another_origin_are_run_again(
    toy_story: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "bench.csv.gz"
    first = bench_run.run([toy_story], ["keep-all"], out, quiet=True)
    parts = out.with_name("bench.csv.gz.parts")
    path = parts / f"{toy_story.id}.keep-all.0.csv.gz"
    stale = {**first.header, "code_sha256": "another"}
    results.write(path, Results(stale, (first.cells[0],)))
    ran = list[str]()
    original = cells.policy_cell
    monkeypatch.setattr(cells, "policy_cell", noting(ran, original))
    bench_run.run([toy_story], ["keep-all"], out, quiet=True)
    assert "keep-all" in ran


def test_same_seed_same_rows(toy_story: Scenario) -> None:
    entry = registry.entry("random")
    one, two, other = (cells.policy_cell(toy_story, entry, seed) for seed in (0, 0, 1))
    assert (one.log.kept == two.log.kept).all()
    assert (one.log.kept != other.log.kept).any()


def test_the_best_plan_lies_between_bound_and_policies(finished: tuple[Path, Results]) -> None:
    entries = {entry.policy: entry.cost for entry in finished[1].scores}
    assert entries["bound"] - 1e-12 <= entries["best-plan"]
    assert entries["best-plan"] <= min(entries[name] for name in (*NAMES, "frontier"))


def test_the_best_plan_is_the_best_of_all_plans_in_a_small_world(toy_story: Scenario) -> None:
    """Every sequence of three choices over four rows, by brute force."""
    world = worlds.scoring_world(toy_story)
    candidates = np.array(
        [[1, 1, 1, 1, 1, 1], [1, 1, 0, 1, 1, 1], [1, 1, 0, 1, 0, 0]], dtype=bool
    )  # fmt: skip
    start, rows = cells.test_start(world, toy_story), 4
    chosen = rollout.proposed(world, plan.best_plan(world, candidates, start, rows), start)
    every = np.stack(np.meshgrid(*[np.arange(3)] * rows, indexing="ij"), axis=-1).reshape(-1, rows)
    assert start.lanes == toy_story.offsets
    for lane in range(start.lanes):
        best = min(
            float((log.cost[:, lane] * log.output_tokens[:, lane]).sum())
            for log in (
                rollout.proposed(
                    world, np.repeat(candidates[choice][:, None], start.lanes, axis=1), start
                )
                for choice in every
            )
        )
        found = float((chosen.cost[:, lane] * chosen.output_tokens[:, lane]).sum())
        assert found <= best + 1e-9


def test_the_bound_cell_is_the_bound(toy_story: Scenario) -> None:
    world = worlds.scoring_world(toy_story)
    cell = cells.bound_cell(toy_story)
    start = cells.test_start(world, toy_story)
    least = least_cost(world, start, len(world.rows))
    output = cell.log.output_tokens
    assert (cell.test_cost * output).sum(axis=0) / output.sum(axis=0) == pytest.approx(least)


def test_an_untuned_policy_says_how_to_tune_it(
    toy_story: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "tuned", dict)
    with pytest.raises(InvalidPolicy, match="rapgym policies tune static-best --scenario toy"):
        cells.policy_cell(toy_story, registry.entry("static-best"), 0)


def test_tuning_finds_what_trying_every_setting_on_train_finds(
    toy_story: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "TUNED", tmp_path / "tuned.json")
    work = tuning.tasks([registry.entry("static-best")], [toy_story], again=True)
    (found,) = tuning.tune(work)
    told = briefing(toy_story)
    static = registry.entry("static-best")
    costs = {
        key: rollout_tuning.train_cost(partial(registry.build, static, {"kept": key}), told)
        for key in {blocks.key(kept) for kept in told.quality.grid_kept.reshape(-1, 6)}
    }
    assert costs[found.settings["train"]["kept"]] == pytest.approx(min(costs.values()))
    written = json.loads((tmp_path / "tuned.json").read_text())
    assert written["static-best"][toy_story.id]["train"] == found.settings["train"]


def test_a_users_policy_runs_by_its_name(
    one_pairing: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    mine = entrants.entrant("mine:Mine").run(one_pairing, 0)
    assert mine.about.isolation in ("confined", "open"), "in a process of its own"
    keep_all = cells.policy_cell(one_pairing, registry.entry("keep-all"), 0)
    assert (mine.log.kept == keep_all.log.kept).all()
    with pytest.raises(InvalidPolicy, match="cannot be loaded"):
        entrants.entrant("mine:Yours").run(one_pairing, 0)


def test_damaged_results_are_refused_in_one_sentence(
    finished: tuple[Path, Results], tmp_path: Path
) -> None:
    good, path = finished[0].read_bytes(), tmp_path / "bad.csv.gz"
    text = gzip.decompress(good)
    rng = np.random.default_rng(0)
    mutants = [b"", good[:100], good[:-3], b"no gzip", gzip.compress(text[:-50]),
               gzip.compress(b"# {}\na,b\n"), gzip.compress(text.replace(b'"cells"', b'"sells"', 1))]  # fmt: skip
    for _ in range(30):
        at, changed = int(rng.integers(len(text))), bytearray(text)
        changed[at] = int(rng.integers(256))
        mutants.append(gzip.compress(bytes(changed)))
    refused = 0
    for mutant in mutants:
        path.write_bytes(mutant)
        try:
            results.read(path)
        except InvalidResult as error:
            refused += str(path) in str(error)
    assert refused >= 7
    with pytest.raises(InvalidResult, match="is not there"):
        results.read(tmp_path / "absent.csv.gz")


def test_bytes_between_sets_equal_a_plain_count() -> None:
    rng = np.random.default_rng(0)
    for layers in (3, 30, 70):
        footprint = memory.Footprint(layers, 7, 11, 1, 0, 0.0, 0)
        loaded = rng.random((2, 4, 2 * layers)) < 0.7
        kept = rng.random((2, 5, 2 * layers)) < 0.7
        expected = [
            [[footprint.weights[k & ~m].sum() for k in kept[b]] for m in loaded[b]] for b in (0, 1)
        ]
        assert (stall.returning_between(footprint, loaded, kept) == expected).all()


class Peeks:
    """Remembers every tenant row it has seen in any lane, as a policy that shares lanes could."""

    seen: ClassVar[list[int]] = []

    def reset(self, batch: int, briefing: Any) -> None:
        self.batches = batch
        self.rows = 0
        Peeks.seen.append(batch)

    def propose(self, observation: Any, rng: Any) -> Any:
        self.rows += 1
        return np.ones((len(observation), 6), dtype=bool)


def test_no_policy_object_serves_two_pairings(toy_story: Scenario) -> None:
    """Pairings turn the same tenant rows: one pairing's past is another's future."""
    made: list[Peeks] = []

    def make() -> Peeks:
        made.append(Peeks())
        return made[-1]

    told = briefing(toy_story)
    log = rollout.run(make, toy_story, "validation-3", told)
    assert len(made) == toy_story.offsets
    assert {policy.batches for policy in made} == {1}
    assert {policy.rows for policy in made} == {len(log)}


def test_a_policy_that_raises_is_named_and_wins_nothing(
    one_pairing: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.py").write_text(
        "class Broken:\n"
        "    def reset(self, batch, briefing): pass\n"
        "    def propose(self, observation, rng): return undefined\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = bench_run.run([one_pairing], ["broken:Broken"], tmp_path / "out.csv.gz", quiet=True)
    (entry,) = (e for e in scoreboard.entries(found) if e.policy == "broken:Broken")
    assert entry.fallback == 1
    assert not entry.tied_for_best
    assert entry.calibration_passes is None
    warning = bench_report.warnings([entry])
    assert "100%" in warning
    assert "NameError" in warning


def test_verify_refuses_rows_that_were_not_served_in_turn(
    finished: tuple[Path, Results], tmp_path: Path
) -> None:
    """Forged: every row of the first cell is its easiest one."""
    header, lines = headed.unpack(finished[0].read_bytes())
    of_cell = lines[results.COLUMNS.index("cell")].split(",")
    row = results.COLUMNS.index("row")
    rows = lines[row].split(",")
    easy = rows[1]
    forged = [easy if cell == "0" else one for cell, one in zip(of_cell, rows, strict=True)]
    lines[row] = ",".join(forged)
    path = tmp_path / "forged.csv.gz"
    path.write_bytes(headed.pack(header, lines))
    found = list(verify.differences(results.read(path)))
    assert any("of column row:" in sentence for sentence in found)


def test_a_results_file_reads_with_pandas_alone(finished: tuple[Path, Results]) -> None:
    out, found = finished
    frame = pd.read_csv(out, comment="#", header=None, index_col=0, low_memory=False).T
    assert [*frame.columns] == [*results.COLUMNS]
    for i, (cell, numbers) in enumerate(
        zip(found.cells, results.row_numbers(found.cells), strict=True)
    ):
        own = frame.iloc[numbers.ravel()]
        assert (own["cell"].astype(int) == i).all()
        assert own["limit_bytes"].astype(int).to_numpy() == pytest.approx(
            cell.log.limit_bytes.ravel()
        )


@pytest.mark.parametrize("column", ["cell", "lane", "step"])
def test_results_out_of_order_are_refused(
    column: str, finished: tuple[Path, Results], tmp_path: Path
) -> None:
    header, lines = headed.unpack(finished[0].read_bytes())
    index = results.COLUMNS.index(column)
    name, *fields = lines[index].split(",")
    swap = next(at for at in range(1, len(fields)) if fields[at] != fields[0])
    fields[0], fields[swap] = fields[swap], fields[0]
    lines[index] = ",".join([name, *fields])
    path = tmp_path / "shuffled.csv.gz"
    path.write_bytes(headed.pack(header, lines))
    with pytest.raises(InvalidResult, match="order"):
        results.read(path)


def test_parts_left_half_written_do_not_stop_the_end(toy_story: Scenario, tmp_path: Path) -> None:
    out = tmp_path / "bench.csv.gz"
    parts = out.with_name("bench.csv.gz.parts")
    parts.mkdir()
    (parts / "cell.csv.gz.partial").write_bytes(b"half")
    bench_run.run([toy_story], ["keep-all"], out, quiet=True)
    assert out.exists()
    assert not parts.exists()


def test_the_command_finds_a_policy_in_the_folder_where_it_is_typed(
    one_pairing: Scenario,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "typed_here.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    ask = ["bench", "--quiet", "--json", "--jobs", "1", "--scenario", one_pairing.name, "--policy"]
    assert cli.main([*ask, "typed_here:Mine"]) == 0
    assert "typed_here:Mine" in {entry["policy"] for entry in json.loads(capsys.readouterr().out)}
    assert cli.main([*ask, "not_here:Mine"]) == 2
    assert "cannot be loaded" in capsys.readouterr().err
