"""How a command ends before it is done: by Ctrl-C or SIGTERM, in this process and its workers."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM: what is open is closed and cleaned up as after Ctrl-C."""


@contextmanager
def told() -> Iterator[None]:
    """While this lasts, SIGTERM raises `Terminated`, unless somebody set what it does before."""
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):
        yield
        return
    signal.signal(signal.SIGTERM, _raise)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _raise(number: int, frame: FrameType | None) -> None:
    raise Terminated


@contextmanager
def ctrl_c_kept_off() -> Iterator[None]:
    """Processes that start while this lasts never see Ctrl-C, which a terminal sends to all: their
    parent ends them. Here it comes as soon as this ends."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
