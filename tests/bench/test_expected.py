"""What is left of a bench: right on a run that was recorded, and on runs whose cells cost as drawn."""

import json
import subprocess
import sys
import time
from functools import partial
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest

from rapgym.bench import entrants
from rapgym.bench.expected import Expected, Timed, measured_us, prior_s
from rapgym.files import compiling
from rapgym.scenarios import catalogue

# A bench whose code was compiled already, and one that had to compile it first: `benchmarks/cells.py --record`.
RECORDED = Path(__file__).with_name("recorded_bench.json")
COLD = Path(__file__).with_name("recorded_cold_bench.json")
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


def said_of(path: Path, slower: float = 1.0, *, alike: bool = False) -> list[tuple[float, float]]:
    """The same of a recorded run, on a machine that is so many times slower."""
    run = json.loads(path.read_text())
    cells = [
        (name, 1.0 if alike else prior_s(name, kind, rows)) for name, kind, rows in run["cells"]
    ]
    expected, whole, found = Expected(cells, run["jobs"]), slower * run["ends"][-1][2], []
    for cell, seconds, elapsed_s, compiling_s in run["ends"]:
        expected.ended(cell, slower * seconds, slower * elapsed_s, slower * compiling_s)
        if (left := whole - slower * elapsed_s) > 0.02 * whole:
            found.append((1 - left / whole, expected.left_s / left))
    return found


@pytest.mark.parametrize("slower", [1.0, 2.5])
@pytest.mark.parametrize(("path", "astray"), [(RECORDED, 0.0), (COLD, 0.1)])
def test_the_time_left_of_a_recorded_run_is_right_after_its_first_tenth(
    path: Path, astray: float, slower: float
) -> None:
    """Within 30 %, but for a few cells while code is being compiled."""
    found = [share for over, share in said_of(path, slower) if over > 0.1]
    assert len(found) > 300
    wrong = [round(share, 2) for share in found if not 0.7 < share < 1.3]
    assert len(wrong) <= astray * len(found), wrong
    assert all(0.5 < share < 1.6 for share in found), wrong


@pytest.mark.parametrize("jobs", [1, 3])
def test_it_is_right_of_other_numbers_of_processes(jobs: int) -> None:
    run = json.loads(RECORDED.read_text())
    cells = [(name, prior_s(name, kind, rows)) for name, kind, rows in run["cells"]]
    seconds = [took for _, took, *_ in sorted(run["ends"])]
    found = [share for over, share in said(Expected(cells, jobs), seconds, jobs) if over > 0.1]
    assert sum(not 0.7 < share < 1.3 for share in found) <= 0.01 * len(found)


def test_what_compiling_takes_says_nothing_of_cells_that_are_left() -> None:
    expected = Expected([("a", 1.0)] * 3 + [("b", 1.0)] * 3)
    expected.ended(0, 1.0, 8.0, compiling_s=7.0)
    assert expected.left_s == pytest.approx(2 * 1.0 + 7.0 + 3 * 1.0), "b is still to be compiled"
    expected.ended(1, 1.0, 9.0)
    expected.ended(2, 1.0, 10.0)
    expected.ended(3, 1.0, 12.0, compiling_s=1.0)
    assert expected.left_s == pytest.approx(2.0)


def waits(seconds: float) -> str:
    """Stands for a cell that compiles something, which compiles what it calls."""
    with compiling.counted(), compiling.counted():
        time.sleep(seconds)
    return "found"


def test_a_timed_call_tells_compiling_apart_and_counts_it_once() -> None:
    begun_s = time.perf_counter()
    found, spent = Timed(partial(waits, 0.05))()
    assert found == "found"
    assert spent.compiling_s >= 0.05
    assert spent.seconds >= 0.0
    assert sum(spent) <= time.perf_counter() - begun_s, "what compiles inside is counted once"


def test_a_cell_that_compiles_says_so() -> None:
    """A function that is compiled, or read where it was kept, when it is first called."""
    code = """
import numpy as np
from rapgym.files import compiling
from rapgym.world import stride_kernel
assert compiling.waited_s() == 0.0
stride_kernel.enter(np.ones(1, np.uint64), np.ones(1), np.zeros(8, np.uint64), np.zeros(8))
assert compiling.waited_s() > 0.0
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_counting_cells_alike_would_not_do() -> None:
    alike = [share for over, share in said_of(RECORDED, alike=True) if over > 0.1]
    assert sum(not 0.7 < share < 1.3 for share in alike) > 0.2 * len(alike)


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_run_corrects_what_was_measured_elsewhere(jobs: int) -> None:
    """Of each method it learns how far that was off; and how quick the machine is at present."""
    rng = np.random.default_rng(0)
    off = dict(zip("abcdefgh", rng.uniform(0.3, 3.0, 8), strict=True))
    cells = [(name, rows * 2.0) for rows in np.linspace(3.0, 1.0, 12) for name in off]
    seconds = [4.0 * off[name] * prior for name, prior in cells]
    found = said(Expected(cells, jobs), seconds, jobs)
    assert all(0.9 < share < 1.1 for over, share in found if 0.6 < over < 0.9)


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
    assert all(min(each) >= 0 < max(each) for part in known.values() for each in part.values())


def test_a_cell_takes_what_its_method_did_else_its_kind() -> None:
    known = measured_us()
    for name, kind, (cell_us, row_us) in (
        ("forecast", "heuristic", known["methods"]["forecast"]),
        ("mine:Mine", "static", known["kinds"]["static"]),
        ("mine:Mine", "another", known["kinds"]["reactive"]),
    ):
        expected_us = cell_us + 2_000 * row_us
        assert prior_s(name, kind, 2_000) == pytest.approx(1e-6 * expected_us)
