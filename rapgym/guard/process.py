"""A policy in a process of its own: it may hang, die, eat memory or print, and serving goes on.

What comes back is raw bytes of arrays, checked one by one; nothing of it is unpickled. Rules:

- An answer that takes longer than `deadline_ms` is late: the row falls back. While an answer is owed
  nothing new is asked; the rows that pass wait for it as long as their own deadline, and drop it.
- A process that owes an answer for `patience_rows` rows, that ends, or that sends what is no answer is
  killed with all that it started, and started again, at most `restarts` times in an episode. The
  policy then begins anew: what it remembered is gone.
- A new process is not waited for, unless `waits_for_restart` says so: rows fall back until it is
  ready. One that is not ready after `start_s` counts as hung.
- After the last restart every row falls back at once.

A process does not find RAPGYM_DATA or any other variable of that name in its environment. Where the
kernel has Landlock it can neither read traces, tables, caches and the data folder nor write anywhere
(`hides_rows` says whether that holds); docs/watchdog.md says what that does not cover.
"""

import os
import pickle
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, ClassVar, Self

import numpy as np

from rapgym.arrays import BoolArray, FloatArray
from rapgym.errors import InvalidPolicy, InvalidSpec
from rapgym.files.shown import shown
from rapgym.guard import forms
from rapgym.guard.child import (
    ANSWER,
    ASK,
    BECAUSE,
    FAILED,
    LONGEST_TEXT,
    READY,
    RESET,
    SEED,
    WHY,
    Order,
)
from rapgym.guard.forms import World
from rapgym.guard.link import Child, LateAnswer, PolicyGone, readable_paths

MEMORY_BYTES = 4 << 30  # of address space, which is far more than what a policy touches


