"""A progress line for long work: share done, time left. Silent unless a person is watching."""

import sys
import time
from types import TracebackType
from typing import Self


class Progress:
    """Counts weighted steps on stderr; on a terminal it redraws, in a log it prints sparsely."""

    def __init__(self, label: str, total: float, *, quiet: bool = False) -> None:
        self.label, self.total, self.quiet = label, max(total, 1e-9), quiet
        self.done = self.skipped = 0.0
        self.start_s = time.monotonic()
        self._next_s = 0.0
        self._every_s = 0.2 if sys.stderr.isatty() else 30.0

    def advance(
        self,
        weight: float = 1.0,
        *,
        skipped: bool = False,
        note: str = "",
        left_s: float | None = None,
    ) -> None:
        """Count `weight` more; `skipped` work was done by an earlier run and says nothing of speed.

        Args:
            left_s: seconds that are left, where somebody knows better than by the share that is done.
        """
        self.done += weight
        if skipped:
            self.skipped += weight
        now_s = time.monotonic() - self.start_s
        if not self.quiet and now_s >= self._next_s:
            self._next_s = now_s + self._every_s
            self._print(now_s, note, self._by_share(now_s) if left_s is None else left_s)

    def _by_share(self, now_s: float) -> float:
        worked = self.done - self.skipped
        return (self.total - self.done) * now_s / worked if worked > 0 else float("nan")

    def _print(self, now_s: float, note: str, left: float) -> None:
        text = f"{self.label} {min(self.done / self.total, 1):6.1%}  left {_duration(left)}  {note}"
        end = "" if sys.stderr.isatty() else "\n"
        print(("\r\x1b[K" if not end else "") + text, end=end, file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self.quiet and self._next_s:
            spent = _duration(time.monotonic() - self.start_s)
            state = "done" if kind is None else "stopped"
            end = "\r\x1b[K" if sys.stderr.isatty() else ""
            print(f"{end}{self.label} {state} after {spent}", file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    if seconds != seconds:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
