"""A process that replays trials on a device under a real limit, and the lines that it leaves."""

import json
import multiprocessing
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rapgym.errors import InvalidResult
from rapgym.jobs import parallel
from rapgym.runtime import probe
from rapgym.runtime.device import machine
from rapgym.runtime.device.enclosure import Enclosure
from rapgym.runtime.device.enclosure_forms import GroupForm
from rapgym.runtime.validate import replaying
from rapgym.runtime.validate.records import Record
from rapgym.runtime.validate.replaying import Job
from rapgym.runtime.validate.trials import Trial

POLL_S = 0.1
# Read by libraries as they are loaded.
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "65536", **dict([machine.COMPILED_SHAPES])}
UNLIMITED_BYTES = 1 << 50
KERNEL_BYTES = 8 << 20  # page tables and the like, which a group is charged for too


@dataclass(frozen=True, slots=True)
class Ended:
    """How the process went."""

    code: int  # of its exit; negative where a signal ended it
    about: Record  # device, versions and how the limit was enforced, as far as it came to say so
    seconds: float
    exceeded: int = 0  # how often the limit refused memory, or killed for it


def replayed(job: Job, advance: Callable[[], None] = lambda: None) -> Ended:
    """Run a job in a process of its own, so that it may be killed for exceeding its limit.

    Args:
        advance: called once for each finished trial.
    """
    began_s, seen = time.monotonic(), len(records(job.out))
    context = multiprocessing.get_context("spawn")
    with ExitStack() as ends:
        enclosure = None
        if job.enforced and job.device == "cpu":
            enclosure = ends.enter_context(Enclosure.open(UNLIMITED_BYTES))
        ours, theirs = context.Pipe()
        ends.callback(ours.close)
        with _environment(job.threads):
            process = context.Process(target=replaying.run, args=(job, theirs))
            process.start()
        theirs.close()
        ends.callback(_end, process)
        alive = True
        while alive:
            alive = process.is_alive()
            if enclosure is not None:
                _obey(enclosure, ours, process.pid or 0)
            process.join(POLL_S)
            now = len(records(job.out))
            for _ in range(now - seen):
                advance()
            seen = max(seen, now)
        exceeded = enclosure.exceeded() if enclosure else 0
        kind = enclosure.kind if enclosure else None
    said = [line["about"] for line in lines(job.out) if "about" in line]
    about = {**(said[-1] if said else {}), "enforced_by": kind}
    return Ended(process.exitcode or 0, about, time.monotonic() - began_s, exceeded)


def _end(process: Any) -> None:
    if process.is_alive():
        process.terminate()
    process.join()


def _obey(enclosure: Enclosure, orders: Connection, pid: int) -> None:
    """Do what the process asks of its enclosure: to be in it, what is used there, a limit."""
    try:
        while orders.poll():
            order = orders.recv()
            group = isinstance(enclosure.form, GroupForm)
            if order == "add":
                enclosure.add(pid)
                orders.send(group)
            elif order == "used":
                orders.send(_used_bytes(enclosure, pid))
            else:
                enclosure.limit(int(order))
                orders.send(True)
    except (EOFError, OSError):
        return  # it has ended


def _used_bytes(enclosure: Enclosure, pid: int) -> int:
    if isinstance(enclosure.form, GroupForm):
        return enclosure.form.used_bytes() + KERNEL_BYTES
    return probe.anonymous_bytes(pid)


def _environment(threads: int) -> AbstractContextManager[None]:
    return parallel.environment({**ENVIRONMENT, "OMP_NUM_THREADS": str(threads)})


def lines(path: Path) -> list[Record]:
    """What is whole in a file of lines; one that was cut off as it was written is not."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def records(path: Path) -> list[Record]:
    """Finished trials."""
    return [line for line in lines(path) if "trial" in line]


def by_trial(found: Sequence[Record]) -> dict[Trial, Record]:
    """The last record of each trial."""
    return {Trial(**record["trial"]): record for record in found}


def check(ended: Ended, job: Job) -> None:
    """Raise what kept a job from ending, where it was not to exceed its limit.

    Raises:
        InvalidResult: the process broke off.
    """
    if ended.code and job.shielded:
        killed = f", killed {ended.exceeded} times for want of memory" if ended.exceeded else ""
        raise InvalidResult(
            f"the replaying process ended with code {ended.code}{killed} before all rows were "
            "served; finished rows are kept: run the same command again to go on"
        )
