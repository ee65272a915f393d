"""Rows of rivals that drop no block: a static format, partial admission, weight streaming.

A rule serves n rows at once, given what each finds in memory; it shares bytes, seconds and prices
with the simulator's rows. The four terms of a row lie between 0 and C and add up to its cost, but
for a static format whose measured text it predicts better than dense: that is a cost below 0.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rapgym.arrays import FloatArray, IntArray
from rapgym.workload.residence import DECODE_S_PER_TOKEN
from rapgym.world import shield, simulator, stall
from rapgym.world.records import World
from rapgym.world.shield import Reason

NEVER = np.iinfo(np.int64).max  # bytes that no limit allows
Memory = NDArray[Any]  # bool [n, N], blocks that are loaded; or int64 [n, 1], bytes of them


@dataclass(frozen=True, slots=True)
class Played:
    """What n rows came to. Costs are means over the row's seconds, nats an output token."""

    quality: FloatArray  # [n]
    stall: FloatArray  # [n]
    emergency: FloatArray  # [n]
    refused: FloatArray  # [n]
    reason: IntArray  # shield.Reason, [n]; REPAIRED where only a part was admitted or is resident
    used_bytes: IntArray  # at the row's start, without the margin; 0 where refused, [n]
    after: Memory  # what is in memory when the row ends


@dataclass(frozen=True, slots=True)
class Rule:
    """How a rival serves rows."""

    fresh: Memory  # what is loaded where it starts, [S]
    play: Callable[[IntArray, IntArray, Memory], Played]  # row [n], limit_row [n], before [n, S]


def in_turn(rule: Rule, row: IntArray, limit_row: IntArray) -> Played:
    """Play rows after one another in each lane.

    All are played at once, as if everything were loaded before each; then again those that find
    something else. Row t is right after at most t repetitions, and few rows need any.

    Args:
        row, limit_row: int64 [T, B].

    Returns:
        Entries of shape [T * B], in the order of `row.ravel()`.
    """
    size, lanes = row.size, row.shape[1]
    rows, limits = row.ravel(), limit_row.ravel()
    before = np.tile(rule.fresh, (size, 1))
    found = rule.play(rows, limits, before)
    changed = np.arange(size)
    while changed.size:
        following = changed[changed < size - lanes] + lanes
        other = (found.after[following - lanes] != before[following]).any(axis=1)
        changed = following[other]
        before[changed] = found.after[changed - lanes]
        again = rule.play(rows[changed], limits[changed], before[changed])
        for field in fields(Played):
            getattr(found, field.name)[changed] = getattr(again, field.name)
    return found


def static(world: World) -> Rule:
    """One format for good, refused where it does not fit: the simulator's own step.

    The world's footprint is the format's, its quality a constant, and every block is of its floor.
    The rest of a row is refused from the second in which the limit falls below what is in use,
    announced or not: such a deployment has nothing to drop. As a policy that refuses, it keeps
    weights that fit without KV; of others only as many blocks as must go, where a policy falls back
    to its floor: that favours the rival.
    """

    def play(row: IntArray, limit_row: IntArray, before: Memory) -> Played:
        state = world.state(row, limit_row, loaded=before)
        whole = np.ones((len(row), world.blocks), dtype=bool)
        strict = np.ones(len(row), dtype=bool)
        following, outcome = simulator.step(world, state, whole, refuses_misfit=strict)
        seconds, price = outcome.seconds, world.ceiling / world.window_s
        return Played(
            quality=seconds.loss / world.window_s,
            stall=seconds.stall * price,
            emergency=seconds.emergency * price,
            refused=seconds.refused * price,
            reason=outcome.reason,
            used_bytes=outcome.used_bytes,
            after=following.loaded,
        )

    return Rule(np.ones(world.blocks, dtype=bool), play)


