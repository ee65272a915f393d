"""A twin's states and drawn rows, in bytes and tokens of the measured model."""

from dataclasses import dataclass

import numpy as np

from rapgym.arrays import IntArray
from rapgym.model.shapes import model_spec
from rapgym.scenarios import scales, tables
from rapgym.studies.causal.twin import Drawn, Twin
from rapgym.workload import series
from rapgym.world.records import Rows


@dataclass(frozen=True, slots=True, eq=False)
class States:
    """What the world is like in each state of a twin."""

    limit_bytes: IntArray  # of each state of the tenant, [S]
    demand: Rows  # a row for each state of demand; its limits and outputs say nothing, [R]


def states(twin: Twin) -> States:
    """As `worlds.rows` makes them of a series (tests/test_causal_benchmark.py compares)."""
    story, measured = twin.story, model_spec(tables.table(twin.story).model)
    scale = scales.scales(story, measured)
    limit = scales.limit_bytes(story, twin.held) * float(scale.bytes)
    limit_bytes = np.floor(scales.limit_scaled(story, measured, limit)).astype(np.int64)

    def tokens(served: IntArray) -> IntArray:
        return np.rint(served * float(scale.tokens) * story.length_share).astype(np.int64)

    batch, prompt, longest = twin.asked.T.copy()
    return States(
        limit_bytes,
        Rows(
            batch=batch,
            prompt_tokens=tokens(prompt),
            reserved_tokens=tokens(batch * twin.reserve_tokens),
            longest_tokens=tokens(longest + np.where(batch > 0, twin.reserve_tokens, 0)),
            output_tokens=np.zeros_like(batch),
            limit_bytes=np.zeros((len(batch), story.window_s), dtype=np.int64),
        ),
    )


def part(drawn: Drawn, split: str) -> Drawn:
    """The rows of one split of a drawn stretch."""
    rows = series.split_rows(len(drawn.row), split)
    return Drawn(drawn.rows.part(rows), drawn.second[rows], drawn.row[rows])
