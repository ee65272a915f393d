"""transformers' KV caches that live beside a model whose attention blocks leave."""

import weakref
from typing import Any

import numpy as np
from transformers.cache_utils import Cache, DummyLayer, DynamicCache, DynamicLayer

from rapgym.arrays import BoolArray
from rapgym.errors import InvalidSpec

# Of a model's forward, before past_key_values.
POSITIONAL = ("input_ids", "attention_mask", "position_ids")


class LiveCaches:
    """Every cache that the network has seen and that still lives, kept true to the kept set.

    A layer whose attention is dropped becomes a DummyLayer. Otherwise transformers, which reads a
    cache's length from layer 0, goes wrong without an error where that layer's attention is gone.
    """

    def __init__(self, name: str, config: Any) -> None:
        """Of the model with this name, for messages, and configuration.

        Raises:
            InvalidSpec: its attention sees a window.
        """
        self._name, self._config = name, config
        self._seen: weakref.WeakSet[Cache] = weakref.WeakSet()
        if any(type(layer) is not DynamicLayer for layer in DynamicCache(config=config).layers):
            raise InvalidSpec(
                f"{name}: attention through a window is not served; use a model without it"
            )

    def fresh(self, kept: BoolArray) -> DynamicCache:
        """An empty cache for this kept set, bool [N]."""
        cache = DynamicCache(config=self._config)
        self._prune(cache, kept)
        return cache

    def prune(self, kept: BoolArray) -> int:
        """Take from all caches what dropped attention held there; returns bytes."""
        return sum(self._prune(cache, kept) for cache in list(self._seen))

    def _prune(self, cache: Any, kept: BoolArray) -> int:
        self._seen.add(cache)
        count = 0
        for index in np.flatnonzero(~kept[0::2]).tolist():
            layer = cache.layers[index]
            if not isinstance(layer, DummyLayer):
                held = (getattr(layer, "keys", None), getattr(layer, "values", None))
                count += sum(states.nbytes for states in held if states is not None)
                cache.layers[index] = DummyLayer()
        return count

    def checked(self, kept: BoolArray, args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        """A forward pass's keyword arguments, with a KV cache that agrees with the kept set.

        Raises:
            InvalidSpec: attention is kept of which the cache holds nothing.
        """
        if len(args) > len(POSITIONAL):
            raise InvalidSpec("pass past_key_values by name to a model whose blocks may leave")
        cache: Any = kwargs.get("past_key_values")
        if cache is None:
            use_cache = kwargs.get("use_cache")
            if self._config.use_cache if use_cache is None else use_cache:
                kwargs = {**kwargs, "past_key_values": self.fresh(kept)}
            return kwargs
        if len(cache.layers) < len(kept) // 2:  # made without a config, it grows layer by layer
            cache.layers.extend(DynamicCache(config=self._config).layers[len(cache.layers) :])
        self._prune(cache, kept)
        for index in np.flatnonzero(kept[0::2]).tolist():
            if isinstance(cache.layers[index], DummyLayer):
                raise InvalidSpec(
                    f"{self._name}: attention of layer {index} came back while this KV cache was "
                    "in use, which lacks its keys and values: restart these sequences with a "
                    "new cache"
                )
        return kwargs
