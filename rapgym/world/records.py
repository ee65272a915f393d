"""The records of the simulated world: its rows, what does not change, where lanes stand, outcomes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from rapgym.arrays import BoolArray, FloatArray, IntArray, freeze
from rapgym.errors import InvalidSpec
from rapgym.model import blocks
from rapgym.model.memory import Footprint
from rapgym.quality.columns import QualityColumns
from rapgym.world.reward import Seconds, Terms

# Which lanes: a slice, their indices, or bool [B].
LaneIndex: TypeAlias = slice | IntArray | BoolArray


@dataclass(frozen=True, slots=True)
class Demand:
    """What one row asks of memory, in each of B lanes: known when the policy decides."""

    batch: IntArray  # requests, [B]
    prompt_tokens: IntArray  # summed over the batch, [B]
    reserved_tokens: IntArray  # output tokens reserved for the batch, summed, [B]
    longest_tokens: IntArray  # prompt and reserve of the longest request, [B]

    @property
    def tokens(self) -> IntArray:
        """KV cache entries that a kept attention block holds, [B]."""
        return self.prompt_tokens + self.reserved_tokens

    def at(self, lanes: LaneIndex) -> "Demand":
        """Of some of the lanes alone, in the order that `lanes` gives them."""
        return Demand(
            self.batch[lanes],
            self.prompt_tokens[lanes],
            self.reserved_tokens[lanes],
            self.longest_tokens[lanes],
        )


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one split: demand of each window, and the limit in each second of it."""

    batch: IntArray  # [T]
    prompt_tokens: IntArray  # [T]
    reserved_tokens: IntArray  # [T]
    longest_tokens: IntArray  # [T]
    output_tokens: IntArray  # realised, cut at the reserve, [T]; no policy sees it in time
    limit_bytes: IntArray  # [T, W]

    def __post_init__(self) -> None:
        columns = (self.batch, self.prompt_tokens, self.reserved_tokens, self.longest_tokens,
                   self.output_tokens)  # fmt: skip
        rows = len(self.limit_bytes)
        if self.limit_bytes.ndim != 2 or not self.limit_bytes.size:
            raise InvalidSpec("limit_bytes must be [rows, seconds] with at least one of each")
        if any(column.shape != (rows,) for column in columns):
            raise InvalidSpec("every column of demand needs one entry a row")
        if any(array.dtype != np.int64 for array in (*columns, self.limit_bytes)):
            raise InvalidSpec("rows hold int64")
        if any((column < 0).any() for column in columns):
            raise InvalidSpec("demand cannot be negative")
        freeze(self)

    def __len__(self) -> int:
        return len(self.batch)

    @property
    def window_s(self) -> int:
        return self.limit_bytes.shape[1]


@dataclass(frozen=True, slots=True)
class State:
    """Where each of B lanes stands, before a row is decided."""

    row: IntArray  # whose demand is served next, [B]
    limit_row: IntArray  # whose limits apply, [B]; differs from `row` by a lane's fixed offset
    token_scale: FloatArray  # small scaling of train episodes, [B]
    loaded: BoolArray  # blocks in memory, [B, N]

    @property
    def lanes(self) -> int:
        return len(self.row)

    def at(self, lanes: LaneIndex) -> "State":
        """Some of the lanes alone, in the order that `lanes` gives them."""
        return State(
            self.row[lanes], self.limit_row[lanes], self.token_scale[lanes], self.loaded[lanes]
        )

    def put(self, lanes: LaneIndex, part: "State") -> "State":
        """A copy in which `lanes` stand where those of `part` do, one for one."""
        whole = State(
            self.row.copy(), self.limit_row.copy(), self.token_scale.copy(), self.loaded.copy()
        )
        whole.row[lanes], whole.limit_row[lanes] = part.row, part.limit_row
        whole.token_scale[lanes], whole.loaded[lanes] = part.token_scale, part.loaded
        return whole

    def beside(self, other: "State") -> "State":
        """These lanes, and then those of another state."""
        return State(
            np.concatenate([self.row, other.row]),
            np.concatenate([self.limit_row, other.limit_row]),
            np.concatenate([self.token_scale, other.token_scale]),
            np.concatenate([self.loaded, other.loaded]),
        )


