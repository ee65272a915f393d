"""One decision in words for somebody who answers for it: what was seen, dropped, paid, and why.

Costs are nats a token above the full model on calibration text; a refused row costs C. The
**runner-up** is the best other thing that fits: what the reference policy would have done, where that
is another set than was executed; else the best grid set that fits and is another; refusal, where
nothing else fits.
"""

import math
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from rapgym.arrays import BoolArray, FloatArray
from rapgym.audit.context import AuditContext
from rapgym.audit.record import Record
from rapgym.errors import InvalidResult, InvalidSpec
from rapgym.model import blocks, memory

RULES = {
    "policy": "the policy's proposal fitted and was executed unchanged",
    "repaired": "the policy's proposal did not fit, so the shield dropped more, in its fixed order, "
    "until it did",
    "fallback": "the policy's answer could not be used, so the reference policy's stood in",
    "emergency": "memory fell below what was in use, so the shield dropped blocks at once",
    "watchdog": "the watchdog has put the reference policy in charge, whose set was executed",
    "override": "an operator has pinned this set",
    "refused": "not even the smallest permitted set fitted, so the requests were refused",
}
STRICT = "the proposal did not fit, and the policy declares that it is refused rather than repaired"
NAMED_BLOCKS = 8  # more are counted only


@dataclass(frozen=True, slots=True)
class RunnerUp:
    """The best other thing that could have been done."""

    kept: BoolArray | None  # None: refuse
    nats: float  # a token, calibration
    name: str  # what it is


@dataclass(frozen=True, slots=True)
class Explained:
    """A decision and what it is compared with."""

    record: Record
    context: AuditContext
    dropped: tuple[int, ...]  # blocks
    nats: float | None  # cost of a token under what was executed; None where the log does not say
    runner_up: RunnerUp
    dense_bytes: int  # what every block would have needed, margin included
    sentence: str


def explained(context: AuditContext, record: Record) -> Explained:
    """What one decision was, compared and put into words.

    Raises:
        InvalidResult: its kept sets are not of the context's model.
    """
    try:
        kept = blocks.kept_of(record.kept, context.blocks)
        blocks.kept_of(record.proposal, context.blocks)
    except InvalidSpec as error:
        raise InvalidResult(f"decision {record.decision}: {error}") from error
    nats = _nats(context, record, kept)
    other = runner_up(context, record, kept)
    every = np.ones(context.blocks, dtype=bool)
    tokens = np.array(record.prompt_tokens + record.reserved_tokens)
    used = context.footprint.used_bytes(every, tokens, np.array(record.prompt_tokens))
    dense_bytes = int(used) + context.footprint.margin_bytes
    dropped = tuple(np.flatnonzero(~kept).tolist())
    found = Explained(record, context, dropped, nats, other, dense_bytes, "")
    return Explained(record, context, dropped, nats, other, dense_bytes, _sentence(found))


def runner_up(context: AuditContext, record: Record, kept: BoolArray) -> RunnerUp:
    """The best other thing that fits beside a decision whose kept set this is, as defined above.

    What the reference policy would have done follows from the limit on record; the policy itself sees
    limits rounded down.
    """
    order = _best_first(context.grid_kept, context.grid_nll)
    tokens = np.array(record.prompt_tokens + record.reserved_tokens)
    costs = context.footprint.block_bytes(tokens)
    spent = memory.spent(context.grid_kept, costs)
    fits = [int(i) for i in order if spent[i] <= record.budget_bytes]
    others = [i for i in fits if record.refused or (context.grid_kept[i] != kept).any()]
    if not others:
        return RunnerUp(None, context.ceiling, "refusing the requests, since nothing else fitted")
    best, is_reference = others[0], others[0] == fits[0]
    name = "the reference policy's set" if is_reference else "the next best set that fitted"
    nats = min(float(context.grid_nll[best]), context.ceiling)
    return RunnerUp(context.grid_kept[best], nats, name)


def _best_first(kept: BoolArray, nll: FloatArray) -> list[int]:
    """The grid's sets as the reference policy prefers them: least nats, then least blocks."""
    found: list[int] = np.lexsort((kept.sum(axis=1), nll)).tolist()
    return found


