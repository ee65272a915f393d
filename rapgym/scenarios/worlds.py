"""From a scenario to the worlds that are played."""

from functools import lru_cache
from pathlib import Path

import numpy as np

from rapgym import heldout
from rapgym.errors import DataUnavailable, InvalidSpec
from rapgym.files import checked, places
from rapgym.quality.columns import QualityColumns
from rapgym.scenarios import card, tables
from rapgym.scenarios.catalogue import story_of
from rapgym.scenarios.drawn import drawn_once
from rapgym.scenarios.story import Recorded, Scenario, Split
from rapgym.workload import names, series
from rapgym.workload.inputs.how import How
from rapgym.workload.series import Series
from rapgym.world.records import Rows, World


def workload_file(story: Scenario) -> Path:
    """The file of a scenario's series: committed, or made here once and kept in the cache.

    Made here are series of the user's traces, and long ones that are drawn.

    Raises:
        DataUnavailable: a trace that it is made of is not there.
        InvalidTrace: one is not valid.
        WrongChecksum: this machine draws another series than the scenario states.
    """
    if not story.is_drawn and not names.is_own(story.workload):
        return places.TRACES / f"{story.workload}.csv.gz"
    from rapgym.scenarios import build  # which loads all that reads raw traces
    from rapgym.workload import own

    if story.is_drawn:
        return drawn_once(
            lambda path: series.write(build.drawn(story, quiet=False), path),
            story.workload, series.BLOCKS, story.series_sha256,
            story=story.name, what="another series", key="series_sha256",
        )  # fmt: skip
    path = checked.cache_folder() / "workloads" / f"{story.workload}.csv.gz"
    if not path.is_file():
        if story.workload.startswith(names.LOADED):
            raise DataUnavailable(
                f"{path} is not there: the series of {story.name} under another load is made by the command that "
                "asks for it, on this machine; run that again"
            )
        if isinstance(story.tenant, Recorded):
            memory = story.tenant.recording
            how = How.of(story.reading)
            made = own.own(memory, story.trace, story.every, story.window_s, how)
        else:
            made = build.build(story)
        own.require_parts(made, story.trace, story.splits)
        series.write(made, path)
    return path


def workload(story: Scenario) -> Series:
    """The series of a scenario; none of it depends on card, restore time or notice.

    Raises:
        HeldOut: training asks.
        InvalidSpec: the series was cut into other windows than the scenario states.
    """
    heldout.check(heldout.WHOLE)
    return _workload(story)


@lru_cache(maxsize=16)
def _workload(story: Scenario) -> Series:
    found = series.read(workload_file(story))
    made_for = (found.window_s, found.origin.get("pool_tokens", story.pool_tokens))
    if made_for != (story.window_s, story.pool_tokens):
        raise InvalidSpec(
            f"the series of {story.name} was made for other windows or another pool; run: rapgym "
            f"scenarios build {story.name}"
        )
    return found


def rows(story: Scenario, split: Split) -> Rows:
    """The rows of one split and no others, in tokens and bytes of the model that serves."""
    heldout.check(split)
    whole = _workload(story)
    part = whole.part(series.split_rows(len(whole), split, story.splits))
    reserved = part.batch * part.reserve_tokens
    longest = part.longest_prompt_tokens + np.where(part.batch > 0, part.reserve_tokens, 0)
    return Rows(
        batch=part.batch,
        prompt_tokens=card.tokens(story, part.prompt_tokens),
        reserved_tokens=card.tokens(story, reserved),
        longest_tokens=card.tokens(story, longest),
        output_tokens=part.output_tokens,
        limit_bytes=card.limit_bytes(story, part.tenant_tokens),
    )


def world(story: Scenario, split: Split) -> World:
    """The world that policies meet: rows of one split, calibration columns only.

    Raises:
        HeldOut: training asks for a split that it is not told of.
    """
    heldout.check(split)
    return _told_world(story, split)


def make_world(scenario: str | Scenario = "chat-beside-code", split: Split = "train") -> World:
    """The rows of a scenario's split and all that decides what they cost, as policies meet it.

    Args:
        scenario: a name or a `Scenario`.
        split: "train" and its parts "learn" and "check", "fit-1" to "fit-3" and "validation-1" to
            "validation-3" (`series.split_rows` says which rows); "test".

    Returns:
        A frozen record of T rows: `rows` (tokens and requests, int64 [T]; `limit_bytes`, int64
        [T, W], by the second), `footprint` (bytes of each of the N blocks), `quality` (nats a token
        above the full bf16 model of kept sets, calibration columns alone), `ceiling` (C, nats: what a
        token that is not served costs). Bytes and tokens are the served model's own.
        `rapgym.world.simulator.step` serves its rows.

    Raises:
        InvalidSpec: there is no such scenario or split.
        InvalidTable, InvalidTrace, DataUnavailable: a file of it is damaged or not here.
        HeldOut: training asks for a split that it is not told of.

    Example:
        >>> world = rapgym.make_world("chat-beside-code", "test")
        >>> world.blocks, world.rows.limit_bytes.shape[1]
        (60, 7)
    """
    return world(story_of(scenario), split)


@lru_cache(maxsize=64)
def _told_world(story: Scenario, split: Split) -> World:
    return _world(story, split, tables.told(story))


def scoring_world(story: Scenario, split: Split = "test") -> World:
    """The same rows with test columns: for the scorer and the bound alone.

    Raises:
        HeldOut: training asks.
    """
    heldout.check(heldout.COLUMNS)
    return _judged_world(story, split)


@lru_cache(maxsize=64)
def _judged_world(story: Scenario, split: Split) -> World:
    return _world(story, split, tables.judged(story))


def _world(story: Scenario, split: Split, quality: QualityColumns) -> World:
    whole = _workload(story)
    train = whole.output_tokens[series.split_rows(len(whole), "train", story.splits)]
    return World(
        footprint=card.footprint(story),
        quality=quality,
        rows=rows(story, split),
        ceiling=tables.ceiling(story),
        restore_bytes_per_s=link_bytes_per_s(story),
        mean_output_tokens=float(train.mean()),
        notice_s=story.notice_s,
        reaction_s=reaction_s(story),
    )


def is_link_measured(story: Scenario) -> bool:
    """Whether the scenario's device profile says how fast blocks come back, whatever `restore_s` states."""
    return card.profile_of(story).restore_bytes_per_s is not None


def link_bytes_per_s(story: Scenario) -> float:
    """At which dropped blocks come back: as the device profile measured it, else from `restore_s`."""
    measured = card.profile_of(story).restore_bytes_per_s
    if measured is not None:
        return measured
    return float(card.footprint(story).weights.sum()) / story.restore_s


def reaction_s(story: Scenario) -> float:
    """For how long serving pauses in a hurry: as the device profile measured it, else as is stated."""
    measured = card.profile_of(story).reaction_s
    return story.reaction_s if measured is None else measured


def forget() -> None:
    """Read tables, workloads and worlds anew: what they were made of has changed."""
    tables.forget()
    for remembered in (_workload, _told_world, _judged_world):
        remembered.cache_clear()
