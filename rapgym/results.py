"""Results on disk: what was run, and every row of it, in one file that can be run again."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rapgym import blocks, datafiles, headed
from rapgym.episode_log import EpisodeLog
from rapgym.errors import InvalidResult, RapgymError
from rapgym.shield import Reason
from rapgym.specs import BoolArray, FloatArray

SCHEMA = 1
COLUMNS = (
    "cell", "lane", "step", "row", "limit_row", "proposal", "source", "kept", "kept_end", "reason",
    "limit_bytes", "used_bytes", "output_tokens", "nll", "measured", "quality", "stall",
    "emergency", "refused", "test_nll", "test_measured", "test_quality",
)  # fmt: skip
DECIMALS = 9  # of a stored cost: far below any error, and stable across processors


@dataclass(frozen=True, slots=True)
class Cell:
    """One policy with one seed on one scenario: what describes it, and its rows."""

    about: dict[str, Any]  # scenario, policy, kind, seed, settings, on_misfit, timings, ...
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

    header: dict[str, Any]
    cells: tuple[Cell, ...]

    def of(self, scenario: str) -> list[Cell]:
        """The cells of one scenario id, in the order in which they were run."""
        return [cell for cell in self.cells if cell.about["scenario"] == scenario]


def _number(value: float) -> str:
    # Rounding -0.0 away keeps the same bytes for the same cost.
    return repr(round(float(value), DECIMALS) + 0.0)


def _lines(index: int, cell: Cell) -> Iterator[str]:
    log, (rows, lanes) = cell.log, cell.log.row.shape
    keys = {}

    def key(kept: BoolArray) -> str:
        packed = kept.tobytes()
        if packed not in keys:
            keys[packed] = blocks.key(kept)
        return keys[packed]

    for lane in range(lanes):
        for t in range(rows):
            at = (t, lane)
            fields = [index, lane, t, log.row[at], log.limit_row[at], key(log.proposal[at]),
                      log.source[at], key(log.kept[at]), key(log.kept_end[at]), log.reason[at],
                      log.limit_bytes[at], log.used_bytes[at], log.output_tokens[at],
                      _number(log.nll[at]), int(log.measured[at]), _number(log.quality[at]),
                      _number(log.stall[at]), _number(log.emergency[at]), _number(log.refused[at]),
                      _number(cell.test_nll[at]), int(cell.test_measured[at]),
                      _number(cell.test_quality[at])]  # fmt: skip
            yield ",".join(map(str, fields))


def write(path: Path, results: Results) -> None:
    """Write results, complete or not at all."""
    header = {"schema": SCHEMA, **results.header, "cells": [cell.about for cell in results.cells]}
    lines = [line for i, cell in enumerate(results.cells) for line in _lines(i, cell)]
    with datafiles.written_aside(path) as file:
        file.write(headed.pack(header, [",".join(COLUMNS), *lines]))


def read(path: Path) -> Results:
    """Read results.

    Raises:
        InvalidResult: the file is not there, damaged, or no results file.
    """
    try:
        header, lines = headed.unpack(path.read_bytes())
        if header.get("schema") != SCHEMA or lines[0] != ",".join(COLUMNS):
            raise ValueError("it is of another schema")
        abouts = header.pop("cells")
        if any(type(header[name]) is not dict for name in ("scenarios", "tables", "workloads")):
            raise ValueError("its header does not say what was run")
        del header["schema"]
        table = [line.split(",") for line in lines[1:]]
        if any(len(row) != len(COLUMNS) for row in table):
            raise ValueError("a line has too few or too many fields")
        columns = dict(zip(COLUMNS, zip(*table, strict=True), strict=True)) if table else {}
        if not columns:
            raise ValueError("it has no rows")
        index = np.array(columns["cell"], dtype=np.int64)
        cells = tuple(
            _cell(about, {name: np.array(values)[index == i] for name, values in columns.items()})
            for i, about in enumerate(abouts)
        )
        return Results(header, cells)
    except FileNotFoundError:
        raise InvalidResult(
            f"{path} is not there; make it with: rapgym bench --out {path}"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RapgymError) as error:
        raise InvalidResult(f"{path} is no results file that can be read: {error}") from error


def _cell(about: dict[str, Any], columns: dict[str, Any]) -> Cell:
    n, lane, step = int(about["blocks"]), columns["lane"].astype(int), columns["step"].astype(int)
    if not len(lane):
        raise ValueError(f"no rows of {about.get('policy')} on {about.get('scenario')}")
    rows, lanes = int(step.max()) + 1, int(lane.max()) + 1
    if rows * lanes != len(lane) or (lane * rows + step != np.arange(len(lane))).any():
        raise ValueError(f"rows of {about['policy']} are missing, doubled or out of order")

    def shaped(name: str, kind: type) -> Any:
        return columns[name].astype(kind).reshape(lanes, rows).T.copy()

    def sets(name: str) -> BoolArray:
        known = {key: blocks.kept_of(str(key), n) for key in set(columns[name].tolist())}
        kept = np.stack([known[key] for key in columns[name].tolist()])
        return kept.reshape(lanes, rows, n).transpose(1, 0, 2).copy()

    whole = ("row", "limit_row", "source", "reason", "limit_bytes", "used_bytes", "output_tokens")
    costs = ("nll", "quality", "stall", "emergency", "refused")
    integers = {name: shaped(name, np.int64) for name in whole}
    if not set(np.unique([integers["source"], integers["reason"]])) <= set(Reason):
        raise ValueError("a row names a reason that there is not")
    log = EpisodeLog(
        **integers,
        **{name: shaped(name, np.float64) for name in costs},
        proposal=sets("proposal"),
        kept=sets("kept"),
        kept_end=sets("kept_end"),
        measured=shaped("measured", np.int64) == 1,
    )
    return Cell(
        about,
        log,
        shaped("test_nll", np.float64),
        shaped("test_measured", np.int64) == 1,
        shaped("test_quality", np.float64),
    )


def most_served(found: Results, count: int) -> list[str]:
    """Keys of the kept sets that served most output tokens, over all policies but random ones and oracles.

    Sets in memory at the start and at the end of a row count alike.
    """
    served: dict[str, int] = {}
    for cell in found.cells:
        if cell.about["kind"] == "bound" or cell.about["policy"] == "random":
            continue
        for sets in (cell.log.kept, cell.log.kept_end):
            flat = np.packbits(sets.reshape(-1, sets.shape[-1]), axis=1)
            names, inverse = np.unique(flat, axis=0, return_inverse=True)
            tokens = np.bincount(inverse.ravel(), weights=cell.log.output_tokens.ravel())
            for name, total in zip(names, tokens, strict=True):
                key = blocks.key(np.unpackbits(name)[: sets.shape[-1]].astype(bool))
                served[key] = served.get(key, 0) + int(total)
    return sorted(served, key=lambda key: (-served[key], key))[:count]
