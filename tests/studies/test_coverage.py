"""How often intervals hold: the committed file says what code and pages say of it."""

import json
from typing import Any

import numpy as np
import pytest

from rapgym.bench import score, verdicts
from rapgym.bench.pieces import Pieces
from rapgym.bench.score import Estimate
from rapgym.files import places
from rapgym.studies import coverage

LIMITS = (places.PACKAGE.parent / "docs" / "limits.md").read_text()


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return dict(json.loads(coverage.OUT.read_text()))


def test_what_holds_beyond_its_rows_is_what_was_simulated(found: dict[str, Any]) -> None:
    """Whoever finds that an hour speaks for its day must say so in `verdicts`, and the reverse."""
    for unit, holds in found["holds_beyond"].items():
        assert verdicts.HOLDS_BEYOND[unit] is holds, unit
        each = [e["coverage"] for e in found["days"] if e["unit"] == unit]
        assert each
        assert holds == all(0.90 <= share <= 0.98 for share in each)


def test_every_policy_and_stretch_was_tried(found: dict[str, Any]) -> None:
    tried = {(each["policy"], each["stretch_s"]) for each in found["days"]}
    assert tried == {(n, s) for n, _ in coverage.OTHERS for s in coverage.STRETCHES_S}
    made = {(each["rows"], each["length"]) for each in found["made"]}
    assert made == {(name, rows) for name in coverage.MADE for rows in coverage.LENGTHS}
    assert found["resamples"] == score.RESAMPLES


def test_the_page_says_what_the_file_says(found: dict[str, Any]) -> None:
    enough = [each for each in found["made"] if each["length"] > 60]
    for field, text in (
        ("coverage", "cover the truth in {} to {} %"),
        ("false", "is said without any difference in {} to {} %"),
        ("found", "is found in {} to {} %"),
    ):
        shares = [100 * each[field] for each in enough]
        said = text.format(round(min(shares)), round(max(shares)))
        assert said in " ".join(LIMITS.split()), said
    days = [100 * each["coverage"] for each in found["days"]]
    said = f"covers the difference of the whole day in {min(days):.0f} to {max(days):.0f} %"
    assert said in " ".join(LIMITS.split()), said


def test_intervals_of_pieces_that_are_alike_are_what_they_are_called(found: dict[str, Any]) -> None:
    low, high = found["within"]
    for each in found["made"]:
        assert low <= each["coverage"] <= high, each
        assert each["false"] <= 0.08, each
    percentile, basic = (
        np.mean([abs(each[name] - 0.95) for each in found["made"]])
        for name in ("coverage", "coverage_basic")
    )
    assert percentile <= basic, "of the two the better one is used"


def test_a_small_simulation_still_gives_what_the_file_says(found: dict[str, Any]) -> None:
    """160 runs of what took the file many more: within four standard errors."""
    rows, rng = 120, np.random.default_rng(5)
    runs = [coverage.MADE["AR(1) 0.6"](rng, rows, 0.0) for _ in range(160)]
    each = [coverage.compared(a, b, np.ones(rows), p, i) for i, (a, b, p) in enumerate(runs)]
    share = np.mean([coverage.covers(one, 0.0) for one in each])
    (kept,) = (
        e["coverage"] for e in found["made"] if (e["rows"], e["length"]) == ("AR(1) 0.6", rows)
    )
    assert abs(share - kept) < 4 * np.sqrt(0.05 * 0.95 / 160)


def test_a_stretch_is_held_to_its_day() -> None:
    """Of a day whose halves differ a stretch shows one; of a day that is alike it shows the whole."""
    day = coverage.DAY_S // 60
    fits, noise = np.arange(day) % 5 > 0, 0.1 * np.random.default_rng(0).standard_normal(day)

    def shares(less: np.ndarray) -> list[float]:
        costs = {"frontier": np.zeros(day), **{name: less for name, _ in coverage.OTHERS}}
        told = coverage.days(costs, np.ones(day), fits, 60, 20)
        return [each["coverage"] for each in told if each["stretch_s"] == 3600]

    assert max(shares(np.repeat([0.0, 1.0], day // 2) + noise)) <= 0.2
    assert min(shares(0.3 + noise)) >= 0.8


def test_the_basic_interval_is_the_other_turned_about_the_value() -> None:
    skewed = Estimate(1.0, 0.5, 3.0, 0.01, 0.1)
    assert coverage.covers(skewed, 2.5)
    assert not coverage.covers(skewed, -0.5)
    assert coverage.covers(skewed, -0.5, basic=True)
    assert not coverage.covers(skewed, 2.5, basic=True)


def test_made_bursts_tile_their_rows() -> None:
    a, b, pieces = coverage.MADE["heavy bursts"](np.random.default_rng(0), 120, 0.2)
    assert isinstance(pieces, Pieces)
    assert pieces.rows == len(a) == len(b) == 120
    assert pieces.first[0] == 0
    assert (np.diff(pieces.first) > 1).all()


@pytest.mark.slow
def test_the_long_series_gives_the_committed_shares(found: dict[str, Any]) -> None:
    again = list(coverage.days(*coverage.served(), found["runs"]))
    for one, kept in zip(again, found["days"], strict=True):
        assert one["coverage"] == pytest.approx(kept["coverage"], abs=0.02)
