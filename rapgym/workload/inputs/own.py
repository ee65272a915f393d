"""Traces in rapgym's own columns, read all at once; points in time among them become a wall clock."""

import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from rapgym.errors import DataUnavailable, RapgymError
from rapgym.files import columns
from rapgym.workload.inputs.clock import EARLIEST_S, LATEST_S
from rapgym.workload.inputs.how import Report
from rapgym.workload.trace import MemoryTrace, RequestTrace

Trace = TypeVar("Trace", RequestTrace, MemoryTrace)


def state(path: Path) -> tuple[Path, int, int]:
    """A file by what changes where its content does: path, size, and time of change in ns.

    Raises:
        DataUnavailable: it is not there.
    """
    try:
        found = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise DataUnavailable(f"{path} cannot be read: {error}") from error
    return path, found.st_size, found.st_mtime_ns


def is_of(path: Path, wanted: Iterable[str]) -> bool:
    """Whether a file is a table with these columns; one that cannot be read is left to others to refuse."""
    lines = columns.lines_of(path, path.name)
    try:
        first, rest = columns.first_apart(lines)
        if first.startswith("#"):
            first, _ = columns.first_apart(rest)
    except RapgymError:
        return False
    finally:
        lines.close()  # type: ignore[attr-defined]  # it is a generator
    return {*wanted} <= {*first.strip().split(",")}


def on_wall(found: Trace, report: Report) -> Trace:
    """A trace whose times are seconds since 1970 as one that counts from a whole second before its first."""
    name = "arrival_s" if isinstance(found, RequestTrace) else "t_s"
    times = getattr(found, name)
    if not (math.isnan(found.start_wall_s) and times[0] >= EARLIEST_S and times[-1] <= LATEST_S):
        return found
    start_s = float(math.floor(times[0]))
    report.notes.append(f"its {name} are seconds since 1970, by their size: a wall clock")
    changes = {name: np.round(times - start_s, 6), "start_wall_s": start_s}
    return replace(found, **changes)
