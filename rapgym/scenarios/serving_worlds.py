"""From a serving scenario to the worlds that are served."""

import hashlib
import json
from functools import lru_cache
from pathlib import Path

import numpy as np

from rapgym import heldout
from rapgym.arrays import FloatArray
from rapgym.errors import DataUnavailable
from rapgym.quality import sets
from rapgym.quality.columns import QualityColumns
from rapgym.scenarios import card, tables, worlds
from rapgym.scenarios.drawn import drawn_once
from rapgym.scenarios.serving import ServeScenario, engine_profile
from rapgym.scenarios.story import Scenario, Split, Tenant
from rapgym.serving.card import Card, order_of_going
from rapgym.serving.world import Means, ServeWorld, Span, nested
from rapgym.workload import names, series, traffic
from rapgym.workload.traffic import US, Traffic

WHOLE: tuple[float, ...] = (1.0,)  # all of the damage stays: the upper side


def traffic_file(story: ServeScenario, *, quiet: bool = False) -> Path:
    """The file of traffic that is drawn: made here once, and kept in the cache.

    Args:
        quiet: without a line of progress.

    Raises:
        WrongChecksum: this machine draws other traffic than the scenario states.
    """
    from rapgym.scenarios import build  # which loads all that reads raw traces

    base = story.base
    return drawn_once(
        lambda path: traffic.write(build.traffic(base, quiet=quiet), path),
        f"serve-{_traffic_key(base)}", traffic.ENDING, story.traffic_sha256,
        story=story.name, what="other traffic", key="traffic_sha256",
    )  # fmt: skip


def _traffic_key(base: Scenario) -> str:
    """What drawn traffic depends on, in short."""
    assert isinstance(base.tenant, Tenant)
    parts = [
        traffic.SCHEMA, series.DAYS,
        names.sha256(base.trace), base.every,
        names.sha256(base.tenant.trace), base.tenant.every, base.pool_tokens,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def whole_traffic(story: ServeScenario) -> Traffic:
    """The traffic of a serving scenario, every split of it.

    Raises:
        HeldOut: training asks.
        DataUnavailable: a raw trace is not on this machine.
    """
    heldout.check(heldout.WHOLE)
    return _traffic(story)


@lru_cache(maxsize=4)
def _traffic(story: ServeScenario) -> Traffic:
    if story.base.is_drawn:
        return traffic.read(traffic_file(story))
    from rapgym.scenarios import build

    try:
        return build.traffic(story.base)
    except DataUnavailable as error:
        raise DataUnavailable(
            f"{story.name} is served request by request, and the traces that it is made of are not "
            f"part of rapgym: {error}"
        ) from error


def world(story: ServeScenario, split: Split) -> ServeWorld:
    """The world that policies meet: requests and limits of one split, calibration columns only.

    Raises:
        HeldOut: training asks for a split that it is not told of.
        DataUnavailable: a raw trace is not on this machine.
        InvalidTrace, InvalidTable: a file of it is damaged.
        InvalidSpec: there is no such split, or its engine has no such profile.
    """
    heldout.check(split)
    return _told_world(story, split)


@lru_cache(maxsize=8)
def _told_world(story: ServeScenario, split: Split) -> ServeWorld:
    return _world(story, split, tables.told(story.base))


def scoring_world(story: ServeScenario, split: Split = "test") -> ServeWorld:
    """The same requests with test columns: for the scorer alone. Blocks go in the order that policies know.

    Raises:
        HeldOut: training asks.
    """
    heldout.check(heldout.COLUMNS)
    heldout.check(split)
    return _judged_world(story, split)


@lru_cache(maxsize=8)
def _judged_world(story: ServeScenario, split: Split) -> ServeWorld:
    return _world(story, split, tables.judged(story.base))


def nested_nll(story: ServeScenario, columns: QualityColumns) -> FloatArray:
    """Nats above the full bf16 model at each pair of counts, [A + 1, F + 1].

    The sets are nested: prefixes of the attention-only order crossed with those of the FFN-only order,
    as calibration text orders them. Each is answered by its row of `columns` where it was measured;
    where it was not, as any set: by the predictor, never better than M(counts).
    """
    told = tables.told(story.base)
    kept = sets.crossing(told.attention_order, told.ffn_order, len(told.floor))
    return columns.nll(kept)[0]


def history_share(story: ServeScenario) -> tuple[float, ...]:
    """Of an FFN drop's damage, what stays in what was computed under it, by blocks dropped."""
    if story.history_share is not None:
        return story.history_share
    return tables.history_share(story.base) or WHOLE


def _world(story: ServeScenario, split: Split, columns: QualityColumns) -> ServeWorld:
    base, profile, whole = story.base, engine_profile(story), _traffic(story)
    found = traffic.spans(whole.seconds, split, base.splits)
    told = nested_nll(story, tables.told(base))
    nll = nested_nll(story, columns)
    limit = card.limit_bytes(base, whole.tenant_tokens.astype(np.int64))
    return ServeWorld(
        spans=tuple(
            _span(whole, limit[start_s:stop_s], start_s, stop_s) for start_s, stop_s in found
        ),
        card=Card(
            footprint=card.footprint(base),
            limit_bytes=np.array([card.card_bytes(base)]),
            goes_next=order_of_going(told),
            link_bytes_per_s=worlds.link_bytes_per_s(base),
            reaction_s=worlds.reaction_s(base),
            step_tokens=profile.step_tokens,
        ),
        card_bytes=card.card_bytes(base),
        profile=profile,
        harm=nested(nll, tables.ceiling(base), history_share(story)),
        deadlines=story.deadlines,
        shed_s=story.shed_s,
        means=_means(whole, traffic.spans(whole.seconds, "train", base.splits)),
    )


def _span(whole: Traffic, limit: np.ndarray, start_s: int, stop_s: int) -> Span:
    """A stretch of traffic, copied: a view would still lead to the rest."""
    here = whole.between(start_s, stop_s)
    return Span(
        whole.arrival_us[here] - start_s * US,
        whole.prompt_tokens[here].astype(np.int64),
        whole.output_tokens[here].astype(np.int64),
        limit.copy(),
    )


def _means(whole: Traffic, train: list[tuple[int, int]]) -> Means:
    """Of a second of train; of a train without requests, one token each, so that units are above 0."""
    seconds = sum(stop_s - start_s for start_s, stop_s in train)
    parts = [whole.between(start_s, stop_s) for start_s, stop_s in train]
    return Means(
        requests=max(1, sum(part.stop - part.start for part in parts)) / seconds,
        prompt_tokens=max(1, sum(int(whole.prompt_tokens[part].sum()) for part in parts)) / seconds,
        output_tokens=max(1, sum(int(whole.output_tokens[part].sum()) for part in parts)) / seconds,
    )


def forget() -> None:
    """Read tables, traffic and worlds anew: what they were made of has changed."""
    worlds.forget()
    for remembered in (_traffic, _told_world, _judged_world):
        remembered.cache_clear()
