"""The inside of a policy process: it runs one policy and answers with plain bytes.

Started by `rapgym.guard.process` as `python -m rapgym.guard.child CHANNEL ORDER LIFELINE`, numbers of
open files. The order is pickled by the parent, which is trusted; what goes back is not pickled: a
header, then the bytes of arrays (see `forms`) or the text of an error.
"""

import os
import pickle
import resource
import socket
import struct
import sys
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from rapgym.arrays import FloatArray
from rapgym.errors import InvalidPolicy
from rapgym.guard import forms, guard, landlock, seccomp
from rapgym.guard.forms import World
from rapgym.guard.landlock import Readable
from rapgym.policies import registry

HEAD = struct.Struct("<cQI")  # kind, number of the question, bytes that follow
# From the parent: the order has changed; a random stream, pickled; an observation; what was wrong
# with the last answer.
RESET, SEED, ASK, WHY = b"R", b"S", b"A", b"W"
READY, FAILED, ANSWER, BECAUSE = b"Y", b"F", b"P", b"B"  # to the parent
LONGEST_TEXT = 2000  # bytes of an error


@dataclass(frozen=True)
class Order:
    """What a policy process is to do."""

    target: str  # "module:Class"
    options: dict[str, Any]
    path: list[str]  # where modules are looked for
    memory_bytes: int | None  # of address space
    readable: list[Readable] | None  # all that it may read; None: no restriction
    batch: int
    briefing: Any  # of its world; None: build the policy, and wait
    world: World = "window"


def written(channel: socket.socket, kind: bytes, number: int, content: bytes) -> None:
    channel.sendall(HEAD.pack(kind, number, len(content)) + content)


def _read(channel: socket.socket) -> tuple[bytes, int, bytes]:
    kind, number, size = HEAD.unpack(_exactly(channel, HEAD.size))
    return kind, number, _exactly(channel, size)


def _exactly(channel: socket.socket, size: int) -> bytes:
    found = bytearray()
    while len(found) < size:
        part = channel.recv(size - len(found))
        if not part:
            os._exit(0)  # the parent has gone
        found += part
    return bytes(found)


def _end_with(lifeline: int) -> None:
    os.read(lifeline, 1)  # nothing ever comes but its end
    os._exit(1)


def order_in(file: int) -> Order:
    """The order as it stands in the file."""
    found: Order = pickle.loads(os.pread(file, os.fstat(file).st_size, 0))
    return found


def limited(order: Order) -> bool:
    """Give up memory, files, and calls that reach other processes.

    Returns:
        Whether what the order does not name is out of reach.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if order.memory_bytes is not None:
        resource.setrlimit(resource.RLIMIT_AS, (order.memory_bytes, order.memory_bytes))
    return order.readable is not None and landlock.confine(order.readable) and seccomp.confine()


def serve(channel: socket.socket, file: int, lifeline: int) -> None:
    """Answer until the parent closes the channel."""
    order = order_in(file)
    form = forms.form(order.world)  # what it loads may look for places to write to
    confined = limited(order)
    # Only now: a stranger's folder may hold a module named like one of Python's.
    sys.path[:] = order.path
    # Only now, so that the thread is confined as well. It ends a policy that hangs with its parent.
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    entry = registry.Entry(order.target, "heuristic", order.target, "", ())
    policy = registry.build(entry, order.options, form.method)
    fault: str | None = None
    about = bytes([guard.refuses_misfit(policy), confined])
    _begin(policy, order)
    written(channel, READY, 0, about)
    rng = np.random.default_rng(0)
    while True:
        kind, number, content = _read(channel)
        if kind == SEED:
            rng = pickle.loads(content)
        elif kind == RESET:
            order = order_in(file)
            try:
                _begin(policy, order)
            except BaseException as error:
                written(channel, FAILED, number, _text(error))
            else:
                written(channel, READY, number, about)
        elif kind == WHY:
            written(channel, BECAUSE, number, (fault or "").encode(errors="replace")[:LONGEST_TEXT])
        else:
            assert order.briefing is not None
            seen: FloatArray = np.frombuffer(content, np.float32).reshape(order.batch, -1)
            try:
                answers, readable, wrong = form.answered(policy, seen, rng, order.briefing)
                packed = form.packed(answers)
            except KeyboardInterrupt as error:  # its own: no terminal reaches this process
                packed = bytes(order.batch * form.size(order.briefing))
                readable = np.zeros(order.batch, dtype=bool)
                wrong = f"{form.method} raises {guard.told_of(error)}"
            fault = wrong or fault
            written(channel, ANSWER, number, readable.tobytes() + packed)


def _begin(policy: Any, order: Order) -> None:
    if order.briefing is not None:
        guard.begin(policy, order.batch, order.briefing)


def _text(error: BaseException) -> bytes:
    """Why a policy cannot begin; what is no sentence of ours is told as what was raised."""
    text = str(error) if isinstance(error, InvalidPolicy) else f"raises {guard.told_of(error)}"
    return text.encode(errors="replace")[:LONGEST_TEXT]


def main() -> None:
    channel, order, lifeline = (int(number) for number in sys.argv[1:4])
    stream = socket.socket(fileno=channel)
    try:
        serve(stream, order, lifeline)
    except BaseException as error:
        written(stream, FAILED, 0, _text(error))
        os._exit(1)


if __name__ == "__main__":
    main()
