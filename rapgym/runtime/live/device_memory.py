"""Where blocks' weights lie on a device and off it: the seam between host and CUDA.

Memory is taken in regions that are given back as one, and what is in use is always measured.
"""

import mmap
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import torch

from rapgym.errors import DataUnavailable
from rapgym.runtime import probe

MIB = 2**20
# Between 1 and 10 MiB torch's CUDA allocator takes segments of 20 MiB, from here on exact ones (in
# steps of 2 MiB): kMinLargeAlloc of c10/core/AllocatorConfig.h.
CUDA_OWN_SEGMENT_BYTES = 10 * MIB


class Region(Protocol):
    """Bytes on the device that are given back as one."""

    bytes: torch.Tensor  # uint8 [count]

    def close(self) -> None:
        """Give them back.

        Raises:
            BufferError: a tensor still points into them; nothing was done.
        """


class DeviceMemory(Protocol):
    """Memory of a device, and a place off it that holds what may return."""

    def reserve(self, count: int) -> Region:
        """That many bytes, at least one, that share nothing with other regions.

        Raises:
            OSError, RuntimeError: there is no room.
        """

    def store(self, content: torch.Tensor) -> Callable[[torch.Tensor], None]:
        """Keep a copy of uint8 [count] off the device.

        Returns:
            What copies it back into uint8 [count] on the device; raises DataUnavailable where it
            cannot be read.

        Raises:
            DataUnavailable: there is no room for the copy.
        """

    def used_bytes(self) -> int:
        """In use on the device by this process, measured."""

    def trim(self) -> None:
        """Make the allocator give back what it holds in vain."""

    def synchronise(self) -> None:
        """Wait until the device has done what it was told: before a clock is read."""

    def close(self) -> None:
        """Let go of the stored copies; regions stay."""


class _HostRegion:
    """An anonymous mapping that cannot be unmapped under a tensor."""

    def __init__(self, count: int) -> None:
        # Shared mappings, Python's default, would be shared memory: not anonymous, no RLIMIT_DATA.
        self._mapping = mmap.mmap(-1, count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.bytes = self._whole()

    def _whole(self) -> torch.Tensor:
        # By way of NumPy, whose arrays lock the mapping for as long as a tensor shares their
        # memory; torch.frombuffer does not, and close() would leave its tensors dangling.
        return torch.from_numpy(np.frombuffer(self._mapping, dtype=np.uint8))

    def close(self) -> None:
        self.bytes = torch.empty(0, dtype=torch.uint8)
        try:
            self._mapping.close()
        except BufferError:
            self.bytes = self._whole()
            raise


@dataclass(frozen=True, slots=True)
class _FileCopy:
    """A stretch of the backing file."""

    file: IO[bytes]
    start: int

    def __call__(self, target: torch.Tensor) -> None:
        room, done = target.numpy().data, 0
        while done < len(room):  # one call reads at most 2 GiB
            try:
                count = os.preadv(self.file.fileno(), [room[done:]], self.start + done)
            except (OSError, ValueError) as error:  # ValueError: the file is closed
                raise DataUnavailable(f"{_LOST}: {error}") from error
            if not count:
                raise DataUnavailable(f"{_LOST}: it ends too early")
            done += count


_LOST = "weights cannot be read back from the backing file; load the model again"


class HostMemory:
    """A CPU's memory: an anonymous mapping for each region, copies in a file without a name.

    What is closed leaves the process at once: resident memory and what RLIMIT_DATA counts both
    fall. The file has no name, so nothing is left of it however the process ends. The page cache
    may hold its bytes, which the system takes back when it needs room.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Open the backing file.

        Args:
            folder: on a disk (on a memory file system nothing would be freed for the machine);
                the system's temporary folder where None.
        """
        self._folder = str(folder or tempfile.gettempdir())
        self._file: IO[bytes] = tempfile.TemporaryFile(buffering=0, dir=folder)  # noqa: SIM115
        self._end = 0

    def reserve(self, count: int) -> Region:
        return _HostRegion(count)

    def store(self, content: torch.Tensor) -> Callable[[torch.Tensor], None]:
        start, done = self._end, 0
        source = content.numpy().data
        try:
            while done < len(source):
                done += os.pwrite(self._file.fileno(), source[done:], start + done)
        except OSError as error:
            os.ftruncate(self._file.fileno(), start)
            raise DataUnavailable(
                f"{len(source) / MIB:.1f} MiB of weights could not be written to a file in "
                f"{self._folder} ({error.strerror}) after {start / MIB:.1f} MiB: make room there, "
                "or choose another folder with TMPDIR or HostMemory(folder)"
            ) from error
        self._end += done
        return _FileCopy(self._file, start)

    def used_bytes(self) -> int:
        """Anonymous memory of this process; raises as `probe.anonymous_bytes` does."""
        return probe.anonymous_bytes()

    def trim(self) -> None:
        probe.trim()

    def synchronise(self) -> None:
        """A CPU has done what it was told when the call returns."""

    def close(self) -> None:
        self._file.close()


class _CudaRegion:
    """A segment of torch's allocator that holds nothing else: a pool of its own."""

    def __init__(self, count: int, device: torch.device) -> None:
        # In the shared pool a region might get the rest of a segment that others keep alive.
        self._pool: Any = torch.cuda.MemPool()
        with torch.cuda.use_mem_pool(self._pool, device):
            whole = torch.empty(
                max(count, CUDA_OWN_SEGMENT_BYTES), dtype=torch.uint8, device=device
            )
        self.bytes = whole[:count]

    def close(self) -> None:
        # A tensor that still points here keeps its segment alive: nothing dangles on CUDA.
        self.bytes = torch.empty(0, dtype=torch.uint8)
        self._pool = None
        torch.cuda.empty_cache()  # else the allocator keeps the segment for itself


class CudaMemory:
    """A GPU's memory: a segment for each region, copies in pinned host memory.

    A region takes 10 MiB at least. Not yet tried on a GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def reserve(self, count: int) -> Region:
        return _CudaRegion(count, self.device)

    def store(self, content: torch.Tensor) -> Callable[[torch.Tensor], None]:
        try:
            copy = torch.empty(len(content), dtype=torch.uint8, pin_memory=True)
        except RuntimeError as error:
            raise DataUnavailable(
                f"{len(content) / MIB:.1f} MiB of pinned host memory cannot be had for weights that "
                "leave the GPU: raise `ulimit -l`, or use a machine with more memory"
            ) from error
        copy.copy_(content)

        def fill(target: torch.Tensor) -> None:
            target.copy_(copy, non_blocking=True)

        return fill

    def used_bytes(self) -> int:
        """What torch's allocator holds on the device, by its own figure."""
        return torch.cuda.memory_reserved(self.device)

    def trim(self) -> None:
        torch.cuda.empty_cache()

    def synchronise(self) -> None:
        torch.cuda.synchronize(self.device)

    def close(self) -> None:
        """Pinned copies go with the blocks that hold them."""


def memory_of(device: torch.device) -> DeviceMemory:
    """The memory of a device."""
    return CudaMemory(device) if device.type == "cuda" else HostMemory()
