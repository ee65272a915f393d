"""Episodes of a serving engine run once more, from the log alone: no scenario, table or policy is read.

A context states card, costs and profile, the lines requests, limits and decisions: from these the engine
comes to the same tokens, sheds, preemptions, blocks, pages, costs and observations, or the log does not
hold. That takes an episode from its first second on; of one that the log begins in the middle, chain and
rule are checked alone, and so are the last seconds of one that goes on behind the log's end.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from rapgym.audit.order import STATES
from rapgym.audit.serving.context import ServeContext
from rapgym.audit.serving.record import ServeRecord
from rapgym.audit.serving.step import outcome_of, seen_of, text_of
from rapgym.errors import InvalidResult, RapgymError
from rapgym.serving.batch import Batch
from rapgym.serving.world import BACK_S, Part

SOURCES = ("policy", "fallback", "watchdog")
MOST_HELD = 1 << 20  # seconds of episodes that are not complete yet


@dataclass(slots=True)
class _Episode:
    context: ServeContext
    records: list[ServeRecord] = field(default_factory=list)
    broken: bool = False  # a second of it cannot be, or is not there


class Episodes:
    """Seconds on their way, put together to episodes: each is replayed once it is complete."""

    def __init__(self) -> None:
        self._under_way: dict[tuple[str, int, int], _Episode] = {}
        self._held = 0
        self.unreplayed = 0

    def decided(self, context: ServeContext, record: ServeRecord) -> Iterator[str]:
        """What is wrong with a second, and with its episode where it is the last of it.

        Raises:
            InvalidResult: more seconds of unfinished episodes than are held.
        """
        place = record.context, record.lane, record.episode
        episode = self._under_way.setdefault(place, _Episode(context))
        wanted = episode.records[-1].second + 1 if episode.records else 0
        fault = _impossible(context, record)
        if episode.records and (record.second, record.seconds) != (
            wanted,
            episode.records[0].seconds,
        ):
            fault = fault or f"second {wanted} of its episode should stand here"
        if fault:
            yield _sentence(record, fault)
            self._held -= len(episode.records)
            self.unreplayed += len(episode.records)
            episode.records, episode.broken = [], True
        if episode.broken or record.second != wanted:
            self.unreplayed += 1
            return
        self._held += 1
        if self._held > MOST_HELD:
            raise InvalidResult(
                f"line {record.seq}: more than {MOST_HELD} seconds of unfinished episodes"
            )
        episode.records.append(record)
        if len(episode.records) == record.seconds:
            yield from self._replayed(self._under_way.pop(place))

    def end(self) -> Iterator[str]:
        """The same of episodes that go on behind the end of a writer's lines."""
        for episode in self._under_way.values():
            if episode.records:
                yield from self._replayed(episode)
        self._under_way, self._held = {}, 0

    def _replayed(self, episode: _Episode) -> Iterator[str]:
        records, context = episode.records, episode.context
        self._held -= len(records)
        complete = len(records) == records[0].seconds
        # The engine looks at limits and requests up to a step's and a reaction's end.
        reaction_s = context.world.card.reaction_s
        checked = len(records) if complete else len(records) - 2 - math.ceil(reaction_s)
        self.unreplayed += len(records) - max(0, checked)
        if checked > 0:
            try:
                yield from _differences(context, records, checked)
            except (RapgymError, ValueError, ArithmeticError) as error:
                yield _sentence(records[0], f"its episode cannot be served: {error}")


def _impossible(context: ServeContext, record: ServeRecord) -> str | None:
    """What a second says that cannot be, whatever was decided."""
    most = (context.world.attention, context.world.ffn, 1)
    for decision in (record.decided, record.asked):
        if decision is not None and any(a > b for a, b in zip(decision, most, strict=True)):
            return "it drops more blocks than may be dropped"
    if record.source not in SOURCES or record.reason != record.source:
        return f"no decision has the source {record.source} and the reason {record.reason}"
    if record.watchdog is not None and record.watchdog not in STATES:
        return f"no watchdog has the state {record.watchdog}"
    if record.second >= record.seconds or (record.before is None) == (record.second == 0):
        return f"second {record.second} of an episode of {record.seconds}"
    if record.source == "policy" and record.asked != record.decided:
        return "the policy's decision should have reached the engine"
    if record.readable is None or record.late_us is None:
        return None
    usable = record.readable and not record.late_us
    taken = record.watchdog not in (None, "policy")
    rule = "watchdog" if taken else "policy" if usable else "fallback"
    return None if record.source == rule else f"by the rule its source is {rule}"


def _differences(context: ServeContext, records: list[ServeRecord], checked: int) -> Iterator[str]:
    """Seconds of an episode that the engine does not come to again, a sentence each."""
    first, seconds = records[0], records[0].seconds
    assert first.before is not None
    limit = np.array([record.limit_bytes for record in records], dtype=np.int64)
    arrivals = [
        (record.second * 1_000_000 + at, prompt, output)
        for record in records
        for at, prompt, output in record.arrived
    ]
    world = context.replayed(
        np.array(first.before, dtype=np.int64),
        # What nobody looks at before its time.
        np.append(limit, np.full(seconds - len(limit), limit[-1])),
        np.array(arrivals, dtype=np.int64).reshape(-1, 3),
    )
    lanes, acting = Batch([world]), np.ones(1, dtype=bool)
    lanes.begin(0, Part(0, BACK_S, seconds))
    lanes.look(acting)
    for record in records[:checked]:
        seen = lanes.seen[0].copy()
        lanes.advance(np.array([record.decided], dtype=np.int64), acting)
        here = outcome_of(context, lanes.record[0]) | seen_of(world, seen)
        cost = here.pop("cost")
        here["cost"] = None if cost is None else tuple(cost)
        here["observation"] = text_of(seen)
        told = {name: getattr(record, name) for name in here}
        if told["observation"] is None:
            del here["observation"]
        wrong = [name for name, value in here.items() if told[name] != value]
        if wrong:
            yield _sentence(record, f"the engine comes to another {', '.join(wrong)}")


def _sentence(record: ServeRecord, fault: str) -> str:
    return f"decision {record.decision} (line {record.seq}) does not replay: {fault}"
