"""The map: its costs are those of bench and rollout, its points known by hand, its grid taken up again."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_world
from toy_table import ALL_SETS, kept_without

from rapgym import cli, heldout
from rapgym.bench import cells, score
from rapgym.errors import DataUnavailable, HeldOut, InvalidSpec, InvalidTrace
from rapgym.policies import registry
from rapgym.policies.policy import briefing
from rapgym.policies.reference import FrontierLookup
from rapgym.rivals import rivals
from rapgym.rollout import rollout, tuning
from rapgym.scenarios import catalogue, worlds
from rapgym.scenarios import load as scenarios_load
from rapgym.scenarios.story import GIB, Scenario
from rapgym.workload import series
from rapgym.worth import axes, ways
from rapgym.worth import point as worth_point
from rapgym.worth import sweep as worth_sweep
from rapgym.worth.axes import Axis, Place
from rapgym.worth.point import Point
from rapgym.worth.ways import BY_NAME, Player


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("RAPGYM_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "cache"
    worlds.forget()


@pytest.fixture(scope="module")
def found(toy_story: Scenario) -> Point:
    return worth_point.played(toy_story)


def test_only_what_was_measured_is_played(found: Point) -> None:
    """The toy table is of bf16, and knows no other format."""
    assert [*found.train.costs] == [
        "bf16", "bf16-admission", "bf16-fixed", "bf16-trimmed", "bf16-pruned"
    ]  # fmt: skip
    assert [*found.train.fits] == ["bf16"]


def test_costs_are_those_of_rollout_and_bench_to_the_bit(toy_story: Scenario, found: Point) -> None:
    told = briefing(toy_story)
    keep_all = registry.entry("keep-all")

    def make() -> Any:
        return registry.build(keep_all, {})

    assert found.test is not None
    for name, policy in (("bf16-pruned", FrontierLookup), ("bf16-trimmed", make)):
        played = rollout.run(policy, toy_story, "train", briefing(toy_story))
        assert found.train.costs[name] == played.mean_cost
        about = cells.described(toy_story, name, "reactive")
        cell = cells.scored(toy_story, about, rollout.run(policy, toy_story, "test", told))
        assert found.test.costs[name] == score.mean_cost(cell.test_cost, cell.log.output_tokens)
    admission = cells.rival_cell(toy_story, rivals.rival("partial-admission"))
    assert found.test.costs["bf16-admission"] == score.mean_cost(
        admission.test_cost, admission.log.output_tokens
    )
    assert found.train.costs["bf16-pruned"] == pytest.approx(
        tuning.train_cost(FrontierLookup, told), abs=1e-12
    )


@pytest.mark.parametrize("dropped", [(2,), (2, 5)])
def test_a_fixed_set_is_played_as_the_policy_that_keeps_it(
    toy_story: Scenario, dropped: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = kept_without(*dropped)

    class Fixed:
        on_misfit = "refuse"

        def reset(self, batch: int, briefing: Any) -> None:
            self.batch = batch

        def propose(self, observation: Any, rng: Any) -> Any:
            return np.tile(kept, (self.batch, 1))

    monkeypatch.setattr(Player, "fixed", lambda *_: kept)
    played = rollout.run(Fixed, toy_story, "train", briefing(toy_story))
    found = Player(toy_story).log(BY_NAME["bf16-fixed"], "train", "calib")
    assert (found.cost == played.cost).all()
    assert (found.refused > 0).any()


def test_the_fixed_set_is_one_that_costs_least_on_train(toy_story: Scenario) -> None:
    """On a card on which a set in the middle is best, among all sets."""
    story = replace(toy_story, card_gib=1200 / GIB)
    kept = Player(story).fixed(ways.FORMATS["bf16"])
    sets = np.array([each for each in ALL_SETS if each[0] and each[1]])
    costs = tuning.fixed_sets_cost(
        worlds.world(story, "train"), sets, refuses_misfit=True, offsets=story.offsets
    )
    assert not kept.all()
    assert (kept != worlds.world(story, "train").floor).any()
    (place,) = np.flatnonzero((sets == kept).all(axis=1))
    assert costs[place] == pytest.approx(costs.min(), rel=0.02)


def by_hand(limits: list[list[int]], tokens: list[int]) -> Callable[..., Any]:
    """In the place of the toy's rows: these, and nothing of its series."""

    def rows(story: Scenario, split: str) -> Any:
        heldout.check(split)
        return toy_world.toy_rows(tokens, limits)

    return rows


