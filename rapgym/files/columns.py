"""Numeric columns of a CSV file; a file that is not what it should be is refused in one sentence."""

import csv
import gzip
import re
import warnings
import zlib
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rapgym.arrays import FloatArray, IntArray
from rapgym.errors import DataUnavailable, InvalidTrace

Kind = Literal["int", "float", "text"]
Columns = dict[str, NDArray[Any]]  # int64, float64 or str, all of one length

MOST_CELLS = 32_000_000  # what a text of `LIMIT_BYTES` may hold, so that memory holds it too
LIMIT_BYTES = 256 << 20  # unpacked; a larger file is not one of ours

_ROWS_AT_ONCE = 1 << 17
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")

_NUMBERS: dict[str, tuple[re.Pattern[str], str, type, type[np.generic]]] = {
    "int": (re.compile(r"-?\d{1,18}", re.ASCII), "a whole number", int, np.int64),
    "float": (re.compile(r"-?\d+(\.\d*)?([eE][-+]?\d+)?", re.ASCII), "a number", float, np.float64),
}


def text_of(path: Path, name: str) -> str:
    """The characters of a UTF-8 file, unpacked where its name ends in .gz.

    Raises:
        DataUnavailable: the file is not there or cannot be opened.
        InvalidTrace: it is damaged, larger than `LIMIT_BYTES` unpacked, or not UTF-8.
    """
    try:
        with path.open("rb") as file:
            unpacked = gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file
            content = unpacked.read(LIMIT_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InvalidTrace(f"{name}: {path} is a damaged gzip file ({error})") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise DataUnavailable(f"{name}: {path} cannot be read ({error})") from error
    if len(content) > LIMIT_BYTES:
        raise InvalidTrace(f"{name}: {path} holds more than {LIMIT_BYTES >> 20} MiB unpacked")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InvalidTrace(f"{name}: {path} is not UTF-8 text ({error.reason})") from error


def parse(text: str, name: str, kinds: Mapping[str, Kind]) -> Columns:
    """The columns that `kinds` asks for, of CSV text with one header line; others are passed over.

    Numbers are plain decimal ASCII: NaN, infinities, blanks and text are refused.

    Raises:
        InvalidTrace: a column is missing or named twice, a line has too few or too many fields, a
            field is not of its kind, or there is no row.
    """
    if text.count("\n") + text.count(",") > MOST_CELLS:
        raise InvalidTrace(f"{name} holds more than {MOST_CELLS} cells: cut it in parts")
    # A part after the other: of millions of rows, their texts would take gigabytes.
    lines = csv.reader((found[0] for found in _LINE.finditer(text)), strict=True)
    header: list[str] = []
    parts: list[Columns] = []
    done = 0
    try:
        header = next(lines, [])
        _check_header(header, name, kinds)
        while rows := list(islice(lines, _ROWS_AT_ONCE)):
            parts.append(_part(rows, header, name, kinds, done))
            done += len(rows)
    except csv.Error as error:
        raise InvalidTrace(f"{name} is not a CSV file ({error})") from error
    if not parts:
        raise InvalidTrace(f"{name} has no rows")
    return {column: np.concatenate([part[column] for part in parts]) for column in kinds}


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
                f"{name}: row {done + index + 1} has {len(row)} fields, its header {len(header)}"
            )
    cells = dict(zip(header, zip(*rows, strict=True), strict=True))
    return {
        column: _array(cells[column], name, column, kind, done) for column, kind in kinds.items()
    }


def read(path: Path, name: str, kinds: Mapping[str, Kind]) -> Columns:
    """`parse` of a file's `text_of`, with the errors of both."""
    return parse(text_of(path, name), name, kinds)


def _array(cells: tuple[str, ...], name: str, column: str, kind: Kind, done: int) -> NDArray[Any]:
    if kind == "text":
        return np.array(cells)
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
