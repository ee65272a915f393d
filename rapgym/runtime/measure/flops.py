"""Floating-point operations of a forward pass, and what a plain matrix product reaches here."""

import functools
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from rapgym.arrays import IntArray
from rapgym.runtime.layers import layers_of
from rapgym.runtime.measure.ledger import Measurement

# Width of the square product: large enough that nothing but multiplying counts.
CPU_WIDTH, DEVICE_WIDTH = 1024, 8192
PRODUCTS = 5  # the fastest of so many, after one to warm up


def block_flop(network: Any, sequences: int, length: int) -> IntArray:
    """Operations of one attention and one FFN block over some sequences, int64 [2].

    A multiplication and an addition are two. Of attention's scores the causal half counts; norms,
    rotary embedding and activations, linear in the width, do not.
    """
    layer, config = layers_of(network)[0], network.config
    tokens = sequences * length
    linear = [_linear(layer.block(kind)) for kind in range(2)]
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    # Query times key and weight times value: 2 * 2 operations for each of T * T / 2 pairs.
    scores = 2 * sequences * length**2 * config.num_attention_heads * head_dim
    return np.array([2 * tokens * linear[0] + scores, 2 * tokens * linear[1]], dtype=np.int64)


def head_flop(network: Any, sequences: int, length: int) -> int:
    """Operations of the head over the tokens that predict another."""
    return 2 * sequences * (length - 1) * int(network.lm_head.weight.numel())


def _linear(part: Any) -> int:
    return sum(weight.numel() for weight in part.parameters() if weight.ndim == 2)


@functools.cache
def product_per_s(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a square matrix product on a device in a dtype: the fastest of a few."""
    width = CPU_WIDTH if device.type == "cpu" else DEVICE_WIDTH
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(width, width, generator=generator).to(device, dtype) for _ in range(2))
    best_s = float("inf")
    for index in range(PRODUCTS + 1):
        begun_s = time.perf_counter()
        # Reading one number of the result waits for all of it, on any device.
        (a @ b)[0, 0].item()
        if index:
            best_s = min(best_s, time.perf_counter() - begun_s)
    return 2 * width**3 / best_s


def achieved(rows: Sequence[Measurement]) -> dict[str, float]:
    """What measuring reached against a matrix product of the same dtype in the same run.

    Over rows that record both; seconds are those of whole measurements, loss and preparation of
    the text included. Empty where no row does (older versions recorded neither).
    """
    counted = [row for row in rows if row.flop and row.product_per_s and row.seconds > 0]
    seconds = sum(row.seconds for row in counted)
    if not counted or seconds <= 0:
        return {}
    flop = sum(row.flop for row in counted)
    possible = sum(row.seconds * row.product_per_s for row in counted)
    return {
        "rows": len(counted),
        "flop": flop,
        "seconds": round(seconds, 1),
        "achieved_per_s": round(flop / seconds),
        "product_per_s": round(possible / seconds),
        "share": round(flop / possible, 4),
    }


def statement(rows: Sequence[Measurement]) -> str:
    """`achieved` in one line for people; empty where nothing was recorded."""
    found = achieved(rows)
    if not found:
        return ""
    return (
        f"{found['achieved_per_s'] / 1e12:.3g} TFLOP/s over {found['rows']:.0f} rows, "
        f"{found['share']:.0%} of the {found['product_per_s'] / 1e12:.3g} TFLOP/s of a matrix "
        "product in the same dtype"
    )
