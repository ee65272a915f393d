"""A tiny model serves rows: tokens scored against dense, bytes as the world charges them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
import tiny_llama
import torch
from toy_world import toy_rows, toy_world

from rapgym.arrays import BoolArray, FloatArray
from rapgym.model import memory
from rapgym.model.shapes import ModelSpec
from rapgym.runtime.device.step import DeviceStep
from rapgym.runtime.live.elastic import ElasticModel
from rapgym.runtime.live.requests import Request
from rapgym.runtime.live.row import LiveServer, Run, ScoredBatch
from rapgym.world import simulator
from rapgym.world.records import Rows, World
from rapgym.world.reward import token_loss

LENGTHS = ((9, 4), (5, 3), (14, 1))  # prompt and answer of each request
RESERVE = 6


@dataclass
class SomeRequests:
    """The same requests whatever is asked."""

    def at(
        self, row: int, prompt: int | None = None, reserved: int | None = None
    ) -> tuple[Request, ...]:
        rng = np.random.default_rng(row)
        return tuple(
            Request(rng.integers(0, 256, p), RESERVE, rng.integers(0, 256, a)) for p, a in LENGTHS
        )


@pytest.fixture
def model() -> Iterator[ElasticModel]:
    with ElasticModel(tiny_llama.loaded()) as found:
        yield found


def without(*blocks: int) -> BoolArray:
    kept = np.ones(2 * tiny_llama.LAYERS, dtype=bool)
    kept[list(blocks)] = False
    return kept


def nll_of(model: ElasticModel, request: Request) -> FloatArray:
    """Nats of every token of prompt and answer but the first, by one plain call of the network."""
    assert request.output is not None
    ids = torch.tensor(np.concatenate([request.prompt, request.output]))[None]
    with torch.inference_mode():
        logits = model.network(ids).logits[0, :-1].float().log_softmax(-1)
    found: FloatArray = -logits.gather(1, ids[0, 1:, None])[:, 0].numpy()
    return found


@pytest.mark.parametrize("chunk_tokens", [3, 8, 100])
def test_every_token_of_the_text_is_scored(model: ElasticModel, chunk_tokens: int) -> None:
    requests = SomeRequests().at(0)
    model.apply(without(2))
    with ScoredBatch(model, requests, chunk_tokens=chunk_tokens) as batch:
        batch.run()
    start = 0
    for index, request in enumerate(requests):
        stop = start + len(request.prompt)
        wanted = nll_of(model, request)
        assert np.isnan(batch.prompt_nll[start])
        found = np.concatenate([batch.prompt_nll[start + 1 : stop], batch.nll[index]])
        assert found == pytest.approx(wanted, abs=1e-4)
        start = stop


def test_a_row_in_shares_says_what_each_token_costs_above_dense(model: ElasticModel) -> None:
    server = LiveServer(model, SomeRequests(), chunk_tokens=4)
    server.refer(0, 0, 0)
    server.move(without(2, 5))
    run = server.begin(0, 0, 0)
    parts = [run.serve(1 / 7) for _ in range(7)]
    assert all(len(part.above_dense) for part in parts), "work is spread over the row"
    answers = [n for part in parts for n in part.above_dense[part.answer]]
    prompts = [n for part in parts for n in part.above_dense[~part.answer]]
    wanted = []
    for request in SomeRequests().at(0):
        pruned = nll_of(model, request)
        with pytest.raises(Exception, match="in flight"):
            server.move(without())
        wanted.append(pruned)
    run.close()
    server.move(without())
    above = [p - nll_of(model, r) for p, r in zip(wanted, SomeRequests().at(0), strict=True)]
    cuts = [len(request.prompt) - 1 for request in SomeRequests().at(0)]
    assert prompts == pytest.approx(
        np.concatenate([a[:cut] for a, cut in zip(above, cuts, strict=True)]), abs=2e-4
    )
    assert sorted(answers) == pytest.approx(
        np.sort(np.concatenate([a[cut:] for a, cut in zip(above, cuts, strict=True)])), abs=2e-4
    )
    position = np.concatenate([part.position[part.answer] for part in parts])
    assert sorted(position.tolist()) == sorted(p + k for p, a in LENGTHS for k in range(a))


def test_dense_costs_nothing_above_dense(model: ElasticModel) -> None:
    server = LiveServer(model, SomeRequests(), chunk_tokens=4)
    run = server.begin(0, 0, 0)
    assert run.serve(1.0).above_dense == pytest.approx(0.0, abs=1e-6)
    run.close()


class WatchedServer(LiveServer):
    """Remembers its runs."""

    def __init__(self, model: ElasticModel, requests: SomeRequests, chunk_tokens: int) -> None:
        super().__init__(model, requests, chunk_tokens=chunk_tokens)
        self.runs: list[Run] = []

    def begin(self, row: int, prompt_tokens: int, reserved_tokens: int) -> Run:
        self.runs.append(super().begin(row, prompt_tokens, reserved_tokens))
        return self.runs[-1]


class CountedMeter:
    """Weights and KV cache as they lie in tensors."""

    def __init__(self, model: ElasticModel, server: "WatchedServer") -> None:
        self.model, self.server = model, server

    def reset_peak(self) -> None: ...

    def peak_bytes(self) -> int:
        held = sum(w.nbytes for w in self.model.network.parameters())
        return held + sum(run.batch.kv_bytes for run in self.server.runs)


class NoTenant:
    def hold(self, count: int) -> None: ...


def tiny_world(limits: list[int]) -> World:
    """The toy table's nats on the tiny model's bytes: six blocks both."""
    spec = ModelSpec("tiny", layers=3, hidden=64, query_heads=4, kv_heads=2, head_dim=16, ffn_dim=96,
                     vocabulary=tiny_llama.VOCABULARY, tied=False)  # fmt: skip
    footprint = memory.footprint(spec)
    # The tiny model computes in float32.
    doubled = {
        name: 2 * getattr(footprint, name)
        for name in ("attention_bytes", "ffn_bytes", "model_kv_token_bytes", "fixed_bytes")
    }
    prompt = sum(p for p, _ in LENGTHS)
    rows = toy_rows([prompt], [limits])
    reserve = np.array([RESERVE * len(LENGTHS)])
    rows = Rows(rows.batch, rows.prompt_tokens, reserve, rows.prompt_tokens, rows.output_tokens,
                rows.limit_bytes)  # fmt: skip
    return toy_world(rows, footprint=replace(footprint, **doubled))


def test_a_live_row_holds_the_bytes_that_the_world_charges(model: ElasticModel) -> None:
    ample = 10_000_000
    world = tiny_world([ample] * 4)
    server = WatchedServer(model, SomeRequests(), chunk_tokens=4)
    step = DeviceStep(server, NoTenant(), CountedMeter(model, server), ample)
    state = world.state(np.array([0]), np.array([0]))
    for dropped in ((), (2,), (3,), (2, 5)):
        _, wanted = simulator.step(world, state, without(*dropped)[None])
        _, found = step(world, state, without(*dropped)[None])
        assert (found.kept == wanted.kept).all()
        assert found.used_bytes == wanted.used_bytes
        assert found.measured.all()


def test_an_emergency_on_a_live_model_goes_as_in_the_world(model: ElasticModel) -> None:
    ample = 10_000_000
    dense = int(
        tiny_world([ample] * 4).footprint.used_bytes(
            without(), np.array(sum(p + RESERVE for p, _ in LENGTHS)), np.array(28)
        )
    )
    world = replace(tiny_world([dense, dense, dense - 1, dense]), reaction_s=0.1)
    server = WatchedServer(model, SomeRequests(), chunk_tokens=2)
    step = DeviceStep(server, NoTenant(), CountedMeter(model, server), ample)
    state = world.state(np.array([0]), np.array([0]))
    _, wanted = simulator.step(world, state, without()[None])
    _, found = step(world, state, without()[None])
    assert wanted.seconds.emergency == found.seconds.emergency == [0.1]
    assert (found.kept_end == wanted.kept_end).all()
    assert (model.kept == wanted.kept_end[0]).all()
    assert step.last is not None
    before, after = step.last.segments
    assert before.seconds == 2.0
    assert after.seconds == pytest.approx(1.9)
    assert before.nats == pytest.approx(0.0, abs=1e-5)
    loss = token_loss(np.array([after.nats.mean()]), world.ceiling)[0]
    assert found.seconds.loss == pytest.approx(1.9 * loss, abs=1e-4)
