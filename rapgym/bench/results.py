"""Results on disk: what was run, and every row of it, in one file that can be run again.

Each line after the header is a column: its name, then one entry a row. Rows stand in the order of
scenario, pairing, step and cell, so that policies that agree stand side by side: a third of the
bytes of a line a row. `rapgym.read_results` gives them as a pandas frame.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rapgym import heldout
from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.bench import result_columns
from rapgym.bench.records import About, Score
from rapgym.errors import InvalidResult, RapgymError
from rapgym.files import headed, incoming, limits, writing
from rapgym.model import blocks
from rapgym.quality.header import MAX_BLOCKS
from rapgym.rollout.log import EpisodeLog
from rapgym.world.shield import Reason

if TYPE_CHECKING:
    import pandas

SCHEMA = 3
SERVING = "serving"  # what a file of the serving world says of itself, see `bench.serving.results`
SETS = ("proposal", "kept", "kept_end")
WHOLE = ("row", "limit_row", "source", "reason", "limit_bytes", "used_bytes", "output_tokens")
COSTS = ("nll", "quality", "stall", "emergency", "refused", "test_nll", "test_quality")
FLAGS = ("measured", "test_measured")
COLUMNS = ("cell", "lane", "step", *WHOLE, *SETS, *FLAGS, *COSTS)
LONGEST_NAME = 4096  # characters: a scenario on a user's own traces names their files
# Drops blocks in no order. Even so it profits from calibration: what may go at all, and the shield's
# order where an emergency cuts, follow from the greedy orders.
UNORDERED = "random"
DECIMALS = 9  # of a stored cost: far below any error, and stable across processors


@dataclass(frozen=True, slots=True)
class Cell:
    """One policy with one seed on one scenario: what describes it, and its rows."""

    about: About
    log: EpisodeLog  # with calibration columns
    test_nll: FloatArray  # with test columns, as the scorer sees the same rows, [T, K]
    test_measured: BoolArray  # [T, K]
    test_quality: FloatArray  # [T, K]

    @property
    def test_cost(self) -> FloatArray:
        """Mean cost of each row with test columns, [T, K]: what scores are made of."""
        return self.test_quality + self.log.stall + self.log.emergency + self.log.refused


@dataclass(frozen=True, slots=True)
class Results:
    """A results file."""

    header: dict[str, Any]  # what it depends on, when and with what it was made, rankings
    cells: tuple[Cell, ...]
    scores: tuple[Score, ...] = ()  # what its rows give; empty where not computed

    def of(self, scenario: str) -> list[Cell]:
        """The cells of one scenario id, in the order in which they were run."""
        return [cell for cell in self.cells if cell.about.scenario == scenario]


def row_numbers(cells: Sequence[Cell]) -> list[IntArray]:
    """Where each row of each cell stands in a results file, from 0: int64 [T, K] a cell.

    Raises:
        InvalidResult: cells of one scenario differ in their rows or pairings.
    """
    numbers: list[IntArray] = [np.empty(0, dtype=np.int64)] * len(cells)
    before = 0
    for members in _by_scenario(cells).values():
        shapes = {cells[i].log.row.shape for i in members}
        if len(shapes) != 1:
            raise InvalidResult(
                f"cells of {cells[members[0]].about.scenario} differ in rows or pairings"
            )
        rows, lanes = shapes.pop()
        place = np.arange(lanes * rows * len(members)).reshape(lanes, rows, len(members)) + before
        for rank, i in enumerate(members):
            numbers[i] = place[:, :, rank].T
        before += place.size
    return numbers


def _by_scenario(cells: Sequence[Cell]) -> dict[str, list[int]]:
    members: dict[str, list[int]] = {}
    for i, cell in enumerate(cells):
        members.setdefault(cell.about.scenario, []).append(i)
    return members


def _lines(cells: Sequence[Cell]) -> Iterator[str]:
    """The file's columns as lines."""
    numbers = row_numbers(cells)
    total = sum(place.size for place in numbers)

    def line(name: str, parts: Sequence[Any], text: Any) -> str:
        column = np.empty(total, dtype=object)
        for place, part in zip(numbers, parts, strict=True):
            column[place.ravel()] = text(part)
        return f"{name},{','.join(column)}"

    shapes = [cell.log.row.shape for cell in cells]
    yield line("cell", [np.full(shape, i) for i, shape in enumerate(shapes)], _integers)
    yield line("lane", [np.broadcast_to(np.arange(k), (t, k)) for t, k in shapes], _integers)
    yield line(
        "step", [np.broadcast_to(np.arange(t)[:, None], (t, k)) for t, k in shapes], _integers
    )
    for name in COLUMNS[3:]:
        parts = [getattr(cell if name.startswith("test_") else cell.log, name) for cell in cells]
        yield line(name, parts, _keys if name in SETS else _costs if name in COSTS else _integers)


