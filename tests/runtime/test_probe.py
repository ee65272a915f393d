"""Measured bytes follow what a process really takes and returns."""

import mmap
import os
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rapgym.errors import DataUnavailable, MissingExtra
from rapgym.runtime import gpu_probe, probe
from rapgym.runtime.gpu_probe import AllocatorProbe, DeviceProbe
from rapgym.runtime.probe import ProcessProbe

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
MIB = 2**20
NOISE_BYTES = MIB // 2  # what the interpreter itself takes meanwhile


def taken(count: int) -> mmap.mmap:
    """Resident anonymous bytes."""
    found = mmap.mmap(-1, count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for at in range(0, count, mmap.PAGESIZE):
        found[at] = 1
    return found


@pytest.fixture(params=[False, True], ids=["kernel", "sampled"])
def own(request: pytest.FixtureRequest) -> Iterator[ProcessProbe]:
    with ProcessProbe(sampled=request.param) as found:
        if not request.param and not found.peak_by.startswith("VmHWM"):
            pytest.skip("this kernel does not let its peak be reset")
        yield found


def test_a_peak_is_what_was_held_between_reset_and_now(own: ProcessProbe) -> None:
    before = own.used_bytes()
    high = taken(40 * MIB)
    assert own.used_bytes() - before == pytest.approx(40 * MIB, abs=NOISE_BYTES)
    own.reset_peak()
    low = taken(8 * MIB)
    low.close()
    assert own.peak_bytes() - before >= 40 * MIB - NOISE_BYTES
    high.close()
    assert own.used_bytes() - before == pytest.approx(0, abs=NOISE_BYTES)
    own.reset_peak()
    assert own.peak_bytes() - before == pytest.approx(0, abs=NOISE_BYTES), "forgotten by the reset"


def test_the_kernels_peak_sees_what_came_and_went_at_once() -> None:
    with ProcessProbe() as own:
        if not own.peak_by.startswith("VmHWM"):
            pytest.skip("this kernel does not let its peak be reset")
        before = own.used_bytes()
        own.reset_peak()
        taken(24 * MIB).close()
        error = own.peak_bytes() - before - 24 * MIB
        assert abs(error) <= NOISE_BYTES + own.doubt_bytes()


def test_the_sampled_peak_sees_what_stayed_for_a_while() -> None:
    with ProcessProbe(sampled=True) as own:
        before = own.used_bytes()
        own.reset_peak()
        held = taken(24 * MIB)
        assert own._sampler is not None
        for _ in range(5000):  # until the thread has looked
            if own._sampler._top >= before + 24 * MIB - NOISE_BYTES:
                break
            time.sleep(0.001)
        held.close()
        assert own.peak_bytes() - before == pytest.approx(24 * MIB, abs=NOISE_BYTES)


def test_mapped_files_are_not_a_processes_own_memory(tmp_path: Any) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 24 * MIB)
    with ProcessProbe() as own, path.open("rb") as file:
        before = own.used_bytes()
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            assert sum(mapped[at] for at in range(0, len(mapped), mmap.PAGESIZE))
            assert own.used_bytes() - before == pytest.approx(0, abs=NOISE_BYTES)
            if own.peak_by.startswith("VmHWM"):
                over = own.peak_bytes() - before
                assert 0 <= over <= own.doubt_bytes() + NOISE_BYTES, "and the doubt says so"
                assert own.doubt_bytes() == pytest.approx(24 * MIB, abs=NOISE_BYTES)
            own.reset_peak()
            assert own.peak_bytes() - before == pytest.approx(0, abs=NOISE_BYTES)


def test_another_process_is_measured_from_outside() -> None:
    code = "import mmap; m = mmap.mmap(-1, 32 << 20, flags=34); m.write(b'x' * len(m)); print(1); input()"
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with ProcessProbe(process.pid) as other:
            assert 32 * MIB < other.used_bytes() < 48 * MIB
            process.kill()
            process.wait()
            with pytest.raises(DataUnavailable, match="ended"):
                other.used_bytes()


def test_the_system_has_more_than_is_available() -> None:
    assert 0 < probe.available_bytes() < probe.total_bytes()


def test_other_systems_are_refused_clearly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    for measure in (probe.anonymous_bytes, probe.available_bytes, ProcessProbe):
        with pytest.raises(DataUnavailable, match="run on Linux"):
            measure()
    assert not probe.return_freed_memory()
    assert not probe.trim()


