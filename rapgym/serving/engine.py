"""The engine, step by step: what a serving engine with continuous batching does, readable as the design.

This is the reference. Each rule that matters to fidelity has a test in which a recorded run is
reproduced worse without it; the compiled kernel gives the same, bit for bit.

Source of the scheduling rules: vLLM V1 (0.19), its scheduler and KV cache manager.
"""

import math
from collections import deque
from dataclasses import dataclass, field

from rapgym.serving.card import ATTENTION, FFN, Card, Counts
from rapgym.serving.pages import Pages
from rapgym.serving.profile import ServingProfile, Work
from rapgym.serving.requests import Requests

PREEMPT, DROP = 0, 1  # standing orders: what goes first where memory falls below what is in use


@dataclass(frozen=True, slots=True)
class Decision:
    """What a policy wants from its second on."""

    attention: int = 0  # blocks that are dropped, along the orders
    ffn: int = 0
    on_fall: int = PREEMPT


@dataclass(slots=True, eq=False)
class Sequence:
    """A request on its way."""

    request: int
    target: int  # tokens to prefill: the prompt, and after a preemption what was generated too
    planned: int = 0  # tokens computed once every formed step has run
    promised: int = 0  # output tokens made once every formed step has run
    made: int = 0  # output tokens
    pages: list[int] = field(default_factory=list)
    starts: int = 0  # a preemption begins a new one
    attention: int = 0  # most blocks that were dropped while its KV cache was computed
    ffn: int = 0


@dataclass(slots=True)
class Served:
    """What became of one request. Times in seconds; NaN where it never happened."""

    scheduled_s: float = float("nan")
    first_s: float = float("nan")  # its first output token
    last_s: float = float("nan")
    shed_s: float = float("nan")
    preemptions: int = 0


@dataclass(frozen=True, slots=True)
class Token:
    """An output token, and what it was computed under."""

    request: int
    index: int  # of the request's output
    at_s: float
    attention: int  # the sequence's history: most blocks dropped
    ffn: int
    ffn_now: int


@dataclass(frozen=True, slots=True)
class Part:
    """What a step computes of one sequence."""

    sequence: Sequence
    start: int  # of the sequence
    tokens: int
    context: int  # tokens computed once it has run
    decodes: bool
    makes: bool  # an output token


@dataclass(frozen=True, slots=True)
class Step:
    """A step that has run."""

    begun_s: float
    ended_s: float
    work: Work
    running: int  # sequences admitted, at its end
    waiting: int
    pages: int  # used
    counts: Counts


