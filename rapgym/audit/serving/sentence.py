"""One second of a serving engine in words for somebody who answers for it: queue, deadlines and GiB."""

from datetime import UTC, datetime

from rapgym.audit.sentence import counted, nats_text, size_text
from rapgym.audit.serving.context import ServeContext
from rapgym.audit.serving.record import ServeRecord
from rapgym.serving.engine import DROP

RULES = {
    "policy": "the policy's decision was given to the engine",
    "fallback": "the policy's answer could not be used, so the reference, the tuned lookup, stood in",
    "watchdog": "the watchdog has put the reference, the tuned lookup, in charge",
}


def sentence(context: ServeContext, record: ServeRecord) -> str:
    """What was seen, decided, served and paid, and by which rule."""
    when = datetime.fromtimestamp(record.time_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    where = f"{context.policy} on {context.scenario}"
    place = f"second {record.second} of episode {record.episode}"
    said = [_seen(context, record), _decided(record), _served(record), _left(record), _paid(record)]
    return (
        f"Decision {record.decision} ({when}, {where}, {place}): {' '.join(said)} Decided by: "
        f"{_rule(record)}."
    )


def dense_bytes(context: ServeContext, record: ServeRecord) -> int:
    """What all blocks would have needed beside the tokens that ran and waited."""
    return context.world.card.used_bytes((0, 0), record.held_tokens + record.queued_tokens)


def _seen(context: ServeContext, record: ServeRecord) -> str:
    world = context.world
    due = world.deadlines
    first = f"{due.ttft_s:g} s and {1000 * due.ttft_token_s:g} ms a prompt token"
    if record.waiting:
        oldest = f"the oldest for {record.oldest_ms / 1000:.1f} s"
        queue = f"{_were(record.waiting, 'request')} waiting ({counted(record.queued_tokens, 'token')}, {oldest})"
    else:
        queue = "nobody was waiting"
    given_up = (
        f"given up {world.shed_s:g} s after it came" if world.shed_s < 1e9 else "never given up"
    )
    return (
        f"{queue[0].upper()}{queue[1:]}, and {_were(record.running, 'sequence')} running with "
        f"{counted(record.held_tokens, 'token')} in memory; a first token is due {first} after a request, which "
        f"is {given_up} without one. The limit had been {size_text(record.seen_limit_bytes)}; every block "
        f"beside all that ran and waited would have needed {size_text(dense_bytes(context, record))}."
    )


def _decided(record: ServeRecord) -> str:
    attention, ffn, on_fall = record.decided
    first = "blocks" if on_fall == DROP else "the last admitted sequences"
    wanted = "no block" if not attention + ffn else _kinds(attention, ffn)
    return f"The engine was told to drop {wanted}, and that {first} go first where memory falls."


def _served(record: ServeRecord) -> str:
    prompts = sum(prompt for _, prompt, _ in record.arrived)
    came = f"{counted(len(record.arrived), 'request')} came ({counted(prompts, 'prompt token')})"
    made = f"{counted(record.steps, 'step')} delivered {counted(record.tokens, 'token')}"
    on_time = f"{record.on_time_tokens:,} by their deadline"
    more = []
    if record.shed:
        more.append(f"{_were(record.shed, 'request')} given up")
    if record.preemptions:
        more.append(f"{_were(record.preemptions, 'sequence')} sent back to the queue")
    if record.lost_tokens:
        more.append(f"{counted(record.lost_tokens, 'token')} will never come")
    ends = f"; {', '.join(more)}" if more else ""
    return f"In that second the limit was {size_text(record.limit_bytes)}: {came}, {made}, {on_time}{ends}."


def _left(record: ServeRecord) -> str:
    gone = _kinds(record.attention_dropped, record.ffn_dropped)
    back = ("", ", an attention block on its way back", ", an FFN block on its way back")
    dropped = (
        f"with {gone} dropped{back[min(record.loading, 2)]}" if gone else "with every block there"
    )
    return (
        f"It left {size_text(record.used_bytes)} in use, {dropped}, {record.still_waiting:,} waiting and "
        f"{record.still_running:,} running."
    )


def _paid(record: ServeRecord) -> str:
    if record.cost is None:
        return "No token was due to anybody, so it cost nothing."
    quality, late, undelivered = (part or 0.0 for part in record.cost)
    return (
        f"By calibration text that cost {nats_text(quality + late + undelivered)}: {quality:.3f} for format "
        f"and dropped blocks, {late:.3f} for lateness, {undelivered:.3f} for what was not delivered."
    )


def _rule(record: ServeRecord) -> str:
    if record.reason == "fallback" and record.late_us:
        return f"the answer came {record.late_us / 1000:,.1f} ms too late, so the tuned lookup stood in"
    return RULES.get(record.reason, record.reason)


def _kinds(attention: int, ffn: int) -> str:
    kinds = [(attention, "attention"), (ffn, "FFN")]
    told = " and ".join(f"{count} {kind}" for count, kind in kinds if count)
    return f"{told} block{'' if attention + ffn == 1 else 's'}" if told else ""


def _were(number: int, what: str) -> str:
    return f"{counted(number, what)} {'was' if number == 1 else 'were'}"
