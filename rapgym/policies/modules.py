"""The files of a user's module, found without importing it."""

import hashlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rapgym.files import checked


def sha256(target: str, folders: Sequence[str] = ()) -> str:
    """Of the module of a `module:Class` and of what lies beside it: what it may import of its own.

    Args:
        folders: where it is looked for before `sys.path`.

    Returns:
        64 hexadecimal digits; nothing where the module is no file that can be found.
    """
    names = target.partition(":")[0].split(".")
    for folder in (*folders, *sys.path):
        base = Path(folder or ".")
        if len(names) == 1 and base.joinpath(f"{names[0]}.py").is_file():
            return _digest(base, sorted(base.glob("*.py")))
        package = base / names[0]
        if package.is_dir():
            return _digest(base, sorted(package.rglob("*.py")))
    return ""


def content_sha256(path: str) -> str:
    """Of a file, or of all files of a folder."""
    place = Path(path)
    return _digest(place.parent, [each for each in sorted(_files(place)) if each.is_file()])


def _files(place: Path) -> Iterator[Path]:
    yield from place.rglob("*") if place.is_dir() else [place]


def _digest(base: Path, paths: Sequence[Path]) -> str:
    whole = hashlib.sha256()
    for path in paths:
        name = path.relative_to(base).as_posix()
        whole.update(f"{name} {checked.sha256_of(path)}\n".encode(errors="surrogateescape"))
    return whole.hexdigest()
