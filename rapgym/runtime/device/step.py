"""Rows served on a device: the signature of `simulator.step`, and real bytes, nats and seconds.

The shield decides as in the simulated world. A row's seconds are shares of its work: at the beginning
of each the tenant takes what the limit leaves it, blocks that no longer fit are dropped before, and
the batch goes on by one share.
"""

from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from rapgym.arrays import BoolArray, IntArray
from rapgym.errors import InvalidSpec
from rapgym.model import blocks
from rapgym.runtime.device.enclosure import out_of_memory
from rapgym.runtime.device.segments import Measured, Segment
from rapgym.runtime.live.row import Nats
from rapgym.world import reward, stall
from rapgym.world.records import Outcome, State, World
from rapgym.world.reward import Seconds
from rapgym.world.simulator import Row

UNSHIELDED_BYTES = 1 << 60  # a limit under which everything fits


class Move(Protocol):
    """What bringing blocks to and fro took, as an elastic model's `apply` says it."""

    @property
    def restored_bytes(self) -> int: ...
    @property
    def drop_s(self) -> float: ...
    @property
    def restore_s(self) -> float: ...


class Running(Protocol):
    """A row being served: `live.Run`."""

    @property
    def spent(self) -> Any: ...
    def serve(self, share: float, /) -> Nats: ...
    def drop(self, kept: BoolArray, /) -> float: ...
    def close(self) -> None: ...


class Server(Protocol):
    """What serves rows: `live.LiveServer`."""

    @property
    def kept(self) -> BoolArray: ...
    def move(self, kept: BoolArray, /) -> Any: ...
    def referred(self, row: int, prompt_tokens: int, reserved_tokens: int, /) -> bool: ...
    def refer(self, row: int, prompt_tokens: int, reserved_tokens: int, /) -> object: ...
    def begin(self, row: int, prompt_tokens: int, reserved_tokens: int, /) -> Running: ...


class Holder(Protocol):
    """The tenant, the other one on the device."""

    def hold(self, count: int, /) -> object:
        """Hold exactly so many bytes when this returns."""


class Meter(Protocol):
    """Measured bytes of the model's process on the device."""

    def reset_peak(self) -> None: ...
    def peak_bytes(self) -> int: ...


class DeviceStep:
    """`simulator.step` for one lane, on a device. `last` says what the last row did to it."""

    def __init__(
        self,
        server: Server,
        tenant: Holder,
        meter: Meter,
        card_bytes: int,
        *,
        shielded: bool = True,
    ) -> None:
        """Args:
        card_bytes: of the device's memory in the scenario; the tenant holds what is not the limit.
        shielded: False executes proposals as they are, whatever the limit: to see it exceeded.
        """
        self.server, self.tenant, self.meter = server, tenant, meter
        self.card_bytes, self.shielded = card_bytes, shielded
        self.last: Measured | None = None

    def __call__(
        self,
        world: World,
        state: State,
        proposal: BoolArray,
        source: IntArray | None = None,
        refuses_misfit: BoolArray | None = None,
        /,
    ) -> tuple[State, Outcome]:
        """Serve one row; memory is brought to what `state.loaded` says before, which costs nothing.

        Returns:
            As `simulator.step`, with what was measured: bytes are the peak of the row's first
            second, nats the mean over every token of the text that was predicted, a stall the
            seconds in which blocks came back. Where there was no token to score (a row without
            requests, a refused one) the table's word stands, and `measured` is False.

        Raises:
            InvalidSpec: more than one lane.
        """
        if state.lanes != 1:
            raise InvalidSpec("a device serves one lane: one environment, or num_envs=1")
        limits = world.limits(state)[0]
        row = Row(self._seen(world), state, proposal, source, refuses_misfit)
        asked = row.demand
        place = (int(state.row[0]), int(asked.prompt_tokens[0]), int(asked.reserved_tokens[0]))
        self._settle(state.loaded[0], None if row.decision.refused[0] else place)
        live = _LiveRow(self, row, place, limits)
        live.pass_seconds()
        self.last = live.measured()
        return row.following, live.outcome(world)

    def _settle(self, loaded: BoolArray, place: tuple[int, int, int] | None) -> None:
        """Measure dense where it was not, and bring memory to where the last row left it."""
        unknown = place is not None and not self.server.referred(*place)
        if unknown or (self.server.kept != loaded).any():
            self.tenant.hold(0)  # a jump between rows: nothing is measured meanwhile
            if place is not None:
                self.server.refer(*place)
            self.server.move(loaded)

    def _seen(self, world: World) -> World:
        if self.shielded:
            return world
        unlimited = np.full_like(world.rows.limit_bytes, UNSHIELDED_BYTES)
        return replace(world, rows=replace(world.rows, limit_bytes=unlimited))


