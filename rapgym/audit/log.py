"""The audit log: a file that only grows, one line for each decision, chained by hash.

A file that grows at its end is kept better by an operating system than a database is: a process that
dies loses nothing that it has written, and a file that is cut loses its end alone. `chain`
describes its lines.

What is acknowledged: the lines up to `head`. They are in the operating system's hands, so they
survive the death of this process, by kill -9 too; with `durable=True` they are on the disk
(fdatasync), and survive a loss of power. Decisions since then are held in memory, at most `batch` of
them, and for `wait_s` while decisions go on; a process that dies loses those: where none may be lost,
`batch=1`.

What the chain proves: no line up to a head that somebody else keeps was edited, removed, moved or
added since. It is no signature: who can write the file can write all of it anew, and who removes
lines at its end leaves a shorter log that holds. So keep heads elsewhere, and give them to
`rapgym audit LOG --verify --head`.
"""

import logging
import threading
import time
from pathlib import Path
from typing import Literal

from rapgym.audit import chain
from rapgym.audit import decisions as audit_decisions
from rapgym.audit.chain import Head
from rapgym.audit.context import AuditContext
from rapgym.audit.decisions import Decisions, Held
from rapgym.audit.file import LogFile
from rapgym.audit.serving import lines as serving_lines
from rapgym.audit.serving.context import ServeContext
from rapgym.audit.serving.lines import ServeSeconds
from rapgym.errors import AuditFailed, InvalidSpec
from rapgym.files import provenance
from rapgym.files.closing import Closing

NOTES = logging.getLogger(__name__)
OnFailure = Literal["continue", "stop"]


