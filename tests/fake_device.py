"""A device that exists in its own books only: regions in segments, an allocator's figure, a limit."""

from collections.abc import Callable

import torch


class _Region:
    def __init__(self, device: "FakeDevice", count: int) -> None:
        self._device, self.bytes = device, torch.empty(count, dtype=torch.uint8)
        self._held = -(-count // device.segment_bytes) * device.segment_bytes
        device.held_bytes += self._held
        if device.limit_bytes is not None and device.held_bytes > device.limit_bytes:
            device.held_bytes -= self._held
            raise RuntimeError("out of memory")

    def close(self) -> None:
        self._device.held_bytes -= self._held
        self.bytes = torch.empty(0, dtype=torch.uint8)


class FakeDevice:
    """Follows the `DeviceMemory` protocol; tensors lie in ordinary memory."""

    def __init__(self, segment_bytes: int) -> None:
        self.segment_bytes = segment_bytes
        self.limit_bytes: int | None = None
        self.held_bytes = 0
        self.trimmed = 0
        self.closed = False

    def reserve(self, count: int) -> _Region:
        return _Region(self, count)

    def store(self, content: torch.Tensor) -> Callable[[torch.Tensor], None]:
        copy = content.clone()

        def fill(target: torch.Tensor) -> None:
            target.copy_(copy)

        return fill

    def used_bytes(self) -> int:
        return self.held_bytes

    def trim(self) -> None:
        self.trimmed += 1

    def synchronise(self) -> None:
        """Nothing is ever under way."""

    def close(self) -> None:
        self.closed = True
