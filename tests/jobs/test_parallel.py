"""Calls on several processes: results as they come, errors and deaths told, surroundings restored."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rapgym import cli
from rapgym.bench import entrants, suitability
from rapgym.bench import run as bench_run
from rapgym.cli import workers
from rapgym.errors import InvalidSpec, MissingExtra, RapgymError
from rapgym.jobs import parallel
from rapgym.scenarios import catalogue


def fail(message: str) -> None:
    raise InvalidSpec(message)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_call_answers_once(jobs: int) -> None:
    calls = [partial(pow, base, 2) for base in range(7)]
    assert sorted(parallel.results(calls, jobs)) == [(base, base**2) for base in range(7)]


def test_workers_are_other_processes_with_one_thread_each_and_leave_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_here.py").write_text(
        "import os\ndef seen(name): return os.getpid(), os.environ.get(name)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    import only_here  # type: ignore[import-not-found]

    calls = [partial(only_here.seen, "OMP_NUM_THREADS") for _ in range(4)]
    told = [answer for _, answer in parallel.results(calls, 2)]
    del sys.modules["only_here"]
    assert os.getpid() not in {process for process, _ in told}
    assert {threads for _, threads in told} == {"1"}
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_a_call_raises_is_raised(jobs: int) -> None:
    with pytest.raises(InvalidSpec, match="of this kind"):
        list(parallel.results([partial(fail, "of this kind")] * 2, jobs))


def test_a_worker_that_dies_is_told_in_one_sentence() -> None:
    with pytest.raises(RapgymError, match="--jobs 1"):
        list(parallel.results([die, die], 2))


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import os, pathlib, time\n"
        "def call(folder):\n"
        "    pathlib.Path(folder, str(os.getpid())).touch()\n"
        "    time.sleep(600)\n"
    )
    (tmp_path / "parent.py").write_text(
        "from functools import partial\n"
        "import slow\n"
        "from rapgym.jobs import parallel\n"
        "if __name__ == '__main__':\n"
        f"    list(parallel.results([partial(slow.call, {str(tmp_path / 'pids')!r})] * 2, 2))\n"
    )
    folder = tmp_path / "pids"
    folder.mkdir()
    parent = subprocess.Popen([sys.executable, "parent.py"], cwd=tmp_path)
    try:
        assert within_a_minute(lambda: len(list(folder.iterdir())) == 2), "both work"
    finally:
        parent.kill()
        parent.wait()
    workers = [int(path.name) for path in folder.iterdir()]
    assert within_a_minute(lambda: not any(alive(process) for process in workers))


def within_a_minute(holds: Callable[[], bool]) -> bool:
    end_s = time.monotonic() + 60
    while not holds() and time.monotonic() < end_s:
        time.sleep(0.05)
    return holds()


def alive(process: int) -> bool:
    stat = Path(f"/proc/{process}/stat")
    if stat.parents[1].is_dir():  # a zombie that nobody has waited for is not alive
        return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_two_processes_give_the_cells_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A policy that draws, the reference and a rival: what else stands in a bench takes longer."""
    monkeypatch.setattr(suitability, "check_all", lambda *_, **__: None)
    monkeypatch.setattr(entrants, "ALWAYS", ("frontier", "partial-admission"))
    story = catalogue.scenario("long-context")
    one, two = (
        bench_run.run([story], ["random"], tmp_path / f"{jobs}.csv.gz", jobs=jobs, quiet=True)
        for jobs in (1, 2)
    )
    names = ["random", "frontier", "partial-admission"]
    assert [cell.about.policy for cell in one.cells] == names
    assert [cell.about.policy for cell in two.cells] == names
    for a, b in zip(one.cells, two.cells, strict=True):
        assert (a.log.kept == b.log.kept).all()
        assert (a.test_cost == b.test_cost).all()


def test_without_ray_the_message_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"pip install 'rapgym\[ray\]'"):
        list(parallel.results([partial(pow, 2, 3)], 1, ray="local"))


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ([], (None, None)),
        (["--jobs", "3", "--ray"], (3, "local")),
        (["--ray", "auto"], (None, "auto")),
        (["--ray=ray://head:10001"], (None, "ray://head:10001")),
    ],
)
def test_options_say_how_many_and_where(words: list[str], wanted: tuple[Any, Any]) -> None:
    for command in (["bench"], ["policies", "tune"]):
        assert workers.chosen(cli.parser().parse_args([*command, *words])) == wanted


def test_a_name_after_ray_is_not_taken_for_an_address(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.parser().parse_args(["policies", "tune", "--ray", "frontier-margin"])
    assert "put --ray at the end" in capsys.readouterr().err
