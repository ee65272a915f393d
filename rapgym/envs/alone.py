"""A step of one lane alone, where time goes to the arrays that are returned: a compiled pass writes all to one
piece of memory, and a copy of that is their owner.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rapgym.envs.info import MEASURES, NAMES, SETS, WHOLE
from rapgym.world.stride import Stride
from rapgym.world.stride_kernel import Said

ENTRIES = (*NAMES, "action_mask")  # of `info`


class Alone:
    """The only lane of a stride."""

    def __init__(self, stride: Stride, mask: NDArray[np.int8]) -> None:
        """Make room for what its steps say.

        Args:
            mask: legal actions, [M]; for good, where a row takes one step.
        """
        blocks, legal = stride.world.blocks, len(mask)
        self._stride, self._everyone = stride, np.ones(1, dtype=bool)
        self._action = np.zeros(1, dtype=np.uint64)
        self._most = blocks if stride.small_steps else -1  # that one number can be
        # Neighbours of one type are one array to the kernel.
        self._form = np.dtype(
            [
                *((name, np.int64) for name in WHOLE),
                *((name, np.float64) for name in (*MEASURES, "reward")),
                ("seen", np.float32, (stride.size,)),
                *((name, np.bool_, (blocks,)) for name in SETS),
                ("action_mask", np.int8, (legal,)),
                *((name, np.bool_) for name in ("served", "measured", "over")),
            ]
        )
        self._memory, fields = np.zeros(self._form.itemsize, dtype=np.uint8), self._form.fields
        assert fields is not None

        def part(name: str, kind: Any, *shape: int) -> NDArray[Any]:
            return np.ndarray((1, *shape), kind, self._memory, fields[name][1])

        masks = part("action_mask", np.uint8, 1, legal)
        masks[:] = mask
        said = Said(
            seen=part("seen", np.float32, stride.size),
            whole=part(WHOLE[0], np.int64, len(WHOLE)),
            measures=part(MEASURES[0], np.float64, len(MEASURES)),
            sets=part(SETS[0], np.uint8, len(SETS), blocks),
            mask=masks if stride.small_steps else np.empty((0, 0, 0), np.uint8),
            served=part("served", np.bool_),
            measured=part("measured", np.bool_),
            over=part("over", np.bool_),
            reward=part("reward", np.float64),
        )
        self._reward, self._over = said.reward, said.over
        self._advance = stride.advancing(said, self._action, self._everyone)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]] | None:
        """A step as Gymnasium's are; None, and no step, for an action that is not as its space samples them."""
        given: NDArray[np.uint64] | None = self._action
        if isinstance(action, np.ndarray):
            given = self._stride.read(action[None])
            if given is None:
                return None
        elif type(action) in (np.int64, int) and 0 <= action <= self._most:
            self._action[0] = action
        else:
            return None
        self._advance(given, self._everyone)
        own = np.ndarray((), self._form, self._memory.copy())
        info = {name: own[name] for name in ENTRIES}
        return own["seen"], self._reward.item(), False, self._over.item(), info