class PolicyProcess:
    """A policy, by the protocol of `rapgym.Policy`, that runs elsewhere.

    Example:
        >>> with rapgym.PolicyProcess("rapgym.baselines.gsi:GreedyOrder") as policy:
        ...     log = rapgym.run_policy(policy, "laptop", "check")
        ...     policy.faults
        []
    """

    world: ClassVar[World] = "window"

    def __init__(
        self,
        target: str,
        options: Mapping[str, Any] | None = None,
        *,
        deadline_ms: float = 1000.0,
        start_s: float = 60.0,
        restarts: int = 3,
        patience_rows: int = 3,
        memory_bytes: int | None = MEMORY_BYTES,
        hide: bool = True,
        waits_for_restart: bool = False,
        folders: Sequence[str] = (),
        hidden: Sequence[str] = (),
        reads: Sequence[str] = (),
    ) -> None:
        """Start the process and build the policy there.

        Args:
            target: "module:Class"; options: its arguments.
            hide: keep rows and columns out of reach, where the kernel can.
            waits_for_restart: a row that restarts the process waits up to `start_s` for it: for rows
                in simulated time, which do not last as long as they say.
            folders: where its modules are looked for first; of these, modules alone can be read.
            hidden: paths that are kept out of reach beside traces, tables, caches and the data folder.
            reads: paths that it may read, such as its weights.

        Raises:
            InvalidPolicy: it cannot be loaded or built, or declares `on_misfit` wrongly.
        """
        if os.name != "posix":
            raise InvalidPolicy("a policy process needs a POSIX system; run the policy without it")
        if min(deadline_ms, start_s) <= 0 or restarts < 0 or patience_rows < 1:
            raise InvalidSpec(
                "a policy process needs times above 0, and patience of at least 1 row"
            )
        self._deadline_s, self._start_s = deadline_ms / 1000, start_s
        self._restarts, self._patience, self._waits = restarts, patience_rows, waits_for_restart
        self._order = Order(
            target, dict(options or {}), [*folders, *sys.path], memory_bytes,
            readable_paths(folders, hidden, reads) if hide else None, 0, None, self.world,
        )  # fmt: skip
        self._form = forms.form(self.world)
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the policy
        weakref.finalize(self, self._file.close)
        self.faults: list[str] = []  # of this episode: which question, what happened
        self._asked, self._stream_sent = 0, False
        self._child: Child | None = None
        self._start()
        self._strict, self.hides_rows = self._ready(time.monotonic() + start_s)

    @property
    def on_misfit(self) -> str:
        """As the policy declares it."""
        return "refuse" if self._strict else "repair"

    def reset(self, batch: int, briefing: Any) -> None:
        """Begin an episode with a briefing of the policy's world; a process that is not idle is started again.

        Raises:
            InvalidPolicy: its `reset` raises, or does not end in time.
        """
        self._order = replace(self._order, batch=batch, briefing=briefing)
        self.faults, self._asked, self._stream_sent = [], 0, False
        child, until_s = self._child, time.monotonic() + self._start_s
        if child is None or not child.ready or child.owes:
            self._start()
        else:
            self._write_order()
            try:
                child.send(RESET, 0, b"", until_s)
            except PolicyGone:
                self._start()
            child.ready = False
        self._ready(until_s)

    def propose(self, observation: FloatArray, rng: np.random.Generator) -> BoolArray:
        """float32 [B, O] -> proposal, bool [B, N]; where some lanes' answers cannot be read, a list of one a lane, None for those.

        Raises:
            LateAnswer: it has not answered in time.
            PolicyGone: it has ended, or sent what is no answer.
        """
        found: BoolArray = self._ask(observation, rng)
        return found

    def _ask(self, observation: FloatArray, rng: np.random.Generator) -> Any:
        """What it says, [B, ...], or a list of one answer a lane; raises as `propose` does."""
        self._asked += 1
        if self._child is None:
            raise PolicyGone("is not started any more")
        until_s = time.monotonic() + self._deadline_s
        try:
            self._await_idle(self._child, until_s)
            return self._answered(self._child, observation, rng, until_s)
        except PolicyGone as gone:
            self._restart(str(gone))
            raise

    def why(self) -> str | None:
        """What was wrong with the last answer that could not be read; None where nothing was."""
        child, until_s = self._child, time.monotonic() + self._deadline_s
        if child is None:
            return self.faults[-1] if self.faults else None
        try:
            self._await_idle(child, until_s)
            child.send(WHY, 0, b"", until_s)
            said = child.receive(LONGEST_TEXT, until_s)
        except (PolicyGone, LateAnswer) as error:
            return str(error)
        return None if said is None or said[0] != BECAUSE else _plain(said[2]) or None

    def close(self) -> None:
        """End the process; every row from now on falls back."""
        if self._child is not None:
            self._child.kill()
        self._child = None
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _await_idle(self, child: Child, until_s: float) -> None:
        """Wait for what was asked before.

        Raises:
            LateAnswer: it has not come in time. PolicyGone: it has not come for too long.
        """
        if not child.ready:
            said = child.receive(LONGEST_TEXT, until_s)
            if said is None and time.monotonic() - child.began_s <= self._start_s:
                raise LateAnswer("is not ready yet")
            if said is None or said[0] != READY:
                raise PolicyGone("does not get ready")
            child.ready = True
        if child.owes:
            if child.receive(self._answer_bytes, until_s) is None:
                child.owed_rows += 1
                if child.owed_rows >= self._patience:
                    raise PolicyGone(f"has owed an answer for {child.owed_rows} rows")
                raise LateAnswer("owes an answer")
            child.owes = child.owed_rows = 0

    def _answered(
        self, child: Child, observation: FloatArray, rng: np.random.Generator, until_s: float
    ) -> Any:
        if not self._stream_sent:
            # A process that was started again must not repeat its random numbers.
            fresh = np.random.default_rng(int(rng.integers(1 << 62))) if self.faults else rng
            child.send(SEED, 0, pickle.dumps(fresh), until_s)
            self._stream_sent = True
        child.send(ASK, self._asked, np.asarray(observation, np.float32).tobytes(), until_s)
        said = child.receive(self._answer_bytes, until_s)
        if said is None:
            child.owes, child.owed_rows = self._asked, 1
            if self._patience == 1:
                raise PolicyGone("has not answered in time")
            raise LateAnswer("has not answered in time")
        kind, number, content = said
        batch = self._order.batch
        told = np.frombuffer(content[:batch], dtype=np.uint8)
        if (kind, number, len(content)) != (ANSWER, self._asked, self._answer_bytes) or (
            told.max(initial=0) > 1
        ):
            raise PolicyGone("sends what is no answer")
        try:
            answers = self._form.unpacked(content[batch:], self._order.briefing)
        except ValueError:
            raise PolicyGone("sends what is no answer") from None
        readable = told == 1
        if readable.all():
            return answers
        # Lane by lane, as the guard reads what is no array: None is no answer.
        return [answers[lane] if readable[lane] else None for lane in range(batch)]

    @property
    def _answer_bytes(self) -> int:
        assert self._order.briefing is not None, "reset comes first"
        return self._order.batch * (1 + self._form.size(self._order.briefing))

    def _write_order(self) -> None:
        content = pickle.dumps(self._order)
        self._file.seek(0)
        self._file.truncate()
        self._file.write(content)
        self._file.flush()

    def _start(self) -> None:
        if self._child is not None:
            self._child.kill()
        self._write_order()
        self._child, self._stream_sent = Child(self._file.fileno()), False

    def _ready(self, until_s: float) -> tuple[bool, bool]:
        """Wait for a process that has begun: whether the policy is strict, and confined.

        Raises:
            InvalidPolicy: it fails, or takes too long; it has been killed then.
        """
        child, target = self._child, self._order.target
        assert child is not None
        try:
            said = child.receive(LONGEST_TEXT, until_s)
        except PolicyGone as gone:
            fault = f"the process of {target} {gone}"
        else:
            if said is not None and said[0] == READY and len(said[2]) == 2:
                child.ready = True
                return said[2][0] == 1, said[2][1] == 1
            fault = f"the process of {target} is not ready after {self._start_s:g} s"
            if said is not None and said[0] == FAILED:
                said_of = _plain(said[2])
                fault = said_of if target in said_of else f"{target}: {said_of}"
        child.kill()
        self._child = None
        raise InvalidPolicy(fault)

    def _restart(self, fault: str) -> None:
        self.faults.append(f"question {self._asked}: {fault}")
        assert self._child is not None
        self._child.kill()
        self._child = None
        if len(self.faults) > self._restarts:
            return
        self._start()
        if self._waits:
            try:
                self._ready(time.monotonic() + self._start_s)
            except InvalidPolicy as error:
                self.faults.append(f"question {self._asked}: {error}")


class ServeProcess(PolicyProcess):
    """A serving policy that runs elsewhere, by the protocol of `policies.serving.ServePolicy`."""

    world: ClassVar[World] = "serving"

    def decide(self, observation: FloatArray, rng: np.random.Generator) -> Any:
        """float32 [B, O] -> int64 [B, 3], or a list of one a lane, None where it cannot be read.

        Raises:
            LateAnswer: it has not answered in time.
            PolicyGone: it has ended, or sent what is no answer.
        """
        return self._ask(observation, rng)


def _plain(said: bytes) -> str:
    return shown(said.decode(errors="replace"))
