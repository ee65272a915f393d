"""Times of a file on one clock: unit, origin and zone are checked, and nothing is guessed unsaid.

A time is a number of a stated unit, a number whose unit only its size may tell, a point in time with a
zone, or one of a clock on a wall. What they are together is settled once all are read.
"""

import math
import re
import time
from array import array
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from rapgym.arrays import BoolArray, FloatArray
from rapgym.errors import InvalidTrace
from rapgym.workload.inputs.how import OTHER_CLOCK, TIME_UNITS, How, Report
from rapgym.workload.inputs.names import plain
from rapgym.workload.inputs.tokens import refuse_decimal_comma

EARLIEST_S, LATEST_S = (
    946_684_800.0,
    4_102_444_800.0,
)  # 2000 and 2100: what may be seconds since 1970
NUMBER, SECONDS, ZONED, WALL = range(4)  # kinds of times
_UNITS = {"s": "s", "sec": "s", "secs": "s", "seconds": "s", "ms": "ms", "millis": "ms", "msec": "ms",
          "milliseconds": "ms", "us": "us", "micros": "us", "ns": "ns", "nano": "ns", "nanos": "ns",
          "nanoseconds": "ns"}  # fmt: skip
_MOST_STRAY = 0.1  # of the rows: so many may be on another clock, and are left out
_LATE_S = 300.0  # by which a row may be written after later ones
_BUCKET_S = 900  # offsets of zones change at whole quarters of an hour
_NUMBER = re.compile(r"[-+]?\d{1,40}(\.\d{0,40})?([eE][-+]?\d{1,3})?", re.ASCII)
_SLASHES = re.compile(r"(\d{4})/(\d\d)/(\d\d)", re.ASCII)


def unit_of(name: str) -> str:
    """The unit that a column's name ends with, as `arrival_s` and `timeUnixNano`; empty without."""
    words = plain(name.rpartition("/")[2]).split("_")
    return _UNITS.get(words[-1], "") if len(words) > 1 else ""


@dataclass(slots=True)
class Times:
    """Times as they are read, in the order of the file."""

    values: "array[float]" = field(default_factory=lambda: array("d"))  # seconds, but of NUMBER
    kinds: bytearray = field(default_factory=bytearray)

    def add(self, value: float, kind: int) -> None:
        """Append one."""
        self.values.append(value)
        self.kinds.append(kind)

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, slots=True)
class Settled:
    """Times on one clock."""

    at_s: FloatArray  # seconds from `start_wall_s`, or from a whole second before the first, [n]
    kept: BoolArray  # which of the rows that were read these are, [rows]
    start_wall_s: float  # nan where the wall clock is not known


def point(value: Any, unit: str = "", utc: bool = False) -> tuple[float, int]:
    """One time and its kind.

    Args:
        unit: of numbers; empty where only their size tells.
        utc: texts without a zone are UTC, by their format.

    Raises:
        ValueError: it is no time.
        InvalidTrace: it has a decimal comma.
    """
    if isinstance(value, str):
        text = value.strip()
        if not _NUMBER.fullmatch(text):
            return _text(text, utc)
        value = float(text) if "." in text or "e" in text.lower() else int(text)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{str(value)[:40]!r} is no time")
    if not 0 <= value <= LATEST_S * TIME_UNITS["ns"]:
        raise ValueError(f"{str(value)[:40]} is no time")
    return (float(value / TIME_UNITS[unit]), SECONDS) if unit else (float(value), NUMBER)


def _text(text: str, utc: bool) -> tuple[float, int]:
    refuse_decimal_comma(text)
    try:
        found = datetime.fromisoformat(_SLASHES.sub(r"\1-\2-\3", text.removesuffix(" UTC")))
    except ValueError:
        raise ValueError(
            f"{text[:40]!r} is no time: it is a number, or written like 2026-05-12T09:00:00Z"
        ) from None
    if found.tzinfo is not None:
        return found.timestamp(), ZONED
    whole = found.replace(tzinfo=UTC).timestamp()
    return whole, ZONED if utc or text.endswith(" UTC") else WALL


def settled(times: Times, name: str, how: How, report: Report, *, own: bool = False) -> Settled:
    """All times on one clock.

    Args:
        own: times from a start are of rapgym's own format: second 0 is what it says.

    Raises:
        InvalidTrace: their unit or zone must be stated, or they are of two clocks; the message says how.
    """
    values = np.array(times.values)
    kinds = np.frombuffer(bytes(times.kinds), dtype=np.uint8)
    at_s, is_wall, unknown = _numbers(values, kinds, how, report)
    on_wall = kinds == WALL
    if on_wall.any():
        at_s[on_wall] = _from_wall(values[on_wall], name, how, report)
    return _on_one(at_s, is_wall | on_wall | (kinds == ZONED), unknown, name, report, own)


def _numbers(
    values: FloatArray, kinds: Any, how: How, report: Report
) -> tuple[FloatArray, BoolArray, BoolArray]:
    """Seconds, which of them are since 1970, and of which the unit is not known."""
    at_s, bare = values.copy(), kinds == NUMBER
    unknown = np.zeros(len(values), dtype=bool)
    if how.time_unit:
        at_s[bare] /= TIME_UNITS[how.time_unit]
    else:
        fitting = {
            unit: bare & (values >= EARLIEST_S * a_second) & (values <= LATEST_S * a_second)
            for unit, a_second in TIME_UNITS.items()
        }
        known = np.logical_or.reduce([*fitting.values()])
        unknown = bare & ~known
        if known.any() and unknown.any() and values[unknown].max() > values[known].min():
            # A larger number that is no point in time: size tells nothing here.
            return at_s, np.zeros(len(values), dtype=bool), bare
        for unit, fits in fitting.items():
            at_s[fits] = values[fits] / TIME_UNITS[unit]
            if fits.any() and unit != "s":
                report.notes.append(f"its times are {unit} since 1970, by their size")
    is_wall = (kinds <= SECONDS) & ~unknown & (at_s >= EARLIEST_S) & (at_s <= LATEST_S)
    return at_s, is_wall, unknown


