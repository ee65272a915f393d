"""A twin's states and drawn rows, in bytes and tokens of the served model."""

from dataclasses import dataclass

import numpy as np

from rapgym.arrays import IntArray
from rapgym.scenarios import card
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
    story = twin.story
    batch, prompt, longest = twin.asked.T.copy()
    reserve = np.where(batch > 0, twin.reserve_tokens, 0)
    return States(
        card.limit_bytes(story, twin.held),
        Rows(
            batch=batch,
            prompt_tokens=card.tokens(story, prompt),
            reserved_tokens=card.tokens(story, batch * twin.reserve_tokens),
            longest_tokens=card.tokens(story, longest + reserve),
            output_tokens=np.zeros_like(batch),
            limit_bytes=np.zeros((len(batch), story.window_s), dtype=np.int64),
        ),
    )


def part(drawn: Drawn, split: str) -> Drawn:
    """The rows of one split of a drawn stretch."""
    rows = series.split_rows(len(drawn.row), split)
    return Drawn(drawn.rows.part(rows), drawn.second[rows], drawn.row[rows])
