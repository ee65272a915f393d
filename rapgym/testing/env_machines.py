"""Hypothesis state machines over whole environments, alone and as a vector, and over a guarded policy.

`EnvMachine` acts in `RapEnv` or `RapVectorEnv` of any scenario by whatever actions there are, while
memory and demand change under it. `GuardMachine` has policies of all sorts asked and guarded, with
watchdog, deadline and an operator's pins. In both every row goes through a `Witness`.
"""

from collections import Counter
from dataclasses import replace
from math import ceil
from typing import Any, ClassVar

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from rapgym.arrays import BoolArray, IntArray
from rapgym.envs.env import RapEnv
from rapgym.envs.registration import IDS
from rapgym.envs.vector_env import RapVectorEnv
from rapgym.errors import InvalidAction
from rapgym.guard.guard import Guard, Guarding
from rapgym.guard.watchdog import Rules
from rapgym.policies.policy import briefing
from rapgym.policies.reference import FrontierLookup
from rapgym.scenarios.catalogue import story_of
from rapgym.scenarios.lanes import Lanes, Start
from rapgym.testing import hostile, model
from rapgym.testing import worlds as made
from rapgym.testing.witness import CLOSE, Tally, Witness
from rapgym.testing.world_machine import SEEDS
from rapgym.world import stall
from rapgym.world.records import Rows, World
from rapgym.world.shield import Reason

TRAIN, WHOLE = ("train", "fit"), ("validation",)  # splits by how episodes start


def disturbed(world: World, row: int, rng: np.random.Generator) -> World:
    """The world with the next rows changed: memory to the byte, lost within seconds, or a burst."""
    rows, foot = world.rows, world.footprint
    limits, prompt = rows.limit_bytes.copy(), rows.prompt_tokens.copy()
    for ahead in range(4):
        at, what = (row + ahead) % len(limits), rng.integers(4)
        if what == 0:
            a, f = (int(count) for count in rng.integers(0, foot.layers + 1, 2))
            exact = made.bytes_of(world, a, f, int(prompt[at]), int(rows.reserved_tokens[at]))
            limits[at] = exact + rng.integers(-1, 2)
        elif what == 1:
            limits[at, rng.integers(limits.shape[1])] //= int(rng.integers(1, 5))
        elif what == 2:
            prompt[at] = min(int(prompt[at]) * 10 + 3, 1 << 31)
    changed: dict[str, IntArray] = {
        name: getattr(rows, name) for name in Rows.__slots__ if hasattr(rows, name)
    }
    return replace(world, rows=Rows(**changed | {"limit_bytes": limits, "prompt_tokens": prompt}))


