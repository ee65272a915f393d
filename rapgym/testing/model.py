"""One row in one lane, second by second, in plain Python: written from DESIGN.md sections 2, 5 and 6.

Loops over lists of ints. It shares no code with the package but the predictor's answer for a kept set
that has no row of its own, and that answer is held to what the measured rows allow.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import product
from math import ceil
from typing import Any

import numpy as np

from rapgym.arrays import BoolArray
from rapgym.quality.columns import QualityColumns
from rapgym.world.records import World

Kept = frozenset[int]
TERMS = ("quality", "stall", "emergency", "refused")


def kept_of(bits: Iterable[bool]) -> Kept:
    """The numbers of the blocks that stay."""
    return frozenset(block for block, stays in enumerate(bits) if stays)


class PlainQuality:
    """Nats above dense of kept sets, by a table's rows; where there is none, by its predictor."""

    def __init__(self, columns: QualityColumns) -> None:
        self._columns, self.blocks = columns, len(columns.floor)
        values = columns.sets.nll.tolist()
        kept = (kept_of(bits) for bits in columns.sets.kept.tolist())
        self._rows = dict(zip(kept, values, strict=True))
        self._predicted: dict[Kept, float] = {}
        self._best = self._best_at_counts(kept_of(columns.floor.tolist()))

    def __call__(self, kept: Kept) -> tuple[float, bool]:
        """Nats of a set, and whether it was measured.

        Raises:
            AssertionError: a prediction is better than any set of these counts may be.
        """
        if kept in self._rows:
            return self._rows[kept], True
        if kept not in self._predicted:
            bits = np.array([[block in kept for block in range(self.blocks)]])
            value, least = float(self._columns.nll(bits)[0][0]), self.least(kept)
            assert value >= least, f"predicted {value}, where no set of these counts has {least}"
            self._predicted[kept] = value
        return self._predicted[kept], False

    def least(self, kept: Kept) -> float:
        """M(counts): the best measured set of these counts, else the worst of smaller counts."""
        a, f = self._counts(kept)
        if (a, f) in self._best:
            return self._best[a, f]
        smaller = product(range(a + 1), range(f + 1))
        return max(self._best[counts] for counts in smaller if counts in self._best)

    def _counts(self, kept: Kept) -> tuple[int, int]:
        dropped = [block for block in range(self.blocks) if block not in kept]
        ffn = sum(block % 2 for block in dropped)
        return len(dropped) - ffn, ffn

    def _best_at_counts(self, floor: Kept) -> dict[tuple[int, int], float]:
        best: dict[tuple[int, int], float] = {}
        for kept, value in self._rows.items():
            if floor <= kept:
                counts = self._counts(kept)
                best[counts] = min(value, best.get(counts, value))
        return best


@lru_cache(maxsize=64)
def quality_of(columns: QualityColumns) -> PlainQuality:
    """`PlainQuality`, made once of the same columns."""
    return PlainQuality(columns)


def asking(columns: Any, blocks: int) -> Callable[[Kept], tuple[float, bool]]:
    """What columns, or what stands for them, say of single kept sets, unchecked."""

    def answer(kept: Kept) -> tuple[float, bool]:
        value, measured = columns.nll(bits_of(kept, blocks)[None])
        return float(value[0]), bool(measured[0])

    return answer


@dataclass(frozen=True)
class PlainWorld:
    """A world as lists of ints."""

    order: tuple[int, ...]  # blocks that may be dropped, the first to go first
    weights: tuple[int, ...]  # bytes of each block
    kv_token_bytes: int  # over all attention blocks together
    fixed_bytes: int
    activation_bytes_per_token: float
    margin_bytes: int
    prompt_tokens: list[int]
    reserved_tokens: list[int]
    output_tokens: list[int]
    limit_bytes: list[list[int]]  # a row and second
    ceiling: float
    restore_bytes_per_s: float
    mean_output_tokens: float
    notice_s: int
    reaction_s: float
    quality: Callable[[Kept], tuple[float, bool]]

    @classmethod
    def of(
        cls, world: World, quality: Callable[[Kept], tuple[float, bool]] | None = None
    ) -> "PlainWorld":
        """The same world.

        Args:
            quality: what says how well kept sets do; a `PlainQuality` of the world's unless given.
        """
        foot, rows = world.footprint, world.rows
        return cls(
            order=tuple(world.quality.order.tolist()),
            weights=(foot.attention_bytes, foot.ffn_bytes) * foot.layers,
            kv_token_bytes=foot.model_kv_token_bytes,
            fixed_bytes=foot.fixed_bytes,
            activation_bytes_per_token=foot.activation_bytes_per_token,
            margin_bytes=foot.margin_bytes,
            prompt_tokens=rows.prompt_tokens.tolist(),
            reserved_tokens=rows.reserved_tokens.tolist(),
            output_tokens=rows.output_tokens.tolist(),
            limit_bytes=rows.limit_bytes.tolist(),
            ceiling=world.ceiling,
            restore_bytes_per_s=world.restore_bytes_per_s,
            mean_output_tokens=world.mean_output_tokens,
            notice_s=world.notice_s,
            reaction_s=world.reaction_s,
            quality=quality_of(world.quality) if quality is None else quality,
        )

    @property
    def floor(self) -> Kept:
        return frozenset(range(len(self.weights))) - {*self.order}


@dataclass(frozen=True)
class Asked:
    """Bytes of one row: of each block if kept, and what there is for blocks in each second."""

    costs: list[int]
    overhead: int  # that no kept set avoids, without the margin
    budgets: list[int]

    def used(self, kept: Iterable[int]) -> int:
        return sum(self.costs[block] for block in kept)


