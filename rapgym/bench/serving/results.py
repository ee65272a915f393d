"""Results of the serving world on disk: one file that can be run again, as `bench.results` has of windows.

Its header says `"world": "serving"`. What follows are columns of three tables: a row for each part of each
cell, with what its seconds came to, summed, by test columns; a row for the pieces of each cell and one for its
stretches, with percentiles over their requests; and a row for each run of seconds under one decision, from
which all of that follows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from rapgym.arrays import FloatArray, IntArray
from rapgym.bench import result_columns
from rapgym.bench.results import DECIMALS, LONGEST_NAME, SERVING, content_of
from rapgym.bench.serving.cells import ServeCell
from rapgym.bench.serving.records import ServeAbout, ServeScore
from rapgym.errors import InvalidResult, RapgymError
from rapgym.files import headed, incoming, limits, writing
from rapgym.rollout.serving import Course, Served
from rapgym.serving import batch, latency
from rapgym.serving.latency import Waits
from rapgym.serving.world import Part
from rapgym.world.shield import Reason

SCHEMA = 2
PLACES = ("cell", "stretch", "span", "start_s", "seconds")  # which part of which cell
PARTS = (*PLACES, *batch.COLUMNS, *latency.COUNTED)
WAITS = ("waits_cell", "waits_stretch", *latency.PERCENTILES)  # which of the two of which cell
RUNS = ("run_part", "run_seconds", "run_attention", "run_ffn", "run_on_fall", "run_source")
MOST_SECONDS = 1 << 26  # of all parts together: decisions of each are held while it is replayed
MOST_COUNT = 1 << 12  # blocks of a kind


@dataclass(frozen=True, slots=True)
class ServeResults:
    """A results file of the serving world."""

    header: dict[str, Any]  # what it depends on, when and with what it was made
    cells: tuple[ServeCell, ...]
    scores: tuple[ServeScore, ...] = ()  # what its rows give; empty where not computed

    def of(self, scenario: str) -> list[ServeCell]:
        """The cells of one scenario id, in the order in which they were run."""
        return [cell for cell in self.cells if cell.about.scenario == scenario]


def is_serving(path: Path) -> bool:
    """Whether a file begins as results of the serving world do."""
    try:
        header, _ = headed.opened(incoming.bounded(path, limits.PACKED), limits.RESULTS)
    except (OSError, ValueError):
        return False
    return header.get("world") == SERVING


def write(path: Path, results: ServeResults) -> None:
    """Write results, complete or not at all."""
    header = {
        **results.header,
        "world": SERVING,
        "schema": SCHEMA,
        "cells": [cell.about.as_json() for cell in results.cells],
    }
    if results.scores:
        header["entries"] = [score.as_json() for score in results.scores]
    with writing.written_aside(path) as file:
        file.write(headed.pack(header, _lines(results.cells), xz=path.suffix == ".xz"))


def _lines(cells: Sequence[ServeCell]) -> Iterator[str]:
    """All three tables, a line a column."""
    places, records = list[tuple[int, ...]](), list[FloatArray]()
    waits, of_whole = list[Waits](), list[tuple[int, int]]()
    for number, cell in enumerate(cells):
        for served in cell.served:
            stretch = int(served is cell.stretches)
            places += [(number, stretch, p.span, p.start_s, p.seconds) for p in served.parts]
            records.append(served.record)
            assert served.waits is not None
            waits.append(served.waits)
            of_whole.append((number, stretch))
    where, record = np.array(places), np.concatenate(records)
    for column, name in enumerate(PLACES):
        yield f"{name},{','.join(map(str, where[:, column].tolist()))}"
    for column, name in enumerate(batch.COLUMNS):
        values = rounded(record[:, column])
        told = values.astype(np.int64).tolist() if name in batch.WHOLE else values.tolist()
        yield f"{name},{','.join(map(repr, told))}"
    counts = np.concatenate([each.counts for each in waits]).astype(np.int64)
    for column, name in enumerate(latency.COUNTED):
        yield f"{name},{','.join(map(str, counts[:, column].tolist()))}"
    for column, name in enumerate(WAITS[:2]):
        yield f"{name},{','.join(str(place[column]) for place in of_whole)}"
    percentiles = rounded(np.stack([each.percentiles for each in waits]))
    for column, name in enumerate(latency.PERCENTILES):
        yield f"{name},{','.join(map(repr, percentiles[:, column].tolist()))}"
    courses = [course for cell in cells for course in cell.courses]
    of_part = np.repeat(np.arange(len(courses)), [len(each.lengths) for each in courses])
    runs = np.column_stack([
        of_part,
        np.concatenate([each.lengths for each in courses]),
        np.concatenate([each.decisions for each in courses]),
        np.concatenate([each.source for each in courses]),
    ])  # fmt: skip
    for column, name in enumerate(RUNS):
        yield f"{name},{','.join(map(str, runs[:, column].tolist()))}"


def rounded(values: FloatArray) -> FloatArray:
    """As values are stored: to the last digit; -0.0 as 0.0."""
    found: FloatArray = np.round(values, DECIMALS) + 0.0
    return found


def read(path: Path) -> ServeResults:
    """Read results.

    Raises:
        InvalidResult: the file is not there, damaged, or no results file of the serving world.
    """
    return parsed(content_of(path, "rapgym bench --scenario serve-chat-gqa"), str(path))


def parsed(content: bytes, name: str) -> ServeResults:
    """The results that a file's bytes hold; raises as `read`."""
    try:
        header, pieces = headed.opened(content, limits.RESULTS)
        if header.pop("world", None) != SERVING or header.pop("schema", None) != SCHEMA:
            raise ValueError(
                "it is of another world, or of another edition of rapgym; run it again"
            )
        abouts = [ServeAbout.from_json(each) for each in header.pop("cells")]
        scores = tuple(ServeScore.from_json(each) for each in header.pop("entries", []))
        for about in abouts:
            _check_names(about)
        measures = result_columns.Table(PARTS, batch.MEASURES)
        waits = result_columns.Table(WAITS, latency.PERCENTILES)
        tables = result_columns.read(pieces, measures, waits, result_columns.Table(RUNS))
        return ServeResults(header, tuple(_cells(abouts, *tables)), scores)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RapgymError) as error:
        raise InvalidResult(f"{name} is no results file that can be read: {error}") from error


