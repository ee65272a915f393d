"""The page of each environment in Gymnasium's form: spaces from the code, the rest from its docstring."""

import inspect
import re
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from rapgym.envs import registration
from rapgym.envs.env import RapEnv
from rapgym.envs.serve_env import DEFAULT as SERVE_DEFAULT
from rapgym.envs.serve_env import ServeEnv
from rapgym.envs.serve_play import decision_space
from rapgym.report.markdown import table
from rapgym.scenarios import serving, serving_worlds, tables
from rapgym.scenarios.catalogue import shipped
from rapgym.scenarios.lanes import Lanes
from rapgym.scenarios.serving import ServeScenario
from rapgym.serving import sight

Spaces = tuple[spaces.Space[Any], spaces.Space[Any]]  # of actions, of observations

# A paragraph that begins so is a section; an item of the section "Arguments" begins so.
_SECTION = re.compile(r"^\*\*([A-Z][^*]*)\.\*\*\s*", flags=re.MULTILINE)
_ARGUMENT = re.compile(r"^- `(\w+)`: ", flags=re.MULTILINE)
# What an id states for the user.
_STATED = {"self", "actions"}


def rap() -> str:
    """Of the three ids of rows, in the scenario that they take unless told otherwise."""
    found = {}
    for name in registration.IDS:
        env = gymnasium.make(name)
        found[name] = (env.action_space, env.observation_space)
        env.close()
    scenario = inspect.signature(RapEnv).parameters["scenario"].default
    return page(RapEnv, found, scenario)


def serve() -> str:
    """Of the serving engine."""
    found = {registration.SERVE_ID: serve_spaces(serving.story_of(SERVE_DEFAULT))}
    return page(ServeEnv, found, SERVE_DEFAULT)


def serve_spaces(story: ServeScenario) -> Spaces:
    """What `RAP-Serve-v0` has in a scenario, without its traffic: days would have to be drawn."""
    counts = serving_worlds.nested_nll(story, tables.told(story.base)).shape
    high = sight.HIGHEST.astype(np.float32)
    return decision_space(counts[0] - 1, counts[1] - 1), spaces.Box(np.zeros_like(high), high)


def observation() -> str:
    """Every part of the observation of RAP-v0."""
    layout = Lanes(shipped()[0], "train", 1, small_steps=True).layout
    rows = ["| part | entries | range | what it is |", "| --- | ---: | --- | --- |"]
    rows += [
        f"| `{part.name}` | {part.size} | {part.low:g} to {part.high:g} | {part.meaning} |"
        for part in layout.parts
    ]
    return "\n".join(rows)


def serving_observation() -> str:
    """Every part of the observation of RAP-Serve-v0."""
    rows = [
        [f"`{part.name}`", str(part.size), f"0 to {part.highest:g}", part.says]
        for part in sight.PARTS
    ]
    return table(("part", "entries", "range", "what it is"), rows, left=4)


def serving_scenarios() -> str:
    """The serving scenarios."""
    rows = [
        [f"`{each.name}`", each.base.name, f"{each.base.card_gib:g}", each.story]
        for each in serving.shipped()
    ]
    return table(("scenario", "stands on", "card, GiB", "story"), rows, left=4)


def page(of: type, found: dict[str, Spaces], scenario: str) -> str:
    """Spaces of each id, then every section of a class's docstring.

    Raises:
        SystemExit: its docstring names other arguments than it takes.
    """
    rows = [
        [f'`gymnasium.make("{name}")`', *(f"`{told(space)}`" for space in each)]
        for name, each in found.items()
    ]
    heads = ("made by", "action space", "observation space")
    parts = [
        table(heads, rows, left=3),
        f"In the scenario `{scenario}`, which is taken unless another is named.",
    ]
    for name, text in sections(of).items():
        parts += [f"## {name}", arguments(of, text) if name == "Arguments" else text]
    return "\n\n".join(parts)


def told(space: spaces.Space[Any]) -> str:
    """A space in one line, its bounds left out where there is one for each entry."""
    if isinstance(space, spaces.Box):
        return f"Box(shape={space.shape}, dtype={space.dtype})"
    return str(space)


def sections(of: type) -> dict[str, str]:
    """The sections of a class's docstring, `**Name.** text`, in order."""
    _, *parts = _SECTION.split(inspect.getdoc(of) or "")
    return {name: text.strip() for name, text in zip(parts[::2], parts[1::2], strict=True)}


def arguments(of: type, text: str) -> str:
    """A table of what a class takes: meanings from the docstring, defaults from the code.

    Raises:
        SystemExit: these are not the same arguments.
    """
    _, *parts = _ARGUMENT.split(text)
    meanings = {
        name: " ".join(said.split()) for name, said in zip(parts[::2], parts[1::2], strict=True)
    }
    taken = {
        name: parameter.default
        for name, parameter in inspect.signature(of).parameters.items()
        if name not in _STATED
    }
    if differ := sorted({*meanings} ^ {*taken}):
        raise SystemExit(
            f"the docstring of {of.__name__} and its arguments differ: {', '.join(differ)}"
        )
    rows = [[f"`{name}`", f"`{taken[name]!r}`", meanings[name]] for name in taken]
    return table(("argument", "default", "what it is"), rows, left=3)
