"""The row schema: every row that a policy served, and how outcomes become such rows."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.model import blocks
from rapgym.world.records import Outcome, World


@dataclass(frozen=True, slots=True)
class EpisodeLog:
    """Every row of B lanes over T rows. Costs are nats an output token above dense."""

    row: IntArray  # of demand, [T, B]
    limit_row: IntArray  # of the tenant, [T, B]
    proposal: BoolArray  # [T, B, N]
    source: IntArray  # whose proposal (shield.Reason), [T, B]
    kept: BoolArray  # [T, B, N]
    kept_end: BoolArray  # [T, B, N]
    reason: IntArray  # shield.Reason, [T, B]
    limit_bytes: IntArray  # [T, B]
    used_bytes: IntArray  # [T, B]
    nll: FloatArray  # [T, B]
    measured: BoolArray  # [T, B]
    output_tokens: IntArray  # the weight of a row, [T, B]
    quality: FloatArray  # mean cost of the row's seconds by term, [T, B]
    stall: FloatArray
    emergency: FloatArray
    refused: FloatArray

    @classmethod
    def blank(cls, row: IntArray, limit_row: IntArray, blocks: int) -> Self:
        """Rows [T, B] of which nothing is known yet: no block proposed or kept, nothing paid.

        Their proposals count as a policy's own (`shield.Reason.POLICY` is 0), and as measured.
        """
        nothing: BoolArray = np.zeros((*row.shape, blocks), dtype=bool)
        none, nil = np.zeros(row.shape, dtype=np.int64), np.zeros(row.shape)
        return cls(
            row=row,
            limit_row=limit_row,
            proposal=nothing,
            source=none,
            kept=nothing,
            kept_end=nothing,
            reason=none,
            limit_bytes=none,
            used_bytes=none,
            nll=nil,
            measured=nil == 0,
            output_tokens=none,
            quality=nil,
            stall=nil,
            emergency=nil,
            refused=nil,
        )

    def __len__(self) -> int:
        return len(self.row)

    @property
    def offsets(self) -> IntArray:
        """Of each lane: the tenant's row less the served one, of a log in [T, B]."""
        found: IntArray = (self.limit_row[0] - self.row[0]) % len(self)
        return found

    def reshaped(self, rows: int, lanes: int) -> "EpisodeLog":
        """The same entries as [rows, lanes]."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        return EpisodeLog(
            **{name: array.reshape(rows, lanes, *array.shape[2:]) for name, array in arrays.items()}
        )

    @property
    def cost(self) -> FloatArray:
        """Mean cost of each row, [T, B]."""
        return self.quality + self.stall + self.emergency + self.refused

    @property
    def mean_cost(self) -> float:
        """Sum of output tokens times mean cost, over the sum of output tokens, all lanes pooled."""
        return weighted_mean(self.cost, self.output_tokens)


def weighted_mean(cost: FloatArray, output_tokens: IntArray) -> float:
    """The reported cost: a ratio of sums over rows."""
    return float((cost * output_tokens).sum() / max(output_tokens.sum(), 1))


def joined(logs: Sequence[EpisodeLog]) -> EpisodeLog:
    """Logs of different lanes as one, in their order."""
    names = [field.name for field in fields(EpisodeLog)]
    return EpisodeLog(
        **{name: np.concatenate([getattr(log, name) for log in logs], axis=1) for name in names}
    )


class LogWriter:
    """Collects outcomes row by row."""

    def __init__(self) -> None:
        self._rows: list[tuple[IntArray, IntArray, IntArray, Outcome]] = []
        self._world: World | None = None

    def add(
        self, world: World, row: IntArray, limit_row: IntArray, source: IntArray, outcome: Outcome
    ) -> None:
        """Add a row of a world, which is the same for all."""
        self._world = world
        self._rows.append((row, limit_row, source, outcome))

    def finish(self) -> EpisodeLog:
        """All rows, in their order."""
        assert self._world is not None, "a log has rows"
        rows, limit_rows, sources, outcomes = zip(*self._rows, strict=True)
        window_s = self._world.window_s
        per_second = self._world.ceiling / window_s

        def of_outcome(name: str) -> Any:
            return np.stack([getattr(outcome, name) for outcome in outcomes])

        def seconds(name: str) -> FloatArray:
            return np.stack([getattr(outcome.seconds, name) for outcome in outcomes])

        return EpisodeLog(
            row=np.stack(rows),
            limit_row=np.stack(limit_rows),
            proposal=of_outcome("proposal"),
            source=np.stack(sources),
            kept=of_outcome("kept"),
            kept_end=of_outcome("kept_end"),
            reason=of_outcome("reason"),
            limit_bytes=of_outcome("limit_bytes"),
            used_bytes=of_outcome("used_bytes"),
            nll=of_outcome("nll"),
            measured=of_outcome("measured"),
            output_tokens=of_outcome("output_tokens"),
            quality=seconds("loss") / window_s,
            stall=seconds("stall") * per_second,
            emergency=seconds("emergency") * per_second,
            refused=seconds("refused") * per_second,
        )


LEAST_SHARE = 1e-9  # of all output tokens; less is rounding, of rows in which nothing was served


def served_shares(log: EpisodeLog, ceiling: float) -> dict[bytes, float]:
    """Share of all output tokens that was served from each kept set.

    In a row whose set changes half way and that goes on to be served, both sets count half: a log
    does not say at which second. A token that was stalled, lost or refused belongs to no set.

    Args:
        ceiling: C of the log's costs, nats.
    """
    lost = (log.stall + log.emergency + log.refused) / ceiling
    served = np.clip(1 - lost, 0, 1) * log.output_tokens / max(int(log.output_tokens.sum()), 1)
    later = ((log.kept != log.kept_end).any(axis=-1) & (log.refused == 0)) * served / 2
    shares: dict[bytes, float] = {}
    for sets, part in ((log.kept, served - later), (log.kept_end, later)):
        for name, share in zip(blocks.raw_keys(sets), part.ravel().tolist(), strict=True):
            if share:
                shares[name] = shares.get(name, 0.0) + share
    return {name: share for name, share in shares.items() if share > LEAST_SHARE}
