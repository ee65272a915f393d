"""The memory of a serving engine by plain rules, in plain Python: independent of `rapgym.serving` on purpose."""

from collections.abc import Sequence
from dataclasses import dataclass

Counts = tuple[int, int]  # attention and FFN blocks that are dropped


@dataclass(frozen=True)
class PlainCard:
    """Bytes as the design states them: fixed, weights of kept blocks, pages over kept attention blocks."""

    layers: int
    attention: int  # bytes of a block
    ffn: int
    token: int  # bytes of a token's KV cache in one attention block
    fixed: int
    page_tokens: int
    reserved: int  # pages
    goes_next: Sequence[Sequence[int]]  # kind of the block that goes next from each pair of counts

    @property
    def floor(self) -> Counts:
        return len(self.goes_next) - 1, len(self.goes_next[0]) - 1

    def used(self, counts: Counts, pages: int) -> int:
        """Bytes in memory with so many pages in use, the reserved ones included."""
        kept = self.layers - counts[0], self.layers - counts[1]
        tokens = (pages + self.reserved) * self.page_tokens
        return (
            self.fixed
            + kept[0] * self.attention
            + kept[1] * self.ffn
            + tokens * kept[0] * self.token
        )

    def next_to_go(self, counts: Counts) -> Counts:
        """The counts once one more block has gone, along the fixed order."""
        kind = self.goes_next[counts[0]][counts[1]]
        return counts[0] + (kind == 0), counts[1] + (kind == 1)

    def after_fall(
        self, counts: Counts, running: Sequence[tuple[int, int]], others: int, limit: int, *,
        blocks_first: bool,
    ) -> tuple[Counts, list[int]]:  # fmt: skip
        """What is left where memory fell below what is in use: no more goes than has to.

        Args:
            running: sequences and their pages, in the order of admission.
            others: pages in use that are no sequence's.

        Returns:
            Counts, and the sequences that run on.
        """
        left = list(running)

        def fits() -> bool:
            return self.used(counts, others + sum(pages for _, pages in left)) <= limit

        for blocks in (True, False) if blocks_first else (False, True):
            while not fits():
                if blocks and counts != self.floor:
                    counts = self.next_to_go(counts)
                elif not blocks and left:
                    left.pop()
                else:
                    break
        return counts, [name for name, _ in left]
