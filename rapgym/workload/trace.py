"""Request and memory traces: validated columns, and rapgym's own file format for them.

The format is CSV, gzip-packed where the file's name ends in .gz: `arrival_s,prompt_tokens,
output_tokens` for requests, `t_s,used_bytes` for memory. Where the wall clock of a trace is known, a
first line `# start_wall_s=...` carries it.
"""

import gzip
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rapgym.arrays import FloatArray, IntArray
from rapgym.errors import InvalidTrace
from rapgym.files import columns, limits, writing

REQUEST_COLUMNS: dict[str, columns.Kind] = {
    "arrival_s": "float", "prompt_tokens": "int", "output_tokens": "int"}  # fmt: skip
MEMORY_COLUMNS: dict[str, columns.Kind] = {"t_s": "float", "used_bytes": "int"}
_ROWS_AT_ONCE = 1 << 17
LARGEST = {"tokens": limits.TOKENS, "used_bytes": 1 << 53, "seconds": 1e11}  # keeps sums exact


@dataclass(frozen=True, slots=True, eq=False)
class RequestTrace:
    """Requests in the order of their arrival. The arrays are copies, and read-only.

    Raises:
        InvalidTrace: time is negative, unsorted or not finite; there is no request; a token count
            is negative, or no token is asked for at all; the arrays are not of one length and of
            the stated types.
    """

    name: str
    arrival_s: FloatArray  # float64 [R], ascending, >= 0; ties are allowed
    prompt_tokens: IntArray  # int64 [R], >= 0
    output_tokens: IntArray  # int64 [R], >= 0; prompt and output together >= 1
    start_wall_s: float = math.nan  # unix seconds (UTC) of arrival_s == 0; nan where unknown

    def __post_init__(self) -> None:
        _freeze(self, "arrival_s", "prompt_tokens", "output_tokens")
        _check_time(self.name, "arrival_s", self.arrival_s)
        for column in ("prompt_tokens", "output_tokens"):
            _check_counts(self.name, column, getattr(self, column), LARGEST["tokens"])
        if not (self.prompt_tokens + self.output_tokens).all():
            row = int(np.argmin(self.prompt_tokens + self.output_tokens)) + 1
            raise InvalidTrace(f"{self.name}: request {row} has neither prompt nor output tokens")
        _check_wall(self.name, self.start_wall_s)

    def __len__(self) -> int:
        return len(self.arrival_s)

    def every(self, k: int) -> "RequestTrace":
        """The first request and every k-th after it: what one of k replicas gets in turn."""
        if k < 1:
            raise InvalidTrace(f"{self.name}: every k-th request needs k >= 1, not {k}")
        return self if k == 1 else self._rows(slice(None, None, k), f"{self.name} 1/{k}")

    def between(self, start_s: float, stop_s: float) -> "RequestTrace":
        """Requests with start_s <= arrival_s < stop_s; times keep their origin.

        Raises:
            InvalidTrace: there is none.
        """
        first, last = np.searchsorted(self.arrival_s, (start_s, stop_s))
        return self._rows(slice(first, last), f"{self.name}[{start_s:g}:{stop_s:g}]")

    def _rows(self, rows: slice, name: str) -> "RequestTrace":
        return replace(self, name=name, arrival_s=self.arrival_s[rows],
                       prompt_tokens=self.prompt_tokens[rows],
                       output_tokens=self.output_tokens[rows])  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class MemoryTrace:
    """Bytes that others use on the device: each sample holds until the next.

    The arrays are copies, and read-only.

    Raises:
        InvalidTrace: time is negative, not strictly ascending or not finite; there is no sample;
            bytes are negative; the arrays are not of one length and of the stated types.
    """

    name: str
    t_s: FloatArray  # float64 [S], strictly ascending, >= 0
    used_bytes: IntArray  # int64 [S], >= 0
    start_wall_s: float = math.nan  # unix seconds (UTC) of t_s == 0; nan where unknown

    def __post_init__(self) -> None:
        _freeze(self, "t_s", "used_bytes")
        _check_time(self.name, "t_s", self.t_s)
        if (np.diff(self.t_s) == 0).any():
            raise InvalidTrace(f"{self.name}: t_s names one instant twice")
        _check_counts(self.name, "used_bytes", self.used_bytes, LARGEST["used_bytes"])
        _check_wall(self.name, self.start_wall_s)

    def __len__(self) -> int:
        return len(self.t_s)

    def between(self, start_s: float, stop_s: float) -> "MemoryTrace":
        """The sample that holds at start_s and those after it, before stop_s; times keep their origin.

        Raises:
            InvalidTrace: there is none.
        """
        first = max(int(np.searchsorted(self.t_s, start_s, side="right")) - 1, 0)
        rows = slice(first, int(np.searchsorted(self.t_s, stop_s)))
        name = f"{self.name}[{start_s:g}:{stop_s:g}]"
        return replace(self, name=name, t_s=self.t_s[rows], used_bytes=self.used_bytes[rows])


def read_requests(path: Path, name: str) -> RequestTrace:
    """A request trace in rapgym's own format.

    Raises:
        DataUnavailable: the file cannot be opened.
        InvalidTrace: it is damaged, or not a valid trace; the message says where.
    """
    start_wall_s, lines = _noted_wall(path, name)
    return RequestTrace(
        name, **columns.parse(lines, name, REQUEST_COLUMNS), start_wall_s=start_wall_s
    )


