"""A profile of this device, fitted on calibration rows alone: rows of the train split."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from rapgym.model.profiles import Stored
from rapgym.runtime.validate import profiling, trials
from rapgym.runtime.validate.trials import Trial
from rapgym.runtime.validate.validate import Settings, measured, origin
from rapgym.scenarios import worlds
from rapgym.scenarios.story import Scenario

FIT_ROWS = 5


def fit_plan(story: Scenario, count: int = FIT_ROWS) -> tuple[Trial, ...]:
    """Calibration trials: rows of the train split, spread over the load."""
    world = worlds.world(story, "train")
    kept = trials.rows_with_requests(story, "train")
    lawful = kept[world.rows.output_tokens[kept] > 0]
    tokens = (world.rows.prompt_tokens + world.rows.reserved_tokens)[lawful]
    at = np.linspace(0.05 * (len(lawful) - 1), len(lawful) - 1, count).round().astype(int)
    chosen = lawful[np.argsort(tokens, kind="stable")[at]]
    # Not in the order of their load: what a process gathers over time must not look like load.
    return tuple(trials.fit_trials(world, np.random.default_rng(0).permutation(chosen).tolist()))


def fit(
    name: str,
    story: Scenario,
    settings: Settings,
    work: Path,
    advance: Callable[[bool], None] = lambda skipped: None,
) -> Stored:
    """A profile of this machine, fitted on calibration rows alone."""
    ideal = replace(story, device_profile=None)
    wanted, settings = fit_plan(ideal), replace(settings, enforced=False)
    found, ended = measured(ideal, "train", wanted, settings, work, shielded=False, advance=advance)
    world = worlds.world(ideal, "train")
    profile, residuals = profiling.fitted(
        Path(name).stem, world, [found[trial] for trial in wanted]
    )
    return Stored(profile, origin(ideal, "train", settings, ended) | {"fit": residuals})


def profile_file(name: str) -> Path:
    """Where a fitted profile goes: a path, or beside where the command was typed."""
    return Path(name) if name.endswith(".json") else Path(f"{name}.json")
