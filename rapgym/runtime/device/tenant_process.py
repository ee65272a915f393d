"""The process of a co-tenant: takes and returns bytes as it is told, and ends with who told it.

Run as a program by `tenant.Tenant`. It imports nothing of rapgym and little of Python, so that it
starts in milliseconds and takes hardly more than it is told to. Orders are lines: a count of bytes.
Answers: `held COUNT`, as measured, or `failed REASON`.
"""

import array
import contextlib
import ctypes
import mmap
import os
import select
import signal
import sys
from typing import IO, Any, Protocol

SEGMENT_BYTES = 64 << 20
MADV_POPULATE_WRITE = 23  # of Linux 5.14: faults many pages in one call
PARENT_S = 0.2  # how often it looks whether its parent lives
GPU_PAGE_BYTES = 2 << 20  # what the driver maps at a time


class Holder(Protocol):
    """Bytes on a host or a device."""

    def hold(self, count: int) -> int:
        """Hold so many bytes, rounded up to pages, and no more.

        Returns:
            What is held then, measured.

        Raises:
            OSError: there is no room; less is held than was asked.
        """


class HostHolder:
    """Anonymous pages of this process, each with random bytes and a number of its own.

    So the system can neither compress them nor merge them with others.
    """

    def __init__(self) -> None:
        self._segments: list[mmap.mmap] = []  # of SEGMENT_BYTES each, filled one after the other
        self._pages = 0
        self._random = memoryview(os.urandom(1 << 20))  # its slices are no copies

    def hold(self, count: int) -> int:
        pages, each = -(-count // mmap.PAGESIZE), SEGMENT_BYTES // mmap.PAGESIZE
        while self._pages > pages:
            first = (self._pages - 1) // each * each  # page at which the last segment begins
            if first >= pages:
                self._segments.pop().close()
                self._pages = first
            else:
                start = (pages - first) * mmap.PAGESIZE
                length = (self._pages - pages) * mmap.PAGESIZE
                self._segments[-1].madvise(mmap.MADV_DONTNEED, start, length)
                self._pages = pages
        while self._pages < pages:
            if self._pages == len(self._segments) * each:
                self._segments.append(_mapping())
            first = (len(self._segments) - 1) * each
            upto = min(pages, first + each)
            self._fill(self._segments[-1], self._pages - first, upto - first, first)
            self._pages = upto
        return self._resident_bytes()

    def _fill(self, segment: mmap.mmap, begin: int, end: int, first: int) -> None:
        page = mmap.PAGESIZE
        with contextlib.suppress(OSError):  # an older kernel: writing faults page by page
            segment.madvise(MADV_POPULATE_WRITE, begin * page, (end - begin) * page)
        each = len(self._random) // page
        words = memoryview(segment).cast("Q")
        for at in range(begin, end, each):  # in pieces, so that this process itself stays small
            upto = min(at + each, end)
            segment[at * page : upto * page] = self._random[: (upto - at) * page]
            numbers = array.array("Q", range(first + at + 1, first + upto + 1))
            words[at * page // 8 : upto * page // 8 : page // 8] = memoryview(numbers)
        words.release()

    def _resident_bytes(self) -> int:
        """Of all segments, by asking the kernel for each page."""
        found = 0
        for segment in self._segments:
            start = ctypes.c_char.from_buffer(segment)
            marks = (ctypes.c_ubyte * (len(segment) // mmap.PAGESIZE))()
            at = ctypes.c_void_p(ctypes.addressof(start))
            if _libc().mincore(at, ctypes.c_size_t(len(segment)), marks):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            found += bytes(marks).count(1)
            del start, at  # else the segment could not be closed
        return found * mmap.PAGESIZE


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _mapping() -> mmap.mmap:
    found = mmap.mmap(-1, SEGMENT_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # Of a huge page that is given back in part, the system would keep the whole for a while.
    with contextlib.suppress(OSError, AttributeError):
        found.madvise(mmap.MADV_NOHUGEPAGE)
    return found


class Driver(Protocol):
    """What allocates on a GPU."""

    def allocate(self, count: int) -> int:
        """An address on the device; OSError where there is no room."""

    def free(self, address: int) -> None: ...


class DeviceHolder:
    """Memory of a GPU, in allocations of at most SEGMENT_BYTES. Not tried on a GPU.

    What it says it holds is what the driver granted, which promises no more than there is.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._granted: list[tuple[int, int]] = []  # address, bytes

    def hold(self, count: int) -> int:
        wanted = -(-count // GPU_PAGE_BYTES) * GPU_PAGE_BYTES
        held = sum(size for _, size in self._granted)
        while held > wanted:  # an allocation goes as a whole; the rest of it is taken anew below
            address, size = self._granted.pop()
            self._driver.free(address)
            held -= size
        while held < wanted:
            size = min(wanted - held, SEGMENT_BYTES)
            self._granted.append((self._driver.allocate(size), size))
            held += size
        return held


class CudaDriver:
    """CUDA's driver itself, without torch: nothing lies between it and the bytes."""

    def __init__(self, ordinal: int) -> None:
        self._cuda = ctypes.CDLL("libcuda.so.1")
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuInit", ctypes.c_uint(0))
        self._call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(ordinal))
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)

    def _call(self, name: str, *arguments: Any) -> None:
        if code := getattr(self._cuda, name)(*arguments):
            raise OSError(f"{name} returned CUDA error {code}")

    def allocate(self, count: int) -> int:
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(count))
        self._call("cuMemsetD8_v2", address, ctypes.c_ubyte(1), ctypes.c_size_t(count))
        self._call("cuCtxSynchronize")
        return address.value

    def free(self, address: int) -> None:
        self._call("cuMemFree_v2", ctypes.c_uint64(address))


def obey(orders: IO[bytes], answers: IO[bytes], holder: Holder, parent: int) -> None:
    """Follow orders until they end or the parent process does.

    The end of the pipe is not enough: processes that the parent forked hold it open as well.
    """
    while os.getppid() == parent:
        if not select.select([orders], [], [], PARENT_S)[0]:
            continue
        line = orders.readline()
        if not line:
            return
        try:
            answer = f"held {holder.hold(int(line))}"
        except (OSError, ValueError, MemoryError) as error:
            answer = f"failed {type(error).__name__}: {error}".replace("\n", " ")
        answers.write(answer.encode() + b"\n")


def main(device: str, parent: int) -> None:
    """Hold bytes on `cpu` or `cuda:INDEX`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends this
    orders, answers = (os.fdopen(at, mode, buffering=0) for at, mode in ((0, "rb"), (1, "wb")))
    holder: Holder
    if device == "cpu":
        holder = HostHolder()
    else:
        holder = DeviceHolder(CudaDriver(int(device.partition(":")[2] or 0)))
    answers.write(b"held 0\n")
    with contextlib.suppress(BrokenPipeError):
        obey(orders, answers, holder, parent)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
