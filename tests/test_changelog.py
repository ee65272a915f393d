"""CHANGELOG.md agrees with the lists of the code; CITATION.cff with the metadata."""

import re
import tomllib
from pathlib import Path

import gymnasium
import pytest

import rapgym
from rapgym import cli
from rapgym.bench.serving import cells
from rapgym.policies import registry
from rapgym.rivals import rivals
from rapgym.scenarios.catalogue import shipped
from rapgym.workload import series

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text()

SPLITS = {*series.SPLITS}
ENVIRONMENTS = {
    name for name in gymnasium.registry if name.startswith("RAP-") and name.endswith("-v0")
}
LEARNED = {entry.name for entry in registry.POLICIES if entry.train}
KNOWN = (
    {story.name for story in shipped()}
    | {entry.name for entry in registry.POLICIES}
    | {rival.name for rival in rivals.every()}
    | {*cells.KINDS}
    | ENVIRONMENTS
    | SPLITS
)


@pytest.fixture(scope="module")
def unreleased() -> str:
    """What the part of the version says that the package has, each line with its indented ones."""
    text = (ROOT / "CHANGELOG.md").read_text()
    _, _, part = text.partition(f"## [{rapgym.__version__}] - unreleased\n")
    assert part, "the package's version has a part"
    return re.sub(r"\n +", " ", part.partition("\n## ")[0])


def line(unreleased: str, what: str) -> str:
    (found,) = (each for each in unreleased.splitlines() if re.match(rf"- \d+ {what}\b", each))
    return found


def named(text: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", text))


def test_the_environments_are_all_named(unreleased: str) -> None:
    assert {name for name in named(unreleased) if name.startswith("RAP-")} == ENVIRONMENTS


def test_scenarios_are_counted_and_those_of_the_headline(unreleased: str) -> None:
    scenarios = line(unreleased, "scenarios")
    assert scenarios.startswith(f"- {len(shipped())} scenarios, each in version 0;")
    assert {story.version for story in shipped()} == {0}
    assert f"; {sum(story.headline for story in shipped())} of them are the headline" in scenarios


def test_methods_and_rivals_are_counted(unreleased: str) -> None:
    methods = line(unreleased, "methods")
    whole, learned = len(registry.POLICIES), len(LEARNED)
    assert [int(number) for number in re.findall(r"\d+", methods)] == [
        whole, whole - learned, learned,
    ]  # fmt: skip
    assert named(methods) == LEARNED
    pruned = sum(rival.name.endswith("-pruned") for rival in rivals.every())
    told = line(unreleased, "rivals")
    assert told.startswith(f"- {len(rivals.every())} rivals ")
    assert f" and {pruned} that prune on top" in told


def test_every_command_is_named_and_exists(unreleased: str) -> None:
    assert set(re.findall(r"`rapgym (\w+)", unreleased)) == set(cli.COMMANDS)


def test_every_other_name_exists(unreleased: str) -> None:
    for name in named(unreleased):
        if name.startswith("make "):
            assert re.search(rf"^{name.removeprefix('make ')}:", MAKEFILE, flags=re.MULTILINE), name
        elif name.endswith("/"):
            assert (ROOT / name).is_dir(), name
        elif not name.startswith(("rapgym ", "rapgym.", "--")):
            assert name in KNOWN, name


def test_the_citation_is_of_this_version_and_licence() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "CITATION.cff").read_text().splitlines()
    assert lines[0] == "cff-version: 1.2.0"
    assert f"version: {project['version']}" in lines
    # A CFF names one licence: that of the code, which the metadata's expression begins with.
    assert f"license: {project['license'].split(' AND ')[0]}" in lines
    assert project["version"] == rapgym.__version__
