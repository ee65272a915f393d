"""A workload beside recorded memory: requests as they came, and what other programs held meanwhile.

What they held stands in a series in place of a tenant's tokens, in MiB, rounded up.
"""

import hashlib
import math
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rapgym.arrays import IntArray
from rapgym.errors import InvalidTrace
from rapgym.workload import loaders, names, residence, series, trace
from rapgym.workload.inputs import memory as memory_input
from rapgym.workload.inputs import own as own_input
from rapgym.workload.inputs import requests as request_input
from rapgym.workload.inputs.how import How
from rapgym.workload.series import Series
from rapgym.workload.trace import MemoryTrace, RequestTrace

OWN_COLUMNS = (trace.REQUEST_COLUMNS, trace.MEMORY_COLUMNS)
SMALLEST_ROWS = 64  # of which 16 are test: as many as there are pairings
RULES = 2  # of this module: a change gives every workload that was made by it another name
Pairing = Literal["clock", "start", "either"]


def held_units(memory: MemoryTrace, start_s: float, seconds: int) -> IntArray:
    """MiB in use in each second from `start_s` on its clock: the highest at any instant of it.

    Each sample holds until the next, the last one to the end; before the first, nothing is known and
    the first stands.
    """
    edges = start_s + np.arange(seconds)
    at_edge = np.maximum(np.searchsorted(memory.t_s, edges, side="right") - 1, 0)
    highest = memory.used_bytes[at_edge]
    second = np.floor(memory.t_s - start_s).astype(np.int64)
    inside = (second >= 0) & (second < seconds)
    np.maximum.at(highest, second[inside], memory.used_bytes[inside])
    return -(-highest // series.UNIT_BYTES)


def beside(
    served: RequestTrace,
    memory: MemoryTrace,
    *,
    window: int,
    origin: dict[str, Any],
    pair: Pairing = "clock",
) -> Series:
    """The series of requests served beside what was recorded, as long as both last.

    Recordings of the same time pair by wall clock; where one's is not known, both begin together.

    Args:
        pair: where both wall clocks are known and do not meet, "clock" refuses and "either" lets both begin
            together; "start" always does.

    Raises:
        InvalidTrace: what both cover is shorter than `SMALLEST_ROWS` windows, or their wall clocks do not
            meet.
    """
    offset_s, pairing = served.start_wall_s - memory.start_wall_s, "by wall clock"
    if pair == "start":
        offset_s = math.nan
    last_s = float(memory.t_s[-1])
    start_s, stop_s = _common(served, last_s, offset_s)
    if stop_s <= start_s:
        if pair == "clock" and not math.isnan(offset_s):
            raise InvalidTrace(_apart(served, memory))
        offset_s, pairing = 0.0, "both from their start"
        start_s, stop_s = _common(served, last_s, offset_s)
    rows = series.whole_rows(start_s, stop_s, window)
    if rows < SMALLEST_ROWS:
        common_s = max(stop_s - start_s, 0)
        raise InvalidTrace(
            f"{served.name} and {memory.name} have {common_s:.0f} s in common, but "
            f"{SMALLEST_ROWS} windows of {window} s are needed: {_longer(common_s, window)}"
        )
    held = held_units(memory, start_s + offset_s, rows * window)
    return series.build(
        served,
        held,
        window=window,
        start_s=start_s,
        stop_s=stop_s,
        origin={
            "pool_tokens": 0,
            "tenant_unit_bytes": series.UNIT_BYTES,
            "pairing": pairing,
            "from_s": start_s,
            "to_s": stop_s,
        }
        | origin,
    )


def _longer(seconds: float, window: int) -> str:
    """What to do where so many seconds are too few windows."""
    said = f"record at least {SMALLEST_ROWS * window} s"
    shorter = int(seconds / (SMALLEST_ROWS + 1))  # whole rows may be one fewer than seconds allow
    if shorter < 1:
        return said
    return (
        f"{said}, or state a shorter window (--window {shorter}), which counts too little memory where requests "
        "stay longer"
    )


def window_s(served: str, every: int, how: How | None = None) -> int:
    """The window that suits a trace's requests: how long one stays, weighted by its tokens.

    Raises:
        DataUnavailable: the trace is not there.
        InvalidTrace: it is no valid trace, or its requests stay longer than any window.
    """
    names.sha256(served)  # says what to do where it is not there, or too large
    requests = loaders.load_requests(served, how).every(every)
    found = residence.window_s(requests.prompt_tokens, requests.output_tokens)
    if found > series.MOST_WINDOW_S:
        raise InvalidTrace(
            f"{served}: its requests stay {found} s, longer than any window ({series.MOST_WINDOW_S} s): look at its "
            f"token counts, or state a window (--window {series.MOST_WINDOW_S})"
        )
    return found


def told_of_rows(made: Series, suits_s: int | None, scheme: series.Scheme) -> str:
    """Into what a series of the user's is cut, in a sentence.

    Args:
        suits_s: the window that suits its requests; None where they are not the user's.
    """
    why = ""
    if suits_s == made.window_s:
        why = ", as long as these requests stay, weighted by their tokens"
    elif suits_s is not None:
        why = f", as stated; these requests stay {suits_s} s, weighted by their tokens"
    train, test = (len(series.split_rows(len(made), part, scheme)) for part in ("train", "test"))
    return (
        f"{len(made)} rows of {made.window_s} s{why}: {train} are train, {test} held out; "
        f"{made.reserve_tokens} output tokens are reserved for a request, which 95 % of those of train keep to"
    )


def _apart(served: RequestTrace, memory: MemoryTrace) -> str:
    spans = [
        f"{one.name} is of {_utc(one.start_wall_s + times[0])} to {_utc(one.start_wall_s + times[-1])}"
        for one, times in ((served, served.arrival_s), (memory, memory.t_s))
    ]
    return (
        f"{' and '.join(spans)} (UTC): they do not meet. Record both at once; state --timezone or --utc where "
        "the times of one have no zone; or add --pair start to let both begin together"
    )


def _utc(wall_s: float) -> str:
    try:
        return datetime.fromtimestamp(wall_s, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return f"{wall_s:.0f} s since 1970"


def _common(served: RequestTrace, memory_s: float, offset_s: float) -> tuple[float, float]:
    """From when to when both are known, on the served clock; nothing where clocks are unknown."""
    if math.isnan(offset_s):
        return 0.0, 0.0
    return max(0.0, -offset_s), min(float(served.arrival_s[-1]), memory_s - offset_s)


def memory_trace(recording: str, how: How | None = None) -> MemoryTrace:
    """A recording of memory in use: one of rapgym's by its name, or a file of any format that is known.

    Raises:
        DataUnavailable: it is not there.
        InvalidTrace: it is no valid trace.
    """
    return memory_input.read(names.path_of(recording), how, Path(recording).name).memory


def is_of_memory(name: str) -> bool:
    """Whether a file is in rapgym's own columns of memory, readable or not."""
    return own_input.is_of(names.path_of(name), trace.MEMORY_COLUMNS)


def told_of_requests(served: str, how: How) -> list[str]:
    """How a file of requests was read, a line each; nothing of one that is rapgym's.

    Raises:
        DataUnavailable, InvalidTrace: it cannot be read.
    """
    if not names.is_path(served):
        return []
    return [
        f"{served}: {line}" for line in request_input.read(Path(served), how).report.sentences()
    ]


def told_of_memory(recording: str, how: How) -> list[str]:
    """The same of a file of memory in use."""
    if names.is_shipped(recording):
        return []
    found = memory_input.read(names.path_of(recording), how, Path(recording).name)
    return [f"{recording}: {line}" for line in found.report.sentences()]


def own(memory: str, served: str, every: int, window: int, how: How | None = None) -> Series:
    """The series of traces that are not rapgym's, by path, or by name for requests.

    Two files of one user are of one time, unless `how` says otherwise; a published trace is not.

    Raises:
        DataUnavailable: a file is not there.
        InvalidTrace: one is no valid trace, or they are too short together.
    """
    found = memory_trace(memory, how)
    requests = loaders.load_requests(served, how).every(every)
    # No path: the same content gives the same series, wherever it lies.
    origin = {
        "memory_sha256": names.sha256(memory),
        "requests_sha256": names.sha256(served),
        "every": every,
    }
    pair: Pairing = "clock" if names.is_path(served) else "either"
    if how is not None and how.pair:
        pair = "start"
    return beside(requests, found, window=window, origin=origin, pair=pair)


def require_parts(made: Series, name: str, scheme: series.Scheme) -> None:
    """Refuse a series that is too short to split, or of which a part serves nothing.

    Raises:
        InvalidTrace: the message says which part, and what to do.
    """
    if len(made) < SMALLEST_ROWS:
        raise InvalidTrace(
            f"{name} fills {len(made)} windows of {made.window_s} s, but {SMALLEST_ROWS} are needed: "
            f"{_longer(len(made) * made.window_s, made.window_s)}"
        )
    # Where each third of train serves something, so does train without it.
    for split in ("train", "test", *(f"validation-{fold}" for fold in series.FOLDS)):
        rows = series.split_rows(len(made), split, scheme)
        if not len(rows) or not made.output_tokens[rows].sum():
            first, last = (rows[0], rows[-1] + 1) if len(rows) else (0, 0)
            raise InvalidTrace(
                f"{name}: its {split} part, from second {first * made.window_s} to {last * made.window_s} of "
                f"{len(made) * made.window_s}, serves no output token: take requests that go on to the end "
                "and whose output_tokens are known"
            )


def own_name(served: str, every: int, window: int, others: tuple[object, ...]) -> str:
    """What the series of the user's traffic is called: by what is in the files, not by where they are.

    Args:
        others: what identifies the series of those who share the card.

    Raises:
        DataUnavailable: a trace is not there.
    """
    text = f"{RULES} {names.sha256(served)} {every} {window} {others}"
    return names.OWN + hashlib.sha256(text.encode()).hexdigest()[:16]


def needs_zone(files: Iterable[str]) -> bool:
    """Whether one of some files may hold times without a zone: it is no trace of rapgym's own columns."""
    return any(
        names.is_path(name)
        and not any(own_input.is_of(names.path_of(name), wanted) for wanted in OWN_COLUMNS)
        for name in files
    )
