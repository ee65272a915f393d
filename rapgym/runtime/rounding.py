"""int8 and int4 weights and int8 KV, by rounding in the forward pass: what they cost in quality.

Values are rounded to what the format can hold and computed with in the model's own dtype, as a
kernel that unpacks before it multiplies does. The layout is the one that `rapgym.model.memory` counts;
embeddings, head, norms and biases stay as they are. Rounding is to the nearest of evenly spaced
levels, zero among them, each weight for itself: no text is looked at, so methods that use
calibration text (GPTQ, AWQ) may lose less at the same width.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from rapgym.errors import InvalidSpec
from rapgym.model import memory
from rapgym.model.shapes import Format, WeightFormat

INT8_LEVELS = 127  # on each side of zero
INT4_LEAST, INT4_MOST = -8, 7
# Which share of the scale that just reaches the largest weight of a group: cutting that weight
# short can make the others finer.
INT4_SHARES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
ROUNDED_KV = "sdpa_int8_kv"  # the name under which transformers knows `_attend_rounded`


def rounded_weight(weight: torch.Tensor, weights: WeightFormat) -> torch.Tensor:
    """A weight matrix as its format holds it, [out, in] in its own dtype.

    int8: one bf16 scale an output channel, its largest weight the last level. int4: one for each
    64 weights of a channel, the last group possibly short; of seven scales the one with the least
    squared error, the largest weight at level -8 (as llama.cpp's Q4_0) or cut there.
    """
    if weights == "bf16":
        return weight
    if weights == "int8":
        return _rounded_int8(weight)
    width = weight.shape[-1]
    padded = nn.functional.pad(weight, (0, -width % memory.INT4_GROUP))
    groups = padded.unflatten(-1, (-1, memory.INT4_GROUP))
    return _rounded_int4(groups).flatten(-2)[..., :width]


def rounded_kv(states: torch.Tensor) -> torch.Tensor:
    """Keys or values as an int8 cache holds them: a bf16 scale a token and head, [..., head_dim]."""
    return _rounded_int8(states)


def _rounded_int8(values: torch.Tensor) -> torch.Tensor:
    """Each row of the last axis on its own scale."""
    exact = values.float()
    scale = exact.abs().amax(-1, keepdim=True) / INT8_LEVELS
    return _on_levels(exact, scale, -INT8_LEVELS, INT8_LEVELS).to(values.dtype)


def _rounded_int4(values: torch.Tensor) -> torch.Tensor:
    """Each row of the last axis on its own scale, negative where its largest weight is positive."""
    exact = values.float()
    largest = exact.gather(-1, exact.abs().argmax(-1, keepdim=True))
    best = torch.zeros_like(exact)
    least = torch.full_like(largest, torch.inf)
    for share in INT4_SHARES:
        tried = _on_levels(exact, share * largest / INT4_LEAST, INT4_LEAST, INT4_MOST)
        error = (tried - exact).square().sum(-1, keepdim=True)
        best = torch.where(error < least, tried, best)
        least = torch.minimum(error, least)
    return best.to(values.dtype)


def _on_levels(exact: torch.Tensor, scale: torch.Tensor, least: int, most: int) -> torch.Tensor:
    """The nearest whole multiples of a scale that is itself stored in bf16."""
    stored = scale.bfloat16().float()
    return (exact / stored.where(stored != 0, 1)).round().clamp(least, most) * stored


def _attend_rounded(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention over keys and values read from an int8 cache, the newest token's own included."""
    # Here keys have their rotary embedding already, as a cache holds them.
    found: tuple[torch.Tensor, None] = sdpa_attention_forward(
        module, query, rounded_kv(key), rounded_kv(value), attention_mask, **options
    )
    return found


AttentionInterface.register(ROUNDED_KV, _attend_rounded)
AttentionMaskInterface.register(ROUNDED_KV, sdpa_mask)


@contextmanager
def rounded(network: Any, form: Format) -> Iterator[None]:
    """While this lasts, the network computes in a format; afterwards it is as it was, to the bit.

    Raises:
        InvalidSpec: its attention is not torch's scaled dot product, so KV cannot be rounded; or
            its blocks hold no plain linear layers.
    """
    config, linears = network.config, []
    attention = config._attn_implementation
    if form.kv != "bf16" and attention != "sdpa":
        raise InvalidSpec(f"int8 KV is measured with sdpa attention, not {attention}")
    if form.weights != "bf16":
        linears = [part for part in network.model.layers.modules() if isinstance(part, nn.Linear)]
        if not linears:
            raise InvalidSpec("its blocks hold no plain linear layers whose weights can be rounded")
    whole = [linear.weight.data for linear in linears]
    try:
        for linear in linears:
            linear.weight.data = rounded_weight(linear.weight.data, form.weights)
        if form.kv == "int8":
            config._attn_implementation = ROUNDED_KV
        yield
    finally:
        config._attn_implementation = attention
        for linear, weight in zip(linears, whole, strict=True):
            linear.weight.data = weight
