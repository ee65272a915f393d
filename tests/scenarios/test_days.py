"""Long scenarios are drawn where they are first needed: once, the same everywhere, and checked."""

import multiprocessing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import toy_world

from rapgym.errors import WrongChecksum
from rapgym.files import checked
from rapgym.scenarios import build, worlds
from rapgym.scenarios.catalogue import shipped
from rapgym.scenarios.story import Scenario
from rapgym.workload import names, residence, series, servegen
from rapgym.workload.series import Series

DAYS = [story for story in shipped() if story.group == "days"]
SHORT = replace(DAYS[0], series_sha256="", workload="short")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """An empty cache, and the names of what is drawn: the toy series in place of days."""
    names: list[str] = []

    def draw(story: Scenario, *, quiet: bool = True) -> Series:
        names.append(story.name)
        return toy_world.toy_series(40)

    monkeypatch.setattr(build, "drawn", draw)
    monkeypatch.setenv("RAPGYM_CACHE", str(tmp_path / "cache"))
    return names


def test_a_long_series_is_drawn_once(drawn: list[str]) -> None:
    first = worlds.workload_file(SHORT)
    content = first.read_bytes()
    assert worlds.workload_file(SHORT) == first
    assert drawn == ["days-large"]
    assert first.is_relative_to(checked.cache_folder())
    stated = replace(SHORT, series_sha256=checked.sha256_of(first))
    assert worlds.workload_file(stated).read_bytes() == content
    assert len(drawn) == 2, "one whose bytes are stated has a file of its own"
    assert series.read(first).batch.tolist() == toy_world.toy_series(40).batch.tolist()


def test_a_machine_that_draws_other_bytes_says_so(drawn: list[str]) -> None:
    story = replace(SHORT, series_sha256="0" * 64)
    for _ in range(2):
        with pytest.raises(WrongChecksum, match=rf"draws another series.*NumPy {np.__version__}"):
            worlds.workload_file(story)
    assert len(drawn) == 2, "what is wrong is not kept"


def test_a_series_in_the_cache_that_was_changed_is_refused(drawn: list[str]) -> None:
    stated = replace(SHORT, series_sha256=checked.sha256_of(worlds.workload_file(SHORT)))
    path = worlds.workload_file(stated)
    path.write_bytes(path.read_bytes()[:-1] + b"9")
    with pytest.raises(WrongChecksum):
        worlds.workload_file(stated)


def _draw_after(folder: str, begun: int) -> None:
    with checked.locked(Path(folder) / "lock"):
        log = Path(folder) / "log"
        before = log.read_text() if log.exists() else ""
        log.write_text(before + f"{begun} ")
        assert log.read_text() == before + f"{begun} "


def test_a_lock_lets_one_process_in_at_a_time(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with checked.locked(tmp_path / "lock"):
        waiting = [context.Process(target=_draw_after, args=(str(tmp_path), n)) for n in range(2)]
        for process in waiting:
            process.start()
        waiting[0].join(3)
        assert not (tmp_path / "log").exists(), "both wait"
    for process in waiting:
        process.join(60)
    assert [process.exitcode for process in waiting] == [0, 0]
    assert sorted((tmp_path / "log").read_text().split()) == ["0", "1"]


def test_a_draw_by_the_rules_of_a_scenario(monkeypatch: pytest.MonkeyPatch) -> None:
    """A day in place of fourteen, of few requests."""
    monkeypatch.setattr(series, "DAYS", 1)
    monkeypatch.setattr(series, "TRAIN_DAYS", 0.7)
    assert DAYS[0].tenant is not None
    tenant = replace(DAYS[0].tenant, trace="servegen:language/m-large", every=400)  # type: ignore[arg-type]
    made = build.drawn(replace(SHORT, every=400, tenant=tenant))
    assert len(made) == 86_400 // 7
    single = made.single_requests()
    assert len(single.prompt_tokens) == made.batch.sum() > 10_000, "every single request is kept"
    assert single.output_tokens.max() == made.reserve_tokens
    assert (single.prompt_tokens + single.output_tokens).max() <= build.CONTEXT_TOKENS
    assert 0 < made.tenant_tokens.max() <= SHORT.pool_tokens
    assert made.origin["synthetic"] is True
    assert {source["licence"] for source in made.origin["sources"].values()} == {"Apache-2.0"}
    # Both services come from one workload, and are not the same requests.
    assert "seed 0" in made.origin["served"]
    assert "seed 1" in made.origin["tenant"]


@pytest.mark.slow
@pytest.mark.parametrize("story", DAYS, ids=lambda story: story.name)
def test_the_series_of_days(story: Scenario) -> None:
    """Minutes, unless the cache has them."""
    whole = worlds.workload(story)
    assert checked.sha256_of(worlds.workload_file(story)) == story.series_sha256
    single = whole.single_requests()
    assert len(single.prompt_tokens) == whole.batch.sum() > 9_000_000
    train = series.split_rows(len(whole), "train", story.splits)
    last = int(whole.batch[train].sum())
    prompt, output = single.prompt_tokens[:last], single.output_tokens[:last]
    assert residence.window_s(prompt, output) == story.window_s
    assert whole.origin["pool_tokens"] == story.pool_tokens >= whole.tenant_tokens.max()
    days = np.bincount(np.arange(len(whole)) * story.window_s // servegen.DAY_S, whole.batch)
    workload, share = story.trace.removeprefix(names.DRAWN), 1 / story.every
    clients = servegen.statistics(workload).clients
    wanted = np.bincount((clients.t_s // servegen.DAY_S).astype(int), servegen.requests_of(clients))
    np.testing.assert_allclose(days, wanted * share, rtol=0.03)
