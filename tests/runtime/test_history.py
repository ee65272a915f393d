"""What an answer costs whose context was computed under another kept set, against transformers' cache."""

import copy
from pathlib import Path

import numpy as np
import pytest
import tiny_llama
import torch
import transformers

from rapgym.arrays import BoolArray
from rapgym.quality import texts as quality_texts
from rapgym.runtime.measure import designs, history

N = 2 * tiny_llama.LAYERS
MODEL = tiny_llama.loaded()
CONTEXT = 20


def tokens() -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, tiny_llama.VOCABULARY, (2, 50), generator=generator)


def zeroed(kept: BoolArray) -> object:
    """A copy of the network whose dropped blocks add nothing."""
    network = copy.deepcopy(MODEL.network)
    for block in np.flatnonzero(~kept):
        layer = network.model.layers[block // 2]
        (layer.mlp.down_proj if block % 2 else layer.self_attn.o_proj).weight.zero_()
    return network


def cached_nll(in_context: BoolArray, in_answer: BoolArray) -> torch.Tensor:
    """Transformers' own cache: the context by one network, the answer by another."""
    asked = tokens()
    first, second = zeroed(in_context), zeroed(in_answer)
    cache = transformers.DynamicCache(config=MODEL.network.config)
    first(asked[:, :CONTEXT], past_key_values=cache, use_cache=True)  # type: ignore[operator]
    logits = second(asked[:, CONTEXT:], past_key_values=cache, use_cache=True).logits  # type: ignore[operator]
    picked = torch.log_softmax(logits[:, :-1].float(), -1)
    return -picked.gather(2, asked[:, CONTEXT + 1 :, None])[..., 0]


@pytest.mark.parametrize("gone", [[], [1], [3, 5], [1, 3, 5]])
@pytest.mark.parametrize("when", history.WHENS)
def test_ffn_blocks_are_cut_in_one_part_or_both(gone: list[int], when: str) -> None:
    part, dense = designs.without(N, gone), designs.dense(N)
    then = dense if when == "answer" else part
    now = dense if when == "context" else part
    with torch.inference_mode():
        found = history.answer_nll(MODEL.network, tokens(), CONTEXT, then, now)
        expected = cached_nll(then, now)
    assert found.shape == (2, 50 - CONTEXT - 1)
    assert torch.allclose(found, expected, atol=2e-4)


def test_attention_that_was_dropped_in_the_context_left_nothing_to_see() -> None:
    """As if the answer's tokens stood alone, in that layer: the first one sees itself alone."""
    part, dense = designs.without(N, [0]), designs.dense(N)
    layer = MODEL.network.model.layers[0]
    seen = []
    handle = layer.self_attn.register_forward_hook(
        lambda module, args, kwargs, out: seen.append(kwargs["attention_mask"]), with_kwargs=True
    )
    try:
        with torch.inference_mode():
            history.answer_nll(MODEL.network, tokens(), CONTEXT, part, dense)
    finally:
        handle.remove()
    (mask,) = seen
    assert not mask[0, 0, CONTEXT:, :CONTEXT].any()
    assert mask[0, 0, CONTEXT, CONTEXT]
    assert mask[0, 0, -1, CONTEXT:].all()


def test_dropped_throughout_is_the_kept_set_itself() -> None:
    part = designs.without(N, [0, 3])
    with torch.inference_mode():
        found = history.answer_nll(MODEL.network, tokens(), CONTEXT, part, part)
        logits = zeroed(part)(tokens()).logits  # type: ignore[operator]
        whole = torch.log_softmax(logits[:, CONTEXT:-1].float(), -1)
        expected = -whole.gather(2, tokens()[:, CONTEXT + 1 :, None])[..., 0]
    assert torch.allclose(found, expected, atol=2e-4)


def test_a_measurement_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality_texts, "read", tiny_llama.text)
    monkeypatch.setattr(history, "COUNTS", {"ffn": (1, 2), "attention": (1,)})
    orders, path = {"attention": [4, 2], "ffn": [3, 5]}, tmp_path / "history.jsonl"
    meter = history.open_meter(MODEL, path, dtype="float32", length=32)
    with meter.ledger:
        rows = meter.measure(orders)
    assert [row.place for row in rows] == [
        (kind, str(count), when)
        for kind, count in (("ffn", 1), ("ffn", 2), ("attention", 1))
        for when in history.WHENS
    ]
    written = path.read_bytes()
    again = history.open_meter(MODEL, path, dtype="float32", length=32)
    with again.ledger:
        assert again.measure(orders) == rows
    assert path.read_bytes() == written
    found = history.shares(rows)[0]
    assert (found.kind, found.count) == ("ffn", 1)
    assert found.share == pytest.approx(rows[0].mean_nll / rows[2].mean_nll)
