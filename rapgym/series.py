"""What the simulator consumes of a workload: demand of each window, tenant tokens of each second.

A series is small, made from raw traces by `rapgym scenarios build`, and committed under `traces/`,
so that the default run needs no raw file.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rapgym import datafiles, headed
from rapgym.errors import InvalidSpec, InvalidTrace
from rapgym.residence import reserve_tokens, residence_s, tenant_tokens
from rapgym.specs import IntArray
from rapgym.trace import RequestTrace

FOLDER = Path(__file__).with_name("traces")
DEMAND_COLUMNS = ("batch", "prompt_tokens", "output_tokens", "longest_prompt_tokens")
SCHEMA = 1

TRAIN_SHARE, TEST_SHARE, VALIDATION_SHARE = 0.70, 0.25, 0.15
SPLITS = ("train", "fit", "validation", "test")


def split_rows(rows: int, split: str) -> slice:
    """Which of `rows` rows belong to a split, by time.

    train is the first 70 %, test the last 25 %, a gap between; validation is the last 15 % of
    train, fit is train without it.
    """
    train = int(rows * TRAIN_SHARE)
    fit = train - int(train * VALIDATION_SHARE)
    ranges = {
        "train": slice(0, train),
        "fit": slice(0, fit),
        "validation": slice(fit, train),
        "test": slice(rows - int(rows * TEST_SHARE), rows),
    }
    if split not in ranges:
        raise InvalidSpec(f"no split {split!r}; there are {', '.join(SPLITS)}")
    return ranges[split]


@dataclass(frozen=True, slots=True)
class Series:
    """Rows of W seconds, in tokens of the served model and of the tenant's model."""

    window_s: int  # W
    reserve_tokens: int  # reserved for the output of a request; longer outputs are cut there
    batch: IntArray  # requests that arrived in the window before, [T]
    prompt_tokens: IntArray  # summed, [T]
    output_tokens: IntArray  # realised, cut at the reserve, summed, [T]
    longest_prompt_tokens: IntArray  # [T]
    tenant_tokens: IntArray  # highest of each second, [T, W]
    origin: dict[str, Any]  # traces, their sha256 and attribution, and how they were combined

    def __post_init__(self) -> None:
        rows = len(self.batch)
        if not rows or self.tenant_tokens.shape != (rows, self.window_s):
            raise InvalidTrace(
                f"a series needs rows of {self.window_s} tenant seconds, not "
                f"{self.tenant_tokens.shape} beside {rows} rows of demand"
            )
        for name in (*DEMAND_COLUMNS, "tenant_tokens"):
            column = getattr(self, name)
            if len(column) != rows or column.dtype != np.int64 or (column < 0).any():
                raise InvalidTrace(f"column {name} of a series needs {rows} integers >= 0")
        if (self.output_tokens > self.batch * self.reserve_tokens).any():
            raise InvalidTrace("outputs of a series exceed what was reserved for them")

    def __len__(self) -> int:
        return len(self.batch)

    def part(self, rows: slice) -> "Series":
        """Some of the rows, copied: a view would still lead to the others."""
        columns = (*DEMAND_COLUMNS, "tenant_tokens")
        return replace(self, **{name: getattr(self, name)[rows].copy() for name in columns})


def build(
    served: RequestTrace,
    tenant: RequestTrace | None,
    *,
    window: int,
    pool_tokens: int,
    offset_s: float,
    start_s: float,
    stop_s: float,
    origin: dict[str, Any],
) -> Series:
    """Cut a served trace and a tenant's trace into rows.

    Args:
        served: times on its own clock.
        tenant: the co-tenant's requests, or None for no tenant.
        window: W, seconds.
        pool_tokens: of the tenant's KV pool.
        offset_s: what is added to a served time to get the tenant's.
        start_s, stop_s: on the served clock; whole windows between them become rows.

    Returns:
        Row t holds the requests that arrived in the window before it. The reserve follows from
        the requests of the train part.
    """
    train_stop_s = start_s + TRAIN_SHARE * (stop_s - start_s)
    seen = (served.arrival_s >= start_s) & (served.arrival_s < train_stop_s)
    if not seen.any():
        raise InvalidTrace(f"{served.name}: no request in the train part")
    reserve = reserve_tokens(served.output_tokens[seen])
    rows = int((stop_s - start_s) // window)
    row = np.floor((served.arrival_s - start_s) / window).astype(np.int64) + 1
    inside = (row >= 0) & (row < rows)
    prompt, output = served.prompt_tokens, np.minimum(served.output_tokens, reserve)

    def summed(column: IntArray) -> IntArray:
        total = np.zeros(rows, dtype=np.int64)
        np.add.at(total, row[inside], column[inside])
        return total

    longest = np.zeros(rows, dtype=np.int64)
    np.maximum.at(longest, row[inside], prompt[inside])
    held = np.zeros(rows * window, dtype=np.int64)
    if tenant is not None:
        held = tenant_tokens(
            tenant.arrival_s,
            tenant.prompt_tokens + tenant.output_tokens,
            residence_s(tenant.prompt_tokens, tenant.output_tokens),
            pool_tokens,
            start_s + offset_s,
            rows * window,
        )
    return Series(
        window,
        reserve,
        summed(np.ones(len(row), dtype=np.int64)),
        summed(prompt),
        summed(output),
        longest,
        held.reshape(rows, window),
        origin,
    )


def write(series: Series, path: Path) -> None:
    """Write a series; the same series gives the same bytes."""
    header = {
        "schema": SCHEMA,
        "window_s": series.window_s,
        "reserve_tokens": series.reserve_tokens,
        "origin": series.origin,
    }
    columns = [getattr(series, name)[:, None] for name in DEMAND_COLUMNS]
    table = np.concatenate([*columns, series.tenant_tokens], axis=1)
    lines = (",".join(map(str, row)) for row in table.tolist())
    with datafiles.written_aside(path) as file:
        file.write(headed.pack(header, [_names(series.window_s), *lines]))


def _names(window: int) -> str:
    return ",".join([*DEMAND_COLUMNS, *(f"tenant_tokens_{second}" for second in range(window))])


def read(path: Path) -> Series:
    """Read a series.

    Raises:
        InvalidTrace: the file is no series, or damaged.
    """
    try:
        header, lines = headed.unpack(path.read_bytes())
        window = int(header["window_s"])
        if header["schema"] != SCHEMA or not 0 < window < 1000 or lines[0] != _names(window):
            raise ValueError("its columns are not the ones that its header implies")
        width = len(DEMAND_COLUMNS) + window
        table = np.array([line.split(",") for line in lines[1:]], dtype=np.int64)
        if table.ndim != 2 or table.shape[1] != width:
            raise ValueError("a row has too few columns")
        batch, prompt, output, longest, *tenant = (np.ascontiguousarray(c) for c in table.T)
        reserve, origin = int(header["reserve_tokens"]), dict(header["origin"])
        held = np.stack(tenant, axis=1)
        return Series(window, reserve, batch, prompt, output, longest, held, origin)
    except FileNotFoundError:
        raise InvalidTrace(f"{path} is not there; make it with: rapgym scenarios build") from None
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise InvalidTrace(f"{path} is no series that can be read: {error}") from error
