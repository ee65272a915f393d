"""Which code made a number."""

import subprocess
from pathlib import Path


def commit() -> str | None:
    """The commit of the clone that this package runs from, with a + where files differ from it."""
    folder = Path(__file__).parent
    hash_of = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--dirty=+"]
    try:
        done = subprocess.run(hash_of, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
