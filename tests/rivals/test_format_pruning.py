"""Pruning on top of a format: the lookup in that format's world, in nats above full bf16."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shaped_table
import stories
import toy_table
import toy_world
from plain_records import known
from toy_table import ALL_SETS, CEILING, FLOOR

from rapgym.arrays import FloatArray, IntArray
from rapgym.bench import cells, rankings, results, scoreboard, verify
from rapgym.bench import contest as bench_contest
from rapgym.bench import run as bench_run
from rapgym.errors import DataUnavailable, InvalidSpec, InvalidTable
from rapgym.files import places
from rapgym.model import blocks
from rapgym.model.shapes import BF16, FORMATS, Format
from rapgym.policies import registry
from rapgym.policies.policy import briefing
from rapgym.policies.reference import FrontierLookup
from rapgym.quality import file as table_file
from rapgym.quality import table as quality_table
from rapgym.quality.header import FormatQuality
from rapgym.quality.table import QualityTable
from rapgym.rivals import pruned as pruned_rivals
from rapgym.rivals import rivals
from rapgym.rivals.rivals import PRUNED, Rival
from rapgym.rollout import rollout
from rapgym.scenarios import catalogue, tables, worlds
from rapgym.scenarios.catalogue import shipped
from rapgym.scenarios.story import Scenario
from rapgym.testing import model
from rapgym.world.records import World

INT8, INT4 = Format("int8"), Format("int4")
LOST = {INT8: 0.25, INT4: 0.75}  # nats that a format costs the toy model's dense set
TEST_LOST = 0.125  # more on test text
RIVALS = rivals.every()
OVER_INT8 = next(each for each in PRUNED if each.form == INT8)
OVER_INT4 = next(each for each in PRUNED if each.form == INT4)
TEXTS: tuple[pruned_rivals.Text, ...] = ("calib", "test")


def lost(form: Format, sample: str) -> float:
    return LOST[form] + (TEST_LOST if sample == "test" else 0.0)


def toy_in(form: Format) -> QualityTable:
    """The toy table of a format, in which each set loses half as much again as in bf16."""
    header, rows = toy_table.toy_header(), toy_table.toy_rows()
    samples = tuple(
        replace(each, dense_nll=tuple(nll + lost(form, each.name) for nll in each.dense_nll))
        for each in header.samples
    )
    header = replace(header, weights=form.weights, kv=form.kv, samples=samples)
    content = table_file.packed(header, replace(rows, nll=1.5 * rows.nll))
    return QualityTable(tables.table_name("toy", form), table_file.unpacked(content, "toy"))


def toy_base() -> QualityTable:
    """The toy table, which knows what the formats cost its dense set."""
    formats = tuple(
        FormatQuality(form.weights, form.kv, sample, nll=(lost(form, sample),) * 3, nll_se=(0.01,) * 3,
                      kl=(0.0,) * 3, top1=(1.0,) * 3, nll_p95=0.0)
        for form in LOST for sample in TEXTS
    )  # fmt: skip
    content = table_file.packed(
        replace(toy_table.toy_header(), formats=formats), toy_table.toy_rows()
    )
    return QualityTable("toy", table_file.unpacked(content, "toy"))


@pytest.fixture
def toy(
    toy_story: Scenario, other_table: Callable[..., AbstractContextManager[Any]]
) -> Iterator[Scenario]:
    """The toy scenario with tables of two formats beside its own."""
    with other_table(toy=toy_base(), toy_int8=toy_in(INT8), toy_int4=toy_in(INT4)):
        yield toy_story


@pytest.fixture
def toy_int4(toy: Scenario) -> Scenario:
    """The same, served in int4 on the same card."""
    return replace(toy, name="toy-int4", form=INT4, table="toy-int4")


@pytest.mark.parametrize("name", ["toy", "chat-beside-code", "alone"])
def test_in_the_scenarios_own_format_it_is_the_reference_policy(
    name: str, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue("toy_story" if name == "toy" else "shaped")
    story = stories.alone() if name == "alone" else catalogue.scenario(name)
    served = rollout.run(FrontierLookup, story, "test", briefing(story))
    for text in TEXTS:
        found = pruned_rivals.log(story, story.form, "test", text)
        assert (found.proposal == served.proposal).all()
        assert (found.kept_end == served.kept_end).all()
        if text == "calib":
            assert found.cost == pytest.approx(served.cost)
            assert (found.nll == served.nll).all()
        else:
            judged = rollout.replay(worlds.scoring_world(story), served, refuses_misfit=False)
            assert found.quality == pytest.approx(judged.quality)
            assert (found.nll == judged.nll).all()


class Shifted:
    """Columns in which every set costs so much more."""

    def __init__(self, columns: Any, more: float) -> None:
        self.columns, self.order, self.more = columns, columns.order, more

    def nll(self, kept: Any) -> tuple[FloatArray, Any]:
        found, measured = self.columns.nll(kept)
        return found + self.more, measured


def ways(world: World, log: Any, t: int, lane: int) -> Any:
    """The sets above the floor, and how many bytes each leaves in a row's first second."""
    row = log.row[t, lane]
    tokens = world.rows.prompt_tokens[row] + world.rows.reserved_tokens[row]
    sets = np.array([kept for kept in ALL_SETS if (kept >= FLOOR).all()])
    used = world.footprint.used_bytes(sets, tokens, world.rows.prompt_tokens[row])
    return sets, log.limit_bytes[t, lane] - used


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("rival", [OVER_INT8, OVER_INT4], ids=lambda rival: rival.name)
def test_every_token_costs_what_it_does_in_the_formats_world_and_the_offset(
    toy: Scenario, rival: Rival, text: pruned_rivals.Text
) -> None:
    """Rows equal a plain loop in which sets simply lose more, and C is that of full bf16."""
    form, found = rival.form_on(toy), rivals.log(toy, rival, "test", text)
    offset, columns = lost(form, text), toy_in(form)
    priced = columns.test() if text == "test" else columns.calibration()
    world = pruned_rivals.world(toy, form, "test", text)
    assert world.ceiling == CEILING
    plainly = model.PlainWorld.of(world, model.asking(Shifted(priced, offset), 6))
    events = dict.fromkeys(("stall", "emergency", "refused"), 0.0)
    for lane in range(toy.offsets):
        loaded = frozenset(range(6))
        for t in range(len(found)):
            wanted = frozenset(np.flatnonzero(found.proposal[t, lane]).tolist())
            row, limit_row = int(found.row[t, lane]), int(found.limit_row[t, lane])
            plain = model.serve(plainly, loaded, wanted, row, limit_row, 1.0)
            weight = int(world.rows.output_tokens[row]) / world.mean_output_tokens
            for name, term in plain.terms.items():
                assert weight * getattr(found, name)[t, lane] == pytest.approx(term, abs=1e-12)
            assert found.nll[t, lane] == pytest.approx(plain.nll)
            assert frozenset(np.flatnonzero(found.kept_end[t, lane])) == plain.kept_end
            assert found.used_bytes[t, lane] == plain.used_bytes
            loaded = plain.kept_end
            for name in events:
                events[name] += plain.seconds[name]
    assert min(events.values()) > 0, "nothing of this was left out"


