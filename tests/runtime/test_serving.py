"""A batch served without padding against transformers' own forward, request by request, no cache."""

import gc
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_llama
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.errors import InvalidSpec
from rapgym.model import memory
from rapgym.model.shapes import ModelSpec
from rapgym.runtime.live.device_memory import Region
from rapgym.runtime.live.elastic import ElasticModel, Moved
from rapgym.runtime.live.packed import Rows, Stretch, stream
from rapgym.runtime.live.ragged import KVShape, RaggedCache, Room
from rapgym.runtime.live.requests import Request
from rapgym.runtime.live.serving import Batch

N = 2 * tiny_llama.LAYERS
DENSE: BoolArray = np.ones(N, dtype=bool)
NETWORKS = {family: tiny_llama.network(family) for family in tiny_llama.FAMILIES}
SHAPE = ModelSpec("tiny", layers=tiny_llama.LAYERS, hidden=64, query_heads=4, kv_heads=2,
                  head_dim=16, ffn_dim=96, vocabulary=tiny_llama.VOCABULARY, tied=False)  # fmt: skip
KV = KVShape(heads=2, head_dim=16, dtype=torch.float32)
LENGTHS = ((1, 6, 4), (9, 5, 5), (4, 3, 0), (13, 8, 1), (2, 7, 7))  # prompt, reserve, output


class FakeRoom:
    """Counts what is reserved and closed; refuses when there is no more room."""

    def __init__(self, most_bytes: int = 1 << 40) -> None:
        self.most_bytes, self.held_bytes, self.synchronised = most_bytes, 0, 0

    def reserve(self, count: int) -> Region:
        if self.held_bytes + count > self.most_bytes:
            raise RuntimeError("out of memory")
        return FakeRegion(self, count)

    def synchronise(self) -> None:
        self.synchronised += 1


class FakeRegion:
    def __init__(self, room: FakeRoom, count: int) -> None:
        self._room, self.bytes = room, torch.zeros(count, dtype=torch.uint8)
        room.held_bytes += count

    def close(self) -> None:
        self._room.held_bytes -= len(self.bytes)


@dataclass
class Switchable:
    """A model whose blocks are skipped but stay in memory."""

    network: Any
    kept: BoolArray
    memory: Room = field(default_factory=FakeRoom)
    in_flight: int = 0

    def apply(self, kept: BoolArray) -> str:
        self.kept = kept.copy()
        return "applied"

    @contextmanager
    def sequences(self) -> Iterator[None]:
        self.in_flight += 1
        yield
        self.in_flight -= 1


def requests(*, greedy: bool = False, seed: int = 3) -> list[Request]:
    rng = np.random.default_rng(seed)
    made = []
    for prompt, reserve, output in LENGTHS:
        ids = rng.integers(0, 256, prompt + output)
        made.append(Request(ids[:prompt], reserve, None if greedy else ids[prompt:]))
    return made


def without(*dropped: int) -> BoolArray:
    kept = DENSE.copy()
    kept[list(dropped)] = False
    return kept


def own_logits(network: Any, ids: IntArray, kept: BoolArray) -> torch.Tensor:
    """transformers' logits of one sequence; what block n adds counts where kept[token, n] is set."""

    def adds(block: int) -> Any:
        counts = torch.from_numpy(kept[:, block].astype(np.float32))[None, :, None]

        def hook(_module: Any, _given: Any, out: Any) -> Any:
            return (out[0] * counts, *out[1:]) if isinstance(out, tuple) else out * counts

        return hook

    handles = []
    for index, layer in enumerate(network.model.layers):
        handles.append(layer.self_attn.register_forward_hook(adds(2 * index)))
        handles.append(layer.mlp.register_forward_hook(adds(2 * index + 1)))
    try:
        logits: torch.Tensor = network(torch.from_numpy(ids)[None], use_cache=False).logits[0]
    finally:
        for handle in handles:
            handle.remove()
    return logits