def asked(world: PlainWorld, row: int, limit_row: int, scale: float) -> Asked:
    """The bytes of one row with its tokens multiplied by `scale`."""
    prompt, reserved = round(world.prompt_tokens[row] * scale), round(
        world.reserved_tokens[row] * scale
    )  # fmt: skip
    kv = ceil(Fraction(world.kv_token_bytes * (prompt + reserved) * 2, len(world.weights)))
    costs = [weight + (0 if block % 2 else kv) for block, weight in enumerate(world.weights)]
    overhead = world.fixed_bytes + ceil(world.activation_bytes_per_token * prompt)
    taken = overhead + world.margin_bytes
    return Asked(costs, overhead, [limit - taken for limit in world.limit_bytes[limit_row]])


def fit(proposal: Kept, costs: Sequence[int], budget: int, order: Sequence[int]) -> Kept:
    """Drop along the order while it does not fit; then, last dropped first, give back what fits."""
    kept = set(proposal) | (set(range(len(costs))) - set(order))
    spent = sum(costs[block] for block in kept)
    dropped = []
    for block in order:
        if spent > budget and block in kept:
            kept.remove(block)
            dropped.append(block)
            spent -= costs[block]
    for block in reversed(dropped):
        if spent + costs[block] <= budget:
            kept.add(block)
            spent += costs[block]
    return frozenset(kept)


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
    loss: float  # nats, summed over served seconds
    falls: tuple[int, ...]  # seconds of the row in which the limit fell below what was in use
    terms: dict[str, float]  # quality, stall, emergency, refused


def serve(
    world: PlainWorld,
    loaded: Kept,
    proposal: Kept,
    row: int,
    limit_row: int,
    scale: float,
    *,
    source: str = "policy",
    strict: bool = False,
) -> Served:
    """One row from a proposal to what it cost.

    Args:
        loaded: what is in memory before.
        source: whose proposal it is, as `shield.Reason` names it.
        strict: a misfit is refused rather than repaired.
    """
    order, floor, weights = world.order, world.floor, world.weights
    needs = asked(world, row, limit_row, scale)
    costs, budgets, used = needs.costs, needs.budgets, needs.used

    # What is executed from the first second on, or a refusal.
    wanted = proposal | floor
    kept = fit(proposal, costs, budgets[0], order)
    refused = used(floor) > budgets[0] or (strict and used(wanted) > budgets[0])
    reason = "repaired" if kept != wanted and source == "policy" else source
    if refused:
        kept, reason = floor, "refused"
    first = kept
    first_nll, known = world.quality(kept)
    loss = min(first_nll, world.ceiling)
    known = known or refused
    in_memory = loaded if refused else kept
    to_return = 0 if refused else sum(weights[block] for block in kept - loaded)
    stall_left = to_return / world.restore_bytes_per_s

    seconds = dict.fromkeys(("stall", "emergency", "refused", "served"), 0.0)
    loss_sum, refused_from = 0.0, 0 if refused else None
    falls: list[int] = []
    for second, budget in enumerate(budgets):
        lost = 0.0  # of this second, while blocks leave
        if not refused and used(kept) > budget:
            falls.append(second)
            smaller = fit(kept, costs, budget, order)
            if strict or used(smaller) > budget:
                refused, refused_from = True, second
            else:
                kept = smaller
                if world.notice_s == 0:
                    lost = 1.0 if world.reaction_s > 1 else world.reaction_s
                value, measured = world.quality(kept)
                loss, known = min(value, world.ceiling), known and measured
            in_memory = kept
        if refused:
            seconds["refused"] += 1
        else:
            rest = 1 - lost
            stall = rest if stall_left > rest else stall_left
            stall_left -= stall
            seconds["emergency"] += lost
            seconds["stall"] += stall
            seconds["served"] += rest - stall
            loss_sum += (rest - stall) * loss

    if refused_from is not None:
        room = min(budgets[refused_from:])
        in_memory = _left(in_memory, wanted, floor, weights, room, strict=strict)
    weight = world.output_tokens[row] / world.mean_output_tokens
    lost = weight * world.ceiling / len(budgets)
    return Served(
        kept=first,
        kept_end=in_memory,
        reason=reason,
        used_bytes=0 if reason == "refused" else needs.overhead + used(first),
        nll=first_nll,
        measured=known,
        seconds=seconds,
        loss=loss_sum,
        falls=tuple(falls),
        terms={
            "quality": weight * loss_sum / len(budgets),
            **{name: lost * seconds[name] for name in TERMS[1:]},
        },
    )


def _left(
    in_memory: Kept, wanted: Kept, floor: Kept, weights: Sequence[int], room: int, *, strict: bool
) -> Kept:
    """What stays after a refusal, without KV cache, until the row ends.

    The floor, or all of it where a policy declared so; of what does not fit, the last goes first.
    """

    def spent(kept: Kept) -> int:
        return sum(weights[block] for block in kept)

    own, stays = in_memory & wanted, in_memory & floor
    if strict and spent(own) <= room:
        return own
    for block in sorted(floor, reverse=True):
        if spent(stays) > room:
            stays = stays - {block}
    for block in sorted((in_memory & floor) - stays):
        if spent(stays) + weights[block] <= room:
            stays = stays | {block}
    return stays


def bits_of(kept: Kept, n: int) -> BoolArray:
    """The same set as bool [n]."""
    return np.array([block in kept for block in range(n)])