def test_it_proposes_the_best_set_that_fits_in_the_formats_own_bytes(toy: Scenario) -> None:
    found = rivals.log(toy, OVER_INT8, "test", "test")
    world = pruned_rivals.world(toy, INT8, "test", "calib")
    assert world.footprint.attention_bytes == 36
    assert world.rows.limit_bytes.tobytes() == worlds.world(toy, "test").rows.limit_bytes.tobytes()
    calib, dropped = toy_in(INT8).calibration(), 0
    for lane in range(toy.offsets):
        for t in range(len(found)):
            sets, left = ways(world, found, t, lane)
            if (left > 0).any():
                # A limit is seen rounded down: what leaves nothing may seem not to fit.
                ends = [calib.nll(sets[left >= least])[0].min() for least in (0, 1)]
                assert float(calib.nll(found.proposal[t, lane])[0]) in ends
                dropped += int(not found.proposal[t, lane].all())
    assert dropped > 20


def test_what_policies_may_not_read_decides_nothing(toy: Scenario) -> None:
    told, judged = (rivals.log(toy, OVER_INT8, "test", text) for text in TEXTS)
    for name in ("proposal", "kept", "kept_end", "reason", "used_bytes"):
        assert (getattr(told, name) == getattr(judged, name)).all(), name
    assert (told.nll != judged.nll).any()
    for name in ("stall", "emergency", "refused"):
        assert getattr(told, name) == pytest.approx(getattr(judged, name)), name


# A scenario that is itself served in another format.


