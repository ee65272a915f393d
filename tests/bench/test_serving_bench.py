"""A bench of the serving world: cells, scores, results on disk, and what verify makes of changed ones."""

import contextlib
import dataclasses
import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import changed_lines, damaged
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving_bench import FALTERS, WHO, benched

from rapgym import cli
from rapgym.bench import alone
from rapgym.bench import results as window_results
from rapgym.bench.run import part_name
from rapgym.bench.serving import cells, entrants, results, score, verify
from rapgym.bench.serving import run as bench_run
from rapgym.bench.serving.cells import ServeCell
from rapgym.bench.serving.results import ServeResults
from rapgym.cli import serving as cli_serving
from rapgym.errors import InvalidPolicy, InvalidResult
from rapgym.guard.foreign import Terms
from rapgym.policies.serve_rules import Fixed
from rapgym.policies.serving import serve_briefing
from rapgym.report import serving as report
from rapgym.rollout import serving as rollout
from rapgym.rollout.serving import Course, Served, play
from rapgym.scenarios import serving_worlds
from rapgym.scenarios.serving import ServeScenario
from rapgym.serving import batch, latency
from rapgym.serving.engine import Decision, Engine, Token
from rapgym.serving.latency import Waits
from rapgym.serving.requests import Requests
from rapgym.serving.world import ServeWorld
from rapgym.world.shield import Reason


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serving")


@pytest.fixture(scope="module")
def found(serving_story: ServeScenario, folder: Path) -> Iterator[ServeResults]:
    """Rules, a user's policy that falters, and a search."""
    with benched(serving_story):
        made = bench_run.run(
            [serving_story], ["fixed", WHO], folder / "b.csv.gz", quiet=True, terms=_terms(folder)
        )
        yield made


def _terms(folder: Path) -> Terms:
    (folder / "falters.py").write_text(FALTERS)
    return Terms(folders=(str(folder),))


def cell(found: ServeResults, who: str) -> ServeCell:
    return next(each for each in found.cells if each.about.policy == who)


def test_scores_follow_from_costs_on_the_same_parts(
    found: ServeResults, serving_story: ServeScenario
) -> None:
    world, told = serving_worlds.scoring_world(serving_story), serve_briefing(serving_story)
    scores = {each.policy: each for each in found.scores}
    engine = play(Fixed, world, world.pieces, told)
    assert scores["engine"].cost == pytest.approx(engine.cost, abs=1e-6)
    assert scores["engine"].pieces == len(world.pieces) > 1
    lookup, tuned = scores["lookup"], scores["engine-tuned"]
    (plan,) = (each for each in found.scores if each.kind == "bound")
    assert lookup.cost is not None
    assert plan.cost is None, "a search serves stretches alone"
    assert (tuned.gain, plan.gain) == (0.0, 100.0)
    assert lookup.verdict is None
    assert lookup.stretch_cost is not None
    assert tuned.stretch_cost is not None
    assert plan.stretch_cost is not None
    room = tuned.stretch_cost - plan.stretch_cost
    wanted = 100 * (tuned.stretch_cost - lookup.stretch_cost) / room
    assert lookup.gain == pytest.approx(wanted, abs=0.01)
    assert scores["fixed"].verdict in ("better", "worse", "equal", "undecided")
    total = engine.record.sum(axis=0)
    assert scores["engine"].shed == pytest.approx(
        total[batch.SHED] / total[batch.ARRIVED], abs=1e-6
    )


