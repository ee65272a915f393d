"""The shield's promises 1 to 4 (DESIGN.md section 6), tried on proposals and bytes nobody chose."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rapgym.arrays import BoolArray, IntArray
from rapgym.testing.hostile import Raises
from rapgym.world import shield
from rapgym.world.shield import Reason


@dataclass(frozen=True)
class Case:
    """B lanes of one model: what is proposed, what blocks cost, what there is."""

    proposal: BoolArray  # [B, N]
    costs: IntArray  # [B, N]
    budget: IntArray  # [B]
    order: IntArray
    strict: BoolArray  # [B]

    @property
    def floor(self) -> BoolArray:
        floor = np.ones(self.proposal.shape[1], dtype=bool)
        floor[self.order] = False
        return floor


@st.composite
def cases(draw: st.DrawFn) -> Case:
    lanes, n = draw(st.integers(1, 4)), 2 * draw(st.integers(1, 6))
    bits = st.lists(st.booleans(), min_size=n, max_size=n)
    # Sizes from a small pool, zero included, so that budgets are met exactly and blocks tie.
    sizes = st.lists(st.sampled_from([0, 1, 2, 3, 5, 8, 10**12]), min_size=n, max_size=n)
    proposal = np.array(draw(st.lists(bits, min_size=lanes, max_size=lanes)), dtype=bool)
    costs = np.array(draw(st.lists(sizes, min_size=lanes, max_size=lanes)), dtype=np.int64)
    order = draw(st.permutations(range(n)))[: draw(st.integers(0, n))]
    budget = [
        int(costs[lane][draw(st.lists(st.integers(0, n - 1), unique=True))].sum())
        + draw(st.integers(-2, 2))
        for lane in range(lanes)
    ]
    strict = draw(st.lists(st.booleans(), min_size=lanes, max_size=lanes))
    return Case(proposal, costs, np.array(budget, dtype=np.int64),
                np.array(order, dtype=np.int64), np.array(strict))  # fmt: skip


def plain_fit(proposal: list[bool], costs: list[int], budget: int, order: list[int]) -> list[bool]:
    """Drop along the order while it does not fit; then, last dropped first, give back what fits."""
    kept = [wanted or block not in order for block, wanted in enumerate(proposal)]
    spent = sum(cost for cost, stays in zip(costs, kept, strict=True) if stays)
    dropped = []
    for block in order:
        if spent > budget and kept[block]:
            kept[block] = False
            spent -= costs[block]
            dropped.append(block)
    for block in reversed(dropped):
        if spent + costs[block] <= budget:
            kept[block] = True
            spent += costs[block]
    return kept


def house_fit(proposal: BoolArray, costs: IntArray, budget: IntArray, order: IntArray) -> BoolArray:
    """The sample of STYLE.md, word for word."""
    floor = np.ones(proposal.shape[-1], dtype=bool)
    floor[order] = False
    kept = proposal | floor
    excess = np.where(kept, costs, 0).sum(axis=-1) - budget
    for block in order:
        goes = kept[..., block] & (excess > 0)
        kept[..., block] &= ~goes
        excess = excess - np.where(goes, costs[..., block], 0)
    for block in order[::-1]:
        returns = proposal[..., block] & ~kept[..., block] & (costs[..., block] <= -excess)
        kept[..., block] |= returns
        excess = excess + np.where(returns, costs[..., block], 0)
    return kept


@given(cases())
def test_fit_keeps_its_promise(case: Case) -> None:
    all_kept = shield.fit(case.proposal, case.costs, case.budget, case.order)
    for lane, kept in enumerate(all_kept):
        costs, budget = case.costs[lane], case.budget[lane]
        wanted, spent = case.proposal[lane] | case.floor, costs[kept].sum()
        assert (case.floor <= kept).all(), "the floor stays"
        assert (kept <= wanted).all(), "nothing is kept that was not proposed"
        assert spent <= budget or (kept == case.floor).all(), "what is kept fits"
        if costs[wanted].sum() <= budget:
            assert (kept == wanted).all(), "what fits is left alone"
        if spent <= budget:
            for block in np.flatnonzero(wanted & ~kept):
                assert spent + costs[block] > budget, "nothing is dropped in vain"
        assert kept.tolist() == plain_fit(
            case.proposal[lane].tolist(), costs.tolist(), int(budget), case.order.tolist()
        ), "dropped along the order, given back against it"
    house = house_fit(case.proposal, case.costs, case.budget, case.order)
    # Only blocks of no bytes can differ where the floor does not fit, and there the row is refused.
    fits = np.where(all_kept, case.costs, 0).sum(axis=1) <= case.budget
    assert (all_kept[fits] == house[fits]).all()


@given(cases())
def test_fit_reads_its_arguments_and_nothing_else(case: Case) -> None:
    before = [array.copy() for array in (case.proposal, case.costs, case.budget, case.order)]
    together = shield.fit(case.proposal, case.costs, case.budget, case.order)
    for array, was in zip(
        (case.proposal, case.costs, case.budget, case.order), before, strict=True
    ):
        assert (array == was).all(), "no argument is written to"
    for lane in range(len(together)):
        alone = shield.fit(case.proposal[lane], case.costs[lane], case.budget[lane], case.order)
        assert (alone == together[lane]).all(), "a lane does not depend on its neighbours"
    together[...] = False
    assert (case.proposal == before[0]).all(), "the answer is the caller's own"


@given(cases())
def test_what_is_executed_fits_or_is_refused_with_cause(case: Case) -> None:
    source = np.full(len(case.budget), Reason.POLICY)
    decided = shield.decide(case.proposal, case.costs, case.budget, case.order, source, case.strict)
    for lane, kept in enumerate(decided.kept):
        costs, budget = case.costs[lane], case.budget[lane]
        wanted = case.proposal[lane] | case.floor
        wanted_fits, floor_fits = (costs[x].sum() <= budget for x in (wanted, case.floor))
        assert costs[kept].sum() <= budget or decided.refused[lane], "promise 1: safe"
        assert decided.refused[lane] == (
            not floor_fits or (case.strict[lane] and not wanted_fits)
        ), "refused if the floor does not fit or the policy declared so, and only then"
        if wanted_fits:
            assert (kept == wanted).all(), "promise 2: executed unchanged"
        if decided.refused[lane]:
            assert (kept == case.floor).all()
        expected = Reason.POLICY if wanted_fits else Reason.REPAIRED
        assert decided.reason[lane] == (Reason.REFUSED if decided.refused[lane] else expected)


@pytest.mark.parametrize("source", [Reason.FALLBACK, Reason.WATCHDOG, Reason.OVERRIDE])
def test_the_reason_names_who_stands_in_for_the_policy(source: Reason) -> None:
    proposal, order = np.ones((2, 4), dtype=bool), np.array([2, 3])
    costs, budget = np.full((2, 4), 10), np.array([40, 30])
    decided = shield.decide(
        proposal, costs, budget, order, np.full(2, source), np.zeros(2, dtype=bool)
    )
    assert decided.reason.tolist() == [source, source]
    assert decided.kept.tolist() == [[True] * 4, [True, True, False, True]]


def test_a_repair_by_hand() -> None:
    # Order: 1, then 2, then 3; block 0 is the floor. 5 + 2 + 4 + 9 = 20 bytes are wanted, 13 there.
    # 1 goes (18), 2 goes (14), 3 goes (5 left of 13). Back: 3 not (14), 2 comes (9), 1 comes (11).
    kept = shield.fit(
        np.ones(4, dtype=bool), np.array([5, 2, 4, 9]), np.array(13), np.array([1, 2, 3])
    )
    assert kept.tolist() == [True, True, True, False]


class Elements:
    """A sequence that says it has four entries and raises at the third."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> bool:
        if index >= 2:
            raise ZeroDivisionError
        return True


