"""Measured bytes of processes and of the machine: read from Linux's /proc, never computed."""

import ctypes
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rapgym.errors import DataUnavailable
from rapgym.files.closing import Closing

SAMPLE_S = 0.002
# glibc's mallopt: from this size on, a block is a mapping of its own and unmapped when it is freed.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
MMAP_BYTES = 128 << 10


def _lines(path: str) -> list[str]:
    if not sys.platform.startswith("linux"):
        raise DataUnavailable(
            f"memory is measured from {path}, which Linux alone has: run on Linux"
        )
    try:
        return Path(path).read_text().splitlines()
    except (OSError, ProcessLookupError) as error:
        raise DataUnavailable(
            f"{path} cannot be read ({error.strerror}): the process has ended, belongs to another "
            "user, or this system hides it"
        ) from error


def _entry(path: str, name: str) -> int:
    for line in _lines(path):
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise DataUnavailable(f"{path} has no {name}: the process has ended, or this kernel is too old")


def status_bytes(name: str, pid: int | str = "self") -> int:
    """One entry of /proc/PID/status, such as RssAnon or VmData.

    Raises:
        DataUnavailable: the process has ended, or this is no Linux.
    """
    return _entry(f"/proc/{pid}/status", name)


def anonymous_bytes(pid: int | str = "self") -> int:
    """Resident anonymous memory of a process: its own data, no mapped files; what is swapped is not.

    By walking its pages (smaps_rollup): RssAnon of `status` may be off by 32 pages and more for
    each CPU on kernels before 6.17. RssAnon where that walk is not offered.

    Raises:
        DataUnavailable: the process has ended, or this is no Linux.
    """
    try:
        return _entry(f"/proc/{pid}/smaps_rollup", "Anonymous")
    except DataUnavailable:
        return status_bytes("RssAnon", pid)


def available_bytes() -> int:
    """What programs of this machine can still take without swapping (MemAvailable).

    Raises:
        DataUnavailable: this is no Linux.
    """
    return _entry("/proc/meminfo", "MemAvailable")


def total_bytes() -> int:
    """Memory of this machine.

    Raises:
        DataUnavailable: this is no Linux.
    """
    return _entry("/proc/meminfo", "MemTotal")


class Sampler:
    """The highest of many readings, taken by a thread."""

    def __init__(self, read: Callable[[], int], every_s: float) -> None:
        self._read, self._every_s = read, every_s
        self._top = 0
        self._lock, self._end = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None

    def restart(self) -> None:
        with self._lock:
            self._top = self._read()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()

    def top(self) -> int:
        self._look()
        return self._top

    def _look(self) -> None:
        with self._lock:
            self._top = max(self._top, self._read())

    def _run(self) -> None:
        while not self._end.wait(self._every_s):
            try:
                self._look()
            except DataUnavailable:
                return  # the process has ended: its peak stands

    def close(self) -> None:
        self._end.set()
        if self._thread is not None:
            self._thread.join()


class ProcessProbe(Closing):
    """Resident anonymous memory of one process; close it, for it may run a thread.

    The kernel keeps the peak of all resident memory, mapped files included. Where it lets itself be
    reset, files are taken off: the smaller of what they were at the reset and at the reading, so
    that files that came or went make the peak too high rather than too low, by `doubt_bytes` at
    most. The kernel counts in batches of some dozen pages; the peak may be off by them. Elsewhere a
    thread looks every few milliseconds, and can miss a peak.
    """

    def __init__(self, pid: int | None = None, *, sampled: bool = False) -> None:
        """`sampled` forbids the kernel's own peak.

        Raises:
            DataUnavailable: there is no such process, or this is no Linux.
        """
        self.pid = os.getpid() if pid is None else pid
        self._files = 0
        self._sampler: Sampler | None = None
        if sampled or not self._reset_by_kernel():
            # Walking all pages each time would be slow.
            read = lambda: status_bytes("RssAnon", self.pid)  # noqa: E731
            self._sampler = Sampler(read, SAMPLE_S)
        self.reset_peak()

    @property
    def peak_by(self) -> str:
        if self._sampler is None:
            return "VmHWM, less mapped files"
        return f"RssAnon, read every {SAMPLE_S * 1e3:g} ms"

    def used_bytes(self) -> int:
        return anonymous_bytes(self.pid)

    def reset_peak(self) -> None:
        if self._sampler is not None:
            self._sampler.restart()
        elif self._reset_by_kernel():
            self._files = self._file_bytes()
        else:
            raise DataUnavailable(f"the peak of process {self.pid} cannot be reset any more")

    def peak_bytes(self) -> int:
        if self._sampler is not None:
            return self._sampler.top()
        # Files first: were they read after the peak, some might be taken off that came later.
        files = min(self._files, self._file_bytes())
        return max(status_bytes("VmHWM", self.pid) - files, status_bytes("RssAnon", self.pid))

    def doubt_bytes(self) -> int:
        """By how much the peak may be too high: mapped files came or went since the reset."""
        return 0 if self._sampler else abs(self._file_bytes() - self._files)

    def _file_bytes(self) -> int:
        return sum(status_bytes(name, self.pid) for name in ("RssFile", "RssShmem"))

    def _reset_by_kernel(self) -> bool:
        status_bytes("RssAnon", self.pid)  # says clearly that there is no such process
        try:
            Path(f"/proc/{self.pid}/clear_refs").write_text("5")
        except OSError:
            return False
        return True

    def close(self) -> None:
        """End the thread, if there is one."""
        if self._sampler is not None:
            self._sampler.close()


def return_freed_memory() -> bool:
    """Have glibc give freed memory back at once, and give back what it holds now.

    By default glibc raises its threshold for mappings as blocks are freed, and keeps in vain what
    lies between blocks in use; a fixed threshold ends both for all blocks above it.

    Returns:
        Whether there was a glibc to tell; elsewhere nothing is done.
    """
    mallopt = _of_glibc("mallopt")
    if mallopt is None:
        return False
    for setting, value in (
        (M_MMAP_THRESHOLD, MMAP_BYTES),
        (M_TRIM_THRESHOLD, MMAP_BYTES),
        (M_TOP_PAD, 0),
    ):
        mallopt(setting, value)
    return trim()


def trim() -> bool:
    """Give back what glibc's heap holds in vain now; False where there is no glibc."""
    if (malloc_trim := _of_glibc("malloc_trim")) is None:
        return False
    malloc_trim(0)
    return True


def _of_glibc(name: str) -> Any:
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), name, None)  # musl has neither of them