def _integers(column: IntArray) -> NDArray[np.object_]:
    return _texts(column.astype(np.int64))


def _costs(column: FloatArray) -> NDArray[np.object_]:
    # Adding zero turns -0.0 into 0.0: the same bytes for the same cost.
    return _texts(np.round(column, DECIMALS) + 0.0)


def _texts(numbers: NDArray[Any]) -> NDArray[np.object_]:
    """Numbers as Python writes them, each that is there several times once."""
    found, place = np.unique(numbers, return_inverse=True)
    return np.array([*map(repr, found.tolist())], dtype=object)[place.ravel()]


def _keys(sets: BoolArray) -> NDArray[np.object_]:
    flat = sets.reshape(-1, sets.shape[-1])
    _, first, inverse = np.unique(
        blocks.packed(flat), axis=0, return_index=True, return_inverse=True
    )
    return np.array([blocks.key(flat[i]) for i in first], dtype=object)[inverse.ravel()]


def write(path: Path, results: Results, *, level: int = 9) -> None:
    """Write results, complete or not at all; `level` as `headed.pack` has it."""
    with writing.written_aside(path) as file:
        file.write(packed(results, xz=path.suffix == ".xz", level=level))


def packed(results: Results, *, xz: bool, level: int = 9) -> bytes:
    """The bytes of a results file, as xz or as gzip."""
    header = {
        "schema": SCHEMA,
        **results.header,
        "cells": [cell.about.as_json() for cell in results.cells],
    }
    if results.scores:
        header["entries"] = [score.as_json() for score in results.scores]
    return headed.pack(header, _lines(results.cells), xz=xz, level=level)


def read(path: Path) -> Results:
    """Read results.

    Raises:
        InvalidResult: the file is not there, damaged, or no results file.
    """
    return parsed(content_of(path, "rapgym bench"), str(path))


def read_scores(path: Path) -> Results:
    """What a results file says in its first line: what was run and what it scored, and no cells.

    Raises:
        InvalidResult: as `read`.
    """
    try:
        header, _ = headed.opened(content_of(path, "rapgym bench"), limits.RESULTS)
        scores = tuple(Score.from_json(each) for each in header.pop("entries", []))
    except (ValueError, TypeError, RapgymError) as error:
        raise InvalidResult(f"{path} is no results file that can be read: {error}") from error
    return Results(header, (), scores)


def content_of(path: Path, command: str) -> bytes:
    """The bytes of a results file.

    Args:
        command: that makes it, without --out.

    Raises:
        InvalidResult: it is not there, too large, or cannot be read.
    """
    try:
        return incoming.bounded(path, limits.PACKED)
    except FileNotFoundError:
        raise InvalidResult(f"{path} is not there; make it with: {command} --out {path}") from None
    except (OSError, ValueError) as error:
        raise InvalidResult(f"{path} is no results file that can be read: {error}") from error


