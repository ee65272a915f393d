"""A step that watches another one: every row is recounted by the plain model, every promise tried.

It has the signature of `simulator.step`, so that it stands in an environment, in `Lanes`, or around a
device just as well.
"""

from collections import Counter
from dataclasses import dataclass, field, fields, replace
from math import isclose

import numpy as np

from rapgym.arrays import BoolArray, IntArray
from rapgym.testing import model
from rapgym.testing.model import Kept, PlainWorld, Served
from rapgym.world import simulator
from rapgym.world.records import Outcome, State, World
from rapgym.world.shield import Reason
from rapgym.world.simulator import Step

CLOSE = 1e-9  # nats and seconds; bytes and sets are compared exactly
AGAIN_EVERY = 8  # calls of which one is made twice: a step has no memory


class BrokenPromise(AssertionError):
    """What was executed is not what DESIGN.md section 6 promises; the message says which and where."""


@dataclass
class Tally:
    """What has been seen so far."""

    decisions: int = 0  # rows times lanes
    reasons: Counter[str] = field(default_factory=Counter)
    falls: int = 0  # of the limit below what was in use, inside a row: the shield decides anew
    in_mid_row: int = 0  # rows in which memory fell below what was in use
    unmeasured: int = 0
    stalled: int = 0
    strict: int = 0  # of policies that are refused rather than repaired

    def add(self, other: "Tally") -> None:
        for each in fields(self):
            mine, theirs = getattr(self, each.name), getattr(other, each.name)
            setattr(self, each.name, mine + theirs)


class Witness:
    """Serves rows by `step`, and raises BrokenPromise where it does not do as it must."""

    def __init__(
        self,
        step: Step = simulator.step,
        tally: Tally | None = None,
        *,
        is_live: bool = False,
        has_own_nats: bool = False,
    ) -> None:
        """Args:
        tally: where to count; one of its own unless given.
        is_live: a device, which cannot serve a row twice and flags as unmeasured what it could
            not score.
        has_own_nats: a model whose nats and stalls are its own, not the table's and the world's.
        """
        self.step, self.tally = step, Tally() if tally is None else tally
        self.is_live, self.has_own_nats = is_live, has_own_nats
        self._calls = 0
        self._world: World | None = None

    def __call__(
        self,
        world: World,
        state: State,
        proposal: BoolArray,
        source: IntArray | None = None,
        refuses_misfit: BoolArray | None = None,
        /,
    ) -> tuple[State, Outcome]:
        lanes = state.lanes
        source = np.full(lanes, Reason.POLICY) if source is None else source
        strict = np.zeros(lanes, dtype=bool) if refuses_misfit is None else refuses_misfit
        given = [proposal, source, strict, *(getattr(state, f.name) for f in fields(State))]
        before = [array.copy() for array in given]
        following, outcome = self.step(world, state, proposal, source, strict)
        _require(
            all((array == was).all() for array, was in zip(given, before, strict=True)),
            "an argument was written to",
        )
        self._calls += 1
        if not self.is_live and self._calls % AGAIN_EVERY == 0:
            again = self.step(world, state, proposal, source, strict)
            _require(
                _bytes(again) == _bytes((following, outcome)), "the same row came out otherwise"
            )
        self._recount(world, state, proposal, source, strict, outcome)
        self._advanced(world, state, following, outcome)
        self._count(outcome, strict)
        return following, outcome

    def _recount(self, world: World, state: State, proposal: BoolArray, source: IntArray,
                 strict: BoolArray, outcome: Outcome) -> None:  # fmt: skip
        plain = self._plain_world(world)
        for lane in range(state.lanes):
            loaded, wanted = model.kept_of(state.loaded[lane]), model.kept_of(proposal[lane])
            place = (
                int(state.row[lane]),
                int(state.limit_row[lane]),
                float(state.token_scale[lane]),
            )
            served = model.serve(plain, loaded, wanted, *place, strict=bool(strict[lane]),
                                 source=Reason(source[lane]).name.lower())  # fmt: skip
            self._same(outcome, lane, served)
            self.tally.falls += len(served.falls)
            check_promises(plain, model.asked(plain, *place), wanted, outcome, lane,
                           strict=bool(strict[lane]))  # fmt: skip

    def _plain_world(self, world: World) -> PlainWorld:
        if world is not self._world:
            self._plain, self._world = PlainWorld.of(world), world
        return self._plain

    def _same(self, outcome: Outcome, lane: int, served: Served) -> None:
        """The plain account of a lane is that of the outcome."""
        found: dict[str, object] = {
            "kept": model.kept_of(outcome.kept[lane].tolist()),
            "kept_end": model.kept_of(outcome.kept_end[lane].tolist()),
            "reason": Reason(outcome.reason[lane]).name.lower(),
            "used_bytes": int(outcome.used_bytes[lane]),
            "falls": tuple(fall.second for fall in outcome.falls if lane in fall.lanes),
        }
        if not self.is_live:
            found["measured"] = bool(outcome.measured[lane])
        for name, value in found.items():
            wanted = getattr(served, name)
            _require(value == wanted, f"lane {lane}: {name} is {value}, recounted {wanted}")
        _require(
            bool(outcome.refused[lane]) == (served.reason == "refused"), f"lane {lane}: refused"
        )
        spent, terms = outcome.seconds, outcome.terms
        floats = {name: (getattr(spent, name)[lane], served.seconds[name]) for name in
                  ("stall", "emergency", "refused")}  # fmt: skip
        floats |= {"loss": (spent.loss[lane], served.loss), "nll": (outcome.nll[lane], served.nll)}
        floats |= {f"term {name}": (getattr(terms, name)[lane], served.terms[name])
                   for name in model.TERMS}  # fmt: skip
        floats["reward"] = (outcome.reward[lane], -sum(served.terms.values()))
        if self.has_own_nats:
            floats = {name: floats[name] for name in ("emergency", "refused")}
        for name, (value, wanted) in floats.items():
            fine = isclose(value, wanted, rel_tol=CLOSE, abs_tol=CLOSE)
            _require(fine, f"lane {lane}: {name} is {value}, recounted {wanted}")

    def _advanced(self, world: World, state: State, following: State, outcome: Outcome) -> None:
        rows = len(world.rows)
        fine = (
            (following.row == (state.row + 1) % rows).all()
            and (following.limit_row == (state.limit_row + 1) % rows).all()
            and (following.token_scale == state.token_scale).all()
            and (following.loaded == outcome.kept_end).all()
        )
        _require(bool(fine), "the state after the row is not the one that follows")

    def _count(self, outcome: Outcome, strict: BoolArray) -> None:
        tally = self.tally
        tally.decisions += len(outcome.reason)
        tally.reasons.update(Reason(reason).name.lower() for reason in outcome.reason.tolist())
        fell = (outcome.kept_end != outcome.kept).any(axis=1) & ~outcome.refused
        tally.in_mid_row += int(np.count_nonzero(fell | (outcome.seconds.emergency > 0)))
        tally.unmeasured += int(np.count_nonzero(~outcome.measured))
        tally.stalled += int(np.count_nonzero(outcome.seconds.stall))
        tally.strict += int(np.count_nonzero(strict))


