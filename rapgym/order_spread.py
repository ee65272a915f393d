"""How far greedy orders found on different draws of calibration text agree."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from rapgym.table_header import Orders


@dataclass(frozen=True, slots=True)
class Spread:
    """Two draws' orders of one kind, compared."""

    kind: str  # "attention", "ffn" or "joint"
    samples: tuple[str, str]
    length: int  # of the shorter one
    shared: int  # blocks among the first `length` of both
    half_shared: int  # blocks among the first `length // 2` of both
    tau: float  # Kendall's, over the blocks that both list; NaN for fewer than two


def spreads(draws: Sequence[Orders]) -> list[Spread]:
    """Every pair of draws, kind by kind."""
    found = []
    for kind in ("attention", "ffn", "joint"):
        for one, other in combinations(draws, 2):
            a, b = getattr(one, kind), getattr(other, kind)
            length = min(len(a), len(b))
            found.append(
                Spread(
                    kind=kind,
                    samples=(one.sample, other.sample),
                    length=length,
                    shared=len({*a[:length]} & {*b[:length]}),
                    half_shared=len({*a[: length // 2]} & {*b[: length // 2]}),
                    tau=kendall_tau(a, b),
                )
            )
    return found


def kendall_tau(a: Sequence[int], b: Sequence[int]) -> float:
    """Share of pairs in the same order less share of pairs in the other, of the blocks both list.

    1 for the same order, -1 for the reverse, about 0 for unrelated ones.
    """
    place = {block: rank for rank, block in enumerate(b)}
    ranks = [place[block] for block in a if block in place]
    signs = [np.sign(later - earlier) for earlier, later in combinations(ranks, 2)]
    return float(np.mean(signs)) if signs else float("nan")
