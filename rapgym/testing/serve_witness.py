"""A serving engine that watches itself: at every step each promise of the shield is tried by the plain model.

1. Safe: no step runs while more is in use than may be.
2. Least interference: what a decision drops is dropped at once, and what fits is left alone.
3. Minimal repair: where memory fell, no more goes than has to, along the fixed order and by the
   standing order; and nothing stays dropped that a decision wants back and that would fit.

Promises 4 to 6 speak of whole courses: `serve_machine` tries them.
"""

from rapgym.serving.card import ATTENTION, FFN, Card
from rapgym.serving.engine import DROP, Engine
from rapgym.serving.profile import ServingProfile
from rapgym.serving.requests import Requests
from rapgym.testing.serve_model import Counts, PlainCard
from rapgym.testing.witness import BrokenPromise


def plain_card(card: Card, profile: ServingProfile) -> PlainCard:
    """The numbers of a card alone, for the plain model."""
    foot = card.footprint
    activations = card.used_bytes(card.floor, 0) - (
        foot.fixed_bytes
        + (foot.layers - card.floor[ATTENTION]) * foot.attention_bytes
        + (foot.layers - card.floor[FFN]) * foot.ffn_bytes
    )
    return PlainCard(
        foot.layers, foot.attention_bytes, foot.ffn_bytes, card.block_token_bytes,
        foot.fixed_bytes + activations, profile.page_tokens, profile.reserved_pages,
        card.goes_next.tolist(),
    )  # fmt: skip


class ServeWitness(Engine):
    """The readable engine; raises BrokenPromise where it does not do as it must."""

    def __init__(
        self, requests: Requests, card: Card, profile: ServingProfile, shed_s: float = float("inf")
    ) -> None:
        super().__init__(requests, card, profile, shed_s)
        self.plain = plain_card(card, profile)
        self.falls = self.repaired = self.stood_still = 0

    def _in_use(self, counts: Counts) -> int:
        return self.plain.used(counts, self.pages.used)

    def _answer_fall(self) -> None:
        before, held, begun_s = self.counts, self._held, self.now_s
        running = [(each.request, len(each.pages)) for each in self.running]
        others = self.pages.used - sum(pages for _, pages in running)
        super()._answer_fall()
        left = [each.request for each in self.running]
        if self.plain.used(held, others + sum(p for _, p in running)) <= self.card.limit(begun_s):
            same = (self.counts, self._held, self.now_s, left) == (
                before, held, begun_s, [name for name, _ in running],
            )  # fmt: skip
            _promise(same, "2: what fits is left alone")
            return
        self.falls += 1
        wanted = self.plain.after_fall(
            before, running, others, self.card.limit(self.now_s),
            blocks_first=self.decision.on_fall == DROP,
        )  # fmt: skip
        _promise((self.counts, left) == wanted, "3: no more goes than has to, in the stated order")
        _promise(self.loading is None, "3: what does not serve yet goes first")
        self.repaired += self.counts != before
        fits = self._in_use(self.counts) <= self.card.limit(self.now_s)
        _promise(
            fits or (self.counts == self.plain.floor and not left), "1: it fits, or nothing is left"
        )

    def _move_blocks(self) -> None:
        before = self.counts
        super()._move_blocks()
        wanted = self.decision.attention, self.decision.ffn
        for kind in (ATTENTION, FFN):
            _promise(
                self.counts[kind] >= wanted[kind], "2: what a decision drops is dropped at once"
            )
            most = max(before[kind], wanted[kind])
            _promise(self.counts[kind] <= most, "2: no block goes that nobody let go")
        limit = self.card.limit(self.now_s)
        if self.loading is not None:
            kind = self.loading[0]
            _promise(self.counts[kind] > wanted[kind], "2: a block comes back where it is wanted")
            return
        for kind in (ATTENTION, FFN):
            if self.counts[kind] > wanted[kind]:
                back = self.counts[0] - (kind == ATTENTION), self.counts[1] - (kind == FFN)
                _promise(self._in_use(back) > limit, "3: nothing stays dropped in vain")

    def _execute(self) -> None:
        parts = list(self.formed[0])
        if parts:
            in_use, limit = self._in_use(self._held), self.card.limit(self.now_s)
            _promise(in_use <= limit, f"1: a step begins with {in_use} bytes in use of {limit}")
            _promise(
                sum(part.tokens for part in parts) <= self.profile.step_tokens
                and len(parts) <= self.profile.max_sequences,
                "1: a step is no larger than its profile has it",
            )
        super()._execute()

    def _form_ahead(self) -> None:
        if self._in_use(self._held) > self.card.limit(self.now_s):
            self.stood_still += 1
            _promise(self.counts == self.plain.floor, "1: it stands still with the floor alone")
        super()._form_ahead()


def _promise(kept: bool, words: str) -> None:
    if not kept:
        raise BrokenPromise(f"promise {words}")
