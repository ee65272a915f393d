"""The block-skipping forward against transformers' own."""

from typing import Any

import numpy as np
import pytest
import tiny_llama
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rapgym.arrays import BoolArray
from rapgym.model import blocks
from rapgym.runtime.measure.forward import PrefixForward, prefix_order

N = 2 * tiny_llama.LAYERS
NETWORKS = {family: tiny_llama.network(family) for family in tiny_llama.FAMILIES}
TOKENS = torch.randint(0, 256, (2, 40), generator=torch.Generator().manual_seed(1))

kept_sets = st.lists(st.booleans(), min_size=N, max_size=N).map(lambda k: np.array(k, dtype=bool))


def own_logits(network: Any, tokens: torch.Tensor, dropped: list[int]) -> torch.Tensor:
    """Logits of transformers' forward with the output projections of `dropped` blocks zeroed."""
    projections = []
    for block in dropped:
        layer = network.model.layers[block // 2]
        projections.append(layer.mlp.down_proj if block % 2 else layer.self_attn.o_proj)
    saved = [projection.weight.clone() for projection in projections]
    try:
        for projection in projections:
            assert projection.bias is None, "zeroed weights alone make the block add nothing"
            projection.weight.zero_()
        logits: torch.Tensor = network(tokens, use_cache=False).logits
    finally:
        for projection, weight in zip(projections, saved, strict=True):
            projection.weight.copy_(weight)
    return logits


def skipping_logits(network: Any, kept: BoolArray) -> torch.Tensor:
    logits: torch.Tensor = network.lm_head(PrefixForward(network, TOKENS).normed(kept))
    return logits


@pytest.mark.parametrize("family", NETWORKS)
@pytest.mark.parametrize("block", [None, *range(N)])
def test_dropping_a_block_equals_zeroing_its_output_projection(
    family: str, block: int | None
) -> None:
    kept = np.ones(N, dtype=bool)
    dropped = [] if block is None else [block]
    kept[dropped] = False
    network = NETWORKS[family]
    expected = own_logits(network, TOKENS, dropped)
    found = skipping_logits(network, kept)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    if dropped:
        far = (expected - own_logits(network, TOKENS, [])).abs().max()
        assert far > 0.1, "the block matters, or equality would say nothing"


@given(kept=kept_sets)
@settings(deadline=None, max_examples=40)
def test_dropping_several_blocks_equals_zeroing_all_their_projections(kept: BoolArray) -> None:
    network = NETWORKS["llama"]
    expected = own_logits(network, TOKENS, [int(block) for block in np.flatnonzero(~kept)])
    torch.testing.assert_close(skipping_logits(network, kept), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", NETWORKS)
@pytest.mark.parametrize("removed", [(0,), (1,), (2,), (0, 2)])
def test_dropping_both_blocks_equals_a_model_without_the_layer(
    family: str, removed: tuple[int, ...]
) -> None:
    network = NETWORKS[family]
    kept = np.ones(N, dtype=bool)
    for layer in removed:
        kept[2 * layer : 2 * layer + 2] = False
    found = skipping_logits(network, kept)
    whole = network.model.layers
    try:
        network.model.layers = torch.nn.ModuleList(
            layer for index, layer in enumerate(whole) if index not in removed
        )
        network.config.num_hidden_layers -= len(removed)
        expected = network(TOKENS, use_cache=False).logits
    finally:
        network.model.layers = whole
        network.config.num_hidden_layers = len(whole)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@given(sets=st.lists(kept_sets, min_size=1, max_size=8))
@settings(deadline=None, max_examples=40)
def test_a_shared_prefix_changes_no_bit_whatever_the_order(sets: list[BoolArray]) -> None:
    network = NETWORKS["llama"]
    shared = PrefixForward(network, TOKENS)
    for kept in sets:
        fresh = PrefixForward(network, TOKENS)
        assert torch.equal(shared.stream(kept), fresh.stream(kept)), blocks.key(kept)


@given(sets=st.lists(kept_sets, min_size=1, max_size=8))
@settings(deadline=None, max_examples=40)
def test_only_blocks_after_the_first_difference_are_run(sets: list[BoolArray]) -> None:
    shared = PrefixForward(NETWORKS["llama"], TOKENS)
    last: BoolArray | None = None
    for kept in sets:
        before = shared.blocks_run
        shared.stream(kept)
        first = 0 if last is None else next((n for n in range(N) if kept[n] != last[n]), N)
        assert shared.blocks_run - before == np.count_nonzero(kept[first:])
        last = kept


@given(sets=st.lists(kept_sets, max_size=12))
def test_prefix_order_is_the_descending_order_of_keys(sets: list[BoolArray]) -> None:
    order = prefix_order(sets)
    assert sorted(order) == list(range(len(sets)))
    keys = [blocks.key(sets[index]) for index in order]
    assert keys == sorted(keys, reverse=True)


@pytest.mark.slow
def test_the_reference_model_has_the_perplexity_that_was_found_elsewhere() -> None:
    """25 with a standard error of 1.5, on 32 spread sequences of 512 tokens of WikiText-2 test."""
    from rapgym.model import pretrained
    from rapgym.runtime import model, samples
    from rapgym.runtime.measure.loss import token_loss

    known = pretrained.known("smollm2-135m")
    assert known is not None
    pretrained.pull(known)
    loaded = model.load(known.name, dtype="bfloat16")
    ids = samples.token_ids(loaded.tokenizer, "wiki", "test")
    starts = np.linspace(0, len(ids) - 512, 32).astype(int)
    tokens = torch.from_numpy(np.stack([ids[start : start + 512] for start in starts]))
    losses = []
    with torch.inference_mode():
        for rows in tokens.split(4):
            normed = PrefixForward(loaded.network, rows).normed(np.ones(60, dtype=bool))
            losses.append(token_loss(loaded.network.lm_head, normed, rows).nll)
    assert torch.cat(losses).mean().exp().item() == pytest.approx(25, abs=3)
