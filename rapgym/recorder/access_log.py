"""Arrivals and lengths of requests out of a server's log; what anybody wrote is passed over.

Read are JSON lines, and the request logs of vLLM and SGLang; each line is tried as any of them.

- JSON: one object a line with the time of arrival (`timestamp`: unix seconds, or ISO 8601),
  `prompt_tokens` and `completion_tokens`, or these two inside `usage`, as an OpenAI-compatible
  answer has them. Other names that are in use are known as well (`JSON_NAMES`). A `status` of 400 or
  more marks a request that was refused: it is left out.
- vLLM, started with --enable-log-requests and --enable-log-outputs (newer ones with
  VLLM_LOGGING_LEVEL=DEBUG as well): token ids are counted. With --max-log-len they are cut, and the
  counts too low. Its times are whole seconds without a year, so the wall clock stays unknown.
- SGLang, started with --log-requests: the line `Finish:`; the arrival is its time less its latency.

A time without a zone is this machine's local time.
"""

import math
import re
import sys
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from rapgym.arrays import FloatArray
from rapgym.errors import DataUnavailable, InvalidTrace
from rapgym.files import incoming, json_text, limits
from rapgym.workload.trace import LARGEST, RequestTrace

JSON_NAMES = {
    "arrival": (
        "timestamp", "arrival_time", "arrival_s", "start_time", "startTime", "request_time", "time",
        "ts", "created",
    ),
    "prompt": ("prompt_tokens", "input_tokens", "num_prompt_tokens", "ContextTokens"),
    "output": (
        "completion_tokens", "output_tokens", "generated_tokens", "num_generation_tokens",
        "GeneratedTokens",
    ),
    "status": ("status", "status_code"),
}  # fmt: skip
_EPOCH_UNITS = (
    (1e17, 1e9),
    (1e14, 1e6),
    (1e11, 1e3),
)  # from so large a number on, so many a second
_VLLM_TIME = re.compile(r"\b[A-Z]+ (\d\d)-(\d\d) (\d\d):(\d\d):(\d\d)\b")
_VLLM = re.compile(r"(Received request|Generated response|Request) (\S+?)(?=[: ])(.*)", re.DOTALL)
_IDS = re.compile(r"token_ids: \[([\d, ]*)\]")
_SGLANG_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d(?:\.\d+)?)")
_SGLANG = {
    "prompt": re.compile(r"\bprompt_tokens'?: (\d+)"),
    "output": re.compile(r"\bcompletion_tokens'?: (\d+)"),
    "latency": re.compile(r"\be2e_latency'?: (\d+(?:\.\d+)?)"),
}


@dataclass(frozen=True, slots=True)
class AccessLog:
    """What a log says of its requests."""

    requests: RequestTrace
    passed_over: int  # lines that speak of a request but cannot be read
    first_fault: str  # why the first of them cannot
    unanswered: int  # requests of which no answer, or no length, is logged: left out


@dataclass(slots=True)
class _Open:
    """A request of vLLM's of which not all is known yet."""

    arrival_s: float
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    pieces: int = 0  # of a streamed answer, summed


@dataclass(slots=True)
class _Found:
    # Arrival, prompt and output tokens, one request behind the other: tuples would take ten times as much.
    rows: "array[float]" = field(default_factory=lambda: array("d"))
    open: dict[str, _Open] = field(default_factory=dict)
    noted: int = 0  # lines of vLLM's
    passed_over: int = 0
    first_fault: str = ""
    has_year: bool = True


def read(path: Path) -> AccessLog:
    """The requests of a log file, gzip-packed where its name ends in .gz.

    Raises:
        DataUnavailable: it cannot be read.
        InvalidTrace: it speaks of no request whose arrival and lengths are known.
    """
    try:
        with incoming.opened(path) as file:
            kind: incoming.Packing = "gzip" if path.suffix == ".gz" else ""
            return parse(_lines(incoming.unpacked(file, kind, sys.maxsize)), path.name)
    except (OSError, ValueError) as error:
        if isinstance(error, InvalidTrace):
            raise
        raise DataUnavailable(f"{path} cannot be read: {error}") from error


