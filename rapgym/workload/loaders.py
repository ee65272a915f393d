"""From the raw files of `sources` to validated records; a wrong file is refused in one sentence."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rapgym.arrays import FloatArray
from rapgym.errors import DataUnavailable, InvalidSpec, InvalidTrace
from rapgym.files import columns
from rapgym.workload import names, sources
from rapgym.workload.inputs import requests
from rapgym.workload.inputs.how import How
from rapgym.workload.trace import MemoryTrace, RequestTrace

MOONCAKE_GRID_S = 3.0
_TICKS = 10_000_000  # Azure's timestamps count 100 ns


def azure(name: str) -> RequestTrace:
    """The Azure LLM inference trace 2023, "azure-conv" or "azure-code".

    `start_wall_s` is the whole second (UTC) not after the first arrival, so that the two services
    of one hour pair by wall clock; arrival times are exact to the 100 ns of the file.
    """
    table = columns.read(sources.path_of(name), name, {
        "TIMESTAMP": "text", "ContextTokens": "int", "GeneratedTokens": "int"})  # fmt: skip
    stamp = re.compile(r"(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d)\.(\d{7})", re.ASCII)
    parts = [stamp.fullmatch(text) for text in table["TIMESTAMP"].tolist()]
    try:
        whole_s = np.array([f"{part[1]}T{part[2]}" for part in parts if part], "datetime64[s]")
        if len(whole_s) != len(parts):
            raise ValueError("YYYY-MM-DD HH:MM:SS.fffffff is wanted")
    except ValueError as error:
        raise InvalidTrace(
            f"{name}: TIMESTAMP is not a point in time in some row ({error})"
        ) from error
    seconds = whole_s.astype(np.int64)
    ticks = (seconds - seconds[0]) * _TICKS + np.array([int(part[3]) for part in parts if part])
    return RequestTrace(name, ticks / _TICKS, table["ContextTokens"], table["GeneratedTokens"],
                        start_wall_s=float(seconds[0]))  # fmt: skip


def mooncake() -> RequestTrace:
    """Mooncake's conversation trace (FAST 2025).

    Its timestamps sit on a grid of 3 s, give or take 3 ms: each bunch of n requests is spread
    evenly over the time to the next grid point, the i-th (from 0) at i/n of it. The order within
    the file is kept; what happened within 3 s is not known.
    """
    name = "mooncake-conversation"
    table = columns.read(sources.path_of(name), name, {
        "timestamp_ms": "int", "input_length": "int", "output_length": "int"})  # fmt: skip
    stamp_s = table["timestamp_ms"] / 1000
    grid_s, first, size = np.unique(stamp_s, return_index=True, return_counts=True)
    require(name, bool((np.diff(stamp_s) >= 0).all()), "timestamp_ms is unsorted")
    span_s = np.minimum(np.diff(grid_s, append=np.inf), MOONCAKE_GRID_S)
    rank = np.arange(len(stamp_s)) - np.repeat(first, size)
    arrival_s = stamp_s + np.repeat(span_s / size, size) * rank
    return RequestTrace(name, arrival_s, table["input_length"], table["output_length"])


_REQUESTS: dict[str, Callable[[], RequestTrace]] = {
    "azure-conv": lambda: azure("azure-conv"),
    "azure-code": lambda: azure("azure-code"),
    "mooncake-conversation": mooncake,
}


def load_requests(name_or_path: str, how: How | None = None) -> RequestTrace:
    """A known request trace by name, or a file of requests in any format that is known, by path.

    Raises:
        DataUnavailable: neither a known name nor a file that can be opened.
        InvalidTrace: the file is no valid trace.
    """
    if name_or_path in _REQUESTS:
        return _REQUESTS[name_or_path]()
    if not names.is_path(name_or_path):
        raise DataUnavailable(
            f"no request trace is called {name_or_path!r}; there are {', '.join(names.REQUESTS)}, "
            "or give the path of a file of requests"
        )
    return requests.read(Path(name_or_path), how).requests


@dataclass(frozen=True, slots=True, eq=False)
class UsedShare:
    """Memory in use as a share of a capacity that the source does not give in bytes."""

    name: str
    t_s: FloatArray  # strictly ascending, >= 0, [S]
    share: FloatArray  # 0 to 1, [S]

    def __post_init__(self) -> None:
        require_time(self.name, self.t_s)
        inside = bool(((self.share >= 0) & (self.share <= 1)).all())
        require(self.name, inside, "memory in use is not a share between 0 and 1 of the capacity")

    def of(self, capacity_bytes: int, base_bytes: int = 0) -> MemoryTrace:
        """As bytes: `base_bytes`, such as weights, and the share of `capacity_bytes`, rounded."""
        used_bytes = base_bytes + np.rint(self.share * capacity_bytes).astype(np.int64)
        return MemoryTrace(self.name, self.t_s, used_bytes)


def vllm_kvcache(run_scale: int) -> UsedShare:
    """Share of vLLM's KV pool in use, in a laboratory replay at `run_scale` times the speed.

    What such a tenant holds is `of(pool_bytes, weights_bytes)`, on a 24 GiB card there.
    """
    name = "vllm-kvcache"
    table = columns.read(sources.path_of(name), name, {
        "run_scale": "int", "t_s": "float", "kvcache_usage_pct": "float"})  # fmt: skip
    if not (rows := table["run_scale"] == run_scale).any():
        known = ", ".join(map(str, np.unique(table["run_scale"])))
        raise InvalidSpec(f"{name} has no run at scale {run_scale}; there are {known}")
    return UsedShare(
        f"{name}@{run_scale}", table["t_s"][rows], table["kvcache_usage_pct"][rows] / 100
    )


def require_time(name: str, t_s: FloatArray) -> None:
    fine = t_s[0] >= 0 and (np.diff(t_s) > 0).all()
    require(name, bool(fine), "time is negative, unsorted or named twice")


def require(name: str, fine: bool, fault: str) -> None:
    if not fine:
        raise InvalidTrace(f"{name}: {fault}")