def test_a_point_known_by_hand(toy_story: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 5 tokens dense takes 460 bytes, each block 60. Where there are 470 all is free; where there
    are 410 one block goes: attn1, for 0.10 nats. A refused answer costs C = 4.
    """
    limits = [[470] * 4, [410] * 4] * 4
    monkeypatch.setattr(worlds, "rows", by_hand(limits, [5] * 8))
    monkeypatch.setattr("rapgym.rivals.rivals._batches", _one_request_each)
    worlds.forget()
    story = replace(toy_story, tenant=None, offsets=1, restore_s=1e-9)
    found = worth_point.played(story, held_out=False)
    assert found.train.costs == pytest.approx(
        {
            "bf16": 2.0,  # refused in every other row
            "bf16-admission": 2.0,
            "bf16-fixed": 0.1,  # without attn1 for good
            "bf16-trimmed": 0.05,
            "bf16-pruned": 0.05,
        },
        abs=1e-6,
    )
    assert found.train.fits == {"bf16": 0.5}
    assert found.best == "bf16-trimmed", "the simplest of those that tie"
    assert found.lead is not None
    assert found.lead.over == "bf16-fixed"
    assert found.lead.train == pytest.approx(0.05, abs=1e-6)
    assert found.is_open
    assert found.lead.verdict is None
    assert found.test is None


def _one_request_each(story: Scenario, split: str, world: Any) -> Any:
    from rapgym.rivals import rules

    tokens = np.stack([np.zeros(8, dtype=np.int64), world.rows.prompt_tokens], axis=1)
    output = np.stack([np.zeros(8, dtype=np.int64), world.rows.output_tokens], axis=1)
    return rules.batches(world, tokens, 0 * tokens, output)


def test_where_all_fits_there_is_nothing_to_decide(toy_story: Scenario) -> None:
    found = worth_point.played(replace(toy_story, card_gib=100_000 / GIB))
    assert found.train.costs == dict.fromkeys(found.train.costs, 0.0)
    assert found.best == "bf16"
    assert found.train.fits == {"bf16": 1.0}
    assert not found.is_open
    assert not found.is_shown
    assert found.pruning is not None
    assert found.pruning.verdict == "equal"


def test_what_drops_nothing_costs_what_playing_it_costs(toy_story: Scenario) -> None:
    """Where all fits, the rows of the full model stand for the others: they are the same."""
    story = replace(toy_story, card_gib=100_000 / GIB)
    player, whole = Player(story), BY_NAME["bf16"]
    assert player.is_idle(whole.form, "train")
    for name in ("bf16-trimmed", "bf16-pruned"):
        one, other = (player.log(way, "train", "calib") for way in (whole, BY_NAME[name]))
        assert (one.cost == other.cost).all()
    assert not Player(toy_story).is_idle(whole.form, "train")


def test_train_alone_opens_nothing_of_test(
    toy_story: Scenario, monkeypatch: pytest.MonkeyPatch, found: Point
) -> None:
    with heldout.only("train", heldout.WHOLE) as opened:
        alone = worth_point.played(toy_story, held_out=False)
    assert opened == {"train", heldout.WHOLE}
    assert (alone.train, alone.best, alone.test) == (found.train, found.best, None)
    with heldout.only("train", heldout.WHOLE), pytest.raises(HeldOut):
        worth_point.played(toy_story)


def test_a_point_survives_json(found: Point) -> None:
    again = Point.from_json(json.loads(json.dumps(found.as_json())))
    assert again == found
    assert (again.best, again.is_shown) == (found.best, found.is_shown)


@pytest.mark.parametrize("share", [Fraction(1, 2), Fraction(3, 4), Fraction(3, 2), Fraction(3)])
def test_a_load_leaves_out_or_repeats_single_requests(share: Fraction) -> None:
    whole = toy_world.toy_series()
    made = scenarios_load.repeated(whole, share)
    before, after = whole.single_requests(), made.single_requests()  # which checks the columns
    count = len(before.prompt_tokens)
    assert abs(len(after.prompt_tokens) - share * count) <= 1
    assert (made.tenant_tokens == whole.tenant_tokens).all()
    times = np.diff([-(-share * i // 1) for i in range(count + 1)]).astype(int)
    assert after.prompt_tokens.tolist() == np.repeat(before.prompt_tokens, times).tolist()
    if share == Fraction(1, 2):
        assert after.output_tokens.tolist() == before.output_tokens[::2].tolist()


def test_at_one_a_load_changes_nothing(toy_story: Scenario) -> None:
    assert scenarios_load.under(toy_story, 1.0) is toy_story
    whole = toy_world.toy_series()
    same = scenarios_load.repeated(whole, Fraction(1))
    assert same.requests.tolist() == whole.requests.tolist()
    for name in series.DEMAND_COLUMNS:
        assert (getattr(same, name) == getattr(whole, name)).all()


def test_a_series_under_a_load_is_not_made_of_other_traffic(
    toy_story: Scenario, cache: Path
) -> None:
    """Where its file is gone, or on another machine, nothing else takes its place."""
    story = scenarios_load.under(toy_story, 0.5)
    (file,) = (cache / "workloads").iterdir()
    made = file.read_bytes()
    worlds.forget()
    file.unlink()
    with pytest.raises(DataUnavailable, match="under another load is made by the command"):
        worlds.workload(story)
    assert scenarios_load.under(toy_story, 0.5) == story
    assert file.read_bytes() == made


@pytest.mark.parametrize("load", [0.0, -1.0, 1e-5, 100.0, float("nan")])
def test_a_load_that_cannot_be_is_refused(toy_story: Scenario, load: float) -> None:
    with pytest.raises(InvalidSpec, match="load"):
        scenarios_load.under(toy_story, load)


def test_a_load_that_leaves_no_requests_is_refused(toy_story: Scenario) -> None:
    with pytest.raises(InvalidTrace, match=r"toy at 0.005 times its load: its .* part"):
        scenarios_load.under(toy_story, 0.005)


CARDS, LOADS = (800 / GIB, 1000 / GIB), (0.5, 1.0)


def over(story: Any, cards: Any = CARDS, loads: Any = LOADS) -> tuple[Axis, Axis]:
    return axes.axis(story, "card", cards), axes.axis(story, "load", loads)


def test_a_map_is_taken_up_again(
    toy_story: Scenario, cache: Path, found: Point, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = worth_sweep.sweep(toy_story, *over(toy_story), quiet=True)
    assert whole.own == whole.at(1000 / GIB, 1.0) == found
    assert whole.shown(found) == "9.31323e-07 GiB, 1 x"
    assert [(p.place.card_gib, p.place.load) for p in whole.points] == [
        (c, x) for x in LOADS for c in CARDS
    ]
    (work,) = (cache / "maps").iterdir()
    lines = work.read_text().splitlines()
    work.write_text("\n".join([*lines[:3], lines[3][:40]]))  # killed as it wrote the third
    counted: list[float] = []
    played = worth_point.played

    def counting(story: Scenario, place: Place, *, held_out: bool = True) -> Point:
        counted.append(place.load)
        return played(story, place, held_out=held_out)

    monkeypatch.setattr(worth_point, "played", counting)
    assert worth_sweep.sweep(toy_story, *over(toy_story), quiet=True) == whole
    assert len(counted) == 2, "two of four were kept"
    assert worth_sweep.sweep(toy_story, *over(toy_story), quiet=True) == whole
    assert len(counted) == 2
    worth_sweep.sweep(toy_story, *over(toy_story, [*CARDS, 1100 / GIB], LOADS[1:]), quiet=True)
    assert len(counted) == 3, "another grid plays what is new in it"
    worth_sweep.sweep(replace(toy_story, restore_s=4.0), *over(toy_story), quiet=True)
    assert len(counted) == 7, "another scenario takes nothing from it"


@pytest.mark.parametrize(("columns", "lines"), [(7, 8), (1, 1), (2, 2), (5, 3), (6, 1), (1, 9)])
def test_places_that_are_played_first_are_like_all(columns: int, lines: int) -> None:
    order = worth_sweep.turns(columns, lines)
    assert sorted(order) == [*range(columns * lines)]
    for first in range(0, len(order), columns):
        assert sorted(place % columns for place in order[first : first + columns]) == [
            *range(columns)
        ]
    if columns >= 5 and lines >= 3:
        assert len({place // columns for place in order[:columns]}) >= 3, "lines lie apart"
    # As measured of laptop: the two smallest cards take most, more under more load.
    seconds = [
        (8 if i % columns < 2 else 1) * (1 + 0.1 * (i // columns)) for i in range(len(order))
    ]
    whole = sum(seconds)
    for share in (0.25, 0.5, 0.75):
        played = int(share * len(order))
        if played >= columns >= 5:
            told = sum(seconds[place] for place in order[:played]) / played * len(order)
            assert told == pytest.approx(whole, rel=0.3)


def test_the_scenario_itself_is_played_beside_its_grid(toy_story: Scenario, found: Point) -> None:
    whole = worth_sweep.sweep(toy_story, *over(toy_story, CARDS[:1], LOADS[:1]), quiet=True)
    assert len(whole.points) == 1
    assert whole.own == found


def test_a_map_of_days_or_of_too_many_points_is_refused(toy_story: Scenario) -> None:
    with pytest.raises(InvalidSpec, match="lasts days"):
        worth_sweep.sweep(replace(toy_story, trace="servegen:m-large"), *over(toy_story))
    with pytest.raises(InvalidSpec, match="1 to 400 points, not 441"):
        worth_sweep.sweep(toy_story, *over(toy_story, range(1, 22), range(1, 22)))


def test_cards_stand_around_the_scenarios_own(toy_story: Scenario) -> None:
    around = axes.axis(replace(toy_story, card_gib=23.5), "card").values
    assert len(around) == 7
    assert around[3] == 23.5
    assert (around[0], around[-1]) == (11.8, 47)


def test_a_map_over_restore_time_costs_what_bench_says(toy_story: Scenario) -> None:
    """Beside another time until all blocks are back, the reference policy costs as in a bench there."""
    slow_s = 50 * toy_story.restore_s
    x, y = (axes.axis(toy_story, "restore", [toy_story.restore_s, slow_s]), over(toy_story)[1])
    whole = worth_sweep.sweep(toy_story, x, y, quiet=True)
    point, slow = whole.at(slow_s, 1.0), replace(toy_story, restore_s=slow_s)
    assert point.place == Place(toy_story.card_gib, 1.0, slow_s)
    assert point.test is not None
    log = rollout.run(FrontierLookup, slow, "test", briefing(slow))
    about = cells.described(slow, "frontier", "reactive")
    cell = cells.scored(slow, about, log)
    name = "bf16-pruned"
    assert point.test.costs[name] == score.mean_cost(cell.test_cost, log.output_tokens)
    assert point.train.costs[name] > whole.own.train.costs[name]


def test_a_map_over_formats_plays_what_each_allows(toy_story: Scenario, found: Point) -> None:
    x, y = (axes.axis(toy_story, "format"), over(toy_story)[0])
    assert x.values == ("bf16",), "the toy table knows no other"
    whole = worth_sweep.sweep(toy_story, x, y, quiet=True)
    assert whole.at("bf16", 1000 / GIB).train == found.train
    assert whole.own == found
    with pytest.raises(
        InvalidSpec, match="'int9' is no format of which the quality of toy is known"
    ):
        axes.axis(toy_story, "format", ["int9"])
    laptop = catalogue.scenario("laptop")
    assert axes.axis(laptop, "format").values == ("bf16", "int8-int8-kv", "int4-int8-kv")
    only = ways.possible(laptop, "int8-int8-kv")
    assert {way.format for way in only} == {"int8-int8-kv"}
    assert {way.kind for way in only} == {"whole", "fixed", "pruned"}


def test_a_measured_link_is_no_axis() -> None:
    story = replace(catalogue.scenario("laptop"), device_profile="cpu-2core")
    with pytest.raises(InvalidSpec, match="its device profile has measured the link"):
        axes.axis(story, "restore")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--over", "card,card"], "names no two different of card, load, restore, format"),
        (["--over", "card"], "names no two different"),
        (["--restores", "1"], "add --over restore,card"),
        (["--over", "card,format", "--formats", "int9"], "'int9' is no format"),
    ],
)
def test_axes_that_cannot_be_are_refused(
    options: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if "two different" in says:  # argparse itself refuses
        with pytest.raises(SystemExit, match="2"):
            cli.main(["map", "laptop", *options])
    else:
        assert cli.main(["map", "laptop", *options]) == 2
    assert says in capsys.readouterr().err


def test_the_command_prints_json(toy_story: Scenario, capsys: pytest.CaptureFixture[str]) -> None:
    cards = ",".join(map(repr, CARDS))
    ask = [
        "map",
        toy_story.name,
        "--cards",
        cards,
        "--loads",
        "1",
        "--jobs",
        "1",
        "--quiet",
        "--json",
    ]
    assert cli.main(ask) == 0
    told = json.loads(capsys.readouterr().out)
    assert [point["place"]["card_gib"] for point in told["points"]] == list(CARDS)
    assert told["own"]["best"] in told["ways"]
    assert len(told["verdict"]) == 3
    assert cli.main([*ask, "--train-only"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert all(point["test"] is None for point in told["points"])
