"""Audit logs of the toy world, and what may be done to them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from toy_world import lanes_at, toy_rows, toy_world

from rapgym.audit import chain
from rapgym.audit import entry as audit_entry
from rapgym.audit import read as audit_read
from rapgym.audit.context import AuditContext
from rapgym.audit.decisions import Decisions
from rapgym.audit.log import AuditLog
from rapgym.audit.read import Line
from rapgym.audit.record import Record
from rapgym.audit.step import AuditedStep
from rapgym.world import shield, simulator
from rapgym.world.records import Demand, Outcome, State, World
from rapgym.world.shield import Reason

# The limit falls in mid-row in the second, third and fourth row; in the fourth not even the floor fits.
WORLD = toy_world(
    toy_rows([5, 0, 8, 3, 6], [[480] * 4, [400, 390, 300, 400], [450, 450, 200, 260], [300, 150, 300, 300], [180, 400, 400, 400]])
)  # fmt: skip


def context_of(world: World, **names: Any) -> AuditContext:
    named = {"scenario": "toy-v0", "policy": "random", "split": "test"} | names
    return AuditContext.of(world, table_sha256="0" * 64, **named)


CONTEXT = context_of(WORLD)


def one(tokens: int = 3, limit: int = 480, **more: Any) -> Decisions:
    """One decision of the toy world: everything is proposed."""
    whole = [np.array([number]) for number in (1, tokens, 0, tokens)]
    demand, limits = Demand(*whole), np.array([limit])
    budget = CONTEXT.footprint.budget_bytes(limits, demand.prompt_tokens)
    proposal, source, strict = (
        np.ones((1, 6), dtype=bool),
        np.array([Reason.POLICY]),
        np.array([False]),
    )
    costs = CONTEXT.footprint.block_bytes(demand.tokens)
    made = shield.decide(proposal, costs, budget, CONTEXT.order, source, strict)
    return Decisions(demand, limits, budget, proposal, source, strict, made, **more)


def records(path: Path) -> list[Record]:
    return [audit_entry.record_of(line) for line in found(path) if line.kind == "decision"]


def serve(log: AuditLog, rows: int = 10, lanes: int = 3, seed: int = 0,
          context: AuditContext = CONTEXT, world: World = WORLD,
          ) -> list[tuple[State, Outcome]]:  # fmt: skip
    """Serve rows of random proposals, sources and strictness; each state before, and what happened."""
    rng, served = np.random.default_rng(seed), []
    step = AuditedStep(simulator.step, log, context)
    state = lanes_at(world, [lane % len(world.rows) for lane in range(lanes)])
    sources = [Reason.POLICY, Reason.FALLBACK, Reason.WATCHDOG, Reason.OVERRIDE]
    for _ in range(rows):
        proposal = rng.random((lanes, world.blocks)) < 0.7
        source = rng.choice(sources, lanes, p=[0.7, 0.1, 0.1, 0.1])
        before = state
        state, outcome = step(world, before, proposal, source, rng.random(lanes) < 0.2)
        served.append((before, outcome))
    return served


def written(path: Path, rows: int = 10, lanes: int = 3, **options: Any) -> chain.Head:
    """A log of rows served, closed; its head."""
    with AuditLog(path, **options) as log:
        serve(log, rows, lanes)
    return log.head


def found(path: Path) -> list[Line]:
    """The lines of a log that holds throughout."""
    lines = list(audit_read.lines(path))
    assert all(isinstance(line, Line) for line in lines), [str(line) for line in lines]
    return [line for line in lines if isinstance(line, Line)]


def faults(path: Path, kept: chain.Head | None = None) -> list[str]:
    """What does not hold of a log's chain."""
    return [str(each) for each in audit_read.lines(path, kept) if not isinstance(each, Line)]


def forged(path: Path, out: Path, change: "dict[int, dict[str, Any]]",
           head: chain.Head = chain.START) -> None:  # fmt: skip
    """The log with other values in some lines, by their number, and a chain that holds again.

    Args:
        head: what the first line says of the line before.
    """
    with out.open("wb") as file:
        for number, raw in enumerate(path.read_bytes().splitlines()):
            told = json.loads(raw) | change.get(number, {})
            decided = told["kind"] == "decision"
            for name in ("seq", "decision", "previous", "sha256"):
                told.pop(name)
            members = json.dumps(told, separators=(",", ":"))[1:-1]
            content, head = chain.line(head, members, int(decided))
            file.write(content)


@contextmanager
def disk_full(path: Path, room: int = 0) -> Iterator[None]:
    """While this lasts no file of this process grows beyond the path's size and `room` bytes more."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
