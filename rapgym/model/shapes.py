"""Records that everything else speaks in: frozen, validated, with units; and the array types."""

from dataclasses import dataclass
from typing import Literal

from rapgym.errors import InvalidSpec

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
