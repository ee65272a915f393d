"""Shapes of models: presets, and what a Hugging Face `config.json` says; and formats of storage."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rapgym.errors import InvalidSpec
from rapgym.files import incoming, json_text, limits

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
    qk_norm: bool = False  # a norm over each head's query and key

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
    # Version 0.3: the first two have 32,000 words.
    ModelSpec("mistral-7b", layers=32, hidden=4096, query_heads=32, kv_heads=8, head_dim=128,
              ffn_dim=14336, vocabulary=32768, tied=False),
    ModelSpec("qwen2.5-14b", layers=48, hidden=5120, query_heads=40, kv_heads=8, head_dim=128,
              ffn_dim=13824, vocabulary=152064, tied=False, qkv_bias=True),
)  # fmt: skip


def model_spec(name: str) -> ModelSpec:
    """The preset of this name, or the shape that a Hugging Face `config.json` states, by its path.

    Raises:
        InvalidSpec: there is no such preset or file, and the message lists the presets; or the file
            describes a model whose bytes are not known here, and the message says why.
    """
    for model in MODELS:
        if model.name == name:
            return model
    if is_config(name):
        return _config_spec(name)
    known = ", ".join(model.name for model in MODELS)
    raise InvalidSpec(
        f"no model shape is called {name[:80]!r}; there are {known}, or give the path of a Hugging Face "
        "config.json"
    )


CONFIG_SUFFIX = ".json"
# What a missing number of KV heads means to transformers 5.23: None for as many as query heads.
FAMILIES: Mapping[str, int | None] = {"llama": None, "mistral": 8, "qwen2": 32, "qwen3": 32}
QWEN3_HEAD_DIM = 128  # where a config of Qwen3 states none
MISTRAL_WINDOW = 4096  # likewise of Mistral; null states that there is no window
SIZES = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "query_heads": "num_attention_heads",
    "ffn_dim": "intermediate_size",
    "vocabulary": "vocab_size",
}


def is_config(name: str) -> bool:
    """Whether the name of a shape is the path of a `config.json`."""
    return name.endswith(CONFIG_SUFFIX)


def _config_spec(name: str) -> ModelSpec:
    """The shape that a file states; raises as `model_spec` does."""
    try:
        config = json_text.parsed(incoming.bounded(Path(name), limits.CONFIG))
    except FileNotFoundError:
        raise InvalidSpec(f"{name} is not there: give the path of a model's config.json") from None
    except (OSError, ValueError) as error:
        raise InvalidSpec(f"{name} is no config.json that can be read: {error}") from error
    if not isinstance(config, dict):
        raise InvalidSpec(f"{name} is no model's config.json: it holds no object")
    try:
        return _shape(name, config)
    except ValueError as error:
        raise InvalidSpec(f"{name}: {str(error).removeprefix(f'{name}: ')}") from error


def _shape(name: str, config: Mapping[str, Any]) -> ModelSpec:
    """Raises ValueError with what is wrong."""
    family = str(config.get("model_type"))[:80]
    _check_family(family, config)
    sizes = {field: _size(config, key) for field, key in SIZES.items()}
    heads, kv_key = sizes["query_heads"], "num_key_value_heads"
    kv_heads = _size(config, kv_key) if config.get(kv_key) is not None else None
    if kv_heads is None and kv_key not in config:
        kv_heads = FAMILIES[family]
    if config.get("head_dim") is not None:
        head_dim = _size(config, "head_dim")
    elif family == "qwen3":
        head_dim = QWEN3_HEAD_DIM
    elif sizes["hidden"] % heads:
        raise ValueError(f"hidden_size is no multiple of num_attention_heads, {heads}")
    else:
        head_dim = sizes["hidden"] // heads
    tied = config.get("tie_word_embeddings", False)
    if not isinstance(tied, bool):
        raise ValueError(f"tie_word_embeddings is true or false, not {repr(tied)[:80]}")
    return ModelSpec(
        name,
        **sizes,
        kv_heads=heads if kv_heads is None else kv_heads,
        head_dim=head_dim,
        tied=tied,
        qkv_bias=family == "qwen2",
        qk_norm=family == "qwen3",
    )


def _size(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 31:
        raise ValueError(f"{key} is a whole number of at least 1, not {repr(value)[:80]}")
    return value


def _check_family(family: str, config: Mapping[str, Any]) -> None:
    """Raises ValueError where the blocks of one kind differ, or hold what is not counted."""
    experts = [key for key in config if "experts" in key]
    if experts:
        raise ValueError(
            f"a mixture of experts ({experts[0]}): a token passes only some of an FFN block, and what "
            "dropping one costs was measured on dense blocks"
        )
    if family not in FAMILIES:
        raise ValueError(
            f"model_type is {family}; shapes are known of {', '.join(FAMILIES)} (gated FFNs, all "
            "blocks of one kind alike)"
        )
    for key in ("attention_bias", "mlp_bias"):
        if config.get(key):
            raise ValueError(f"{key} is {config[key]!r}: such biases are not counted here")
    kinds = config.get("layer_types")
    if kinds is not None and (
        not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds)
    ):
        raise ValueError(
            "layer_types names layers without full attention: attention blocks then differ in what "
            "their KV cache holds"
        )
    window = config.get("sliding_window", MISTRAL_WINDOW if family == "mistral" else None)
    if family in ("qwen2", "qwen3") and not config.get("use_sliding_window", False):
        window = None
    if window is not None and family != "llama":  # which has none, whatever the file says
        raise ValueError(
            f"sliding_window is {window!r}: the KV cache of a long sequence stops growing there, which "
            "is not counted here; null counts every token"
        )


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


def format_of(text: str) -> Format:
    """The format that is called so: weights/kv, or the weights alone, whose KV cache is in bf16.

    Raises:
        InvalidSpec: there is none, and the message lists those there are.
    """
    named = {f"{form.weights}/{form.kv}": form for form in (BF16, *FORMATS)}
    found = named.get(text if "/" in text else f"{text}/bf16")
    if found is None:
        raise InvalidSpec(f"no format is called {text!r}; there are {', '.join(named)}")
    return found