class EnvMachine(RuleBasedStateMachine):
    """One environment of a scenario, or `lanes` of them as a vector, from making to closing."""

    scenario: ClassVar[str] = "chat-beside-code"
    lanes: ClassVar[int] = 0  # of the vector form; 0: the environment alone
    tally: ClassVar[Tally] = Tally()

    @initialize(
        env_id=st.sampled_from([*IDS]),
        split=st.sampled_from([*TRAIN, *WHOLE]),
        observation=st.sampled_from(["flat", "dict"]),
        seed=SEEDS,
    )
    def it_is_made(self, env_id: str, split: Any, observation: str, seed: int) -> None:
        self.made = {"actions": IDS[env_id], "scenario": self.scenario, "split": split,
                     "observation": observation}  # fmt: skip
        self._open(seed)

    def _open(self, seed: int) -> None:
        self.env: Any = (
            RapVectorEnv(num_envs=self.lanes, **self.made) if self.lanes else RapEnv(**self.made)
        )
        self.env.lanes.step = Witness(self.env.lanes.step, type(self).tally)
        self._reset(seed)

    def _reset(self, seed: int | None, **options: Any) -> None:
        observation, self.info = self.env.reset(seed=seed, options=options)
        self.ended = np.zeros(max(self.lanes, 1), dtype=bool)
        self._seen(observation)

    @rule(seed=SEEDS)
    def it_restarts_from_a_seed(self, seed: int) -> None:
        self._reset(seed)

    @rule(offset=st.integers(0, 3))
    def it_restarts_at_another_pairing(self, offset: int) -> None:
        offsets = self.env.lanes.story.offsets
        self._reset(None, offset=offset % offsets)

    @rule(seed=SEEDS)
    def the_process_restarts(self, seed: int) -> None:
        self.env.close()
        self._open(seed)

    @rule(seed=SEEDS)
    def memory_and_demand_change(self, seed: int) -> None:
        lanes = self.env.lanes
        row = int(lanes.state.limit_row[0])
        lanes.world = disturbed(lanes.world, row, np.random.default_rng(seed))
        lanes._seen = None  # what was gathered is of the world before

    @rule(seed=SEEDS, steps=st.integers(1, 40))
    def legal_actions_are_taken(self, seed: int, steps: int) -> None:
        rng = np.random.default_rng(seed)
        self.env.action_space.seed(int(rng.integers(1 << 31)))
        for _ in range(steps):
            self._step(self._legal(rng))

    def _legal(self, rng: np.random.Generator) -> Any:
        if self.made["actions"] != "blocks":
            return self.env.action_space.sample()
        legal = np.atleast_2d(self.env.action_masks()).astype(float)
        legal[:, -1] *= 0.2 if rng.random() < 0.9 else 9.0  # a row is served now and then
        chosen = (legal * rng.random(legal.shape)).argmax(axis=1)
        return chosen if self.lanes else int(chosen[0])

    @rule(seed=SEEDS, steps=st.integers(1, 8))
    def actions_outside_the_space_are_refused(self, seed: int, steps: int) -> None:
        rng = np.random.default_rng(seed)
        sample = np.asarray(self.env.action_space.sample())
        wild = [-(1 << 62), -1, 1 << 31, (1 << 63) - 1, np.nan, np.inf, 0.5]
        for _ in range(steps):
            before = self.env.lanes.state
            try:
                self.env.step(rng.choice(wild, sample.shape))
            except InvalidAction:
                assert self.env.lanes.state is before, "nothing has changed"
            else:
                raise AssertionError("such an action is refused")
            self._step(self._legal(rng))

    def _step(self, action: Any) -> None:
        if not self.lanes and self.ended[0]:
            self._reset(None)
        ended_before = self.ended
        observation, reward, terminated, truncated, self.info = self.env.step(action)
        self._seen(observation)
        self.ended = np.atleast_1d(truncated)
        assert not np.any(terminated), "episodes end with their rows alone"
        rewards = np.atleast_1d(reward)
        for lane, given in enumerate(rewards.tolist()):
            self._accounted(lane, given, just_reset=bool(ended_before[lane]))

    def _accounted(self, lane: int, reward: float, *, just_reset: bool) -> None:
        """`info` of a finished row adds up; of an unfinished one it says nothing."""

        def said(name: str) -> Any:
            return self.info[name][lane] if self.lanes else self.info[name]

        if not said("served"):
            assert reward == 0.0
            return
        assert not (self.lanes and just_reset), "a lane that was reset serves no row"
        total = sum(float(said(name)) for name in model.TERMS)
        assert abs(total + reward) <= CLOSE * max(1.0, abs(reward)), "terms add up to -reward"
        lost = sum(float(said(f"{name}_s")) for name in ("stall", "emergency", "refused"))
        assert 0 <= lost <= self.env.lanes.world.window_s + CLOSE
        if said("reason") != Reason.REFUSED:
            margin = self.env.lanes.world.footprint.margin_bytes
            assert said("used_bytes") + margin <= said("limit_bytes"), "promise 1"

    def _seen(self, observation: Any) -> None:
        assert observation in self.env.observation_space, "inside its stated bounds"
        masks = np.atleast_2d(self.info["action_mask"])
        assert masks.any(axis=1).all(), "something is always legal"

    def teardown(self) -> None:
        if hasattr(self, "env"):
            self.env.close()