def check_promises(
    world: PlainWorld,
    needs: model.Asked,
    proposal: Kept,
    outcome: Outcome,
    lane: int,
    *,
    strict: bool,
) -> None:
    """Promises 1, 2, 3 and 6 of DESIGN.md section 6 on one lane, by what they say.

    Raises:
        BrokenPromise: one does not hold.
    """
    kept, floor = model.kept_of(outcome.kept[lane].tolist()), world.floor
    wanted, budget, refused = proposal | floor, needs.budgets[0], bool(outcome.refused[lane])
    floor_fits, wanted_fits = needs.used(floor) <= budget, needs.used(wanted) <= budget
    spent = needs.used(kept)
    declared = strict and not wanted_fits
    _require(refused == (not floor_fits or declared), "promise 1: refused without cause, or not")
    if refused:
        _require(kept == floor, "a refused row names the floor")
    else:
        _require(spent <= budget, f"promise 1: {spent} bytes where {budget} are free")
        _require(floor <= kept <= wanted, "promise 3: a subset of the proposal, plus the floor")
        if wanted_fits:
            _require(kept == wanted, "promise 2: what fits is executed unchanged")
        for block in wanted - kept:
            _require(spent + needs.costs[block] > budget, f"promise 3: {block} went in vain")
    _within_the_end(world, needs, outcome, lane)
    _adds_up(world, outcome, lane, len(needs.budgets))


def _within_the_end(world: PlainWorld, needs: model.Asked, outcome: Outcome, lane: int) -> None:
    """What is in memory when the row ends fits its last second."""
    left = model.kept_of(outcome.kept_end[lane].tolist())
    has_cache = outcome.seconds.refused[lane] == 0
    held = needs.used(left) if has_cache else sum(world.weights[block] for block in left)
    _require(held <= needs.budgets[-1] or not left, "promise 1: overdrawn when the row ends")


def _adds_up(world: PlainWorld, outcome: Outcome, lane: int, window_s: int) -> None:
    spent, terms = outcome.seconds, outcome.terms
    lost = float(spent.stall[lane] + spent.emergency[lane] + spent.refused[lane])
    _require(
        min(spent.stall[lane], spent.emergency[lane], spent.refused[lane]) >= 0,
        "promise 6: a negative time",
    )
    _require(lost <= window_s + CLOSE, f"promise 6: {lost} s lost of a window of {window_s}")
    most = (window_s - lost) * world.ceiling
    _require(spent.loss[lane] <= most + CLOSE, "promise 6: a served token costs at most C")
    total = sum(float(getattr(terms, name)[lane]) for name in model.TERMS)
    fine = isclose(total, -float(outcome.reward[lane]), rel_tol=CLOSE, abs_tol=CLOSE)
    _require(fine, f"promise 6: terms of {total}, a reward of {outcome.reward[lane]}")


def _bytes(served: tuple[State, Outcome]) -> list[bytes]:
    """Every array of a state and an outcome, to the last bit."""
    state, outcome = served
    found = []
    for record in (state, outcome, outcome.seconds, outcome.terms):
        values = (getattr(record, each.name) for each in fields(record))
        found += [value.tobytes() for value in values if isinstance(value, np.ndarray)]
    return found


def _require(fine: bool, broken: str) -> None:
    if not fine:
        raise BrokenPromise(broken)


def alone(state: State, lane: int) -> State:
    """One lane of a state."""
    part = slice(lane, lane + 1)
    return replace(state, **{each.name: getattr(state, each.name)[part] for each in fields(State)})
