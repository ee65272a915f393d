"""The machine of a served world with every decision on record, in storage that fails and returns.

What was acknowledged stays, whatever happens; at the end the log holds, each of its decisions replays
from the log alone, and those on record and those that gaps confess add up to what was decided.
"""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from hypothesis.stateful import initialize, invariant, precondition, rule

from rapgym.audit import replay as audit_replay
from rapgym.audit.chain import Head
from rapgym.audit.context import AuditContext
from rapgym.audit.log import AuditLog
from rapgym.audit.step import AuditedStep
from rapgym.errors import AuditFailed
from rapgym.testing import strategies
from rapgym.testing.witness import Tally, Witness
from rapgym.testing.world_machine import SEEDS, WorldMachine
from rapgym.world import simulator
from rapgym.world.records import World

KEEP, BATCH = 8, 4  # decisions that the log holds while it cannot write, and writes at once


class AuditMachine(WorldMachine):
    """A log that goes on serving when it cannot be written: `on_failure="continue"`.

    Storage fails by the file being moved away, as an unmounted disk would do it.
    """

    tally: ClassVar[Tally] = Tally()

    @initialize(world=strategies.tiny_worlds(), seed=SEEDS)
    def begin(self, world: World, seed: int) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "decisions.jsonl"
        self.away = self.path.with_name("away")
        self.own = Tally()  # of this example alone
        self.forgotten = 0  # decisions that died with a writer which had not acknowledged them
        self.heads: list[Head] = []
        self._open()
        super().begin(world, seed)

    def _open(self) -> None:
        self.log = AuditLog(self.path, batch=BATCH, wait_s=3600, retry_s=0, keep=KEEP)

    def _now_in(self, world: World) -> None:
        # A log speaks of calibration columns; those of test text lead to them.
        super()._now_in(replace(world, quality=world.quality.mean or world.quality))
        context = AuditContext.of(
            self.world,
            scenario="tiny-v0",
            policy="hostile",
            split="live",
            table_sha256="0" * 64,
            layout=self.briefing.layout,
        )
        audited = AuditedStep(simulator.step, self.log, context)
        # A row that is served twice would be on record twice.
        self.step = Witness(audited, self.own, is_live=True)

    @property
    def fails(self) -> bool:
        """Whether the file is away."""
        return self.away.exists()

    @precondition(lambda self: not self.fails)
    @rule()
    def storage_fails(self) -> None:
        self.path.rename(self.away)

    @precondition(lambda self: self.fails)
    @rule()
    def storage_returns(self) -> None:
        self.away.rename(self.path)

    @rule()
    def decisions_are_acknowledged(self) -> None:
        head = self.log.flush()
        if not self.fails:
            assert (self.log.held, self.log.unlogged, self.log.fault) == (0, 0, None)
            self.heads.append(head)

    @rule()
    def the_writer_ends(self) -> None:
        """Closing says whether everything is on record; a new writer goes on with the log."""
        left = self.log.held + self.log.unlogged
        try:
            self.log.close()
            assert not self.fails, "what cannot be written is no success"
        except AuditFailed:
            assert self.fails
            self.forgotten += left
            self.away.rename(self.path)
        self._open()
        self._now_in(self.world)

    @rule()
    def the_writer_is_killed(self) -> None:
        """What it had not acknowledged is gone, and nothing else."""
        self.forgotten += self.log.held + self.log.unlogged
        self.log._file.close()  # as the system does for a process that dies
        if self.fails:
            self.away.rename(self.path)
        self._open()
        self._now_in(self.world)

    @invariant()
    def what_cannot_be_written_is_held_up_to_a_limit(self) -> None:
        if hasattr(self, "log"):
            assert self.log.held <= KEEP
            assert self.fails or self.log.unlogged == 0 or self.log.fault is not None

    def teardown(self) -> None:
        if not hasattr(self, "log"):
            return
        if self.fails:
            self.away.rename(self.path)
        self.log.close()
        for head in [*self.heads[:1], *self.heads[-1:], self.log.head]:
            found = audit_replay.verified(self.path, head)
            assert found.holds, found.sentences
        decided = self.own.decisions + self.own.falls
        accounted = found.decisions + found.lost + self.forgotten
        assert accounted == decided, f"{decided} were decided, {accounted} are accounted for"
        self.folder.cleanup()
        type(self).tally.add(self.own)
