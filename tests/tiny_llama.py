"""Random models of a few kilobytes, their tokenizer, and texts: what tests of `runtime` need."""

import random
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers

from rapgym.runtime.model import LoadedModel

LAYERS = 3
VOCABULARY = 257  # bytes and one end token
FAMILIES = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
}


def network(family: str = "llama", layers: int = LAYERS, seed: int = 0) -> Any:
    """A random model in float32 whose weights are large enough that every block matters."""
    config_class, model_class = FAMILIES[family]
    config = config_class(
        num_hidden_layers=layers,
        hidden_size=64,
        intermediate_size=96,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=VOCABULARY,
        max_position_embeddings=256,
        initializer_range=0.15,
        attn_implementation="sdpa",
    )
    torch.manual_seed(seed)
    built = model_class(config).requires_grad_(False).eval()
    # Norms start at one and biases at zero: a forward that mixes them up would still look right.
    for name, weights in built.named_parameters():
        if name.endswith("bias"):
            weights.normal_(std=0.1)
        elif "norm" in name:
            weights.uniform_(0.5, 1.5)
    return built


def tokenizer() -> Any:
    """One token a byte."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: index for index, character in enumerate(alphabet)}
    raw = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    raw.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = tokenizers.decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<end>")


def loaded(family: str = "llama", layers: int = LAYERS, seed: int = 0) -> LoadedModel:
    """The model as `runtime.model.load` returns it, without a file."""
    return LoadedModel(f"tiny-{family}", network(family, layers, seed), tokenizer(), "w", "t")


def save(folder: Path, family: str = "llama", layers: int = LAYERS) -> Path:
    """Write model and tokenizer to `folder`, which `runtime.model.load` then takes."""
    network(family, layers).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def text(domain: str, split: str) -> str:
    """Some kilobytes of made-up words, other ones for each domain and split."""
    rng = random.Random(f"{domain} {split}")
    words = ["".join(rng.choices("abcdefgh", k=rng.randint(1, 7))) for _ in range(50)]
    return " ".join(rng.choices(words, k=1000))
