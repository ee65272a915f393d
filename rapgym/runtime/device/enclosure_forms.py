"""The ways in which a limit of memory is enforced: by a memory group, an rlimit, an allocator."""

import contextlib
import math
import os
import signal
import threading
from types import FrameType
from typing import Any, Protocol

from rapgym.errors import InvalidSpec
from rapgym.runtime import probe
from rapgym.runtime.device import cgroup

ENDING_SIGNALS = ("SIGTERM", "SIGHUP")


class Form(Protocol):
    """What `Enclosure` asks of a way to enforce a limit; its methods say what they promise."""

    @property
    def kind(self) -> str: ...
    def add(self, pid: int) -> int: ...
    def limit(self, limit_bytes: int) -> None: ...
    def exceeded(self) -> int: ...
    def note_refusal(self) -> None: ...
    def close(self) -> None: ...


def check(limit_bytes: int) -> None:
    """Raises:
    InvalidSpec: nothing could live under this limit.
    """
    if limit_bytes <= 0:
        raise InvalidSpec(f"a limit of memory is positive, not {limit_bytes} bytes")


class GroupForm:
    """A memory group of the kernel, which kills who goes over.

    All memory is charged, page cache too, but that is reclaimed before anybody is killed. Nothing is
    swapped. The group goes when this is closed, or the process ends by a signal or an error; one
    that a killed run left behind is removed by the next.
    """

    def __init__(self, version: int, limit_bytes: int) -> None:
        """Raises:
        InvalidSpec, OSError: no such group may be made here.
        """
        check(limit_bytes)
        self.kind = f"memory group (cgroup v{version})"
        self._owner, self._exceeded = os.getpid(), 0
        self._group: cgroup.Group | None = _first_group(version, limit_bytes)
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():  # Python's rule for handlers
            for name in ENDING_SIGNALS:
                number = getattr(signal, name)
                if signal.getsignal(number) is signal.SIG_DFL:
                    self._before[number] = signal.signal(number, self._end)

    def _end(self, number: int, frame: FrameType | None) -> None:
        self.close()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def _open(self) -> cgroup.Group:
        if self._group is None:
            raise InvalidSpec("this enclosure is closed: open another")
        return self._group

    def add(self, pid: int) -> int:
        try:
            held = probe.anonymous_bytes(pid)
            self._open().add(pid)
        except OSError as error:
            raise InvalidSpec(
                f"process {pid} cannot be put into a memory group: {error}"
            ) from error
        return held

    def limit(self, limit_bytes: int) -> None:
        check(limit_bytes)
        self._open().limit(limit_bytes)

    def note_refusal(self) -> None:
        """The kernel counts."""

    def exceeded(self) -> int:
        return self._exceeded if self._group is None else self._group.kills()

    def used_bytes(self) -> int:
        """What the group is charged for its processes' own memory."""
        return self._open().anonymous_bytes()

    def close(self) -> None:
        # A process that this one forked has a copy, which is not its own to close.
        if self._group is not None and os.getpid() == self._owner:
            self._exceeded = self._group.kills()
            self._group.remove()
            self._group = None
            for number, handler in self._before.items():
                signal.signal(number, handler)


def _first_group(version: int, limit_bytes: int) -> cgroup.Group:
    reasons = []
    for place in cgroup.places(version):
        try:
            return cgroup.Group(place, limit_bytes)
        except OSError as error:
            reasons.append(str(error))
    raise InvalidSpec("; ".join(reasons) or "no memory controller of this version is mounted")


