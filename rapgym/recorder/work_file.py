"""Recordings in the making: rows appended to a work file, and made into a trace once it ends.

A row that `WorkFile.append` returned from is in the operating system's hands: it survives the death
of this process, by kill -9 too (not a loss of power). A row that was cut in two is passed over.
"""

import errno
import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rapgym.errors import DataUnavailable, InvalidSpec, InvalidTrace
from rapgym.files import columns, incoming, json_text, limits, writing
from rapgym.files.closing import Closing
from rapgym.workload import trace
from rapgym.workload.trace import MemoryTrace, RequestTrace

Kind = Literal["memory", "requests"]
# Of requests, a work file says as well whose lengths were not told by the server but estimated.
COLUMNS: dict[str, dict[str, columns.Kind]] = {
    "memory": trace.MEMORY_COLUMNS,
    "requests": trace.REQUEST_COLUMNS | {"estimated": "int"},
}
ENDING = ".recording"  # of a work file, beside the trace that it becomes
SCHEMA = 1


def work_path(out: Path) -> Path:
    """Where the rows of a recording lie until it ends."""
    return out.with_name(out.name + ENDING)


class WorkFile(Closing):
    """The rows of one recording, appended as they come, by one recorder. Threads may share it.

    Raises:
        InvalidSpec: another recorder writes it, or it holds rows of a recorder that was killed, or
            there is a trace of the name already: nothing recorded is ever overwritten.
    """

    def __init__(self, out: Path, kind: Kind, about: dict[str, Any]) -> None:
        self.out, self.rows = out, 0
        if not out.name.endswith((".csv", ".csv.gz")):
            raise InvalidSpec(f"{out}: a trace is a .csv or a .csv.gz file")
        if out.exists():
            raise InvalidSpec(f"{out} is there already: name another with --out, or move it away")
        writing.made(out.parent)
        path = work_path(out)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL
        try:
            self._file = os.open(path, flags, 0o644)
        except FileExistsError:
            raise InvalidSpec(
                f"{path} holds a recording that did not end; run: rapgym record --finish --out {out}"
            ) from None
        except OSError as error:
            raise writing.unwritable(path, error) from error
        _lock(self._file, path)
        self._writing, self._is_open = threading.Lock(), True
        self.start_wall_s, self.start_s = time.time(), time.monotonic()
        header = {"schema": SCHEMA, "kind": kind, "start_wall_s": round(self.start_wall_s, 3)}
        self._write(f"# {json.dumps(header | about)}\n{','.join(COLUMNS[kind])}\n")

    def append(self, *row: float) -> None:
        """Add one row; it survives this process once the call returns. After `close`, nothing.

        Raises:
            Unwritable: the disk is full; rows before it are safe.
        """
        with self._writing:
            if self._is_open:
                self._write(",".join(map(repr, row)) + "\n")
                self.rows += 1

    def elapsed_s(self) -> float:
        """Seconds since the recording began, on a clock that nobody sets, to the millisecond."""
        return round(time.monotonic() - self.start_s, 3)

    def _write(self, text: str) -> None:
        data = text.encode()
        # One call writes a row whole, but for a full disk.
        with writing.naming(work_path(self.out)):
            if os.write(self._file, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        """Hand the rows to the disk; they stay in the work file until `finish`. Without one it goes."""
        with self._writing:
            if self._is_open:
                self._is_open = False
                os.fsync(self._file)
                if not self.rows:
                    work_path(self.out).unlink()
                os.close(self._file)


@dataclass(frozen=True, slots=True)
class Finished:
    """What a recording became."""

    path: Path
    trace: MemoryTrace | RequestTrace
    damaged_rows: int  # cut in two as the recorder was killed, or otherwise unreadable
    estimated_rows: int  # requests whose lengths the server did not tell
    about: dict[str, Any]  # what the recorder said of it: source, interval


def finish(out: Path, *, to: Path | None = None) -> Finished:
    """Make the rows of a recording that ended, however it ended, into a trace.

    Args:
        out: the name that the recording was started with.
        to: where the trace goes, if not there.

    Raises:
        DataUnavailable: there is no unfinished recording of the name.
        InvalidSpec: its recorder still runs, or the trace's name is taken.
        InvalidTrace: it holds no whole row; it is left as it is.
    """
    if not out.name:
        raise DataUnavailable(f"{str(out)!r} names no recording")
    path, to = work_path(out), to or out
    try:
        file = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        raise DataUnavailable(f"there is no unfinished recording {path}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise DataUnavailable(f"{str(path)!r} cannot be opened: {error}") from error
    try:
        _lock(file, path)
        if to.exists():
            raise InvalidSpec(f"{to} is there already: move it away, then finish again")
        header, table, damaged = _read(path)
        found = _trace_of(header, table, to.name)
        if isinstance(found, MemoryTrace):
            trace.write_memory(found, to)
        else:
            trace.write_requests(found, to)
        path.unlink()
    finally:
        os.close(file)
    estimated = int(table["estimated"].sum()) if "estimated" in table else 0
    about = {key: value for key, value in header.items() if key not in ("schema", "start_wall_s")}
    return Finished(to, found, damaged, estimated, about)


def finish_left_over(out: Path) -> Finished | None:
    """Save what a killed recorder of the same name left, under a name of its own, if there is any.

    The name is free for the recording that now begins; the one that was left gets the time of its
    start into its name. A work file without a whole row is deleted.

    Raises:
        InvalidSpec: its recorder still runs, or the trace's name is taken.
    """
    path = work_path(out)
    if not path.exists():
        return None
    if not path.is_file():
        raise InvalidSpec(f"{path} is no file: move it away, or name another with --out")
    try:
        header, *_ = _read(path)
    except InvalidTrace:
        _delete(path)
        return None
    begun = datetime.fromtimestamp(header["start_wall_s"], UTC).strftime("%Y%m%dT%H%M%S")
    ending = ".csv.gz" if out.suffix == ".gz" else out.suffix
    return finish(out, to=out.with_name(f"{out.name.removesuffix(ending)}-{begun}{ending}"))


def _delete(path: Path) -> None:
    """Delete a work file, unless its recorder still runs."""
    file = os.open(path, os.O_RDWR)
    try:
        _lock(file, path)
        path.unlink()
    finally:
        os.close(file)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]], int]:
    """Header, columns and number of damaged rows of a work file."""
    try:
        with incoming.opened(path) as file:
            pieces = incoming.unpacked(file, "", limits.CSV)
            first, batches = columns.first_apart(_whole_lines(pieces))
            header, kinds = _header(path, first)
            names, batches = columns.first_apart(batches)
            rows = _Rows(names, kinds)
            if names == ",".join(kinds):
                for batch in batches:
                    rows.take(batch)
    except (OSError, ValueError) as error:
        if isinstance(error, InvalidTrace):
            raise
        raise InvalidTrace(f"{path} cannot be read: {error}") from error
    if not rows.parts:
        raise InvalidTrace(f"{path} holds no whole row: nothing was recorded")
    table = {name: np.concatenate([part[name] for part in rows.parts]) for name in kinds}
    return header, table, rows.damaged


