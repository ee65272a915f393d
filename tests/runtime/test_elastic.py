"""Blocks leave and return: outputs equal a model without them, and memory is really given up."""

import gc
import os
import resource
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_llama
import torch
import transformers
from fake_device import FakeDevice
from plain_forward import PlainModel
from transformers.cache_utils import DummyLayer, DynamicCache

from rapgym.arrays import BoolArray, IntArray
from rapgym.errors import DataUnavailable, InvalidSpec
from rapgym.runtime import model as models
from rapgym.runtime.live.device_memory import HostMemory
from rapgym.runtime.live.elastic import ElasticModel, Moved
from rapgym.runtime.model import LoadedModel

BLOCKS = 2 * tiny_llama.LAYERS
FAMILIES = sorted(tiny_llama.FAMILIES)
SINGLES = [{block} for block in range(BLOCKS)]
SEVERAL = [{0, 1}, {0, 2}, {2, 4}, {0, 4}, {0, 2, 5}, {1, 3, 5}, {0, 3, 4, 5}, {0, 1, 2, 3, 5}]
PROMPTS = [
    np.random.default_rng(seed).integers(0, 256, size) for seed, size in enumerate((11, 4, 7))
]
STEPS = 6
# The process takes and gives back a little for other reasons; a block of `wide` is 3 MiB at least.
NOISE_BYTES = 512 * 1024


def without(*blocks: int, count: int = BLOCKS) -> BoolArray:
    kept = np.ones(count, dtype=bool)
    kept[list(blocks)] = False
    return kept


def padded(prompts: list[IntArray] = PROMPTS) -> dict[str, torch.Tensor]:
    """Prompts as a left-padded batch."""
    length = max(map(len, prompts))
    ids = np.stack([np.pad(prompt, (length - len(prompt), 0)) for prompt in prompts])
    seen = np.stack([np.arange(length) >= length - len(prompt) for prompt in prompts])
    return {
        "input_ids": torch.from_numpy(ids),
        "attention_mask": torch.from_numpy(seen.astype(np.int64)),
    }


