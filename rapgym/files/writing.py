"""Files that rapgym writes: complete or not at all, nothing overwritten unasked, nothing left by a kill.

A file is written under a name of its own that ends in `.partial`, locked as long as its writer lives, and
takes its name once it is whole. What a killed writer left is therefore known by nobody's locking it.
"""

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any

from rapgym.errors import InvalidSpec, RapgymError, Unwritable

ENDING = ".partial"
_REMEDIES = {
    "ENOSPC": "free some space on its disk",
    "EDQUOT": "free some space of your quota",
    "EFBIG": "raise the limit on the size of files (ulimit -f)",
    "EACCES": "name another in a folder that you may write to",
    "EPERM": "name another in a folder that you may write to",
    "EROFS": "name another on a disk that can be written to",
    "EISDIR": "there is a folder of that name: name another",
    "ENOTDIR": "a part of its path is a file: name another",
    "EEXIST": "a part of its path is a file: name another",
    "ENAMETOOLONG": "give it a shorter name",
}


def unwritable(path: Path, error: OSError) -> Unwritable:
    """What to raise where a file cannot be written: its path, why, and what to do."""
    remedy = _REMEDIES.get(errno.errorcode.get(error.errno or 0, ""), "name another")
    found = Unwritable(
        f"{path} cannot be written ({error.strerror or error}): {remedy}, then try again"
    )
    found.errno = error.errno
    return found


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """While this lasts, an error of the system says which file could not be written, and what to do.

    Raises:
        Unwritable: in its place.
    """
    try:
        yield
    except RapgymError:
        raise
    except OSError as error:
        of_another = error.filename is not None and Path(error.filename).parent != path.parent
        if of_another and not path.is_relative_to(error.filename):
            raise  # such as one that was read meanwhile
        raise unwritable(path, error) from error


def made(folder: Path) -> Path:
    """The folder, made where it is not there.

    Raises:
        Unwritable: it cannot be.
    """
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def refuse_existing(path: Path, what: str, *, force: bool = False) -> None:
    """Refuse to overwrite.

    Args:
        what: the option that names it, as it is typed.
        force: overwrite it.

    Raises:
        InvalidSpec: it is there already, or is a folder.
    """
    if path.is_dir():
        raise InvalidSpec(f"{path} is a folder; {what} names a file")
    if not force and os.path.lexists(path):
        raise InvalidSpec(
            f"{path} is there already: name another file with {what}, or add --force to overwrite it"
        )


@contextmanager
def written_aside(path: Path) -> Iterator[IO[bytes]]:
    """A binary file to write; it takes the name `path` only once it is complete and on disk.

    Raises:
        Unwritable: it cannot be written; nothing of it is left.
    """
    made(path.parent)
    clean(path)
    with naming(path), _aside(path) as file:
        aside = Path(file.name)
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            aside.chmod(0o644)
            aside.replace(path)
        except BaseException:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
            raise


@contextmanager
def _aside(path: Path) -> Iterator[IO[bytes]]:
    while True:
        file: Any = NamedTemporaryFile(  # noqa: SIM115  # closed below
            dir=path.parent, prefix=f"{path.name}.", suffix=ENDING, delete=False
        )
        if _locks(file.fileno()) and _is_there(file):
            break
        file.close()  # who cleans up came first
    try:
        yield file
    finally:
        with suppress(OSError):  # of a full disk once more: what matters was said, or is on disk
            file.close()


def clean(path: Path) -> None:
    """Delete what killed writers of this file left beside it, and say so."""
    ours = re.compile(rf"{re.escape(path.name)}\.?[a-z0-9_]{{8}}{re.escape(ENDING)}")
    with suppress(OSError):
        for left in [each for each in path.parent.iterdir() if ours.fullmatch(each.name)]:
            if _is_nobodys(left):
                left.unlink(missing_ok=True)
                print(f"removed {left}, which a run that was killed had left", file=sys.stderr)


def _is_nobodys(path: Path) -> bool:
    number = os.open(path, os.O_RDWR | getattr(os, "O_NONBLOCK", 0))
    try:
        return _locks(number)
    finally:
        os.close(number)


def _locks(number: int) -> bool:
    """Whether an open file is this process's alone now; where a system has no locks, yes."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a disk of a network without locks
        return True
    return True


def _is_there(file: IO[bytes]) -> bool:
    with suppress(OSError):
        return os.fstat(file.fileno()).st_ino == os.stat(file.name).st_ino
    return False