def read_memory(path: Path, name: str) -> MemoryTrace:
    """A memory trace in rapgym's own format; raises as `read_requests` does."""
    start_wall_s, lines = _noted_wall(path, name)
    return MemoryTrace(
        name, **columns.parse(lines, name, MEMORY_COLUMNS), start_wall_s=start_wall_s
    )


def write_requests(trace: RequestTrace, path: Path) -> None:
    """Write rapgym's own format: the same trace gives the same bytes, and reads back exactly."""
    _write(
        path,
        _note(trace),
        REQUEST_COLUMNS,
        trace.arrival_s,
        trace.prompt_tokens,
        trace.output_tokens,
    )


def write_memory(trace: MemoryTrace, path: Path) -> None:
    """Write rapgym's own format: the same trace gives the same bytes, and reads back exactly."""
    _write(path, _note(trace), MEMORY_COLUMNS, trace.t_s, trace.used_bytes)


def _noted_wall(path: Path, name: str) -> tuple[float, Iterator[list[str]]]:
    """What a first line `# start_wall_s=...` says, nan without one, and the lines after it."""
    first, rest = columns.first_apart(columns.lines_of(path, name))
    if not first.startswith("#"):
        return math.nan, chain([[first]] if first else [], rest)
    found = re.fullmatch(r"# start_wall_s=(-?\d{1,400}(\.\d{1,400})?)", first, re.ASCII)
    if not found:
        raise InvalidTrace(f"{name}: its first line is {first[:40]!r}, not # start_wall_s=...")
    return float(found[1]), rest


def _note(trace: RequestTrace | MemoryTrace) -> str:
    known = not math.isnan(trace.start_wall_s)
    return f"# start_wall_s={np.format_float_positional(trace.start_wall_s)}0\n" if known else ""


def _write(path: Path, note: str, header: Iterable[str], *arrays: NDArray[Any]) -> None:
    with writing.written_aside(path) as file:
        if path.suffix == ".gz":
            # No name and no time of writing: bytes depend on the trace alone.
            with gzip.GzipFile("", "wb", compresslevel=9, fileobj=file, mtime=0) as stream:
                stream.writelines(_texts(note, header, arrays))
        else:
            file.writelines(_texts(note, header, arrays))


def _texts(note: str, header: Iterable[str], arrays: tuple[NDArray[Any], ...]) -> Iterator[bytes]:
    """A file's text, part by part: of millions of rows, all at once would take gigabytes."""
    yield f"{note}{','.join(header)}\n".encode()
    for start in range(0, len(arrays[0]), _ROWS_AT_ONCE):
        parts = (array[start : start + _ROWS_AT_ONCE].tolist() for array in arrays)
        rows = zip(*(map(repr, part) for part in parts), strict=True)
        yield "".join(",".join(row) + "\n" for row in rows).encode()


def _freeze(trace: RequestTrace | MemoryTrace, time: str, *counts: str) -> None:
    """Check type and length of the columns and replace them by read-only copies."""
    length = None
    for column in (time, *counts):
        array, dtype = getattr(trace, column), np.float64 if column == time else np.int64
        if not isinstance(array, np.ndarray) or array.ndim != 1 or array.dtype != dtype:
            raise InvalidTrace(
                f"{trace.name}: {column} must be a {dtype.__name__} array of one axis"
            )
        length = len(array) if length is None else length
        if len(array) != length:
            raise InvalidTrace(f"{trace.name}: {column} has {len(array)} rows, {time} has {length}")
        array = array.copy()
        array.flags.writeable = False
        object.__setattr__(trace, column, array)
    if not length:
        raise InvalidTrace(f"{trace.name} has no rows")


def _check_wall(name: str, start_wall_s: float) -> None:
    if math.isinf(start_wall_s) or abs(start_wall_s) > LARGEST["seconds"]:
        raise InvalidTrace(f"{name}: start_wall_s={start_wall_s} is no point in time")


def _check_time(name: str, column: str, time_s: FloatArray) -> None:
    if not np.isfinite(time_s).all():
        raise InvalidTrace(f"{name}: {column} holds a value that is not finite")
    if (falls := np.diff(time_s) < 0).any():
        raise InvalidTrace(
            f"{name}: {column} is unsorted, it falls in row {int(np.argmax(falls)) + 2}"
        )
    if time_s[0] < 0:
        raise InvalidTrace(f"{name}: {column} is negative in row 1")
    if time_s[-1] > LARGEST["seconds"]:
        raise InvalidTrace(
            f"{name}: {column} reaches {time_s[-1]:g} s, which is no time of a trace: of another unit "
            "than seconds state it (--unit ms)"
        )


def _check_counts(name: str, column: str, counts: IntArray, largest: float) -> None:
    if (counts < 0).any():
        raise InvalidTrace(f"{name}: {column} is negative in row {int(np.argmax(counts < 0)) + 1}")
    if (counts > largest).any():
        raise InvalidTrace(f"{name}: {column} reaches {counts.max()}, more than {largest:g}")