def decode(
    model: ElasticModel, steps: int, cache: Any, applied: dict[int, BoolArray] | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Greedy decoding of the left-padded batch, token by token.

    Args:
        applied: kept sets to apply before the forward pass of the n-th answered token.

    Returns:
        Tokens int64 [B, steps] and the logits that chose them [B, steps, vocabulary].
    """
    batch = padded()
    ids, seen = batch["input_ids"], batch["attention_mask"]
    positions = (seen.cumsum(-1) - 1).clamp(min=0)
    chosen, logits = [], []
    for step in range(steps):
        if step in (applied or {}):
            model.apply((applied or {})[step])
        out = model.network(
            input_ids=ids, attention_mask=seen, position_ids=positions, past_key_values=cache
        )
        logits.append(out.logits[:, -1])
        ids = logits[-1].argmax(-1, keepdim=True)
        chosen.append(ids)
        seen = torch.cat((seen, torch.ones_like(ids)), dim=1)
        positions = positions[:, -1:] + 1
    return torch.cat(chosen, 1), torch.stack(logits, 1)


def generated(model: ElasticModel, **options: Any) -> list[list[int]]:
    batch = padded()
    options = {"max_new_tokens": STEPS, "do_sample": False, "pad_token_id": 0, **options}
    with torch.inference_mode():
        found = model.network.generate(**batch, **options)
    answers: list[list[int]] = found[:, batch["input_ids"].shape[1] :].tolist()
    return answers


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[ElasticModel, PlainModel]]:
    loaded = tiny_llama.loaded(request.param)
    plain = PlainModel(loaded.network)
    with ElasticModel(loaded) as model:
        yield model, plain


@pytest.fixture
def dense(pair: tuple[ElasticModel, PlainModel]) -> tuple[ElasticModel, PlainModel]:
    pair[0].apply(without())
    return pair


@pytest.mark.parametrize("blocks", [set(), *SINGLES, *SEVERAL], ids=str)
def test_outputs_equal_those_of_a_model_built_without_the_blocks(
    dense: tuple[ElasticModel, PlainModel], blocks: set[int]
) -> None:
    model, plain = dense
    model.apply(without(*blocks))
    smaller = plain.without(blocks)
    wanted = [smaller.greedy(prompt, STEPS) for prompt in PROMPTS]
    exact = [
        smaller.logits(np.append(prompt, answer))
        for prompt, answer in zip(PROMPTS, wanted, strict=True)
    ]
    with torch.inference_mode():
        for prompt, logits in zip(PROMPTS, exact, strict=True):
            ids = torch.from_numpy(prompt)[None]
            for use_cache in (True, False):
                found = model.network(ids, use_cache=use_cache).logits[0]
                torch.testing.assert_close(found, logits[: len(prompt)], atol=1e-4, rtol=0)
            for cache in (model.cache(), None, DynamicCache()):
                pieces, kept_cache = [], cache
                for piece in ids.split(3, dim=1):  # chunked prefill
                    out = model.network(piece, past_key_values=kept_cache, use_cache=True)
                    kept_cache = out.past_key_values
                    pieces.append(out.logits[0])
                torch.testing.assert_close(
                    torch.cat(pieces), logits[: len(prompt)], atol=1e-4, rtol=0
                )
        tokens, chose = decode(model, STEPS, model.cache())
    assert tokens.tolist() == wanted, "left-padded, batched, with a KV cache"
    for row, (prompt, logits) in enumerate(zip(PROMPTS, exact, strict=True)):
        torch.testing.assert_close(chose[row], logits[len(prompt) - 1 : -1], atol=1e-4, rtol=0)
    assert generated(model) == wanted
    assert generated(model, past_key_values=model.cache()) == wanted
    assert generated(model, cache_implementation="static", disable_compile=True) == wanted


def switched(plain: PlainModel, prompt: IntArray, at: dict[int, BoolArray]) -> list[int]:
    """Greedy answer where the kept set changes before the n-th answered token runs.

    Tokens that ran before keep the keys and values they had: nothing is computed again.
    """
    kept = np.tile(plain.kept, (len(prompt) + STEPS, 1))
    for step, now in at.items():
        kept[len(prompt) + step - 1 :] = now
    return plain.greedy(prompt, STEPS, kept)


@pytest.mark.parametrize("blocks", [*SINGLES, *SEVERAL], ids=str)
@pytest.mark.parametrize("step", [1, 3])
def test_dropping_in_mid_generation_equals_a_reference_that_switches_at_the_same_token(
    dense: tuple[ElasticModel, PlainModel], blocks: set[int], step: int
) -> None:
    model, plain = dense
    wanted = [switched(plain, prompt, {step: without(*blocks)}) for prompt in PROMPTS]
    with torch.inference_mode(), model.sequences():
        tokens, _ = decode(model, STEPS, model.cache(), {step: without(*blocks)})
    assert tokens.tolist() == wanted


@pytest.mark.parametrize("blocks", [{0}, {4}, {1}, {0, 3}], ids=str)
def test_dropping_while_generate_runs(
    dense: tuple[ElasticModel, PlainModel], blocks: set[int]
) -> None:
    model, plain = dense

    class Drop(transformers.LogitsProcessor):
        calls = 0

        def __call__(self, input_ids: Any, scores: Any) -> Any:
            self.calls += 1
            if self.calls == 2:  # the second token is chosen; the next pass runs without
                model.apply(without(*blocks))
            return scores

    wanted = [switched(plain, prompt, {2: without(*blocks)}) for prompt in PROMPTS]
    assert generated(model, logits_processor=[Drop()]) == wanted


def test_ffn_returns_in_mid_sequence_and_attention_is_refused(
    dense: tuple[ElasticModel, PlainModel],
) -> None:
    model, plain = dense
    changes = {2: without(0, 1, 3), 4: without(0, 3)}  # the FFN of layer 0 returns
    wanted = [switched(plain, prompt, changes) for prompt in PROMPTS]
    with torch.inference_mode(), model.sequences():
        assert model.in_flight
        tokens, _ = decode(model, STEPS, model.cache(), changes)
        with pytest.raises(InvalidSpec, match=r"layers \[0\] cannot return while sequences"):
            model.apply(without())
        assert (model.kept == without(0, 3)).all(), "nothing was done"
    assert tokens.tolist() == wanted
    moved = model.apply(without())
    assert moved.restored_bytes == model.block_bytes[[0, 3]].sum()
    assert moved.restore_s > 0
    assert generated(model) == [plain.greedy(prompt, STEPS) for prompt in PROMPTS]


def test_a_cache_that_lacks_restored_attention_is_refused_without_the_flag(
    dense: tuple[ElasticModel, PlainModel],
) -> None:
    model, _ = dense
    ids = torch.from_numpy(PROMPTS[0])[None]
    with torch.inference_mode():
        cache = model.network(ids, use_cache=True).past_key_values
        model.apply(without(2))
        model.network(ids[:, :1], past_key_values=cache)
        model.apply(without())
        with pytest.raises(InvalidSpec, match=r"layer 1 came back .* restart these sequences"):
            model.network(ids[:, :1], past_key_values=cache)


def test_the_last_attention_block_stays(dense: tuple[ElasticModel, PlainModel]) -> None:
    model, _ = dense
    with pytest.raises(InvalidSpec, match="at least one attention block must stay"):
        model.apply(without(0, 2, 4))
    with pytest.raises(InvalidSpec, match=r"bool \[6\], not int64 \[6\]"):
        model.apply(np.ones(6, dtype=np.int64))
    assert model.kept.all()
    assert model.apply(model.kept) == Moved()


def test_logits_after_a_return_are_bit_equal() -> None:
    for family in FAMILIES:
        loaded = tiny_llama.loaded(family)
        batch = padded()
        with torch.inference_mode():
            before = loaded.network(**batch).logits
            with ElasticModel(loaded) as model:
                for blocks in SINGLES:
                    model.apply(without(*blocks))
                    assert not torch.equal(loaded.network(**batch).logits, before)
                    model.apply(without())
                    assert torch.equal(loaded.network(**batch).logits, before)
                model.apply(without(0, 3))
            assert torch.equal(loaded.network(**batch).logits, before), "close() puts all back"


def wide(layers: int = 3) -> LoadedModel:
    """Blocks of 3 and 12 MiB: large enough to measure."""
    config = transformers.LlamaConfig(
        num_hidden_layers=layers, hidden_size=512, intermediate_size=2048, num_attention_heads=8,
        num_key_value_heads=4, vocab_size=tiny_llama.VOCABULARY, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    network = transformers.LlamaForCausalLM(config).requires_grad_(False).eval()
    return LoadedModel("wide", network, tiny_llama.tokenizer(), "w", "t")


def data_bytes() -> int:
    """What RLIMIT_DATA counts."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmData")) * 1024