def plain_answer(
    network: Any, request: Request, kept: BoolArray, after: BoolArray, switched_at: int
) -> tuple[list[int], list[float]]:
    """Tokens and nats of one request on its own; its tokens from `switched_at` on see `after`."""
    ids, tokens, nll = request.prompt, [], []
    for place in range(request.output_tokens):
        sets = np.where(np.arange(len(ids))[:, None] < switched_at, kept, after)
        log_p = own_logits(network, ids, sets)[-1].log_softmax(-1)
        token = int(log_p.argmax()) if request.output is None else int(request.output[place])
        tokens.append(token)
        nll.append(-float(log_p[token]))
        ids = np.append(ids, token)
    return tokens, nll


def assert_served(
    network: Any,
    batch: Batch,
    kept: BoolArray,
    after: BoolArray | None = None,
    switched_at: Sequence[int] | None = None,
) -> None:
    for index, request in enumerate(batch.requests):
        at = 10**6 if switched_at is None else switched_at[index]
        tokens, nll = plain_answer(network, request, kept, kept if after is None else after, at)
        assert batch.tokens[index].tolist() == tokens
        assert batch.nll[index] == pytest.approx(nll, abs=1e-4)


def stored_tokens(asked: Sequence[Request], chunk: int, units: int) -> list[int]:
    """How many tokens of each request have been run after so many units of work."""
    ends = list(itertools.accumulate(len(request.prompt) for request in asked))
    chunks = -(-ends[-1] // chunk)
    read, steps = min(units * chunk, ends[-1]), max(units - chunks, 0)
    return [
        min(max(read - end + len(request.prompt), 0), len(request.prompt))
        + min(steps, max(request.output_tokens - 1, 0))
        for request, end in zip(asked, ends, strict=True)
    ]


@pytest.mark.parametrize("family", NETWORKS)
@pytest.mark.parametrize("block", [None, *range(N)])
def test_logits_of_packed_rows_equal_those_of_each_request_alone(
    family: str, block: int | None
) -> None:
    network, kept = NETWORKS[family], DENSE if block is None else without(block)
    asked, model = requests(), Switchable(NETWORKS[family], kept)
    lengths = [len(request.prompt) for request in asked]
    firsts = list(itertools.accumulate(lengths, initial=0))
    stretches = [
        Stretch(slice(a, b), a, 0) for a, b in itertools.pairwise(firsts)
    ]  # of prompts alone, rows and slots are the same
    ids = torch.from_numpy(np.concatenate([request.prompt for request in asked]))
    positions = torch.cat([torch.arange(length) for length in lengths])
    cache = RaggedCache(KV, len(ids), np.flatnonzero(kept[0::2]).tolist(), FakeRoom())
    hidden = stream(model, Rows(ids, positions, torch.arange(len(ids)), stretches), cache)
    cache.close()
    found = network.lm_head(network.model.norm(hidden))
    for request, stretch in zip(asked, stretches, strict=True):
        expected = own_logits(network, request.prompt, np.tile(kept, (len(request.prompt), 1)))
        torch.testing.assert_close(found[stretch.rows], expected, atol=1e-4, rtol=0)
    if block is not None:
        whole = own_logits(network, asked[3].prompt, np.tile(DENSE, (len(asked[3].prompt), 1)))
        assert (found[stretches[3].rows] - whole).abs().max() > 0.1, "the block matters"


@pytest.mark.parametrize("family", NETWORKS)
@pytest.mark.parametrize("block", [None, *range(N)])
@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_given_answers_cost_what_the_plain_forward_says(
    family: str, block: int | None, chunk: int
) -> None:
    kept = DENSE if block is None else without(block)
    model = Switchable(NETWORKS[family], kept)
    with Batch(model, requests(), chunk_tokens=chunk) as batch:
        assert_served(model.network, batch.run(), kept)
    assert NETWORKS[family].config._attn_implementation == "sdpa", "the network is left as it was"


@pytest.mark.parametrize("family", NETWORKS)
@pytest.mark.parametrize("kept", [DENSE, without(0), without(4), without(1, 2)])
def test_greedy_answers_are_those_of_each_request_alone(family: str, kept: BoolArray) -> None:
    model = Switchable(NETWORKS[family], kept)
    with Batch(model, requests(greedy=True), chunk_tokens=5) as batch:
        assert_served(model.network, batch.run(), kept)


@pytest.mark.parametrize("family", NETWORKS)
@pytest.mark.parametrize("dropped", [(0,), (1,), (4,), (0, 3, 4)])
@pytest.mark.parametrize("units", [0, 2, 5, 8, 11])
@pytest.mark.parametrize("greedy", [False, True])
def test_after_a_drop_in_mid_flight_only_later_tokens_lack_the_blocks(
    family: str, dropped: tuple[int, ...], units: int, greedy: bool
) -> None:
    asked, after = requests(greedy=greedy), without(*dropped)
    model = Switchable(NETWORKS[family], DENSE)
    with Batch(model, asked, chunk_tokens=6) as batch:
        for _ in range(units):
            batch.advance()
        assert batch.drop(after) == "applied"
        assert_served(model.network, batch.run(), DENSE, after, stored_tokens(asked, 6, units))


@given(
    first=st.sets(st.integers(0, N - 1), max_size=3),
    second=st.sets(st.integers(0, N - 1), max_size=3),
    chunk=st.integers(1, 40),
    units=st.integers(0, 12),
    seed=st.integers(0, 9),
)
@settings(max_examples=25)
def test_any_drop_at_any_time(
    first: set[int], second: set[int], chunk: int, units: int, seed: int
) -> None:
    before, after = without(*first), without(*first, *second)
    assume(after[0::2].any())
    asked, model = requests(seed=seed), Switchable(NETWORKS["qwen3"], before)
    with Batch(model, asked, chunk_tokens=chunk) as batch:
        for _ in range(units):
            batch.advance()
        batch.drop(after)
        switched_at = stored_tokens(asked, chunk, units)
        assert_served(model.network, batch.run(), before, after, switched_at)


def test_blocks_do_not_return_in_mid_flight() -> None:
    model = Switchable(NETWORKS["llama"], without(2, 3))
    with Batch(model, requests()) as batch:
        batch.advance()
        for kept in (without(3), without(2)):
            with pytest.raises(InvalidSpec, match="cannot return while a batch is in flight"):
                batch.drop(kept)
        held = batch.kv_bytes
        with pytest.raises(InvalidSpec, match="at least one attention block"):
            batch.drop(without(0, 2, 3, 4))
        assert batch.kv_bytes == held
        model.apply(DENSE)  # behind the batch's back
        with pytest.raises(InvalidSpec, match="attention of layer 1 came back in mid-flight"):
            batch.run()


def test_work_is_counted_once() -> None:
    with Batch(Switchable(NETWORKS["llama"], DENSE), requests(), chunk_tokens=10) as batch:
        assert not batch.prefilled
        steps = 0
        while batch.advance():
            steps += 1
            assert sum(len(tokens) for tokens in batch.tokens) == sum(map(len, batch.nll))
        assert batch.done
        assert not batch.advance(), "nothing is left to do"
    spent, outputs = batch.spent, [output for _, _, output in LENGTHS]
    assert spent.prefill_tokens == sum(prompt for prompt, _, _ in LENGTHS)
    assert spent.decode_tokens == sum(outputs) - np.count_nonzero(outputs), "the first comes free"
    assert spent.decode_steps == max(outputs) - 1
    assert steps == 3 + spent.decode_steps
    assert min(spent.prefill_s, spent.decode_s) > 0


def test_a_batch_without_requests_is_done_at_once() -> None:
    with Batch(Switchable(NETWORKS["llama"], DENSE), []) as batch:
        assert batch.done
        assert batch.kv_bytes == 0
        assert not batch.advance()


@pytest.mark.parametrize("kept", [DENSE, without(0, 3), without(2, 4)])
@pytest.mark.parametrize("kv", ["bf16", "int8"])
def test_kv_bytes_are_those_that_the_world_charges(kept: BoolArray, kv: Any) -> None:
    network = tiny_llama.network().bfloat16()
    tokens = sum(prompt + reserve for prompt, reserve, _ in LENGTHS)
    token_bytes = memory.kv_token_bytes(SHAPE, kv)
    model = Switchable(network, kept)
    with Batch(model, requests(), kv=kv) as batch:
        layers = np.count_nonzero(kept[0::2])
        assert batch.kv_bytes == token_bytes * tokens * layers
        batch.advance()
        batch.drop(kept & without(4, 5))
        layers = np.count_nonzero((kept & without(4, 5))[0::2])
        assert batch.run().kv_bytes == token_bytes * tokens * layers
    assert batch.kv_bytes == 0


def test_int8_keys_and_values_are_those_that_tables_are_measured_with() -> None:
    """Against transformers with keys and values rounded in its attention, no cache."""
    from rapgym.model.shapes import Format
    from rapgym.runtime import rounding

    network, asked = NETWORKS["llama"], requests()
    with Batch(Switchable(network, DENSE), asked, kv="int8", chunk_tokens=7) as batch:
        batch.run()
    with Batch(Switchable(network, DENSE), asked, chunk_tokens=7) as exact:
        exact.run()
    near = far = 0.0
    for index, request in enumerate(asked):
        with rounding.rounded(network, Format(kv="int8")):
            _, nll = plain_answer(network, request, DENSE, DENSE, 0)
        # A last bit that differs may round to the next of 254 levels.
        near = max([near, *np.abs(batch.nll[index] - nll).tolist()])
        far = max([far, *np.abs(batch.nll[index] - exact.nll[index]).tolist()])
    assert near < far / 5, "rounding is told from none, and from another"


def anonymous_bytes() -> int:
    """What this process holds in anonymous memory now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    pytest.skip("this system does not say how much anonymous memory a process holds")


@pytest.fixture
def elastic() -> Iterator[ElasticModel]:
    with ElasticModel(tiny_llama.loaded()) as model:
        yield model


def test_memory_is_taken_at_the_start_and_freed_on_a_drop_and_at_the_end(
    elastic: ElasticModel,
) -> None:
    prompt = np.arange(5)
    asked = [Request(prompt, 60_000, prompt[:2]), Request(prompt, 40_000, prompt[:3])]
    slack = 1 << 20
    with Batch(elastic, [Request(prompt, 1, prompt[:1])]) as batch:
        batch.run()  # what torch sets up once
    before = anonymous_bytes()
    with Batch(elastic, asked) as batch:
        whole = batch.kv_bytes
        assert anonymous_bytes() - before == pytest.approx(whole, abs=slack)
        batch.advance()
        batch.drop(without(0, 1))
        assert batch.kv_bytes * 3 == whole * 2
        assert anonymous_bytes() - before == pytest.approx(batch.kv_bytes, abs=slack)
        batch.run()
    assert anonymous_bytes() - before == pytest.approx(0, abs=slack)


def test_two_hundred_batches_leave_nothing_behind(elastic: ElasticModel) -> None:
    prompt, slack = np.arange(30), (1 << 20) / 5  # bytes of forty batches

    def serve(count: int) -> None:
        for index in range(count):
            elastic.apply(DENSE)
            with Batch(elastic, [Request(prompt, 200 + index, prompt[:3])] * 4) as batch:
                batch.advance()
                batch.drop(without(index % N))
                batch.run()

    serve(10)  # what torch sets up once
    grown = []
    # An allocator grows and shrinks now and then; what is left behind adds up each time.
    for _ in range(5):
        before = anonymous_bytes()
        serve(40)
        grown.append(anonymous_bytes() - before)
    assert np.median(grown) < slack, grown


@pytest.mark.parametrize("family", NETWORKS)
@pytest.mark.parametrize("dropped", [(0,), (4,), (1, 2)])
@pytest.mark.parametrize("units", [0, 3, 7])
def test_blocks_that_really_leave_serve_as_those_that_are_skipped(
    family: str, dropped: tuple[int, ...], units: int
) -> None:
    asked, after = requests(greedy=True), without(*dropped)
    with ElasticModel(tiny_llama.loaded(family)) as model:
        with Batch(model, asked, chunk_tokens=6) as batch:
            for _ in range(units):
                batch.advance()
            moved = batch.drop(after)
            assert isinstance(moved, Moved)
            assert moved.dropped_bytes == model.block_bytes[list(dropped)].sum()
            batch.run()
            with pytest.raises(InvalidSpec, match="cannot return while a batch is in flight"):
                batch.drop(DENSE)
            if not all(block % 2 for block in dropped):
                with pytest.raises(InvalidSpec, match="in flight"):
                    model.apply(DENSE)
        model.apply(DENSE)  # between batches it is lawful
        switched_at = stored_tokens(asked, 6, units)
        assert_served(model.network, batch, DENSE, after, switched_at)


def test_an_error_inside_a_forward_pass_leaves_no_memory_and_no_flight_behind(
    elastic: ElasticModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rapgym.runtime.live import packed

    def fails(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    asked = [Request(np.arange(5), 60_000, np.arange(2))]
    with Batch(elastic, asked[:1]) as batch:
        batch.run()
    before = anonymous_bytes()

    def interrupted() -> None:
        with monkeypatch.context() as patch, Batch(elastic, asked) as batch:
            patch.setattr(packed, "scaled_dot_product_attention", fails)
            batch.run()

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    gc.collect()  # the error's traceback, which pointed at keys and values
    assert not elastic.in_flight
    assert anonymous_bytes() - before == pytest.approx(0, abs=1 << 20)
    with Batch(elastic, asked) as batch:
        assert_served(elastic.network, batch.run(), DENSE)


def test_where_slots_do_not_fit_none_are_kept() -> None:
    tokens = sum(prompt + reserve for prompt, reserve, _ in LENGTHS)
    room = FakeRoom(most_bytes=2 * tokens * KV.token_bytes)
    model = Switchable(NETWORKS["llama"], DENSE, room)
    with pytest.raises(RuntimeError, match="out of memory"):
        Batch(model, requests())
    assert (room.held_bytes, model.in_flight) == (0, 0)
    model.apply(without(2))
    with Batch(model, requests()) as batch:
        assert room.held_bytes == batch.kv_bytes == room.most_bytes
        assert model.in_flight == 1
    assert (room.held_bytes, model.in_flight) == (0, 0)


def test_clocks_are_read_when_the_device_is_idle() -> None:
    room = FakeRoom()
    with Batch(Switchable(NETWORKS["llama"], DENSE, room), requests()) as batch:
        units = 0
        while batch.advance():
            units += 1
        assert room.synchronised == 2 * units


@pytest.mark.parametrize(
    ("prompt", "reserve", "output"), [([], 3, [1]), ([1], 1, [1, 2])], ids=["prompt", "reserve"]
)
def test_impossible_requests_are_refused(
    prompt: list[int], reserve: int, output: list[int]
) -> None:
    with pytest.raises(InvalidSpec):
        Request(np.array(prompt, dtype=np.int64), reserve, np.array(output, dtype=np.int64))


def test_nats_are_those_of_a_head_with_many_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    from rapgym.runtime.live import packed

    head = torch.nn.Linear(8, 50)
    with torch.no_grad():  # every word has a twin as likely as itself: the first is chosen
        head.weight[25:], head.bias[25:] = head.weight[:25].clone(), head.bias[:25].clone()
    normed, given = torch.randn(6, 8), torch.tensor([0, 49, -1, 13, -1, 6])
    log_p = head(normed).log_softmax(-1)
    expected = torch.where(given < 0, log_p.argmax(-1), given)
    for width in (1, 7, 50, 64):
        monkeypatch.setattr(packed, "HEAD_SLICE", width)
        tokens, nll = packed.next_tokens(head, normed, given)
        assert torch.equal(tokens, expected)
        found: FloatArray = nll.detach().numpy()
        assert found == pytest.approx(
            -log_p.gather(1, expected[:, None])[:, 0].detach().numpy(), abs=1e-5
        )
