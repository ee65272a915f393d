"""Pruning on top of a format: the reference policy in the world of other weights and another KV cache.

Costs are nats above the full bf16 model in every format, so such a rival plays the scenario's own rows
with the bytes and the quality of its format, and nothing has to be converted.
"""

from dataclasses import replace
from typing import Literal

import numpy as np

from rapgym.arrays import BoolArray, IntArray
from rapgym.model.shapes import Format
from rapgym.policies.policy import Briefing
from rapgym.policies.reference import FrontierLookup
from rapgym.quality import error as table_error
from rapgym.rollout import log as rollout_log
from rapgym.rollout import rollout
from rapgym.rollout.log import EpisodeLog
from rapgym.scenarios import card, tables, worlds
from rapgym.scenarios.card import card_bytes
from rapgym.scenarios.story import Scenario, Split
from rapgym.world import encoding
from rapgym.world.records import World

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


def in_turn(priced: World, row: IntArray, limit_row: IntArray, proposals: BoolArray) -> EpisodeLog:
    """Serve rows [T, B] after one another in each lane, every block in memory before the first.

    All are served at once, as if everything were in memory before each; then again from what was
    found to be there, until nothing changes: row t is right after at most t repetitions, and few rows
    need any.
    """
    log = replace(
        EpisodeLog.blank(row, limit_row, priced.blocks),
        proposal=proposals,
        kept_end=np.ones_like(proposals),
    )
    while True:
        found = rollout.replay(priced, log, refuses_misfit=False)
        if (found.kept_end == log.kept_end).all():
            return found
        log = found


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