def _on_one(
    at_s: FloatArray, is_wall: BoolArray, unknown: BoolArray, name: str, report: Report, own: bool
) -> Settled:
    kept = np.ones(len(at_s), dtype=bool)
    if is_wall.any():
        strays = ~is_wall & (at_s != 0)
        if strays.sum() > max(_MOST_STRAY * len(at_s), 1):
            raise InvalidTrace(
                f"{name} has two clocks: {is_wall.sum()} of its times are points in time, {strays.sum()} "
                "count from a start; take one kind of them"
            )
        kept = is_wall
        report.leave_out(OTHER_CLOCK, int((~is_wall).sum()))
    elif unknown.any() and (at_s[unknown] > 0).any():
        raise InvalidTrace(
            f"{name}: its times count from a start, up to {at_s.max():g}, in a unit that is not stated: "
            "add --unit s, ms, us or ns"
        )
    found = at_s[kept]
    start_s = 0.0 if own and not is_wall.any() else float(math.floor(found.min()))
    if start_s and not is_wall.any():
        report.notes.append(
            f"its times count from a start that is not known: shifted by {start_s:.0f} s, so that the "
            "first is in second 0"
        )
    elif not is_wall.any():
        report.notes.append("its times count from a start; the wall clock is not known")
    return Settled(np.round(found - start_s, 6), kept, start_s if is_wall.any() else math.nan)


def machine_zone() -> tuple[object, ...]:
    """What tells this machine's zone from others, all the year round."""
    return (*time.tzname, time.timezone)


def zone_name(how: How) -> str:
    """What times without a zone are read as, in words."""
    return how.timezone or f"this machine's zone ({datetime.now().astimezone().tzname()})"


def _from_wall(values: FloatArray, name: str, how: How, report: Report) -> FloatArray:
    """Seconds since 1970 of what a clock on a wall showed."""
    zone = ZoneInfo(how.timezone) if how.timezone else None
    unique, place = np.unique(np.floor(values / _BUCKET_S), return_inverse=True)
    first, second = (
        np.array([_offset_s(bucket * _BUCKET_S, zone, fold) for bucket in unique])[place]
        for fold in (0, 1)
    )
    if (first < second).any():
        skipped = int(np.argmax(first < second))
        raise InvalidTrace(
            f"{name}: row {skipped + 1} shows {_shown(values[skipped])}, which {zone_name(how)} skipped as its "
            "clocks were put forward: state the right one with --timezone, or --utc"
        )
    twice = first > second
    if twice.any():
        again = np.zeros(len(values), dtype=bool)
        again[twice] = _again(values[twice], values)
        if again.any():
            report.notes.append(
                f"clocks were put back: {again.sum()} rows are of the second time that the hour passed"
            )
        else:
            report.notes.append(
                f"{twice.sum()} rows are of an hour that {zone_name(how)} has twice: read as its first"
            )
        first = np.where(again, second, first)
    elif (row := _fallen(values)) is not None:
        told = f"its times fall back by an hour in row {row}, as where clocks are put back"
        if not how.timezone:
            raise InvalidTrace(
                f"{name}: {told}, but {zone_name(how)} did not then: state --timezone or --utc"
            )
        report.notes.append(f"{told}, but {zone_name(how)} did not then: is it the right zone?")
    report.notes.append(
        f"times without a zone are read as {zone_name(how)}"
        + ("" if how.timezone else "; --utc or --timezone says otherwise")
    )
    return values - first


def _again(shown: FloatArray, every: FloatArray) -> BoolArray:
    """Which times of an hour that passes twice are of its second pass, by the order of rows."""
    if np.median(np.diff(every, append=every[-1])) < 0:  # the newest first
        return _again(shown[::-1], every[::-1])[::-1]
    found: BoolArray = np.logical_or.accumulate(
        np.maximum.accumulate(shown) - shown > 2 * _BUCKET_S
    )
    return found


def _fallen(values: FloatArray) -> int | None:
    """The row in which times that else ascend fall back by an hour, None where none does."""
    steps = np.diff(values)
    hour = (steps < -3000) & (steps > -4200)
    others = steps[~hour]
    ascends = len(others) > 0 and others.max() > 0 and others.min() > -_LATE_S
    return int(np.argmax(hour)) + 2 if hour.any() and ascends else None


def _offset_s(wall_s: float, zone: tzinfo | None, fold: int) -> float:
    """By how much a wall is ahead of UTC at a time that it shows."""
    shown = (datetime(1970, 1, 1) + timedelta(seconds=float(wall_s))).replace(fold=fold)
    aware = shown.replace(tzinfo=zone) if zone is not None else shown
    return wall_s - aware.timestamp()


def _shown(wall_s: float) -> str:
    return f"{datetime(1970, 1, 1) + timedelta(seconds=float(wall_s)):%Y-%m-%d %H:%M:%S}"