def test_its_own_format_pruned_is_the_lookup_of_a_scenario_in_int4(toy_int4: Scenario) -> None:
    log = rivals.log(toy_int4, OVER_INT4, "test", "calib")
    served = rollout.run(FrontierLookup, toy_int4, "test", briefing(toy_int4))
    assert (log.kept == served.kept).all()
    assert log.cost == pytest.approx(served.cost)
    assert rivals.format_nll_se(toy_int4, OVER_INT4, "test") == 0.0


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", ["int8", "int8-admission", "int8-pruned"])
def test_a_rival_costs_the_same_whatever_the_scenario_itself_is_served_in(
    toy: Scenario, toy_int4: Scenario, name: str, text: pruned_rivals.Text
) -> None:
    """All costs stand above full bf16, and bytes are the rival's own."""
    rival = next(each for each in (*RIVALS, *PRUNED) if each.name == name)
    assert worlds.world(toy_int4, "test").ceiling == CEILING
    here, there = (rivals.log(story, rival, "test", text) for story in (toy_int4, toy))
    assert (here.limit_bytes == there.limit_bytes).all()
    # Blocks come back in the same time, so over a slower link where they are smaller.
    calm = (here.stall == 0) & (there.stall == 0)
    assert here.cost[calm] == pytest.approx(there.cost[calm])
    assert calm.mean() > 0.3


def test_a_scenario_in_another_format_pays_for_it_in_every_set(
    toy: Scenario, toy_int4: Scenario
) -> None:
    """What its policies and its scorer are told stands above full bf16, as rows, M and predictions."""
    sets = np.array([kept for kept in ALL_SETS if (kept >= FLOOR).all()])
    for text, of in (("calib", tables.told), ("test", tables.judged)):
        own, columns = toy_in(INT4), of(toy_int4)
        raw = own.test() if text == "test" else own.calibration()
        for shifted, plain in (
            (columns.nll(sets)[0], raw.nll(sets)[0]),
            (columns.predicted_nll(sets), raw.predicted_nll(sets)),
            (columns.at_counts, raw.at_counts),
            (columns.grid_nll, raw.grid_nll),
            (columns.single, raw.single),
        ):
            assert shifted == pytest.approx(plain + lost(INT4, text), abs=1e-9)
        assert columns.nll(sets)[1].tolist() == raw.nll(sets)[1].tolist()
        assert (columns.importance == raw.importance).all(), "a difference of two sets"
        assert columns.ceiling == CEILING, "C stands above full bf16 too"
        assert of(toy) is (toy_base_view(toy, text)), "nothing is added in bf16"
    dense = np.ones((1, 6), dtype=bool)
    assert worlds.world(toy_int4, "test").quality.nll(dense)[0] == lost(INT4, "calib")
    assert worlds.scoring_world(toy_int4).quality.nll(dense)[0] == lost(INT4, "test")


def toy_base_view(story: Scenario, text: str) -> Any:
    table = tables.table(story)
    return table.test() if text == "test" else table.calibration()


def test_without_a_format_of_its_own_a_rival_serves_in_the_scenarios(toy_int4: Scenario) -> None:
    whole, named = (rivals.rival(f"{which}admission") for which in ("partial-", "int4-"))
    one, other = (rivals.log(toy_int4, rival, "test", "test") for rival in (whole, named))
    assert one.cost == pytest.approx(other.cost)
    assert (one.used_bytes == other.used_bytes).all()
    assert cells.rival_facts(toy_int4, whole).settings["weights"] == "int4"


# Tables of formats.


def test_tables_are_called_after_their_format() -> None:
    names = [tables.table_name("smollm2-135m", form) for form in (BF16, *FORMATS)]
    assert names == [
        "smollm2-135m", "smollm2-135m-int8", "smollm2-135m-int4", "smollm2-135m-int8kv",
        "smollm2-135m-int8-int8kv", "smollm2-135m-int4-int8kv",
    ]  # fmt: skip
    for name, form in zip(names, (BF16, *FORMATS), strict=True):
        story = replace(catalogue.scenario("chat-beside-code"), table=name, form=form)
        assert tables.base_name(story) == "smollm2-135m"


def test_a_table_of_another_format_is_refused(
    toy: Scenario, other_table: Callable[..., AbstractContextManager[Any]]
) -> None:
    with (
        other_table(toy_int8=toy_in(INT4)),
        pytest.raises(InvalidTable, match="toy-int8 is of int4"),
    ):
        rivals.log(toy, OVER_INT8, "test")
    with pytest.raises(InvalidTable, match="toy is of bf16 weights"):
        worlds.world(replace(toy, form=INT8), "test")


def test_a_format_without_a_table_prunes_nothing(
    toy_story: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataUnavailable):
        pruned_rivals.log(toy_story, INT8, "test", "test")
    monkeypatch.setattr(rivals, "every", lambda: rivals.WHOLE)
    for rival in PRUNED:
        with pytest.raises(
            InvalidSpec, match=f"{rival.name} needs the quality table smollm2-135m-"
        ):
            rivals.rival(rival.name)


