"""A world small enough for pencil and paper: the toy table's model, four seconds a row.

Three layers, so six blocks: attn0 ffn0 attn1 ffn1 attn2 ffn2 = 0 ... 5; the floor is attn0 and ffn0.
Bytes: an attention block 40 and 4 more for each token in flight, an FFN block 60, embeddings 100.
With t tokens dense takes 400 + 12 t and the floor 200 + 4 t; an attention block is as large as an FFN
block at t = 5. All weights together are 300 bytes; unless a world says otherwise they come back in
3 s, 100 bytes a second. C = 4. See toy_table.py for the nats of each kept set.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from toy_table import CEILING, toy_columns

from rapgym.arrays import FloatArray
from rapgym.model import memory
from rapgym.model.memory import Footprint
from rapgym.model.shapes import ModelSpec
from rapgym.policies import tuning
from rapgym.policies.basis import basis
from rapgym.quality.columns import QualityColumns
from rapgym.scenarios.story import GIB, Scenario, Tenant
from rapgym.workload.series import Series
from rapgym.world import bound
from rapgym.world.records import Rows, State, World

MODEL = ModelSpec("toy", layers=3, hidden=5, query_heads=1, kv_heads=1, head_dim=1, ffn_dim=2,
                  vocabulary=3, tied=True)  # fmt: skip
FOOTPRINT = memory.footprint(MODEL)
WINDOW_S = 4
CARD_BYTES = 1000


def toy_rows(
    tokens: Sequence[int],
    limit_bytes: Sequence[Sequence[int]],
    output_tokens: Sequence[int] | None = None,
) -> Rows:
    """Rows of one request each (none where there are no tokens); every token is of a prompt."""
    prompt = np.array(tokens, dtype=np.int64)
    zero = np.zeros_like(prompt)
    output = np.full_like(prompt, 10) if output_tokens is None else np.array(output_tokens)
    return Rows((prompt > 0).astype(np.int64), prompt, zero, prompt, output.astype(np.int64),
                np.array(limit_bytes, dtype=np.int64))  # fmt: skip


def toy_world(
    rows: Rows,
    *,
    quality: QualityColumns | None = None,
    footprint: Footprint = FOOTPRINT,
    restore_bytes_per_s: float = 100.0,
    notice_s: int = 0,
    reaction_s: float = 1.0,
) -> World:
    """A world of these rows; a row of 10 output tokens has weight 1.

    An emergency costs its whole second unless stated: that is easy to count by hand.
    """
    columns = toy_columns() if quality is None else quality
    return World(footprint, columns, rows, CEILING, restore_bytes_per_s, 10.0, notice_s,
                 reaction_s)  # fmt: skip


def lanes_at(world: World, row: Sequence[int], limit_row: Sequence[int] | None = None) -> State:
    """Lanes at these rows, the tenant at its own (the same unless stated), every block in memory."""
    rows = np.array(row, dtype=np.int64)
    limits = rows.copy() if limit_row is None else np.array(limit_row, dtype=np.int64)
    return world.state(rows, limits)


# The same model in a scenario, on a card of 1000 bytes: the tenant holds 400 bytes of weights and 12
# for each of at most 40 tokens, so the limit moves between 120 and 600 bytes.
STORY = Scenario(
    "toy",
    "A toy service beside its twin.",
    card_gib=CARD_BYTES / GIB,
    served="toy",
    trace="toy",
    every=1,
    tenant=Tenant("toy", "toy", every=1, pool_gib=480 / GIB),
    restore_s=3.0,
    reaction_s=1.0,
    window_s=WINDOW_S,
    workload="toy",
    table="toy",
    offsets=4,
    group="8-bit",
)


def toy_series(rows: int = 200, seed: int = 0) -> Series:
    """A workload of at most two requests a row, and bursts of the tenant: uneventful, this is not."""
    rng = np.random.default_rng(seed)
    batch = rng.integers(0, 3, rows)
    prompt = batch * rng.integers(1, 5, rows)
    burst = np.repeat(rng.integers(0, 41, rows * WINDOW_S // 3 + 1), 3)[: rows * WINDOW_S]
    output = batch * rng.integers(0, 6, rows)
    longest = prompt // np.maximum(batch, 1)
    requests = []
    for size, each, total in zip(batch.tolist(), longest.tolist(), output.tolist(), strict=True):
        first = min(total, 5)  # the second request answers with what is left
        requests.append(" ".join(f"{each}/{n}" for n in (first, total - first)[:size]))
    return Series(
        WINDOW_S,
        5,
        batch,
        prompt,
        output,
        longest,
        burst.reshape(rows, WINDOW_S),
        np.array(requests, dtype=object),
        {"note": "numbers from a seed, for tests"},
    )


def with_rows(world: World, **columns: Any) -> World:
    """The world with other values in some columns of its rows."""
    return replace(world, rows=replace(world.rows, **columns))


def least_cost(world: World, state: State, rows: int) -> FloatArray:
    """The bound on the cost of these rows, nats an output token, by the world's own columns: [B]."""
    columns = world.quality
    assert isinstance(columns, QualityColumns)
    cost, output = bound.least_cost_rows(world, columns.at_counts, state, rows)
    total: FloatArray = (cost * output).sum(axis=0) / np.maximum(output.sum(axis=0), 1)
    return total


def tuned(story: Scenario, settings: dict[str, Any]) -> dict[str, Any]:
    """What `rapgym policies tune` would keep of one method, the same settings on each split."""
    return dict.fromkeys(tuning.TOLD, settings) | basis(story)
