"""What one row did to a machine: its parts, each served by one kept set, and its bytes."""

from dataclasses import dataclass, field

import numpy as np

from rapgym.arrays import FloatArray
from rapgym.runtime.live.row import Nats


@dataclass(slots=True)
class Segment:
    """A part of a row that one kept set served."""

    kept: str  # key
    seconds: float = 0.0  # of the row's W, stalls not counted
    prefill_s: float = 0.0  # real ones from here on
    prefill_tokens: int = 0
    decode_s: float = 0.0
    decode_tokens: int = 0
    decode_steps: int = 0
    parts: list[Nats] = field(default_factory=list, repr=False)

    @property
    def nats(self) -> FloatArray:
        """Above dense, of each token of the text that was predicted."""
        return np.concatenate([np.zeros(0), *(part.above_dense for part in self.parts)])


@dataclass(frozen=True, slots=True)
class Measured:
    """What one row did to the machine."""

    limit_bytes: tuple[int, ...]  # in each second
    peak_bytes: tuple[int, ...]  # of the model's process in each second; shorter where it broke off
    segments: tuple[Segment, ...]
    drop_s: float
    emergency_drop_s: tuple[float, ...]  # of it, in each fall of the limit in mid-row
    dropped_blocks: int
    restore_s: float
    restored_blocks: int
    restored_bytes: int
    broke: str | None = None  # the error with which memory ran out

    @property
    def over_bytes(self) -> int:
        """By how much the limit was exceeded at worst; 0 where it never was."""
        over = (p - m for p, m in zip(self.peak_bytes, self.limit_bytes, strict=False))
        return max(0, *over) if self.peak_bytes else 0
