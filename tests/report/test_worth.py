"""The map as text: who is cheapest in letters, 100 columns, three sentences, and a page that forbids requests."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rapgym import cli
from rapgym.report import page as report_page
from rapgym.report import worth, worth_page
from rapgym.scenarios.story import Scenario
from rapgym.worth.axes import Axis, Place
from rapgym.worth.point import Compared, Part, Point
from rapgym.worth.sweep import Map

WHOLE, FORMAT, PRUNED = "bf16-admission", "int8-int8-kv", "int8-int8-kv-pruned"


def point(pruned: float = 0.05, *, verdict: str = "win", card_gib: float = 24.0) -> Point:
    """Not pruning costs 0.5, a format 0.2, and run-time pruning in it what is stated."""
    costs = {WHOLE: 0.5, "bf16": 0.9, FORMAT: 0.2, PRUNED: pruned}
    part = Part(costs, {"bf16": 0.4, FORMAT: 0.9})
    won = Compared(PRUNED, FORMAT, 0.2 - pruned, 0.12, 0.02, 0.3, 0.08, verdict)  # type: ignore[arg-type]
    best, over = (PRUNED, FORMAT) if pruned < 0.2 else (FORMAT, PRUNED)
    lead = replace(won, way=best, over=over, train=abs(0.2 - pruned))
    return Point(Place(card_gib, 1.0, 0.5), 4.0, part, part, "burst", 12, lead, won)


def test_letters_say_kind_bits_and_whether_it_is_shown() -> None:
    assert worth.label(point()) == "P8"
    assert worth.label(point(verdict="undecided")) == "p8"
    assert worth.label(point(0.3, verdict="equal")) == "u8"
    assert not worth.is_unserved(point())
    dear = Part(dict.fromkeys(point().train.costs, 1.1), {})
    assert worth.is_unserved(replace(point(), train=dear)), "1.1 of 4 nats"


def test_three_sentences_say_what_the_point_says() -> None:
    fits, whole, pruning = worth.sentences(point())
    assert "40.0% in 16 bits and 90.0% in 8 bits (weights and KV cache)" in fits
    assert "costs 0.5000 nats an output token in 16 bits (bf16-admission)" in whole
    assert (
        "0.2000 in the format that is best on train (int8-int8-kv), on the held-out rows" in whole
    )
    assert "(int8-int8-kv-pruned, the frontier lookup) saves 0.1500 nats" in pruning
    assert "+0.1200 [+0.0200, +0.3000] on the held-out rows: a win that the data show" in pruning
    assert "these rows alone" in pruning, "bursts say nothing of other days"


@pytest.mark.parametrize(
    ("verdict", "says"),
    [
        ("undecided", "the data are too few (12 bursts; they could have shown 0.0800 or more)"),
        ("equal", "it makes no difference there"),
        ("loss", "there it loses"),
    ],
)
def test_what_the_data_could_not_show_is_said(verdict: str, says: str) -> None:
    assert says in worth.sentences(point(verdict=verdict))[2]


@pytest.mark.parametrize(
    ("pruned", "says"),
    [
        (0.198, "nothing to decide. The best of it (int8-int8-kv-pruned, the frontier lookup) saves 0.0020"),
        (0.3, "nothing to decide. int8-int8-kv costs 0.1000 nats less on train"),
    ],
)  # fmt: skip
def test_where_nothing_is_to_be_gained_nothing_is_to_decide(pruned: float, says: str) -> None:
    found = point(pruned)
    assert found.pruning is not None
    idle = replace(found, pruning=replace(found.pruning, saves=0.004, low=-0.1))
    assert says in worth.sentences(idle)[2]


def test_where_train_and_held_out_rows_differ_nothing_is_claimed() -> None:
    told = worth.sentences(point(0.3))[2]
    assert "costs 0.1000 nats more beside int8-int8-kv on train, where it is not worth it" in told
    assert "but saves +0.1200 [+0.0200, +0.3000] on the held-out rows: the two differ" in told


def test_held_out_rows_that_were_not_opened_are_not_spoken_of() -> None:
    alone = Compared(PRUNED, FORMAT, 0.15)
    told = worth.sentences(replace(point(), test=None, unit=None, lead=alone, pruning=alone))
    assert "train" in told[0]
    assert told[2].endswith("the held-out rows were not opened.")


def grid(story: Scenario, count: int = 7) -> Map:
    cards = tuple(123.4 + card for card in range(count))
    loads = (0.25, 1.0, 12.75)
    points = tuple(
        replace(point(1.4142 if card else 0.05), place=Place(gib, load, 0.5))
        for load in loads
        for card, gib in enumerate(cards)
    )
    return Map(story, Axis("card", cards), Axis("load", loads), points, points[count])


@pytest.mark.parametrize("count", [1, 7, 30])
def test_the_map_fits_100_columns(toy_story: Scenario, count: int) -> None:
    found = grid(toy_story, count)
    text = worth.text(found)
    assert max(map(len, text.splitlines())) <= worth.WIDTH
    assert sum("GiB" in line for line in text.splitlines()) >= 2 * (1 + count // 8)
    assert text.count("[P8 0.050]") == 1, "the scenario as it is"
    for card in found.x.values:
        assert f"{card:g} GiB" in text
    if count == 7:
        assert text.splitlines()[1].count("GiB") == 7, "the usual map is one block"


def test_colours_are_asked_for(toy_story: Scenario) -> None:
    found = grid(toy_story)
    assert "\x1b" not in worth.text(found)
    coloured = worth.text(found, colour=True)
    for code in ("\x1b[32m", "\x1b[36m", "\x1b[0m"):
        coloured = coloured.replace(code, "")
    assert coloured == worth.text(found)


def test_the_page_holds_every_point_and_the_verdict(toy_story: Scenario) -> None:
    pytest.importorskip("plotly")
    pytest.importorskip("jinja2")
    found = grid(toy_story)
    page = worth_page.page(found)
    text = report_page.rendered(page)
    assert "Quality comes from the reference table toy" in text
    for card in found.x.values:
        assert f"{card:g} GiB, 0.25 x" in text
    who, adds = page.sections[0].pictures
    assert who.figure is not None
    assert adds.figure is not None
    drawn = json.loads(who.figure.to_json())["data"][0]
    assert drawn["text"][1][0] == "P8<br>0.050"
    assert drawn["z"][0][0] != drawn["z"][0][1]
    assert len(set(worth_page.COLOURS.values())) == 9
    saved = json.loads(adds.figure.to_json())["data"][0]["z"]
    assert saved[0] == pytest.approx([0.15, *[0.2 - 1.4142] * 6])


def test_the_command_writes_the_page_and_overwrites_none(
    toy_story: Scenario,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("plotly")
    monkeypatch.setenv("RAPGYM_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "map.html"
    card = repr(toy_story.card_gib)
    ask = ["map", toy_story.name, "--cards", card, "--loads", "1", "--jobs", "1", "--quiet"]
    assert cli.main([*ask, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "Quality comes from the reference table toy" in said.replace("\n", " ")
    assert "\x1b" not in said
    assert f"wrote {out}" in said
    assert "Is run-time pruning worth it here?" in out.read_text("utf-8")
    assert cli.main([*ask, "--out", str(out)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert cli.main([*ask, "--out", str(out), "--force"]) == 0
