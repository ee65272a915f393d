"""The columns of a results file, read in pieces: a line may be longer than memory should hold as text."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rapgym.arrays import IntArray
from rapgym.files import incoming, limits


@dataclass(frozen=True, slots=True)
class Keys:
    """A column of keys of kept sets: each row's place in `names`."""

    place: IntArray  # [R]
    names: tuple[str, ...]  # each once

    def part(self, rows: IntArray) -> "Keys":
        """The rows of these numbers."""
        return Keys(self.place[rows], self.names)


@dataclass(frozen=True, slots=True)
class Table:
    """Columns of as many rows, one a line: its name, then one cell a row."""

    names: Sequence[str]  # as their lines stand; int64 but for those below
    real: Sequence[str] = ()  # of columns of numbers, float64
    sets: Sequence[str] = ()  # of columns of keys, `Keys`


def read(pieces: Iterator[bytes], *tables: Table) -> tuple[dict[str, Any], ...]:
    """The columns of what follows a header: of one table behind the other.

    Raises:
        ValueError: columns are others, differ in length, hold too many rows, or a cell is none.
    """
    stretches = _stretches(pieces)
    found = tuple(_table(stretches, each) for each in tables)
    if next(stretches, None) is not None:
        raise ValueError("its columns are others: something follows the last")
    return found


def _table(stretches: Iterator[tuple[bytes, bool]], table: Table) -> dict[str, Any]:
    names, real, sets = table.names, table.real, table.sets
    found: dict[str, Any] = {}
    rows = None
    for name in names:
        seen = dict[str, int]()
        kind: Any = np.float64 if name in real else np.int64
        parts = []
        for cells in _line(stretches, name):
            if name in sets:
                _enter(cells, seen)
                parts.append(_looked_up(cells, seen))
            elif name in real:
                parts.append(np.array(cells, dtype=object).astype(kind))
            else:  # the same ones again and again
                parts.append(_looked_up(cells, {cell: int(cell) for cell in dict.fromkeys(cells)}))
        column = np.concatenate(parts) if parts else np.empty(0, kind)
        if rows not in (None, len(column)):
            raise ValueError("its columns differ in length")
        rows = len(column)
        found[name] = Keys(column, tuple(seen)) if name in sets else column
    return found


def _line(stretches: Iterator[tuple[bytes, bool]], name: str) -> Iterator[list[str]]:
    """The cells of the next line, which begins with `name`, many at a time."""
    rows, first = 0, True
    for stretch, ends in stretches:
        cells = stretch.decode().split(",")
        if first and cells.pop(0) != name:
            raise ValueError(f"its columns are others: the next is {name}")
        first = False
        rows += len(cells)
        if rows > limits.RESULT_ROWS:
            raise ValueError(f"it has more than {limits.RESULT_ROWS} rows")
        if cells:
            yield cells
        if ends:
            return
    raise ValueError(f"it is cut short: column {name} is missing, or its end")


def _stretches(pieces: Iterator[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Whole cells, as many as a piece holds of one line, and whether the line ends with them."""
    left = b""
    for piece in pieces:
        *ended, left = (left + piece).split(b"\n")
        for line in ended:
            yield line, True
        whole, comma, rest = left.rpartition(b",")
        if comma:
            yield whole, False
            left = rest
        if len(left) > limits.RESULT_CELL:
            raise ValueError(f"a cell of it is longer than {incoming.size(limits.RESULT_CELL)}")
    if left:
        raise ValueError("its last line is cut short")


def _looked_up(cells: Sequence[str], known: Mapping[str, int]) -> IntArray:
    return np.fromiter(map(known.__getitem__, cells), np.int64, len(cells))


def _enter(cells: Sequence[str], seen: dict[str, int]) -> None:
    """Give each new key its place among all that were seen, in the order in which they first came."""
    size = sum(map(len, seen))
    for cell in dict.fromkeys(cells):
        if cell not in seen:
            size += len(cell)
            if size > limits.RESULT_KEYS:
                raise ValueError(
                    f"its kept sets take more than {incoming.size(limits.RESULT_KEYS)}"
                )
            seen[cell] = len(seen)
