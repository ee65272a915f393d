"""What `rapgym bench` prints: the table in 100 columns, more where asked for, the answer last, no colour in a pipe."""

import json
import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import toy_world
from report_pages import POLICIES

from rapgym.bench import run as bench_run
from rapgym.bench.results import Results
from rapgym.cli import main
from rapgym.policies import registry
from rapgym.report import terminal
from rapgym.scenarios.story import Scenario

KEPT = {"kept": "f0"}


@pytest.fixture(scope="module")
def _tuned(toy_story: Scenario) -> Iterator[None]:
    found = toy_world.tuned(toy_story, KEPT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "tuned", lambda: {"static-best-repaired": {toy_story.id: found}})
        yield


@pytest.mark.usefixtures("_tuned")
def test_what_a_bench_prints(
    toy_story: Scenario, tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path_factory.mktemp("table"))
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    ask = ["bench", "--quiet", "--jobs", "1", "--scenario", toy_story.name]
    ask += [part for name in POLICIES for part in ("--policy", name)]

    ran, run = list[Results](), bench_run.run

    def noted(*given: Any, **named: Any) -> Results:
        ran.append(run(*given, **named))
        return ran[-1]

    monkeypatch.setattr(bench_run, "run", noted)

    def printed(*more: str) -> str:
        assert main([*ask, "--out", "b.csv.gz", "--force", *more]) == 0
        return capsys.readouterr().out

    text = printed()
    # What is printed differs, not what is run.
    (found,) = ran
    monkeypatch.setattr(bench_run, "run", lambda *_, **__: found)
    assert max(map(len, text.splitlines())) <= terminal.WIDTH
    assert "\x1b" not in text, "a pipe has no colours"
    assert "This speaks of 1 scenario" in " ".join(text.rsplit("wrote b.csv.gz", 1)[1].split())
    assert "ranking by cost" not in text
    wide = printed("--wide", "--top", "1")
    assert "ranking by cost" in wide
    assert "least effect" in wide
    assert re.search(r"\.\.\. and \d+ more", wide)
    assert isinstance(json.loads(printed("--json")), list), "JSON alone"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    on_terminal = printed()
    assert re.sub(r"\x1b\[\d+m", "", on_terminal) == text
