"""What the site shows of code: spaces, arguments, drawings and the notebook are what the code gives."""

import ast
import inspect
import json
import re
from html import escape
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from rapgym.envs import registration
from rapgym.envs.env import RapEnv
from rapgym.envs.registration import SERVE_ID
from rapgym.envs.serve_env import ServeEnv
from rapgym.guard.watchdog import TRANSITIONS, Mode
from rapgym.scenarios import worlds
from rapgym.scenarios.serving import ServeScenario
from rapgym.scenarios.story import GIB, Scenario
from rapgym.studies.pages import (
    environments,
    machine,
    notebook,
    scenario_figure,
    site,
    verdict_figure,
)

SECTIONS = ["Description", "Action space", "Observation space", "Rewards", "Starting state",
            "Episode end", "Faults", "Arguments", "Version history"]  # fmt: skip


def test_what_follows_from_code_is_current(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["site", "--check"])
    assert site.main() == 0, capsys.readouterr().err


def test_a_stale_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawing = tmp_path / "figures" / "watchdog.svg"
    monkeypatch.setattr("sys.argv", ["site", "--check"])
    monkeypatch.setattr(site, "files", lambda: {drawing: machine.drawn()})
    assert site.main() == 1
    assert "watchdog.svg is not what it should be" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["site"])
    assert site.main() == 0
    assert drawing.read_text() == machine.drawn()


# Environments


def test_a_page_states_the_spaces_that_environments_have() -> None:
    made = environments.rap()
    for name in registration.IDS:
        env = gymnasium.make(name)
        (line,) = (line for line in made.splitlines() if f'make("{name}")' in line)
        assert f"`{env.action_space}`" in line
        assert f"shape={env.observation_space.shape}" in line


def test_serving_spaces_need_no_traffic_and_are_the_environments(
    serving_story: ServeScenario,
) -> None:
    env = gymnasium.make(SERVE_ID, scenario=serving_story)
    assert environments.serve_spaces(serving_story) == (env.action_space, env.observation_space)


@pytest.mark.parametrize("of", [RapEnv, ServeEnv])
def test_a_docstring_has_every_section_and_every_argument(of: type) -> None:
    found = environments.sections(of)
    assert list(found) == SECTIONS
    table = environments.arguments(of, found["Arguments"])
    taken = inspect.signature(of).parameters
    assert re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE) == [
        name for name in taken if name != "actions"
    ]
    assert f"| `split` | `{taken['split'].default!r}` | " in table


@pytest.mark.parametrize("text", ["- `scenario`: a name.", "- `nonsense`: nothing."])
def test_arguments_that_differ_are_named(text: str) -> None:
    found = environments.sections(ServeEnv)["Arguments"]
    changed = found + "\n" + text if "nonsense" in text else text
    with pytest.raises(SystemExit, match=r"ServeEnv and its arguments differ: \w"):
        environments.arguments(ServeEnv, changed)


# Drawings


def test_the_machine_is_drawn_whole() -> None:
    drawn = machine.drawn()
    shown = drawn.partition("</desc>")[2]
    for way in TRANSITIONS:
        assert f">{way.when}</text>" in shown
        assert f"{way.before.name} to {way.after.name}: {way.when}" in drawn
    for mode in Mode:
        assert f">{mode.name}</text>" in shown
    arrows = {(way.before, way.after) for way in TRANSITIONS}
    assert shown.count("marker-end") == len(arrows) + 1, "one for each way, and the start"


def test_the_example_of_each_verdict_is_judged_so() -> None:
    assert [said for said, _, _ in verdict_figure.judged()] == [
        "better", "worse", "equal", "undecided",
    ]  # fmt: skip


@pytest.mark.parametrize("drawn", [machine.drawn, verdict_figure.drawn])
def test_a_drawing_says_what_it_shows(drawn: Any) -> None:
    for part in ("<desc id=", "<title id=", "prefers-color-scheme: dark"):
        assert part in drawn()


def test_an_hour_is_that_of_the_train_rows(toy_story: Scenario) -> None:
    found, world = scenario_figure.hour(toy_story), worlds.world(toy_story, "train")
    rows = np.arange(len(world.rows))
    fits = 0
    for row in rows:
        demand = world.demand_of(np.array([row]), np.ones(1))
        whole = np.ones((1, world.blocks), dtype=bool)
        used = world.footprint.used_bytes(whole, demand.tokens, demand.prompt_tokens)[0]
        fits += used + world.footprint.margin_bytes <= world.rows.limit_bytes[row].min()
    assert found.fits == pytest.approx(fits / len(rows))
    assert found.minutes == pytest.approx(len(rows) * toy_story.window_s / 60)
    assert found.leaves[0] == pytest.approx(world.rows.limit_bytes.min() / GIB)
    drawn = scenario_figure.drawn(toy_story, found)
    assert escape(scenario_figure.told(toy_story, found)) in drawn
    short = re.search(r'class="short" d="([^"]*)"', drawn)
    assert short
    assert short[1].count("Z") >= ((found.need - found.left) > 0.02 * found.need.max()).sum() > 0


def test_every_hour_stands_on_the_page_of_scenarios_and_is_small() -> None:
    page = (site.DOCS / "scenarios.md").read_text()
    paths = {path.name: path for path in (site.DOCS / "figures").glob("hour-*.svg")}
    assert sorted(re.findall(r"\(figures/(hour-[^)]*)\)", page)) == sorted(paths)
    assert all(path.stat().st_size < 9000 for path in paths.values())


def test_a_line_of_steps_turns_where_a_height_does() -> None:
    assert scenario_figure._steps([0, 3, 6, 9], [5, 5, 2]) == "M0 5H6V2H9"
    assert scenario_figure._short([0, 3, 6], [1, 7], [4, 4]) == "M0 4V1H3V4Z", "up is less"
    assert [scenario_figure._step(top) for top in (3.9, 8.0, 41.0, 0.03)] == [1, 2, 20, 0.01]


# The notebook


def cells(kind: str) -> list[str]:
    found = json.loads(site.TOUR.with_suffix(".ipynb").read_text())
    return ["".join(c["source"]) for c in found["cells"] if c["cell_type"] == kind]


def test_a_page_becomes_cells_in_its_order() -> None:
    made = json.loads(notebook.notebook("# A\n\n```python\nx = 1\n```\n\nB\n\n```python\nx\n```\n"))
    assert [(c["cell_type"], "".join(c["source"])) for c in made["cells"]] == [
        ("markdown", "# A"), ("code", "x = 1"), ("markdown", "B"), ("code", "x"),
    ]  # fmt: skip
    assert all(c["outputs"] == [] for c in made["cells"] if c["cell_type"] == "code")


def test_the_tour_runs_from_its_first_cell_to_its_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("plotly", reason="plotly is not installed: pip install 'rapgym[report]'")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    drawn = []
    for code in cells("code"):
        *before, last = ast.parse(code).body
        if isinstance(last, ast.Expr):
            exec(compile(ast.Module(before, []), "cell", "exec"), names)
            shown = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
            drawn += [] if shown is None else [shown]
        else:
            exec(code, names)
    assert [type(figure).__name__ for figure in drawn] == ["Figure", "Figure"]
    assert all(len(figure.data) for figure in drawn)
    printed = capsys.readouterr().out
    for said in ("MultiDiscrete", "blocks dropped, reward -", "FiveOrNone", "frontier", "verdict"):
        assert said in printed
