"""The README says what the committed results say, and its Python runs."""

import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from rapgym import results, rollout, scenario
from rapgym.policies.policy import briefing

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
GENERATOR = ROOT / "benchmarks" / "readme.py"


def snippets() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_the_generated_parts_match_the_committed_results() -> None:
    done = subprocess.run(
        [sys.executable, str(GENERATOR), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_changed_number_would_be_noticed() -> None:
    generator = runpy.run_path(str(GENERATOR))
    number = re.search(r"\| (\d\.\d{4}) \|", README)
    assert number is not None
    changed = README.replace(number[1], "9.9999", 1)
    assert generator["filled"](changed) == generator["filled"](README) == README


def test_committed_results_are_of_the_tables_and_workloads_here() -> None:
    header = results.read(ROOT / "benchmarks" / "results" / "bench.csv.gz").header
    for story in scenario.SCENARIOS:
        assert header["tables"][story.table] == scenario.table(story).sha256
        assert story.id in header["scenarios"]


def test_the_quick_start_runs() -> None:
    found: dict[str, Any] = {}
    (quick,) = (text for text in snippets() if "gym.make" in text)
    exec(quick, found)
    assert found["over"]
    assert isinstance(found["env"], gymnasium.Env)


def test_the_example_policy_is_read_and_executed() -> None:
    found: dict[str, Any] = {}
    (example,) = (text for text in snippets() if "class " in text)
    exec(example, found)
    (policy,) = (v() for v in found.values() if isinstance(v, type) and hasattr(v, "propose"))
    story = scenario.scenario("chat-beside-code")
    log = rollout.run(lambda: policy, story, "validation", briefing(story))
    assert (log.source == 0).all(), "every answer could be read"
    assert len(np.unique(log.kept.reshape(-1, log.kept.shape[-1]), axis=0)) > 1


@pytest.mark.parametrize("command", ["make bench", "make test"])
def test_the_two_commands_are_targets(command: str) -> None:
    assert command in README
    target = command.removeprefix("make ")
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
