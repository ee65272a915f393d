"""What is sampled: bytes in use on this machine, of some processes, or on a GPU, as measured now."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rapgym.errors import DataUnavailable, MissingExtra

PROC = Path("/proc")
Meter = Callable[[], "int | None"]  # bytes in use at this moment; None: what is measured is gone


def system(less: Sequence[int] = (), proc: Path = PROC) -> Meter:
    """MemTotal - MemAvailable, less what this process and those of `less` hold themselves.

    What the kernel could give back at once, caches of files above all, does not count as used.

    Args:
        less: process ids, of the model server for instance: recorded is what *others* use. One that
            has ended holds nothing.

    Raises:
        DataUnavailable: the machine has no /proc/meminfo, or one of `less` does not run.
    """
    own = (os.getpid(), *less)
    for pid in less:
        held_bytes(pid, proc)
    _used_bytes(proc)

    def used() -> int:
        others = _used_bytes(proc) - sum(_held_or_nothing(pid, proc) for pid in own)
        return max(others, 0)  # the two files are not read at one instant

    return used


def processes(pids: Sequence[int], proc: Path = PROC) -> Meter:
    """Memory that these processes hold themselves: resident, without pages shared with files.

    Raises:
        DataUnavailable: one does not run now. One that ends later holds nothing from then on.
    """
    for pid in pids:
        held_bytes(pid, proc)

    def used() -> int | None:
        held = sum(_held_or_nothing(pid, proc) for pid in pids)
        return held or None  # one that has ended, even if nobody waited for it, holds nothing

    return used


def gpu(index: int, less: Sequence[int] = (), nvml: Any = None) -> Meter:
    """Bytes in use on an NVIDIA GPU, less what the processes of `less` hold there.

    Args:
        nvml: the module pynvml of nvidia-ml-py, or what stands for it.

    Raises:
        MissingExtra: nvidia-ml-py is not installed.
        DataUnavailable: there is no driver or no such GPU, or it does not tell what each process
            holds (as on a part of a GPU, or inside some containers).
    """
    nvml = _nvml() if nvml is None else nvml
    try:
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        nvml.nvmlDeviceGetMemoryInfo(handle)
    except nvml.NVMLError as error:
        raise DataUnavailable(f"GPU {index} cannot be read: {error}; see nvidia-smi") from error

    def used() -> int:
        # A driver hiccup in the midst of hours is an error of one sample: the recorder decides.
        try:
            whole = int(nvml.nvmlDeviceGetMemoryInfo(handle).used)
            held = [p for p in nvml.nvmlDeviceGetComputeRunningProcesses(handle) if p.pid in less]
        except nvml.NVMLError as error:
            raise DataUnavailable(f"GPU {index} cannot be read any more: {error}") from error
        if any(process.usedGpuMemory is None for process in held):
            raise DataUnavailable(
                f"GPU {index} does not tell what each process holds: leave out --less"
            )
        return max(whole - sum(int(process.usedGpuMemory) for process in held), 0)

    used()
    return used


def _nvml() -> Any:
    try:
        import pynvml
    except ImportError as error:
        raise MissingExtra(
            "nvidia-ml-py is not installed; run: pip install 'rapgym[device]', or leave out --gpu"
        ) from error
    return pynvml


def total_bytes(proc: Path = PROC) -> int:
    """All memory of this machine; raises as `system` does."""
    return _meminfo(proc)["MemTotal"]


def held_bytes(pid: int, proc: Path = PROC) -> int:
    """Resident bytes of one process that are not shared with files.

    Raises:
        DataUnavailable: it does not run, or its figures cannot be read here.
    """
    try:
        _, resident, shared, *_ = (proc / str(pid) / "statm").read_text().split()
    except (OSError, ValueError) as error:
        raise DataUnavailable(f"no process {pid} whose memory can be read here: {error}") from error
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


def _held_or_nothing(pid: int, proc: Path) -> int:
    try:
        return held_bytes(pid, proc)
    except DataUnavailable:
        return 0


def _used_bytes(proc: Path) -> int:
    found = _meminfo(proc)
    return found["MemTotal"] - found["MemAvailable"]


def _meminfo(proc: Path) -> dict[str, int]:
    try:
        lines = (proc / "meminfo").read_text().splitlines()
        found = {
            name: int(rest.split()[0]) << 10 for name, _, rest in (x.partition(":") for x in lines)
        }
        found["MemTotal"], found["MemAvailable"]
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise DataUnavailable(
            f"{proc}/meminfo does not tell what is in use ({error!r}): memory is recorded on Linux, "
            "or with --gpu where an NVIDIA driver is"
        ) from error
    return found
