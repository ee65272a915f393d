"""What is left of a bench: right on a run that was recorded, and on runs whose cells cost as drawn."""

import json
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest

from rapgym.bench import entrants
from rapgym.bench.expected import Expected, measured_us, prior_s
from rapgym.scenarios import catalogue

RECORDED = Path(__file__).with_name("recorded_bench.json")
EXACT = 1e-6


def said(expected: Expected, seconds: list[float], jobs: int = 1) -> list[tuple[float, float]]:
    """Share of a run that is over, and the time left that is said, as a share of what is true."""
    ends, free, order = list[tuple[float, int]](), [0.0] * jobs, range(len(seconds))
    for cell in order:  # each begins as soon as one of the jobs is free
        job = free.index(min(free))
        free[job] += seconds[cell]
        ends.append((free[job], cell))
    found, whole = list[tuple[float, float]](), max(free)
    for end, cell in sorted(ends):
        expected.ended(cell, seconds[cell], end)
        if whole - end > EXACT:
            found.append((end / whole, expected.left_s / (whole - end)))
    return found


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("slower", [1.0, 2.5])
def test_the_time_left_of_a_recorded_run_is_right_after_its_first_tenth(
    jobs: int, slower: float
) -> None:
    """Three scenarios, of which none is the one that the kept measurement is of."""
    run = json.loads(RECORDED.read_text())
    assert run["scenarios"]
    assert run["of"] not in run["scenarios"]
    cells = [(name, prior_s(name, kind, rows)) for name, kind, rows, _ in run["cells"]]
    seconds = [slower * cell[-1] for cell in run["cells"]]
    found = [share for over, share in said(Expected(cells, jobs), seconds, jobs) if over > 0.1]
    assert len(found) > 100
    assert all(0.7 < share < 1.3 for share in found), [round(x, 2) for x in found]


def test_counting_cells_alike_would_not_do() -> None:
    run = json.loads(RECORDED.read_text())
    seconds = [cell[-1] for cell in run["cells"]]
    alike = said(Expected([("all", 1.0)] * len(seconds)), seconds)
    assert any(not 0.7 < share < 1.3 for over, share in alike if over > 0.1)


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_run_corrects_what_was_measured_elsewhere(jobs: int) -> None:
    """Of each method it learns how far that was off; and how quick the machine is at present."""
    rng = np.random.default_rng(0)
    off = dict(zip("abcdefgh", rng.uniform(0.3, 3.0, 8), strict=True))
    cells = [(name, rows * 2.0) for rows in np.linspace(3.0, 1.0, 12) for name in off]
    seconds = [4.0 * off[name] * prior for name, prior in cells]
    found = said(Expected(cells, jobs), seconds, jobs)
    assert all(0.85 < share < 1.15 for over, share in found if 0.3 < over < 0.9)


def test_a_machine_that_becomes_slower_is_found_out() -> None:
    cells = [("a", 1.0)] * 300
    seconds = [1.0 if cell < 100 else 5.0 for cell in range(300)]
    ends = [*accumulate(seconds)]
    expected = Expected(cells)
    for cell, (each, end) in enumerate(zip(seconds, ends, strict=True)):
        expected.ended(cell, each, end)
        if cell == 220:
            assert expected.left_s == pytest.approx(ends[-1] - end, rel=0.1)


def test_before_a_cell_has_ended_nothing_is_known() -> None:
    expected = Expected([("a", 1.0), ("b", 2.0)])
    assert np.isnan(expected.left_s)
    expected.ended(0, 1.0, 1.0)
    assert expected.left_s == pytest.approx(2.0)
    expected.ended(1, 2.0, 3.0)
    assert expected.left_s == 0.0


def test_every_method_that_can_be_run_has_a_kept_measurement() -> None:
    known, story = measured_us(), catalogue.scenario("chat-bursty-8bit")  # where it was measured
    every = (*entrants.every(), *entrants.ORACLES)
    assert {each.name for each in every if each.is_ready(story)} <= known["methods"].keys()
    assert all(each > 0 for part in known.values() for each in part.values())


def test_a_method_without_one_counts_as_its_kind_does() -> None:
    kinds = measured_us()["kinds"]
    for kind, usual in kinds.items():
        assert prior_s("mine:Mine", kind, 2_000) == pytest.approx(2e-3 * usual)
    assert min(kinds.values()) < 1e6 * prior_s("mine:Mine", "another", 1) < max(kinds.values())
