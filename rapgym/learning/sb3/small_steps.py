"""The small steps of RAP-v0 inside one decision: a network drops block after block until it stops.

NumPy alone. Between two small steps only `so_far`, `headroom_so_far` and `importance` change, so the
first layer is computed once a decision, corrected by one column for each block that goes, and the
product with importance is added at each step.
"""

from collections.abc import Callable, Mapping

import numpy as np

from rapgym.arrays import BoolArray, FloatArray
from rapgym.policies.policy import Briefing
from rapgym.scenarios.lanes import importance_of
from rapgym.world import encoding, pace
from rapgym.world.encoding import Layout


def layout_of(briefing: Briefing) -> Layout:
    """The layout of RAP-v0's observations in a briefing's world."""
    return encoding.layout(briefing.train, card_bytes=briefing.layout.card_bytes, small_steps=True)


class SmallSteps:
    """Greedy small steps of a network with two hidden layers of rectified units.

    Of the world it knows bytes, the floor and each block's greedy importance: what RAP-v0 shows.
    """

    _stands_in: Briefing | None = None  # whose world; it remembers no rows

    def __init__(self, arrays: Mapping[str, np.ndarray], prefix: str) -> None:
        """Take the network `prefix`0, 1, 2 of the arrays, behind `mean` and `scale`."""
        weights = {name: array.astype(np.float32) for name, array in arrays.items()}
        # (x - mean) * scale @ W + b, in one product.
        self._first = weights["scale"][:, None] * weights[f"{prefix}0_weight"]
        self._bias = weights[f"{prefix}0_bias"] - weights["mean"] @ self._first
        self._second, self._second_bias = weights[f"{prefix}1_weight"], weights[f"{prefix}1_bias"]
        self._last, self._last_bias = weights[f"{prefix}2_weight"], weights[f"{prefix}2_bias"]

    def reset(self, briefing: Briefing) -> None:
        """Stand in this world."""
        if briefing is self._stands_in:
            return
        where, footprint = layout_of(briefing), briefing.footprint
        self._plain = briefing.layout.size
        blocks = where.blocks
        so_far, headroom = where.slice_of("so_far"), where.slice_of("headroom_so_far")
        increments = briefing.quality.increments
        self._block = increments.block.astype(np.float32)
        self._pair = increments.pair.astype(np.float32)
        self._floor, self._ceiling = briefing.train.floor, briefing.train.ceiling
        self._of_importance = self._first[where.slice_of("importance")]
        self._token_unit, card = where.token_unit, where.card_bytes
        self._demand = [where.slice_of(n).start for n in ("prompt_tokens", "reserved_tokens")]
        self._headroom_dense = where.slice_of("headroom_dense").start
        # Of a row at its start every block is kept, and the headroom is dense's.
        self._row_bias = self._bias + self._first[so_far].sum(axis=0)
        self._row = self._first[: self._plain].copy()
        self._headroom = self._first[headroom][0]
        self._row[self._headroom_dense] += self._headroom
        self._attention_share = footprint.attention_bytes / card
        self._footprint, self._card = footprint, card
        # What a drop does to the first layer; an attention block frees its KV cache as well.
        freed = np.tile([self._attention_share, footprint.ffn_bytes / card], blocks // 2)
        self._drop = (freed[:, None] * self._headroom - self._first[so_far]).astype(np.float32)
        barred = np.where(briefing.train.floor, -np.inf, 0.0)
        self._barred = np.append(barred, 0.0).astype(np.float32)  # 0: legal; the last is STOP
        self._quick: Callable[[FloatArray], tuple[BoolArray, BoolArray | None]] | None = None
        self._stands_in = briefing

    def propose(self, observation: FloatArray) -> BoolArray:
        """What is kept once the network stops: float32 [B, O] without small steps -> bool [B, N]."""
        if self._quick is None and pace.is_loaded():
            self._quick = self._compiled()
        if self._quick is None:
            return self.reference(observation)
        kept, told = self._quick(observation)
        if told is not None:  # two steps are worth nearly the same
            kept[~told] = self.reference(observation[~told])
        return kept

    def _compiled(self) -> Callable[[FloatArray], tuple[BoolArray, BoolArray | None]]:
        """What is kept, and which lanes it could tell: None for all."""
        from rapgym.files.compiled import settled
        from rapgym.learning.sb3 import quick
        from rapgym.world.twin import fixed, shown

        net = quick.Net(*map(fixed, (self._row, self._row_bias, self._second, self._second_bias,
                                     self._last, self._last_bias)))  # fmt: skip
        kv_bytes = [self._footprint.model_kv_token_bytes, self._footprint.layers]
        units = [self._token_unit, self._card, self._ceiling]
        steps = quick.Steps(
            net=net,
            of_importance=fixed(self._of_importance),
            headroom=fixed(self._headroom),
            drop=fixed(self._drop),
            barred=fixed(self._barred),
            block=fixed(self._block),
            pair=fixed(self._pair),
            floor=fixed(self._floor),
            demand=fixed(np.array(self._demand, dtype=np.int64)),
            sizes=fixed(np.array(kv_bytes, dtype=np.int64)),
            units=fixed(np.array(units, dtype=np.float64)),
        )
        drop, blocks = settled(quick.drop), len(self._drop)
        scratch = quick.scratch_of(net, blocks)

        def dropped(observation: FloatArray) -> tuple[BoolArray, BoolArray | None]:
            lanes = len(observation)
            kept, told = np.empty((lanes, blocks), dtype=bool), np.empty(lanes, dtype=bool)
            whole = drop(steps, shown(observation), kept, told, scratch)
            return kept, None if whole else told

        return dropped

    def reference(self, observation: FloatArray) -> BoolArray:
        """`propose` by NumPy."""
        rows = observation @ self._row + self._row_bias
        tokens = np.rint(observation[:, self._demand].astype(np.float64) * self._token_unit)
        held = self._footprint.kv_bytes(tokens.sum(axis=1).astype(np.int64))
        cached = (held / self._card).astype(np.float32)
        kept = np.ones((len(rows), len(self._drop)), dtype=bool)
        for lane, share in enumerate(cached):
            self._drop_until_stop(rows[lane], share * self._headroom, kept[lane])
        return kept

    def _drop_until_stop(self, row: FloatArray, cached: FloatArray, kept: BoolArray) -> None:
        """Drop blocks of one lane, in `kept` and `row`.

        Args:
            row: the first layer before its rectification and without importance, [H].
            cached: what freeing the KV cache of one attention block does to it, [H].
        """
        barred, stop, rises = self._barred.copy(), len(kept), self._block.copy()
        while True:
            known = importance_of(rises, kept, self._floor, self._ceiling)
            hidden = np.maximum(row + known @ self._of_importance, 0) @ self._second
            hidden += self._second_bias
            values = np.maximum(hidden, 0, out=hidden) @ self._last
            values += self._last_bias
            values += barred
            block = int(values.argmax())
            if block == stop:
                return
            barred[block], kept[block] = -np.inf, False
            row += self._drop[block]
            rises += self._pair[block]
            if block % 2 == 0:
                row += cached
