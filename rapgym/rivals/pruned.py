"""Pruning on top of a format: the reference policy in the world of other weights and another KV cache.

Costs are nats above the full bf16 model in every format, so such a rival plays the scenario's own rows
with the bytes and the quality of its format, and nothing has to be converted.
"""

from dataclasses import fields, replace
from typing import Literal

import numpy as np

from rapgym.arrays import BoolArray, IntArray
from rapgym.model.shapes import Format
from rapgym.policies.policy import Briefing
from rapgym.policies.reference import FrontierLookup
from rapgym.quality import error as table_error
from rapgym.rollout import log as rollout_log
from rapgym.rollout import rollout
from rapgym.rollout.log import EpisodeLog, LogWriter
from rapgym.scenarios import card, tables, worlds
from rapgym.scenarios.card import card_bytes
from rapgym.scenarios.story import Scenario, Split
from rapgym.world import encoding, simulator
from rapgym.world.records import World
from rapgym.world.shield import Reason

Text = Literal["calib", "test"]


def world(story: Scenario, form: Format, split: Split, text: Text) -> World:
    """The rows and the card of a scenario, served by its model in another format.

    Args:
        text: whose columns of the format's table it holds.

    Raises:
        DataUnavailable: the format has no table.
        InvalidTable: the table of its name is of another format.
    """
    quality = (tables.told if text == "calib" else tables.judged)(story, form)
    return replace(
        worlds.world(story, split), footprint=card.footprint(story, form), quality=quality
    )


def log(story: Scenario, form: Format, split: Split, text: Text) -> EpisodeLog:
    """Every row of a split in all pairings, as the frontier lookup serves them in a format.

    It decides by calibration columns; `text` says which columns the rows are priced with. Raises as
    `world` does.
    """
    told, priced = world(story, form, split, "calib"), world(story, form, split, text)
    row, limit_row = rollout.paired_rows(told, story.offsets)
    proposals = looked_up(story, told, row, limit_row)
    return in_turn(priced, row, limit_row, proposals)


def looked_up(story: Scenario, told: World, row: IntArray, limit_row: IntArray) -> BoolArray:
    """What the reference policy proposes in rows [T, B], bool [T, B, N].

    It looks neither back nor ahead, so that all are asked at once.
    """
    state = told.state(row.ravel(), limit_row.ravel())
    layout = encoding.layout(told, card_bytes=card_bytes(story))
    policy = FrontierLookup()
    policy.reset(row.size, Briefing(story, told, layout))
    seen = encoding.visible(told, state, np.zeros(row.size, dtype=np.int64))
    proposals = policy.propose(encoding.observe(told, layout, seen), np.random.default_rng(0))
    return proposals.reshape(*row.shape, -1)


def in_turn(
    priced: World,
    row: IntArray,
    limit_row: IntArray,
    proposals: BoolArray,
    *,
    refuses_misfit: bool = False,
) -> EpisodeLog:
    """Serve rows [T, B] after one another in each lane, every block in memory before the first.

    All are served at once, as if everything were in memory before each; then again those before which
    something else was found to be there, until nothing changes: row t is right after at most t
    repetitions, and few rows need any.
    """
    (rows, lanes), size = row.shape, row.size
    flat_row, flat_limit = row.ravel(), limit_row.ravel()
    flat = proposals.reshape(size, -1)
    before = np.ones_like(flat)

    def served(which: IntArray) -> EpisodeLog:
        state = priced.state(flat_row[which], flat_limit[which], loaded=before[which])
        source, strict = np.full(which.size, Reason.POLICY), np.full(which.size, refuses_misfit)
        _, outcome = simulator.step(priced, state, flat[which], source, strict)
        writer = LogWriter()
        writer.add(priced, state.row, state.limit_row, source, outcome)
        return writer.finish()

    changed = np.arange(size)
    found = served(changed)  # of one row and as many lanes as there are rows [T, B]
    while changed.size:
        following = changed[changed < size - lanes] + lanes
        other = (found.kept_end[0, following - lanes] != before[following]).any(axis=1)
        changed = following[other]
        if changed.size:
            before[changed] = found.kept_end[0, changed - lanes]
            again = served(changed)
            for field in fields(EpisodeLog):
                getattr(found, field.name)[0, changed] = getattr(again, field.name)[0]
    return found.reshaped(rows, lanes)


def sets_se(story: Scenario, form: Format, priced: EpisodeLog) -> float:
    """Standard error of a log's cost that stems from the kept sets' rows in the format's table.

    What the format costs the dense model has an error of its own, which is not in it.

    Args:
        priced: as `log` gives it, with test columns.
    """
    columns, table = tables.judged(story, form), tables.format_table(story, form)
    shares = rollout_log.served_shares(priced, worlds.world(story, "test").ceiling)
    held_out = table.held_out("test", story.domain)
    missed = table_error.predictor_error(held_out, columns.ceiling)
    errors = table_error.set_errors(list(shares), columns, missed)
    return table_error.difference_error(shares, {}, errors)