def test_what_a_server_asks_is_of_all_pieces_together(
    found: ServeResults, serving_story: ServeScenario
) -> None:
    """Percentiles and levels of the engine, from the readable one's requests; then beside the lookup."""
    world, scores = serving_worlds.scoring_world(serving_story), {s.policy: s for s in found.scores}
    waits, paces = list[float](), list[float]()
    late = arrived = preempted = 0
    for part in world.pieces:
        requests = world.requests(part)
        engine = Engine(requests, world.card_of(part), world.profile, world.shed_s)
        engine.run(part.seconds + batch.DRAIN_S)
        over = {
            token.request for token in engine.tokens if token.at_s > _due_s(world, requests, token)
        }
        for k, each in enumerate(engine.served):
            arrived, preempted = arrived + 1, preempted + (each.preemptions > 0)
            if each.last_s == each.last_s:
                late += k in over
                waits.append(each.first_s - float(requests.arrival_s[k]))
                if (more := int(requests.output_tokens[k]) - 1) > 0:
                    paces.append((each.last_s - each.first_s) / more)
    told = scores["engine"]
    assert (told.ttft_p50_s, told.ttft_p95_s, told.ttft_p99_s) == pytest.approx(
        [*np.percentile(waits, (50, 95, 99))], abs=2e-6)  # fmt: skip
    assert told.tpot_p95_s == pytest.approx(np.percentile(paces, 95), abs=2e-6)
    assert told.late == pytest.approx(late / arrived, abs=1e-6)
    assert told.preempted == pytest.approx(preempted / arrived, abs=1e-6)
    assert late
    assert preempted
    for one in found.scores:
        assert one.goodput + one.late + one.shed + one.lost == pytest.approx(1, abs=3e-6)
    lookup = scores["lookup"]
    assert lookup.ttft_p99_less_s is lookup.goodput_low is None
    assert lookup.ttft_p99_s is not None
    assert told.ttft_p99_s is not None
    less_s = told.ttft_p99_s - lookup.ttft_p99_s
    assert told.ttft_p99_less_s == pytest.approx(less_s, abs=2e-6)
    assert less_s
    assert told.goodput_low is not None
    assert told.goodput_high is not None
    assert told.goodput_low < told.goodput - lookup.goodput < told.goodput_high
    assert told.ttft_met_low is not None
    assert told.ttft_met_high is not None
    assert told.ttft_met_low < told.ttft_met - lookup.ttft_met < told.ttft_met_high
    assert told.ttft_met != told.goodput


def _due_s(world: ServeWorld, requests: Requests, token: Token) -> float:
    k = token.request
    arrival_s, prompt = float(requests.arrival_s[k]), int(requests.prompt_tokens[k])
    return world.deadlines.due_s(arrival_s, prompt, token.index)


def test_the_table_has_percentiles_where_it_is_wide(found: ServeResults) -> None:
    narrow, wide = report.table(found.scores), report.table(found.scores, wide=True)
    assert wide.startswith(narrow)
    assert "TTFT met" not in narrow
    (engine,) = (score for score in found.scores if score.policy == "engine")
    (_, row) = (line.split() for line in wide.splitlines() if line.startswith("engine "))
    assert row[1:5] == [f"{engine.ttft_p50_s:.2f}", f"{engine.ttft_p95_s:.2f}",
                        f"{engine.ttft_p99_s:.2f}", f"{engine.ttft_p99_less_s:+.3f}"]  # fmt: skip
    assert row[-1] == f"{engine.throughput:.0f}"
    assert row[-2] == f"{engine.preempted:.1%}"
    assert "carry no interval" in wide
    nothing = [dataclasses.replace(engine, ttft_p99_s=None, tpot_p50_s=None)]
    assert "None" not in report.table(nothing, wide=True)


def test_the_time_to_shedding_is_tuned_on_train(
    found: ServeResults, serving_story: ServeScenario
) -> None:
    tuned = cell(found, "engine-tuned").about
    told = serve_briefing(serving_story)
    costs = {}
    for shed_s in cells.SHED_S:
        world = dataclasses.replace(told.train, shed_s=shed_s)
        costs[shed_s] = play(Fixed, world, rollout.spread(told.train), told).cost
    assert tuned.settings == {"shed_s": min(costs, key=lambda shed_s: costs[shed_s])}
    assert tuned.train_cost == pytest.approx(min(costs.values()))
    assert len({*costs.values()}) > 1


def test_a_users_policy_that_falters_is_replaced_by_the_lookup(
    found: ServeResults, serving_story: ServeScenario
) -> None:
    mine = cell(found, WHO)
    decisions, source = mine.courses[0].by_second()
    # It raises in its second second, then gives garbage in its third.
    assert np.flatnonzero(source == Reason.FALLBACK).tolist() == [1, 2]
    assert (decisions[source == Reason.POLICY] == (0, 0, 1)).all()
    assert mine.about.fallback == pytest.approx(cells.share_of(mine.courses, Reason.FALLBACK))
    assert "not yet" in str(mine.about.fault)
    assert mine.about.isolation in ("confined", "open")
    lookup = cell(found, "lookup").about
    assert cells.instead_differs(serving_story, mine, lookup) == 0
    assert next(s for s in found.scores if s.policy == WHO).fallback > 0


