"""A decoder written out from its published equations: no cache, no padding, no transformers code.

It takes the weights of a Llama, Qwen2 or Qwen3 network and knows for each token which blocks that
token runs through, so it also says what dropping in mid-sequence must give.
"""

from typing import Any

import numpy as np
import torch

from rapgym.arrays import BoolArray, IntArray


class PlainModel:
    """Copies of a network's weights, and the equations."""

    def __init__(self, network: Any) -> None:
        self.config = network.config
        self.weights = {name: w.detach().clone() for name, w in network.state_dict().items()}

    def without(self, blocks: set[int]) -> "PlainModel":
        """The model built without these blocks: it has no weights of them."""
        gone = tuple(
            f"model.layers.{block // 2}.{('self_attn', 'mlp')[block % 2]}." for block in blocks
        )
        smaller = object.__new__(PlainModel)
        smaller.config = self.config
        smaller.weights = {n: w for n, w in self.weights.items() if not n.startswith(gone)}
        return smaller

    @property
    def kept(self) -> BoolArray:
        """Which blocks there are weights of, bool [N]."""
        return np.array(
            [
                any(name.startswith(f"model.layers.{layer}.{part}.") for name in self.weights)
                for layer in range(self.config.num_hidden_layers)
                for part in ("self_attn", "mlp")
            ]
        )

    def logits(self, ids: IntArray, kept: BoolArray | None = None) -> torch.Tensor:
        """Of one sequence.

        Args:
            ids: tokens, int64 [T].
            kept: the blocks in memory when each token ran, bool [T, N]; an attention block that
                is gone for a token is gone for all later ones. All there are where None.

        Returns:
            float32 [T, vocabulary].
        """
        kept = np.tile(self.kept, (len(ids), 1)) if kept is None else kept
        stream = self.weights["model.embed_tokens.weight"][torch.from_numpy(np.asarray(ids))]
        for layer in range(self.config.num_hidden_layers):
            name = f"model.layers.{layer}"
            for block, norm, branch in (
                (2 * layer, "input_layernorm", self._attention),
                (2 * layer + 1, "post_attention_layernorm", self._ffn),
            ):
                runs = torch.from_numpy(kept[:, block])[:, None]
                if runs.any():
                    added = branch(name, self._norm(f"{name}.{norm}", stream))
                    stream = torch.where(runs, stream + added, stream)
        normed = self._norm("model.norm", stream)
        head = self.weights.get("lm_head.weight", self.weights["model.embed_tokens.weight"])
        return normed @ head.T

    def greedy(self, prompt: IntArray, count: int, kept: BoolArray | None = None) -> list[int]:
        """The next `count` tokens; `kept` as in `logits` for each token that runs, bool [T, N]."""
        ids = [int(token) for token in prompt]
        for _ in range(count):
            rows = None if kept is None else kept[: len(ids)]
            ids.append(int(self.logits(np.array(ids), rows)[-1].argmax()))
        return ids[len(prompt) :]

    def _norm(self, name: str, rows: torch.Tensor) -> torch.Tensor:
        scale = (rows.square().mean(-1, keepdim=True) + self.config.rms_norm_eps).rsqrt()
        return self.weights[f"{name}.weight"] * rows * scale

    def _linear(self, name: str, rows: torch.Tensor) -> torch.Tensor:
        found = rows @ self.weights[f"{name}.weight"].T
        bias = self.weights.get(f"{name}.bias")
        return found if bias is None else found + bias

    def _ffn(self, layer: str, rows: torch.Tensor) -> torch.Tensor:
        gate = torch.nn.functional.silu(self._linear(f"{layer}.mlp.gate_proj", rows))
        return self._linear(
            f"{layer}.mlp.down_proj", gate * self._linear(f"{layer}.mlp.up_proj", rows)
        )

    def _attention(self, layer: str, rows: torch.Tensor) -> torch.Tensor:
        config, name, length = self.config, f"{layer}.self_attn", len(rows)
        width = config.head_dim if hasattr(config, "head_dim") else None
        width = width or config.hidden_size // config.num_attention_heads
        query = self._linear(f"{name}.q_proj", rows).view(length, -1, width)
        key = self._linear(f"{name}.k_proj", rows).view(length, -1, width)
        value = self._linear(f"{name}.v_proj", rows).view(length, -1, width)
        if f"{name}.q_norm.weight" in self.weights:
            query, key = self._norm(f"{name}.q_norm", query), self._norm(f"{name}.k_norm", key)
        query, key = self._rotated(query), self._rotated(key)
        groups = query.shape[1] // key.shape[1]
        key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
        scores = torch.einsum("qhd,khd->hqk", query, key) / width**0.5
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        seen = scores.masked_fill(later, -torch.inf).softmax(-1)
        return self._linear(f"{name}.o_proj", torch.einsum("hqk,khd->qhd", seen, value).flatten(1))

    def _rotated(self, rows: torch.Tensor) -> torch.Tensor:
        """Rotary positions of [T, heads, width]: halves, not neighbours, are pairs."""
        length, _, width = rows.shape
        theta = self.config.rope_parameters["rope_theta"]
        speed = theta ** -(torch.arange(0, width, 2) / width)
        angle = torch.arange(length)[:, None] * speed
        cos, sin = angle.cos()[:, None], angle.sin()[:, None]
        first, second = rows.chunk(2, dim=-1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
