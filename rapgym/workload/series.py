"""What the simulator consumes of a workload: demand of each window, tenant tokens of each second.

A series is small, made from raw traces by `rapgym scenarios build`, and committed under `traces/`,
so that the default run needs no raw file.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rapgym.arrays import IntArray
from rapgym.errors import InvalidSpec, InvalidTrace
from rapgym.files import checked, headed
from rapgym.files import columns as csv_columns
from rapgym.workload.residence import reserve_tokens, residence_s, tenant_tokens
from rapgym.workload.trace import RequestTrace

DEMAND_COLUMNS = ("batch", "prompt_tokens", "output_tokens", "longest_prompt_tokens")
NOT_KEPT = "-"  # in place of a row's single requests
SCHEMA = 2
MOST_SECONDS = 1000  # of a row, exclusive
MAX_BYTES = 64 << 20  # of a file, unpacked too: nine times the longest that is shipped

TRAIN_SHARE, TEST_SHARE, VALIDATION_SHARE = 0.70, 0.25, 0.15
STRETCHES = 8  # of the blocked view: odd ones train, even ones test, in turn
GAP_ROWS = 8  # at the end of each stretch of the blocked view: as many as a policy sees back
SPLITS = ("train", "fit", "validation", "learn", "check", "test")
Scheme = Literal["time", "blocked"]


def split_rows(rows: int, split: str, scheme: Scheme = "time") -> IntArray:
    """Which of `rows` rows belong to a split, ascending.

    By time, train is the first 70 % and test the last 25 %, with a gap between. Blocked, eight
    stretches alternate between train and test, each without its last rows: a second view, for
    traffic whose end is unlike its beginning. In both, validation is the last 15 % of train and fit
    is train without it; check is the last 15 % of fit and learn is fit without it, so that what is
    told of fit alone has rows of its own to stop learning by.
    """
    if split not in SPLITS:
        raise InvalidSpec(f"no split {split!r}; there are {', '.join(SPLITS)}")
    every = np.arange(rows)
    if scheme == "time":
        train, test = every[: int(rows * TRAIN_SHARE)], every[rows - int(rows * TEST_SHARE) :]
    else:
        stretches = [
            part[: max(len(part) - GAP_ROWS, 0)] for part in np.array_split(every, STRETCHES)
        ]
        train, test = np.concatenate(stretches[0::2]), np.concatenate(stretches[1::2])
    fit, validation = _without_last(train)
    learn, check = _without_last(fit)
    return dict(zip(SPLITS, (train, fit, validation, learn, check, test), strict=True))[split]


def _without_last(rows: IntArray) -> tuple[IntArray, IntArray]:
    """Rows without their last 15 %, and those."""
    first = len(rows) - int(len(rows) * VALIDATION_SHARE)
    return rows[:first], rows[first:]


@dataclass(frozen=True, slots=True)
class Requests:
    """The single requests of T rows, R in all, each row's in order of arrival."""

    first: IntArray  # where each row's begin, and where the last row's end, [T + 1]
    prompt_tokens: IntArray  # [R]
    output_tokens: IntArray  # cut at the reserve, [R]


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """Rows of W seconds, in tokens of the served model and of the tenant's model."""

    window_s: int  # W
    reserve_tokens: int  # reserved for the output of a request; longer outputs are cut there
    batch: IntArray  # requests that arrived in the window before, [T]
    prompt_tokens: IntArray  # summed, [T]
    output_tokens: IntArray  # realised, cut at the reserve, summed, [T]
    longest_prompt_tokens: IntArray  # [T]
    tenant_tokens: IntArray  # highest of each second, [T, W]
    # "prompt/output prompt/output ..." in order of arrival, or NOT_KEPT, [T]: parsed where asked for.
    requests: NDArray[np.object_]
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
        if len(self.requests) != rows or not all(
            text == NOT_KEPT or text.count("/") == batch
            for text, batch in zip(self.requests.tolist(), self.batch.tolist(), strict=True)
        ):
            raise InvalidTrace("a row of a series does not list as many requests as it has")

    def __len__(self) -> int:
        return len(self.batch)

    def part(self, rows: IntArray) -> "Series":
        """The rows of these numbers, copied: a view would still lead to the others."""
        columns = (*DEMAND_COLUMNS, "tenant_tokens", "requests")
        return replace(self, **{name: getattr(self, name)[rows] for name in columns})

    def single_requests(self) -> Requests:
        """What the column `requests` says: for rivals that admit only a part of a row's batch.

        Raises:
            InvalidTrace: it cannot be read, is not kept of a row, or does not add up to the
                columns of demand.
        """
        texts = self.requests.tolist()
        if NOT_KEPT in texts:
            raise InvalidTrace(
                f"the series keeps no single requests of {texts.count(NOT_KEPT)} of these "
                f"{len(self)} rows"
            )
        first = np.append(0, np.cumsum(self.batch))
        try:
            numbers = np.array(
                [int(word) for word in " ".join(texts).replace("/", " ").split()], dtype=np.int64
            )
            prompt, output = numbers.reshape(first[-1], 2).T
        except (ValueError, OverflowError) as error:
            raise InvalidTrace(f"the requests of a series cannot be read: {error}") from error
        found = Requests(first, prompt.copy(), output.copy())
        self._check(found)
        return found

    def _check(self, found: Requests) -> None:
        row = np.repeat(np.arange(len(self)), self.batch)
        totals = np.zeros((3, len(self)), dtype=np.int64)
        np.add.at(totals[0], row, found.prompt_tokens)
        np.add.at(totals[1], row, found.output_tokens)
        np.maximum.at(totals[2], row, found.prompt_tokens)
        told = (self.prompt_tokens, self.output_tokens, self.longest_prompt_tokens)
        if (
            (found.prompt_tokens < 0).any()
            or (found.output_tokens < 0).any()
            or (found.output_tokens > self.reserve_tokens).any()
            or any((total != column).any() for total, column in zip(totals, told, strict=True))
        ):
            raise InvalidTrace("the requests of a series do not add up to its columns of demand")

    def without_requests(self, rows: IntArray) -> "Series":
        """The same without the single requests of these rows, where they would take too much room."""
        requests = self.requests.copy()
        requests[rows] = NOT_KEPT
        return replace(self, requests=requests)


