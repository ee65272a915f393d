"""The forward pass of several requests at once: rows packed without padding, dropped blocks skipped.

Linear layers see all rows as one; in attention each request reads its own stretch of the KV cache.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers import AttentionInterface

from rapgym.arrays import BoolArray
from rapgym.errors import InvalidSpec
from rapgym.runtime.layers import layers_of
from rapgym.runtime.live.ragged import LayerKV, RaggedCache, Room

RAGGED = "rapgym_ragged"  # the name under which transformers knows `_attend`
HEAD_SLICE = 8192  # words of the vocabulary whose logits exist at once


class Elastic(Protocol):
    """A model whose blocks leave and return, as `ElasticModel`."""

    @property
    def network(self) -> Any:
        """A transformers ...ForCausalLM."""

    @property
    def kept(self) -> BoolArray:
        """Which blocks are in memory, bool [N]."""

    @property
    def memory(self) -> Room:
        """Where a KV cache lives beside its weights."""

    def apply(self, kept: BoolArray) -> Any:
        """Bring memory to this kept set."""

    def sequences(self) -> AbstractContextManager[None]:
        """Sequences are served while this lasts: attention may leave, but not return."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Consecutive tokens of one request among the rows of a forward pass."""

    rows: slice
    first: int  # slot of the request's first token
    seen: int  # how many of its tokens were stored before these


@dataclass(frozen=True, slots=True)
class Rows:
    """Tokens of several requests on which the model runs at once, R rows in all."""

    ids: torch.Tensor  # int64 [R]
    positions: torch.Tensor  # of each in its own request, int64 [R]
    slots: torch.Tensor  # where its keys and values are stored, int64 [R]
    stretches: Sequence[Stretch]  # cover the rows in order


def _attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    stored: LayerKV,
    packed: Rows,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Store the rows' keys and values, then let each request attend to its own.

    Args:
        query, key, value: rotated, [1, heads, R, head_dim].

    Returns:
        [1, R, query heads, head_dim].
    """
    if sliding_window is not None:
        raise InvalidSpec("sliding-window attention is not served; use a model without it")
    stored.write(packed.slots, key[0].transpose(0, 1), value[0].transpose(0, 1))
    found = torch.empty_like(query[0].transpose(0, 1), memory_format=torch.contiguous_format)
    for stretch in packed.stretches:
        asked = query[:, :, stretch.rows]
        seen = stretch.first + stretch.seen + asked.shape[2]
        found[stretch.rows] = _causal(asked, *stored.read(stretch.first, seen), scaling)
    return found[None], None


def _causal(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
) -> torch.Tensor:
    """The last tokens of one request attend to it: [T, query heads, head_dim].

    Args:
        query: of its last T tokens, [1, query heads, T, head_dim].
        key, value: of all its tokens, [1, heads, S, head_dim].
    """
    _, heads, asked, width = query.shape
    groups = heads // key.shape[1]
    if asked == 1:
        # Query heads of one group read the same keys: as rows of one head, no key is copied.
        grouped = query.view(1, key.shape[1], groups, width)
        out = scaled_dot_product_attention(grouped, key, value, scale=scaling)
        return out.reshape(1, heads, width)
    total, mask = key.shape[2], None
    if total > asked:
        mask = torch.ones(asked, total, dtype=torch.bool, device=query.device)
        mask = mask.tril(total - asked)
    key, value = (states.repeat_interleave(groups, dim=1) for states in (key, value))
    out = scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scaling
    )
    return out[0].transpose(0, 1)


AttentionInterface.register(RAGGED, _attend)


@contextmanager
def ragged_attention(network: Any) -> Iterator[None]:
    """While this lasts, attention of the network takes `stored=` and `packed=` and reads those."""
    config = network.config
    before = config._attn_implementation
    config._attn_implementation = RAGGED
    try:
        yield
    finally:
        config._attn_implementation = before


def stream(model: Elastic, rows: Rows, cache: RaggedCache) -> torch.Tensor:
    """Residual stream of the rows behind the last block, [R, hidden]; dropped blocks are skipped.

    Raises:
        InvalidSpec: an attention block came back in mid-flight: the cache holds nothing of its layer.
    """
    body, kept = model.network.model, model.kept
    found = body.embed_tokens(rows.ids)[None]
    rotary = body.rotary_emb(found, position_ids=rows.positions[None])
    with ragged_attention(model.network):
        for index, layer in enumerate(layers_of(model.network)):
            if kept[2 * index]:
                if index not in cache.layers:
                    raise InvalidSpec(
                        f"attention of layer {index} came back in mid-flight, without keys and "
                        "values of what went before; restore it between batches"
                    )
                found = found + layer.attention(
                    found,
                    position_embeddings=rotary,
                    attention_mask=None,
                    stored=cache.layers[index],
                    packed=rows,
                )
            if kept[2 * index + 1]:
                found = found + layer.ffn(found)
    return found[0]


def next_tokens(
    head: Any, normed: torch.Tensor, given: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The next token of each row, and its nats, without logits of the whole vocabulary at once.

    Args:
        normed: what the head reads, [R, hidden].
        given: token ids, or -1 where the most probable one is to be chosen, int64 [R].

    Returns:
        int64 [R], float32 [R].
    """
    rows = len(normed)
    best = torch.full((rows,), -torch.inf, device=normed.device)
    log_sum, logit, chosen = best.clone(), best.clone(), given.clone()
    for start in range(0, len(head.weight), HEAD_SLICE):
        part = slice(start, start + HEAD_SLICE)
        bias = None if head.bias is None else head.bias[part]
        logits = linear(normed, head.weight[part], bias).float()
        log_sum = torch.logaddexp(log_sum, logits.logsumexp(-1))
        inside = (given >= start) & (given < start + logits.shape[1])
        column = (given - start).clamp(0, logits.shape[1] - 1)
        logit = torch.where(inside, logits.gather(1, column[:, None])[:, 0], logit)
        most, where = logits.max(-1)
        better = most > best  # of equals the first, as argmax of the whole
        best = torch.where(better, most, best)
        chosen = torch.where(better & (given < 0), where + start, chosen)
    return chosen, log_sum - torch.where(given < 0, best, logit)
