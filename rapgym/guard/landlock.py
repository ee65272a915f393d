"""Linux's Landlock: a process gives up the file system but for what it names, for good.

No privilege is needed, root is bound as well, and children inherit it. Where the kernel has it
(5.13, later features later), the process also loses TCP (6.7) and signals to others (6.12), and can no
longer read the memory of a process outside. Constants: linux/landlock.h of the kernel's UAPI.
"""

import ctypes
import os
import stat
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # system calls, the same on every architecture
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_EVERYTHING = (1 << 13) - 1  # file system rights of the first version, making and removing included
_NO_NEW_PRIVILEGES = 38  # prctl


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("files", ctypes.c_uint64),
        ("network", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def version() -> int:
    """What the kernel offers; 0 where there is no Landlock."""
    if not sys.platform.startswith("linux"):
        return 0
    return max(0, int(ctypes.CDLL(None).syscall(_CREATE, None, 0, 1)))


@dataclass(frozen=True)
class Readable:
    """A path that stays open to reading, with all beneath it."""

    path: Path
    content: bool = True  # False: the names of its files alone, such as imports look through


def confine(readable: Sequence[Readable]) -> bool:
    """From now on this thread, and what it starts, reads and runs these files, and writes none.

    Returns:
        Whether the kernel does so; False leaves everything as it was.
    """
    known = version()
    if not known:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    wanted = _Ruleset(_EVERYTHING, 3 if known >= 4 else 0, 3 if known >= 6 else 0)
    size = 24 if known >= 6 else 16 if known >= 4 else 8
    ruleset = libc.syscall(_CREATE, ctypes.byref(wanted), size, 0)
    if ruleset < 0:
        return False
    try:
        for each in readable:
            rights = _READ_FILE | _READ_DIR | _EXECUTE if each.content else _READ_DIR
            _allow(libc, ruleset, each.path, rights)
        _allow(libc, ruleset, Path(os.devnull), _READ_FILE | _WRITE_FILE)
        if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0):
            return False
        return bool(libc.syscall(_RESTRICT, ruleset, 0) == 0)
    finally:
        os.close(ruleset)


def _allow(libc: ctypes.CDLL, ruleset: int, path: Path, rights: int) -> None:
    try:
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # what is not there need not be allowed
        return
    try:
        if not stat.S_ISDIR(os.fstat(parent).st_mode):
            rights &= ~_READ_DIR  # no right to a file
        rule = _Beneath(rights, parent)
        libc.syscall(_ADD, ruleset, 1, ctypes.byref(rule), 0)
    finally:
        os.close(parent)


def without(path: Path, hidden: Collection[Path]) -> Iterator[Readable]:
    """What of `path` may be read when nothing hidden may: itself, or those of its entries, and so on.

    Args:
        hidden: resolved paths. Entries whose names begin with a dot are left out beside one.
    """
    path = path.resolve()
    if any(path.is_relative_to(each) for each in hidden):
        return
    if not any(each.is_relative_to(path) for each in hidden):
        yield Readable(path)
    elif path.is_dir():
        yield Readable(path, content=False)
        for entry in sorted(path.iterdir()):
            if not entry.name.startswith("."):
                yield from without(entry, hidden)
