"""Meters: what is in use, by files of /proc by hand, by a process that holds memory, by NVML's module."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rapgym.errors import DataUnavailable
from rapgym.recorder import meters

PAGE = os.sysconf("SC_PAGE_SIZE")
MIB = 1 << 20


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A machine of 8000 kB, 3000 of them available; this process holds 40 pages, process 7 has 90."""
    (tmp_path / "meminfo").write_text("MemTotal: 8000 kB\nMemFree: 1 kB\nMemAvailable: 3000 kB\n")
    for pid, statm in ((os.getpid(), "900 50 10 1 0 9 0"), (7, "900 100 10 1 0 9 0")):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "statm").write_text(statm)
    return tmp_path


def test_what_others_use_by_hand(proc: Path) -> None:
    assert meters.total_bytes(proc) == 8000 << 10
    assert meters.system(proc=proc)() == (5000 << 10) - 40 * PAGE
    less = meters.system([7], proc)
    assert less() == (5000 << 10) - 130 * PAGE
    (proc / "7" / "statm").unlink()
    assert less() == (5000 << 10) - 40 * PAGE, "a process that has ended holds nothing"
    (proc / "meminfo").write_text("MemTotal: 10 kB\nMemAvailable: 9 kB\n")
    assert less() == 0, "never below nothing"


def test_what_cannot_be_measured_is_refused_at_the_start(proc: Path) -> None:
    with pytest.raises(DataUnavailable, match="no process 99"):
        meters.system([99], proc)
    with pytest.raises(DataUnavailable, match="no process 99"):
        meters.processes([7, 99], proc)
    (proc / "meminfo").write_text("MemFree: 1 kB\n")
    with pytest.raises(DataUnavailable, match="on Linux, or with --gpu"):
        meters.system(proc=proc)


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="needs Linux's /proc")
def test_a_process_that_takes_memory_is_seen_until_it_ends() -> None:
    code = "import sys\nprint(1, flush=True)\nsys.stdin.readline()\nheld = b'x' * (96 << 20)\n"
    code += "print(2, flush=True)\nsys.stdin.readline()\n"
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdout.readline()
    meter = meters.processes([child.pid])
    before = meter()
    child.stdin.write("\n")
    child.stdin.flush()
    child.stdout.readline()
    after = meter()
    assert before is not None
    assert after is not None
    assert 90 * MIB < after - before < 110 * MIB
    child.communicate("\n")
    assert meter() is None, "what is measured is gone"


class Nvml:
    """What nvidia-ml-py offers, of one GPU with 900 bytes in use, 300 of them by process 7."""

    class NVMLError(Exception):
        pass

    def __init__(self, held: int | None = 300) -> None:
        self.held, self.works = held, True

    def nvmlInit(self) -> None:  # noqa: N802
        pass

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        if index:
            raise self.NVMLError("Invalid Argument")
        return "handle"

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:  # noqa: N802
        if not self.works:
            raise self.NVMLError("GPU is lost")
        return SimpleNamespace(used=900)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[Any]:  # noqa: N802
        return [
            SimpleNamespace(pid=7, usedGpuMemory=self.held),
            SimpleNamespace(pid=8, usedGpuMemory=1),
        ]


def test_a_gpu_by_nvml() -> None:
    assert meters.gpu(0, nvml=Nvml())() == 900
    assert meters.gpu(0, [7], nvml=Nvml())() == 600
    with pytest.raises(DataUnavailable, match="GPU 3 cannot be read: Invalid Argument"):
        meters.gpu(3, nvml=Nvml())
    with pytest.raises(DataUnavailable, match="leave out --less"):
        meters.gpu(0, [7], nvml=Nvml(held=None))
    nvml = Nvml()
    meter = meters.gpu(0, nvml=nvml)
    nvml.works = False
    with pytest.raises(DataUnavailable, match="any more: GPU is lost"):
        meter()
