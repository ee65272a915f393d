"""What runs in the replaying process: trials served one after the other, each written down at once."""

import json
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from rapgym.runtime.device import machine
from rapgym.runtime.device.enclosure import Enclosure
from rapgym.runtime.device.enclosure_forms import AllocatorForm, TorchAllocator
from rapgym.runtime.device.tenant import Tenant
from rapgym.runtime.live.row import LiveServer
from rapgym.runtime.validate.records import row_record
from rapgym.runtime.validate.trials import Trial
from rapgym.scenarios import card, worlds
from rapgym.scenarios.story import Scenario, Split
from rapgym.world.records import World


@dataclass(frozen=True, slots=True)
class Job:
    """What one replaying process does."""

    story: Scenario
    split: Split
    trials: tuple[Trial, ...]
    out: Path  # lines are added to it
    device: str = "cpu"
    threads: int = 1
    chunk_tokens: int = 128
    shielded: bool = True
    enforced: bool = True  # the limit is real: who exceeds it is refused memory, or killed


def run(job: Job, orders: Connection) -> None:
    """Serve the trials under the limit.

    Args:
        orders: to the parent, which holds the enclosure.
    """
    torch.set_num_threads(job.threads)
    live = machine.Machine(job.story, job.split, job.device, chunk_tokens=job.chunk_tokens)
    world = worlds.world(job.story, job.split)
    for row in dict.fromkeys(trial.row for trial in job.trials):
        live.server.refer(
            row, int(world.rows.prompt_tokens[row]), int(world.rows.reserved_tokens[row])
        )
    limit = _limit(job, orders)
    with machine.tenant(job.device) as tenant:  # started from inside the enclosure
        _warm(live.server, world, job.trials[0].row)
        meter = machine.meter(live)
        limit.enforce(live.weight_bytes)
        step = live.step(_Beside(tenant, limit), meter, shielded=job.shielded)
        add_line(job.out, {"about": live.about() | {"card_bytes": step.card_bytes}})
        for trial in job.trials:
            _, outcome = step(world, *trial.arguments(world))
            assert step.last is not None
            add_line(job.out, row_record(trial, outcome, step.last))


def _warm(server: LiveServer, world: World, row: int) -> None:
    """Serve a part of a row, with blocks that leave in mid-flight and return.

    What libraries take for good as this first happens is taken before bytes are counted; and blocks
    that return are charged to the group where the process is now.
    """
    prompt, reserved = (
        int(column[row]) for column in (world.rows.prompt_tokens, world.rows.reserved_tokens)
    )
    running = server.begin(row, prompt, reserved)
    try:
        running.serve(0.3)
        running.drop(world.floor)
        running.serve(0.2)
    finally:
        running.close()
    dense = np.ones(world.blocks, dtype=bool)
    server.move(dense)
    world.quality.predicted_nll(dense)  # fits the predictor, which takes megabytes of the host's


def add_line(path: Path, record: Any) -> None:
    """Add one line; it begins anew even after one that was cut off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write("\n" + json.dumps(record) + "\n")
        file.flush()


class _Limit(Protocol):
    """The limit as the enclosed process sees it."""

    def enforce(self, weight_bytes: int) -> None:
        """Hold the card from now on; what is in use beside these bytes of weights is the host's."""

    def beside(self, tenant_bytes: int) -> None:
        """The tenant holds this now."""


class _NoLimit:
    def enforce(self, weight_bytes: int) -> None: ...
    def beside(self, tenant_bytes: int) -> None: ...


class _Asked:
    """A limit that the parent sets; a group's holds the tenant too, others bound this process."""

    def __init__(self, orders: Connection, card_bytes: int) -> None:
        self._orders, self._card_bytes, self._host_bytes = orders, card_bytes, 0
        self._group = bool(self._ask("add"))

    def _ask(self, order: str | int) -> Any:
        self._orders.send(order)
        return self._orders.recv()

    def enforce(self, weight_bytes: int) -> None:
        self._host_bytes = int(self._ask("used")) - weight_bytes
        self._ask(self._card_bytes + self._host_bytes)

    def beside(self, tenant_bytes: int) -> None:
        if not self._group:
            self._ask(self._card_bytes - tenant_bytes + self._host_bytes)


class _OfAllocator:
    """A GPU's. Not tried on a GPU."""

    def __init__(self, device: str, card_bytes: int) -> None:
        self._card_bytes = card_bytes
        self._enclosure = Enclosure(AllocatorForm(card_bytes, TorchAllocator(device)))

    def enforce(self, weight_bytes: int) -> None: ...

    def beside(self, tenant_bytes: int) -> None:
        self._enclosure.limit(max(1, self._card_bytes - tenant_bytes))


def _limit(job: Job, orders: Connection) -> _Limit:
    card_bytes = card.card_bytes(job.story)
    if not job.enforced:
        return _NoLimit()
    return (
        _Asked(orders, card_bytes) if job.device == "cpu" else _OfAllocator(job.device, card_bytes)
    )


class _Beside:
    """A tenant whose bytes the limit is told of."""

    def __init__(self, tenant: Tenant, limit: _Limit) -> None:
        self._tenant, self._limit = tenant, limit

    def hold(self, count: int) -> None:
        self._tenant.hold(count)
        self._limit.beside(count)