def parsed(content: bytes, name: str) -> Results:
    """The results that a file's bytes hold.

    Args:
        name: of the file, for messages.

    Raises:
        InvalidResult: they are damaged, or no results file.
    """
    try:
        header, pieces = headed.opened(content, limits.RESULTS)
        if header.get("world") == SERVING:
            raise ValueError(
                "it is of the serving world, which is replayed second by second: rapgym verify reads it"
            )
        if header.get("schema") != SCHEMA:
            raise ValueError(
                "it was written by an earlier edition of rapgym, or is of another make; run again: "
                "rapgym bench"
            )
        abouts = [About.from_json(each) for each in header.pop("cells")]
        scores = tuple(Score.from_json(each) for each in header.pop("entries", []))
        if any(type(header[name]) is not dict for name in ("scenarios", "tables", "workloads")):
            raise ValueError("its header does not say what was run")
        del header["schema"]
        table = result_columns.Table(COLUMNS, COSTS, SETS)
        (columns,) = result_columns.read(pieces, table)
        order = np.argsort(columns["cell"], kind="stable")
        ends = np.searchsorted(columns["cell"][order], np.arange(len(abouts) + 1))
        if not len(abouts) or ends[0] != 0 or ends[-1] != len(order):
            raise ValueError("it has no cells, or rows of a cell that there is not")
        cells = tuple(
            _cell(
                about, {name: _part(column, order[start:stop]) for name, column in columns.items()}
            )
            for about, start, stop in zip(abouts, ends, ends[1:], strict=False)
        )
        for i, place in enumerate(row_numbers(cells)):
            if (order[ends[i] : ends[i + 1]] != place.T.ravel()).any():
                raise ValueError(
                    "its rows are not in the order of scenario, pairing, step and cell"
                )
        return Results(header, cells, scores)
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        RapgymError,
    ) as error:
        raise InvalidResult(f"{name} is no results file that can be read: {error}") from error


def read_results(path: Path | str) -> "pandas.DataFrame":
    """The rows of a results file as a pandas frame: one a row of the split, pairing, policy and seed.

    Args:
        path: of a file that `rapgym bench` or `run_bench` wrote.

    Returns:
        A frame, ordered by cell, pairing and step. Costs are nats an output token above dense, means
        over the seconds of a row:

        - `scenario`, `policy`, `kind` (static, reactive, heuristic, learned, bound, rival), `seed`:
          whose row it is.
        - `pairing`: which pairing of demand with the tenant, from 0; `step`: from 0, in the order served.
        - `row`, `limit_row`: of the split, whose demand and whose memory limit it met.
        - `limit_bytes`, `used_bytes`: in the row's first second, bytes.
        - `output_tokens`: the row's weight in a mean.
        - `proposal`, `kept`, `kept_end`: keys of the sets that were proposed, executed, and in memory
          at the row's end, as `read_table` names them.
        - `source`: whose proposal it was; `reason`: why `kept` was executed ("policy", "repaired",
          "fallback", "emergency", "watchdog", "override", "refused").
        - `nll`: of `kept`, nats a token; `measured`: whether it has a row in the table.
        - `quality`, `stall`, `emergency`, `refused`: the four terms of the cost; `cost`: their sum.
          All by calibration columns.
        - `test_nll`, `test_measured`, `test_quality`, `test_cost`: the same by test columns, which
          scores are made of.

        The reported cost of a policy is the mean of `test_cost`, weighted by `output_tokens`.

    Raises:
        InvalidResult: the file is not there, damaged, or no results file. Whether it holds is what
            `verify_results` says.
        HeldOut: training asks.

    Example:
        >>> frame = rapgym.read_results(results)
        >>> paid = (frame.test_cost * frame.output_tokens).groupby(frame.policy, observed=True).sum()
        >>> paid.idxmin()
        'bound'
    """
    heldout.check(heldout.COLUMNS)
    return frame(read(Path(path)).cells)


def frame(cells: Sequence[Cell]) -> "pandas.DataFrame":
    """The rows of some cells as `read_results` gives them."""
    import pandas

    reasons = [reason.name.lower() for reason in Reason]
    columns: dict[str, list[Any]] = {}
    for cell in cells:
        rows, pairings = cell.log.row.shape
        whose = {
            "pairing": np.broadcast_to(np.arange(pairings), (rows, pairings)),
            "step": np.broadcast_to(np.arange(rows)[:, None], (rows, pairings)),
        }
        for name, column in {**whose, **_rows_of(cell)}.items():
            columns.setdefault(name, []).append(np.swapaxes(column, 0, 1))
    found = pandas.DataFrame(
        {
            name: [key for part in parts for key in _keys(part)]
            if name in SETS
            else np.concatenate([part.ravel() for part in parts])
            for name, parts in columns.items()
        }
    )
    for name in SETS:
        found[name] = found[name].astype("category")
    for name in ("source", "reason"):
        found[name] = pandas.Categorical.from_codes(found[name], reasons)
    sizes = [cell.log.row.size for cell in cells]
    for place, name in enumerate(("scenario", "policy", "kind", "seed")):
        values = pandas.Series([getattr(cell.about, name) for cell in cells])
        kept = values.astype("Int64" if name == "seed" else "category")
        found.insert(place, name, kept.repeat(sizes).reset_index(drop=True))
    return found


