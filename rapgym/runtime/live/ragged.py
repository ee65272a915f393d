"""A KV cache without padding: each request has a stretch of its own.

A kept attention layer holds keys and values of exactly prompt + reserve tokens of every request,
one stretch behind the other, in one region of its own: reserved when the batch begins, given back
when the layer is dropped or the batch ends.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch

from rapgym.model.shapes import KVFormat
from rapgym.runtime.live.device_memory import Region
from rapgym.runtime.rounding import INT8_LEVELS


class Room(Protocol):
    """What a KV cache asks of a `DeviceMemory`."""

    def reserve(self, count: int) -> Region:
        """That many bytes, at least one, that share nothing with other regions.

        Raises:
            OSError, RuntimeError: there is no room.
        """

    def synchronise(self) -> None:
        """Wait until the device has done what it was told: before a clock is read."""


@dataclass(frozen=True, slots=True)
class KVShape:
    """How one token's keys and values are stored."""

    heads: int
    head_dim: int
    dtype: torch.dtype  # the model's
    form: KVFormat = "bf16"  # int8, or else as they come, in the model's dtype

    @property
    def head_bytes(self) -> int:
        """Of a key or a value in one head."""
        if self.form == "int8":
            return self.head_dim + torch.bfloat16.itemsize  # and its scale
        return self.head_dim * self.dtype.itemsize

    @property
    def token_bytes(self) -> int:
        """Of one token in one layer, keys and values: what `memory.kv_token_bytes` counts."""
        return 2 * self.heads * self.head_bytes


class LayerKV:
    """Keys and values of one attention layer for every token of a batch."""

    def __init__(self, shape: KVShape, tokens: int, room: Room) -> None:
        self._shape, self._tokens = shape, tokens
        self._region = room.reserve(tokens * shape.token_bytes)
        self._region.bytes.zero_()  # a mapping takes no memory before its pages are written
        self._view()

    def _view(self) -> None:
        shape, whole = self._shape, self._region.bytes
        rows = (2, self._tokens, shape.heads)  # keys, then values
        stored = torch.int8 if shape.form == "int8" else shape.dtype
        end = 2 * self._tokens * shape.heads * shape.head_dim * stored.itemsize
        self._values = whole[:end].view(stored).view(*rows, shape.head_dim)
        scales = whole[end:].view(torch.bfloat16)
        self._scales = scales.view(*rows, 1) if shape.form == "int8" else None

    @property
    def bytes(self) -> int:
        return self._region.bytes.numel()

    def write(self, slots: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
        """Store tokens, [T, heads, head_dim] each, at slots, int64 [T]."""
        for index, states in enumerate((key, value)):
            if self._scales is not None:
                exact = states.float()
                scale = (exact.abs().amax(-1, keepdim=True) / INT8_LEVELS).bfloat16()
                divisor = scale.float().where(scale != 0, 1)
                self._scales[index, slots] = scale
                states = (exact / divisor).round().clamp(-INT8_LEVELS, INT8_LEVELS).to(torch.int8)
            self._values[index, slots] = states

    def read(self, first: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of slots first ... stop - 1, [1, heads, stop - first, head_dim] each."""
        values = self._values[:, first:stop]
        if self._scales is not None:
            scales = self._scales[:, first:stop]
            values = (values.float() * scales.float()).to(self._shape.dtype)
        key, value = values.transpose(1, 2)[:, None]
        return key, value

    def close(self) -> None:
        """Give the memory back.

        Raises:
            BufferError: a tensor still points into it; nothing was done.
        """
        self._values, self._scales = torch.empty(0), None
        try:
            self._region.close()
        except BufferError:
            self._view()
            raise


class RaggedCache:
    """The KV cache of a batch: slots of every request in each of some layers."""

    def __init__(self, shape: KVShape, tokens: int, layers: Iterable[int], room: Room) -> None:
        """Reserve `tokens` slots in each layer; where there is no room, all is given back."""
        self.layers: dict[int, LayerKV] = {}
        try:
            for layer in layers:
                self.layers[layer] = LayerKV(shape, tokens, room)
        except BaseException:
            self.close()
            raise

    @property
    def bytes(self) -> int:
        """Reserved now."""
        return sum(layer.bytes for layer in self.layers.values())

    def drop(self, layers: Iterable[int]) -> None:
        """Give back what these layers hold, where they hold something.

        Raises:
            BufferError: a tensor still points there; that layer and those behind it stay.
        """
        for layer in layers:
            if found := self.layers.get(layer):
                found.close()
                del self.layers[layer]

    def close(self) -> None:
        """Give everything back."""
        for layer in self.layers.values():
            try:
                layer.close()
            except BufferError:
                # The traceback of an error inside a forward pass points there for as long as it is
                # handled. With it goes the last that keeps the region.
                continue
        self.layers.clear()