def test_rivals_that_prune_are_those_whose_table_is_shipped() -> None:
    bases = {tables.base_name(story) for story in shipped()}
    there = {tables.table_name(base, form): form for base in bases for form in FORMATS}
    for rival in PRUNED:
        wanted = {name for name, form in there.items() if form == rival.form}
        present = all(quality_table.path_of(name).is_file() for name in wanted)
        assert (rival in RIVALS) == present, rival.name


@pytest.mark.parametrize(
    "form", [rival.form for rival in RIVALS if rival.prunes], ids=lambda form: f"{form}"
)
def test_what_a_format_costs_dense_is_what_its_table_loses_more(form: Format) -> None:
    """Measured by rounding beside bf16, and as the dense set of a table of its own: one number.

    Where only the text is shared on which orders are found, and no format was measured there, both
    are estimates of it.
    """
    story = catalogue.scenario("chat-beside-code")
    base, own = tables.base_table(story), tables.format_table(story, form)
    assert (own.model, own.header.domains) == (base.model, base.header.domains)
    there = {each.name: each for each in base.header.samples}
    rounded = {
        f.sample: f.nll for f in base.header.formats if (f.weights, f.kv) == (form.weights, form.kv)
    }
    shared = [s for s in own.header.samples if s.name in there and s.tokens == there[s.name].tokens]
    assert shared, "no text in common"
    for each in shared:
        more = np.subtract(each.dense_nll, there[each.name].dense_nll)
        if each.name in rounded:
            assert more == pytest.approx(rounded[each.name], abs=1e-5), each.name
        else:
            error = 2 * base.format_nll_se(form, "calib")  # of a text about half as long
            expected = base.format_nll(form, "calib")
            assert float(more.mean()) == pytest.approx(expected, abs=4 * error), each.name


