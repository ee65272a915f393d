"""Pruning on top of a format: the reference policy in the world of other weights and another KV cache.

A format's table holds differences from the model that is dense *in that format*; a scenario's costs
are above the model that is dense in the scenario's own. The two differ by what the format costs the
dense model, an offset that holds for every token alike. With U what a unigram model loses, D what
dense loses in the scenario's format and D' = D + offset in the other, a token that is not served
costs C = U - D here and C' = U - D' = C - offset there, and a served one
min(nll' + offset, C) = min(nll', C - offset) + offset: what it costs there, plus the offset. So rows
are played with C' in the format's world, and the offset is added to all tokens: served at C or below
it, or not at all.
"""

from dataclasses import replace

import numpy as np

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.model import memory
from rapgym.model.shapes import Format, model_spec
from rapgym.policies.policy import Briefing
from rapgym.policies.reference import FrontierLookup
from rapgym.quality import error as table_error
from rapgym.quality.columns import QualityColumns
from rapgym.rollout import log as rollout_log
from rapgym.rollout import rollout
from rapgym.rollout.log import EpisodeLog
from rapgym.scenarios import scales, tables, worlds
from rapgym.scenarios.scales import card_bytes
from rapgym.scenarios.story import Scenario, Split
from rapgym.world import encoding
from rapgym.world.records import World


def world(story: Scenario, form: Format, split: Split, text: str, offset: float) -> World:
    """The rows and the card of a scenario, served by its model in another format.

    Args:
        text: whose columns of the format's table it holds, "calib" or "test".
        offset: what the format costs the dense model, nats a token above the scenario's own.

    Raises:
        DataUnavailable: the format has no table.
        InvalidTable: the table of its name is of another format.
    """
    stated = worlds.world(story, split)
    model, profile = model_spec(tables.table(story).model), scales.profile_of(story)
    return replace(
        stated,
        footprint=memory.footprint(model, form, profile),
        quality=_columns(story, form, text),
        ceiling=stated.ceiling - offset,
    )


def _columns(story: Scenario, form: Format, text: str) -> QualityColumns:
    table = tables.format_table(story, form)
    told = table.calibration(story.told_domain or story.domain)
    if text == "calib":
        return told
    judged = table.test(story.domain)
    # The shield cuts along the order that it was told of, whatever text scores.
    return judged if (judged.order == told.order).all() else replace(judged, order=told.order)


def log(story: Scenario, form: Format, split: Split, text: str, offset: float) -> EpisodeLog:
    """Every row of a split in all pairings, as the frontier lookup serves them in a format.

    It decides by calibration columns; `text` says which columns the rows are priced with. Costs and
    nll are above the dense model in the scenario's own format.

    Args:
        offset: on that text; raises as `world` does.
    """
    told = world(story, form, split, "calib", offset)
    priced = world(story, form, split, text, offset)
    row, limit_row = rollout.paired_rows(told, story.offsets)
    proposals = looked_up(story, told, row, limit_row)
    return above_stated(in_turn(priced, row, limit_row, proposals), priced.ceiling, offset)


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


def above_stated(played: EpisodeLog, ceiling: float, offset: float) -> EpisodeLog:
    """A log of a format's world, above the dense model of the scenario's own format.

    Args:
        ceiling: C' of the format's world.
    """
    lost: FloatArray = (played.stall + played.emergency + played.refused) / ceiling
    price = (ceiling + offset) / ceiling
    return replace(
        played,
        nll=played.nll + offset,
        quality=played.quality + offset * (1 - lost),
        stall=played.stall * price,
        emergency=played.emergency * price,
        refused=played.refused * price,
    )


def sets_se(story: Scenario, form: Format, priced: EpisodeLog) -> float:
    """Standard error of a log's cost that stems from the kept sets' rows in the format's table.

    What the format costs the dense model has an error of its own, which is not in it.

    Args:
        priced: as `log` gives it, with test columns.
    """
    columns, table = _columns(story, form, "test"), tables.format_table(story, form)
    shares = rollout_log.served_shares(priced, worlds.world(story, "test").ceiling)
    held_out = table.held_out("test", story.domain)
    missed = table_error.predictor_error(held_out, columns.ceiling)
    errors = table_error.set_errors(list(shares), columns, missed)
    return table_error.difference_error(shares, {}, errors)
