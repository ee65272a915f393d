"""A state machine that tries to break the promises of the serving engine: reference and compiled, side by side.

Requests come in bursts, memory is lost at the worst moment, a policy decides anything or answers with what
is no decision. The reference is watched at every engine step (`serve_witness`); the compiled engine must
stand where it stands, at every eighth of a second. At the end the same decisions give the same course.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from rapgym.arrays import IntArray
from rapgym.guard import serving as guard
from rapgym.model.memory import Footprint
from rapgym.serving import kernel
from rapgym.serving.card import Card, order_of_going
from rapgym.serving.cost import Deadlines, Harm
from rapgym.serving.engine import DROP, Decision, Engine
from rapgym.serving.profile import ServingProfile
from rapgym.serving.requests import Requests
from rapgym.testing.serve_witness import ServeWitness
from rapgym.testing.witness import Tally
from rapgym.testing.world_machine import SEEDS
from rapgym.world.shield import Reason

REQUESTS, SECONDS = 40, 400  # of which room is made
FAR_S = 1e6  # a request that has not come
LOOKS = 8  # a second
AMPLE = 1 << 20

# What a policy may answer that is no decision.
UNREADABLE: dict[str, Callable[[IntArray], Any]] = {
    "nothing": lambda usual: None,
    "words": lambda usual: "drop it all",
    "too few": lambda usual: usual[:, :2],
    "too many blocks": lambda usual: usual + 100,
    "fewer than none": lambda usual: usual - 100,
    "halves": lambda usual: usual + 0.5,
    "no numbers": lambda usual: usual * np.nan,
    "an exception": lambda usual: 1 // 0,
}


class _Answers:
    """A policy that answers what it is told to."""

    def __init__(self, answer: Callable[[IntArray], Any], usual: IntArray) -> None:
        self._answer, self._usual = answer, usual

    def reset(self, batch: int, briefing: Any) -> None:
        """Nothing is remembered."""

    def decide(self, observation: Any, rng: np.random.Generator) -> Any:
        return self._answer(self._usual)


class ServeMachine(RuleBasedStateMachine):
    """One replica, whose requests, memory and policy are hostile."""

    tally: ClassVar[Tally] = Tally()
    seen: ClassVar[dict[str, int]] = {}  # how often what happened, over all runs

    @initialize(
        seed=SEEDS,
        lookahead=st.integers(0, 2),
        step_tokens=st.integers(1, 16),
        sequences=st.integers(1, 5),
        reserved=st.integers(0, 2),
        reaction_s=st.sampled_from([0.0, 0.1, 0.7]),
        link=st.sampled_from([100.0, 1000.0]),
        shed_s=st.sampled_from([np.inf, 2.0, 0.5]),
    )
    def begin(
        self, seed: int, lookahead: int, step_tokens: int, sequences: int, reserved: int,
        reaction_s: float, link: float, shed_s: float,
    ) -> None:  # fmt: skip
        rng = np.random.default_rng(seed)
        self.foot = Footprint(
            layers=3, attention_bytes=int(rng.integers(1, 80)), ffn_bytes=int(rng.integers(1, 80)),
            model_kv_token_bytes=int(rng.integers(1, 9)), fixed_bytes=int(rng.integers(0, 120)),
            activation_bytes_per_token=0.0, margin_bytes=int(rng.integers(0, 9)),
        )  # fmt: skip
        nll = np.add.outer(*(np.sort(rng.random(3)) for _ in range(2))) + rng.random((3, 3)) / 4
        profile = ServingProfile(
            "hostile", base_s=float(rng.choice([0.0625, 0.3, 1.0])),
            weight_bytes_per_s=float(rng.choice([1e30, 900.0])), tokens_per_s=1e30,
            kv_bytes_per_s=float(rng.choice([1e30, 500.0])), pair_s=0.0, step_tokens=step_tokens,
            max_sequences=sequences, page_tokens=int(rng.integers(1, 6)), reserved_pages=reserved,
            lookahead=lookahead,
        )  # fmt: skip
        self.requests = Requests(
            FAR_S + np.arange(REQUESTS, dtype=np.float64),
            rng.integers(1, 24, REQUESTS),
            rng.integers(1, 24, REQUESTS),
        )
        self.limit: IntArray = np.full(SECONDS, AMPLE, dtype=np.int64)
        self.card = Card(self.foot, self.limit, order_of_going(nll), link, reaction_s, step_tokens)
        self.profile, self.shed_s = profile, float(shed_s)
        self.engine = ServeWitness(self.requests, self.card, profile, self.shed_s)
        harm = Harm(nll, np.array([1.0, 0.5, 0.25]), ceiling=4.0)
        made = kernel.world_of(self.requests, self.card, profile, harm, Deadlines())
        copies: list[Any] = [np.array(each) for each in made]
        self.world = kernel.World(*copies)
        self.lane = kernel.lane_of(self.world, self.shed_s)
        self.came = self.second = 0
        self.decision: IntArray = np.zeros(3, dtype=np.int64)
        self.course: list[tuple[tuple[int, ...], Reason]] = []
        self.source = Reason.POLICY

    # The world

    @rule(count=st.integers(1, 4), within=st.integers(0, 15))
    def requests_come(self, count: int, within: int) -> None:
        # Later than anything that has been looked at: a long step may have gone beyond this second.
        now_s = max(self.engine.now_s, float(self.second))
        if self.came:
            now_s = max(now_s, float(self.requests.arrival_s[self.came - 1]))
        for _ in range(min(count, REQUESTS - self.came)):
            for arrival_s in (self.requests.arrival_s, self.world.arrival_s):
                arrival_s[self.came] = now_s + within / 16
            self.came += 1

    def _limit_from_now(self, limit: int, seconds: int | None = None) -> None:
        first = int(max(self.engine.now_s, float(self.second))) + 1
        last = None if seconds is None else first + seconds
        for each in (self.limit, self.world.limit_bytes):
            each[first:last] = limit

    @rule(
        pages=st.integers(0, 12),
        attention=st.integers(0, 2),
        ffn=st.integers(0, 2),
        more=st.integers(-1, 1),
    )
    def memory_is_left_for_some_pages(
        self, pages: int, attention: int, ffn: int, more: int
    ) -> None:
        """To the byte, one more or less: beside these blocks."""
        plain = self.engine.plain
        self._limit_from_now(plain.used((attention, ffn), pages) + more)

    @rule(lost=st.integers(1, 400), seconds=st.integers(1, 3))
    def memory_is_lost_for_a_while(self, lost: int, seconds: int) -> None:
        in_use = self.engine.plain.used(self.engine.counts, self.engine.pages.used)
        self._limit_from_now(in_use - lost, seconds)

    @rule()
    def the_tenant_takes_everything(self) -> None:
        self._limit_from_now(0)

    @rule()
    def memory_is_ample(self) -> None:
        self._limit_from_now(AMPLE)

    # The policy

    @rule(attention=st.integers(0, 2), ffn=st.integers(0, 2), on_fall=st.integers(0, 1))
    def a_policy_decides(self, attention: int, ffn: int, on_fall: int) -> None:
        self._asked(lambda usual: usual, np.array([attention, ffn, on_fall], dtype=np.int64))

    @rule(name=st.sampled_from(sorted(UNREADABLE)))
    def a_policy_gives_what_is_no_decision(self, name: str) -> None:
        self._asked(UNREADABLE[name], np.array([1, 1, 0], dtype=np.int64))
        assert self.source == Reason.FALLBACK, "promise 3: what cannot be read is replaced first"

    def _asked(self, answer: Callable[[IntArray], Any], usual: IntArray) -> None:
        policy, most = _Answers(answer, usual[None]), np.array([2, 2, 1])
        rng = np.random.default_rng(0)
        found, readable, fault = guard.answered(policy, np.zeros((1, 1)), rng, most)
        assert bool(readable[0]) == (fault is None), "promise 4: what is wrong is said"
        # The reference stands in: here one that keeps all, and lets blocks go first.
        self.decision = found[0] if readable[0] else np.array([0, 0, DROP], dtype=np.int64)
        self.source = Reason.POLICY if readable[0] else Reason.FALLBACK

    # Time

    @rule(seconds=st.integers(1, 4))
    def seconds_pass(self, seconds: int) -> None:
        for _ in range(seconds):
            if self.second < SECONDS - 60:
                self._serve_second()

    def _serve_second(self) -> None:
        self.engine.decide(Decision(*self.decision.tolist()))
        self.course.append((tuple(self.decision.tolist()), self.source))
        for look in range(1, LOOKS + 1):
            until_s = self.second + look / LOOKS
            self.engine.run(until_s)
            kernel.run(self.world, self.lane, until_s, *self.decision.tolist())
            self._same()
        self.second += 1

    def _same(self) -> None:
        """The compiled engine stands where the reference does."""
        engine, lane, count = self.engine, self.lane, self.lane.counts
        assert lane.number[kernel.NOW_S] == engine.now_s
        assert (count[kernel.ATTENTION_DROPPED], count[kernel.FFN_DROPPED]) == engine.counts
        assert count[kernel.LOADING] == (-1 if engine.loading is None else engine.loading[0])
        assert count[kernel.PAGES_USED] == engine.pages.used
        assert count[kernel.STEPS] == len(engine.steps)
        assert count[kernel.DELIVERED] == len(engine.tokens)
        running = lane.running[: count[kernel.RUNNING]].tolist()
        assert running == [each.request for each in engine.running]
        assert lane.preemptions.tolist() == [each.preemptions for each in engine.served]
        shed = [each.shed_s for each in engine.served]
        assert np.array_equal(lane.shed_s, shed, equal_nan=True)

    @rule()
    def all_is_well_for_long(self) -> None:
        """Promise 5: with ample memory and nothing to drop, every block is back within a stated time."""
        if self.second > SECONDS // 2:
            return
        before = self.engine.counts
        self._limit_from_now(AMPLE)
        self._asked(lambda usual: usual, np.array([0, 0, DROP], dtype=np.int64))
        # Until the limit has risen, and what runs has ended its step.
        settled_s = int(max(self.engine.now_s, float(self.second))) + 2
        while self.second < settled_s:
            self._serve_second()
        dropped = self.engine.counts
        block_s = [self.foot.attention_bytes / self.card.link_bytes_per_s,
                   self.foot.ffn_bytes / self.card.link_bytes_per_s]  # fmt: skip
        longest_s = 1.0 + 1 / LOOKS + self._longest_step_s()
        allowed_s = sum(n * (s + longest_s) for n, s in zip(dropped, block_s, strict=True))
        until_s = self.second + int(allowed_s + longest_s) + 1
        if until_s > SECONDS - 60:
            return
        while self.second < until_s:
            self._serve_second()
        assert self.engine.counts == (0, 0), "promise 5: every block is back"
        assert self.engine.loading is None
        self._note("came back", sum(before))

    def _longest_step_s(self) -> float:
        """With every block and as much KV cache as there can be."""
        weights = 3 * (self.foot.attention_bytes + self.foot.ffn_bytes)
        tokens = self.profile.max_sequences * 48
        kv = tokens * 3 * self.card.block_token_bytes / self.profile.kv_bytes_per_s
        return self.profile.base_s + weights / self.profile.weight_bytes_per_s + kv

    # Promises

    @invariant()
    def every_token_is_accounted_for(self) -> None:
        """Promise 6: each delivered once and in order; nobody is served and given up before a first token."""
        if not hasattr(self, "engine"):
            return
        made = [0] * REQUESTS
        for token in self.engine.tokens:
            assert token.index == made[token.request], "promise 6: each token once, in order"
            made[token.request] += 1
        for request, count in enumerate(made):
            result = self.engine.served[request]
            assert count <= self.requests.output_tokens[request]
            assert not count or result.shed_s != result.shed_s, (
                "given up without a first token alone"
            )
        assert self.lane.made.tolist() == made

    def teardown(self) -> None:
        """Promises 4 and 6: each second is decided once, and its course repeats itself from the log alone."""
        if not hasattr(self, "engine"):
            return
        assert len(self.course) == self.second
        again = Engine(self.requests, self.card, self.profile, self.shed_s)
        for second, (decision, _) in enumerate(self.course):
            again.decide(Decision(*decision))
            for look in range(1, LOOKS + 1):
                again.run(second + look / LOOKS)
        assert again.tokens == self.engine.tokens
        assert (again.now_s, again.counts) == (self.engine.now_s, self.engine.counts)
        type(self).tally.decisions += self.second
        type(self).tally.reasons.update(source.name.lower() for _, source in self.course)
        self._note("fell", self.engine.falls)
        self._note("dropped blocks", self.engine.repaired)
        self._note("stood still", self.engine.stood_still)
        self._note("delivered", len(self.engine.tokens))
        self._note("preempted", sum(each.preemptions for each in self.engine.served))
        self._note("given up", sum(each.shed_s == each.shed_s for each in self.engine.served))

    def _note(self, what: str, count: int) -> None:
        self.seen[what] = self.seen.get(what, 0) + int(count)
