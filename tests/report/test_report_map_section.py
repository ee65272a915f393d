"""A map as a section of a bench's report, read back from what `rapgym map --json` prints."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rapgym.errors import InvalidResult
from rapgym.report import map_section
from rapgym.scenarios.story import Scenario
from rapgym.worth.axes import Axis, Place
from rapgym.worth.point import Part, Point
from rapgym.worth.sweep import Map

pytest.importorskip("plotly", reason="plotly is not installed: pip install 'rapgym[report]'")


@pytest.fixture
def made(toy_story: Scenario) -> Map:
    part = Part({"bf16": 0.9, "bf16-admission": 0.5}, {"bf16": 0.4})
    own = Point(Place(24.0, 1.0, 3.0), 4.0, part, None, None, 0, None, None)
    larger = replace(own.place, card_gib=40.0)
    cheap = replace(own, place=larger, train=Part({"bf16": 0.1, "bf16-admission": 0.3}, {}))
    cards, loads = Axis("card", (24.0, 40.0)), Axis("load", (1.0,))
    return Map(toy_story, cards, loads, (own, cheap), own)


def test_a_map_comes_back_as_it_was(made: Map, tmp_path: Path) -> None:
    (tmp_path / "map.json").write_text(json.dumps(made.as_json()))
    assert map_section.read(tmp_path / "map.json") == made
    section = map_section.section(tmp_path / "map.json")
    assert section.anchor == "map"
    assert "toy-v0" in section.title
    figure = section.pictures[0].figure
    assert figure
    shown = figure.data[0].text[0]
    assert ["0.500" in shown[0], "0.100" in shown[1]] == [True, True]
    assert any(row[0] == "40 GiB, 1 x" for row in section.tables[0].rows)


@pytest.mark.parametrize(
    "change",
    [
        {"points": []},
        {"points": [{}]},
        {"x": {"name": "card", "values": [1]}},
        {"x": {"name": "card", "values": ["x", "y"]}},
        {"x": {"name": "colour", "values": [24.0, 40.0]}},
        {"y": [1.0]},
        {"scenario": {}},
        {"scenario": 7},
        {"own": None},
    ],
)
def test_what_is_no_map_is_refused(change: dict[str, Any], made: Map, tmp_path: Path) -> None:
    (tmp_path / "map.json").write_text(json.dumps(made.as_json() | change))
    with pytest.raises(InvalidResult, match="rapgym map SCENARIO --json"):
        map_section.section(tmp_path / "map.json")


@pytest.mark.parametrize("content", ["", "7", "[]", "[" * 100_000])
def test_what_is_no_json_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "map.json").write_text(content)
    with pytest.raises(InvalidResult, match="no map that can be read"):
        map_section.section(tmp_path / "map.json")
    with pytest.raises(InvalidResult):
        map_section.section(tmp_path / "none.json")
