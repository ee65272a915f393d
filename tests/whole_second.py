"""Worlds whose accounts were kept when an emergency lost its whole second: `golden/whole_second.json`.

Nothing here depends on a scenario's file or on a shipped table. Tiny worlds are drawn from a seed; two
longer ones have the rows that two scenarios once had, stored beside their accounts, and nats by a formula.
"""

import json
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.model.memory import Footprint
from rapgym.testing import worlds as made
from rapgym.world import bound, plan, simulator
from rapgym.world.records import Rows, World

FILE = Path(__file__).parent / "golden" / "whole_second.json"
TINY = 60  # worlds
DIGITS = 9
TERMS = ("quality", "stall", "emergency", "refused")


@dataclass(frozen=True, eq=False)
class Additive:
    """Each block that goes costs its own nats, whatever else is gone."""

    order: IntArray
    single: FloatArray  # [N]

    def nll(self, kept: BoolArray) -> tuple[FloatArray, BoolArray]:
        return np.round(~kept @ self.single, 6), np.ones(kept.shape[:-1], dtype=bool)

    def grid(self) -> BoolArray:
        """The cheapest sets that drop so many of each kind, [A + 1, F + 1, N]."""
        attention, ffn = (self.order[self.order % 2 == kind] for kind in range(2))
        found = np.ones((len(attention) + 1, len(ffn) + 1, len(self.single)), dtype=bool)
        for a, f in product(range(len(attention) + 1), range(len(ffn) + 1)):
            found[a, f, attention[:a]] = found[a, f, ffn[:f]] = False
        return found


def tiny(seed: int) -> World:
    """A world of two to four layers, six rows of at most four seconds."""
    rng = np.random.default_rng([seed, 41])
    number, rows, seconds = seed % made.TABLES, 6, int(rng.integers(2, 5))
    prompt, reserved, output = (rng.integers(0, high, rows) for high in (9, 7, 21))
    columns = made.tiny_table(number).calibration()
    ample = Rows((prompt > 0).astype(np.int64), prompt, reserved, prompt + reserved, output,
                 np.zeros((rows, seconds), dtype=np.int64))  # fmt: skip
    world = World(
        footprint=made.tiny_footprint(number, margin=7 * (seed % 2), activation=1.5 * (seed % 3)),
        quality=columns,
        rows=ample,
        ceiling=made.CEILING,
        restore_bytes_per_s=float(rng.choice([10.0, 40.0, 100.0, 1000.0])),
        mean_output_tokens=10.0,
        notice_s=int(rng.choice([0, 0, 0, 2])),
    )
    return made.with_limits(world, _falling(world, rng))


def _falling(world: World, rng: np.random.Generator) -> IntArray:
    """Limits at which random counts of blocks fit to the byte, and most rows fall, [T, W]."""
    limits, rows, layers = world.rows.limit_bytes.copy(), world.rows, world.footprint.layers
    least = [int(world.floor[kind::2].sum()) for kind in range(2)]
    for row in range(len(limits)):
        demand = (int(rows.prompt_tokens[row]), int(rows.reserved_tokens[row]))
        a, f = layers, layers
        for second in range(limits.shape[1]):
            if rng.random() < 0.4:
                a, f = (int(rng.integers(max(min(low, now) - (rng.random() < 0.1), 0), now + 1))
                        for low, now in zip(least, (a, f), strict=True))  # fmt: skip
            elif rng.random() < 0.2:
                a, f = layers, layers
            limits[row, second] = made.bytes_of(world, a, f, *demand) + rng.integers(0, 2)
    return limits


def shaped(stored: dict[str, Any]) -> World:
    """A world of 60 blocks with stored rows."""
    rng = np.random.default_rng(43)
    single = np.round(rng.gamma(1.0, 0.06, 60) + 0.004, 6)
    droppable = np.sort(rng.choice(np.arange(2, 60), 24, replace=False))
    order = droppable[np.argsort(single[droppable], kind="stable")]
    columns = {name: np.array(stored["rows"][name], dtype=np.int64) for name in stored["rows"]}
    longest = columns["prompt_tokens"] + columns["reserved_tokens"]
    return World(
        footprint=Footprint(**stored["footprint"]),
        quality=Additive(order, single),  # type: ignore[arg-type]
        rows=Rows(**columns, longest_tokens=longest),
        ceiling=3.9,
        restore_bytes_per_s=stored["restore_bytes_per_s"],
        mean_output_tokens=float(columns["output_tokens"].mean()),
    )


def _account(
    world: World, proposals: BoolArray, strict: bool, at_counts: FloatArray, sets: BoolArray
) -> dict[str, Any]:
    """What serving [T, N] from dense on comes to, and what the bound and the best plan cost."""
    rows = len(proposals)
    zero = np.zeros(1, dtype=np.int64)
    start = world.state(zero, zero)

    def served(proposed: BoolArray) -> tuple[list[list[float]], list[str]]:
        state, terms, ends = start, [], []
        for proposal in proposed:
            state, outcome = simulator.step(world, state, proposal[None], None, np.array([strict]))
            values = (float(getattr(outcome.terms, name)[0]) for name in TERMS)
            terms.append([round(value, DIGITS) + 0.0 for value in values])
            ends.append("".join("01"[int(bit)] for bit in state.loaded[0]))
        return terms, ends

    terms, ends = served(proposals)
    least, _ = bound.least_cost_rows(world, at_counts, start, rows)
    planned = plan.best_plan(world, sets, start, rows)[:, 0]
    best = served(planned)[0] if not strict else []
    return {
        "terms": terms,
        "ends": ends,
        "bound": [round(float(cost), DIGITS) + 0.0 for cost in least[:, 0]],
        "best_plan": round(float(np.sum(best)), DIGITS),
    }


def tiny_account(seed: int, **changed: Any) -> dict[str, Any]:
    """Of one tiny world under random proposals, every second one refused where it misfits."""
    world = replace(tiny(seed), **changed)
    columns = world.quality
    rng = np.random.default_rng([seed, 42])
    grid = columns.grid_kept.reshape(-1, world.blocks)
    proposals = rng.random((len(world.rows), world.blocks)) < 0.8
    return _account(world, proposals, seed % 4 == 3, columns.at_counts, grid)


def shaped_account(stored: dict[str, Any], **changed: Any) -> dict[str, Any]:
    """Of one longer world under the lookup: the cheapest set that fits in a row's first second."""
    world = replace(shaped(stored), **changed)
    quality: Any = world.quality
    grid = quality.grid()
    sets = grid.reshape(-1, world.blocks)
    nll = quality.nll(sets)[0]
    asked = world.demand_of(np.arange(len(world.rows)), np.ones(len(world.rows)))
    used = np.stack([
        world.footprint.used_bytes(one, asked.tokens, asked.prompt_tokens) for one in sets
    ], axis=1)  # fmt: skip
    fits = used + world.footprint.margin_bytes <= world.rows.limit_bytes[:, :1]
    chosen = np.where(fits, nll, np.inf).argmin(axis=1)
    return _account(world, sets[chosen], False, quality.nll(grid)[0], sets[:: -(len(sets) // 40)])


def accounts(stored: dict[str, Any], **changed: Any) -> dict[str, Any]:
    """Of all worlds: `stored` holds the rows of the longer ones, by name."""
    return {
        "tiny": [tiny_account(seed, **changed) for seed in range(TINY)],
        "shaped": {name: shaped_account(each, **changed) for name, each in stored.items()},
    }


def kept() -> dict[str, Any]:
    """The file."""
    found: dict[str, Any] = json.loads(FILE.read_text())
    return found
