"""Two results files row by row: the same decisions, and bytes and nats within tolerances.

For a file of the simulated world against one of a device, or against the simulated world elsewhere.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from rapgym.arrays import BoolArray, IntArray
from rapgym.bench import results
from rapgym.bench.results import Cell, Results

EXACT = ("proposal", "source", "kept", "kept_end", "reason", "limit_bytes", "output_tokens")
NATS = ("nll", "quality", "stall", "emergency", "refused")


@dataclass(frozen=True, slots=True)
class Tolerances:
    """Up to where two rows agree."""

    bytes: float = 0.02  # share of the first file's
    nats: float = 0.02  # an output token


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two files share, and where they differ."""

    rows: int  # that both hold
    differences: tuple[str, ...]


def compared(one: Results, other: Results, within: Tolerances) -> Comparison:
    """Match cells by scenario, policy and seed, rows by demand and tenant, and compare both.

    Rows that only one file holds are no difference, as a device may have served a part.
    """
    numbers = results.row_numbers(one.cells), results.row_numbers(other.cells)
    theirs = {_name(cell): i for i, cell in enumerate(other.cells)}
    rows, found = 0, list[str]()
    for i, cell in enumerate(one.cells):
        match = theirs.get(_name(cell))
        if match is None:
            continue
        pairs = _shared(cell, other.cells[match])
        rows += len(pairs[0])
        found += _differences(
            (cell, other.cells[match]), pairs, (numbers[0][i], numbers[1][match]), within
        )
    if not rows:
        found.append("the files share no row: no policy of one served a row of the other")
    return Comparison(rows, tuple(found))


def _name(cell: Cell) -> tuple[str, str, int]:
    return cell.about.scenario, cell.about.policy, cell.about.seed


def _shared(one: Cell, other: Cell) -> tuple[IntArray, IntArray]:
    """Places of rows that serve the same demand beside the same tenant, flat, in both cells."""

    def places(cell: Cell) -> dict[tuple[int, int], int]:
        keys = zip(cell.log.row.ravel().tolist(), cell.log.limit_row.ravel().tolist(), strict=True)
        return {key: place for place, key in enumerate(keys)}

    here, there = places(one), places(other)
    both = [(here[key], there[key]) for key in here if key in there]
    ours, theirs = np.array(both, dtype=np.int64).reshape(-1, 2).T
    return ours, theirs


def _differences(
    cells: tuple[Cell, Cell],
    places: tuple[IntArray, IntArray],
    numbers: tuple[IntArray, IntArray],
    within: Tolerances,
) -> Iterator[str]:
    about = cells[0].about
    for column in (*EXACT, "used_bytes", *NATS):
        a, b = (_flat(cell, column)[at] for cell, at in zip(cells, places, strict=True))
        if column in EXACT:
            differs: BoolArray = (a != b).any(axis=-1) if a.ndim > 1 else a != b
        elif column == "used_bytes":
            differs = np.abs(a - b) > within.bytes * np.maximum(np.abs(a), 1)
        else:
            differs = ~(np.abs(a - b) <= within.nats)
        if not differs.any():
            continue
        first = int(np.flatnonzero(differs)[0])
        where = [
            int(number.ravel()[at[first]]) + 1 for number, at in zip(numbers, places, strict=True)
        ]
        row, tenant = (int(getattr(cells[0].log, name).ravel()[places[0][first]])
                       for name in ("row", "limit_row"))  # fmt: skip
        yield (
            f"column {column}, {about.policy} on {about.scenario}, row {row} beside tenant "
            f"row {tenant}: entry {where[0]} {_said(a[first])}, against entry {where[1]} "
            f"{_said(b[first])} ({int(differs.sum())} of {len(a)} rows differ in this column)"
        )


def _flat(cell: Cell, column: str) -> Any:
    values = getattr(cell.log, column)
    return values.reshape(-1, *values.shape[2:])


def _said(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"drops {np.flatnonzero(~value).tolist()}"
    return f"has {value.item()}"