@dataclass(frozen=True, slots=True)
class World:
    """Everything that does not change while rows are served."""

    footprint: Footprint
    quality: QualityColumns  # calibration columns, but for the scorer and the bound
    rows: Rows
    ceiling: float  # C, nats: cost of a token that is not served
    restore_bytes_per_s: float  # of the host link
    mean_output_tokens: float  # of a train row: the unit of a row's weight
    notice_s: int = 0  # seconds by which the tenant announces what it takes
    # How long serving pauses while blocks leave after memory was taken; of it at most a second counts.
    reaction_s: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.reaction_s < float("inf"):
            raise InvalidSpec(f"reaction_s is 0 or more seconds, not {self.reaction_s}")

    @property
    def window_s(self) -> int:
        return self.rows.window_s

    @property
    def blocks(self) -> int:
        return 2 * self.footprint.layers

    @property
    def floor(self) -> BoolArray:
        """Blocks that always stay, bool [N]."""
        return blocks.floor_of(self.quality.order, self.blocks)

    def state(
        self,
        row: IntArray,
        limit_row: IntArray,
        token_scale: FloatArray | None = None,
        loaded: BoolArray | None = None,
    ) -> State:
        """Lanes at the given rows.

        Args:
            row, limit_row, token_scale: as `State` has them, [B]; tokens are not scaled unless stated.
            loaded: blocks in memory, [B, N]; every one unless stated.
        """
        lanes = len(row)
        return State(
            np.asarray(row, dtype=np.int64),
            np.asarray(limit_row, dtype=np.int64),
            np.ones(lanes) if token_scale is None else np.asarray(token_scale, dtype=np.float64),
            np.ones((lanes, self.blocks), dtype=bool) if loaded is None else loaded,
        )

    def demand(self, state: State) -> Demand:
        """What the next row of each lane asks for, [B] each."""
        return self.demand_of(state.row, state.token_scale)

    def demand_of(self, row: IntArray, token_scale: FloatArray) -> Demand:
        """What these rows ask for, tokens scaled: [...] each."""
        rows = self.rows
        columns = (rows.prompt_tokens, rows.reserved_tokens, rows.longest_tokens)
        scaled = (np.rint(column[row] * token_scale).astype(np.int64) for column in columns)
        return Demand(rows.batch[row], *scaled)

    def limits(self, state: State) -> IntArray:
        """Bytes that the model may use in each second of the next row, [B, W]."""
        return self.rows.limit_bytes[state.limit_row]


@dataclass(frozen=True, slots=True)
class Fall:
    """One second of a row in which the limit fell below what was in use, in some of B lanes."""

    second: int  # of the row
    lanes: IntArray  # in which it did, ascending, [n]
    before: BoolArray  # in memory until then, [n, N]
    kept: BoolArray  # what the shield leaves of it; the floor where refused, [n, N]
    refused: BoolArray  # with the rest of the row, [n]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happened to one row in each of B lanes."""

    proposal: BoolArray  # [B, N]
    kept: BoolArray  # executed at the row's start; the floor where refused, [B, N]
    kept_end: BoolArray  # in memory when the row ends, [B, N]
    refused: BoolArray  # from the start, [B]
    reason: IntArray  # shield.Reason, [B]
    limit_bytes: IntArray  # at the row's start, [B]
    used_bytes: IntArray  # at the row's start, without the margin; 0 where refused, [B]
    nll: FloatArray  # of `kept`, difference from dense, nats a token, [B]
    measured: BoolArray  # False where a served set's quality was predicted, [B]
    output_tokens: IntArray  # [B]
    seconds: Seconds
    terms: Terms
    falls: Sequence[Fall]  # what happened in mid-row, second by second

    @property
    def reward(self) -> FloatArray:
        return -self.terms.total
