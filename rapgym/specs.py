"""Records that everything else speaks in: frozen, validated, with units; and the array types."""

from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rapgym.errors import InvalidSpec

BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]
FloatArray = NDArray[np.floating[Any]]


def freeze(record: object) -> None:
    """Make the arrays of a frozen dataclass read-only, so that who is given it cannot change it."""
    for field in fields(record):  # type: ignore[arg-type]
        value = getattr(record, field.name)
        if isinstance(value, np.ndarray):
            value.setflags(write=False)


WeightFormat = Literal["bf16", "int8", "int4"]
KVFormat = Literal["bf16", "int8"]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Shape of one decoder-only LLM with gated FFNs, as its published configuration states it."""

    name: str
    layers: int  # L; the model has N = 2 L blocks
    hidden: int  # width of the residual stream
    query_heads: int
    kv_heads: int  # divides query_heads
    head_dim: int
    ffn_dim: int  # inner width of the gated FFN
    vocabulary: int
    tied: bool  # the head shares the embedding's weights
    qkv_bias: bool = False

    def __post_init__(self) -> None:
        sizes = (self.layers, self.hidden, self.query_heads, self.kv_heads, self.head_dim,
                 self.ffn_dim, self.vocabulary)  # fmt: skip
        if min(sizes) < 1:
            raise InvalidSpec(f"{self.name}: every size must be at least 1")
        if self.query_heads % self.kv_heads:
            raise InvalidSpec(f"{self.name}: query_heads is no multiple of kv_heads")

    @property
    def blocks(self) -> int:
        """N."""
        return 2 * self.layers


# Shapes from the models' published configurations.
MODELS = (
    ModelSpec("smollm2-135m", layers=30, hidden=576, query_heads=9, kv_heads=3, head_dim=64,
              ffn_dim=1536, vocabulary=49152, tied=True),
    ModelSpec("llama2-7b", layers=32, hidden=4096, query_heads=32, kv_heads=32, head_dim=128,
              ffn_dim=11008, vocabulary=32000, tied=False),
    ModelSpec("llama3-8b", layers=32, hidden=4096, query_heads=32, kv_heads=8, head_dim=128,
              ffn_dim=14336, vocabulary=128256, tied=False),
    ModelSpec("qwen2.5-7b", layers=28, hidden=3584, query_heads=28, kv_heads=4, head_dim=128,
              ffn_dim=18944, vocabulary=152064, tied=False, qkv_bias=True),
)  # fmt: skip


def model_spec(name: str) -> ModelSpec:
    """The preset of this name.

    Raises:
        InvalidSpec: there is none; the message lists those there are.
    """
    for model in MODELS:
        if model.name == name:
            return model
    known = ", ".join(model.name for model in MODELS)
    raise InvalidSpec(f"no model shape is called {name!r}; there are {known}")


@dataclass(frozen=True, slots=True)
class Format:
    """How weights of blocks and the KV cache are stored. Embeddings and head stay in bf16."""

    weights: WeightFormat = "bf16"
    kv: KVFormat = "bf16"


BF16 = Format()
# What the quality of the dense model is measured in beside bf16.
FORMATS = (
    Format("int8"),
    Format("int4"),
    Format(kv="int8"),
    Format("int8", "int8"),
    Format("int4", "int8"),
)


@dataclass(frozen=True, slots=True)
class Work:
    """Seconds of one kind of work, by the blocks in memory: linear in how many of each kind."""

    base_s: float  # whatever is kept
    attention_s: float  # for each kept attention block
    ffn_s: float  # for each kept FFN block

    def __post_init__(self) -> None:
        if min(self.base_s, self.attention_s, self.ffn_s) < 0:
            raise InvalidSpec("no work takes less than no time")

    def seconds(self, kept: BoolArray) -> FloatArray:
        """Of one unit of it under kept sets, bool [..., N] -> float64 [...]."""
        attention = np.count_nonzero(kept[..., 0::2], axis=-1)
        ffn = np.count_nonzero(kept[..., 1::2], axis=-1)
        found: FloatArray = self.base_s + self.attention_s * attention + self.ffn_s * ffn
        return found


@dataclass(frozen=True, slots=True)
class Latency:
    """How long a device takes, fitted to measured rows. It decides nothing: validation reads it."""

    prefill_token: Work
    decode_step: Work  # whatever the number of sequences
    decode_token: Work  # more for each sequence of a step
    drop_block_s: float

    def __post_init__(self) -> None:
        if self.drop_block_s < 0:
            raise InvalidSpec("no work takes less than no time")


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """What an allocator, a runtime and activations add; measured on a device, or ideal.

    The ideal profile adds nothing and keeps no margin: bytes then follow from shapes alone.
    """

    name: str = "ideal"
    context_bytes: int = 0  # taken by the runtime whatever is served
    activation_bytes_per_token: float = 0.0  # peak of prefill, per prompt token of the batch
    margin_bytes: int = 0  # kept free so that what is predicted also fits in reality
    # At which blocks come back; what the scenario's link gives unless measured.
    restore_bytes_per_s: float | None = None
    latency: Latency | None = None

    def __post_init__(self) -> None:
        if min(self.context_bytes, self.activation_bytes_per_token, self.margin_bytes) < 0:
            raise InvalidSpec(f"device profile {self.name}: no entry may be negative")
        if self.restore_bytes_per_s is not None and self.restore_bytes_per_s <= 0:
            raise InvalidSpec(f"device profile {self.name}: blocks come back at a rate above 0")


IDEAL = DeviceProfile()


@dataclass(frozen=True, slots=True)
class Demand:
    """What one row asks of memory, in each of B lanes: known when the policy decides."""

    batch: IntArray  # requests, [B]
    prompt_tokens: IntArray  # summed over the batch, [B]
    reserved_tokens: IntArray  # output tokens reserved for the batch, summed, [B]
    longest_tokens: IntArray  # prompt and reserve of the longest request, [B]

    @property
    def tokens(self) -> IntArray:
        """KV cache entries that a kept attention block holds, [B]."""
        return self.prompt_tokens + self.reserved_tokens