def single(path: Path) -> ServeCell:
    """The cell of a file that holds one; raises as `read`."""
    found = read(path)
    if len(found.cells) != 1:
        raise InvalidResult(f"{path} holds {len(found.cells)} cells, not one")
    return found.cells[0]


def _check_names(about: ServeAbout) -> None:
    """Names reach terminals and pages: they are not taken on trust."""
    for name, text in (("scenario", about.scenario), ("policy", about.policy)):
        if not 0 < len(text) <= LONGEST_NAME or not text.isprintable():
            raise ValueError(
                f"{name} of a cell is no name of 1 to {LONGEST_NAME} printable characters"
            )


def _cells(
    abouts: Sequence[ServeAbout], parts: dict[str, Any], waits: dict[str, Any], runs: dict[str, Any]
) -> Iterator[ServeCell]:
    whose, stretch, seconds = parts["cell"], parts["stretch"], parts["seconds"]
    if not len(abouts) or not np.array_equal(np.unique(whose), np.arange(len(abouts))):
        raise ValueError("it has no cells, or rows of a cell that there is not")
    if not np.isin(stretch, (0, 1)).all() or (np.diff(2 * whose + stretch) < 0).any():
        raise ValueError("its rows are not in the order of cell, piece and stretch")
    if min(seconds.min(), parts["start_s"].min(), parts["span"].min()) < 0 or not seconds.all():
        raise ValueError("a part of it lasts no second, or begins before its split")
    if seconds.max() > MOST_SECONDS or seconds.sum() > MOST_SECONDS:
        raise ValueError(f"its parts last more than {MOST_SECONDS} s together")
    for name in batch.MEASURES:
        if not np.isfinite(parts[name]).all():
            raise ValueError(f"{name} of a part is no number")
    courses, percentiles = _courses(runs, seconds), _percentiles(waits, whose, stretch)
    record, counts = (
        np.column_stack([np.asarray(parts[name], np.float64) for name in names])
        for names in (batch.COLUMNS, latency.COUNTED)
    )
    for number, about in enumerate(abouts):
        served = list[Served | None]()
        for kind in (0, 1):
            rows = np.flatnonzero((whose == number) & (stretch == kind))
            if not len(rows):
                served.append(None)
                continue
            where = zip(*(parts[name][rows].tolist() for name in PLACES[2:]), strict=True)
            told = Waits(counts[rows], percentiles[number, kind])
            served.append(Served(tuple(Part(*place) for place in where), record[rows], told))
        mine = np.flatnonzero(whose == number).tolist()
        yield ServeCell(about, served[0], served[1], tuple(courses[row] for row in mine))


def _percentiles(
    waits: dict[str, Any], whose: IntArray, stretch: IntArray
) -> dict[tuple[int, int], FloatArray]:
    """Of the pieces and of the stretches of each cell that has them."""
    told = list(zip(waits["waits_cell"].tolist(), waits["waits_stretch"].tolist(), strict=True))
    if told != sorted({*zip(whose.tolist(), stretch.tolist(), strict=True)}):
        raise ValueError("its percentiles are of other cells than its parts")
    values = np.column_stack([waits[name] for name in latency.PERCENTILES])
    if np.isinf(values).any() or (values < 0).any():
        raise ValueError("a percentile of it is no time")
    return dict(zip(told, values, strict=True))


def _courses(runs: dict[str, IntArray], seconds: IntArray) -> list[Course]:
    """Of each part; each as long as it is."""
    of_part, lengths = runs["run_part"], runs["run_seconds"]
    if (np.diff(of_part) < 0).any() or of_part.min() < 0 or of_part.max() >= len(seconds):
        raise ValueError("its decisions are not in the order of its parts")
    decisions = np.column_stack([runs[name] for name in RUNS[2:5]])
    if lengths.min() < 1 or lengths.max() > MOST_SECONDS:
        raise ValueError("a decision of it stands for no second, or for too many")
    if decisions.min() < 0 or decisions.max() > MOST_COUNT:
        raise ValueError("a decision of it drops fewer than no blocks, or more than there are")
    if not np.isin(runs["run_source"], [int(reason) for reason in Reason]).all():
        raise ValueError("a decision names a source that there is not")
    if not np.array_equal(np.bincount(of_part, lengths, len(seconds)).astype(np.int64), seconds):
        raise ValueError("its decisions do not stand for as many seconds as its parts have")
    ends = np.searchsorted(of_part, np.arange(len(seconds) + 1))
    return [
        Course(lengths[a:b].copy(), decisions[a:b].copy(), runs["run_source"][a:b].copy())
        for a, b in pairwise(ends.tolist())
    ]