@dataclass(frozen=True, slots=True)
class Batches:
    """What the first k requests of each row ask for, k from 0 to K, the largest batch."""

    need_bytes: (
        IntArray  # dense, margin included; more than any limit for k above the batch, [T, K + 1]
    )
    share: FloatArray  # of the row's realised output tokens; 1 where it has none, [T, K + 1]


def batches(
    world: World, prompt_tokens: IntArray, reserved_tokens: IntArray, output_tokens: IntArray
) -> Batches:
    """The table that partial admission looks up.

    Args:
        prompt_tokens, reserved_tokens: in the world's tokens, summed over the first k requests,
            int64 [T, K + 1]; -1 where the row has fewer than k.
        output_tokens: realised, summed likewise, int64 [T, K + 1].
    """
    foot, there = world.footprint, prompt_tokens >= 0
    tokens = prompt_tokens + reserved_tokens
    need = (
        foot.overhead_bytes(prompt_tokens)
        + foot.margin_bytes
        + int(foot.weights.sum())
        + foot.layers * foot.kv_bytes(tokens)
    )
    total = output_tokens[:, -1:]
    share = np.divide(output_tokens, total, out=np.ones(there.shape), where=total > 0)
    return Batches(np.where(there, need, NEVER), share)


def partial_admission(world: World, asked: Batches, nll: float = 0.0) -> Rule:
    """All blocks in one format; the newest requests are refused until the rest fits in the first second.

    Where the limit falls in mid-row, the newest of those admitted are evicted until the others fit:
    what they still had to say is refused, and the others lose `reaction_s` of that second, an emergency
    unless `notice_s` covered it. Where not even the weights fit, the rest of the row is refused, blocks are
    evicted from the last one on until the others fit, and they are charged on return.

    Nobody waits and nobody returns within the row. A refused answer costs C in proportion to the
    output tokens that it would have had, which admission does not look at: long answers that came
    late are as likely to go as short ones. Evictions at once and free of charge favour this rival;
    that a refused request cannot be served a little later, when the limit is back, does not.

    Args:
        world: whose footprint is the format's.
        nll: of the format, nats a token above full bf16.
    """
    foot, loss = world.footprint, min(nll, world.ceiling)

    def play(row: IntArray, limit_row: IntArray, before: Memory) -> Played:
        limit = world.rows.limit_bytes[limit_row]
        admitted = np.minimum.accumulate(_fitting(asked.need_bytes, row, limit), axis=1)
        gone = admitted < 0
        share = np.where(gone, 0.0, asked.share[row[:, None], np.maximum(admitted, 0)])
        paused_s = np.where(gone, 0.0, _paused_s(world, admitted))
        able_s = np.where(gone, 0.0, 1.0 - paused_s)
        missing = stall.missing_bytes(foot, before)
        stalled = stall.in_seconds(able_s, stall.stall_s(world, missing))

        present = np.where(gone[:, :1], before, True)
        spare = foot.budget_bytes(limit, np.array(0))
        lowest = np.where(gone, spare, NEVER).min(axis=1)
        last_first = np.arange(world.blocks)[::-1]
        weights = np.broadcast_to(foot.weights, present.shape)
        first, whole = admitted[:, 0], world.rows.batch[row]
        reason = np.where(first < whole, Reason.REPAIRED, Reason.POLICY)
        need = asked.need_bytes[row, np.maximum(first, 0)] - foot.margin_bytes
        return Played(
            quality=loss * (share * (able_s - stalled)).mean(axis=1),
            stall=world.ceiling * (share * stalled).mean(axis=1),
            emergency=world.ceiling * (share * paused_s).mean(axis=1),
            refused=world.ceiling * (1 - share).mean(axis=1),
            reason=np.where(first < 0, Reason.REFUSED, reason),
            used_bytes=np.where(first < 0, 0, need),
            after=shield.fit(present, weights, lowest, last_first),
        )

    return Rule(np.ones(world.blocks, dtype=bool), play)