def test_results_are_read_as_they_were_written(found: ServeResults, folder: Path) -> None:
    again = results.read(folder / "b.csv.gz")
    assert again.scores == found.scores
    assert [each.about.as_json() for each in again.cells] == [
        json.loads(json.dumps(each.about.as_json())) for each in found.cells
    ]
    for one, other in zip(again.cells, found.cells, strict=True):
        for here, there in zip(one.served, other.served, strict=True):
            assert here.parts == there.parts
            assert np.array_equal(results.rounded(here.record), results.rounded(there.record))
            assert here.waits is not None
            assert there.waits is not None
            assert np.array_equal(here.waits.counts, there.waits.counts)
            assert np.array_equal(here.waits.percentiles, there.waits.percentiles, equal_nan=True)
        for mine, its in zip(one.courses, other.courses, strict=True):
            assert all(map(np.array_equal, mine.by_second(), its.by_second()))
    assert not (folder / "b.csv.gz.parts").exists()
    with pytest.raises(InvalidResult, match="of the serving world"):
        window_results.read(folder / "b.csv.gz")


def test_the_file_holds(found: ServeResults, folder: Path) -> None:
    assert list(verify.differences(results.read(folder / "b.csv.gz"))) == []
    said = verify.unchecked(found)
    assert any(WHO in each for each in said)
    assert any("--again" in each for each in said)


def test_rules_decide_again(found: ServeResults) -> None:
    assert list(verify.differences(found, again=True)) == []
    other = changed(found, "fixed", lambda c: _about(c, train_cost=0.001))
    assert any("train_cost" in each for each in verify.differences(other, again=True))


def test_the_readable_engine_comes_to_the_same(
    found: ServeResults, serving_story: ServeScenario
) -> None:
    """A piece of the lookup's, replayed by the reference from what the file holds."""
    told = cell(found, "lookup")
    assert told.whole is not None
    part, world = told.whole.parts[0], serving_worlds.scoring_world(serving_story)
    engine = Engine(world.requests(part), world.card_of(part), world.profile, world.shed_s)
    for second, decision in enumerate(told.courses[0].by_second()[0].tolist(), 1):
        engine.decide(Decision(*decision))
        engine.run(float(second))
    engine.run(part.seconds + batch.DRAIN_S)
    record = told.whole.record[0]
    assert record[batch.TOKENS] == len(engine.tokens)
    assert record[batch.PREEMPTIONS] == sum(each.preemptions for each in engine.served)
    assert record[batch.SHED] == sum(each.shed_s == each.shed_s for each in engine.served)
    assert record[batch.STEPS] == len(engine.steps)


def test_a_watched_policy_is_judged_by_calibration_columns_and_scored_by_those_of_test(
    found: ServeResults, serving_story: ServeScenario, folder: Path
) -> None:
    terms = dataclasses.replace(_terms(folder), watchdog=True)
    lookup = cell(found, "lookup").about
    entry = entrants.entrant(WHO, terms).entry  # type: ignore[attr-defined]
    told = cells.user_cell(serving_story, entry, 0, terms, lookup, searches=False)
    assert told.about.settings == {"watchdog": True}
    assert told.about.watchdog == cells.share_of(told.courses, Reason.WATCHDOG)
    assert told.whole is not None
    world = serving_worlds.scoring_world(serving_story)
    judged = rollout.replayed(world, told.whole.parts, told.courses)
    assert np.array_equal(told.whole.record, judged.record)
    assert cells.instead_differs(serving_story, told, lookup) == 0


# What a forger may do


def changed(
    found: ServeResults, who: str, change: Callable[[ServeCell], ServeCell]
) -> ServeResults:
    every = tuple(change(c) if c.about.policy == who else c for c in found.cells)
    return ServeResults(found.header, every, found.scores)


