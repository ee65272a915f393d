"""Calls on a Ray cluster of this machine: the answers of one process, also where workers are killed."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rapgym import cli
from rapgym.bench import cells, results
from rapgym.bench.results import Cell, Results
from rapgym.errors import InvalidSpec, RapgymError
from rapgym.jobs import on_ray, parallel
from rapgym.policies import registry
from rapgym.scenarios import catalogue

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra ray"),
]

HERE = Path(__file__).parents[1]


@pytest.fixture(scope="module", autouse=True)
def token() -> Iterator[None]:
    """Clusters of these tests answer nobody else, and leave no token in the home folder.

    Ray reads the mode as it is imported: hence its import inside tests.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", uuid.uuid4().hex)
        yield


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A cluster of two processors that was here before the command; its workers find this module."""
    port = free_port()
    options = [f"--port={port}", f"--ray-client-server-port={free_port()}", "--num-cpus=2"]
    options += ["--node-ip-address=127.0.0.1", "--include-dashboard=false", "--disable-usage-stats"]
    log = tmp_path_factory.mktemp("ray") / "log"
    with log.open("w") as file:
        head = subprocess.Popen(
            [Path(sys.executable).with_name("ray"), "start", "--head", "--block", *options],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(map(str, (HERE / "jobs", HERE, HERE.parent))),
            },
            stdout=file,
            stderr=file,
        )
    try:
        while "Ray runtime started" not in log.read_text():
            assert head.poll() is None, log.read_text()
            time.sleep(0.1)
        yield f"127.0.0.1:{port}"
    finally:
        head.terminate()
        head.wait()


def free_port() -> int:
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        port: int = own.getsockname()[1]
    return port


def seen(variable: str) -> tuple[int, str | None]:
    return os.getpid(), os.environ.get(variable)


def fail(told: Path, error: Exception) -> None:
    with told.open("a") as file:
        file.write("called\n")
    raise error


def lost_once(marker: Path, call: Callable[[], Any]) -> Any:
    """What the call returns, but the first time its worker is killed with the work all but done."""
    answer = call()
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return answer


def die(told: Path) -> None:
    with told.open("a") as file:
        file.write("called\n")
    os.kill(os.getpid(), signal.SIGKILL)


def own_process() -> str:
    return f"process {os.getpid()}"


def test_workers_are_other_processes_with_one_thread_each(address: str) -> None:
    calls = [partial(seen, "MKL_NUM_THREADS") for _ in range(5)]
    told = dict(parallel.results(calls, 2, ray=address))
    assert sorted(told) == [0, 1, 2, 3, 4]
    assert os.getpid() not in {process for process, _ in told.values()}
    assert {threads for _, threads in told.values()} == {"1"}


def test_cells_of_workers_that_are_killed_are_those_of_one_process(
    address: str, tmp_path: Path
) -> None:
    story = catalogue.scenario("long-context")
    names = (cells.STATIC_REPAIRED, cells.LOOKUP)
    calls = [partial(cells.policy_cell, story, registry.entry(name), 0) for name in names]
    once = [partial(lost_once, tmp_path / str(place), call) for place, call in enumerate(calls)]
    here, there = dict(parallel.results(calls, 1)), dict(parallel.results(once, 2, ray=address))
    assert len(list(tmp_path.iterdir())) == 2, "both were killed"
    for place in (0, 1):
        assert_same(here[place], there[place])
        assert there[place].test_cost.flags.writeable, "no view of memory that ends with Ray"


def test_a_worker_that_dies_each_time_is_told_in_one_sentence(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_ray, "TIMES_AGAIN", 1)
    with pytest.raises(RapgymError, match="died in one call 2 times"):
        list(parallel.results([partial(die, tmp_path / "told")], 2, ray=address))
    assert (tmp_path / "told").read_text() == "called\n" * 2


@pytest.mark.parametrize("error", [InvalidSpec("of this kind"), KeyError("of this kind")])
def test_what_a_call_raises_is_raised_and_not_tried_again(
    error: Exception, address: str, tmp_path: Path
) -> None:
    with pytest.raises(type(error), match="of this kind") as caught:
        list(parallel.results([partial(fail, tmp_path / "told", error)], 2, ray=address))
    assert type(caught.value) is type(error)
    assert (tmp_path / "told").read_text() == "called\n"


def test_workers_with_another_rapgym_are_refused(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RapgymError, match=r"has own_process .* must be on every machine"):
        list(parallel.results([partial(pow, 2, 3)], 2, ray=address, same=own_process))
    monkeypatch.setattr(on_ray, "installed", lambda: {"rapgym": "0.0.9"})
    with pytest.raises(RapgymError, match=r"has rapgym 0\.1\.0, .* is 0\.0\.9"):
        list(parallel.results([partial(pow, 2, 3)], 2, ray=address))


def test_a_connection_that_was_there_stays(address: str) -> None:
    import ray

    ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        first, *_ = parallel.results([partial(pow, 2, 3)] * 3, 1, ray=on_ray.LOCAL)
        assert first == (0, 8)
        assert ray.is_initialized()
    finally:
        ray.shutdown()


def test_where_nothing_answers_the_message_says_how_to_start_a_cluster() -> None:
    with pytest.raises(RapgymError, match="ray start --head"):
        list(parallel.results([partial(pow, 2, 3)], 2, ray=f"127.0.0.1:{free_port()}"))


def test_bench_on_ray_prints_and_writes_what_it_does_without(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import ray

    before = signal.getsignal(signal.SIGTERM), os.environ.copy()
    entries: list[list[dict[str, Any]]] = []
    found: list[Results] = []
    for options in (["--jobs", "1"], ["--jobs", "2", "--ray"]):
        out = tmp_path / f"{len(found)}.csv.gz"
        asked = ["--scenario", "long-context", "--policy", "random", "--json"]
        assert cli.main(["bench", *asked, "--quiet", "--out", str(out), *options]) == 0
        told = capfd.readouterr()
        assert not told.err
        entries.append([timeless(entry) for entry in json.loads(told.out)])
        found.append(results.read(out))
    assert entries[0] == entries[1]
    for here, there in zip(found[0].cells, found[1].cells, strict=True):
        assert_same(here, there)
    assert not ray.is_initialized()
    assert (signal.getsignal(signal.SIGTERM), os.environ.copy()) == before


def timeless(numbers: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in numbers.items() if not name.startswith("decision_us")}


def assert_same(here: Cell, there: Cell) -> None:
    assert timeless(here.about.as_json()) == timeless(there.about.as_json())
    assert (here.log.kept == there.log.kept).all()
    np.testing.assert_array_equal(here.log.quality, there.log.quality)
    np.testing.assert_array_equal(here.test_cost, there.test_cost)