def _rows_of(cell: Cell) -> dict[str, Any]:
    """The columns of a cell's rows in the order of `read_results`, [T, K] or [T, K, N]."""
    log = cell.log
    names = ("row", "limit_row", "limit_bytes", "used_bytes", "output_tokens", *SETS)
    terms = ("quality", "stall", "emergency", "refused")
    told = (*names, "source", "reason", "nll", "measured", *terms, "cost")
    judged = ("test_nll", "test_measured", "test_quality", "test_cost")
    return {name: getattr(log, name) for name in told} | {
        name: getattr(cell, name) for name in judged
    }


def _part(column: Any, rows: IntArray) -> Any:
    return column.part(rows) if isinstance(column, result_columns.Keys) else column[rows]


def _cell(about: About, columns: dict[str, Any]) -> Cell:
    _check_about(about)
    n, lane, step = about.blocks, columns["lane"], columns["step"]
    if not len(lane):
        raise ValueError(f"no rows of {about.policy} on {about.scenario}")
    rows, lanes = int(step.max()) + 1, int(lane.max()) + 1
    if rows * lanes != len(lane) or (lane * rows + step != np.arange(len(lane))).any():
        raise ValueError(f"rows of {about.policy} are missing, doubled or out of order")

    def shaped(name: str) -> Any:
        column = columns[name].reshape(lanes, rows).T.copy()
        return column == 1 if name in FLAGS else column

    def sets(name: str) -> BoolArray:
        names = columns[name].names
        used, inverse = np.unique(columns[name].place, return_inverse=True)
        known = np.stack([blocks.kept_of(names[place], n) for place in used.tolist()])
        return known[inverse].reshape(lanes, rows, n).transpose(1, 0, 2).copy()

    for name in COSTS:
        if not np.isfinite(columns[name]).all():
            raise ValueError(f"{name} of a row is no number")
    if not set(np.unique([columns["source"], columns["reason"]])) <= set(Reason):
        raise ValueError("a row names a reason that there is not")
    told: dict[str, Any] = {name: shaped(name) for name in (*WHOLE, *FLAGS, *COSTS)}
    told |= {name: sets(name) for name in SETS}
    judged: dict[str, Any] = {name: told.pop(name) for name in [*told] if name.startswith("test_")}
    return Cell(about, EpisodeLog(**told), **judged)


def _check_about(about: About) -> None:
    """Names reach terminals and pages, the number of blocks an allocation: neither is taken on trust.

    Raises:
        ValueError: what describes a cell is not what this module writes.
    """
    for name, text in (("scenario", about.scenario), ("policy", about.policy)):
        if not 0 < len(text) <= LONGEST_NAME or not text.isprintable():
            raise ValueError(
                f"{name} of a cell is no name of 1 to {LONGEST_NAME} printable characters"
            )
    if not 2 <= about.blocks <= MAX_BLOCKS:
        raise ValueError(f"blocks of a cell is no number from 2 to {MAX_BLOCKS}")


def most_served(found: Results, count: int) -> list[str]:
    """Keys of the kept sets that served most output tokens, over all policies but random ones.

    Oracles and rivals do not count. Sets in memory at the start and at the end of a row count alike.
    """
    served: dict[str, int] = {}
    for cell in found.cells:
        if not cell.about.decides or cell.about.policy == UNORDERED:
            continue
        for sets in (cell.log.kept, cell.log.kept_end):
            flat = blocks.packed(sets.reshape(-1, sets.shape[-1]))
            names, inverse = np.unique(flat, axis=0, return_inverse=True)
            tokens = np.bincount(inverse.ravel(), weights=cell.log.output_tokens.ravel())
            for name, total in zip(names, tokens, strict=True):
                key = blocks.key(blocks.unpacked(name, sets.shape[-1]))
                served[key] = served.get(key, 0) + int(total)
    return sorted(served, key=lambda key: (-served[key], key))[:count]
