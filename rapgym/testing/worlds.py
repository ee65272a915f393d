"""Worlds that nobody would wish for: tiny ones with tables of their own, and hostile rows for any."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from rapgym.arrays import BoolArray, IntArray
from rapgym.model.memory import Footprint
from rapgym.policies.policy import Briefing
from rapgym.quality import file as table_file
from rapgym.quality.file import Rows as TableRows
from rapgym.quality.header import Header, Orders, Sample
from rapgym.quality.table import QualityTable
from rapgym.scenarios.story import Scenario
from rapgym.world import encoding
from rapgym.world.records import Rows, World

TABLES = 24  # tiny tables, by number
CEILING = 4.0  # C of each
MARGINS, ACTIVATIONS = (0, 7), (0.0, 1.5)
REACTIONS_S = (0.0, 0.03, 0.1, 0.5, 1.0, 2.0)
STORY = Scenario(
    "tiny",
    "A model of a few layers that exists in books alone.",
    card_gib=1.0,
    served="tiny",
    trace="tiny",
    every=1,
    tenant=None,
    restore_s=1.0,
    window_s=4,
    workload="tiny",
    table="tiny",
    offsets=1,
)


def tiny_rows(number: int) -> tuple[Header, TableRows]:
    """Header and rows of the tiny table of this number: 2 to 4 layers, numbers by a formula.

    Every second table lacks rows of some sets, so that predictions decide. Every single removal
    costs something, so that dense is best.
    """
    rng = np.random.default_rng(number)
    layers = 2 + number % 3
    n = 2 * layers
    single = np.round(rng.integers(1, 40, n) / 50, 6)
    pairs = np.triu(rng.choice([0.0, 0.0, 0.02, -0.01], (n, n)), 1)
    droppable = np.sort(rng.choice(np.arange(1, n), rng.integers(1, n - 1), replace=False))
    joint = [int(block) for block in droppable[np.argsort(single[droppable], kind="stable")]]
    orders = Orders(
        "calib",
        tuple(block for block in joint if block % 2 == 0),
        tuple(block for block in joint if block % 2),
        tuple(joint),
    )
    kept = _sets(n, joint, rng, every=number % 2 == 0)
    gone = ~kept
    nll = gone @ single + np.einsum("ri,ij,rj->r", gone, pairs, gone)
    nll = np.maximum(np.round(nll, 6), 0.005)
    values = np.concatenate([nll, nll + 0.01])[:, None]
    names = ("calib",) * len(kept) + ("test",) * len(kept)
    samples = tuple(
        Sample(name, name, (100,), (3.0,), (3.0 + CEILING,), (3.0 + CEILING,))
        for name in ("calib", "test")
    )
    header = Header("tiny", n, 64, "bf16", "bf16", ("text",), samples, (orders,),
                    provenance={"note": "numbers by a formula, for tests"})  # fmt: skip
    rows = TableRows(
        kept=np.concatenate([kept, kept]),
        sample=names,
        design=("toy",) * len(names),
        nll_p95=values[:, 0],
        tokens=np.full(values.shape, 100),
        nll=values,
        nll_se=np.full(values.shape, 0.01),
        kl=values,
        top1=np.full(values.shape, 0.9),
    )
    return header, rows


def _sets(n: int, joint: Sequence[int], rng: np.random.Generator, *, every: bool) -> BoolArray:
    """Single removals and prefixes of the order, which each table needs, and others; not dense."""
    numbers = np.arange(1 << n)[:, None] >> np.arange(n)
    all_sets: BoolArray = (numbers & 1) == 1
    chosen = np.ones(len(all_sets), dtype=bool) if every else rng.random(len(all_sets)) < 0.3
    dropped = np.count_nonzero(~all_sets, axis=1)
    chosen[dropped == 1] = True
    for k in range(1, len(joint) + 1):
        prefix = np.ones(n, dtype=bool)
        prefix[list(joint[:k])] = False
        chosen[(all_sets == prefix).all(axis=1)] = True
    found: BoolArray = all_sets[chosen & (dropped > 0)]
    return found


@lru_cache(maxsize=TABLES)
def tiny_table(number: int) -> QualityTable:
    """The tiny table of this number, through the bytes of its file."""
    content = table_file.packed(*tiny_rows(number))
    return QualityTable(f"tiny-{number}", table_file.unpacked(content, f"tiny-{number}"))


def tiny_footprint(
    number: int, *, margin: int = 0, activation: float = 0.0, odd_bytes: int = 0
) -> Footprint:
    """Bytes of the tiny model of this number: small enough to count by hand.

    Args:
        odd_bytes: of a token's KV cache, which its layers cannot share evenly.
    """
    layers = 2 + number % 3
    return Footprint(
        layers,
        attention_bytes=40,
        ffn_bytes=60,
        model_kv_token_bytes=4 * layers + odd_bytes,
        fixed_bytes=100,
        activation_bytes_per_token=activation,
        margin_bytes=margin,
    )


def bytes_of(world: World, attention: int, ffn: int, prompt: int, reserved: int) -> int:
    """Bytes of a kept set of so many blocks for so many tokens, margin included."""
    foot = world.footprint
    taken = int(foot.overhead_bytes(np.array(prompt))) + foot.margin_bytes
    per_attention = int(foot.kept_attention_bytes(np.array(prompt + reserved)))
    return taken + attention * per_attention + ffn * foot.ffn_bytes


def dense_bytes(world: World) -> int:
    """Bytes of every block for the largest demand of a world's rows, margin included."""
    layers, rows = world.footprint.layers, world.rows
    return max(
        bytes_of(world, layers, layers, prompt, reserved)
        for prompt, reserved in zip(
            rows.prompt_tokens.tolist(), rows.reserved_tokens.tolist(), strict=True
        )
    )


