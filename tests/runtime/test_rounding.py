"""Weights and KV in fewer bits: against rounding by hand, and gone without a trace afterwards."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import tiny_llama
import torch
from hypothesis import given
from hypothesis import strategies as st

from rapgym.arrays import FloatArray
from rapgym.errors import InvalidSpec
from rapgym.model import memory
from rapgym.model.shapes import BF16, Format
from rapgym.runtime import rounding
from rapgym.runtime.measure.forward import PrefixForward

N = 2 * tiny_llama.LAYERS
TOKENS = torch.randint(0, 256, (2, 40), generator=torch.Generator().manual_seed(1))
DENSE = np.ones(N, dtype=bool)


def on_levels(row: FloatArray, scale: float, least: int, most: int) -> list[float]:
    """Each value at the nearest multiple of the scale, which is stored in bf16."""
    stored = float(torch.tensor(scale).bfloat16())
    if stored == 0:
        return [0.0] * len(row)
    return [min(max(round(float(x) / stored), least), most) * stored for x in row]


def in_int8(row: FloatArray) -> list[float]:
    return on_levels(row, max(abs(row)) / 127, -127, 127)


def in_int4(row: FloatArray) -> list[list[float]]:
    """At each of the scales that are tried, the largest value on level -8, or beyond."""
    largest = float(max(row, key=abs))
    return [on_levels(row, share * largest / -8, -8, 7) for share in rounding.INT4_SHARES]


def matrix(rows: int, columns: int, seed: int) -> torch.Tensor:
    """Values whose rows differ in size, one of them zero."""
    drawn = torch.Generator().manual_seed(seed)
    sizes = torch.logspace(-3, 2, rows)[:, None]
    values = torch.randn(rows, columns, generator=drawn) * sizes
    values[-1] = 0
    return values


@given(columns=st.integers(1, 200), seed=st.integers(0, 99))
def test_weights_are_rounded_in_the_groups_whose_scales_memory_counts(
    columns: int, seed: int
) -> None:
    weight = matrix(4, columns, seed)
    for form, width in (("int8", columns), ("int4", memory.INT4_GROUP)):
        found = rounding.rounded_weight(weight, form)  # type: ignore[arg-type]
        scales = 0
        for row, expected in zip(weight.numpy(), found.numpy(), strict=True):
            for start in range(0, columns, width):
                group = slice(start, start + width)
                tried = np.array([in_int8(row[group])] if form == "int8" else in_int4(row[group]))
                assert any(np.allclose(expected[group], t, rtol=1e-6, atol=0) for t in tried)
                errors = np.square(tried - row[group]).sum(axis=1)
                error = np.square(expected[group] - row[group]).sum()
                assert error <= errors.min() * (1 + 1e-4) + 1e-12, "the best of the scales"
                scales += 1
        codes = -(-4 * columns * (8 if form == "int8" else 4) // 8)
        assert codes + 2 * scales == memory.linear_bytes(4, columns, form)  # type: ignore[arg-type]
    assert rounding.rounded_weight(weight, "bf16") is weight


def test_int4_is_no_worse_than_plain_rounding_to_the_largest_weight() -> None:
    weight = torch.randn(50, 64, generator=torch.Generator().manual_seed(0))
    found = (rounding.rounded_weight(weight, "int4") - weight).norm()
    plain = weight.abs().amax(1, keepdim=True) / 7
    assert found < 0.9 * ((weight / plain).round() * plain - weight).norm()
    assert rounding.rounded_weight(weight.bfloat16(), "int4").dtype == torch.bfloat16


def normed(network: Any, form: Format) -> torch.Tensor:
    with rounding.rounded(network, form):
        return PrefixForward(network, TOKENS).normed(DENSE)


@pytest.mark.parametrize("family", tiny_llama.FAMILIES)
@pytest.mark.parametrize("form", [Format("int8"), Format("int4"), Format(kv="int8"), BF16])
def test_a_network_in_a_format_differs_and_comes_back_to_the_bit(family: str, form: Format) -> None:
    network = tiny_llama.network(family)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    plain = PrefixForward(network, TOKENS).normed(DENSE)
    with suppress(KeyboardInterrupt), rounding.rounded(network, form):
        inside = PrefixForward(network, TOKENS).normed(DENSE)
        changed = {n for n, value in network.state_dict().items() if not value.equal(before[n])}
        raise KeyboardInterrupt  # a measurement that is stopped
    assert torch.equal(inside, plain) == (form == BF16)
    linear = {n for n in before if "proj.weight" in n} if form.weights != "bf16" else set()
    assert changed == linear, "embeddings, head, norms and biases stay"
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(PrefixForward(network, TOKENS).normed(DENSE), plain)


def test_kv_that_is_not_rounded_is_plain_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    network = tiny_llama.network()
    plain = PrefixForward(network, TOKENS).normed(DENSE)
    monkeypatch.setattr(rounding, "rounded_kv", lambda states: states)
    assert torch.equal(normed(network, Format(kv="int8")), plain)


def test_rounded_attention_is_attention_over_the_rounded_cache() -> None:
    """The keys that transformers itself caches, rounded by hand, in plain softmax attention."""
    network = tiny_llama.network(layers=1)
    cache = network(TOKENS, use_cache=True).past_key_values.layers[0]
    keys, values = (
        torch.tensor([[[in_int8(row) for row in head] for head in sequence]
                      for sequence in states.numpy()]).repeat_interleave(2, dim=1)
        for states in (cache.keys, cache.values)
    )  # fmt: skip
    layer = network.model.layers[0]
    embedded = network.model.embed_tokens(TOKENS)
    entering = layer.input_layernorm(embedded)
    cos, sin = network.model.rotary_emb(embedded, position_ids=torch.arange(40)[None])
    query = layer.self_attn.q_proj(entering).view(2, 40, 4, 16).transpose(1, 2)
    turned = torch.cat([-query[..., 8:], query[..., :8]], dim=-1)
    query = query * cos[:, None] + turned * sin[:, None]
    scores = query @ keys.transpose(-1, -2) / 4
    scores = scores.masked_fill(torch.ones(40, 40).triu(1).bool(), -torch.inf)
    mixed = (scores.softmax(-1) @ values).transpose(1, 2).flatten(2)
    expected = embedded + layer.self_attn.o_proj(mixed)
    with rounding.rounded(network, Format(kv="int8")):
        found = PrefixForward(network, TOKENS).streams(DENSE[:2])[1]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    plain = PrefixForward(network, TOKENS).streams(DENSE[:2])[1]
    assert (plain - expected).abs().max() > 1e-3, "rounding is seen"


def test_the_block_skipping_forward_equals_transformers_own_in_every_format() -> None:
    network = tiny_llama.network()
    for form in (Format("int4"), Format(kv="int8"), Format("int8", "int8")):
        with rounding.rounded(network, form):
            expected = network(TOKENS, use_cache=False).logits
            found = network.lm_head(PrefixForward(network, TOKENS).normed(DENSE))
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def without_linears(network: Any) -> None:
    network.model.layers = torch.nn.ModuleList()


def with_eager_attention(network: Any) -> None:
    network.config._attn_implementation = "eager"


@pytest.mark.parametrize(
    ("spoil", "form", "says"),
    [
        (without_linears, Format("int8"), "linear"),
        (with_eager_attention, Format(kv="int8"), "eager"),
    ],
)
def test_what_cannot_be_rounded_is_refused(
    spoil: Callable[[Any], None], form: Format, says: str
) -> None:
    network = tiny_llama.network()
    spoil(network)
    with pytest.raises(InvalidSpec, match=says), rounding.rounded(network, form):
        pass