def mappings() -> int:
    return len(Path("/proc/self/maps").read_text().splitlines())


def footprint(model: ElasticModel) -> tuple[int, int, int, list[str]]:
    """Anonymous and data bytes, mappings and open files of this process."""
    gc.collect()
    model.memory.trim()
    return model.memory.used_bytes(), data_bytes(), mappings(), os.listdir("/proc/self/fd")


def test_freed_bytes_are_what_left() -> None:
    with ElasticModel(wide()) as model:
        for blocks in ((0,), (1,), (0, 1, 2, 3, 5)):
            nominal = int(model.block_bytes[list(blocks)].sum())
            before = data_bytes()
            dropped = model.apply(without(*blocks))
            assert dropped.dropped_bytes == nominal
            assert abs(dropped.freed_bytes - nominal) < NOISE_BYTES
            assert abs(before - data_bytes() - nominal) < NOISE_BYTES, "RLIMIT_DATA sees it too"
            back = model.apply(without())
            assert back.restored_bytes == nominal
            assert abs(back.taken_bytes - nominal) < NOISE_BYTES
            assert dropped.drop_s > 0
            assert back.restore_s > 0


@pytest.mark.parametrize("saved", [False, True], ids=["made here", "loaded"])
def test_the_memory_in_which_weights_first_lay_goes_away(saved: bool, tmp_path: Path) -> None:
    loaded = wide()
    if saved:
        loaded.network.save_pretrained(tmp_path)
        tiny_llama.tokenizer().save_pretrained(tmp_path)
        del loaded
        loaded = models.load(str(tmp_path), dtype="float32")
    gc.collect()
    memory = HostMemory()
    memory.trim()
    before = memory.used_bytes()
    with ElasticModel(loaded, memory) as model:
        blocks = int(model.block_bytes.sum())
        # Weights that were read from a file may not have been in memory yet.
        assert memory.used_bytes() - before < (blocks if saved else 0) + NOISE_BYTES
        held = memory.used_bytes()
        model.apply(without(0, 1, 2, 3, 5))
        left = held - memory.used_bytes()
        assert abs(left - int(model.block_bytes[[0, 1, 2, 3, 5]].sum())) < NOISE_BYTES
        head, words = loaded.network.lm_head.weight, loaded.network.model.embed_tokens.weight
        assert head.data_ptr() == words.data_ptr(), "tied embeddings stay one"


