"""The frontier lookup: the reference policy, which stands in wherever a policy's answer cannot."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from rapgym.arrays import BoolArray, FloatArray, IntArray, freeze
from rapgym.model.memory import Footprint
from rapgym.policies.policy import Briefing
from rapgym.quality.columns import QualityColumns
from rapgym.world import pace


@dataclass(frozen=True, slots=True)
class Frontier:
    """The grid's sets worth keeping, best first: none takes more of both kinds and is no better."""

    kept: BoolArray  # [K, N]
    nll: FloatArray  # ascending, [K]
    attention: IntArray  # attention blocks kept, [K]
    ffn: IntArray  # FFN blocks kept, [K]

    def __post_init__(self) -> None:
        freeze(self)  # policies share it

    def used_bytes(
        self, footprint: Footprint, tokens: IntArray, prompt_tokens: IntArray
    ) -> IntArray:
        """Bytes of each set for each demand, margin included: [B] -> [B, K]."""
        each = tokens[:, None], prompt_tokens[:, None]
        return footprint.counted_bytes(self.attention, self.ffn, *each) + footprint.margin_bytes

    def best_fitting(self, used_bytes: IntArray, limit_bytes: IntArray) -> IntArray:
        """Index of the best set that fits, [B]; the smallest set where none does.

        Args:
            used_bytes: [B, K]; limit_bytes: [B].
        """
        fits = used_bytes <= limit_bytes[:, None]
        smallest = used_bytes.argmin(axis=1)
        return np.where(fits.any(axis=1), fits.argmax(axis=1), smallest)


@lru_cache(maxsize=16)
def frontier(quality: QualityColumns) -> Frontier:
    """The frontier of a table's grid, by the columns given."""
    kept = quality.grid_kept.reshape(-1, quality.grid_kept.shape[-1])
    nll = quality.grid_nll.ravel()
    attention, ffn = kept[:, 0::2].sum(axis=1), kept[:, 1::2].sum(axis=1)
    order = np.lexsort((attention + ffn, nll))
    chosen: list[int] = []
    for i in order:
        worse = any(attention[i] >= attention[j] and ffn[i] >= ffn[j] for j in chosen)
        if not worse:
            chosen.append(int(i))
    return Frontier(kept[chosen], nll[chosen], attention[chosen], ffn[chosen])


class Lookup:
    """The best set of a frontier that fits: by compiled code once that is loaded."""

    def __init__(self, briefing: Briefing) -> None:
        self.briefing, self.frontier = briefing, frontier(briefing.quality)
        self._quick: Callable[[FloatArray, IntArray | int], IntArray] | None = None

    def kept(self, observation: FloatArray, free_bytes: IntArray | int = 0) -> BoolArray:
        """The set that is `chosen`, bool [B, N]."""
        # Quicker by far than an index that is an array.
        return self.frontier.kept.take(self.chosen(observation, free_bytes), axis=0)

    def chosen(self, observation: FloatArray, free_bytes: IntArray | int = 0) -> IntArray:
        """Index of the best set that fits now, [B]; the smallest where none does.

        Args:
            observation: float32 [B, O].
            free_bytes: that are to stay free beside it, of each lane or of all.
        """
        if self._quick is None and pace.is_loaded():
            self._quick = quick(self.briefing, self.frontier)
        if self._quick is not None:
            return self._quick(observation, free_bytes)
        seen = self.briefing.read(observation)
        used = self.frontier.used_bytes(self.briefing.footprint, seen.tokens, seen.prompt_tokens)
        return self.frontier.best_fitting(used, seen.limit_bytes - free_bytes)

    def chosen_beside(self, observation: FloatArray, free_bytes: IntArray) -> IntArray:
        """The same for several amounts that are to stay free: [B, O] and [B, M] or [M] -> [B, M]."""
        amounts = np.atleast_1d(free_bytes)
        free = np.broadcast_to(amounts, (len(observation), amounts.shape[-1]))
        return np.stack([self.chosen(observation, each) for each in free.T], axis=1)


class FrontierLookup:
    """At each row the best measured set of the grid that fits now. It looks neither back nor ahead."""

    lanes_apart = True
    _lookup: Lookup

    def reset(self, batch: int, briefing: Briefing) -> None:
        known = getattr(self, "_lookup", None)
        if known is None or known.briefing is not briefing:
            self._lookup = Lookup(briefing)

    def propose(self, observation: FloatArray, rng: np.random.Generator) -> BoolArray:
        return self._lookup.kept(observation)


def quick(briefing: Briefing, front: Frontier) -> Callable[[FloatArray, IntArray | int], IntArray]:
    """`Lookup.chosen` of a frontier by compiled code."""
    from rapgym.files.compiled import settled
    from rapgym.policies import quick_lookup
    from rapgym.world.twin import fixed, given, shown

    foot, where = briefing.footprint, briefing.layout
    sizes = [foot.layers, foot.attention_bytes, foot.ffn_bytes, foot.model_kv_token_bytes,
             foot.fixed_bytes, foot.margin_bytes]  # fmt: skip
    places = [where.slice_of(name).start for name in ("prompt_tokens", "reserved_tokens", "limit")]
    units = [where.token_unit, where.card_bytes, foot.activation_bytes_per_token]
    sets = quick_lookup.Sets(
        fixed(front.attention.astype(np.int64)), fixed(front.ffn.astype(np.int64)),
        fixed(np.array(sizes, dtype=np.int64)), fixed(np.array(places, dtype=np.int64)),
        fixed(np.array(units, dtype=np.float64)),
    )  # fmt: skip

    best_fitting = settled(quick_lookup.best_fitting)

    def chosen(observation: FloatArray, free_bytes: IntArray | int) -> IntArray:
        found = np.empty(len(observation), dtype=np.int64)
        free = given(np.atleast_1d(free_bytes), np.int64)
        if free.shape not in ((1,), found.shape):
            raise ValueError(f"{len(found)} lanes have one amount that stays free, or one each")
        best_fitting(sets, shown(observation), free, found)
        return found

    return chosen
