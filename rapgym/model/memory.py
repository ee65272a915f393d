"""Bytes: of weights, of the KV cache, of one block, of a kept set. Exact integers."""

from dataclasses import dataclass

import numpy as np

from rapgym.arrays import BoolArray, IntArray
from rapgym.errors import InvalidSpec
from rapgym.model.profiles import IDEAL, DeviceProfile
from rapgym.model.shapes import BF16, Format, ModelSpec, WeightFormat

BF16_BYTES = 2
INT4_GROUP = 64  # weights of one row that share a scale


def linear_bytes(out_features: int, in_features: int, weights: WeightFormat) -> int:
    """Bytes of one weight matrix with its scales.

    int8 carries one bf16 scale an output channel; int4 one for each group of 64 weights of a
    channel, the last group possibly short.
    """
    count = out_features * in_features
    if weights == "bf16":
        return BF16_BYTES * count
    if weights == "int8":
        return count + BF16_BYTES * out_features
    if weights == "int4":
        groups = -(-in_features // INT4_GROUP)
        return -(-count // 2) + BF16_BYTES * out_features * groups
    raise InvalidSpec(f"no weight format {weights!r}; there are bf16, int8, int4")


def attention_bytes(model: ModelSpec, weights: WeightFormat = "bf16") -> int:
    """Weights of one attention block: query, key, value and output projections.

    Source: shapes of grouped-query attention, arXiv:2305.13245.
    """
    query, kv = model.query_heads * model.head_dim, model.kv_heads * model.head_dim
    return (
        linear_bytes(query, model.hidden, weights)
        + 2 * linear_bytes(kv, model.hidden, weights)
        + linear_bytes(model.hidden, query, weights)
    )


def ffn_bytes(model: ModelSpec, weights: WeightFormat = "bf16") -> int:
    """Weights of one gated FFN block: gate, up and down projections (arXiv:2002.05202)."""
    up = linear_bytes(model.ffn_dim, model.hidden, weights)
    return 2 * up + linear_bytes(model.hidden, model.ffn_dim, weights)


def kv_token_bytes(model: ModelSpec, kv: str = "bf16") -> int:
    """Bytes of keys and values that one kept attention block holds for one token.

    int8 carries one bf16 scale a token and head, for keys and for values.
    """
    if kv == "bf16":
        return 2 * model.kv_heads * model.head_dim * BF16_BYTES
    if kv == "int8":
        return 2 * model.kv_heads * (model.head_dim + BF16_BYTES)
    raise InvalidSpec(f"no KV format {kv!r}; there are bf16, int8")


def model_kv_token_bytes(model: ModelSpec, kv: str = "bf16") -> int:
    """The same over all layers of the full model."""
    return model.layers * kv_token_bytes(model, kv)


def embedding_bytes(model: ModelSpec) -> int:
    """What is never dropped: embeddings, head, norms and biases, in bf16 in every format."""
    matrices = 1 if model.tied else 2
    norms = (2 * model.layers + 1) * model.hidden
    norms += 2 * model.head_dim * model.layers * model.qk_norm
    biases = (model.query_heads + 2 * model.kv_heads) * model.head_dim * model.layers
    count = matrices * model.vocabulary * model.hidden + norms + biases * model.qkv_bias
    return BF16_BYTES * count


def weight_bytes(model: ModelSpec, form: Format = BF16) -> int:
    """All weights of the dense model."""
    blocks = attention_bytes(model, form.weights) + ffn_bytes(model, form.weights)
    return embedding_bytes(model) + model.layers * blocks


def spent(kept: BoolArray, costs: IntArray) -> IntArray:
    """Bytes of the kept blocks together.

    Args:
        kept: bool [..., N].
        costs: bytes of each block if kept, int64 [..., N].

    Returns:
        int64 [...].
    """
    total: IntArray = np.vecdot(kept, costs)
    return total


@dataclass(frozen=True, slots=True)
class Footprint:
    """Everything that decides how many bytes a kept set takes for a demand."""

    layers: int  # L, of the quality table
    attention_bytes: int  # weights of one attention block
    ffn_bytes: int  # weights of one FFN block
    model_kv_token_bytes: int  # KV cache of one token in all L attention blocks together
    fixed_bytes: int  # embeddings, head, norms, biases and the runtime's context
    activation_bytes_per_token: float  # of the batch's prompt tokens
    margin_bytes: int

    @property
    def weights(self) -> IntArray:
        """Weights of each block, int64 [N]."""
        return np.tile(np.array([self.attention_bytes, self.ffn_bytes]), self.layers)

    def kv_bytes(self, tokens: IntArray) -> IntArray:
        """KV cache of one kept attention block: int64 [...] -> [...], rounded up to the byte."""
        whole = self.model_kv_token_bytes * np.asarray(tokens, dtype=np.int64)
        found: IntArray = -(-whole // self.layers)
        return found

    def kept_attention_bytes(self, tokens: IntArray) -> IntArray:
        """Weights and KV cache of one kept attention block: int64 [...] -> [...]."""
        return self.attention_bytes + self.kv_bytes(tokens)

    def block_bytes(self, tokens: IntArray) -> IntArray:
        """What each block costs if kept, KV cache included: tokens int64 [...] -> [..., N]."""
        tokens = np.asarray(tokens, dtype=np.int64)
        costs = np.empty((*tokens.shape, 2 * self.layers), dtype=np.int64)
        costs[..., 0::2] = self.kept_attention_bytes(tokens)[..., None]
        costs[..., 1::2] = self.ffn_bytes
        return costs

    def overhead_bytes(self, prompt_tokens: IntArray) -> IntArray:
        """Bytes that no kept set avoids for this demand: int64 [...] -> [...]."""
        return self._activation_bytes(prompt_tokens) + self.fixed_bytes

    def budget_bytes(self, limit_bytes: IntArray, prompt_tokens: IntArray) -> IntArray:
        """What blocks may take under a limit for this demand: int64 [...], [...] -> [...]."""
        always = self.fixed_bytes + self.margin_bytes
        return limit_bytes - (self._activation_bytes(prompt_tokens) + always)

    def _activation_bytes(self, prompt_tokens: IntArray) -> IntArray:
        return np.ceil(np.asarray(prompt_tokens) * self.activation_bytes_per_token).astype(np.int64)

    def used_bytes(self, kept: BoolArray, tokens: IntArray, prompt_tokens: IntArray) -> IntArray:
        """Bytes of a kept set serving a demand, without the margin: bool [..., N] -> [...]."""
        attention = np.count_nonzero(kept[..., 0::2], axis=-1)
        ffn = np.count_nonzero(kept[..., 1::2], axis=-1)
        return self.counted_bytes(attention, ffn, tokens, prompt_tokens)

    def counted_bytes(
        self,
        attention: IntArray | int,
        ffn: IntArray | int,
        tokens: IntArray,
        prompt_tokens: IntArray,
    ) -> IntArray:
        """The same by how many blocks of each kind are kept: all broadcast."""
        return (
            self.overhead_bytes(prompt_tokens)
            + attention * self.kept_attention_bytes(tokens)
            + ffn * self.ffn_bytes
        )


def footprint(
    model: ModelSpec,
    form: Format = BF16,
    profile: DeviceProfile = IDEAL,
    layers: int | None = None,
) -> Footprint:
    """The footprint of a model in a format on a device.

    Args:
        layers: over which its blocks are spread evenly, where the quality is that of a model with
            another number of them; its own unless stated. Bytes of a block are rounded up: the full
            model takes up to 3 bytes a layer more than its own.
    """
    layers = model.layers if layers is None else layers

    def spread(block_bytes: int) -> int:
        return -(-model.layers * block_bytes // layers)

    return Footprint(
        layers=layers,
        attention_bytes=spread(attention_bytes(model, form.weights)),
        ffn_bytes=spread(ffn_bytes(model, form.weights)),
        model_kv_token_bytes=model_kv_token_bytes(model, form.kv),
        fixed_bytes=embedding_bytes(model) + profile.context_bytes,
        activation_bytes_per_token=profile.activation_bytes_per_token,
        margin_bytes=profile.margin_bytes,
    )
