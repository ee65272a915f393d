"""Find the free parameters of methods on the train split, and keep them with the package."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rapgym import datafiles, scenario
from rapgym.policies import registry
from rapgym.policies.policy import briefing
from rapgym.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Tuned:
    """What was found for one method on one scenario."""

    policy: str
    scenario: str
    settings: dict[str, Any]


def tune(entries: Sequence[registry.Entry], stories: Sequence[Scenario]) -> Iterator[Tuned]:
    """Tune each method on each scenario; each finding is written at once."""
    for story in stories:
        told = briefing(story)
        for entry in entries:
            find = registry.tuning(entry)
            if find is None:
                continue
            found = Tuned(entry.name, story.id, find(told))
            _keep(found, scenario.table(story).sha256)
            yield found


def _keep(found: Tuned, table_sha256: str) -> None:
    kept = registry.tuned()
    kept.setdefault(found.policy, {})[found.scenario] = {
        "settings": found.settings,
        "split": "train",
        "table_sha256": table_sha256,
    }
    path = Path(__file__).with_name(registry.TUNED_FILE)
    with datafiles.written_aside(path) as file:
        file.write((json.dumps(kept, indent=2, sort_keys=True) + "\n").encode())
