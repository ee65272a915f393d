"""A device that behaves just as the table and the world say: what a perfect machine would measure."""

from dataclasses import dataclass, field

import numpy as np

from rapgym.arrays import BoolArray
from rapgym.runtime.device.step import DeviceStep
from rapgym.runtime.live.row import Nats
from rapgym.runtime.live.serving import Spent
from rapgym.world.records import State, World

CARD_BYTES = 1000


@dataclass
class Moved:
    restored_bytes: int
    restore_s: float
    drop_s: float = 0.0


@dataclass
class Memory:
    """What a fake card holds: the model's bytes and the tenant's, and the most of both at once."""

    world: World
    kept: BoolArray
    tokens: int = 0  # of KV cache in each kept attention block
    fixed: int = 0  # what serving a batch takes beside blocks
    tenant: int = 0
    most: int = 0  # since the peak was last reset, of the model
    over: int = 0  # the most by which model and tenant have exceeded the card
    orders: list[int] = field(default_factory=list)  # what the tenant was told to hold

    @property
    def used(self) -> int:
        costs = self.world.footprint.block_bytes(np.array(self.tokens))
        return int(costs[self.kept].sum()) + self.fixed

    def changed(self) -> None:
        self.most = max(self.most, self.used)
        self.over = max(self.over, self.used + self.tenant - CARD_BYTES)

    def hold(self, count: int) -> None:
        self.tenant = count
        self.orders.append(count)
        self.changed()

    def reset_peak(self) -> None:
        self.most = self.used

    def peak_bytes(self) -> int:
        return self.most


@dataclass
class TableRun:
    """Predicts text exactly as well as the table says."""

    memory: Memory
    spent: Spent = field(default_factory=Spent)
    served: list[float] = field(default_factory=list)

    def serve(self, share: float) -> Nats:
        self.served.append(share)
        nll = self.memory.world.quality.nll(self.memory.kept[None])[0]
        return Nats(nll, np.zeros(1, dtype=np.int64), np.ones(1, dtype=bool))

    def drop(self, kept: BoolArray) -> float:
        assert (kept <= self.memory.kept).all()
        self.memory.kept = kept.copy()
        self.memory.changed()
        return 0.0

    def close(self) -> None:
        self.memory.tokens = self.memory.fixed = 0


@dataclass
class TableServer:
    """Blocks that come back at the world's rate, rows that take what the world charges."""

    memory: Memory
    runs: list[TableRun] = field(default_factory=list)

    @property
    def kept(self) -> BoolArray:
        return self.memory.kept.copy()

    def move(self, kept: BoolArray) -> Moved:
        weights = self.memory.world.footprint.weights
        returning = int(weights[kept & ~self.memory.kept].sum())
        self.memory.kept = kept.copy()
        self.memory.changed()
        return Moved(returning, returning / self.memory.world.restore_bytes_per_s)

    def referred(self, row: int, prompt_tokens: int, reserved_tokens: int) -> bool:
        return True

    def refer(self, row: int, prompt_tokens: int, reserved_tokens: int) -> None: ...

    def begin(self, row: int, prompt_tokens: int, reserved_tokens: int) -> TableRun:
        self.memory.tokens = prompt_tokens + reserved_tokens
        overhead = self.memory.world.footprint.overhead_bytes(np.array(prompt_tokens))
        self.memory.fixed = int(overhead)
        self.memory.changed()
        self.runs.append(TableRun(self.memory))
        return self.runs[-1]


def step_of(world: World, loaded: BoolArray, *, shielded: bool = True) -> DeviceStep:
    memory = Memory(world, loaded.copy())
    return DeviceStep(TableServer(memory), memory, memory, CARD_BYTES, shielded=shielded)


def lane(state: State, index: int) -> State:
    return state.at(slice(index, index + 1))
