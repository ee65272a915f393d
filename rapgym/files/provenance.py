"""Which code made a number."""

import hashlib
import subprocess
from collections.abc import Collection
from functools import cache
from pathlib import Path

from rapgym.files import places


def commit() -> str | None:
    """The commit of the clone that this package runs from, with a + where files differ from it."""
    hash_of = ["git", "-C", str(places.PACKAGE), "describe", "--always", "--abbrev=40", "--dirty=+"]
    try:
        done = subprocess.run(hash_of, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


@cache
def package_sha256() -> str:
    """Of what the package comes with and no command changes: code, tables, traces, device profiles."""
    kinds = (
        (places.PACKAGE, "**/*.py"),
        # A walk does not follow the symlink that it is in a clone.
        (places.BASELINES, "*.py"),
        (places.TABLES, "*.csv.gz"),
        (places.TRACES, "**/*.csv.gz"),
        (places.PROFILES, "*.json"),
    )
    return files_sha256(
        places.PACKAGE, {path for folder, kind in kinds for path in folder.glob(kind)}
    )


def files_sha256(folder: Path, paths: Collection[Path]) -> str:
    """Of files beneath a folder, their names and contents, in the order of their paths."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return digest.hexdigest()
