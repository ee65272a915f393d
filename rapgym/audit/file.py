"""The file of an audit log as its one writer holds it: locked, appended to whole or not at all."""

import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rapgym.audit import chain
from rapgym.audit.chain import Head
from rapgym.errors import AuditFailed, InvalidResult
from rapgym.files import limits
from rapgym.files.closing import Closing

BEGINNING = b'{"seq":0,"decision":0,"previous":"' + chain.FIRST.encode() + b'"'


@dataclass(frozen=True, slots=True)
class Tail:
    """Where a log ends that is gone on with."""

    head: Head
    torn_bytes: int  # of a line that was never complete, cut off now


class LogFile(Closing):
    """A log's file, open to append."""

    def __init__(self, path: Path) -> None:
        """Open or make it, lock it, and cut off a line that was never complete.

        Raises:
            AuditFailed: it cannot be written, or another process writes it.
            InvalidResult: there is another kind of file, or a log whose last line is damaged.
        """
        self.path, self.closed = path.absolute(), False  # a process may change its folder
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
        try:
            self._file = os.open(path, flags, 0o644)
        except OSError as error:
            raise AuditFailed(
                f"{path} cannot be opened to write an audit log: {error.strerror}; name a file in a "
                "folder that is there and may be written to"
            ) from error
        try:
            if not stat.S_ISREG(os.fstat(self._file).st_mode):
                raise AuditFailed(f"{path} is no file that an audit log could be kept in")
            _lock(self._file, path)
            self.tail, self._size = self._found()
        except BaseException:
            self.close()
            raise
        self._undone = False  # bytes of a failed write may stand beyond `_size`

    def _found(self) -> tuple[Tail, int]:
        size = os.fstat(self._file).st_size
        start = max(0, size - 2 * limits.AUDIT_LINE)
        whole, newline, torn = os.pread(self._file, size - start, start).rpartition(b"\n")
        begins = os.pread(self._file, len(BEGINNING), 0)
        if size and not BEGINNING.startswith(begins):
            raise InvalidResult(f"{self.path} is no audit log: name another file")
        link = chain.link_of(whole.rpartition(b"\n")[2]) if newline else (chain.START, "")
        if link is None or (start and not newline):
            raise InvalidResult(
                f"the last line of {self.path} is damaged, so nothing can be added to it: see what "
                f"holds with `rapgym audit {self.path} --verify`, and begin another log"
            )
        if torn:
            os.ftruncate(self._file, size - len(torn))
        return Tail(link[0], len(torn)), size - len(torn)

    def write(self, content: bytes, durable: bool) -> None:
        """Append lines; once this returns they survive this process, durable ones a loss of power.

        Raises:
            OSError: nothing of them is in the file.
        """
        if self._undone:
            os.ftruncate(self._file, self._size)
            self._undone = False
        self._check()
        left = memoryview(content)
        try:
            while left:
                left = left[os.write(self._file, left) :]
            if durable:
                getattr(os, "fdatasync", os.fsync)(self._file)
        except OSError:
            self._undone = True
            with suppress(OSError):
                os.ftruncate(self._file, self._size)
                self._undone = False
            raise
        self._size += len(content)

    def _check(self) -> None:
        """That the file is what this writer left, and where it left it."""
        here = os.fstat(self._file)
        if here.st_size != self._size:
            raise OSError(f"it has {here.st_size} bytes, not the {self._size} that were written")
        there = os.stat(self.path)  # FileNotFoundError says enough
        if (here.st_ino, here.st_dev) != (there.st_ino, there.st_dev):
            raise OSError("another file has taken its place")

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            os.close(self._file)


def _lock(file: int, path: Path) -> None:
    """Hold a file for as long as it is open; nothing where the system cannot lock."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise AuditFailed(
            f"{path} is being written by another process: a log has one writer; name another file"
        ) from error
