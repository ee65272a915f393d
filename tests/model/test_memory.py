"""Bytes: the check points of DESIGN.md section 2, and a recount by an independent account."""

from dataclasses import replace
from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapgym.errors import InvalidSpec
from rapgym.model import memory
from rapgym.model.profiles import DeviceProfile
from rapgym.model.shapes import MODELS, Format, KVFormat, ModelSpec, WeightFormat, model_spec

MIB = 1 << 20
LLAMA2, LLAMA3, QWEN, SMOL, MISTRAL, QWEN_14B = map(
    model_spec,
    ("llama2-7b", "llama3-8b", "qwen2.5-7b", "smollm2-135m", "mistral-7b", "qwen2.5-14b"),
)


def test_check_points_of_llama2_7b() -> None:
    assert memory.attention_bytes(LLAMA2) == 128 * MIB
    assert memory.ffn_bytes(LLAMA2) == 258 * MIB
    assert LLAMA2.layers * memory.kv_token_bytes(LLAMA2) == 512 << 10, "512 KiB of KV a token"


def test_check_points_of_the_reference_model() -> None:
    assert round(memory.attention_bytes(SMOL) / MIB, 2) == 1.69
    assert round(memory.ffn_bytes(SMOL) / MIB, 2) == 5.06
    assert memory.kv_token_bytes(SMOL) == 768


# The parameter counts of the models' published checkpoints.
@pytest.mark.parametrize(
    ("model", "parameters"),
    [(SMOL, 134_515_008), (LLAMA2, 6_738_415_616), (LLAMA3, 8_030_261_248), (QWEN, 7_615_616_512),
     (MISTRAL, 7_248_023_552), (QWEN_14B, 14_770_033_664)],
    ids=lambda value: getattr(value, "name", ""),
)  # fmt: skip
def test_all_weights_are_counted(model: ModelSpec, parameters: int) -> None:
    assert memory.weight_bytes(model) == 2 * parameters


@pytest.mark.parametrize(
    ("model", "tokens"),
    [(LLAMA2, 8_320), (LLAMA3, 65_536), (QWEN, 170_240)],
    ids=lambda v: str(v)[:24],
)
def test_where_an_attention_block_frees_as_much_as_an_ffn_block(
    model: ModelSpec, tokens: int
) -> None:
    costs = memory.footprint(model).block_bytes(np.array([tokens - 1, tokens, tokens + 1]))
    attention, ffn = costs[:, 0], costs[:, 1]
    assert attention[0] < ffn[0]
    assert attention[1] == ffn[1]
    assert attention[2] > ffn[2]


@pytest.mark.parametrize(
    ("model", "tokens"),
    [(SMOL, 11_676), (LLAMA2, 25_705), (LLAMA3, 122_532)],
    ids=lambda v: str(v)[:24],
)
def test_where_kv_takes_as_much_as_weights(model: ModelSpec, tokens: int) -> None:
    assert memory.weight_bytes(model) // (model.layers * memory.kv_token_bytes(model)) == tokens


def test_scales_of_small_formats_by_hand() -> None:
    # 3 output channels of 130 weights: int8 390 + 3 scales of 2 bytes; int4 195 + 3 x 3 groups of 64.
    assert memory.linear_bytes(3, 130, "bf16") == 780
    assert memory.linear_bytes(3, 130, "int8") == 396
    assert memory.linear_bytes(3, 130, "int4") == 195 + 18
    # Keys and values of 3 heads of 64 bytes, a scale of 2 bytes each.
    assert memory.kv_token_bytes(SMOL, "int8") == 2 * 3 * (64 + 2)
    assert memory.weight_bytes(LLAMA2, Format("int8")) < 0.53 * memory.weight_bytes(LLAMA2)


@pytest.mark.parametrize("name", ["fp8", "", "BF16"])
def test_unknown_formats_are_refused_by_name(name: str) -> None:
    with pytest.raises(InvalidSpec, match="bf16, int8, int4"):
        memory.linear_bytes(1, 1, name)  # type: ignore[arg-type]
    with pytest.raises(InvalidSpec, match="bf16, int8"):
        memory.kv_token_bytes(SMOL, name)


@st.composite
def models(draw: st.DrawFn) -> ModelSpec:
    kv_heads, group = draw(st.integers(1, 4)), draw(st.integers(1, 4))  # MHA where group is 1
    return ModelSpec(
        "any", draw(st.integers(1, 5)), draw(st.integers(1, 200)), kv_heads * group, kv_heads,
        draw(st.integers(1, 128)), draw(st.integers(1, 300)), draw(st.integers(1, 100)),
        draw(st.booleans()), draw(st.booleans()),
    )  # fmt: skip