def _fitting(need_bytes: IntArray, row: IntArray, limit: IntArray) -> IntArray:
    """How many requests of these rows fit in each second, -1 where the weights do not: [n, W]."""
    batch = (need_bytes < NEVER).sum(axis=1)[row] - 1
    found = np.repeat(batch[:, None], limit.shape[1], axis=1)
    short = need_bytes[row, batch] > limit.min(axis=1)
    needs = need_bytes[row[short]]
    for second in range(limit.shape[1]):
        found[short, second] = (needs <= limit[short, second, None]).sum(axis=1) - 1
    return found


def weight_streaming(world: World, nll: float = 0.0) -> Rule:
    """Dense in the scenario's format, KV in memory; block weights that do not fit are read at every forward pass.

    At the row's start as many bytes of weights as fit become resident, those that return at a stall,
    as blocks do. A decode step of the batch then takes 30 ms and the reading of what is missing over
    the host link; the share of the second's tokens that are not served for lack of time counts as
    stall. Where the limit falls below what is resident, weights go at once and `reaction_s` of that
    second is not served, an emergency unless `notice_s` covered it. Where embeddings and KV alone do not fit, the
    rest of the row is refused; weights that fit without KV stay.

    That weights are cut to the byte, need no buffer to be read into, and prefill reads none of them
    favours this rival; that reading and computing do not overlap does not (with full overlap a step
    would take the longer of the two, at best half of this), nor does it that less than all that
    fits is never made resident to spare an emergency.

    Args:
        nll: of the format, nats a token above full bf16.
    """
    foot, weights = world.footprint, int(world.footprint.weights.sum())
    loss = min(nll, world.ceiling)

    def play(row: IntArray, limit_row: IntArray, before: Memory) -> Played:
        asked = world.demand_of(row, np.ones(len(row)))
        limit = world.rows.limit_bytes[limit_row]
        fixed = foot.overhead_bytes(asked.prompt_tokens) + foot.margin_bytes
        taken = fixed + foot.layers * foot.kv_bytes(asked.tokens)
        room = np.minimum.accumulate(np.minimum(limit - taken[:, None], weights), axis=1)
        gone = room < 0
        resident = np.maximum(room, 0)
        paused_s = np.where(gone, 0.0, _paused_s(world, resident))
        able_s = np.where(gone, 0.0, 1.0 - paused_s)
        returning = np.maximum(resident[:, 0] - before[:, 0], 0)
        stalled = stall.in_seconds(able_s, stall.stall_s(world, returning))
        reading_s = stall.stall_s(world, weights - resident)  # at every step
        served = DECODE_S_PER_TOKEN / (DECODE_S_PER_TOKEN + reading_s)

        last = np.where(gone, weights, resident).min(axis=1)  # while it was served
        present = np.where(gone[:, 0], before[:, 0], last)
        spare = foot.budget_bytes(limit, np.array(0))
        lowest = np.maximum(np.where(gone, spare, weights).min(axis=1), 0)
        lost = stalled + (able_s - stalled) * (1 - served)
        reason = np.where(resident[:, 0] < weights, Reason.REPAIRED, Reason.POLICY)
        used = taken - foot.margin_bytes + resident[:, 0]
        return Played(
            quality=loss * ((able_s - stalled) * served).mean(axis=1),
            stall=world.ceiling * lost.mean(axis=1),
            emergency=world.ceiling * paused_s.mean(axis=1),
            refused=world.ceiling * gone.mean(axis=1),
            reason=np.where(gone[:, 0], Reason.REFUSED, reason),
            used_bytes=np.where(gone[:, 0], 0, used),
            after=np.minimum(present, lowest)[:, None],
        )

    return Rule(np.array([weights]), play)


def _paused_s(world: World, held: IntArray) -> FloatArray:
    """How much of each second is lost where something had to go at once, held [n, W] fell: [n, W]."""
    falls = np.zeros(held.shape, dtype=bool)
    falls[:, 1:] = held[:, 1:] < held[:, :-1]
    return np.where(falls, stall.pause_s(world), 0.0)
