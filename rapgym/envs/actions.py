"""The three action spaces: how actions of B lanes become proposals, and which are legal."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rapgym.arrays import BoolArray, IntArray
from rapgym.errors import InvalidAction, InvalidSpec
from rapgym.scenarios.lanes import Lanes

if TYPE_CHECKING:
    from rapgym.world.stride import Stride

Mask = NDArray[np.int8]


class Bounded(Protocol):
    """What an action may be."""

    highest: IntArray  # that each entry of a lane's action can be; the lowest is 0

    @property
    def space(self) -> spaces.Space[Any]:
        """Of one lane."""


class Choices(Bounded, Protocol):
    """What the lanes of an environment may answer."""

    @property
    def so_far(self) -> BoolArray | None:
        """What each lane's row still keeps, [B, N], where rows take several steps."""

    def mask(self) -> Mask:
        """int8 [B, M]: what `Discrete.sample` and `MultiBinary.sample` take of a lane; of several counts
        the entries of all after each other, all legal."""

    def legal(self) -> BoolArray:
        """bool [B, M'], as Stable-Baselines3's maskable policies take it."""


class Actions(Choices, Protocol):
    """One way to say which blocks stay, for all lanes of an environment."""

    most_steps: int  # that one row can take

    def restart(self, lanes: BoolArray) -> None:
        """A new row begins in these lanes, bool [B]."""

    def share(self, stride: "Stride") -> None:
        """Keep in the arrays of a stride from now on what rows have left so far."""

    def propose(self, actions: IntArray) -> tuple[BoolArray, BoolArray]:
        """`checked` actions of all lanes -> proposals [B, N], and which rows are served now [B]."""


class BlockActions:
    """RAP-style, Discrete(N + 1): drop one more block of this row's set, or STOP.

    Each row starts from all blocks; dropping a block of the floor, or one that is dropped already,
    counts as STOP.
    """

    def __init__(self, lanes: Lanes) -> None:
        self.stop = lanes.world.blocks
        self.space = spaces.Discrete(self.stop + 1)
        self._droppable = ~lanes.world.floor
        self.most_steps = int(self._droppable.sum()) + 1
        self.highest: IntArray = np.array(self.stop)
        self.so_far: BoolArray = np.ones((lanes.count, self.stop), dtype=bool)

    def restart(self, lanes: BoolArray) -> None:
        self.so_far[lanes] = True

    def share(self, stride: "Stride") -> None:
        stride.so_far[:] = self.so_far
        self.so_far = stride.so_far

    def propose(self, actions: IntArray) -> tuple[BoolArray, BoolArray]:
        legal = np.take_along_axis(self.legal(), actions[:, None], axis=1)[:, 0]
        stops = (actions == self.stop) | ~legal
        drops = np.flatnonzero(~stops)
        self.so_far[drops, actions[drops]] = False
        return self.so_far.copy(), stops

    def legal(self) -> BoolArray:
        stop = np.ones((len(self.so_far), 1), dtype=bool)
        return np.concatenate([self.so_far & self._droppable, stop], axis=1)

    def mask(self) -> Mask:
        return self.legal().astype(np.int8)


class CountActions:
    """MultiDiscrete: how many attention and how many FFN blocks are dropped, along the grid."""

    so_far: BoolArray | None = None
    most_steps = 1

    def __init__(self, lanes: Lanes) -> None:
        self._grid: BoolArray = lanes.world.quality.grid_kept
        self._lanes = lanes.count
        self._mask = np.ones((lanes.count, sum(self._grid.shape[:2])), dtype=np.int8)
        self.space = spaces.MultiDiscrete(list(self._grid.shape[:2]))
        self.highest: IntArray = np.array(self._grid.shape[:2]) - 1

    def restart(self, lanes: BoolArray) -> None:
        """Rows take one step: nothing to forget."""

    def share(self, stride: "Stride") -> None:
        """Nor to keep."""

    def propose(self, actions: IntArray) -> tuple[BoolArray, BoolArray]:
        # One index a lane: two take several times as long.
        flat = self._grid.reshape(-1, self._grid.shape[-1])
        proposal = flat.take(actions[:, 0] * self._grid.shape[1] + actions[:, 1], axis=0)
        return proposal, np.ones(self._lanes, dtype=bool)

    def legal(self) -> BoolArray:
        return self._mask.astype(bool)

    def mask(self) -> Mask:
        return self._mask.copy()


class KeptSetActions:
    """MultiBinary(N): the kept set at once. Bits of the floor are ignored, and masked to 1."""

    so_far: BoolArray | None = None
    most_steps = 1

    def __init__(self, lanes: Lanes) -> None:
        self._lanes, self._floor = lanes.count, lanes.world.floor
        # Gymnasium's MultiBinary samples 2 freely and takes 0 and 1 as they are.
        self._mask = np.tile(np.where(self._floor, 1, 2).astype(np.int8), (lanes.count, 1))
        self.space = spaces.MultiBinary(lanes.world.blocks)
        self.highest: IntArray = np.ones(lanes.world.blocks, dtype=np.int64)

    def restart(self, lanes: BoolArray) -> None:
        """Rows take one step: nothing to forget."""

    def share(self, stride: "Stride") -> None:
        """Nor to keep."""

    def propose(self, actions: IntArray) -> tuple[BoolArray, BoolArray]:
        return actions.astype(bool), np.ones(self._lanes, dtype=bool)

    def legal(self) -> BoolArray:
        both = np.stack([~self._floor, np.ones_like(self._floor)], axis=1).ravel()
        return np.tile(both, (self._lanes, 1))

    def mask(self) -> Mask:
        return self._mask.copy()


def checked(given: Any, kind: Bounded, lanes: int | None = None) -> IntArray:
    """Actions as int64: of one environment, or of so many lanes.

    Truth values and floats that are whole numbers will do: some learners answer in those.

    Raises:
        InvalidAction: the shape is another, or an entry is no whole number of the space.
    """
    shape = kind.space.shape or ()
    shape = shape if lanes is None else (lanes, *shape)
    try:
        array = np.asarray(given)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, tensors of elsewhere
        raise InvalidAction(f"an action is an array of shape {shape}: {error}") from error
    if array.dtype.kind not in "biuf":
        raise InvalidAction(f"an action holds whole numbers, not {_shown(given)}")
    if array.shape != shape:
        raise InvalidAction(f"an action is of shape {shape}, not {array.shape}")
    # Least and most first: of kept sets many times as quick as entry by entry.
    plain = array.dtype.kind != "f" and array.size > 0
    if not (plain and array.min() >= 0 and array.max() <= kind.highest.min()):
        fine = (array >= 0) & (array <= kind.highest)
        if array.dtype.kind == "f":
            fine &= array == np.rint(array)
        if not fine.all():
            raise InvalidAction(f"an action of {kind.space} cannot hold {array[~fine].ravel()[0]}")
    whole: IntArray = array.astype(np.int64)
    return whole


def _shown(given: Any) -> str:
    text = repr(given)
    return text if len(text) <= 80 else f"{text[:77]}..."


KINDS: dict[str, Callable[[Lanes], Actions]] = {
    "blocks": BlockActions,
    "counts": CountActions,
    "kept-set": KeptSetActions,
}


def actions(kind: str, lanes: Lanes) -> Actions:
    """The action space of this kind over these lanes.

    Raises:
        InvalidSpec: there is no such kind.
    """
    if kind not in KINDS:
        raise InvalidSpec(f"no action space {kind!r}; there are {', '.join(KINDS)}")
    return KINDS[kind](lanes)