def _about(told: ServeCell, **change: Any) -> ServeCell:
    return dataclasses.replace(told, about=dataclasses.replace(told.about, **change))


def _record(told: ServeCell, column: int, by: float) -> ServeCell:
    assert told.whole is not None
    record = told.whole.record.copy()
    record[-1, column] += by
    return dataclasses.replace(told, whole=dataclasses.replace(told.whole, record=record))


def without_first(served: Served | None) -> Served:
    """The pieces without the first."""
    assert served is not None
    assert served.waits is not None
    waits = dataclasses.replace(served.waits, counts=served.waits.counts[1:])
    return Served(served.parts[1:], served.record[1:], waits)


def _waits(told: ServeCell, *, percentile: float = 0.0, count: int = 0) -> ServeCell:
    """With another p99 of TTFT, and another number of preempted requests."""
    assert told.whole is not None
    waits = told.whole.waits
    assert waits is not None
    other = Waits(waits.counts.copy(), waits.percentiles.copy())
    other.percentiles[latency.PERCENTILES.index("ttft_p99_s")] += percentile
    other.counts[0, latency.PREEMPTED] += count
    return dataclasses.replace(told, whole=dataclasses.replace(told.whole, waits=other))


def _course(told: ServeCell, change: Callable[[Any, Any], None]) -> ServeCell:
    decisions, source = (each.copy() for each in told.courses[0].by_second())
    change(decisions, source)
    return dataclasses.replace(told, courses=(Course.of(decisions, source), *told.courses[1:]))


def _drops(decisions: Any, source: Any) -> None:
    decisions[5:20, 1] = 1 - decisions[5:20, 1].clip(0, 1)


def _stands_in(decisions: Any, source: Any) -> None:
    source[10:30] = Reason.FALLBACK
    decisions[10:30] = (1, 0, 0)


def _source(value: Reason) -> Callable[[Any, Any], None]:
    def change(decisions: Any, source: Any) -> None:
        source[:] = value

    return change


def _too_many(decisions: Any, source: Any) -> None:
    decisions[0, 0] = 99


TAMPERED: dict[str, Callable[[ServeResults], ServeResults]] = {
    "a cost a billionth lower": lambda f: changed(f, "lookup", lambda c: _record(c, batch.COST, -3e-9)),
    "a token more": lambda f: changed(f, "fixed", lambda c: _record(c, batch.TOKENS, 1)),
    "a preemption less": lambda f: changed(f, "engine", lambda c: _record(c, batch.PREEMPTIONS, -1)),
    "a shed request less": lambda f: changed(f, WHO, lambda c: _record(c, batch.SHED, -1)),
    "other decisions": lambda f: changed(f, "lookup", lambda c: _course(c, _drops)),
    "seconds that the lookup did not decide": lambda f: changed(f, WHO, lambda c: _course(c, _stands_in)),
    "a watchdog that was not there": lambda f: changed(
        f, WHO, lambda c: _course(c, _source(Reason.WATCHDOG))),
    "a rule that fell back": lambda f: changed(f, "fixed", lambda c: _course(c, _source(Reason.FALLBACK))),
    "more blocks than there are": lambda f: changed(f, WHO, lambda c: _course(c, _too_many)),
    "another kind": lambda f: changed(f, "fixed", lambda c: _about(c, kind="heuristic")),
    "another share of fallbacks": lambda f: changed(f, WHO, lambda c: _about(c, fallback=0.0, fault=None)),
    "a cell that is gone": lambda f: ServeResults(
        f.header, tuple(c for c in f.cells if c.about.policy != "fixed"), f.scores),
    "a cell twice": lambda f: ServeResults(f.header, (*f.cells, f.cells[-1]), f.scores),
    "a piece that is gone": lambda f: changed(f, "lookup", lambda c: dataclasses.replace(
        c, whole=without_first(c.whole), courses=c.courses[1:])),
    "a percentile a billionth lower": lambda f: changed(f, "lookup", lambda c: _waits(c, percentile=-3e-9)),
    "a percentile that is none": lambda f: changed(f, "fixed", lambda c: _waits(c, percentile=np.nan)),
    "a preempted request less": lambda f: changed(f, "engine", lambda c: _waits(c, count=-1)),
    "a better p99": lambda f: ServeResults(
        f.header, f.cells, (dataclasses.replace(f.scores[0], ttft_p99_s=0.001), *f.scores[1:])),
    "a better score": lambda f: ServeResults(
        f.header, f.cells, (dataclasses.replace(f.scores[0], gain=99.0), *f.scores[1:])),
    "settings of another kind": lambda f: changed(
        f, "engine-tuned", lambda c: _about(c, settings={"shed_s": 99.0})),
}  # fmt: skip


