"""How long this process has waited for functions to be compiled: told without loading what compiles them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(slots=True)
class _Waited:
    seconds: float = 0.0
    depth: int = 0  # a function compiles those that it calls


_waited = _Waited()


def waited_s() -> float:
    """Seconds since this process began, by the clock; what another process kept is read in that time, too."""
    return _waited.seconds


@contextmanager
def counted() -> Iterator[None]:
    """Count this time as waiting, once; its caller sees to it that one thread does so at a time."""
    begun_s, _waited.depth = time.perf_counter(), _waited.depth + 1
    try:
        yield
    finally:
        _waited.depth -= 1
        if not _waited.depth:
            _waited.seconds += time.perf_counter() - begun_s