def _nats(context: AuditContext, record: Record, kept: BoolArray) -> float | None:
    """What a token costs under the decision: as recorded, else as the grid says."""
    if record.refused:
        return context.ceiling
    nll = record.nll
    if nll is None and kept.all():
        nll = 0.0
    if nll is None:
        same = np.flatnonzero((context.grid_kept == kept).all(axis=1))
        nll = float(context.grid_nll[same[0]]) if len(same) else None
    return None if nll is None else min(nll, context.ceiling)


def _sentence(found: Explained) -> str:
    record, context = found.record, found.context
    when = datetime.fromtimestamp(record.time_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    where = f"{context.policy} on {context.scenario}"
    if record.second:
        where += f", {record.second} s into its row"
    return f"Decision {record.decision} ({when}, {where}): {told(found)}"


def told(found: Explained) -> str:
    """What was seen, dropped and paid, and why: the sentence without number, time and place."""
    record = found.record
    seen = (
        f"{counted(record.batch, 'request')} with "
        f"{counted(record.prompt_tokens, 'prompt token')} and room for "
        f"{record.reserved_tokens:,} more met a limit of {size_text(record.limit_bytes)}; the full model "
        f"would have needed {size_text(found.dense_bytes)}."
    )
    return " ".join([seen, _done(found), _compared(found), f"Decided by: {_rule(record)}."])


def _done(found: Explained) -> str:
    record = found.record
    if record.refused:
        return "The requests were refused."
    used = record.used_bytes if record.measured_bytes is None else record.measured_bytes
    if not found.dropped:
        return f"Nothing was dropped: {size_text(used)} were in use."
    counts = [len([b for b in found.dropped if b % 2 == kind]) for kind in range(2)]
    kinds = [
        f"{count} {kind}" for count, kind in zip(counts, ("attention", "FFN"), strict=True) if count
    ]
    names = [blocks.name(block) for block in found.dropped]
    if len(names) <= NAMED_BLOCKS:
        listed = f" ({', '.join(names)})"
    else:
        listed = f" ({', '.join(names[:NAMED_BLOCKS])} and {len(names) - NAMED_BLOCKS} more)"
    plural = "block was" if len(names) == 1 else "blocks were"
    return f"{' and '.join(kinds)} {plural} dropped{listed}, which left {size_text(used)} in use."


def _compared(found: Explained) -> str:
    record, other = found.record, found.runner_up
    if found.nats is None:
        cost = "What that costs in quality is not on record"
    else:
        guess = "; predicted, not measured" if record.measured is False else ""
        live = record.measured_bytes is not None and record.measured and not record.refused
        basis = "On the text that was served" if live else "By calibration text"
        cost = f"{basis} that costs {nats_text(found.nats)}{guess}"
    verb = "would have cost" if found.nats is not None else "would cost"
    instead = f"{other.name}, {verb} {nats_text(other.nats)}"
    better = ""
    if found.nats is not None and other.nats < found.nats:
        better = ", which is less"
    return f"{cost}; the runner-up, {instead}{better}."


def _rule(record: Record) -> str:
    if record.reason == "refused" and record.refuses_misfit:
        return STRICT
    rule = RULES[record.reason]
    if record.reason == "fallback":
        if record.late_us:
            rule = (
                f"the policy's answer came {record.late_us / 1000:,.1f} ms too late, so the reference "
                "policy's stood in"
            )
        elif record.readable is False:
            rule = "the policy's answer was no proposal, so the reference policy's stood in"
    if record.reason not in ("policy", "repaired", "refused") and record.kept != record.proposal:
        rule += "; of it, the shield kept what fitted" if record.reason != "emergency" else ""
    return rule


def counted(number: int, what: str) -> str:
    """A number of things: "1 request", "1,200 tokens"."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def nats_text(nats: float) -> str:
    """Nats a token, and what that does to perplexity."""
    more = math.expm1(nats)
    return f"{nats:.3f} nats a token ({more:+.1%} perplexity)"


def size_text(number: int) -> str:
    """Bytes as a person reads them."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if abs(number) >= size:
            return f"{number / size:,.1f} {unit}"
    return f"{number:,} bytes"
