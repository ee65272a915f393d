"""The co-tenant holds what it is told, says when it cannot, and leaves nothing behind."""

import io
import mmap
import os
import resource
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest

from rapgym.errors import InvalidSpec, RapgymError
from rapgym.runtime import probe
from rapgym.runtime.device import tenant_process
from rapgym.runtime.device.tenant import Tenant
from rapgym.runtime.device.tenant_process import (
    GPU_PAGE_BYTES,
    SEGMENT_BYTES,
    DeviceHolder,
    HostHolder,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="measured from Linux's /proc")
MIB = 2**20
NOISE_BYTES = MIB // 2  # of the tenant's interpreter
# Into and out of the middle of segments, and onto their ends.
ORDERS = (1, 90 * MIB + 1, 20 * MIB, SEGMENT_BYTES, SEGMENT_BYTES + 1, 70 * MIB, 0, 5000, 0)


def whole_pages(count: int) -> int:
    return -(-count // mmap.PAGESIZE) * mmap.PAGESIZE


def ended(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


def until_ended(pid: int) -> None:
    for _ in range(3000):
        if ended(pid):
            return
        time.sleep(0.01)
    pytest.fail(f"process {pid} lives on")


def test_what_is_held_is_what_was_told_seen_from_outside_too() -> None:
    with Tenant() as tenant:
        nothing = tenant.measured_bytes()
        for count in ORDERS:
            assert tenant.hold(count) == tenant.held_bytes == whole_pages(count)
            outside = tenant.measured_bytes() - nothing
            assert outside == pytest.approx(whole_pages(count), abs=NOISE_BYTES)


def test_it_is_lean() -> None:
    with Tenant() as tenant:
        assert tenant.measured_bytes() < 16 * MIB
        maps = Path(f"/proc/{tenant.pid}/maps").read_text()
        assert "torch" not in maps
        assert "numpy" not in maps


def test_its_pages_can_be_neither_compressed_nor_merged() -> None:
    holder = HostHolder()
    for count in ORDERS[1:6]:
        holder.hold(count)
        pages = [
            segment[at : at + mmap.PAGESIZE]
            for segment in holder._segments
            for at in range(0, SEGMENT_BYTES, mmap.PAGESIZE)
        ]
        used = whole_pages(count) // mmap.PAGESIZE
        assert len(set(pages[:used])) == used, "no two pages are alike"
        assert all(any(page) for page in pages[:used])
        sample = pages[: used : used // 64]
        assert all(len(zlib.compress(page)) > 0.95 * mmap.PAGESIZE for page in sample)
        del pages, sample
    holder.hold(0)


def test_it_goes_at_the_end_and_after_an_error() -> None:
    tenant = Tenant()
    tenant.hold(8 * MIB)
    with pytest.raises(ZeroDivisionError), tenant:
        raise ZeroDivisionError
    until_ended(tenant.pid)


PARENT = """
import os, sys, time
from rapgym.runtime.device.tenant import Tenant
tenant = Tenant()
tenant.hold(8 << 20)
if not (other := os.fork()):  # holds the tenant's pipe open
    time.sleep(600)
print(tenant.pid, other, flush=True)
time.sleep(600)
"""


def test_it_dies_with_a_parent_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid, other = map(int, parent.stdout.readline().split())
        assert not ended(pid)
        parent.kill()
        parent.wait()
        try:
            until_ended(pid)
            assert not ended(other), "the pipe was open all the time"
        finally:
            os.kill(other, signal.SIGKILL)


def test_being_killed_is_told() -> None:
    with Tenant() as tenant:
        tenant.hold(MIB)
        os.kill(tenant.pid, signal.SIGKILL)
        with pytest.raises(RapgymError, match="killed, most likely by the kernel"):
            tenant.hold(2 * MIB)


def test_what_it_cannot_take_is_told_and_it_goes_on() -> None:
    with Tenant() as tenant:
        limit = probe.status_bytes("VmData", tenant.pid) + 2 * SEGMENT_BYTES
        resource.prlimit(tenant.pid, resource.RLIMIT_DATA, (limit, limit))
        with pytest.raises(RapgymError, match=r"could not hold 192\.0 MiB"):
            tenant.hold(3 * SEGMENT_BYTES)
        assert tenant.hold(MIB) == MIB
        assert tenant.measured_bytes() < 16 * MIB


def test_more_than_the_machine_has_is_not_even_tried() -> None:
    with Tenant() as tenant:
        tenant.hold(MIB)
        with pytest.raises(RapgymError, match="this machine has only"):
            tenant.hold(probe.total_bytes() * 2)
        assert tenant.held_bytes == MIB
        with pytest.raises(InvalidSpec, match="at least 0"):
            tenant.hold(-1)


class FakeDriver:
    """A device with so much room."""

    def __init__(self, room: int) -> None:
        self.room, self.granted = room, {0: 0}

    @property
    def held(self) -> int:
        return sum(self.granted.values())

    def allocate(self, count: int) -> int:
        if self.held + count > self.room:
            raise OSError("cuMemAlloc_v2 returned CUDA error 2")
        address = max(self.granted) + 1
        self.granted[address] = count
        return address

    def free(self, address: int) -> None:
        del self.granted[address]


def test_on_a_device_it_holds_whole_pages_of_the_driver() -> None:
    driver = FakeDriver(room=300 * MIB)
    holder = DeviceHolder(driver)
    for count in ORDERS:
        wanted = -(-count // GPU_PAGE_BYTES) * GPU_PAGE_BYTES
        assert holder.hold(count) == driver.held == wanted
    with pytest.raises(OSError, match="CUDA error 2"):
        holder.hold(400 * MIB)
    assert driver.held <= 300 * MIB
    assert holder.hold(10 * MIB) == driver.held == 10 * MIB


def test_orders_and_answers_on_a_device() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"4194304\n999999999\nnonsense\n0\n")
    os.close(writing)
    answers = io.BytesIO()
    with os.fdopen(reading, "rb", buffering=0) as orders:
        tenant_process.obey(orders, answers, DeviceHolder(FakeDriver(8 * MIB)), os.getppid())
    told = answers.getvalue().decode().splitlines()
    assert told[0] == "held 4194304"
    assert told[1] == "failed OSError: cuMemAlloc_v2 returned CUDA error 2"
    assert told[2].startswith("failed ValueError")
    assert told[3:] == ["held 0"]


def test_without_a_driver_it_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    if Path("/proc/driver/nvidia").exists():
        pytest.skip("there is a driver")
    with pytest.raises(RapgymError, match="ended with code 1 when it was to start"):
        Tenant("cuda:0")
    assert "libcuda" in capfd.readouterr().err
