"""What the audit log costs: records a second, and microseconds of a decision with it and without.

    python benchmarks/audit.py

Decisions are those of the scenario chat-beside-code with the observations that a policy sees there. A
decision without the log is `shield.decide` for one lane; with it, that and `append` to the batch in
memory. The two are timed in turn, one decision each, so that a busy machine slows both alike; what
writes a batch falls on the decision that fills it, and is in the higher quantiles.
"""

import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rapgym.arrays import FloatArray
from rapgym.audit import replay as audit_replay
from rapgym.audit.context import AuditContext
from rapgym.audit.decisions import Decisions
from rapgym.audit.log import AuditLog
from rapgym.audit.step import context_of
from rapgym.files import places, provenance
from rapgym.scenarios import catalogue
from rapgym.scenarios.lanes import Lanes, Start
from rapgym.world import shield
from rapgym.world.shield import Decision, Reason

OUT = places.RESULTS / "audit.json"
STORY = "chat-beside-code"
BATCH, RECORDS, ROUNDS = 256, 20_000, 3


@dataclass(frozen=True, slots=True)
class Asked:
    """Rows of the scenario as they are decided one by one: the shield's arguments, what is seen."""

    context: AuditContext
    rows: list[Decisions]
    costs: list[Any]  # of the blocks, int64 [1, N]


def asked() -> Asked:
    """Every row of the validation split."""
    lanes = Lanes(catalogue.scenario(STORY), "validation-3", 1)
    context, rows, costs = context_of(lanes, "random"), list[Decisions](), []
    count, rng = len(lanes.world.rows), np.random.default_rng(0)
    lanes.restart(0, Start(0, 0, 1.0, count))
    for _ in range(count):
        seen = lanes.seen
        limit = seen.limit_bytes[:, 0]
        proposal = rng.random((1, context.blocks)) < 0.9
        observation, loaded = lanes.observe(), lanes.state.loaded
        outcome = lanes.serve(proposal)
        costs.append(context.footprint.block_bytes(seen.demand.tokens))
        rows.append(
            Decisions(
                demand=seen.demand,
                limit_bytes=limit,
                budget_bytes=context.footprint.budget_bytes(limit, seen.demand.prompt_tokens),
                proposal=proposal,
                source=np.array([Reason.POLICY], dtype=np.int64),
                refuses_misfit=np.array([False]),
                decision=Decision(outcome.kept, outcome.refused, outcome.reason),
                observation=observation,
                loaded=loaded,
            )
        )
    return Asked(context, rows, costs)


def _rows(known: Asked, count: int) -> Iterator[Decisions]:
    for i in range(count):
        yield known.rows[i % len(known.rows)]


def records_a_second(known: Asked, folder: Path, durable: bool) -> tuple[float, float]:
    """From the first `append` until all is acknowledged, the log closed: by the clock on the wall,
    and by this process's own time on a processor."""
    path = folder / "rate.jsonl"
    path.unlink(missing_ok=True)
    log = AuditLog(path, batch=BATCH, durable=durable)
    begin = time.perf_counter(), time.process_time()
    for row in _rows(known, RECORDS):
        log.append(known.context, row)
    log.close()
    return RECORDS / (time.perf_counter() - begin[0]), RECORDS / (time.process_time() - begin[1])


def verified_a_second(folder: Path) -> tuple[float, float]:
    """Decisions whose chain is followed and which are taken again, likewise."""
    begin = time.perf_counter(), time.process_time()
    found = audit_replay.verified(folder / "rate.jsonl")
    assert found.holds
    count = found.decisions
    return count / (time.perf_counter() - begin[0]), count / (time.process_time() - begin[1])


def decision_us(known: Asked, folder: Path) -> tuple[FloatArray, FloatArray]:
    """Microseconds of single decisions without the log and with it, in turn."""
    without, with_log = np.empty(RECORDS), np.empty(RECORDS)
    order = known.context.order
    with AuditLog(folder / "path.jsonl", batch=BATCH) as log:
        for i, row in enumerate(_rows(known, RECORDS)):
            costs = known.costs[i % len(known.costs)]
            arguments = (
                row.proposal,
                costs,
                row.budget_bytes,
                order,
                row.source,
                row.refuses_misfit,
            )
            begin = time.perf_counter_ns()
            shield.decide(*arguments)
            middle = time.perf_counter_ns()
            made = shield.decide(*arguments)
            log.append(
                known.context,
                Decisions(
                    row.demand, row.limit_bytes, row.budget_bytes, row.proposal, row.source,
                    row.refuses_misfit, made, observation=row.observation, loaded=row.loaded,
                ),
            )  # fmt: skip
            end = time.perf_counter_ns()
            without[i], with_log[i] = (middle - begin) / 1000, (end - middle) / 1000
    return without, with_log


def _quantiles(values: FloatArray) -> dict[str, float]:
    return {
        name: round(float(np.quantile(values, at)), 2)
        for name, at in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0))
    }


def measured() -> dict[str, Any]:
    """All of it: rates are the best of a few rounds, quantiles are over all of them."""
    known, rates = asked(), dict[str, list[tuple[float, float]]]()
    plain, logged = [], []
    with tempfile.TemporaryDirectory(dir=".", prefix=".audit-") as name:
        folder = Path(name)
        for _ in range(ROUNDS):
            for kind in ("written", "durable"):
                rate = records_a_second(known, folder, kind == "durable")
                rates.setdefault(kind, []).append(rate)
            rates.setdefault("verified", []).append(verified_a_second(folder))
            size = (folder / "rate.jsonl").stat().st_size
            without, with_log = decision_us(known, folder)
            plain.append(without)
            logged.append(with_log)
    without, with_log = np.concatenate(plain), np.concatenate(logged)
    return {
        "records": RECORDS,
        "batch": BATCH,
        "bytes_a_record": round(size / RECORDS),
        "records_a_second": {
            kind: {
                "wall": round(max(w for w, _ in each)),
                "processor": round(max(p for _, p in each)),
            }
            for kind, each in rates.items()
        },
        "decision_us": {
            "shield": _quantiles(without),
            "shield and log": _quantiles(with_log),
            "log, of the medians": round(float(np.median(with_log) - np.median(without)), 2),
        },
        "processors": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "commit": provenance.commit(),
    }


if __name__ == "__main__":
    found = measured()
    text = json.dumps(found, indent=2)
    print(text)
    if "--keep" in sys.argv:
        OUT.write_text(text + "\n")