def test_weights_that_lie_in_one_array_can_leave_alone() -> None:
    """As a loader may leave them: what stays must not keep the whole array."""
    loaded, batch = wide(), padded()
    weights = list(loaded.network.parameters())
    whole = torch.cat([weight.flatten() for weight in weights])
    start = 0
    for weight in weights:
        weight.data = whole[start : start + weight.numel()].view(weight.shape)
        start += weight.numel()
    del whole
    memory = HostMemory()
    memory.trim()
    with torch.inference_mode():
        logits = loaded.network(**batch).logits
        before = memory.used_bytes()
        with ElasticModel(loaded, memory) as model:
            assert memory.used_bytes() - before < NOISE_BYTES
            moved = model.apply(without(0, 1))
            assert abs(moved.freed_bytes - moved.dropped_bytes) < NOISE_BYTES
        assert torch.equal(loaded.network(**batch).logits, logits)


def test_blocks_that_share_weights_are_refused() -> None:
    loaded = tiny_llama.loaded()
    layers = loaded.network.model.layers
    layers[1].mlp.up_proj.weight = layers[0].mlp.up_proj.weight
    with pytest.raises(InvalidSpec, match="blocks share weights"):
        ElasticModel(loaded)


def test_200_cycles_end_at_the_memory_they_began_with() -> None:
    rng = np.random.default_rng(0)
    batch = padded()
    with ElasticModel(wide(2)) as model, torch.inference_mode():
        wanted = model.network(**batch).logits

        def cycle() -> None:
            kept = model.kept ^ (rng.random(model.blocks) < 0.3)
            kept[2 * rng.integers(2)] = True
            model.apply(kept)

        for _ in range(5):  # threads, buffers and the like of the first passes
            cycle()
            model.network(**batch)
        model.apply(without(count=4))
        gc.collect()  # what other tests left would be given back on the way
        began = footprint(model)
        for count in range(200):
            cycle()
            if count % 20 == 0:
                model.network(**batch)
        model.apply(without(count=4))
        ended = footprint(model)
        assert torch.equal(model.network(**batch).logits, wanted)
    # Python takes memory for its objects by the MiB; the smallest block has 3. What other tests held may
    # be given back meanwhile.
    assert ended[0] - began[0] < 2 * 2**20, "anonymous memory"
    assert ended[1] - began[1] < 2 * 2**20, "address space for data"
    assert ended[2] - began[2] <= 4, "mappings: one of a block would be seen 200 times"
    assert ended[3] == began[3], "open files"


def test_dropped_attention_takes_its_keys_and_values_along() -> None:
    ids = torch.randint(0, 256, (4, 1024), generator=torch.Generator().manual_seed(0))
    with ElasticModel(wide()) as model, torch.inference_mode():
        cache = model.network(ids, use_cache=True).past_key_values
        kv_bytes = 2 * ids.numel() * 256 * 4  # keys and values, 4 heads of 64, float32
        moved = model.apply(without(2, 3))
        assert moved.kv_bytes == kv_bytes
        assert isinstance(cache.layers[1], DummyLayer)
        assert moved.freed_bytes > moved.dropped_bytes + kv_bytes - NOISE_BYTES
        seen = weakref.ref(cache)
        del cache
        gc.collect()
        assert seen() is None, "the model keeps no cache alive"
        assert model.apply(without(2, 3, 4)).kv_bytes == 0


def test_a_tensor_that_points_into_a_block_keeps_it_in_memory() -> None:
    loaded = tiny_llama.loaded()
    batch = padded()
    with ElasticModel(loaded) as model, torch.inference_mode():
        before = loaded.network(**batch).logits
        view = loaded.network.model.layers[1].mlp.up_proj.weight.data[:2]
        with pytest.raises(InvalidSpec, match="block 3 stays: another tensor points"):
            model.apply(without(0, 3))
        assert (model.kept == without(0)).all(), "what left before has left"
        model.apply(without())
        assert torch.equal(loaded.network(**batch).logits, before)
        del view
        model.apply(without(0, 3))


