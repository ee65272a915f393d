"""Memory groups of Linux: where one may be made here, its limit, its kills, and its removal."""

import contextlib
import errno
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rapgym.errors import DataUnavailable, RapgymError

PREFIX = "rapgym"
# Page cache that is being written cannot be reclaimed at once; exiting processes leave in a moment.
PATIENCE_S, PAUSE_S = 5.0, 0.02
MEMORY_AND_SWAP = "memory.memsw.limit_in_bytes"  # version 1, where swap is accounted for
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Names:
    """What the files of one cgroup version are called."""

    limit: str
    kills: str  # the file with the entry `oom_kill`
    anonymous: str  # entry of memory.stat: what cannot be reclaimed without swap


NAMES = {
    1: Names("memory.limit_in_bytes", "memory.oom_control", "total_rss"),
    2: Names("memory.max", "memory.events", "anon"),
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where groups are made: `parent`; and where their processes go in the end: `home`."""

    version: int
    parent: Path
    home: Path  # this process's own group


def places(version: int, mounts: str | None = None, own: str | None = None) -> list[Place]:
    """Groups in which this process might make another, innermost first.

    For version 1 its own group. Version 2 allows no processes beside groups, so its own group's
    ancestors as well, where they hand the memory controller down: then the new group stands beside
    the own one, whose limit does not hold there.

    Args:
        mounts, own: what stands for /proc/self/mountinfo and /proc/self/cgroup.
    """
    with contextlib.suppress(OSError):
        mounts = Path("/proc/self/mountinfo").read_text() if mounts is None else mounts
        own = Path("/proc/self/cgroup").read_text() if own is None else own
    found = []
    for mount, root in _mounted(version, mounts or ""):
        home = _own_group(version, mount, root, own or "")
        if version == 1:
            found.append(Place(1, home, home))
            continue
        inside = [home, *home.parents]
        found += [
            Place(2, group, home)
            for group in inside[: inside.index(mount) + 1]
            if "memory" in _read(group / "cgroup.subtree_control").split()
        ]
    return found


def _mounted(version: int, mounts: str) -> Iterator[tuple[Path, str]]:
    """Mount point of the hierarchy, and the group that is mounted there."""
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = [*right.split(), "", ""][:3]
        wanted = kind == "cgroup2" if version == 2 else kind == "cgroup"
        if wanted and (version == 2 or "memory" in options.split(",")):
            yield Path(left.split()[4]), left.split()[3]


def _own_group(version: int, mount: Path, root: str, own: str) -> Path:
    for line in own.splitlines():
        _, controllers, path = line.split(":", 2)
        if (version == 2 and not controllers) or "memory" in controllers.split(","):
            # In a container the path may be the host's, of which `root` is what is mounted.
            inside = Path(path).relative_to(root) if Path(path).is_relative_to(root) else Path()
            group = mount / str(inside).lstrip("/")
            return group if group.is_dir() else mount
    return mount


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _entry(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    raise DataUnavailable(f"{path} has no {name}: this kernel is too old to count it")


class Group:
    """A memory group of our own. Its name tells whose it is, so that the next run can remove it."""

    def __init__(self, place: Place, limit_bytes: int) -> None:
        """Make it, limit it, and see by a process that ends at once that others can be added.

        Raises:
            OSError, DataUnavailable: that is not allowed here, or swap cannot be held off.
        """
        self.place, self.names = place, NAMES[place.version]
        self.path = place.parent / f"{PREFIX}-{_signature(os.getpid())}-{next(_numbers)}"
        self.stopped = 0  # processes that were killed here rather than by the kernel
        remove_left_behind(place)
        self.path.mkdir()
        try:
            self._hold_off_swap()
            self.limit(limit_bytes)
            self.kills()
            self._try()
        except BaseException:
            self.remove()
            raise

    def _hold_off_swap(self) -> None:
        if self.place.version == 2:
            swap = self.path / "memory.swap.max"
            if swap.exists():
                swap.write_text("0")
        elif (self.path / "memory.swappiness").exists():
            (self.path / "memory.swappiness").write_text("0")
        elif not (self.path / MEMORY_AND_SWAP).exists():
            raise DataUnavailable(f"{self.path} cannot be kept from swapping")

    def _try(self) -> None:
        with subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", "input()"], stdin=subprocess.PIPE
        ) as process:
            try:
                self.add(process.pid)
            finally:
                process.kill()

    def add(self, pid: int) -> None:
        """Move a process here, with all its threads; those that it starts from now on follow.

        Raises:
            OSError: it is gone, or it may not be moved.
        """
        (self.path / "cgroup.procs").write_text(str(pid))

    def limit(self, limit_bytes: int) -> None:
        """Charge no more than this; whoever is over it at once is killed.

        Raises:
            RapgymError: page cache that is no longer in use does not go.
        """
        if self.place.version == 2:
            (self.path / self.names.limit).write_text(str(limit_bytes))  # the kernel kills
            return
        until_s = time.monotonic() + PATIENCE_S
        while not self._limited(limit_bytes):
            # Version 1 refuses a limit below what cannot be reclaimed, and leaves the killing to us.
            if self._lasting_bytes() > limit_bytes:
                self._stop_all()
            elif time.monotonic() > until_s:
                raise RapgymError(
                    f"{self.path} cannot be limited to {limit_bytes} bytes: its page cache is not "
                    "reclaimed; try again when the disk is at rest"
                )
            time.sleep(PAUSE_S)

    def _limited(self, limit_bytes: int) -> bool:
        """Write both limits of version 1, of memory and of memory with swap; False where refused."""
        names = (self.names.limit, MEMORY_AND_SWAP)
        files = [self.path / name for name in names if (self.path / name).exists()]
        if _entry_alone(files[0]) < limit_bytes:
            files.reverse()  # memory with swap may at no moment be less than memory
        try:
            for file in files:
                file.write_text(str(limit_bytes))
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            return False
        return True

    def _lasting_bytes(self) -> int:
        """Charged, in version 1, and no page cache."""
        stat = self.path / "memory.stat"
        cache = sum(_entry(stat, f"total_{name}_file") for name in ("active", "inactive"))
        return _entry_alone(self.path / "memory.usage_in_bytes") - cache

    def _stop_all(self) -> None:
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self.stopped += 1
        until_s = time.monotonic() + PATIENCE_S
        while self.pids():
            if time.monotonic() > until_s:
                raise RapgymError(f"processes in {self.path} do not end: end them by hand")
            time.sleep(PAUSE_S)

    def kills(self) -> int:
        """Processes that were killed for want of memory; reclaiming page cache is none."""
        return _entry(self.path / self.names.kills, "oom_kill") + self.stopped

    def anonymous_bytes(self) -> int:
        """What the group is charged for processes' own memory, which cannot be reclaimed."""
        return _entry(self.path / "memory.stat", self.names.anonymous)

    def pids(self) -> list[int]:
        """Processes in it."""
        return [int(pid) for pid in _read(self.path / "cgroup.procs").split()]

    def remove(self) -> None:
        """Move its processes home and remove it.

        Raises:
            RapgymError: it cannot be emptied.
        """
        _remove(self.path, self.place.home)


def _entry_alone(path: Path) -> int:
    return int(path.read_text())


def _remove(path: Path, home: Path) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while path.is_dir():
        for pid in _read(path / "cgroup.procs").split():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                (home / "cgroup.procs").write_text(pid)
        try:
            path.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            if time.monotonic() > until_s:
                raise RapgymError(
                    f"{path} cannot be removed ({error.strerror}): end its processes"
                ) from error
            time.sleep(PAUSE_S)


def _signature(pid: int) -> str:
    """Of a process: its number may be used again, and in containers several times at once."""
    started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return f"{os.stat('/proc/self/ns/pid').st_ino}-{pid}-{started}"


def remove_left_behind(place: Place) -> list[Path]:
    """Remove groups of runs that were killed, wherever they were started.

    Processes that live on in them go to the group around it; in version 2, where that may hold
    none, to this process's own one.

    Returns:
        What was removed.
    """
    found = []
    here = os.stat("/proc/self/ns/pid").st_ino
    # By os.walk, which does not mind groups that go meanwhile.
    groups = [Path(folder) for folder, _, _ in os.walk(_outermost(place.parent))]
    for path in groups:
        match = re.fullmatch(rf"{PREFIX}-({here}-(\d+)-\d+)-\d+", path.name)
        if match is None or not os.access(path.parent, os.W_OK):  # another user's
            continue
        alive: Any = None
        with contextlib.suppress(OSError):
            alive = _signature(int(match[2]))
        if alive != match[1]:
            with contextlib.suppress(RapgymError):  # still ending: the next run's task
                _remove(path, path.parent if place.version == 1 else place.home)
                found.append(path)
    return found


def _outermost(group: Path) -> Path:
    """The group around all that can be seen here."""
    while (group.parent / "cgroup.procs").exists():
        group = group.parent
    return group
