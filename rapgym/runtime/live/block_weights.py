"""The weights of one block: in device memory of their own, or away."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from rapgym.errors import InvalidSpec
from rapgym.runtime.live.device_memory import DeviceMemory, Region

ALIGNMENT = 64  # bytes, what torch's own CPU allocator gives


class BlockWeights:
    """Weights that move into a region of their own and from then on leave and return as one.

    Each step is done as a whole or, where it raises, not at all.
    """

    def __init__(self, name: str, weights: Sequence[Any], memory: DeviceMemory) -> None:
        """Move the weights of a block into one region and store a copy off the device.

        Args:
            name: of the block, for messages.
            weights: parameters; they are re-pointed, so modules that hold them go on working.

        Raises:
            DataUnavailable: there is no room for the copy.
            OSError, RuntimeError: there is no room for the region.
        """
        self.name, self._weights, self._memory = name, tuple(weights), memory
        self._shapes = [(weight.dtype, weight.shape) for weight in weights]
        self.bytes = sum(weight.nbytes for weight in weights)
        places = [-(-weight.nbytes // ALIGNMENT) * ALIGNMENT for weight in weights]
        self._bounds = np.cumsum([0, *places]).tolist()
        # Where a step fails its region is let go and not closed: the error's traceback may point
        # into it a little longer, and unmapping waits for that.
        region = memory.reserve(self._bounds[-1])
        for view, weight in zip(self._views(region), weights, strict=True):
            view.copy_(weight.detach())
        self._fill = memory.store(region.bytes)
        self._place(region)

    @property
    def present(self) -> bool:
        """Whether the weights are on the device."""
        return self._region is not None

    def _views(self, region: Region) -> list[torch.Tensor]:
        """The weights as they lie in a region."""
        return [
            region.bytes[start:stop][: dtype.itemsize * shape.numel()].view(dtype).view(shape)
            for (start, stop), (dtype, shape) in zip(
                pairwise(self._bounds), self._shapes, strict=True
            )
        ]

    def _place(self, region: Region) -> None:
        for weight, view in zip(self._weights, self._views(region), strict=True):
            weight.data = view
        self._region: Region | None = region

    def drop(self) -> None:
        """Take the weights off the device.

        Raises:
            InvalidSpec: another tensor points to them, so their memory could not be freed; they
                stay.
        """
        region = self._region
        if region is None:
            return
        for weight in self._weights:
            weight.data = torch.empty(0, dtype=weight.dtype, device=weight.device)
        try:
            region.close()
        except BufferError as error:
            self._place(region)
            raise InvalidSpec(
                f"{self.name} stays: another tensor points to its weights, whose memory cannot be "
                "freed under it; let go of views of weights before blocks are dropped"
            ) from error
        self._region = None

    def restore(self) -> None:
        """Bring the weights back.

        Raises:
            DataUnavailable: the copy cannot be read.
            OSError, RuntimeError: there is no room.
        """
        if self.present:
            return
        region = self._memory.reserve(self._bounds[-1])
        self._fill(region.bytes)
        self._place(region)