def matrix_bytes(outputs: int, inputs: int, form: WeightFormat) -> int:
    """Weight by weight, scale by scale."""
    if form == "bf16":
        return sum(2 for _ in range(outputs) for _ in range(inputs))
    if form == "int8":
        return sum(inputs + 2 for _ in range(outputs))
    packed = ceil(outputs * inputs / 2)  # two weights a byte
    return packed + sum(2 for _ in range(outputs) for _ in range(0, inputs, 64))


@given(
    models(),
    st.sampled_from(["bf16", "int8", "int4"]),
    st.sampled_from(["bf16", "int8"]),
    st.integers(0, 10**7),
    st.integers(0, 10**7),
    st.sampled_from([0, 1, 300 * MIB]),
    st.sampled_from([0.0, 0.1, 2048.5]),
    st.data(),
)
def test_used_bytes_equal_a_recount(
    model: ModelSpec,
    weights: WeightFormat,
    kv: KVFormat,
    prompt: int,
    reserved: int,
    context_bytes: int,
    activations: float,
    data: st.DataObject,
) -> None:
    kept = np.array(
        data.draw(st.lists(st.booleans(), min_size=model.blocks, max_size=model.blocks))
    )
    profile = DeviceProfile("any", context_bytes, activations, 17)
    foot = memory.footprint(model, Format(weights, kv), profile)

    head, wide = model.head_dim, model.query_heads * model.head_dim
    narrow = model.kv_heads * head
    count = context_bytes + ceil(activations * prompt)
    count += 2 * model.vocabulary * model.hidden * (1 if model.tied else 2)
    count += 2 * model.hidden * (2 * model.layers + 1)  # norms
    count += 2 * (wide + 2 * narrow) * model.layers if model.qkv_bias else 0
    element_bytes, scale_bytes = (2, 0) if kv == "bf16" else (1, 2)
    for layer in range(model.layers):
        if kept[2 * layer]:
            for outputs, inputs in ((wide, model.hidden), (narrow, model.hidden),
                                    (narrow, model.hidden), (model.hidden, wide)):  # fmt: skip
                count += matrix_bytes(outputs, inputs, weights)
            for _keys_or_values in range(2):
                for _head in range(model.kv_heads):
                    count += (head * element_bytes + scale_bytes) * (prompt + reserved)
        if kept[2 * layer + 1]:
            for outputs, inputs in ((model.ffn_dim, model.hidden), (model.ffn_dim, model.hidden),
                                    (model.hidden, model.ffn_dim)):  # fmt: skip
                count += matrix_bytes(outputs, inputs, weights)

    tokens = np.array(prompt + reserved)
    assert foot.used_bytes(kept, tokens, np.array(prompt)) == count
    by_block = foot.overhead_bytes(np.array(prompt)) + foot.block_bytes(tokens)[kept].sum()
    assert by_block == count
    assert foot.margin_bytes == 17, "a margin is kept free, not used"


@given(st.sampled_from(MODELS), st.integers(0, 10**6), st.integers(0, 2**60 - 1))
def test_a_block_is_worth_what_it_frees(model: ModelSpec, tokens: int, bits: int) -> None:
    """Attention: weights and the KV of its layer; FFN: weights alone."""
    foot, at = memory.footprint(model), np.array(tokens)
    kept = np.array([bits >> i & 1 for i in range(model.blocks)], dtype=bool)
    used = foot.used_bytes(kept, at, at)
    for block in np.flatnonzero(kept)[:6]:
        fewer = kept.copy()
        fewer[block] = False
        freed = used - foot.used_bytes(fewer, at, at)
        kv_bytes = 0 if block % 2 else tokens * memory.kv_token_bytes(model)
        assert freed == foot.weights[block] + kv_bytes == foot.block_bytes(at)[block]


def test_a_batch_of_sets_and_demands_is_counted_lane_by_lane() -> None:
    foot = memory.footprint(SMOL)
    kept = np.random.default_rng(0).random((5, 60)) < 0.7
    tokens = np.array([0, 1, 1000, 40_000, 7])
    together = foot.used_bytes(kept, tokens, tokens)
    assert together.dtype == np.int64
    for lane in range(5):
        assert together[lane] == foot.used_bytes(kept[lane], tokens[lane], tokens[lane])


@pytest.mark.parametrize(
    "change", [{"context_bytes": -1}, {"activation_bytes_per_token": -0.1}, {"margin_bytes": -1}]
)
def test_a_profile_adds_and_never_takes(change: dict[str, float]) -> None:
    with pytest.raises(InvalidSpec, match="negative"):
        replace(DeviceProfile(), **change)  # type: ignore[arg-type]


def test_shapes_that_cannot_be_are_refused() -> None:
    with pytest.raises(InvalidSpec, match="multiple"):
        replace(SMOL, kv_heads=2)
    with pytest.raises(InvalidSpec, match="at least 1"):
        replace(SMOL, layers=0)
    with pytest.raises(InvalidSpec, match="smollm2-135m, llama2-7b"):
        model_spec("gpt-2")
