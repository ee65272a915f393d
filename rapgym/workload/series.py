"""What the simulator consumes of a workload: demand of each window, tenant tokens of each second.

A series of an hour is small, made from raw traces by `rapgym scenarios build`, and committed under
`traces/`, so that the default run needs no raw file. One of days is drawn where it is first needed.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rapgym.arrays import IntArray
from rapgym.errors import InvalidSpec, InvalidTrace
from rapgym.files import columns as csv_columns
from rapgym.files import headed, incoming, limits, writing
from rapgym.workload.residence import reserve_tokens, residence_s, tenant_tokens
from rapgym.workload.trace import RequestTrace

DEMAND_COLUMNS = ("batch", "prompt_tokens", "output_tokens", "longest_prompt_tokens")
NOT_KEPT = "-"  # in place of a row's single requests
SCHEMA = 2
MOST_WINDOW_S = 999
# Of what others on the card hold, where that was recorded: such units stand in place of a tenant's tokens.
UNIT_BYTES = 1 << 20
BLOCKS = ".series"  # how the name of a file of blocks ends; others are packed text
_AT_ONCE = 1 << 20  # single requests that are Python's own numbers at a time

DAYS, TRAIN_DAYS = 14, 10  # of the scheme "days"
TRAIN_SHARE, TEST_SHARE, CHECK_SHARE = 0.70, 0.25, 0.15
STRETCHES = 8  # of the blocked view: odd ones train, even ones test, in turn
GAP_ROWS = 8  # at the end of each stretch of the blocked view: as many as a policy sees back
FOLDS = (1, 2, 3)  # of train: contiguous, each held out once
SPLITS = (
    "train", "learn", "check", "test",
    *(f"{part}-{fold}" for part in ("fit", "validation", "learn", "check") for fold in FOLDS),
)  # fmt: skip
Scheme = Literal["time", "blocked", "days"]


def split_rows(rows: int, split: str, scheme: Scheme = "time") -> IntArray:
    """Which of `rows` rows belong to a split, ascending.

    By time, train is the first 70 % and test the last 25 %, with a gap between. Blocked, eight
    stretches alternate between train and test, each without its last rows: a second view, for
    traffic whose end is unlike its beginning. By days, the rows are 14 days: train is what ends with
    the tenth, and test follows after a gap.

    Champions are chosen by blocked cross-validation inside train, in all schemes: validation-1 to
    validation-3 are its thirds, and fit-1 to fit-3 are train without each. Rows on both sides of a
    third that is left out stand side by side in its fit. What learns from train, or from a fit, has
    rows of its own to stop by: check is the 15 % in the middle of train and learn is train without
    them; check-k and learn-k are the same of fit-k.
    """
    if split not in SPLITS:
        raise InvalidSpec(f"no split {split!r}; there are {', '.join(SPLITS)}")
    every = np.arange(rows)
    if scheme == "time":
        train, test = every[: int(rows * TRAIN_SHARE)], every[rows - int(rows * TEST_SHARE) :]
    elif scheme == "days":
        # Rows that whole days leave over are fewer than one a day: none of day 11 is in train.
        train = every[: rows * TRAIN_DAYS // DAYS]
        test = every[-(-rows * TRAIN_DAYS // DAYS) + GAP_ROWS :]
    else:
        stretches = [
            part[: max(len(part) - GAP_ROWS, 0)] for part in np.array_split(every, STRETCHES)
        ]
        train, test = np.concatenate(stretches[0::2]), np.concatenate(stretches[1::2])
    if split == "test":
        return test
    part, _, fold = split.partition("-")
    if fold:
        thirds = np.array_split(train, len(FOLDS))
        if part == "validation":
            return thirds[int(fold) - 1]
        train = np.concatenate([third for k, third in enumerate(thirds, 1) if k != int(fold)])
    if part not in ("learn", "check"):
        return train
    length = int(len(train) * CHECK_SHARE)
    first = (len(train) - length) // 2
    middle = slice(first, first + length)
    return train[middle] if part == "check" else np.delete(train, middle)


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
        prompt, output = np.empty((2, first[-1]), dtype=np.int64)
        try:
            for begin, end in _stretches(first):
                words = " ".join(texts[begin:end]).replace("/", " ").split()
                numbers = np.array([int(word) for word in words], dtype=np.int64)
                here = slice(first[begin], first[end])
                prompt[here], output[here] = numbers.reshape(first[end] - first[begin], 2).T
        except (ValueError, OverflowError) as error:
            raise InvalidTrace(f"the requests of a series cannot be read: {error}") from error
        found = Requests(first, prompt, output)
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


def _stretches(first: IntArray) -> list[tuple[int, int]]:
    """Rows from and to, of about `_AT_ONCE` single requests each; `first` as in `Requests`."""
    marks = np.arange(0, first[-1], _AT_ONCE)
    cuts = np.unique(np.append(np.searchsorted(first, marks, side="right") - 1, len(first) - 1))
    cuts[0] = 0
    return list(pairwise(cuts.tolist()))


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
    train_share: float = TRAIN_SHARE,
) -> Series:
    """Cut a served trace, and what a tenant holds meanwhile, into rows.

    Args:
        served: times on its own clock.
        held: tokens of the tenant in each second from `start_s` on, int64 [rows * window].
        window: W, seconds.
        start_s, stop_s: on the served clock; whole windows between them become rows.
        train_share: of that time, from its start; the reserve follows from its requests.

    Returns:
        Row t holds the requests that arrived in the window before it.

    Raises:
        InvalidTrace: no request arrived in the train part.
    """
    train_stop_s = start_s + train_share * (stop_s - start_s)
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
    return Series(
        window,
        reserve,
        batch,
        summed(prompt),
        summed(output),
        longest,
        held.reshape(rows, window),
        # Arrivals ascend, so what is inside stands in the order of rows.
        _told_of(Requests(np.append(0, np.cumsum(batch)), prompt[inside], output[inside])),
        origin,
    )


def _told_of(single: Requests) -> NDArray[np.object_]:
    """The column `requests`: what `Series.single_requests` reads."""
    told = []
    for begin, end in _stretches(single.first):
        rows = single.first[begin : end + 1]
        here = slice(rows[0], rows[-1])
        pairs = zip(
            single.prompt_tokens[here].tolist(), single.output_tokens[here].tolist(), strict=True
        )
        words = [f"{prompt}/{output}" for prompt, output in pairs]
        told += [" ".join(words[i:j]) for i, j in pairwise((rows - rows[0]).tolist())]
    return _objects(told)


def _objects(texts: list[str]) -> NDArray[np.object_]:
    return np.array(texts, dtype=object)


def write(series: Series, path: Path) -> None:
    """Write a series; the same series gives the same bytes.

    A name that ends in `.series` gives a file of blocks: larger, read in no time, and of the same
    bytes whichever library packs on this machine. Any other gives packed text.

    Raises:
        InvalidTrace: `read` would refuse it; nothing is written.
    """
    header = {
        "schema": SCHEMA,
        "window_s": series.window_s,
        "reserve_tokens": series.reserve_tokens,
        "origin": series.origin,
    }
    try:
        content = _blocks(series, header) if path.suffix == BLOCKS else _text(series, header)
        again = _of_content(content, path.suffix == BLOCKS)
        if again.requests.tolist() != series.requests.tolist():
            raise ValueError("a row's requests are no text of numbers")
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise InvalidTrace(
            f"{path} is not written, as it could not be read: {error}; keep fewer rows or no single "
            "requests"
        ) from error
    with writing.written_aside(path) as file:
        file.write(content)


def read(path: Path) -> Series:
    """Read a series.

    Raises:
        InvalidTrace: the file is no series, or damaged.
    """
    in_blocks = path.suffix == BLOCKS
    try:
        if in_blocks:
            _check_blocks(path)
        most_bytes = limits.SERIES if in_blocks else limits.PACKED
        return _of_content(incoming.bounded(path, most_bytes), in_blocks)
    except FileNotFoundError:
        raise InvalidTrace(f"{path} is not there; make it with: rapgym scenarios build") from None
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise InvalidTrace(f"{path} is no series that can be read: {error}") from error


def _of_content(content: bytes, in_blocks: bool) -> Series:
    """The series of a file's content: for who reads it, and for who is about to write it.

    Raises:
        ValueError, KeyError, TypeError, OverflowError, InvalidTrace: it is none.
    """
    if in_blocks:
        if len(content) > limits.SERIES:
            raise ValueError(f"it holds more than {incoming.size(limits.SERIES)}")
        return _of_blocks(content)
    header, pieces = headed.opened(content, limits.SERIES)
    return _of_text(header, incoming.lines(pieces, limits.SERIES_ROW, ended=True))


def _of_header(header: dict[str, Any]) -> tuple[int, int, dict[str, Any]]:
    """Window, reserve and origin.

    Raises:
        ValueError, KeyError, TypeError: it is no header of a series.
    """
    window = int(header["window_s"])
    if header["schema"] != SCHEMA or not 0 < window <= MOST_WINDOW_S:
        raise ValueError(f"its schema is not {SCHEMA}, or its window not 1 to {MOST_WINDOW_S} s")
    return window, int(header["reserve_tokens"]), dict(header["origin"])


def _text(series: Series, header: dict[str, Any]) -> bytes:
    columns = [getattr(series, name)[:, None] for name in DEMAND_COLUMNS]
    table = np.concatenate([*columns, series.tenant_tokens], axis=1)
    lines = (
        ",".join([*map(str, row), requests])
        for row, requests in zip(table.tolist(), series.requests, strict=True)
    )
    return headed.pack(header, [_names(series.window_s), *lines])


def _names(window: int) -> str:
    seconds = (f"tenant_tokens_{second}" for second in range(window))
    return ",".join([*DEMAND_COLUMNS, *seconds, "requests"])


def _of_text(header: dict[str, Any], batches: Iterator[list[str]]) -> Series:
    window, reserve, origin = _of_header(header)
    names, batches = csv_columns.first_apart(batches)
    if names != _names(window):
        raise ValueError("its columns are not the ones that its header implies")
    width, told, tables = len(DEMAND_COLUMNS) + window, list[str](), list[IntArray]()
    for lines in batches:
        parts = [line.rpartition(",") for line in lines]
        told += [part[2] for part in parts]
        if len(told) * width > limits.SERIES_CELLS:
            raise ValueError(f"it holds more than {limits.SERIES_CELLS} numbers")
        tables.append(csv_columns.integers([part[0] for part in parts], width))
    requests, table = _objects(told), np.concatenate([csv_columns.integers([], width), *tables])
    del tables, told
    batch, prompt, output, longest, *tenant = (np.ascontiguousarray(c) for c in table.T)
    held = np.stack(tenant, axis=1)
    return Series(window, reserve, batch, prompt, output, longest, held, requests, origin)


def _blocks(series: Series, header: dict[str, Any]) -> bytes:
    """A line of JSON, then whole numbers of eight bytes, column after column, then the requests.

    The last column of numbers says how long each row's text of requests is.
    """
    texts = series.requests.tolist()
    described = headed.described(header | {"rows": len(series)})
    columns = [getattr(series, name) for name in (*DEMAND_COLUMNS, "tenant_tokens")]
    numbers = [*columns, np.array([len(text) for text in texts], dtype=np.int64)]
    parts = [column.astype("<i8").tobytes() for column in numbers]
    return b"".join([f"{described}\n".encode(), *parts, "".join(texts).encode("ascii")])


def _check_blocks(path: Path) -> None:
    """Refuse a file of blocks that is not as long as it says, before it is read.

    Raises:
        OSError: it cannot be read.
        ValueError, KeyError, TypeError: it is none.
    """
    with incoming.opened(path) as file:
        first = file.readline(limits.HEADER)
        if not first.startswith(b"# ") or not first.endswith(b"\n"):
            raise ValueError("it has no header line")
        whole = os.fstat(file.fileno()).st_size
        rows, width, _ = _shape(headed.header_of(first[2:]), whole)
        ends = len(first) + 8 * rows * width
        file.seek(ends - 8 * rows)
        lengths = np.frombuffer(file.read(8 * rows), "<i8")
        if len(lengths) != rows or ends + int(lengths.sum()) != whole:
            raise ValueError("its text of requests is not as long as it says")


def _shape(
    header: dict[str, Any], whole_bytes: int
) -> tuple[int, int, tuple[int, int, dict[str, Any]]]:
    """Rows and numbers in a row of a file of blocks, and what its header says besides.

    Raises:
        ValueError, KeyError, TypeError: it cannot hold them, or they are too many.
    """
    said = _of_header(header)
    rows, width = int(header["rows"]), len(DEMAND_COLUMNS) + said[0] + 1
    if not 0 < rows <= whole_bytes // (8 * width):
        raise ValueError("it is cut short, or has no rows")
    if rows * width > limits.SERIES_CELLS:
        raise ValueError(f"it holds more than {limits.SERIES_CELLS} numbers")
    return rows, width, said


def _of_blocks(content: bytes) -> Series:
    first = content.find(b"\n") + 1
    if not content.startswith(b"# ") or not first:
        raise ValueError("it has no header line")
    header = headed.header_of(content[2:first])
    rows, width, (window, reserve, origin) = _shape(header, len(content))
    numbers = np.frombuffer(content, "<i8", rows * width, offset=first).astype(np.int64)
    demand = numbers[: rows * len(DEMAND_COLUMNS)].reshape(len(DEMAND_COLUMNS), rows)
    held = numbers[rows * len(DEMAND_COLUMNS) : -rows].reshape(rows, window).copy()
    told = content[first + 8 * rows * width :].decode("ascii")
    lengths = numbers[-rows:]
    if (lengths < 0).any() or (lengths > len(told)).any() or lengths.sum() != len(told):
        raise ValueError("its text of requests is not as long as it says")
    ends = np.cumsum(lengths)
    requests = _objects([told[i:j] for i, j in zip(ends - lengths, ends, strict=True)])
    batch, prompt, output, longest = demand.copy()
    return Series(window, reserve, batch, prompt, output, longest, held, requests, origin)