class OldArray:
    """Becomes an array in the manner of NumPy 1, of which NumPy 2 warns; torch's tensors do so."""

    def __array__(self, dtype: Any = None) -> Any:
        return np.array([True, False, True, True])


class Wild(np.ndarray[Any, Any]):
    """An array whose every operation raises, as a subclass from a stranger may."""

    def __array_ufunc__(self, *args: Any, **kwargs: Any) -> Any:
        raise ZeroDivisionError

    def __getitem__(self, item: object) -> Any:
        raise ZeroDivisionError

    def copy(self, order: Any = "C") -> Any:
        raise ZeroDivisionError


def recursive() -> list[Any]:
    own: list[Any] = []
    own.extend([own] * 4)
    return own


HOSTILE: dict[str, Callable[[], object]] = {
    "nothing": lambda: None,
    "a bool": lambda: True,
    "a number": lambda: 1,
    "too short": lambda: [True] * 3,
    "too long": lambda: [True] * 5,
    "empty": list,
    "a column": lambda: np.ones((4, 1), dtype=bool),
    "a batch": lambda: np.ones((1, 4), dtype=bool),
    "NaN": lambda: np.array([1.0, np.nan, 1.0, 0.0]),
    "infinity": lambda: [1.0, np.inf, 1.0, 0.0],
    "a half": lambda: [0.5, 1, 1, 1],
    "minus one": lambda: [-1, 1, 1, 1],
    "two": lambda: [2, 1, 1, 1],
    "an unsigned two": lambda: np.array([2, 1, 1, 1], dtype=np.uint8),
    "unsigned twos": lambda: [np.uint8(2)] * 4,
    "the least number": lambda: [5e-324, 1, 1, 1],
    "huge integers": lambda: [2**70, 1, 1, 1],
    "integers beyond int64": lambda: [2**63, 1, 1, 1],
    "complex": lambda: np.ones(4, dtype=complex),
    "text": lambda: "1111",
    "texts": lambda: ["1", "1", "1", "1"],
    "bytes": lambda: b"1111",
    "objects": lambda: np.array([True, True, True, True], dtype=object),
    "Nones": lambda: [None] * 4,
    "a generator": lambda: (True for _ in range(4)),
    "a set": lambda: {0, 1, 2, 3},
    "a mapping": lambda: {0: True, 1: True, 2: True, 3: True},
    "ragged": lambda: [[True], True, True, True],
    "nested": lambda: [[[[True]]]],
    "itself": recursive,
    "dates": lambda: np.zeros(4, dtype="datetime64[s]"),
    "durations": lambda: np.ones(4, dtype="timedelta64[s]"),
    "records": lambda: np.zeros(4, dtype=[("kept", bool)]),
    "a class": lambda: bool,
    "a function": lambda: len,
    "a sequence that breaks off": Elements,
    "an object that raises": lambda: Raises(RuntimeError),
    "an object that runs out of memory": lambda: Raises(MemoryError),
    "an object that exits": lambda: Raises(SystemExit),
}


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_proposal_is_read_as_none(make: Callable[[], object]) -> None:
    assert shield.read_proposal(make(), 4) is None