class DataForm:
    """RLIMIT_DATA of one process: what it asks for beyond the limit is refused.

    The kernel counts what is mapped, touched or not: what was mapped in vain when the process was
    added, `slack_bytes`, is allowed on top. Refusals are errors in that process: only those that
    `note_refusal` hears of are counted, and a limit that falls below what is held.
    """

    kind = "RLIMIT_DATA of one process"

    def __init__(self, limit_bytes: int) -> None:
        """Raises:
        InvalidSpec: this system has no such limit for processes.
        """
        check(limit_bytes)
        import resource  # Windows has none

        if not hasattr(resource, "prlimit"):
            raise InvalidSpec("prlimit is Linux's alone")
        self._resource, self._limit_bytes = resource, limit_bytes
        self._pid: int | None = None
        self._before = (0, 0)
        self.slack_bytes = self._exceeded = 0

    def add(self, pid: int) -> int:
        if self._pid is not None:
            raise InvalidSpec("RLIMIT_DATA holds for one process, and one is enclosed already")
        try:
            held = probe.anonymous_bytes(pid)
            self._before = self._resource.prlimit(pid, self._resource.RLIMIT_DATA)
            self.slack_bytes = max(0, probe.status_bytes("VmData", pid) - held)
            self._pid = pid
            self.limit(self._limit_bytes)
        except (OSError, InvalidSpec) as error:
            self._pid = None
            raise InvalidSpec(f"process {pid} cannot be limited: {error}") from error
        return held

    def limit(self, limit_bytes: int) -> None:
        check(limit_bytes)
        self._limit_bytes = limit_bytes
        if self._pid is None:
            return
        hard = self._before[1]
        soft = limit_bytes + self.slack_bytes
        if hard != self._resource.RLIM_INFINITY:
            soft = min(soft, hard)
        try:
            self._resource.prlimit(self._pid, self._resource.RLIMIT_DATA, (soft, hard))
            self._exceeded += probe.anonymous_bytes(self._pid) > limit_bytes
        except OSError as error:
            raise InvalidSpec(f"process {self._pid} cannot be limited: {error}") from error

    def exceeded(self) -> int:
        return self._exceeded

    def note_refusal(self) -> None:
        self._exceeded += 1

    def close(self) -> None:
        if self._pid is not None:
            with contextlib.suppress(ProcessLookupError):
                self._resource.prlimit(self._pid, self._resource.RLIMIT_DATA, self._before)
            self._pid = None


class Allocator(Protocol):
    """A GPU's allocator of this process, which can be limited."""

    def total_bytes(self) -> int:
        """Of the device."""

    def reserved_bytes(self) -> int:
        """What it holds."""

    def allow(self, share: float) -> None:
        """Refuse to hold more than this share of the device."""

    def refusals(self) -> int:
        """How often memory was refused since the process began."""


class TorchAllocator:
    """torch's CUDA allocator. Not tried on a GPU."""

    def __init__(self, device: Any) -> None:
        import torch

        self._cuda, self._device = torch.cuda, torch.device(device)
        if self._device.index is None:  # torch limits a device with a number only
            self._device = torch.device("cuda", torch.cuda.current_device())

    def total_bytes(self) -> int:
        return int(self._cuda.get_device_properties(self._device).total_memory)

    def reserved_bytes(self) -> int:
        return int(self._cuda.memory_reserved(self._device))

    def allow(self, share: float) -> None:
        self._cuda.empty_cache()  # what is held in vain counts
        self._cuda.set_per_process_memory_fraction(share, self._device)

    def refusals(self) -> int:
        return int(self._cuda.memory_stats(self._device).get("num_ooms", 0))


class AllocatorForm:
    """The own limit of this process's GPU allocator, which counts refusals itself.

    The limit is the allocator's alone: what the driver's context takes is not within it.
    """

    kind = "limit of the GPU's allocator"

    def __init__(self, limit_bytes: int, allocator: Allocator) -> None:
        """Raises:
        InvalidSpec: the device has less.
        """
        self._allocator = allocator
        self._refusals_before, self._over = allocator.refusals(), 0
        self._last: int | None = None
        self.limit(limit_bytes)

    def add(self, pid: int) -> int:
        if pid != os.getpid():
            raise InvalidSpec("an allocator limits the process that it lives in, no other")
        return self._allocator.reserved_bytes()

    def limit(self, limit_bytes: int) -> None:
        check(limit_bytes)
        total = self._allocator.total_bytes()
        if limit_bytes > total:
            raise InvalidSpec(f"the device has {total} bytes, less than a limit of {limit_bytes}")
        # One step up: rounded down, the product with the total might be a byte less than the limit.
        self._allocator.allow(min(1.0, math.nextafter(limit_bytes / total, 1.0)))
        self._over += self._allocator.reserved_bytes() > limit_bytes

    def note_refusal(self) -> None:
        """The allocator counts."""

    def exceeded(self) -> int:
        if self._last is not None:
            return self._last
        return self._allocator.refusals() - self._refusals_before + self._over

    def close(self) -> None:
        if self._last is None:
            self._last = self.exceeded()
            self._allocator.allow(1.0)