def _header(path: Path, first: str) -> tuple[dict[str, Any], dict[str, columns.Kind]]:
    try:
        header = json_text.parsed(first.removeprefix("# "))
        kinds = COLUMNS[header["kind"]]
        header["start_wall_s"] = float(header["start_wall_s"])
        if not abs(header["start_wall_s"]) <= trace.LARGEST["seconds"]:
            raise ValueError("start_wall_s is no point in time")
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise InvalidTrace(f"{path} is no recording of rapgym's, or has no row") from error
    return header, kinds


_TORN = "\0"  # in place of a line that a kill cut short, or a zero-filled end after a loss of power


def _whole_lines(pieces: Iterator[bytes]) -> Iterator[list[str]]:
    """The lines of a work file; one that is cut short is damaged, even if it reads as a row."""
    left = b""
    for piece in pieces:
        whole, newline, rest = piece.rpartition(b"\n")
        if newline:
            yield (left + whole).decode(errors="replace").split("\n")
            left = rest
        else:
            left += piece
        if len(left) > limits.CSV_ROW:
            raise ValueError("a line of it is longer than any that rapgym records")
    if left:
        yield [_TORN]


class _Rows:
    """The rows that can be read of a work file's lines, and how many cannot."""

    def __init__(self, names: str, kinds: dict[str, columns.Kind]) -> None:
        self.names, self.kinds = names, kinds
        self.parts: list[columns.Columns] = []
        self.damaged = self.cells = 0

    def take(self, batch: list[str]) -> None:
        """Read lines, all at once where all can be read.

        Raises:
            ValueError: too many are damaged.
        """
        if not batch:
            return
        found = self._parsed(batch)
        if found is not None:
            self.parts.append(found)
            self.cells += len(batch) * len(self.kinds)
            if self.cells > limits.CSV_CELLS:
                raise ValueError(f"it holds more than {limits.CSV_CELLS} cells")
        elif len(batch) == 1:
            self.damaged += 1
            if self.damaged > limits.DAMAGED_ROWS:
                raise ValueError(f"more than {limits.DAMAGED_ROWS} rows of it are damaged")
        else:
            half = len(batch) // 2
            self.take(batch[:half])
            self.take(batch[half:])

    def _parsed(self, lines: list[str]) -> columns.Columns | None:
        try:
            return columns.parse([[self.names], lines], "", self.kinds)
        except InvalidTrace:
            return None


def _trace_of(
    header: dict[str, Any], table: dict[str, NDArray[Any]], name: str
) -> MemoryTrace | RequestTrace:
    start_wall_s = header["start_wall_s"]
    if header["kind"] == "memory":
        at_s, first = np.unique(table["t_s"], return_index=True)
        return MemoryTrace(name, at_s, table["used_bytes"][first], start_wall_s=start_wall_s)
    # Requests are written as they end, and counted from when they came.
    order = np.argsort(table["arrival_s"], kind="stable")
    ordered = {column: table[column][order] for column in trace.REQUEST_COLUMNS}
    return RequestTrace(name, **ordered, start_wall_s=start_wall_s)


def _lock(file: int, path: Path) -> None:
    """Hold a work file for as long as it is open; nothing where the system cannot lock."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise InvalidSpec(f"{path} is being written by a recorder that still runs") from error
