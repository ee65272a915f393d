"""The forward pass with dropped blocks, and its reuse: kept sets that agree share their prefix."""

from typing import Any

import torch

from rapgym.arrays import BoolArray
from rapgym.model import blocks
from rapgym.runtime.layers import layers_of


class PrefixForward:
    """Hidden states of one batch of token sequences under many kept sets.

    Dropping block n leaves everything before n as it was, so the residual stream at each depth of
    the last kept set is remembered and a new kept set starts where it first differs. Ask for kept
    sets in descending order of their keys to share the most.
    """

    def __init__(
        self,
        network: Any,
        tokens: torch.Tensor,
        positions: torch.Tensor | None = None,
        attends: torch.Tensor | None = None,
    ) -> None:
        """Embed the tokens.

        Args:
            tokens: int64 [sequences, length], no padding.
            positions: of each token, the same in each sequence, int64 [length]; 0, 1, ... where
                None.
            attends: whether a token (first axis) sees another (second axis), bool
                [length, length]; itself and all before it where None.
        """
        self.network = network
        body = network.model
        self._layers = layers_of(network)
        if positions is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device)
        # Without a mask sdpa applies the causal one.
        self._attends = None if attends is None else attends[None, None]
        embedded = body.embed_tokens(tokens)
        self.rotary = body.rotary_emb(embedded, position_ids=positions[None])
        self._streams = [embedded]  # residual stream before block 0, 1, ...
        self._path: list[bool] = []
        self.ran = [0, 0]  # attention and FFN blocks computed

    @property
    def blocks_run(self) -> int:
        """Blocks computed so far, each over all sequences."""
        return sum(self.ran)

    def streams(self, kept: BoolArray) -> list[torch.Tensor]:
        """Residual stream before each block and after the last; bool [N] -> N + 1 of
        [sequences, length, hidden]. Of a prefix of a kept set, bool [n], the first n + 1.
        """
        wanted = [bool(k) for k in kept]
        shared = 0
        while shared < min(len(self._path), len(wanted)) and self._path[shared] == wanted[shared]:
            shared += 1
        del self._streams[shared + 1 :]
        for block in range(shared, len(wanted)):
            stream = self._streams[-1]
            if wanted[block]:
                stream = stream + self.block(block, stream)
                self.ran[block % 2] += 1
            self._streams.append(stream)
        self._path = wanted
        return list(self._streams)

    def stream(self, kept: BoolArray) -> torch.Tensor:
        """Residual stream after the last block, [sequences, length, hidden]; bool [N]."""
        return self.streams(kept)[-1]

    def normed(self, kept: BoolArray) -> torch.Tensor:
        """What the head reads: the final norm of the stream, [sequences, length, hidden]."""
        normed: torch.Tensor = self.network.model.norm(self.stream(kept))
        return normed

    def block(self, block: int, stream: torch.Tensor) -> torch.Tensor:
        """What a block adds to the stream before it, [any number of sequences, length, hidden]."""
        layer = self._layers[block // 2]
        if block % 2:
            return layer.ffn(stream)
        return layer.attention(
            stream, position_embeddings=self.rotary, attention_mask=self._attends
        )


def prefix_order(sets: list[BoolArray]) -> list[int]:
    """Indices of `sets` in the order in which neighbours share the longest prefix."""
    return sorted(range(len(sets)), key=lambda i: blocks.packed(sets[i]).tobytes(), reverse=True)