def test_a_results_origin_can_name_every_table_that_it_read(
    toy: Scenario, toy_int4: Scenario, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own, int4 = tables.table(toy), tables.table(toy_int4)
    assert rivals.tables(toy) == {"toy": own.sha256}
    assert rivals.tables(toy_int4) == {"toy": own.sha256, "toy-int4": int4.sha256}
    monkeypatch.setattr(rivals, "every", lambda: (*RIVALS, OVER_INT8))
    monkeypatch.setattr(places, "TABLES", tmp_path)
    (tmp_path / "toy-int8.csv.gz").touch()
    of_int8 = tables.format_table(toy, INT8).sha256
    assert rivals.tables(toy) == {"toy": own.sha256, "toy-int8": of_int8}


def test_shaped_tables_of_formats_agree_with_the_one_in_bf16(
    synthetic_table: QualityTable, synthetic_formats: dict[str, QualityTable]
) -> None:
    for form in FORMATS:
        own = synthetic_formats[tables.table_name("smollm2-135m", form).replace("-", "_")]
        for split in TEXTS:
            dense = [t.header.sample(split).dense_nll for t in (own, synthetic_table)]
            more = float(np.mean(dense[0]) - np.mean(dense[1]))
            assert synthetic_table.format_nll(form, split) == pytest.approx(more)
    assert shaped_table.format_nll(BF16, "test", "wiki") == 0


# In results.


@pytest.fixture
def listed(toy: Scenario, monkeypatch: pytest.MonkeyPatch) -> Scenario:
    """Both rivals that prune are on the list, and the toy scenario's policies are tuned."""
    monkeypatch.setattr(rivals, "every", lambda: (*RIVALS, OVER_INT8, OVER_INT4))
    settings = {"kept": blocks.key(np.array([1, 1, 0, 1, 0, 0], dtype=bool))}
    tuned = toy_world.tuned(toy, settings)
    monkeypatch.setattr(registry, "tuned", lambda: {"static-best-repaired": {toy.id: tuned}})
    return toy


NAMES = ["int8", "int8-admission", "int8-pruned", "int4-pruned"]


def test_a_results_file_holds_it_and_verify_plays_it_again(
    listed: Scenario, tmp_path: Path
) -> None:
    out = tmp_path / "bench.csv.gz"
    bench_run.run([listed], NAMES, out, summary=scoreboard.summed_up, quiet=True)
    found = results.read(out)
    assert list(verify.differences(found)) == []
    entries = {entry.policy: entry for entry in found.scores}
    assert entries["int8-pruned"].kind == "rival"
    assert entries["int8-pruned"].foresight is None
    assert entries["int8-pruned"].cost == pytest.approx(
        rivals.log(listed, OVER_INT8, "test", "test").mean_cost
    )
    index = next(i for i, c in enumerate(found.cells) if c.about.policy == "int8-pruned")
    cell = found.cells[index]
    changed = replace(cell, test_quality=cell.test_quality + 0.1)
    wrong = replace(found, cells=(*found.cells[:index], changed, *found.cells[index + 1 :]))
    assert "int8-pruned on toy-v0" in next(iter(verify.differences(wrong)))


def test_what_pruning_adds_stands_beside_the_cheapest_that_prunes_nothing(
    listed: Scenario, tmp_path: Path
) -> None:
    found = bench_run.run([listed], NAMES, tmp_path / "b.csv.gz", quiet=True)
    entries = {entry.policy: entry for entry in scoreboard.entries(found)}
    least = min(entries[name].cost for name in ("int8", "int8-admission", "partial-admission"))
    for name in NAMES:
        own = entries[name]
        assert own.behind_unpruned == pytest.approx(own.cost - least)
        ends = known(own.behind_unpruned_low), known(own.behind_unpruned_high)
        assert ends[0] <= known(own.behind_unpruned) <= ends[1]
    assert known(entries["int8-pruned"].behind_unpruned_high) < 0, "much of it is refused unpruned"
    assert entries["frontier"].behind_unpruned is None


def test_two_rivals_of_one_format_share_its_error(listed: Scenario, tmp_path: Path) -> None:
    found = bench_run.run([listed], NAMES, tmp_path / "b.csv.gz", quiet=True)
    contest = bench_contest.contest_of(list(found.cells))
    facts = {name: contest.served[name].about for name in NAMES}
    sets, rounding = facts["int8-pruned"].sets_se, facts["int8"].quality_se
    assert rounding == pytest.approx(0.01 / np.sqrt(3))
    assert 0 < sets < 0.01
    assert contest.error("int8", "int8-admission") == 0
    assert contest.error("int8", "int8-pruned") == pytest.approx(sets)
    other = np.hypot.reduce([sets, rounding, facts["int4-pruned"].sets_se, rounding])
    assert contest.error("int8-pruned", "int4-pruned") == pytest.approx(other)


def test_the_error_of_the_sets_counts_those_that_it_serves_from(toy: Scenario) -> None:
    log = rivals.log(toy, OVER_INT8, "test", "test")
    found = pruned_rivals.sets_se(toy, INT8, log)
    share: dict[str, float] = {}
    measured = toy_in(INT8).test()
    total = log.output_tokens.sum()
    for t, lane in np.ndindex(log.row.shape):
        whole = (log.stall + log.emergency + log.refused)[t, lane] / CEILING
        served = (1 - whole) * log.output_tokens[t, lane] / total
        halves = [log.kept[t, lane], log.kept_end[t, lane]]
        if log.refused[t, lane]:
            halves[1] = halves[0]
        for kept in halves:
            key = blocks.key(kept)
            share[key] = share.get(key, 0.0) + served / 2
    errors = [part * float(measured.nll_se(blocks.kept_of(key, 6))) for key, part in share.items()]
    assert found == pytest.approx(max(np.linalg.norm(errors), sum(errors)))


def test_its_cost_at_other_c_equals_serving_every_row_again(listed: Scenario) -> None:
    story, world = listed, worlds.scoring_world(listed)
    for rival in (OVER_INT8, OVER_INT4):
        cell = cells.rival_cell(story, rival)
        inner = pruned_rivals.world(story, rival.form_on(story), "test", "test")
        for ceiling in (0.95, 1.2, 4.0, 9.0):
            again = rollout.replay(replace(inner, ceiling=ceiling), cell.log, refuses_misfit=False)
            assert rankings.cost_at(cell, world, ceiling) == pytest.approx(
                again.mean_cost, abs=1e-8
            )


def rows_of(world: World, story: Scenario) -> tuple[IntArray, IntArray]:
    start = cells.test_start(world, story)
    steps = np.arange(len(world.rows))[:, None]
    return (start.row + steps) % len(world.rows), (start.limit_row + steps) % len(world.rows)


def test_its_rows_and_pairings_are_those_of_the_policies(toy: Scenario) -> None:
    world, log = worlds.world(toy, "test"), rivals.log(toy, OVER_INT4, "test", "test")
    row, limit_row = rows_of(world, toy)
    assert (log.row == row).all()
    assert (log.limit_row == limit_row).all()
    assert (log.output_tokens == world.rows.output_tokens[row]).all()
    asked = world.demand_of(row, np.ones(row.shape))
    foot = pruned_rivals.world(toy, INT4, "test", "calib").footprint
    used = foot.used_bytes(log.kept, asked.tokens, asked.prompt_tokens)
    assert (used == log.used_bytes)[log.refused == 0].all()
    assert (log.used_bytes <= log.limit_bytes).all()