def _lines(pieces: Iterator[bytes]) -> Iterator[str]:
    """The lines of a log, without those that are longer than any log's.

    Raises:
        ValueError: a line has no end.
    """
    left, endless = b"", 0
    for piece in pieces:
        whole, newline, rest = piece.rpartition(b"\n")
        if newline:
            if endless:
                whole, endless = whole.partition(b"\n")[2], 0
            yield from (left + whole).decode(errors="replace").split("\n")
            left = rest
        elif endless:
            endless += len(piece)
        else:
            left += piece
        if len(left) > limits.ACCESS_LINE:
            left, endless = b"", len(left)
        if endless > limits.ACCESS_ENDLESS:
            raise ValueError(f"a line of it has no end in {incoming.size(limits.ACCESS_ENDLESS)}")
    if left:
        yield left.decode(errors="replace")


def parse(lines: Iterable[str], name: str) -> AccessLog:
    """As `read`, of the lines of a log."""
    found = _Found()
    known, since = 0, 0  # what the log told so far, and the line that told it
    for number, line in enumerate(lines, 1):
        try:
            for row in _row_of(line, found):
                found.rows.extend(row)
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            found.passed_over += 1
            found.first_fault = found.first_fault or f"line {number}: {str(error)[:200]}"
        told = len(found.rows) // 3 + found.noted
        if told > known:
            known, since = told, number
            _check_count(found, name)
        elif number - since > limits.ACCESS_SILENT:
            fault = f"; {found.first_fault}" if found.first_fault else ""
            raise InvalidTrace(
                f"{name} is no log of requests: {limits.ACCESS_SILENT} lines from line {since + 1} on "
                f"tell of none{fault}"
            )
    for row in _answered(found.open):
        found.rows.extend(row)
    unanswered = sum(
        each.prompt_tokens is None or not _output(each) for each in found.open.values()
    )
    if not found.rows:
        fault = f" ({found.first_fault})" if found.first_fault else ""
        raise InvalidTrace(
            f"{name} holds no request whose arrival, prompt_tokens and completion_tokens are known"
            f"{fault}: an access log of a web server has no token counts; record with --proxy instead"
        )
    return AccessLog(_trace(found, name), found.passed_over, found.first_fault, unanswered)


