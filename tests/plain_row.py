"""One row in one lane, second by second, in plain Python: written from DESIGN.md sections 2, 5 and 6.

It shares no code with the simulator but the quality of a kept set.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from rapgym.world import World

Kept = frozenset[int]


@dataclass(frozen=True)
class Served:
    """What one row came to. Terms are nats an output token, weighted as rewards are."""

    kept: Kept
    kept_end: Kept
    reason: str
    used_bytes: int
    nll: float
    measured: bool
    seconds: dict[str, float]  # stall, emergency, refused, served: they add up to W
    terms: dict[str, float]  # quality, stall, emergency, refused


def plain_fit(proposal: Kept, costs: Sequence[int], budget: int, order: Sequence[int]) -> Kept:
    """Drop along the order while it does not fit; then, last dropped first, give back what fits."""
    kept = {block for block in range(len(costs)) if block in proposal or block not in order}
    dropped = []
    for block in order:
        if sum(costs[b] for b in kept) > budget and block in kept:
            kept.remove(block)
            dropped.append(block)
    for block in reversed(dropped):
        if sum(costs[b] for b in kept) + costs[block] <= budget:
            kept.add(block)
    return frozenset(kept)


def serve(
    world: World,
    loaded: Kept,
    proposal: Kept,
    row: int,
    limit_row: int,
    scale: float,
    *,
    strict: bool = False,
) -> Served:
    rows, foot = world.rows, world.footprint
    n, order = 2 * foot.layers, [int(b) for b in world.quality.order]
    floor = frozenset(b for b in range(n) if b not in order)
    prompt, reserved = (
        round(int(c[row]) * scale) for c in (rows.prompt_tokens, rows.reserved_tokens)
    )
    weights = [foot.ffn_bytes if b % 2 else foot.attention_bytes for b in range(n)]
    kv = foot.kv_token_bytes * (prompt + reserved)
    costs = [weights[b] + (0 if b % 2 else kv) for b in range(n)]
    overhead = foot.fixed_bytes + ceil(foot.activation_bytes_per_token * prompt)
    budgets = [int(limit) - overhead - foot.margin_bytes for limit in rows.limit_bytes[limit_row]]

    def used(kept: Kept) -> int:
        return sum(costs[b] for b in kept)

    def nll(kept: Kept) -> tuple[float, bool]:
        value, measured = world.quality.nll(np.array([[b in kept for b in range(n)]]))
        return float(value[0]), bool(measured[0])

    # What is executed from the first second on, or a refusal.
    wanted = proposal | floor
    kept = plain_fit(proposal, costs, budgets[0], order)
    refused = used(floor) > budgets[0] or (strict and used(wanted) > budgets[0])
    reason = "policy" if kept == wanted else "repaired"
    if refused:
        kept, reason = floor, "refused"
    first = kept
    first_nll, known = nll(kept)
    loss = min(first_nll, world.ceiling)
    known = known or refused
    in_memory = loaded if refused else kept
    to_return = 0 if refused else sum(weights[b] for b in kept - loaded)
    stall_left = to_return / world.restore_bytes_per_s

    seconds = dict.fromkeys(("stall", "emergency", "refused", "served"), 0.0)
    loss_sum, refused_from = 0.0, 0 if refused else None
    for second, budget in enumerate(budgets):
        emergency = False
        if not refused and used(kept) > budget:
            smaller = plain_fit(kept, costs, budget, order)
            if strict or used(smaller) > budget:
                refused, refused_from = True, second
            else:
                emergency, kept = world.notice_s == 0, smaller
                value, measured = nll(kept)
                loss, known = min(value, world.ceiling), known and measured
            in_memory = kept
        if refused:
            seconds["refused"] += 1
        elif emergency:
            seconds["emergency"] += 1
        else:
            stall = min(stall_left, 1.0)
            stall_left -= stall
            seconds["stall"] += stall
            seconds["served"] += 1 - stall
            loss_sum += (1 - stall) * loss

    if refused_from is not None:
        # Without KV cache, until the row ends: the floor, or all of it where a policy declared so.
        room = min(budgets[refused_from:])
        own, stays = in_memory & wanted, in_memory & floor
        if strict and sum(weights[b] for b in own) <= room:
            stays = own
        for block in sorted(floor, reverse=True):
            if sum(weights[b] for b in stays) > room:
                stays = stays - {block}
        for block in sorted((in_memory & floor) - stays):
            if sum(weights[b] for b in stays) + weights[block] <= room:
                stays = stays | {block}
        in_memory = stays

    weight = int(rows.output_tokens[row]) / world.mean_output_tokens
    lost = weight * world.ceiling / len(budgets)
    return Served(
        kept=first,
        kept_end=in_memory,
        reason=reason,
        used_bytes=0 if reason == "refused" else overhead + used(first),
        nll=first_nll,
        measured=known,
        seconds=seconds,
        terms={
            "quality": weight * loss_sum / len(budgets),
            **{name: lost * seconds[name] for name in ("stall", "emergency", "refused")},
        },
    )
