"""Numeric columns of a CSV file; a file that is not what it should be is refused in one sentence."""

import csv
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rapgym.arrays import FloatArray, IntArray
from rapgym.errors import DataUnavailable, InvalidTrace
from rapgym.files import incoming, limits

Kind = Literal["int", "float", "text"]
Columns = dict[str, NDArray[Any]]  # int64, float64 or str objects, all of one length

_NUMBERS: dict[str, tuple[re.Pattern[str], str, type, type[np.generic]]] = {
    "int": (re.compile(r"-?\d{1,18}", re.ASCII), "a whole number", int, np.int64),
    "float": (
        re.compile(r"-?\d{1,40}(\.\d{0,40})?([eE][-+]?\d{1,4})?", re.ASCII),
        "a number",
        float,
        np.float64,
    ),
}


def lines_of(path: Path, name: str) -> Iterator[list[str]]:
    """The lines of a file of UTF-8, or of UTF-16 with its mark, many at a time, unpacked by its content.

    Raises:
        DataUnavailable: the file is not there or cannot be opened.
        InvalidTrace: it is damaged, larger than `limits.CSV` unpacked, not UTF-8, or has a line longer
            than any trace has.
    """
    try:
        with incoming.opened(path) as file:
            try:
                pieces = incoming.unpacked(file, incoming.packing_of(file), limits.CSV)
                yield from incoming.lines(incoming.utf8(pieces), limits.CSV_ROW)
            except UnicodeDecodeError as error:
                raise InvalidTrace(f"{name}: {path} is not UTF-8 text ({error.reason})") from error
            except ValueError as error:
                raise InvalidTrace(f"{name}: {path} cannot be read: {error}") from error
    except InvalidTrace:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise DataUnavailable(f"{name}: {path} cannot be read ({error})") from error


def parse(batches: Iterable[Sequence[str]], name: str, kinds: Mapping[str, Kind]) -> Columns:
    """The columns that `kinds` asks for, of CSV lines, the header first; others are passed over.

    Numbers are plain decimal ASCII: NaN, infinities, blanks and text are refused, and so are more
    digits than any number of ours has.

    Args:
        batches: of lines without their ends, as `lines_of` gives them: memory holds one at a time.

    Raises:
        InvalidTrace: a column is missing or named twice, a line has too few or too many fields, a
            field is not of its kind, or there is no row.
    """
    header: list[str] = []
    parts: dict[str, list[NDArray[Any]]] = {column: [] for column in kinds}
    done = 0
    for batch in batches:
        if not header:
            if not batch:
                continue
            (header,), batch = _fields(batch[:1], name) or [[]], batch[1:]
            _check_header(header, name, kinds)
        rows = _fields(batch, name)
        if (done + len(rows)) * len(header) > limits.CSV_CELLS:
            raise InvalidTrace(f"{name} holds more than {limits.CSV_CELLS} cells: cut it in parts")
        if rows:
            for column, array in _part(rows, header, name, kinds, done).items():
                parts[column].append(array)
            done += len(rows)
    if not header:
        _check_header(header, name, kinds)
    if not done:
        raise InvalidTrace(f"{name} has no rows")
    # A column after the other, so that no more than one is held twice.
    return {column: np.concatenate(parts.pop(column)) for column in kinds}


def _fields(batch: Sequence[str], name: str) -> list[list[str]]:
    try:
        if '"' not in "".join(batch):
            return list(csv.reader(batch, strict=True))
        # Each line alone, so that a quote takes in no line after it.
        return [next(csv.reader([line], strict=True), []) for line in batch]
    except csv.Error as error:
        raise InvalidTrace(f"{name} is not a CSV file ({error})") from error


def _check_header(header: list[str], name: str, kinds: Mapping[str, Kind]) -> None:
    for column in kinds:
        if header.count(column) != 1:
            fault = "two columns" if column in header else "no column"
            raise InvalidTrace(f"{name} has {fault} {column!r}; it needs {', '.join(kinds)}")


def _part(
    rows: list[list[str]], header: list[str], name: str, kinds: Mapping[str, Kind], done: int
) -> Columns:
    """The columns of some rows, `done` of which came before them."""
    for index, row in enumerate(rows):
        if len(row) != len(header):
            raise InvalidTrace(
                f"{name}: row {done + index + 1} has {len(row)} fields, its header {len(header)} (a decimal "
                "comma makes two of one)"
            )
    cells = dict(zip(header, zip(*rows, strict=True), strict=True))
    return {
        column: _array(cells[column], name, column, kind, done) for column, kind in kinds.items()
    }


def read(path: Path, name: str, kinds: Mapping[str, Kind]) -> Columns:
    """`parse` of a file's `lines_of`, with the errors of both."""
    return parse(lines_of(path, name), name, kinds)


def first_apart(batches: Iterator[list[str]]) -> tuple[str, Iterator[list[str]]]:
    """The first line, and the batches of what follows it."""
    batch = next(filter(None, batches), [""])
    return batch[0], chain([batch[1:]], batches)


def _array(cells: tuple[str, ...], name: str, column: str, kind: Kind, done: int) -> NDArray[Any]:
    if kind == "text":
        return np.array(cells, dtype=object)  # of fixed width, the longest would set that of all
    pattern, meaning, number, dtype = _NUMBERS[kind]
    if not all(map(pattern.fullmatch, cells)):
        index = next(i for i, cell in enumerate(cells) if not pattern.fullmatch(cell))
        raise InvalidTrace(
            f"{name}: row {done + index + 1} of column {column!r} is not {meaning}: {cells[index][:40]!r}"
        )
    array: NDArray[Any] = np.array(list(map(number, cells)), dtype=dtype)
    if not np.isfinite(array).all():
        raise InvalidTrace(f"{name}: column {column!r} holds a number too large to represent")
    return array


def floats(lines: Sequence[str], width: int) -> FloatArray:
    """What lines of `width` cells between commas hold, float64 [len(lines), width]; NaN where one is empty.

    All at once and without pandas, whose import takes longer than reading any of our files does.

    Raises:
        ValueError: a cell holds something else, or a line has more or fewer cells.
    """
    text = "\n".join(["", *lines, ""])
    # Twice: of two empty cells beside each other, one search finds the first alone.
    text = text.replace(",,", ",nan,").replace(",,", ",nan,")
    text = text.replace("\n,", "\nnan,").replace(",\n", ",nan\n")
    return _block(text.split("\n")[1:-1], width, np.float64)


def integers(lines: Sequence[str], width: int) -> IntArray:
    """The same of whole numbers, int64 [len(lines), width]; an empty cell is none."""
    return _block(lines, width, np.int64)


def _block(lines: Sequence[str], width: int, dtype: type[np.generic]) -> NDArray[Any]:
    if not lines:
        return np.empty((0, width), dtype)
    with warnings.catch_warnings():
        # NumPy before 2.4 warns where it takes 0.5 for a whole number.
        warnings.simplefilter("error")
        try:
            found = np.loadtxt(lines, dtype, delimiter=",", comments=None, ndmin=2)
        except (ValueError, Warning) as error:
            raise ValueError(str(error)[:120]) from None
    if found.shape != (len(lines), width):
        raise ValueError(f"a line has another number of cells than {width}")
    return found
