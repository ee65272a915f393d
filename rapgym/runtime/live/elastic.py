"""A live model whose blocks leave memory and return."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from rapgym.arrays import BoolArray, IntArray
from rapgym.errors import InvalidSpec
from rapgym.files.closing import Closing
from rapgym.runtime.layers import layers_of
from rapgym.runtime.live.block_weights import BlockWeights
from rapgym.runtime.live.caches import LiveCaches
from rapgym.runtime.live.device_memory import DeviceMemory, memory_of
from rapgym.runtime.model import LoadedModel, check_layers


@dataclass(frozen=True, slots=True)
class Moved:
    """What one change of the kept set moved, and how long it took."""

    dropped_bytes: int = 0  # of weights, by their shapes
    restored_bytes: int = 0  # of weights, by their shapes
    kv_bytes: int = 0  # of keys and values that went with dropped attention, by their shapes
    freed_bytes: int = 0  # by dropping, measured on the device
    taken_bytes: int = 0  # by restoring, measured on the device
    drop_s: float = 0.0
    restore_s: float = 0.0


class _NoAttention(nn.Module):
    def forward(self, hidden_states: torch.Tensor, **_: Any) -> tuple[torch.Tensor, None]:
        return hidden_states.new_zeros(()), None


class _NoFFN(nn.Module):
    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states.new_zeros(())


class ElasticModel(Closing):
    """A model whose kept set changes while it lives.

    A block that is dropped leaves memory and adds nothing to the residual stream; the network is
    called as ever, `network.generate` too. Norms and biases stay. Every KV cache that the network
    sees is made to agree with the kept set, or refused.
    """

    def __init__(self, loaded: LoadedModel, memory: DeviceMemory | None = None) -> None:
        """Move the weights of each block into memory of their own.

        Args:
            memory: which this object closes in the end; that of the model's device where None.

        Raises:
            InvalidSpec: the model's blocks cannot be told apart, or attend through a window.
            DataUnavailable: there is no room for copies of the weights. The network runs on.
        """
        self.name, self.network = loaded.name, loaded.network
        check_layers(self.name, self.network)
        self._caches = LiveCaches(self.name, self.network.config)
        self._layers = layers_of(self.network)
        self._modules = [view.block(kind) for view in self._layers for kind in range(2)]
        self._absent = (_NoAttention(), _NoFFN())
        self.memory = memory or memory_of(self.network.device)
        try:
            with torch.inference_mode(False):
                self._weights = self._converted()
        except BaseException:
            self.memory.close()
            raise
        self.memory.trim()
        self._kept = np.ones(self.blocks, dtype=bool)
        self._sequences = 0
        self._closed = False
        self._hook = self.network.model.register_forward_pre_hook(
            self._before_forward, with_kwargs=True
        )

    def _converted(self) -> list[BlockWeights]:
        # Norms and biases are vectors, the weights of linear layers matrices.
        matrices = [[w for w in module.parameters() if w.ndim > 1] for module in self._modules]
        leaving = [weight for block in matrices for weight in block]
        if len({id(weight) for weight in leaving}) != len(leaving) or not all(matrices):
            raise InvalidSpec(f"{self.name}: blocks share weights or have none, so none can leave")
        storages = {weight.untyped_storage().data_ptr() for weight in leaving}
        weights = [
            BlockWeights(f"{self.name}, block {block}", found, self.memory)
            for block, found in enumerate(matrices)
        ]
        for tensor in (*self.network.parameters(), *self.network.buffers()):
            # What stays must not keep alive the file or array in which all weights lay.
            if tensor.untyped_storage().data_ptr() in storages:
                tensor.data = tensor.data.clone()
        return weights

    @property
    def blocks(self) -> int:
        """N."""
        return len(self._modules)

    @property
    def block_bytes(self) -> IntArray:
        """Bytes of weights that leave with each block, int64 [N]."""
        return np.array([weights.bytes for weights in self._weights], dtype=np.int64)

    @property
    def kept(self) -> BoolArray:
        """Which blocks are in memory, bool [N]."""
        return self._kept.copy()

    @property
    def in_flight(self) -> bool:
        """Whether sequences are being served."""
        return self._sequences > 0

    @contextmanager
    def sequences(self) -> Iterator[None]:
        """Sequences are served while this lasts: attention may leave, but not return."""
        self._sequences += 1
        try:
            yield
        finally:
            self._sequences -= 1

    def cache(self) -> Any:
        """An empty KV cache for the kept set of now, a transformers DynamicCache.

        Caches that come from elsewhere, as in `generate`, are put right when the network first
        sees them.
        """
        return self._caches.fresh(self._kept)

    def _before_forward(self, _: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, self._caches.checked(self._kept, args, kwargs)

    def apply(self, kept: BoolArray) -> Moved:
        """Bring memory to this kept set: drop what leaves, then restore what returns.

        Dropping is lawful in mid-sequence: live caches are told and give up the keys and values of
        dropped attention. An FFN block may return in mid-sequence, attention may not.

        Args:
            kept: bool [N], with at least one attention block.

        Raises:
            InvalidSpec: this kept set is not lawful now; nothing was done. Or: a block stays since
                another tensor points to its weights.
            DataUnavailable: weights could not be read back.
            OSError, RuntimeError: there is no room for blocks that return.
            Where it raises after the first blocks have moved, `kept` says what is in memory, and
            the model runs on with that.
        """
        kept = np.asarray(kept)
        self._check(kept)
        leaving = np.flatnonzero(self._kept & ~kept).tolist()
        returning = np.flatnonzero(kept & ~self._kept).tolist()
        if not leaving and not returning:
            return Moved()
        dropped = self.block_bytes[leaving].sum()
        restored = self.block_bytes[returning].sum()
        with torch.inference_mode(False):
            before = self.memory.used_bytes()
            drop_s, kv_bytes = self._drop(leaving) if leaving else (0.0, 0)
            between = self.memory.used_bytes() if leaving else before
            restore_s = self._restore(returning) if returning else 0.0
            after = self.memory.used_bytes() if returning else between
        return Moved(
            int(dropped), int(restored), kv_bytes, before - between, after - between,
            drop_s, restore_s,
        )  # fmt: skip

    def _check(self, kept: BoolArray) -> None:
        if self._closed:
            raise InvalidSpec(f"{self.name} was closed: its blocks no longer leave or return")
        if kept.dtype != bool or kept.shape != (self.blocks,):
            raise InvalidSpec(
                f"a kept set of {self.name} is bool [{self.blocks}], not {kept.dtype} "
                f"{list(kept.shape)}"
            )
        if not kept[0::2].any():
            raise InvalidSpec(
                "at least one attention block must stay: without any, no token sees another and "
                "a KV cache has no length"
            )
        returning = np.flatnonzero(kept[0::2] & ~self._kept[0::2]).tolist()
        if self.in_flight and returning:
            raise InvalidSpec(
                f"attention of layers {returning} cannot return while sequences are in flight: "
                "their KV cache lacks its keys and values; restore it between batches"
            )

    def _drop(self, leaving: Sequence[int]) -> tuple[float, int]:
        """Returns seconds and bytes of keys and values that went too."""
        self.memory.synchronise()
        began_s = time.perf_counter()
        try:
            for block in leaving:
                self._weights[block].drop()
                self._set_module(block, self._absent[block % 2])
                self._kept[block] = False
        finally:  # of what has left, where a block stays
            kv_bytes = self._caches.prune(self._kept)
        if kv_bytes:
            self.memory.trim()  # a cache's tensors come from the allocator, not from a region
        self.memory.synchronise()
        return time.perf_counter() - began_s, kv_bytes

    def _restore(self, returning: Sequence[int]) -> float:
        """Returns seconds."""
        self.memory.synchronise()
        began_s = time.perf_counter()
        for block in returning:
            self._weights[block].restore()
            self._set_module(block, self._modules[block])
            self._kept[block] = True
        self.memory.synchronise()
        return time.perf_counter() - began_s

    def _set_module(self, block: int, module: nn.Module) -> None:
        self._layers[block // 2].put(block % 2, module)

    def close(self) -> None:
        """Put all blocks back and let go of their copies; the network is then an ordinary one.

        Raises:
            As `apply`: some blocks could not be put back. Copies are let go all the same.
        """
        if self._closed:
            return
        self._closed = True
        try:
            with torch.inference_mode(False):
                self._restore(np.flatnonzero(~self._kept).tolist())
            self._hook.remove()
        finally:
            self.memory.close()