@pytest.mark.parametrize("how", TAMPERED)
def test_what_was_changed_is_refused(how: str, found: ServeResults, tmp_path: Path) -> None:
    forged = TAMPERED[how](found)
    results.write(tmp_path / "f.csv.gz", forged)
    assert list(verify.differences(results.read(tmp_path / "f.csv.gz")))


@pytest.mark.parametrize("name", ["scenarios", "tables", "traffic", "profiles"])
def test_results_of_another_world_are_refused(name: str, found: ServeResults) -> None:
    part = {key: {**value, "name": "other"} if isinstance(value, dict) else "0" * 64
            for key, value in found.header[name].items()}  # fmt: skip
    with pytest.raises(InvalidResult, match="another"):
        list(verify.differences(ServeResults({**found.header, name: part}, found.cells)))


@pytest.mark.parametrize(
    "line",
    ["run_seconds", "run_part", "run_source", "run_ffn", "seconds", "cell", "cost", "span",
     "waits_cell", "waits_stretch", "ttft_p99_s", "preempted"],
)  # fmt: skip
def test_damaged_columns_are_told(line: str, found: ServeResults, folder: Path) -> None:
    text = gzip.decompress((folder / "b.csv.gz").read_bytes()).decode().split("\n")
    place = next(i for i, each in enumerate(text) if each.startswith(f"{line},"))
    # Any finite number can be a cost, any stretch one of a split: that is for verify to find.
    few = {"cost": ("nan", ""), "span": ("-1", "nan", ""), "ttft_p99_s": ("-1", "inf", ""),
           "preempted": ("nan", "")}  # fmt: skip
    for cell_now in few.get(line, ("-1", "99999999999", "nan", "")):
        name, _, *rest = text[place].split(",")
        other = [*text[:place], ",".join([name, cell_now, *rest]), *text[place + 1 :]]
        content = gzip.compress("\n".join(other).encode())
        with pytest.raises(InvalidResult):
            results.parsed(content, "it")


def test_percentiles_of_a_cell_that_there_is_not_are_refused(
    found: ServeResults, folder: Path
) -> None:
    text = gzip.decompress((folder / "b.csv.gz").read_bytes()).decode().split("\n")
    more = {"waits_cell": str(len(found.cells)), "waits_stretch": "0"}
    more |= dict.fromkeys(latency.PERCENTILES, "1.0")
    names = [line.partition(",")[0] for line in text]
    other = [
        f"{line},{more[name]}" if name in more else line
        for name, line in zip(names, text, strict=True)
    ]
    with pytest.raises(InvalidResult, match="of other cells"):
        results.parsed(gzip.compress("\n".join(other).encode()), "it")


@settings(max_examples=60, deadline=None, suppress_health_check=[*HealthCheck])
@given(st.data())
def test_a_strangers_file_is_read_or_refused(
    found: ServeResults, folder: Path, data: st.DataObject
) -> None:
    content = (folder / "b.csv.gz").read_bytes()
    text = gzip.decompress(content)
    changed_text = data.draw(st.one_of(changed_lines(text), damaged(text)))
    other = data.draw(st.sampled_from([gzip.compress(changed_text), content]))
    with contextlib.suppress(InvalidResult):
        read = results.parsed(other, "it")
        assert len(read.cells) == len({id(each) for each in read.cells}) > 0


# The bench itself