@contextmanager
def limited(kind: int, limit: int) -> Iterator[None]:
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


def test_a_full_disk_leaves_the_network_as_it_was() -> None:
    loaded, batch = wide(), padded()
    with torch.inference_mode():
        before = loaded.network(**batch).logits
        with (
            pytest.raises(DataUnavailable, match=r"could not be written .* make room there"),
            limited(resource.RLIMIT_FSIZE, 20 * 2**20),  # in the middle of the third block
        ):
            ElasticModel(loaded)
        assert torch.equal(loaded.network(**batch).logits, before)
        with ElasticModel(loaded) as model:
            model.apply(without(0))
            model.apply(without())
            assert torch.equal(loaded.network(**batch).logits, before)


def test_a_damaged_backing_file_leaves_the_model_with_what_it_has() -> None:
    loaded = tiny_llama.loaded()
    plain = PlainModel(loaded.network)
    memory = HostMemory()
    model = ElasticModel(loaded, memory)
    model.apply(without(1, 5))
    os.ftruncate(memory._file.fileno(), int(model.block_bytes[:2].sum()))
    with pytest.raises(DataUnavailable, match="load the model again"):
        model.apply(without())
    assert (model.kept == without(5)).all(), "block 1 could still be read"
    assert generated(model) == [plain.without({5}).greedy(prompt, STEPS) for prompt in PROMPTS]
    with pytest.raises(DataUnavailable, match="load the model again"):
        model.close()
    with pytest.raises(InvalidSpec, match="was closed"):
        model.apply(without(0))
    model.close()  # a second time: nothing is left to do


def test_no_room_for_a_return_leaves_the_model_with_what_it_has() -> None:
    loaded, batch = wide(), padded()
    with ElasticModel(loaded) as model, torch.inference_mode():
        before = loaded.network(**batch).logits
        model.apply(without(1, 3))
        with (
            pytest.raises(OSError, match="allocate memory"),
            limited(resource.RLIMIT_DATA, data_bytes() + 16 * 2**20),
        ):
            model.apply(without())
        assert (model.kept == without(3)).all(), "there was room for one"
        model.apply(without())
        assert torch.equal(loaded.network(**batch).logits, before)


def test_another_device_runs_the_same_logic() -> None:
    """A device whose allocator hands out segments of 64 KiB."""
    loaded = tiny_llama.loaded("qwen2")
    plain, device = PlainModel(loaded.network), FakeDevice(segment_bytes=64 * 1024)
    model = ElasticModel(loaded, device)
    segments = 3 * 1 + 3 * 2  # blocks of 48 and of 72 KiB
    assert device.used_bytes() == segments * 64 * 1024
    assert device.trimmed == 1
    moved = model.apply(without(0, 3))
    assert moved.dropped_bytes == model.block_bytes[[0, 3]].sum()
    assert moved.freed_bytes == 3 * 64 * 1024, "what the allocator says, not what shapes say"
    assert generated(model) == [plain.without({0, 3}).greedy(prompt, STEPS) for prompt in PROMPTS]
    device.limit_bytes = (segments - 1) * 64 * 1024
    with pytest.raises(RuntimeError, match="out of memory"):
        model.apply(without())
    assert (model.kept == without(3)).all()
    cache = model.cache()
    with torch.inference_mode():
        decode(model, 2, cache)
    assert model.apply(without(0, 3)).kv_bytes > 0
    assert device.trimmed == 2
    device.limit_bytes = None
    model.close()
    assert device.closed
    assert device.used_bytes() == segments * 64 * 1024
    assert generated(model) == [plain.greedy(prompt, STEPS) for prompt in PROMPTS]


def test_a_window_of_attention_is_refused() -> None:
    config = transformers.MistralConfig(
        num_hidden_layers=2, hidden_size=64, intermediate_size=96, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=257, sliding_window=8,
    )  # fmt: skip
    network = transformers.MistralForCausalLM(config).eval()
    loaded = LoadedModel("tiny-mistral", network, tiny_llama.tokenizer(), "w", "t")
    with pytest.raises(InvalidSpec, match="through a window"):
        ElasticModel(loaded)
