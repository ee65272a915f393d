"""Which kept sets are worth measuring, and the greedy orders that measuring finds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rapgym.arrays import BoolArray
from rapgym.jobs.progress import Progress
from rapgym.model import blocks
from rapgym.runtime.measure.meter import Meter


@dataclass(frozen=True, slots=True)
class Plan:
    """How far each design goes. Defaults suit SmolLM2-135M on two cores."""

    attention_drops: int
    ffn_drops: int
    random: int = 200
    near: int = 60
    seed: int = 0
    grid_step: int = 1  # every so manieth count of each order, full counts included

    def evaluations(self, n: int) -> dict[str, int]:
        """Kept sets that each greedy design measures on its draw of text."""
        layers, a, f = n // 2, self.attention_drops, self.ffn_drops
        both = a + f
        return {
            "single": n,
            "attention-order": sum(layers - step for step in range(a)),
            "ffn-order": sum(layers - step for step in range(f)),
            "joint-order": both * (both + 1) // 2,
        }


def dense(n: int) -> BoolArray:
    return np.ones(n, dtype=bool)


def without(n: int, dropped: int | Sequence[int]) -> BoolArray:
    """The kept set of n blocks that lacks just `dropped`."""
    kept = dense(n)
    kept[dropped] = False
    return kept


def singles(n: int) -> list[BoolArray]:
    return [without(n, block) for block in range(n)]


def pairs(n: int) -> list[BoolArray]:
    """Every removal of two blocks."""
    return [without(n, [one, other]) for one in range(n) for other in range(one + 1, n)]


def greedy_order(
    meter: Meter,
    sample: str,
    design: str,
    candidates: list[int],
    drops: int,
    progress: Progress | None = None,
) -> list[int]:
    """Drop the block whose removal hurts least, measure again, repeat.

    Returns:
        The first `drops` blocks to go, cheapest first; ties go to the lower block.
    """
    n, order = meter.model.blocks, list[int]()
    for _ in range(drops):
        left = [block for block in candidates if block not in order]
        tried = [without(n, [*order, block]) for block in left]
        measured = meter.measure(tried, sample, design, progress)
        costs = [measured[blocks.key(kept)].mean_nll for kept in tried]
        order.append(left[int(np.argmin(costs))])
    return order


def grid(n: int, attention: list[int], ffn: list[int], step: int = 1) -> list[BoolArray]:
    """The crossing of two orders' prefixes: every `step`-th count of each, full counts included."""
    a_counts, f_counts = (_counts(len(order), step) for order in (attention, ffn))
    return [without(n, [*attention[:a], *ffn[:f]]) for a in a_counts for f in f_counts]


def grid_size(attention_drops: int, ffn_drops: int, step: int = 1) -> int:
    """How many kept sets `grid` gives."""
    return len(_counts(attention_drops, step)) * len(_counts(ffn_drops, step))


def _counts(most: int, step: int) -> list[int]:
    return sorted({*range(0, most + 1, step), most})


TRIES = 50  # draws for each set that is asked for; a small model has fewer distinct ones


def random_sets(n: int, droppable: list[int], count: int, seed: int) -> list[BoolArray]:
    """Kept sets above the floor: numbers of dropped blocks uniform, then the blocks uniform.

    Fewer than `count` where there are no more, or hardly any more.
    """
    rng = np.random.default_rng([seed, 1])
    attention = [block for block in droppable if block % 2 == 0]
    ffn = [block for block in droppable if block % 2]
    sets: dict[str, BoolArray] = {}
    for _ in range(TRIES * count):
        if len(sets) == count:
            break
        a, f = rng.integers(len(attention) + 1), rng.integers(len(ffn) + 1)
        if a + f < 2:
            continue  # dense and single removals have rows already
        chosen = [*rng.choice(attention, a, replace=False), *rng.choice(ffn, f, replace=False)]
        kept = without(n, chosen)
        sets.setdefault(blocks.key(kept), kept)
    return list(sets.values())


def near_sets(
    n: int, attention: list[int], ffn: list[int], count: int, seed: int
) -> list[BoolArray]:
    """Grid sets with one to three blocks exchanged for others of the same kind.

    Fewer than `count` where there are no more, or hardly any more.
    """
    rng = np.random.default_rng([seed, 2])
    sets: dict[str, BoolArray] = {}
    for _ in range(TRIES * count):
        if len(sets) == count:
            break
        kept = dense(n)
        for order in (attention, ffn):
            kept[order[: rng.integers(1, max(2, len(order)))]] = False
        for _ in range(rng.integers(1, 4)):
            order = (attention, ffn)[rng.integers(2)]
            gone = [block for block in order if not kept[block]]
            here = [block for block in order if kept[block]]
            if gone and here:
                kept[rng.choice(gone)], kept[rng.choice(here)] = True, False
        sets.setdefault(blocks.key(kept), kept)
    return list(sets.values())
