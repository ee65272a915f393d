"""What a result depends on, and when and with what it was made."""

import importlib.metadata
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

from rapgym.files import checked, places, provenance
from rapgym.rivals import rivals
from rapgym.scenarios import catalogue, worlds
from rapgym.scenarios.story import Scenario, described
from rapgym.workload import names


def origin(stories: Sequence[Scenario], seeds: Sequence[int]) -> dict[str, Any]:
    """What a result depends on: two runs of one origin give the same rows."""
    own = [story for story in stories if story.is_own]
    return ({"files": {story.id: files_sha256(story) for story in own}} if own else {}) | {
        "rapgym": provenance.VERSION,
        "code_sha256": code_sha256(),
        "numpy": importlib.metadata.version("numpy"),
        "seeds": list(seeds),
        "scenarios": {story.id: described(story) for story in stories},
        "env_spec": {story.id: env_spec(story) for story in stories},
        "tables": {name: sha for story in stories for name, sha in rivals.tables(story).items()},
        "workloads": {
            story.workload: checked.sha256_of(worlds.workload_file(story)) for story in stories
        },
    }


def files_sha256(story: Scenario) -> dict[str, str]:
    """The files that a scenario of the user's is made of, and their content: path -> sha256.

    Raises:
        DataUnavailable: one is not there.
    """
    return {name: names.sha256(name) for name in catalogue.files_of(story)}


@cache
def code_sha256() -> str:
    """Of every Python file, tuned setting, kept fit and trained policy of the package: cells of other code
    are rerun.
    """
    every = {
        *provenance.code_files(),
        places.TUNED,
        places.INCREMENTS,
        *places.TRAINED.rglob("*.npz"),
    }
    return provenance.files_sha256(path for path in every if path.is_file())


def env_spec(story: Scenario) -> dict[str, Any]:
    """What `gym.make` takes to get the environment of a scenario's test split."""
    return {"id": "RAP-KeptSet-v0", "kwargs": {"scenario": story.name, "split": "test"}}


def surroundings() -> dict[str, Any]:
    """When and with what a result was made; two results may differ here and agree."""
    packages = ("gymnasium", "pandas")
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": provenance.commit(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
    }
