"""Policies that do whatever a policy should not: each lives in this process and returns.

What hangs, or kills its process, needs a process of its own; `Late` only says how long it takes.
"""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from rapgym.arrays import BoolArray, FloatArray
from rapgym.policies.policy import Briefing, Policy
from rapgym.policies.reference import FrontierLookup

Answer = Callable[[BoolArray], object]  # the bits that a fair policy would give -> what is given


class Raises:
    """Raises whatever is asked of it."""

    def __init__(self, error: type[BaseException]) -> None:
        self._error = error

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise self._error

    def __len__(self) -> int:
        raise self._error

    def __iter__(self) -> Iterator[Any]:
        raise self._error

    def __getitem__(self, item: object) -> Any:
        raise self._error


class Lying:
    """Says it has so many entries, and has none."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, item: object) -> Any:
        raise ZeroDivisionError


class Wild(np.ndarray[Any, Any]):
    """An array whose every operation raises, as a subclass from a stranger may."""

    def __array_ufunc__(self, *args: Any, **kwargs: Any) -> Any:
        raise ZeroDivisionError

    def __getitem__(self, item: object) -> Any:
        raise ZeroDivisionError

    def __iter__(self) -> Iterator[Any]:
        raise ZeroDivisionError


def _itself(bits: BoolArray) -> list[Any]:
    own: list[Any] = []
    own.extend([own] * len(bits))
    return own


def _changed(bits: BoolArray, value: Any, dtype: Any = float) -> Any:
    """The bits in another type, each lane's last entry replaced."""
    found = bits.astype(dtype)
    found[:, -1] = value
    return found


# What cannot be read as proposals, in no lane.
UNREADABLE: dict[str, Answer] = {
    "nothing": lambda bits: None,
    "a number": lambda bits: 1,
    "text": lambda bits: "1" * len(bits),
    "bytes": lambda bits: b"1" * len(bits),
    "a lane too few": lambda bits: bits[1:],
    "a lane too many": lambda bits: np.concatenate([bits, bits[:1]]),
    "a block too few": lambda bits: bits[:, 1:],
    "a block too many": lambda bits: np.concatenate([bits, bits[:, :1]], axis=1),
    "an axis too many": lambda bits: bits[..., None],
    "no axis": lambda bits: np.array(True),
    "too large to copy": lambda bits: np.broadcast_to(True, (len(bits), 1 << 44)),
    "NaN": lambda bits: _changed(bits, np.nan),
    "infinity": lambda bits: _changed(bits, -np.inf),
    "halves": lambda bits: _changed(bits, 0.5),
    "minus one": lambda bits: _changed(bits, -1, np.int8),
    "twos": lambda bits: _changed(bits, 2, np.uint64),
    "the least number": lambda bits: _changed(bits, 5e-324),
    "huge integers": lambda bits: [[2**70] * bits.shape[1]] * len(bits),
    "integers beyond int64": lambda bits: _changed(bits, 2**63, np.uint64),
    "complex numbers": lambda bits: bits.astype(complex),
    "texts": lambda bits: bits.astype(str),
    "objects": lambda bits: bits.astype(object),
    "dates": lambda bits: bits.astype("datetime64[s]"),
    "durations": lambda bits: bits.astype("timedelta64[s]"),
    "records": lambda bits: np.zeros(bits.shape, dtype=[("kept", bool)]),
    "a generator": lambda bits: (row for row in bits),
    "generators": lambda bits: [(bit for bit in row) for row in bits],
    "a set": lambda bits: {*range(len(bits))},
    "a mapping": lambda bits: {lane: row for lane, row in enumerate(bits.tolist())},  # noqa: C416
    "ragged": lambda bits: [[True], *bits[1:, :1].tolist()],
    "itself": _itself,
    "a class": lambda bits: bool,
    "a lie about its length": lambda bits: Lying(len(bits)),
    "a lie about a huge length": lambda bits: Lying(1 << 62),
    "a negative length": lambda bits: Lying(-1),
    "a wild array": lambda bits: bits.astype(float).view(Wild),
    "what raises": lambda bits: Raises(RuntimeError),
    "what exits": lambda bits: Raises(SystemExit),
    "what runs out of memory": lambda bits: [Raises(MemoryError)] * len(bits),
    "what recurses": lambda bits: Raises(RecursionError),
}

# Odd, but each lane says n times yes or no.
READABLE: dict[str, Answer] = {
    "booleans": lambda bits: bits,
    "lists": lambda bits: bits.tolist(),
    "tuples of numbers": lambda bits: tuple(tuple(map(int, row)) for row in bits),
    "half floats": lambda bits: bits.astype(np.float16),
    "big-endian integers": lambda bits: bits.astype(">i8"),
    "columns first": lambda bits: np.asfortranarray(bits),
    "a view backwards": lambda bits: bits[:, ::-1].copy()[:, ::-1],
    "a view that nobody may write": lambda bits: np.broadcast_to(bits, bits.shape),
    "a list of arrays": lambda bits: [*bits],
    "negative zeros": lambda bits: np.where(bits, 1.0, -0.0),
    "wild rows": lambda bits: [row.view(Wild) for row in bits],
}