def whole_rows(start_s: float, stop_s: float, window: int) -> int:
    """How many rows of `window` seconds there are between two times."""
    return int((stop_s - start_s) // window)


def queued_tokens(tenant: RequestTrace, pool_tokens: int, start_s: float, seconds: int) -> IntArray:
    """Tokens that a tenant behind a queue holds in each second from `start_s` on its clock."""
    return tenant_tokens(
        tenant.arrival_s,
        tenant.prompt_tokens + tenant.output_tokens,
        residence_s(tenant.prompt_tokens, tenant.output_tokens),
        pool_tokens,
        start_s,
        seconds,
    )


def build(
    served: RequestTrace,
    held: IntArray,
    *,
    window: int,
    start_s: float,
    stop_s: float,
    origin: dict[str, Any],
) -> Series:
    """Cut a served trace, and what a tenant holds meanwhile, into rows.

    Args:
        served: times on its own clock.
        held: tokens of the tenant in each second from `start_s` on, int64 [rows * window].
        window: W, seconds.
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
    rows = whole_rows(start_s, stop_s, window)
    row = np.floor((served.arrival_s - start_s) / window).astype(np.int64) + 1
    inside = (row >= 0) & (row < rows)
    prompt, output = served.prompt_tokens, np.minimum(served.output_tokens, reserve)

    def summed(column: IntArray) -> IntArray:
        total = np.zeros(rows, dtype=np.int64)
        np.add.at(total, row[inside], column[inside])
        return total

    longest = np.zeros(rows, dtype=np.int64)
    np.maximum.at(longest, row[inside], prompt[inside])
    batch = summed(np.ones(len(row), dtype=np.int64))
    # Arrivals ascend, so what is inside stands in the order of rows.
    words = np.array(
        [
            f"{asked}/{answered}"
            for asked, answered in zip(
                prompt[inside].tolist(), output[inside].tolist(), strict=True
            )
        ],
        dtype=object,
    )
    ends = np.cumsum(batch)
    return Series(
        window,
        reserve,
        batch,
        summed(prompt),
        summed(output),
        longest,
        held.reshape(rows, window),
        _objects(
            [" ".join(words[end - size : end]) for size, end in zip(batch, ends, strict=True)]
        ),
        origin,
    )


def _objects(texts: list[str]) -> NDArray[np.object_]:
    return np.array(texts, dtype=object)


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
    lines = (
        ",".join([*map(str, row), requests])
        for row, requests in zip(table.tolist(), series.requests, strict=True)
    )
    with checked.written_aside(path) as file:
        file.write(headed.pack(header, [_names(series.window_s), *lines]))


def _names(window: int) -> str:
    seconds = (f"tenant_tokens_{second}" for second in range(window))
    return ",".join([*DEMAND_COLUMNS, *seconds, "requests"])


def read(path: Path) -> Series:
    """Read a series.

    Raises:
        InvalidTrace: the file is no series, or damaged.
    """
    try:
        header, lines = headed.unpack(checked.bounded(path, MAX_BYTES), MAX_BYTES)
        window = int(header["window_s"])
        if (
            header["schema"] != SCHEMA
            or not 0 < window < MOST_SECONDS
            or lines[0] != _names(window)
        ):
            raise ValueError("its columns are not the ones that its header implies")
        width = len(DEMAND_COLUMNS) + window
        parts = [line.rpartition(",") for line in lines[1:]]
        requests = _objects([part[2] for part in parts])
        table = csv_columns.integers([part[0] for part in parts], width)
        batch, prompt, output, longest, *tenant = (np.ascontiguousarray(c) for c in table.T)
        reserve, origin = int(header["reserve_tokens"]), dict(header["origin"])
        held = np.stack(tenant, axis=1)
        return Series(window, reserve, batch, prompt, output, longest, held, requests, origin)
    except FileNotFoundError:
        raise InvalidTrace(f"{path} is not there; make it with: rapgym scenarios build") from None
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise InvalidTrace(f"{path} is no series that can be read: {error}") from error
