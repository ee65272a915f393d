"""Fixtures that several test modules share, and Hypothesis's profiles."""

import importlib.util
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import shaped_table
import toy_serving
import toy_table
import toy_world
from hypothesis import HealthCheck, settings

from rapgym.model import shapes
from rapgym.quality import table as quality_table
from rapgym.quality.table import QualityTable
from rapgym.scenarios import catalogue, serving_worlds, worlds
from rapgym.scenarios.serving import ServeScenario
from rapgym.scenarios.story import Scenario
from rapgym.workload import series

if importlib.util.find_spec("fixtures_raw") is not None:
    from fixtures_raw import *  # type: ignore[import-not-found,unused-ignore] # noqa: F403

# A busy machine is no failure, so nothing is timed. CI tries the same examples every time.
settings.register_profile(
    "rapgym", max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("ci", settings.get_profile("rapgym"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "rapgym")


TESTS = Path(__file__).parent
# Torch compiles for seconds, and by itself keeps that among temporary files.
os.environ.setdefault(
    "TORCHINDUCTOR_CACHE_DIR", str(TESTS.parent / ".pytest_cache" / "torchinductor")
)
# Files that take longest are begun first: then none of them is the last, for which others wait. What the
# first compiles is there for the rest.
LONGEST = (
    "bench/test_serving_bench.py",
    "files/test_strangers.py",
    "learning/test_training.py",
    "bench/test_bench.py",
    "submissions/test_tampering.py",
    "baselines/test_baselines.py",
    "worth/test_served_map.py",
    "bench/test_cheats.py",
    "policies/test_tuning.py",
    "bench/test_sensitivity.py",
    "runtime/test_elastic.py",
    "submissions/test_saved_entries.py",
    "studies/test_serving_study.py",
    "baselines/test_hindsight.py",
    "test_face.py",
    "report/test_report_in_a_browser.py",
    "testing/test_serve_machine.py",
    "studies/test_leaderboard.py",
    "cli/test_cli_train.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let several workers begin with LONGEST; it needs xdist's --no-loadscope-reorder."""
    if gone := [name for name in LONGEST if not (TESTS / name).is_file()]:
        raise pytest.UsageError(f"conftest.LONGEST names files that are gone: {', '.join(gone)}")
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return  # the order that was asked for
    places = {TESTS / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


def pytest_configure() -> None:
    """Let processes that tests start hear the signals that tests send them.

    Under nohup, or behind a shell's `&`, these are ignored, and children inherit that. They do not
    inherit a handler: one that does nothing leaves this process as deaf as it was.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_left(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """What a file's tests put among temporary files, they and what they test take away again.

    Where other tests are asked for by their mark, what clients and clusters leave is theirs.
    """
    if not request.config.getoption("markexpr").startswith("not "):
        yield
        return
    folder: Path = tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setattr(tempfile, "tempdir", str(folder))
        yield
    assert [each.name for each in folder.iterdir()] == []


@pytest.fixture
def in_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This machine's zone, which times without one are in, is one of the test's own."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture(scope="session")
def synthetic_table() -> QualityTable:
    return shaped_table.table()


@contextmanager
def _tables(**named: QualityTable) -> Iterator[pytest.MonkeyPatch]:
    """While this lasts, these tables are loaded for these names."""
    loaded = QualityTable.load

    def load(name: str | Path, sha256: str | None = None) -> QualityTable:
        return named.get(str(name).replace("-", "_").replace(".", "_")) or loaded(name, sha256)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quality_table.QualityTable, "load", load)
        worlds.forget()
        yield patch
    worlds.forget()


@pytest.fixture(scope="session")
def synthetic_formats() -> dict[str, QualityTable]:
    """Synthetic tables of every format, by the names under which `_tables` takes them."""
    made = [shaped_table.table(form) for form in shapes.FORMATS]
    return {table.name.replace("-", "_"): table for table in made}


@pytest.fixture(scope="module")
def shaped(
    synthetic_table: QualityTable, synthetic_formats: dict[str, QualityTable]
) -> Iterator[QualityTable]:
    """Every scenario reads a synthetic table of the reference model's shape, in each format."""
    with _tables(smollm2_135m=synthetic_table, **synthetic_formats):
        yield synthetic_table


@pytest.fixture(scope="module")
def toy_story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scenario]:
    """The toy scenario, served by the package's own machinery: model, table, series and list."""
    folder: Path = tmp_path_factory.mktemp("traces")
    story = replace(toy_world.STORY, workload=str(folder / "toy"))
    series.write(toy_world.toy_series(), folder / "toy.csv.gz")
    listed = tuple(sorted((*catalogue.shipped(), story), key=catalogue.place))
    with _tables(toy=toy_table.toy_table()) as patch:
        patch.setattr(shapes, "MODELS", (*shapes.MODELS, toy_world.MODEL))
        patch.setattr(catalogue, "shipped", lambda: listed)
        yield story


@pytest.fixture(scope="module")
def one_pairing(toy_story: Scenario) -> Iterator[Scenario]:
    """The toy scenario under another name and in one pairing: a user's policy has a process for each."""
    story = replace(toy_story, name="single", offsets=1)
    listed = tuple(sorted((*catalogue.shipped(), story), key=catalogue.place))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalogue, "shipped", lambda: listed)
        yield story


@pytest.fixture
def other_table() -> Callable[..., AbstractContextManager[Any]]:
    """Loads other tables for some names, for as long as the context lasts."""
    return _tables


@pytest.fixture(scope="module")
def serving_story(
    toy_story: Scenario, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServeScenario]:
    """The toy serving scenario, made of traces of its own."""
    yield toy_serving.story(tmp_path_factory.mktemp("requests"))
    serving_worlds.forget()