class Proposes:
    """Draws kept sets, each block with a probability drawn a lane, and answers in its own way."""

    def __init__(self, answer: Answer = READABLE["booleans"]) -> None:
        self._answer = answer
        self.meant: BoolArray | None = None  # the last answer as a fair policy would have given it

    def reset(self, batch: int, briefing: Briefing) -> None:
        self._blocks = briefing.layout.blocks

    def propose(self, observation: FloatArray, rng: np.random.Generator) -> Any:
        share = rng.random((len(observation), 1))
        self.meant = rng.random((len(observation), self._blocks)) < share
        return self._answer(self.meant.copy())


class Same(Proposes):
    """Always the same set: all blocks, or none."""

    def __init__(self, keep: bool) -> None:
        super().__init__()
        self._keep = keep

    def propose(self, observation: FloatArray, rng: np.random.Generator) -> Any:
        return np.full((len(observation), self._blocks), self._keep)


class Thrashes(Proposes):
    """All blocks in one row, none in the next."""

    def reset(self, batch: int, briefing: Briefing) -> None:
        super().reset(batch, briefing)
        self._keep = False

    def propose(self, observation: FloatArray, rng: np.random.Generator) -> Any:
        self._keep = not self._keep
        return np.full((len(observation), self._blocks), self._keep)


class Inverted:
    """Drops what the reference policy keeps, and keeps what it drops."""

    def reset(self, batch: int, briefing: Briefing) -> None:
        self._reference = FrontierLookup()
        self._reference.reset(batch, briefing)

    def propose(self, observation: FloatArray, rng: np.random.Generator) -> Any:
        return ~self._reference.propose(observation, rng)


class Refuses(Proposes):
    """Declares that a misfit is refused rather than repaired."""

    on_misfit = "refuse"


class MutatesObservation(Proposes):
    """Writes into what it was given to see."""

    def propose(self, observation: FloatArray, rng: np.random.Generator) -> Any:
        observation[...] = np.nan
        return super().propose(observation, rng)


class MutatesAnswer(Proposes):
    """Gives one array again and again, and turns it over after it was given."""

    def reset(self, batch: int, briefing: Briefing) -> None:
        super().reset(batch, briefing)
        self._own: BoolArray = np.ones((batch, self._blocks), dtype=bool)

    def propose(self, observation: FloatArray, rng: np.random.Generator) -> Any:
        np.logical_not(self._own, out=self._own)
        return self._own


class Fails(Proposes):
    """Raises in `propose`, from the `after`-th row on."""

    def __init__(self, error: type[BaseException], after: int = 0) -> None:
        super().__init__()
        self._error, self._after = error, after

    def reset(self, batch: int, briefing: Briefing) -> None:
        super().reset(batch, briefing)
        self._left = self._after

    def propose(self, observation: FloatArray, rng: np.random.Generator) -> Any:
        self._left -= 1
        if self._left < 0:
            raise self._error
        return super().propose(observation, rng)


class Recurses(Proposes):
    """Calls itself for ever, until Python has enough of it."""

    def propose(self, observation: FloatArray, rng: np.random.Generator) -> Any:
        return self.propose(observation, rng)


class Warns(Proposes):
    """Warns, which raises where warnings are errors."""

    def propose(self, observation: FloatArray, rng: np.random.Generator) -> Any:
        warnings.warn("hostile", RuntimeWarning, stacklevel=1)
        return super().propose(observation, rng)


class Late(Proposes):
    """Says how long it takes, on a clock that is an argument: nobody waits for it in a test."""

    takes_s = 1e9


POLICIES: dict[str, Callable[[], Policy]] = {
    "everything": lambda: Same(True),
    "nothing but the floor": lambda: Same(False),
    "thrashing": Thrashes,
    "inverted": Inverted,
    "noise": Proposes,
    "refuses": Refuses,
    "writes into what it sees": MutatesObservation,
    "changes its answer": MutatesAnswer,
    "raises": lambda: Fails(RuntimeError),
    "exits": lambda: Fails(SystemExit),
    "exits a generator": lambda: Fails(GeneratorExit),
    "runs out of memory": lambda: Fails(MemoryError),
    "stops iterating": lambda: Fails(StopIteration),
    "goes bad half-way": lambda: Fails(ZeroDivisionError, after=2),
    "recurses": Recurses,
    "warns": Warns,
    "late": Late,
}
