"""Which code made a number."""

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from rapgym.files import places

# Of the code that runs; a clone need not be installed to know it.
VERSION = "0.1.0"


def commit() -> str | None:
    """The commit of the clone that this package runs from, with a + where files differ from it."""
    import subprocess  # milliseconds, and importing rapgym reads the version here

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
        (places.TABLES, "*.csv.gz"),
        (places.TABLES, "*.json"),
        (places.TRACES, "**/*.csv.gz"),
        (places.TRACES, "*.csv.xz"),
        (places.PROFILES, "*.json"),
    )
    data = (path for folder, kind in kinds for path in folder.glob(kind))
    return files_sha256([*code_files(), places.INCREMENTS, *data])


def code_files() -> set[Path]:
    """Every Python file of the package, wherever its folders lie; studies are none of it."""
    folders = (places.PACKAGE, places.BASELINES, places.TRACES)
    every = {path for folder in folders for path in folder.rglob("*.py")}
    return {path for path in every if not path.is_relative_to(places.STUDIES)}


def files_sha256(paths: Iterable[Path]) -> str:
    """Of files of the package, their names and contents: alike in a clone and installed."""
    digest = hashlib.sha256()
    for name, path in sorted((places.inner(path), path) for path in paths):
        digest.update(f"{name}\0".encode() + path.read_bytes())
    return digest.hexdigest()
