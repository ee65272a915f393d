"""Decisions of an audit log taken once more, from the log alone: no scenario, table or policy is read.

What the shield makes of its recorded arguments must be what is recorded; and whose proposal reached
it must be what the rule gives (`guard.ruled`), where all that the rule depends on is recorded.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rapgym.arrays import BoolArray, IntArray
from rapgym.audit import chain, order
from rapgym.audit import entry as audit_entry
from rapgym.audit import read as audit_read
from rapgym.audit.chain import Head
from rapgym.audit.context import AuditContext
from rapgym.audit.order import Writers
from rapgym.audit.read import Fault, Line
from rapgym.audit.record import REASONS, Record
from rapgym.audit.serving.context import ServeContext
from rapgym.audit.serving.record import ServeRecord
from rapgym.audit.serving.replay import Episodes
from rapgym.errors import InvalidResult, InvalidSpec
from rapgym.files import incoming, limits
from rapgym.guard import guard
from rapgym.model import blocks
from rapgym.world import shield

BEGINNING = b'{"seq":0,"decision":0,"previous":"'
CHUNK = 2048  # decisions replayed at once
SOURCES = ("policy", "fallback", "watchdog", "override", "emergency")


@dataclass(slots=True)
class Verified:
    """What a log proves."""

    head: Head = chain.START
    decisions: int = 0  # that were replayed
    differing: int = 0  # of them, and places where the chain does not hold
    sentences: list[str] = field(default_factory=list)  # of the first of these
    lost: int = 0  # decisions that gaps say could not be logged
    # Of a serving engine, whose episode's beginning or next seconds the log lacks: their chain and rule
    # alone were checked.
    unreplayed: int = 0

    @property
    def holds(self) -> bool:
        return not self.differing

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {
            "decisions": self.decisions,
            "differing": self.differing,
            "differences": self.sentences,
            "lost": self.lost,
            "unreplayed": self.unreplayed,
            "head": str(self.head),
        }


def verified(path: Path, kept: Head | None = None, most_sentences: int = 20) -> Verified:
    """Follow a log's chain and replay each of its decisions.

    Args:
        kept: a head that somebody kept.
        most_sentences: how many faults are put into words; all are counted.

    Raises:
        DataUnavailable: there is no such file.
        InvalidResult: it is no audit log.
    """
    found = Verified()
    for each in _replayed(audit_read.lines(path, kept), found):
        found.differing += 1
        if len(found.sentences) < most_sentences:
            found.sentences.append(each)
    return found


def is_log(path: Path) -> bool:
    """Whether a file begins as audit logs do."""
    try:
        with incoming.opened(path) as file:
            return file.read(len(BEGINNING)) == BEGINNING
    except (OSError, ValueError):
        return False


def told(found: Verified, kept: Head | None = None) -> str:
    """What a log proves, in words."""
    if not found.holds:
        more = found.differing - len(found.sentences)
        return "\n".join([*found.sentences, *([f"... and {more} more"] if more else [])])
    lost = f"; gaps say that {found.lost} were not logged" if found.lost else ""
    whole = (
        f"{found.decisions} decisions replay and the chain holds up to line {found.head.seq}{lost}"
    )
    if found.unreplayed:
        whole += (
            f"; of {found.unreplayed} of them, whose episode the log does not hold from its beginning, or "
            "not to the seconds after, chain and rule alone were checked"
        )
    if kept is not None:
        return f"{whole}; line {kept.seq} is the one that was kept"
    return (
        f"{whole}\nhead {found.head}\nWhether lines are gone from the end, or the whole file was "
        "rewritten, shows only against a head that was kept elsewhere: --head SEQ:SHA256"
    )


def _replayed(lines: Iterator[Line | Fault], found: Verified) -> Iterator[str]:
    contexts: dict[str, AuditContext | ServeContext] = {}
    waiting: dict[str, list[Record]] = {}
    writers, episodes = Writers(), Episodes()
    for each in lines:
        if isinstance(each, Fault):
            yield each.sentence
            continue
        if each.head.seq > found.head.seq:
            found.head = each.head
        yield from writers.follow(each)
        if each.kind == "open":
            yield from episodes.end()
        try:
            if each.kind == "context":
                context_id, context = audit_entry.context_of(each)
                if len(contexts) >= limits.AUDIT_CONTEXTS:
                    raise InvalidResult(
                        f"line {each.head.seq}: more than {limits.AUDIT_CONTEXTS} contexts"
                    )
                contexts[context_id] = context
            elif each.kind == "gap":
                found.lost += audit_entry.lost_of(each)
            elif each.kind == "decision":
                found.decisions += 1
                record = audit_entry.decision_of(each, contexts)
                if twice := writers.decided(record):
                    yield _sentence(record, twice)
                if record.context not in contexts:
                    raise InvalidResult(f"line {record.seq}: the log lacks its context")
                context = contexts[record.context]
                if isinstance(context, ServeContext):
                    assert isinstance(record, ServeRecord)
                    yield from episodes.decided(context, record)
                    continue
                assert isinstance(record, Record)
                run = waiting.setdefault(record.context, [])
                run.append(record)
                if len(run) >= CHUNK:
                    yield from differences(context, waiting.pop(record.context))
        except InvalidResult as error:
            yield str(error)
    for context_id, run in waiting.items():
        windows = contexts[context_id]
        assert isinstance(windows, AuditContext)
        yield from differences(windows, run)
    yield from episodes.end()
    found.unreplayed = episodes.unreplayed


def differences(context: AuditContext, records: Sequence[Record]) -> Iterator[str]:
    """What does not replay of decisions of one context, a sentence a decision."""
    sound = []
    for record in records:
        fault = _fault(context, record)
        if fault:
            yield _sentence(record, fault)
        else:
            sound.append(record)
    if sound:
        yield from _decided_differently(context, sound)


def _fault(context: AuditContext, record: Record) -> str | None:
    """Why a decision cannot even be replayed."""
    keys = (record.proposal, record.kept, record.loaded, record.own_proposal)
    try:
        for key in keys:
            if key is not None:
                blocks.kept_of(key, context.blocks)
    except InvalidSpec as error:
        return str(error)
    if record.source not in SOURCES:
        return f"no proposal has the source {record.source}"
    if (record.source == "emergency") != (record.second > 0):
        return f"its source is {record.source} in second {record.second} of its row"
    if record.observation is not None:
        entries = sum(size for _, size in context.observation)
        if len(record.observation) != 4 * (-(-4 * entries // 3)) and entries:
            return f"its observation has not the {entries} entries of its context"
    return order.impossible(context, record)


def _decided_differently(context: AuditContext, records: Sequence[Record]) -> Iterator[str]:
    asked = _column(records, "prompt_tokens"), _column(records, "reserved_tokens")
    limit, recorded = _column(records, "limit_bytes"), _column(records, "budget_bytes")
    budget = context.footprint.budget_bytes(limit, asked[0])
    costs = context.footprint.block_bytes(asked[0] + asked[1])
    proposal, kept = _sets(context, records, "proposal"), _sets(context, records, "kept")
    source = np.array([REASONS.index(record.source) for record in records])
    strict = np.array([record.refuses_misfit for record in records])
    made = shield.decide(proposal, costs, recorded, context.order, source, strict)
    used = context.footprint.used_bytes(made.kept, asked[0] + asked[1], asked[0])
    refused = np.array([record.refused for record in records])
    reason = np.array([REASONS.index(record.reason) for record in records])
    faults = {
        "its budget does not follow from limit and demand": budget != recorded,
        "the shield keeps another set": (made.kept != kept).any(axis=1),
        "the shield decides otherwise whether it is refused": made.refused != refused,
        "the shield gives another reason": made.reason != reason,
        "it uses other bytes": np.where(made.refused, 0, used) != _column(records, "used_bytes"),
        "another proposal should have reached the shield": _ruled_differently(
            context, records, proposal, source
        ),
    }
    for i in np.flatnonzero(np.any([*faults.values()], axis=0)).tolist():
        yield _sentence(records[i], "; ".join(name for name, bad in faults.items() if bad[i]))


def _ruled_differently(
    context: AuditContext, records: Sequence[Record], proposal: BoolArray, source: IntArray
) -> BoolArray:
    """Decisions that `guard.ruled` would have given another source or proposal, bool [R].

    Where the log does not say what the rule depends on, nothing is held against a decision.
    """
    known = np.array([_rule_is_known(record) for record in records])
    usable = np.array([record.readable is True and record.late_us == 0 for record in records])
    taken = np.array([record.watchdog not in (None, "policy") for record in records])
    pinned = np.array([record.pinned is True for record in records])
    own = proposal.copy()
    for i in np.flatnonzero(known).tolist():
        own[i] = blocks.kept_of(records[i].own_proposal or "", context.blocks)
    # What stood in for the policy's proposal is known only as what reached the shield.
    again, whose = guard.ruled(own, usable, taken, pinned, proposal, proposal)
    return known & ((whose != source) | (again != proposal).any(axis=1))


def _rule_is_known(record: Record) -> bool:
    told = (record.readable, record.late_us, record.pinned, record.own_proposal)
    return record.source != "emergency" and None not in told


def _column(records: Sequence[Record], name: str) -> IntArray:
    return np.array([getattr(record, name) for record in records], dtype=np.int64)


def _sets(context: AuditContext, records: Sequence[Record], name: str) -> BoolArray:
    return np.array([blocks.kept_of(getattr(record, name), context.blocks) for record in records])


def _sentence(record: Record | ServeRecord, fault: str) -> str:
    return f"decision {record.decision} (line {record.seq}) does not replay: {fault}"
