"""What a serving world consumes of a workload: requests in continuous time, tenant tokens by the second.

Traffic of days is drawn once and kept in one file of blocks, read in no time. Of an hour it is made
from raw traces where they are at hand; nothing raw is kept.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rapgym.arrays import IntArray
from rapgym.errors import InvalidTrace
from rapgym.files import headed, incoming, limits, writing
from rapgym.workload import series
from rapgym.workload.series import Scheme
from rapgym.workload.trace import RequestTrace

SCHEMA = 1
ENDING = ".traffic"
HOUR_S = 3600
US = 1_000_000  # microseconds in a second
Small = NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Traffic:
    """R requests of one replica, and what its tenant holds in each of S seconds, on one clock from 0.

    Raises:
        InvalidTrace: time runs back or beyond the last second, there is no request or second, a request
            asks for nothing, or the tenant holds less than nothing.
    """

    arrival_us: IntArray  # ascending, [R]
    prompt_tokens: Small  # at least 1, [R]
    output_tokens: Small  # at least 1, [R]
    tenant_tokens: Small  # highest of each second, [S]
    origin: dict[str, Any]  # traces, their sha256 and attribution

    def __post_init__(self) -> None:
        arrival_us, requests = self.arrival_us, len(self.arrival_us)
        if not requests or not len(self.tenant_tokens):
            raise InvalidTrace("traffic has a request and a second at least")
        if {len(self.prompt_tokens), len(self.output_tokens)} != {requests}:
            raise InvalidTrace("each request of traffic has a prompt and an output")
        ordered = np.diff(arrival_us).min(initial=0) >= 0 and arrival_us[0] >= 0
        if not ordered or arrival_us[-1] >= self.seconds * US:
            raise InvalidTrace("requests of traffic arrive in order, within its seconds")
        if min(self.prompt_tokens.min(), self.output_tokens.min()) < 1:
            raise InvalidTrace("a request has a prompt token and an output token at least")
        if self.tenant_tokens.min() < 0:
            raise InvalidTrace("a tenant holds no fewer tokens than 0")

    @property
    def seconds(self) -> int:
        """S."""
        return len(self.tenant_tokens)

    def between(self, start_s: int, stop_s: int) -> slice:
        """The requests that arrive in [start_s, stop_s)."""
        first, last = np.searchsorted(self.arrival_us, (start_s * US, stop_s * US))
        return slice(int(first), int(last))


def of(served: RequestTrace, start_s: float, held: IntArray, origin: dict[str, Any]) -> Traffic:
    """Traffic of a served trace from `start_s` on its clock, beside a tenant's tokens by the second.

    Arrivals are rounded down to the microsecond. A request that asks for no output is nothing to
    serve; one without a prompt has one token of it.

    Raises:
        InvalidTrace: no request is left.
    """
    arrival_us = np.floor((served.arrival_s - start_s) * US + 1e-3).astype(np.int64)
    inside = (arrival_us >= 0) & (arrival_us < len(held) * US) & (served.output_tokens > 0)
    return Traffic(
        arrival_us[inside],
        np.maximum(served.prompt_tokens[inside], 1).astype(np.int32),
        served.output_tokens[inside].astype(np.int32),
        held.astype(np.int32),
        origin,
    )


def spans(seconds: int, split: str, scheme: Scheme) -> list[tuple[int, int]]:
    """Stretches of seconds [start, stop) that belong to a split, ascending: see `series.split_rows`.

    By days, whole hours: train is what ends with day 10 of 14, test all after it. There is no gap, for a
    piece looks back no further than its split does. Else second by second.

    Raises:
        InvalidSpec: there is no such split.
    """
    unit = HOUR_S if scheme == "days" else 1
    chosen = series.split_rows(seconds // unit, split, scheme)
    if scheme == "days" and split == "test":
        train = series.split_rows(seconds // unit, "train", scheme)
        chosen = np.arange(len(train), seconds // unit)
    runs = np.split(chosen, np.flatnonzero(np.diff(chosen) != 1) + 1)
    return [(int(run[0]) * unit, (int(run[-1]) + 1) * unit) for run in runs if len(run)]


def write(traffic: Traffic, path: Path) -> None:
    """Write traffic: a line of JSON, then whole numbers, column after column; the same gives the same bytes.

    Raises:
        InvalidTrace: `read` would refuse it; nothing is written.
    """
    header = {
        "schema": SCHEMA,
        "requests": len(traffic.arrival_us),
        "seconds": traffic.seconds,
        "origin": traffic.origin,
    }
    small = (traffic.prompt_tokens, traffic.output_tokens, traffic.tenant_tokens)
    parts = [
        f"{headed.described(header)}\n".encode(),
        traffic.arrival_us.astype("<i8").tobytes(),
        *(column.astype("<i4").tobytes() for column in small),
    ]
    if sum(map(len, parts)) > limits.TRAFFIC:
        raise InvalidTrace(
            f"{path} is not written: it would be larger than {incoming.size(limits.TRAFFIC)}; serve a "
            "smaller share of the requests"
        )
    with writing.written_aside(path) as file:
        for part in parts:
            file.write(part)


def read(path: Path) -> Traffic:
    """A file of `write`.

    Raises:
        InvalidTrace: it is no such file, or damaged.
    """
    try:
        return _of_content(incoming.bounded(path, limits.TRAFFIC))
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise InvalidTrace(
            f"{path} is no traffic that can be read: {error}; delete it, and it is made again"
        ) from error


def _of_content(content: bytes) -> Traffic:
    first = content.find(b"\n", 0, limits.HEADER) + 1
    if not content.startswith(b"# ") or not first:
        raise ValueError("it has no header line")
    header = headed.header_of(content[2:first])
    if header.get("schema") != SCHEMA:
        raise ValueError("it is of another schema")
    requests, seconds = int(header["requests"]), int(header["seconds"])
    if min(requests, seconds) < 1 or first + 16 * requests + 4 * seconds != len(content):
        raise ValueError("it is not as long as it says")
    arrival_us = np.frombuffer(content, "<i8", requests, first)
    small = np.frombuffer(content, "<i4", 2 * requests + seconds, first + 8 * requests)
    prompt, output, held = np.split(small, [requests, 2 * requests])
    return Traffic(arrival_us, prompt, output, held, dict(header["origin"]))