def test_a_stopped_run_goes_on(
    found: ServeResults, serving_story: ServeScenario, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = bench_run.origin_of([serving_story], [0], searches=False)
    (task,) = (
        each
        for each in bench_run.tasks([serving_story], [], [0], searches=False)
        if each.entrant.name == "lookup"
    )
    parts = folder / "again.csv.gz.parts"
    parts.mkdir()
    told = dataclasses.replace(cell(found, "lookup"), stretches=None)
    assert told.whole is not None
    told = dataclasses.replace(told, courses=told.courses[: len(told.whole.parts)])
    path = parts / f"{part_name(serving_story.id)}.lookup.0.csv.gz"
    results.write(path, ServeResults({**here, "basis": {}}, (told,)))
    tried = list[str]()
    run = entrants.RuleEntrant.run

    def counted(self: Any, *args: Any, **more: Any) -> ServeCell:
        tried.append(self.name)
        return run(self, *args, **more)

    monkeypatch.setattr(entrants.RuleEntrant, "run", counted)
    made = bench_run.run([serving_story], [], folder / "again.csv.gz", quiet=True, searches=False)
    assert task.entrant.name not in tried
    assert sorted(tried) == sorted({*entrants.ALWAYS} - {"lookup"})
    assert all(each.gain is None for each in made.scores), "without searches there is no scale"
    assert list(verify.differences(made)) == []


def test_one_without_isolation_is_played_again_from_its_decisions(
    found: ServeResults, serving_story: ServeScenario, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = cell(found, WHO)
    cheap = _record(honest, batch.COST, -5.0)
    terms = dataclasses.replace(_terms(folder), in_process=True)
    entrant = entrants.entrant(WHO, terms)
    lookup = cell(found, "lookup").about
    monkeypatch.setattr(alone, "run", lambda order, read: cheap)
    again = entrant.run(serving_story, 0, lookup, searches=True)
    assert again.whole is not None
    assert honest.whole is not None
    assert np.array_equal(again.whole.record, honest.whole.record)
    lied = _course(honest, _stands_in)
    monkeypatch.setattr(alone, "run", lambda order, read: lied)
    with pytest.raises(InvalidPolicy, match="lookup decided"):
        entrant.run(serving_story, 0, lookup, searches=True)


def test_the_best_plan_is_the_cheapest_of_each_stretch() -> None:
    def served(costs: list[float]) -> Served:
        record = np.zeros((len(costs), len(batch.COLUMNS)))
        record[:, batch.COST], record[:, batch.TOKENS] = costs, 1.0
        return Served((), record)

    best = score.best_plan([served([1.0, 4.0]), served([2.0, 3.0])])
    assert best.record[:, batch.COST].tolist() == [1.0, 3.0]


def test_the_command_line_runs_and_checks_a_serving_bench(
    found: ServeResults, serving_story: ServeScenario, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(cli_serving, "asked_for", lambda arguments: True)
    out = tmp_path / "c.csv.gz"
    asked = [
        "bench",
        "--scenario",
        serving_story.name,
        "--policy",
        "engine",
        "--no-search",
        "--quiet",
        "--wide",
    ]
    assert cli.main([*asked, "--jobs", "1", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "goodput" in printed
    assert "TTFT met" in printed
    assert "engine-tuned" in printed
    assert cli.main([*asked, "--out", str(out)]) == 2, "nothing is overwritten"
    assert "--force" in capsys.readouterr().err
    assert cli.main(["verify", str(out)]) == 0
    assert "replay, scores hold" in capsys.readouterr().out
    forged = changed(results.read(out), "lookup", lambda c: _record(c, batch.COST, -1.0))
    results.write(tmp_path / "f.csv.gz", forged)
    assert cli.main(["verify", str(tmp_path / "f.csv.gz"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["differences"]


def test_worlds_are_benched_apart(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--scenario", "laptop", "--scenario", "serve-chat-gqa"]) == 2
    assert "two worlds" in capsys.readouterr().err
    assert cli.main(["bench", "--scenario", "serve-chat-gqa", "--card", "80"]) == 2
    assert "card_gib" in capsys.readouterr().err
    assert cli.main(["bench", "--scenario", "laptop", "--no-search"]) == 2
    assert cli.main(["bench", "--scenario", "serve-nowhere"]) == 2
    assert "no serving scenario is called" in capsys.readouterr().err
