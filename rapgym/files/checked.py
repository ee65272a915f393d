"""From a name to a file on this machine, checked against its recorded sha256."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from rapgym.errors import DataUnavailable, WrongChecksum
from rapgym.files import incoming


def cache_folder() -> Path:
    """Where downloads and unfinished work live: `RAPGYM_CACHE`, else the platform's cache folder."""
    if named := os.environ.get("RAPGYM_CACHE"):
        return Path(named).expanduser()
    import pooch

    return Path(pooch.os_cache("rapgym"))


def mirror_folder() -> Path | None:
    """The local mirror of traces and texts that `RAPGYM_DATA` names, if any."""
    named = os.environ.get("RAPGYM_DATA")
    return Path(named).expanduser() if named else None


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes."""
    with incoming.opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_once(path: Path) -> str:
    """The same, not computed again in this process as long as size and time of change stay."""
    state = path.stat()
    return _sha256_once(path.resolve(), state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256_once(path: Path, size: int, changed_ns: int) -> str:
    return sha256_of(path)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Alone among the processes that ask for this file; where a system has no such locks, not alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        try:
            import fcntl
        except ImportError:
            yield
            return
        fcntl.flock(file, fcntl.LOCK_EX)  # it ends with the process, however that ends
        yield


def checked(path: Path, sha256: str, remedy: str) -> Path:
    """`path` itself, once its content is what it should be.

    Raises:
        DataUnavailable: there is no such file; `remedy` says how to get it.
        WrongChecksum: its content differs.
    """
    if not path.is_file():
        raise DataUnavailable(f"{path} is not there; {remedy}")
    found = sha256_of(path)
    if found != sha256:
        raise WrongChecksum(
            f"{path} is not the file it should be (sha256 {found[:12]}..., expected "
            f"{sha256[:12]}...); delete it, then {remedy}"
        )
    return path