class Engine:
    """One replica: requests, a card, a profile, and the decision that stands."""

    def __init__(
        self, requests: Requests, card: Card, profile: ServingProfile, shed_s: float = float("inf")
    ) -> None:
        """An engine with all blocks in memory, at 0 s.

        Args:
            shed_s: how long after its arrival a request without a first token is given up.
        """
        self.requests, self.card, self.profile = requests, card, profile
        self.shed_s, self.decision, self.now_s = shed_s, Decision(), 0.0
        self.counts: Counts = (0, 0)  # dropped; a block that is loading counts as dropped
        self.loading: tuple[int, float] | None = None  # its kind, and when it will serve
        self.pages = Pages(remembers=profile.prefix_cache)
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # in the order in which they were admitted
        self.formed: deque[list[Part]] = deque()  # steps, the next to run first
        self.served = [Served() for _ in range(len(requests))]
        self.tokens: list[Token] = []
        self.steps: list[Step] = []
        self._arrived = 0

    @property
    def is_idle(self) -> bool:
        """Whether every request that there is has left."""
        return self._arrived == len(self.requests) and not self.waiting and not self.running

    def decide(self, decision: Decision) -> None:
        """Let a decision stand: it takes effect once the step in flight has ended."""
        self.decision = decision

    def run(self, until_s: float) -> None:
        """Go on until then; a step that has begun by then ends."""
        while self.now_s < until_s and not self.is_idle:
            self._arrive()
            self._answer_fall()
            self._move_blocks()
            self._shed()
            self._form_ahead()
            if self.formed:
                self._execute()
            else:
                self.now_s = min(self._next_event_s(), until_s)
        if self.is_idle:
            self.now_s = max(self.now_s, until_s) if until_s < float("inf") else self.now_s

    # Requests

    def _arrive(self) -> None:
        while (
            self._arrived < len(self.requests)
            and self.requests.arrival_s[self._arrived] <= self.now_s
        ):
            prompt = int(self.requests.prompt_tokens[self._arrived])
            self.waiting.append(Sequence(self._arrived, prompt))
            self._arrived += 1

    def _shed(self) -> None:
        """Give up what has no first token in time, whether it waits or is being prefilled."""
        late = [
            sequence
            for sequence in (*self.waiting, *self.running)
            if not sequence.promised
            and self.now_s >= self.requests.arrival_s[sequence.request] + self.shed_s
        ]
        for sequence in late:
            if sequence in self.waiting:
                self.waiting.remove(sequence)
            else:
                self._leave(sequence)
                self._cancel(sequence)
            self.served[sequence.request].shed_s = self.now_s

    def _leave(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.pages.release(sequence.pages)
        sequence.pages = []
        sequence.starts += 1

    def _cancel(self, sequence: Sequence) -> None:
        """Take a sequence out of steps that were formed and will not run with it."""
        for parts in self.formed:
            for part in [part for part in parts if part.sequence is sequence]:
                parts.remove(part)
                sequence.promised -= part.makes

    def _preempt(self) -> Sequence:
        """Send the last admitted back to the front of the queue: its output is kept, its pages are not.

        Steps that were formed with it run, and what they make is its output too.
        """
        victim = self.running[-1]
        self._leave(victim)
        prompt = int(self.requests.prompt_tokens[victim.request])
        victim.target = prompt + victim.promised
        victim.planned = victim.attention = victim.ffn = 0
        self.waiting.appendleft(victim)
        self.served[victim.request].preemptions += 1
        return victim

    # Memory and blocks

    @property
    def _held(self) -> Counts:
        """Blocks that take no memory: dropped, and not loading."""
        if self.loading is None:
            return self.counts
        return _less(self.counts, self.loading[0])

    def _page_room(self) -> int:
        return self.card.room_tokens(self._held, self.now_s) // self.profile.page_tokens

    def _fits(self, held: Counts, now_s: float) -> bool:
        taken = (self.pages.used + self.profile.reserved_pages) * self.profile.page_tokens
        return self.card.used_bytes(held, taken) <= self.card.limit(now_s)

    def _answer_fall(self) -> None:
        """Where memory fell below what is in use: pause, then let go by the standing order."""
        if self._fits(self._held, self.now_s):
            return
        if self.running or self.counts != self.card.floor:
            self.now_s += self.card.reaction_s
        self.loading = None  # what does not serve yet goes first
        first, then = self._preempt_until_it_fits, self._drop_until_it_fits
        if self.decision.on_fall == DROP:
            first, then = then, first
        first()
        then()

    def _preempt_until_it_fits(self) -> None:
        while self.running and not self._fits(self.counts, self.now_s):
            # Between steps: what was formed with it does not run.
            self._cancel(self.running[-1])
            self._preempt()

    def _drop_until_it_fits(self) -> None:
        while not self._fits(self.counts, self.now_s):
            fewer = self.card.without_next(self.counts)
            if fewer is None:
                return
            self.counts = fewer

    def _move_blocks(self) -> None:
        """Blocks that have loaded serve; those that a decision drops go; the next one back starts to load."""
        if self.loading is not None and self.loading[1] <= self.now_s:
            self.counts, self.loading = _less(self.counts, self.loading[0]), None
        wanted = self.decision.attention, self.decision.ffn
        if self.loading is not None and self._held[self.loading[0]] < wanted[self.loading[0]]:
            self.loading = None
        self.counts = max(self.counts[0], wanted[0]), max(self.counts[1], wanted[1])
        if self.loading is None:
            for kind in self._back_next(wanted):
                if self._fits(_less(self.counts, kind), self.now_s):
                    foot = self.card.footprint
                    size = foot.attention_bytes if kind == ATTENTION else foot.ffn_bytes
                    self.loading = kind, self.now_s + size / self.card.link_bytes_per_s
                    return

    def _back_next(self, wanted: Counts) -> list[int]:
        """The kinds of which a block is to come back: first the one that the order drops last."""
        kinds = [kind for kind in (ATTENTION, FFN) if self.counts[kind] > wanted[kind]]
        if len(kinds) == 2:
            before = self.counts[0] - 1, self.counts[1] - 1
            # From there the order drops one kind first: the other one comes back first.
            kinds = [FFN, ATTENTION] if self.card.goes_next[before] == ATTENTION else kinds
        return kinds

    # Scheduling

    def _form_ahead(self) -> None:
        """Form steps until `lookahead` of them stand behind the one that runs next."""
        if not self._fits(self._held, self.now_s):
            return  # not even the blocks that are kept fit: the engine stands still
        while len(self.formed) <= self.profile.lookahead:
            parts = self._form()
            if not parts:
                return
            self.formed.append(parts)

    def _form(self) -> list[Part]:
        """One step: a token of each sequence that decodes, then prompts, then the head of the queue."""
        self.pages.resize(self._page_room() - self.profile.reserved_pages)
        parts, budget, preempted = list[Part](), self.profile.step_tokens, False
        place = 0
        while place < len(self.running) and budget:
            sequence = self.running[place]
            tokens = min(self._left(sequence), budget)
            place += 1
            if not tokens:
                continue
            needed = self._pages_for(sequence.planned + tokens) - len(sequence.pages)
            while needed > self.pages.free and sequence in self.running:
                self._preempt()
                preempted = True
            if sequence not in self.running:
                break  # it was the last itself
            parts.append(self._planned(sequence, tokens))
            budget -= tokens
        while (
            not preempted
            and budget
            and self.waiting
            and len(self.running) < self.profile.max_sequences
        ):
            tokens = self._admit(budget)
            if not tokens:
                break
            parts.append(self._planned(self.running[-1], tokens))
            budget -= tokens
        return parts

    def _left(self, sequence: Sequence) -> int:
        """Tokens that its next step may compute: what is left to prefill, or one."""
        if sequence.planned < sequence.target:
            return sequence.target - sequence.planned
        return int(self._left_to_make(sequence))

    def _left_to_make(self, sequence: Sequence) -> bool:
        """Whether the formed steps leave any of its output to be made."""
        return sequence.promised < int(self.requests.output_tokens[sequence.request])

    def _admit(self, budget: int) -> int:
        """Let the head of the queue run where all of it that is known finds pages.

        Returns:
            Tokens that its first step computes; 0 where it has to wait.
        """
        sequence, size = self.waiting[0], self.profile.page_tokens
        if not self._left_to_make(sequence):
            return 0  # its last token is on its way
        # The last token is always computed: it makes the next one.
        keys = [
            self.requests.page(sequence.request, index)
            for index in range((sequence.target - 1) // size if self.profile.prefix_cache else 0)
        ]
        known = self.pages.remembered(keys)
        if self._pages_for(sequence.target) - len(known) > self.pages.free - self.pages.idle(known):
            return 0
        self.running.append(self.waiting.popleft())
        self.pages.hold(known)
        sequence.pages, sequence.planned = known, len(known) * size
        result = self.served[sequence.request]
        if math.isnan(result.scheduled_s):
            result.scheduled_s = self.now_s
        return min(sequence.target - sequence.planned, budget)

    def _pages_for(self, tokens: int) -> int:
        return -(-tokens // self.profile.page_tokens)

    def _planned(self, sequence: Sequence, tokens: int) -> Part:
        """So many tokens more of a sequence, which gets the pages for them."""
        size, before = self.profile.page_tokens, sequence.planned
        sequence.planned += tokens
        sequence.pages += self.pages.take(self._pages_for(sequence.planned) - len(sequence.pages))
        for index in range(before // size, sequence.planned // size):
            self.pages.fill(sequence.pages[index], self.requests.page(sequence.request, index))
        after = sequence.planned
        makes, decodes = after >= sequence.target, after > sequence.target
        sequence.promised += makes
        return Part(sequence, sequence.starts, tokens, after, decodes, makes)

    # Steps

    def _execute(self) -> None:
        """Run the step that was formed first."""
        parts, work = self.formed.popleft(), Work()
        if not parts:
            return
        for part in parts:
            if part.decodes:
                work.decode(part.context)
            else:
                work.prefill(part.tokens, part.context - part.tokens)
        card, counts, begun_s = self.card, self.counts, self.now_s
        whole = card.weight_bytes((0, 0))
        self.now_s += self.profile.step_s(
            work,
            card.weight_bytes(counts),
            card.weight_bytes(counts) / whole,
            card.token_bytes(counts),
            1 - counts[ATTENTION] / card.footprint.layers,
        )
        for part in parts:
            sequence = part.sequence
            if sequence.starts == part.start:
                sequence.attention = max(sequence.attention, counts[ATTENTION])
                sequence.ffn = max(sequence.ffn, counts[FFN])
            if part.makes:
                self._make(sequence)
        self.steps.append(
            Step(begun_s, self.now_s, work, len(self.running), len(self.waiting),
                 self.pages.used, counts)
        )  # fmt: skip

    def _make(self, sequence: Sequence) -> None:
        request, result = sequence.request, self.served[sequence.request]
        self.tokens.append(
            Token(request, sequence.made, self.now_s, sequence.attention, sequence.ffn,
                  self.counts[FFN])
        )  # fmt: skip
        if not sequence.made:
            result.first_s = self.now_s
        sequence.made += 1
        if sequence.made == self.requests.output_tokens[request]:
            result.last_s = self.now_s
            if sequence in self.waiting:  # preempted while its last token was on its way
                self.waiting.remove(sequence)
            else:
                self._leave(sequence)

    def _next_event_s(self) -> float:
        """When something may change while no step runs."""
        events = [float(int(self.now_s) + 1)]  # the limit's next second
        if self._arrived < len(self.requests):
            events.append(float(self.requests.arrival_s[self._arrived]))
        if self.loading is not None:
            events.append(self.loading[1])
        return min(event for event in events if event > self.now_s)


def _less(counts: Counts, kind: int) -> Counts:
    """One block of a kind fewer dropped."""
    return counts[0] - (kind == ATTENTION), counts[1] - (kind == FFN)