class _LiveRow:
    """One row on the device while its seconds pass."""

    def __init__(
        self, step: DeviceStep, row: Row, place: tuple[int, int, int], limits: IntArray
    ) -> None:
        self.step, self.row, self.place, self.limits = step, row, place, limits
        self.run: Running | None = None
        self.segments: list[Segment] = []
        self.peaks: list[int] = []
        self.emergency = self.refused = self.stall = 0.0
        self.drop_s = self.restore_s = 0.0
        self.emergency_drop_s: list[float] = []
        self.dropped_blocks = self.restored_blocks = self.restored_bytes = 0
        self.broke: str | None = None

    def pass_seconds(self) -> None:
        """From the row's start to its end, or to where memory ran out without a shield."""
        try:
            self._start()
            for second in range(self.row.world.window_s):
                self._second(second)
        except (OSError, RuntimeError, MemoryError) as error:
            if self.step.shielded or not out_of_memory(error):
                raise
            self.broke = f"{type(error).__name__}: {error}"
        finally:
            if self.run is not None:
                self.run.close()

    def _start(self) -> None:
        row, server = self.row, self.step.server
        loaded = row.state.loaded[0]
        if row.refused_from[0] == 0:
            row.unload_refused()
        # What goes leaves before the tenant takes it, what returns comes after it gave it.
        self._move(loaded & row.kept[0])
        self.step.meter.reset_peak()
        self._tenant(0)
        self._move(row.kept[0])
        if row.refused_from[0] > 0:
            self.run = server.begin(*self.place)
            self.segments.append(Segment(blocks.key(row.kept[0])))

    def _second(self, second: int) -> None:
        row = self.row
        falls = row.fall(second, np.ones(1, dtype=bool))
        refused = row.refused_from[0] <= second
        if falls[0]:
            self._drop(row.kept[0])
        elif refused and self.run is not None:
            self.run.close()
            self.run = None
            row.unload_refused()
            self._move(row.kept[0])
        if second:
            self.step.meter.reset_peak()
            self._tenant(second)
        if refused:
            self.refused += 1
        else:
            paused_s = float(row.paused_s(falls)[0])
            able_s = 1.0 - paused_s
            left_s = max(0.0, self.restore_s - self.stall)
            stalled = float(stall.in_second(np.array(left_s), np.array(able_s)))
            self.emergency += paused_s
            self.stall += stalled
            self._serve(able_s - stalled)
        self.peaks.append(self.step.meter.peak_bytes())

    def _tenant(self, second: int) -> None:
        self.step.tenant.hold(max(0, self.step.card_bytes - int(self.limits[second])))

    def _move(self, kept: BoolArray) -> None:
        before = self.step.server.kept
        moved: Move = self.step.server.move(kept)
        self.drop_s += moved.drop_s
        self.restore_s += moved.restore_s
        self.dropped_blocks += int(np.count_nonzero(before & ~kept))
        self.restored_blocks += int(np.count_nonzero(kept & ~before))
        self.restored_bytes += moved.restored_bytes

    def _drop(self, kept: BoolArray) -> None:
        assert self.run is not None
        self.dropped_blocks += int(np.count_nonzero(self.step.server.kept & ~kept))
        self.emergency_drop_s.append(self.run.drop(kept))
        self.drop_s += self.emergency_drop_s[-1]
        self.segments.append(Segment(blocks.key(kept)))

    def _serve(self, seconds: float) -> None:
        assert self.run is not None
        segment, before = self.segments[-1], self.run.spent
        segment.parts.append(self.run.serve(seconds / self.row.world.window_s))
        after = self.run.spent
        segment.seconds += seconds
        for name in ("prefill_s", "prefill_tokens", "decode_s", "decode_tokens", "decode_steps"):
            more = getattr(after, name) - getattr(before, name)
            setattr(segment, name, getattr(segment, name) + more)

    def measured(self) -> Measured:
        return Measured(
            limit_bytes=tuple(self.limits.tolist()),
            peak_bytes=tuple(self.peaks),
            segments=tuple(self.segments),
            drop_s=self.drop_s,
            emergency_drop_s=tuple(self.emergency_drop_s),
            dropped_blocks=self.dropped_blocks,
            restore_s=self.restore_s,
            restored_blocks=self.restored_blocks,
            restored_bytes=self.restored_bytes,
            broke=self.broke,
        )

    def outcome(self, world: World) -> Outcome:
        row, kept = self.row, self.row.decision.kept
        nats = [self._nats(segment) for segment in self.segments]
        losses = reward.token_loss(np.array(nats), world.ceiling)
        loss = sum(part.seconds * loss for part, loss in zip(self.segments, losses, strict=True))
        nll = np.array(nats[:1]) if nats else world.quality.nll(kept)[0]
        parts = (loss, self.stall, self.emergency, self.refused)
        seconds = Seconds(*(np.array([float(part)]) for part in parts))
        scored = all(len(part.nats) for part in self.segments if part.seconds)
        used = np.array([*self.peaks[:1], 0][:1])
        outcome = row.outcome(used, nll, np.array([bool(nats) and scored]), seconds)
        return replace(outcome, limit_bytes=self.limits[:1])

    def _nats(self, segment: Segment) -> float:
        """Mean over what the segment predicted; the table's word where that is nothing."""
        if len(segment.nats):
            return float(segment.nats.mean())
        world = self.row.world
        kept = blocks.kept_of(segment.kept, world.blocks)
        return float(world.quality.nll(kept[None])[0][0])
