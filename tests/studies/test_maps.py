"""Published maps: what is written is read back, drawn and counted; those committed are of what is here."""

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rapgym.errors import InvalidResult
from rapgym.files import checked, places
from rapgym.report import worth
from rapgym.scenarios import catalogue, tables, worlds
from rapgym.scenarios.story import GIB, Scenario
from rapgym.studies import maps
from rapgym.studies.pages import maps as maps_page
from rapgym.worth import axes
from rapgym.worth import point as worth_point
from rapgym.worth import sweep as worth_sweep
from rapgym.worth.point import Compared, Point
from rapgym.worth.sweep import Map


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("RAPGYM_CACHE", str(tmp_path / "cache"))
    yield
    worlds.forget()


@pytest.fixture
def found(toy_story: Scenario) -> Map:
    x = axes.axis(toy_story, "card", [800 / GIB, toy_story.card_gib])
    y = axes.axis(toy_story, "load", [0.5, 1.0])
    return worth_sweep.sweep(toy_story, x, y, quiet=True)


def test_a_map_is_published_and_read_back(
    found: Map, toy_story: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "by_default", lambda: (toy_story,))
    # The toy's card is of millionths of a GiB: as many decimals as tell it apart.
    monkeypatch.setattr(maps, "DECIMALS", 30)
    monkeypatch.setattr("rapgym.bench.origin.origin", lambda *_: dict.fromkeys(
        ("rapgym", "code_sha256", "numpy", "tables", "workloads")))  # fmt: skip
    path = tmp_path / f"{toy_story.name}.json"
    path.write_text(json.dumps(maps.told(found, 12.3)))
    assert maps.published(tmp_path) == [found]
    told = json.loads(path.read_text())
    assert told["wall_s"] == 12
    path.write_text(json.dumps(told | {"scenario": told["scenario"] | {"restore_s": 9.0}}))
    with pytest.raises(InvalidResult, match="toy has changed since; run: make maps"):
        maps.published(tmp_path)
    path.write_text("{}")
    with pytest.raises(InvalidResult, match="is no published map"):
        maps.published(tmp_path)


def test_costs_are_rounded_and_nothing_else() -> None:
    told: dict[str, Any] = {"a": [1.23456789, 2, None, "1.23456789"], "b": {"c": (0.1234567,)}}
    assert maps._rounded(told) == {"a": [1.234568, 2, None, "1.23456789"], "b": {"c": [0.123457]}}


def test_the_drawing_shows_every_point(found: Map) -> None:
    drawn = maps_page.drawn([found, found, found, found])
    root = ET.fromstring(drawn)
    tips = [each.text or "" for each in root.iter("{http://www.w3.org/2000/svg}title")][1:]
    assert len(tips) == 4 * len(found.points)
    for point in found.points:
        cost = f"{point.train.costs[point.best]:.4f} nats on train"
        assert any(found.shown(point) in tip and cost in tip for tip in tips)
    assert drawn.count('class="own"') == 4, "the scenario as it is stands out"
    inside = [float(x) for x in re.findall(r'<rect x="([\d.]+)"', drawn)]
    assert max(inside) + maps_page.CELL_W <= maps_page.WIDTH
    assert drawn == maps_page.drawn([found, found, found, found]), "the same bytes"
    labels = re.findall(r'class="cell \w+"[^>]*>([^<]+)<', drawn)
    wanted = [f"{worth.label(p)}{'!' if worth.is_unserved(p) else ''}" for p in found.points]
    assert sorted(labels) == sorted(4 * wanted)


def test_what_is_said_counts_points_of_pruning(found: Map) -> None:
    """Of four points, two where pruning wins: one is shown by held-out rows, at one nobody would serve."""

    def won(point: Point, cost: float, verdict: Any) -> Point:
        costs = dict.fromkeys(point.train.costs, cost + 1.0) | {"bf16-pruned": cost}
        pair = Compared("bf16-pruned", "bf16", 1.0, 0.5, 0.1, 0.9, 0.2, verdict)
        return replace(point, train=replace(point.train, costs=costs), lead=pair, pruning=pair)

    first, second, *rest = (replace(p, pruning=None) for p in found.points)
    points = (won(first, 0.1, "win"), won(second, 1.5, "undecided"), *rest)
    some = replace(found, points=points)
    said = maps_page.told([some])
    assert "Who is cheapest on 4 cards and loads around 1 scenarios" in said
    assert (
        "at 2 of them (50%); at 1 of these one would serve, and at 1 held-out rows show it" in said
    )
    assert "| `toy` | 2 of 4 | 1 | 1 |" in maps_page.rows([some])
    never = replace(found, points=(*rest, *rest))
    assert "at 0 of them (0%)" in maps_page.told([never])


committed = pytest.mark.skipif(not maps.FOLDER.is_dir(), reason="no maps were published")


@committed
def test_published_maps_are_of_the_tables_and_series_here() -> None:
    published = maps.published()
    names = {found.base.name for found in published}
    files = {path.stem for path in places.STORIES.glob("*.toml")}  # the toy is in the list too
    assert {s.name for s in catalogue.by_default() if s.headline and s.name in files} <= names
    for found in published:
        told = json.loads(maps.file_of(found.base).read_text())
        origin, story = told["origin"], found.base
        assert origin["tables"][story.table] == tables.table(story).sha256
        series = places.TRACES / f"{story.workload}.csv.gz"
        assert origin["workloads"] == {story.workload: checked.sha256_of(series)}
        assert found.own in found.points


@committed
def test_a_published_point_is_what_playing_it_gives() -> None:
    story = catalogue.scenario("chat-mixed-8bit")  # the quickest of the headline
    (found,) = (each for each in maps.published() if each.story == story)
    played = worth_point.played(story)
    assert played.test is not None
    assert found.own.test is not None
    assert found.own.train.costs == pytest.approx(played.train.costs, abs=1e-6)
    assert found.own.test.costs == pytest.approx(played.test.costs, abs=1e-6)
    assert found.own.best == played.best
