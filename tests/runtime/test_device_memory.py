"""Regions leave the process at once and never under a tensor; copies come back as they were."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from rapgym.errors import DataUnavailable, InvalidSpec
from rapgym.runtime.live import device_memory
from rapgym.runtime.live.block_weights import BlockWeights
from rapgym.runtime.live.device_memory import MIB, CudaMemory, HostMemory, memory_of

NOISE_BYTES = 256 * 1024


@pytest.fixture
def host(tmp_path: Path) -> Iterator[HostMemory]:
    memory = HostMemory(tmp_path)
    yield memory
    memory.close()


def status_bytes(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024


def test_a_region_counts_while_it_is_open(host: HostMemory) -> None:
    first = host.reserve(32 * MIB)
    first.bytes.fill_(1)  # starts torch's threads, whose stacks count as well
    first.close()
    used, data = host.used_bytes(), status_bytes("VmData")
    region = host.reserve(32 * MIB)
    region.bytes.fill_(1)
    assert abs(host.used_bytes() - used - 32 * MIB) < NOISE_BYTES
    assert abs(status_bytes("VmData") - data - 32 * MIB) < NOISE_BYTES
    resident = status_bytes("VmRSS")
    region.close()
    assert abs(host.used_bytes() - used) < NOISE_BYTES
    assert abs(status_bytes("VmData") - data) < NOISE_BYTES
    assert abs(resident - status_bytes("VmRSS") - 32 * MIB) < NOISE_BYTES


def test_a_region_is_not_closed_under_a_tensor(host: HostMemory) -> None:
    region = host.reserve(4096)
    view = region.bytes[64:128].view(torch.float32)
    view.fill_(1.5)
    with pytest.raises(BufferError):
        region.close()
    assert (view == 1.5).all()
    assert (region.bytes[64:128].view(torch.float32) == 1.5).all(), "nothing was done"
    del view
    region.close()


def test_copies_come_back_as_they_were(host: HostMemory) -> None:
    contents = [torch.randint(0, 256, (count,), dtype=torch.uint8) for count in (1, 5000, 3 * MIB)]
    fills = [host.store(content) for content in contents]
    for content, fill in reversed(list(zip(contents, fills, strict=True))):
        target = torch.zeros_like(content)
        fill(target)
        assert torch.equal(target, content)


def test_the_backing_file_has_no_name(host: HostMemory, tmp_path: Path) -> None:
    host.store(torch.zeros(4096, dtype=torch.uint8))
    assert list(tmp_path.iterdir()) == []


def test_a_copy_for_which_there_is_no_room_leaves_nothing_behind(host: HostMemory) -> None:
    content = torch.arange(10_000).to(torch.uint8)
    fill = host.store(content)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (15_000, before[1]))
    try:
        with pytest.raises(DataUnavailable, match=r"could not be written .* make room there"):
            host.store(content)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.fstat(host._file.fileno()).st_size == len(content)
    target = torch.zeros_like(content)
    for stored in (fill, host.store(content)):
        stored(target.zero_())
        assert torch.equal(target, content)


def test_a_copy_that_is_cut_short_or_closed_is_an_error(host: HostMemory) -> None:
    fill, target = host.store(torch.ones(8192, dtype=torch.uint8)), torch.zeros(8192).byte()
    os.ftruncate(host._file.fileno(), 5000)
    with pytest.raises(DataUnavailable, match="it ends too early"):
        fill(target)
    host.close()
    with pytest.raises(DataUnavailable, match="load the model again"):
        fill(target)


def test_weights_of_several_kinds_move_as_one(host: HostMemory) -> None:
    kinds = ((torch.bfloat16, (3, 5)), (torch.float32, (7, 2)), (torch.int8, (1, 9)))
    weights = [
        torch.nn.Parameter(torch.randint(-9, 9, shape).to(dtype), requires_grad=False)
        for dtype, shape in kinds
    ]
    before = [weight.detach().clone() for weight in weights]
    block = BlockWeights("block 0", weights, host)
    assert block.bytes == 3 * 5 * 2 + 7 * 2 * 4 + 9
    for _ in range(2):
        assert all(torch.equal(w, b) for w, b in zip(weights, before, strict=True))
        assert all(weight.data_ptr() % 64 == 0 for weight in weights)
        block.drop()
        assert not block.present
        assert [weight.numel() for weight in weights] == [0, 0, 0]
        block.drop()  # what is gone stays gone
        block.restore()
        block.restore()
    view = weights[1][0]
    with pytest.raises(InvalidSpec, match="block 0 stays"):
        block.drop()
    assert block.present
    assert torch.equal(view, before[1][0])


class FakeCuda:
    """Books of torch's CUDA allocator as far as `CudaMemory` relies on it, on ordinary memory.

    A segment belongs to a pool and is given back by `empty_cache` once its pool is gone.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.segments: list[tuple[Any, int]] = []  # a pool's liveness, bytes
        self.pool: Any = None
        self.pinned_bytes = 0
        self._empty = torch.empty
        books = self

        class MemPool:
            def __init__(self) -> None:
                self.alive = [True]

            def __del__(self) -> None:
                self.alive[0] = False

        @contextmanager
        def use_mem_pool(pool: MemPool, device: torch.device) -> Iterator[None]:
            books.pool = pool
            yield
            books.pool = None

        def empty(count: int, **options: Any) -> torch.Tensor:
            if options.pop("pin_memory", False):
                books.pinned_bytes += count
            elif books.pool is not None:
                books.segments.append((books.pool.alive, -(-count // (2 * MIB)) * 2 * MIB))
            return books._empty(count, **options)

        def empty_cache() -> None:
            books.segments = [s for s in books.segments if s[0][0]]

        patch.setattr(torch.cuda, "MemPool", MemPool)
        patch.setattr(torch.cuda, "use_mem_pool", use_mem_pool)
        patch.setattr(torch.cuda, "empty_cache", empty_cache)
        patch.setattr(torch.cuda, "synchronize", lambda device: None)
        patch.setattr(
            torch.cuda, "memory_reserved", lambda device: sum(s[1] for s in books.segments)
        )
        patch.setattr(torch, "empty", empty)


def test_cuda_blocks_have_segments_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(monkeypatch)
    memory = CudaMemory(torch.device("cpu"))
    weights = [torch.nn.Parameter(torch.randn(2048, 2000), requires_grad=False) for _ in range(2)]
    small = torch.nn.Parameter(torch.randn(64, 64), requires_grad=False)
    before = [weight.detach().clone() for weight in weights]
    blocks = [BlockWeights(f"block {n}", [w], memory) for n, w in enumerate((*weights, small))]
    assert cuda.pinned_bytes == sum(block.bytes for block in blocks)
    full = memory.used_bytes()
    assert full == (16 + 16 + 10) * MIB, "15.6 MiB twice in steps of 2 MiB, and the least of 10"
    blocks[1].drop()
    assert memory.used_bytes() == full - 16 * MIB
    memory.trim()
    assert memory.used_bytes() == full - 16 * MIB, "what is in use stays"
    blocks[1].restore()
    memory.synchronise()
    assert memory.used_bytes() == full
    assert all(torch.equal(w, b) for w, b in zip(weights, before, strict=True))
    memory.close()


def test_pinned_memory_that_is_not_to_be_had_is_an_error() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is some here")
    memory = CudaMemory(torch.device("cuda"))
    with pytest.raises(DataUnavailable, match="pinned host memory cannot be had"):
        memory.store(torch.zeros(16, dtype=torch.uint8))


def test_the_device_decides_where_weights_lie() -> None:
    assert isinstance(memory_of(torch.device("cuda", 0)), CudaMemory)
    host = memory_of(torch.device("cpu"))
    assert isinstance(host, device_memory.HostMemory)
    host.close()