class GuardMachine(RuleBasedStateMachine):
    """A guarded policy in lanes of a scenario: policies come and go, an operator intervenes."""

    scenario: ClassVar[str] = "chat-beside-code"
    lanes: ClassVar[int] = 3
    tally: ClassVar[Tally] = Tally()
    modes: ClassVar[Counter[str]] = Counter()

    @initialize(name=st.sampled_from([*hostile.POLICIES]), seed=SEEDS)
    def begin(self, name: str, seed: int) -> None:
        self.story = story_of(self.scenario)
        self.told = briefing(self.story, "fit")
        self.rng = np.random.default_rng(seed)
        step = Witness(tally=type(self).tally)
        self.inner = Lanes(self.story, "validation", self.lanes, step=step)
        for lane in range(self.lanes):
            self.inner.restart(lane, Start(0, lane, 1.0, len(self.inner.world.rows)))
        self.watched_by: Rules | None = None
        self.is_late = False
        self._guarded(hostile.POLICIES[name]())

    def _guarded(self, policy: Any) -> None:
        # Every answer takes more than a picosecond: late without waiting.
        guarding = Guarding(self.watched_by, 1e-9 if self.is_late else None)
        self.policy, self.guard = policy, Guard(policy, self.inner, self.told, guarding)
        self.pinned: BoolArray = np.zeros(self.lanes, dtype=bool)

    @rule(name=st.sampled_from([*hostile.POLICIES]))
    def another_policy_takes_over(self, name: str) -> None:
        self._guarded(hostile.POLICIES[name]())

    @rule(name=st.sampled_from([*hostile.UNREADABLE, *hostile.READABLE]))
    def a_policy_answers_oddly(self, name: str) -> None:
        answers = hostile.UNREADABLE | hostile.READABLE
        self._guarded(hostile.Proposes(answers[name]))

    @rule(watched=st.booleans(), late=st.sampled_from([False, False, True]))
    def it_is_guarded_otherwise(self, watched: bool, late: bool) -> None:
        self.watched_by = Rules(window_rows=4, hand_back_rows=2, ample_rows=3) if watched else None
        self.is_late = late
        self._guarded(self.policy)

    @rule(seed=SEEDS, dense=st.booleans())
    def an_operator_pins(self, seed: int, dense: bool) -> None:
        rng = np.random.default_rng(seed)
        lanes = rng.random(self.lanes) < 0.6
        if dense:
            self.guard.pin_dense(lanes)
        else:
            self.guard.pin(rng.random(self.inner.world.blocks) < 0.7, lanes)
        self.pinned = self.pinned | lanes

    @rule(seed=SEEDS)
    def an_operator_releases(self, seed: int) -> None:
        lanes = np.random.default_rng(seed).random(self.lanes) < 0.6
        self.guard.release(lanes)
        self.pinned = self.pinned & ~lanes

    @rule(seed=SEEDS)
    def memory_and_demand_change(self, seed: int) -> None:
        row = int(self.inner.state.limit_row[0])
        world = disturbed(self.inner.world, row, np.random.default_rng(seed))
        self._now_in(world)

    def _now_in(self, world: World) -> None:
        self.inner.world = world
        self.inner._seen = None
        pinned, pins = self.pinned, self.guard._pins.copy()
        self._guarded(self.policy)  # its shadows live in the world that there was
        for lane in np.flatnonzero(pinned):
            self.guard.pin(pins[lane], np.arange(self.lanes) == lane)
        self.pinned = pinned

    @rule(rows=st.integers(1, 12))
    def rows_are_served(self, rows: int) -> None:
        for _ in range(rows):
            self._serve()

    def _serve(self) -> Any:
        served = self.guard.serve(self.rng)
        decided, outcome = served.decided, served.outcome
        for lane in range(self.lanes):
            mode = None if decided.watchdog is None else bool(decided.watchdog.policy_decides[lane])
            usable = bool(decided.readable[lane]) and not decided.late
            wanted = (
                Reason.OVERRIDE if self.pinned[lane]
                else Reason.WATCHDOG if mode is False
                else Reason.POLICY if usable
                else Reason.FALLBACK
            )  # fmt: skip
            assert decided.source[lane] == wanted, "who decides, in the stated order"
            if wanted == Reason.POLICY:
                assert (decided.proposal[lane] == decided.asked[lane]).all()
            elif wanted != Reason.OVERRIDE:
                assert decided.instead is not None
                assert (decided.proposal[lane] == decided.instead[lane]).all()
        assert decided.late == self.is_late
        type(self).modes.update(Reason(source).name.lower() for source in decided.source.tolist())
        return outcome

    @rule()
    def a_frugal_policy_does_not_keep_memory_empty(self) -> None:
        """Promise 5: with memory to spare, the watchdog is back at dense within its stated rows."""
        rows = self.inner.world.rows
        ample = np.full_like(rows.limit_bytes, 2 * made.dense_bytes(self.inner.world))
        # A row in which nobody is served costs nothing, and does not count.
        rows = replace(rows, limit_bytes=ample, output_tokens=np.maximum(rows.output_tokens, 1))
        world = replace(self.inner.world, rows=rows)
        before = self.watched_by, self.is_late, self.policy
        self.watched_by, self.is_late, self.policy = Rules(ample_rows=3), False, hostile.Same(False)
        self.pinned = np.zeros(self.lanes, dtype=bool)
        self._now_in(world)
        # Rows in which the reference still brings blocks back are no waste yet.
        returning_s = float(stall.stall_s(world, world.footprint.weights.sum()))
        stalled = ceil(returning_s / world.window_s)
        for _ in range(self.watched_by.ample_rows + stalled + 1):
            outcome = self._serve()
        # What the lookup takes for best: dense, or a set that the table finds no worse.
        best = FrontierLookup()
        best.reset(self.lanes, self.told)
        wanted = best.propose(self.inner.observe(), self.rng)
        assert (outcome.kept == (wanted | world.floor)).all(), "promise 5"
        self.watched_by, self.is_late, self.policy = before
        self._guarded(self.policy)