def _check_count(found: _Found, name: str) -> None:
    for count, most in (
        (len(found.rows) // 3, limits.ACCESS_REQUESTS),
        (len(found.open), limits.ACCESS_OPEN),
    ):
        if count > most:
            raise InvalidTrace(f"{name} holds more than {most} requests: cut it in parts")


def _row_of(line: str, found: _Found) -> Iterator[tuple[float, int, int]]:
    if line.lstrip().startswith("{"):
        yield from _of_json(_object(line))
    elif "Finish: obj=" in line:
        yield _of_sglang(line)
    elif (match := _VLLM.search(line)) and (time := _VLLM_TIME.search(line[: match.start()])):
        found.has_year = False
        _note_vllm(found.open, match, _seconds_of_year(time))
        found.noted += 1


def _of_json(entry: dict[str, Any]) -> Iterator[tuple[float, int, int]]:
    usage = entry.get("usage")
    flat = entry | (usage if isinstance(usage, dict) else {})
    status = _named(flat, "status", None)
    if str(status).isdecimal() and int(str(status)) >= 400:
        return
    yield (
        _seconds(_named(flat, "arrival")),
        _count(_named(flat, "prompt")),
        _count(_named(flat, "output")),
    )


_MISSING = object()


def _named(entry: dict[str, Any], what: str, otherwise: Any = _MISSING) -> Any:
    for name in JSON_NAMES[what]:
        if entry.get(name) is not None:
            return entry[name]
    if otherwise is _MISSING:
        raise ValueError(f"none of {', '.join(JSON_NAMES[what])} is there")
    return otherwise


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise ValueError(f"{str(value)[:40]!r} is no number of tokens")
    if not 0 <= value <= LARGEST["tokens"]:
        raise ValueError(f"{value} is no number of tokens")
    return int(value)


def _seconds(value: Any) -> float:
    """Unix seconds of a number of seconds, or of milli-, micro- or nanoseconds; or of ISO 8601."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return datetime.fromisoformat(value).timestamp()
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{str(value)[:40]!r} is no time")
    seconds = next((value / unit for least, unit in _EPOCH_UNITS if value >= least), float(value))
    if not 0 <= seconds <= LARGEST["seconds"]:
        raise ValueError(f"{value} is no time")
    return seconds


def _of_sglang(line: str) -> tuple[float, int, int]:
    head, _, _ = line.partition("Finish: obj=")
    told = line[line.rfind(", out=") :]  # what stands before it holds words of users
    time, spent = _SGLANG_TIME.search(head), _SGLANG["latency"].search(told)
    counts = [_SGLANG[name].search(told) for name in ("prompt", "output")]
    if time is None or counts[0] is None or counts[1] is None:
        raise ValueError("a line `Finish:` without its time, prompt_tokens or completion_tokens")
    ended_s = datetime.fromisoformat(f"{time[1]} {time[2]}").timestamp()
    return ended_s - (float(spent[1]) if spent else 0.0), int(counts[0][1]), int(counts[1][1])


def _seconds_of_year(time: re.Match[str]) -> float:
    month, day, hour, minute, second = (int(part) for part in time.groups())
    # A leap year, so that every date exists.
    return datetime(2000, month, day, hour, minute, second).timestamp()


def _note_vllm(open_ones: dict[str, _Open], match: re.Match[str], time_s: float) -> None:
    event, told = match[1], match[3]
    # Several prompts or choices of one request are numbered: cmpl-12ab-0.
    request = re.sub(r"(?<=[0-9a-f]{16})-\d{1,3}$", "", match[2])
    if len(request) > limits.ACCESS_NAME:
        raise ValueError("the name of a request is longer than any")
    each = open_ones.get(request)
    if event == "Received request" or (event == "Request" and told.startswith(" details:")):
        each = open_ones.setdefault(request, _Open(time_s))
        if (ids := _last_ids(told)) is not None:
            each.prompt_tokens = (each.prompt_tokens or 0) + ids
    elif (
        event == "Generated response" and each is not None and (ids := _last_ids(told)) is not None
    ):
        if told.startswith(" (streaming delta)"):
            each.pieces += ids
        else:
            each.output_tokens = (each.output_tokens or 0) + ids


def _last_ids(told: str) -> int | None:
    """How many token ids the last list of them has; words of users stand before it."""
    lists = _IDS.findall(told)
    return len([part for part in lists[-1].split(",") if part.strip()]) if lists else None


def _object(line: str) -> dict[str, Any]:
    found = json_text.parsed(line)
    if not isinstance(found, dict):
        raise ValueError("it is no JSON object")
    return found


def _output(each: _Open) -> int:
    return each.output_tokens or each.pieces


def _answered(open_ones: dict[str, _Open]) -> Iterator[tuple[float, int, int]]:
    for each in open_ones.values():
        if each.prompt_tokens is not None and _output(each):
            yield each.arrival_s, each.prompt_tokens, _output(each)


def _trace(found: _Found, name: str) -> RequestTrace:
    rows: FloatArray = np.array(found.rows).reshape(-1, 3)
    at_s = rows[:, 0]
    if not found.has_year:
        # A log that goes on into the next year begins anew in January.
        half_s = 183 * 86400
        at_s[at_s.max() - at_s > half_s] += 366 * 86400
    rows = rows[rows[:, 1] + rows[:, 2] > 0]
    if not len(rows):
        raise InvalidTrace(f"{name} holds no request of at least one token")
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    start_s = float(math.floor(rows[0, 0]))
    return RequestTrace(
        name,
        np.round(rows[:, 0] - start_s, 6),
        rows[:, 1].astype(np.int64),
        rows[:, 2].astype(np.int64),
        start_wall_s=start_s if found.has_year else math.nan,
    )