class AuditLog(Closing):
    """Appends to the audit log at a path, and is its only writer; threads may share it.

        made = shield.decide(proposal, costs, budget, context.order, source, strict)
        log.append(context, Decisions(demand, limit, budget, proposal, source, strict, made))
        ...  # execute made.kept

    `rapgym.audit_env` does so for an environment; `rapgym audit LOG` explains and verifies a log.

        >>> with rapgym.AuditLog(folder / "empty.jsonl", durable=True) as log:
        ...     log.held
        0

    `on_failure` is what happens when lines cannot be written (a full disk, a file that was cut or
    moved away). Either way what was acknowledged stays, decisions at hand are held, and writing is
    tried again once `retry_s` have passed:

    - "continue": serving goes on. At most `keep` decisions are held; further ones are counted, and
      once lines can be written again a line of kind `gap` says how many are missing, and why.
    - "stop": `append` and `check` raise: who is told so must not serve on.

    `fault`, `held` and `unlogged` say how it stands; that it begins and ends is also a warning of the
    standard library's `logging`.

    A log that cannot be opened is an error under both: serving has not begun. So is one that
    `close` cannot complete.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        batch: int = 256,
        wait_s: float = 1.0,
        durable: bool = False,
        on_failure: OnFailure = "continue",
        keep: int = 65536,
        retry_s: float = 1.0,
    ) -> None:
        """Open a log to go on with it, or begin one.

        Raises:
            AuditFailed: it cannot be written, or another process writes it.
            InvalidResult: there is another kind of file, or a log whose last line is damaged.
        """
        if not 1 <= batch <= keep or on_failure not in ("continue", "stop"):
            raise InvalidSpec("a log needs 1 <= batch <= keep, and on_failure continue or stop")
        self.path, self.durable, self.on_failure = Path(path), durable, on_failure
        self._batch, self._keep = batch, keep
        self._wait_ns, self._retry_ns = int(1e9 * wait_s), int(1e9 * retry_s)
        # Of the contexts that this writer has stated, by object.
        self._ids: dict[AuditContext | ServeContext, str] = {}
        self._held: list[Held | str] = []  # in their order; a text is a line of another kind
        self._waiting = 0  # decisions among them
        self._lost = 0  # decisions that are not even held
        self._lost_us = (0, 0)  # when, first and last
        self._last_us = 0  # the time of the last line
        self._fault: OSError | None = None  # why the last attempt to write failed
        self._next_ns = 0  # when lines are written at the latest
        self._lock = threading.Lock()
        self._file = LogFile(self.path)
        self.head = self._file.tail.head
        self._begin()

    def _begin(self) -> None:
        """State who writes, so that whatever makes writing impossible shows now."""
        rules = {"durable": self.durable, "on_failure": self.on_failure, "batch": self._batch}
        about = {"format": chain.FORMAT, "commit": provenance.commit(), **rules}
        torn = self._file.tail.torn_bytes
        self._held.append(chain.members("open", self._now_us(), **about, torn_bytes=torn))
        self._try()
        if self._fault is not None:
            self._file.close()
            raise AuditFailed(f"{self.path} cannot be written: {self._fault}") from self._fault

    @property
    def held(self) -> int:
        """Decisions that are not acknowledged yet."""
        return self._waiting

    @property
    def unlogged(self) -> int:
        """Decisions lost because nothing could be written; 0 once a gap is on record."""
        return self._lost

    @property
    def fault(self) -> str | None:
        """Why nothing can be written at present."""
        return None if self._fault is None else str(self._fault)

    def append(
        self, context: AuditContext | ServeContext, decisions: Decisions | ServeSeconds
    ) -> None:
        """Add one decision in each of B lanes, of the context's world; arrays are copied.

        Raises:
            InvalidSpec: shapes or numbers cannot be.
            AuditFailed: nothing can be written and `on_failure` is "stop": decisions that this
                found out with are held, later ones are not.
        """
        entry = _held(context, decisions)
        with self._lock:
            self._check_open()
            if self._fault is not None:
                self._try_if_due()
                self._stop_if_asked()
                if self._fault is not None and self._waiting + entry.lanes > self._keep:
                    self._count(entry._replace(time_us=self._now_us()))
                    return
            if context not in self._ids:
                self._state(context)
            # The time is that of its place among the lines.
            self._held.append(Held(self._now_us(), *entry[1:]))
            self._waiting += entry.lanes
            full = self._waiting >= self._batch or time.monotonic_ns() >= self._next_ns
            if full and self._fault is None:
                self._try()
                self._stop_if_asked()

    def check(self) -> None:
        """Tries again where that is due; raises where decisions must not go on unlogged.

        Raises:
            AuditFailed: nothing can be written and `on_failure` is "stop".
        """
        if self._fault is not None:
            with self._lock:
                self._try_if_due()
                self._stop_if_asked()

    def flush(self) -> Head:
        """Write what is held, now.

        Returns:
            The head up to which all is acknowledged: keep it elsewhere.

        Raises:
            AuditFailed: nothing can be written and `on_failure` is "stop".
        """
        with self._lock:
            self._check_open()
            self._try()
            self._stop_if_asked()
            return self.head

    def close(self) -> None:
        """Write what is held and that this writer has ended, and let go of the file.

        Raises:
            AuditFailed: that cannot be written; the message says how many decisions are lost.
        """
        with self._lock:
            if self._file.closed:
                return
            self._held.append(chain.members("close", self._now_us()))
            self._try()
            self._file.close()
            if self._fault is not None:
                raise AuditFailed(
                    f"{self.path} cannot be written ({self._fault}): {self._waiting + self._lost} "
                    f"decisions after line {self.head.seq} are not in it"
                ) from self._fault

    def _check_open(self) -> None:
        if self._file.closed:
            raise AuditFailed(f"{self.path} was closed by its writer")

    def _state(self, context: AuditContext | ServeContext) -> None:
        """The line that says what decisions of this context have in common."""
        known, self._ids[context] = {*self._ids.values()}, context.id
        if context.id in known:  # another object of the same content
            return
        about = {"context": context.id, **context.as_json()}
        self._held.append(chain.members("context", self._now_us(), **about))

    def _count(self, entry: Held) -> None:
        first = self._lost_us[0] if self._lost else entry.time_us
        self._lost, self._lost_us = self._lost + entry.lanes, (first, entry.time_us)

    def _stop_if_asked(self) -> None:
        if self._fault is not None and self.on_failure == "stop":
            raise AuditFailed(
                f"{self.path} cannot be written ({self._fault}), and decisions must not go on "
                "unlogged: make room, or put the file back; what is held is written then"
            ) from self._fault

    def _try_if_due(self) -> None:
        if time.monotonic_ns() >= self._next_ns:
            self._try()

    def _try(self) -> None:
        """Write what is held, a batch at a time, or note why that cannot be."""
        try:
            while self._held or self._lost:
                self._write_batch()
        except OSError as error:
            if self._fault is None:
                NOTES.warning(
                    "%s cannot be written (%s): on_failure is %s", self.path, error, self.on_failure
                )
            self._fault, self._next_ns = error, time.monotonic_ns() + self._retry_ns
            return
        if self._fault is not None:
            NOTES.warning("%s is written again, up to line %d", self.path, self.head.seq)
        self._fault, self._next_ns = None, time.monotonic_ns() + self._wait_ns

    def _write_batch(self) -> None:
        """Write what was held first, and with the last of it the gap that came after.

        Raises:
            OSError: it cannot be written; all of it is still held.
        """
        taken = decisions = 0
        while taken < len(self._held) and decisions < self._batch:
            entry = self._held[taken]
            decisions += entry.lanes if isinstance(entry, Held) else 0
            taken += 1
        gap = self._gap() if taken == len(self._held) else ""
        content, head = self._lines([*self._held[:taken], gap])
        self._file.write(content, self.durable)
        self.head, self._waiting = head, self._waiting - decisions
        del self._held[:taken]
        if gap:
            self._lost = 0

    def _lines(self, entries: list[Held | str]) -> tuple[bytes, Head]:
        """Lines of decisions and of what else there is, and the head that they lead to."""
        head, lines, run = self.head, list[bytes](), list[Held]()
        for entry in [*entries, ""]:
            if run and (isinstance(entry, str) or entry.context is not run[0].context):
                texts = serving_lines if isinstance(run[0].context, ServeContext) else chain
                for text in texts.decisions(run, self._ids[run[0].context]):
                    content, head = chain.line(head, text, decisions=1)
                    lines.append(content)
                run = []
            if isinstance(entry, Held):
                run.append(entry)
            elif entry:
                content, head = chain.line(head, entry)
                lines.append(content)
        return b"".join(lines), head

    def _gap(self) -> str:
        """The line that says which decisions are missing, or nothing."""
        if not self._lost:
            return ""
        since_us, until_us = self._lost_us
        told = {"decisions": self._lost, "since_us": since_us, "until_us": until_us}
        return chain.members("gap", self._now_us(), **told, cause=str(self._fault))

    def _now_us(self) -> int:
        """A moment later than all before, whatever becomes of the clock: the order of lines is known."""
        self._last_us = max(now_us(), self._last_us + 1)
        return self._last_us


def _held(context: AuditContext | ServeContext, decisions: Decisions | ServeSeconds) -> Held:
    """A checked copy of decisions of the context's world; raises as `append`."""
    if isinstance(context, AuditContext) and isinstance(decisions, Decisions):
        return audit_decisions.held(decisions, context, 0)
    if isinstance(context, ServeContext) and isinstance(decisions, ServeSeconds):
        return serving_lines.held(decisions, context)
    raise InvalidSpec("decisions and their context are of one world")


def now_us() -> int:
    """Microseconds since 1970, UTC."""
    return time.time_ns() // 1000
