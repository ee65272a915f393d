"""The machine of a served world over devices with fake memory: one in books, one with a real model."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import tiny_llama
from fake_device import FakeDevice
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from table_device import step_of

from rapgym.arrays import BoolArray, IntArray
from rapgym.model import memory
from rapgym.model.memory import Footprint
from rapgym.model.shapes import ModelSpec
from rapgym.runtime.device.step import DeviceStep
from rapgym.runtime.live.elastic import ElasticModel
from rapgym.runtime.live.requests import Request
from rapgym.runtime.live.row import LiveServer
from rapgym.testing import worlds as made
from rapgym.testing.witness import Tally, Witness
from rapgym.testing.world_machine import SEEDS, WorldMachine
from rapgym.world.records import Rows, World
from rapgym.world.shield import Reason
from rapgym.world.simulator import Step


class DeviceMachine(WorldMachine):
    """`DeviceStep` on a card in books: every byte that model and tenant hold is counted there."""

    lanes: ClassVar[int] = 1
    is_live: ClassVar[bool] = True
    tally: ClassVar[Tally] = Tally()

    @staticmethod
    def served_by(world: World, loaded: BoolArray) -> Step:
        return step_of(world, loaded[0])

    def _serve(self, proposal: BoolArray, source: IntArray | Reason) -> Any:
        found = super()._serve(proposal, source)
        step = self.step.step
        assert isinstance(step, DeviceStep)
        assert step.last is not None
        # Where the tenant has taken more than there is, nothing is the most that can be kept to.
        for peak, limit in zip(step.last.peak_bytes, step.last.limit_bytes, strict=True):
            assert peak <= max(limit, 0), "no byte of the card is used twice"
        return found


LENGTHS, RESERVE = ((5, 2), (9, 1)), 3  # prompt and answer of each request, of every row


class SomeRequests:
    """The same requests whatever is asked."""

    def at(
        self, row: int, prompt: int | None = None, reserved: int | None = None
    ) -> tuple[Request, ...]:
        rng = np.random.default_rng(row)
        return tuple(
            Request(rng.integers(0, 256, p), RESERVE, rng.integers(0, 256, a)) for p, a in LENGTHS
        )


class NoTenant:
    def hold(self, count: int) -> None: ...


class Books:
    """What the fake allocator has given out, weights and KV cache, and what never leaves."""

    def __init__(self, device: FakeDevice, footprint: Footprint) -> None:
        self.device, self.footprint = device, footprint

    def reset_peak(self) -> None: ...

    def peak_bytes(self) -> int:
        return self.footprint.fixed_bytes + self.device.held_bytes


def tiny_footprint() -> Footprint:
    """Bytes of the tiny Llama, which computes in float32."""
    spec = ModelSpec("tiny", layers=3, hidden=64, query_heads=4, kv_heads=2, head_dim=16, ffn_dim=96,
                     vocabulary=tiny_llama.VOCABULARY, tied=False)  # fmt: skip
    found = memory.footprint(spec)
    names = ("attention_bytes", "ffn_bytes", "model_kv_token_bytes", "fixed_bytes")
    return replace(found, **{name: 2 * getattr(found, name) for name in names})


class LiveMachine(RuleBasedStateMachine):
    """Blocks of a tiny Llama leave and return, and its KV cache comes and goes, in regions of a
    device that counts what it gives out."""

    tally: ClassVar[Tally] = Tally()

    @initialize(number=st.integers(1, 7), seed=SEEDS, notice=st.booleans())
    def begin(self, number: int, seed: int, notice: bool) -> None:
        self.device = FakeDevice(segment_bytes=1)
        self.model = ElasticModel(tiny_llama.loaded(), self.device)
        self.footprint, rows = tiny_footprint(), 3
        prompt = np.full(rows, sum(p for p, _ in LENGTHS), dtype=np.int64)
        reserve = np.full(rows, RESERVE * len(LENGTHS), dtype=np.int64)
        table = made.tiny_table(3 * number + 1)  # of three layers
        self.world = World(
            self.footprint, table.calibration(),
            Rows(np.full(rows, len(LENGTHS)), prompt, reserve, prompt, np.full(rows, 3),
                 np.zeros((rows, 3), dtype=np.int64)),
            made.CEILING, 1e9, 3.0, int(notice),
        )  # fmt: skip
        self.world = made.with_limits(
            self.world, np.full((rows, 3), made.dense_bytes(self.world), dtype=np.int64)
        )
        server = LiveServer(self.model, SomeRequests(), chunk_tokens=4)
        ample = 2 * made.dense_bytes(self.world)
        live = DeviceStep(server, NoTenant(), Books(self.device, self.footprint), ample)
        self.step = Witness(live, type(self).tally, is_live=True, has_own_nats=True)
        self.state = self.world.state(np.zeros(1, int), np.zeros(1, int))

    @rule(seed=SEEDS, more=st.integers(-1, 1))
    def the_tenant_takes_memory(self, seed: int, more: int) -> None:
        rng, rows = np.random.default_rng(seed), self.world.rows
        limits = rows.limit_bytes.copy()
        for place in np.ndindex(limits.shape):
            a, f = (int(count) for count in rng.integers(0, 4, 2))
            exact = made.bytes_of(self.world, a, f, int(rows.prompt_tokens[0]),
                                  int(rows.reserved_tokens[0]))  # fmt: skip
            limits[place] = exact + more if rng.random() < 0.6 else made.dense_bytes(self.world)
        self.world = made.with_limits(self.world, limits)

    @rule(
        seed=SEEDS,
        strict=st.sampled_from([False, False, True]),
        share=st.sampled_from([0.5, 0.8, 1.0]),
    )
    def a_row_is_served(self, seed: int, strict: bool, share: float) -> None:
        proposal = np.random.default_rng(seed).random((1, 6)) < share
        self.state, outcome = self.step(self.world, self.state, proposal, None, np.full(1, strict))
        weights = self.world.footprint.weights
        left = outcome.kept_end[0].copy()
        left[0] |= not left[0::2].any()  # a transformers model has attention, as `LiveServer` says
        assert self.device.held_bytes == int(weights[left].sum()), "what left gave its bytes back"
        assert (self.model.kept == left).all()

    def teardown(self) -> None:
        if hasattr(self, "model"):
            self.model.close()
            assert self.device.closed


@contextmanager
def one_thread() -> Iterator[None]:
    """Tiny matrices are slower on many cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