def test_whoever_interrupts_is_heard() -> None:
    with pytest.raises(KeyboardInterrupt):
        shield.read_proposal(Raises(KeyboardInterrupt), 4)


READABLE: dict[str, Callable[[], object]] = {
    "booleans": lambda: np.array([True, False, True, True]),
    "a list": lambda: [True, False, True, True],
    "a tuple of integers": lambda: (1, 0, 1, 1),
    "floats": lambda: np.array([1.0, -0.0, 1.0, 1.0], dtype=np.float16),
    "unsigned": lambda: np.array([1, 0, 1, 1], dtype=np.uint64),
    "mixed": lambda: [True, 0, 1.0, np.int8(1)],
    "backwards": lambda: np.array([True, True, False, True])[::-1],
    "an array of old": OldArray,
    "a wild array": lambda: np.array([True, False, True, True]).view(Wild),
    "read-only": lambda: np.broadcast_to(np.array([True, False, True, True]), (4,)),
}


@pytest.mark.parametrize("make", READABLE.values(), ids=READABLE)
def test_booleans_and_zeros_and_ones_are_read(make: Callable[[], object]) -> None:
    read = shield.read_proposal(make(), 4)
    assert read is not None
    assert type(read) is np.ndarray
    assert read.dtype == bool
    assert read.flags.writeable
    assert read.tolist() == [True, False, True, True]


def test_a_reading_does_not_depend_on_how_warnings_are_treated() -> None:
    readings = []
    for action in ("error", "ignore"):
        with warnings.catch_warnings():
            warnings.simplefilter(action)
            readings.append(shield.read_proposal(OldArray(), 4))
    assert all(reading is not None for reading in readings)


def test_a_reading_is_a_copy() -> None:
    answer = np.array([True, False])
    read = shield.read_proposal(answer, 2)
    answer[...] = False
    assert read is not None
    assert read.tolist() == [True, False]


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.complex_numbers()
)  # fmt: skip
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.tuples(inner), max_leaves=8
)


@given(anything, st.integers(1, 4))
@example([1, 0], 2)
def test_reading_never_raises_and_never_reads_what_is_not_there(answer: object, n: int) -> None:
    read = shield.read_proposal(answer, n)
    if read is not None:
        assert isinstance(answer, list | tuple)
        assert len(answer) == n
        assert all(bit == found for bit, found in zip(answer, read.tolist(), strict=True))