def briefing_of(world: World, card_bytes: int = 1000) -> Briefing:
    """A briefing in a tiny world."""
    story = replace(
        STORY, window_s=world.window_s, notice_s=world.notice_s, reaction_s=world.reaction_s
    )
    return Briefing(story, world, encoding.layout(world, card_bytes=card_bytes))


def with_limits(world: World, limit_bytes: IntArray) -> World:
    """The world with other limits, [T, W]."""
    return replace(world, rows=replace(world.rows, limit_bytes=limit_bytes))


def with_demand(world: World, scale: IntArray) -> World:
    """The world with the tokens of each row multiplied, int64 [T]."""
    rows = world.rows
    names = ("batch", "prompt_tokens", "reserved_tokens", "longest_tokens", "output_tokens")
    return replace(
        world, rows=replace(rows, **{name: getattr(rows, name) * scale for name in names})
    )


Hostile = Callable[[World, np.random.Generator], World]


def _limits(world: World, limit: IntArray | int) -> World:
    return with_limits(world, np.broadcast_to(limit, world.rows.limit_bytes.shape).copy())


def _row(values: IntArray) -> IntArray:
    return values[:, None]


def _floor_bytes(world: World, row: int) -> int:
    floor, rows = world.floor, world.rows
    return bytes_of(world, int(floor[0::2].sum()), int(floor[1::2].sum()),
                    int(rows.prompt_tokens[row]), int(rows.reserved_tokens[row]))  # fmt: skip


def _inside(world: World, rng: np.random.Generator) -> World:
    """In one second of every third row the tenant takes all, or leaves a random part."""
    limits = world.rows.limit_bytes.copy()
    for row in rng.choice(len(limits), -(-len(limits) // 3), replace=False):
        second = rng.integers(limits.shape[1])
        limits[row, second] = int(limits[row, second] * rng.choice([0.0, *rng.random(3)]))
    return with_limits(world, limits)


def _to_the_byte(world: World, rng: np.random.Generator) -> World:
    """Each row's limit is what random counts take, or one byte more or less; so is each second's."""
    limits, rows, layers = world.rows.limit_bytes.copy(), world.rows, world.footprint.layers
    for row, second in np.ndindex(limits.shape):
        if second and rng.random() < 0.7:
            limits[row, second] = limits[row, second - 1]
            continue
        a, f = (int(count) for count in rng.integers(0, layers + 1, 2))
        exact = bytes_of(world, a, f, int(rows.prompt_tokens[row]), int(rows.reserved_tokens[row]))
        limits[row, second] = exact + rng.integers(-1, 2)
    return with_limits(world, limits)


def _lost_for_good(world: World, rng: np.random.Generator) -> World:
    """A third of the way down, and once more, half of what was left is gone and stays away."""
    limits = world.rows.limit_bytes.copy()
    for start in (len(limits) // 3, 2 * len(limits) // 3):
        limits[start:] //= 2
    return with_limits(world, limits)


def _floor_only(world: World, rng: np.random.Generator) -> World:
    least = [_floor_bytes(world, row) for row in range(len(world.rows))]
    return _limits(world, _row(np.array(least, dtype=np.int64)))


def _flapping(world: World, rng: np.random.Generator) -> World:
    """Ample in one row, room for the floor alone in the next."""
    tight, ample = _floor_only(world, rng).rows.limit_bytes, dense_bytes(world)
    every = np.arange(len(tight))[:, None] % 2 == 0
    return with_limits(world, np.where(every, ample, tight))


HOSTILE: dict[str, Hostile] = {
    "as it comes": lambda world, rng: world,
    "ample": lambda world, rng: _limits(world, dense_bytes(world)),
    "nothing fits": lambda world, rng: _limits(world, 0),
    "less than nothing": lambda world, rng: _limits(world, -1),
    "room for the floor alone": _floor_only,
    "to the byte": _to_the_byte,
    "flapping": _flapping,
    "spikes inside windows": _inside,
    "capacity lost for good": _lost_for_good,
    "bursts": lambda world, rng: with_demand(
        world, rng.choice(np.array([1, 1, 1, 10, 100]), len(world.rows))
    ),
    "no requests": lambda world, rng: with_demand(world, np.zeros(len(world.rows), dtype=np.int64)),
    "demand without measure": lambda world, rng: with_demand(
        world, np.full(len(world.rows), 1 << 20)
    ),
}


def hostile(world: World, kind: str, rng: np.random.Generator, rows: int) -> World:
    """A world with `rows` of another's rows, from a drawn one on, made hostile.

    Raises:
        KeyError: there is no such kind.
    """
    count = len(world.rows)
    chosen = (rng.integers(count) + np.arange(rows)) % count
    names = ("batch", "prompt_tokens", "reserved_tokens", "longest_tokens", "output_tokens",
             "limit_bytes")  # fmt: skip
    part = Rows(**{name: getattr(world.rows, name)[chosen] for name in names})
    return HOSTILE[kind](replace(world, rows=part), rng)
