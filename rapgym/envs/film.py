"""The rows of late of one lane, for pictures: what was asked, allowed, used and kept."""

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rapgym.arrays import BoolArray, IntArray
from rapgym.scenarios.lanes import Lanes
from rapgym.world.records import Demand, Outcome
from rapgym.world.shield import Reason

SHOWN = 32  # rows
Picture = NDArray[np.uint8]  # [height, width, 3]
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Use:
    """Bytes by kind."""

    other: int  # embeddings, head, context and activations
    attention: int  # weights of kept attention blocks
    ffn: int  # weights of kept FFN blocks
    kv: int  # KV cache of kept attention blocks

    @property
    def total(self) -> int:
        return self.other + self.attention + self.ffn + self.kv


@dataclass(frozen=True, slots=True)
class Row:
    """One served row."""

    limits: IntArray  # bytes in each second, [W]
    use: Use  # at its start; of nothing but `other` where it was refused
    kept: BoolArray  # at its start, [N]
    kept_end: BoolArray  # at its end, [N]
    reason: Reason
    cost: float  # minus the reward
    requests: int
    tokens: int  # prompts and reserves


@dataclass(frozen=True, slots=True)
class Next:
    """The row that is to be decided."""

    limit: int  # bytes, now
    dense: Use  # what every block would take
    kept: BoolArray  # in memory, or still kept by this row's steps, [N]
    use: Use  # what those would take
    requests: int
    tokens: int


class Film:
    """The last rows of one lane's episode, and the row that comes next."""

    def __init__(self, lanes: Lanes, lane: int, count: int) -> None:
        self._lanes, self._lane = lanes, lane
        self.title = f"{lanes.story.name}, {lanes.split}" + (f", lane {lane}" if count > 1 else "")
        self.rows: deque[Row] = deque(maxlen=SHOWN)

    def begin(self) -> None:
        """Forget the episode before."""
        self.rows.clear()

    def add(self, outcome: Outcome, asked: Demand, limits: IntArray, index: int) -> None:
        """Keep a row: entry `index` of an outcome and of what it was asked."""
        kept, reason = outcome.kept[index].copy(), Reason(int(outcome.reason[index]))
        tokens, prompt = int(asked.tokens[index]), int(asked.prompt_tokens[index])
        none = np.zeros_like(kept)
        use = self._use(none if reason is Reason.REFUSED else kept, tokens, prompt)
        self.rows.append(
            Row(
                limits=limits,
                use=use,
                kept=kept,
                kept_end=outcome.kept_end[index].copy(),
                reason=reason,
                cost=-float(outcome.reward[index]),
                requests=int(asked.batch[index]),
                tokens=tokens,
            )
        )

    @property
    def served(self) -> int:
        """Rows of this episode that are."""
        return int(self._lanes.age[self._lane])

    @property
    def length(self) -> int:
        """Rows of this episode."""
        return int(self._lanes.episode_rows[self._lane])

    @property
    def card_bytes(self) -> int:
        return self._lanes.layout.card_bytes

    def coming(self, so_far: BoolArray | None) -> Next:
        """The next row.

        Args:
            so_far: what each lane's row still keeps, [B, N], where rows take several steps.
        """
        seen, lane = self._lanes.seen, self._lane
        kept = (seen.loaded if so_far is None else so_far)[lane].copy()
        tokens, prompt = int(seen.demand.tokens[lane]), int(seen.demand.prompt_tokens[lane])
        return Next(
            limit=int(seen.limit_bytes[lane, 0]),
            dense=self._use(np.ones_like(kept), tokens, prompt),
            kept=kept,
            use=self._use(kept, tokens, prompt),
            requests=int(seen.demand.batch[lane]),
            tokens=tokens,
        )

    def _use(self, kept: BoolArray, tokens: int, prompt_tokens: int) -> Use:
        foot = self._lanes.world.footprint
        attention, ffn = int(kept[0::2].sum()), int(kept[1::2].sum())
        return Use(
            other=int(foot.overhead_bytes(np.array(prompt_tokens))),
            attention=attention * foot.attention_bytes,
            ffn=ffn * foot.ffn_bytes,
            kv=attention * int(foot.kv_bytes(np.array(tokens))),
        )


BAR = 40  # characters of the bar of memory


def text(film: Film, so_far: BoolArray | None) -> str:
    """The last row and the next in words, with a bar of memory."""
    coming = film.coming(so_far)
    lines = [f"{film.title}: {film.served} of {film.length} rows served"]
    if film.rows:
        row = film.rows[-1]
        lost = int((row.kept & ~row.kept_end).sum())
        went = f", {lost} blocks went in mid-row" if lost else ""
        lines += [
            f"last   {_asked(row.requests, row.tokens)}; kept {_counts(row.kept)}{went}",
            f"       {row.reason.name.lower()}, cost {row.cost:.4f} nats",
            f"       {bar(row.use, int(row.limits[0]), film.card_bytes)}",
        ]
    lines += [
        f"next   {_asked(coming.requests, coming.tokens)}; dense takes {_gib(coming.dense.total)}",
        f"       {bar(coming.use, coming.limit, film.card_bytes)} {_counts(coming.kept)}",
        "       o other, a attention, f FFN, k KV cache; | the limit",
    ]
    return "\n".join(lines)


def _asked(requests: int, tokens: int) -> str:
    return f"{requests} requests, {tokens:,} tokens"


def _counts(kept: BoolArray) -> str:
    half = len(kept) // 2
    return f"{kept[0::2].sum()}/{half} attention, {kept[1::2].sum()}/{half} FFN"


def _gib(size: int) -> str:
    """With as many digits as small cards need."""
    return f"{size / GIB:.3g} GiB"


def bar(use: Use, limit: int, card: int) -> str:
    """What is used of a card, by kind, and the limit on it."""
    most = max(card, use.total, limit, 1)
    ends = np.cumsum([use.other, use.attention, use.ffn, use.kv]) * BAR // most
    cells = [" "] * (BAR + 1)
    start = 0
    for letter, end in zip("oafk", ends.tolist(), strict=True):
        cells[start:end] = letter * (end - start)
        start = end
    cells[max(0, limit * BAR // most)] = "|"
    return f"[{''.join(cells)}] {_gib(use.total)} of {_gib(limit)} allowed"
