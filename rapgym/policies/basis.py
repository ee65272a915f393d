"""What settings and training runs rest on besides code: where any of it changes, they are found anew."""

from rapgym.files import checked
from rapgym.scenarios import tables, worlds
from rapgym.scenarios.story import Scenario

NAMES = ("table_sha256", "workload_sha256", "world_sha256")
_WORDS = {
    "table_sha256": "table",
    "workload_sha256": "workload",
    "world_sha256": "numbers of the world",
}


def basis(story: Scenario) -> dict[str, str]:
    """The sha256 of a scenario's table, of its workload, and of its other numbers."""
    found = (
        tables.table(story).sha256,
        checked.sha256_once(worlds.workload_file(story)),
        story.world_sha256,
    )
    return dict(zip(NAMES, found, strict=True))


def changed(kept: dict[str, str], story: Scenario) -> str:
    """What of a scenario is not as it was, in words; empty where all is.

    Args:
        kept: what `basis` gave then.
    """
    now = basis(story)
    return ", ".join(_WORDS[name] for name in NAMES if kept.get(name) != now[name])
