"""The README says what the committed results say, and its Python runs."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from rapgym.bench import results
from rapgym.bench.results import Results
from rapgym.files import checked, places
from rapgym.policies import registry
from rapgym.policies.policy import briefing
from rapgym.rivals import rivals
from rapgym.rollout import rollout
from rapgym.scenarios import catalogue, tables
from rapgym.scenarios import story as scenarios_story
from rapgym.studies.pages import readme

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
FOLDER = places.RESULTS


@pytest.fixture(scope="module")
def bench() -> Results:
    return results.read(FOLDER / "bench.csv.xz")


def snippets() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_the_generated_parts_match_the_committed_results() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rapgym.studies.pages.readme", "--check"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_a_changed_number_would_be_noticed(bench: Results) -> None:
    number = re.search(r"\| (\d\.\d{3}) \|", README)
    assert number is not None
    changed = README.replace(number[1], "9.999", 1)
    assert changed != README
    filled = readme.filled
    assert filled(changed, bench) == filled(README, bench) == README


def test_committed_results_are_of_the_tables_and_workloads_here(bench: Results) -> None:
    header = bench.header
    for story in catalogue.SCENARIOS:
        assert header["tables"][story.table] == tables.table(story).sha256
        workload = places.TRACES / f"{story.workload}.csv.gz"
        assert header["workloads"][story.workload] == checked.sha256_of(workload)
        assert header["scenarios"][story.id] == json.loads(
            json.dumps(scenarios_story.described(story))
        )


def test_the_other_results_are_of_the_table_here() -> None:
    sha256 = tables.table(catalogue.SCENARIOS[0]).sha256
    quality = json.loads((FOLDER / "quality.json").read_text())
    assert quality["table"]["sha256"] == sha256
    choices = FOLDER / "measurements" / quality["measurements"]["choices"]
    assert quality["measurements"]["choices_sha256"] == checked.sha256_of(choices)
    varied = json.loads((FOLDER / "sensitivity.json").read_text())
    assert set(varied["tables"].values()) == {sha256}


def test_every_policy_and_rival_was_benched_on_every_scenario(bench: Results) -> None:
    """Nothing was left out because it looked bad."""
    benched = {(entry.scenario, entry.policy) for entry in bench.scores}
    names = [
        *(e.name for e in registry.POLICIES),
        *(r.name for r in rivals.every()),
        "bound",
        "best-plan",
    ]
    assert benched == {(story.id, name) for story in catalogue.SCENARIOS for name in names}


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
    story = catalogue.scenario("chat-beside-code")
    log = rollout.run(lambda: policy, story, "validation", briefing(story))
    assert (log.source == 0).all(), "every answer could be read"
    assert len(np.unique(log.kept.reshape(-1, log.kept.shape[-1]), axis=0)) > 1


@pytest.mark.parametrize("what", ["check_policy", "AuditLog"])
def test_the_other_examples_run(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = (text for text in snippets() if f"import {what}" in text)
    exec(example, {})
    printed = capsys.readouterr().out
    assert "gsi survives" in printed if what == "check_policy" else "keep this elsewhere" in printed


@pytest.mark.parametrize("command", ["make bench", "make test"])
def test_the_two_commands_are_targets(command: str) -> None:
    assert command in README
    target = command.removeprefix("make ")
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