# In a process of its own, for the allocator's settings last as long as the process.
FREED = """
import ctypes, sys
from rapgym.runtime import probe
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
def block(count):
    at = libc.malloc(count)
    ctypes.memset(at, 1, count)
    return at
libc.free(block(24 << 20))  # from now on glibc, left alone, takes blocks up to this from its heap
if sys.argv[1] == "settled":
    assert probe.return_freed_memory()
before = probe.anonymous_bytes()
blocks = [block(1 << 20) for _ in range(32)]
for at in blocks[:-1]:  # the last one lies above them
    libc.free(at)
print(probe.anonymous_bytes() - before)
"""


def left_after_freeing(how: str) -> int:
    found = subprocess.run(
        [sys.executable, "-c", FREED, how], capture_output=True, text=True, check=True
    )
    return int(found.stdout)


def test_freed_memory_is_given_back_at_once() -> None:
    if not probe.trim():
        pytest.skip("no glibc")
    assert left_after_freeing("alone") > 24 * MIB, "without it, glibc keeps what was freed"
    assert left_after_freeing("settled") < 3 * MIB


class FakeNvml(types.SimpleNamespace):
    """NVML with one device that other programs use too."""

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        super().__init__(used=5 * MIB, own=3 * MIB, started=0)

    def nvmlInit(self) -> None:  # noqa: N802
        self.started += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.started -= 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        if index:
            raise self.NVMLError("Invalid Argument")
        return "handle"

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        if uuid != "GPU-7":
            raise self.NVMLError("Not Found")
        return "handle"

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:  # noqa: N802
        return types.SimpleNamespace(used=self.used)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[Any]:  # noqa: N802
        return [
            types.SimpleNamespace(pid=os.getpid() + 1, usedGpuMemory=MIB),
            types.SimpleNamespace(pid=os.getpid(), usedGpuMemory=self.own),
        ]


def test_a_gpu_is_measured_as_a_whole_and_by_process() -> None:
    nvml = FakeNvml()
    whole, own = DeviceProbe(0, nvml=nvml), DeviceProbe("GPU-7", os.getpid(), nvml=nvml)
    assert (whole.used_bytes(), own.used_bytes()) == (5 * MIB, 3 * MIB)
    own.reset_peak()
    nvml.own = 9 * MIB
    assert own.peak_bytes() == 9 * MIB
    nvml.own = 2 * MIB
    assert own.peak_bytes() == 9 * MIB
    own.reset_peak()
    assert own.peak_bytes() == 2 * MIB
    own.close()
    whole.close()
    assert nvml.started == 0


def test_a_gpu_that_does_not_tell_is_an_error_not_a_zero() -> None:
    nvml = FakeNvml()
    with pytest.raises(DataUnavailable, match="nvidia-smi"):
        DeviceProbe(3, nvml=nvml)
    with pytest.raises(DataUnavailable, match="container"):
        DeviceProbe(0, pid=1, nvml=nvml).used_bytes()
    nvml.own = None
    with pytest.raises(DataUnavailable, match="container"):
        DeviceProbe(0, os.getpid(), nvml=nvml).used_bytes()


def test_without_nvidia_ml_py_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(MissingExtra, match="device"):
        DeviceProbe(0)


def test_the_allocators_own_figures() -> None:
    calls: list[str] = []
    figures: dict[str, Callable[..., Any]] = {
        "memory_reserved": lambda device: 5,
        "max_memory_reserved": lambda device: 7,
        "empty_cache": lambda: calls.append("empty"),
        "reset_peak_memory_stats": lambda device: calls.append("reset"),
        "get_device_properties": lambda device: types.SimpleNamespace(uuid="ab-12"),
    }
    found = AllocatorProbe("cuda:0", cuda=types.SimpleNamespace(**figures))
    found.reset_peak()
    assert (found.used_bytes(), found.peak_bytes(), found.uuid()) == (5, 7, "GPU-ab-12")
    assert calls == ["empty", "reset"], "what is held in vain is no peak"


def test_probes_are_told_apart_in_reports() -> None:
    with ProcessProbe(sampled=True) as sampled:
        assert "every 2 ms" in sampled.peak_by
    assert gpu_probe.AllocatorProbe.peak_by == "torch's CUDA allocator"
