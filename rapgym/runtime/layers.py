"""The decoder layers of a network, each as two blocks on a residual stream.

What a family of models calls the parts of a layer stands here alone. Llama, Qwen and SmolLM2 agree on it.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

# Attributes of a layer that are its two blocks, attention before FFN, and the norm before each.
BLOCKS = ("self_attn", "mlp")
NORMS = ("input_layernorm", "post_attention_layernorm")


@dataclass(frozen=True, slots=True)
class LayerView:
    """One decoder layer. `kind` is 0 for attention and 1 for FFN: of block n, n % 2."""

    layer: Any

    def block(self, kind: int) -> Any:
        """The module that is a block, without its norm."""
        return getattr(self.layer, BLOCKS[kind])

    def put(self, kind: int, module: nn.Module) -> None:
        """Let another module stand for a block."""
        setattr(self.layer, BLOCKS[kind], module)

    def normed(self, kind: int, stream: torch.Tensor) -> torch.Tensor:
        """What a block reads of the stream before it."""
        normed: torch.Tensor = getattr(self.layer, NORMS[kind])(stream)
        return normed

    def attention(self, stream: torch.Tensor, **how: Any) -> torch.Tensor:
        """What attention adds to the stream before it; `how` as the family's module takes it."""
        added: torch.Tensor = self.block(0)(hidden_states=self.normed(0, stream), **how)[0]
        return added

    def ffn(self, stream: torch.Tensor) -> torch.Tensor:
        """What the FFN adds to the stream before it."""
        added: torch.Tensor = self.block(1)(self.normed(1, stream))
        return added


def layers_of(network: Any) -> list[LayerView]:
    """The layers of a transformers ...ForCausalLM, first to last; none where it is built otherwise."""
    layers = getattr(getattr(network, "model", None), "layers", None)
    return [LayerView(layer) for layer in layers or ()]
