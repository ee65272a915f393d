"""What `info` says of a step: the same names, shapes and types whether a row was served or not."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rapgym.arrays import BoolArray
from rapgym.world.records import Demand, Outcome

if TYPE_CHECKING:
    from rapgym.world.stride import Strode

SETS = ("proposal", "kept", "kept_end")  # bool [N]
FLAGS = ("served", "measured")  # bool
WHOLE = ("reason", "limit_bytes", "used_bytes", "batch", "prompt_tokens", "reserved_tokens",
         "longest_tokens")  # fmt: skip  # int64
MEASURES = (
    "nll",
    "refused_s",
    "emergency_s",
    "stall_s",
    "quality",
    "stall",
    "emergency",
    "refused",
)
NAMES = (*FLAGS, *SETS, *WHOLE, *MEASURES)

NO_ROW = -1  # `reason` of a step that served no row; else a `shield.Reason`


def rows_info(
    lanes: int,
    blocks: int,
    served: BoolArray | None = None,
    outcome: Outcome | None = None,
    asked: Demand | None = None,
) -> dict[str, Any]:
    """What a step says of each lane: arrays [B] and [B, N], the caller's own.

    Where no row was served everything is 0 and False, and `reason` is `NO_ROW`.

    Args:
        served: lanes of which `outcome` and `asked` speak, in their order; none unless stated.
    """
    if served is None or outcome is None or asked is None:
        return _nothing(lanes, blocks)
    terms, seconds = outcome.terms, outcome.seconds
    said = (
        np.ones(len(asked.batch), dtype=bool), outcome.measured, outcome.proposal, outcome.kept,
        outcome.kept_end, outcome.reason, outcome.limit_bytes, outcome.used_bytes, asked.batch,
        asked.prompt_tokens, asked.reserved_tokens, asked.longest_tokens, outcome.nll,
        seconds.refused, seconds.emergency, seconds.stall, terms.quality, terms.stall,
        terms.emergency, terms.refused,
    )  # fmt: skip
    if len(asked.batch) == lanes:
        return {name: value.copy() for name, value in zip(NAMES, said, strict=True)}
    found = _nothing(lanes, blocks)
    for name, value in zip(NAMES, said, strict=True):
        found[name][served] = value
    return found


def strode_info(strode: "Strode", mask: NDArray[np.int8]) -> dict[str, Any]:
    """The same, masks of actions with it, of lanes that were served in one pass: its own arrays."""
    said, sets = strode.said, strode.sets
    found = dict(
        zip(NAMES, (strode.served, said.measured, *sets.swapaxes(0, 1), *said.whole.T,
                    *said.measures.T), strict=True)
    )  # fmt: skip
    found["action_mask"] = mask
    return found


def _nothing(lanes: int, blocks: int) -> dict[str, Any]:
    sets = np.zeros((len(SETS), lanes, blocks), dtype=bool)
    flags = np.zeros((len(FLAGS), lanes), dtype=bool)
    whole = np.zeros((len(WHOLE), lanes), dtype=np.int64)
    measures = np.zeros((len(MEASURES), lanes))
    whole[0] = NO_ROW
    return dict(zip(NAMES, (*flags, *sets, *whole, *measures), strict=True))


def without(info: dict[str, Any], lanes: BoolArray) -> dict[str, Any]:
    """A copy that says of these lanes, bool [B], that no row was served."""
    found = {name: value.copy() for name, value in info.items()}
    for name, value in found.items():
        value[lanes] = NO_ROW if name == "reason" else 0
    return found


def of_lane(info: dict[str, Any], lane: int) -> dict[str, Any]:
    """The same of one lane: arrays [N] and, where it is one number, [].

    Not plain numbers: of arrays every client knows the type, of Python's and NumPy's own truth values
    Gymnasium's vector forms and TorchRL do not.
    """
    return {name: value[lane, ...] for name, value in info.items()}


def own(info: dict[str, Any]) -> dict[str, Any]:
    """A copy that shares no array."""
    return {name: value.copy() for name, value in info.items()}
