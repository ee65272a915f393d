"""How code of a user's is run: by default each policy object in a process of its own."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

from rapgym.errors import InvalidPolicy
from rapgym.guard import forms
from rapgym.guard.forms import World
from rapgym.guard.guard import Guarding
from rapgym.guard.process import PolicyProcess, ServeProcess
from rapgym.guard.watchdog import Rules
from rapgym.policies import registry
from rapgym.scenarios import catalogue
from rapgym.scenarios.story import Scenario

# In a process that cannot read rows and columns; in one that can, for this kernel hides no files; in
# the process that plays the rows.
Isolation: TypeAlias = Literal["confined", "open", "none"]
HANG_S = 60.0  # a decision that takes longer counts as hung
# Of address space: libraries such as torch map far more than they touch.
MEMORY_BYTES = 32 << 30


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms a user's policy is run."""

    in_process: bool = False  # where rows are played, unguarded
    deadline_ms: float | None = None  # a later answer is replaced by the reference policy's
    watchdog: bool = False
    folders: tuple[str, ...] = ()  # where its module is looked for first
    hidden: tuple[str, ...] = ()  # paths kept out of its reach beside the package's data
    reads: tuple[str, ...] = ()  # paths that it may read, such as its weights
    trust: bool = False  # its author, where reading a file runs what the file says

    def hiding(self, paths: Sequence[Path], *stories: Scenario) -> Self:
        """The same terms, which also keep these paths and the user's own traces out of its reach."""
        own = [name for story in stories if story.is_own for name in catalogue.files_of(story)]
        every = [*paths, *(Path(name) for name in own if Path(name).exists())]
        hidden = (*self.hidden, *(str(path.absolute()) for path in every))
        return replace(self, hidden=tuple(dict.fromkeys(hidden)))

    @property
    def guarding(self) -> Guarding:
        return Guarding(Rules() if self.watchdog else None, self.deadline_ms)

    def as_json(self) -> dict[str, Any]:
        """What of them decides over results; nothing where all is as by default."""
        told: dict[str, Any] = {}
        if self.deadline_ms is not None:
            told["deadline_ms"] = self.deadline_ms
        if self.watchdog:
            told["watchdog"] = True
        return told


class Foreign:
    """Makes the policy objects of a user's `module:Class`, one at a time, and answers for them.

    Example:
        >>> with Foreign(entry, {}, Terms()) as make:
        ...     log = rollout.run(make, story, "test", told)
    """

    def __init__(
        self,
        entry: registry.Entry,
        options: Mapping[str, Any],
        terms: Terms,
        world: World = "window",
    ) -> None:
        _check_trust(entry, terms)
        self._entry, self._options, self._terms, self._world = entry, options, terms, world
        self._last: PolicyProcess | None = None
        self.isolation: Isolation = "none"

    def __call__(self) -> Any:
        """A new policy object of the world; the one before it is ended.

        Raises:
            InvalidPolicy: it cannot be built, or the process of the one before it has ended.
        """
        if self._terms.in_process:
            with looked_for_in(self._terms.folders):
                method = forms.form(self._world).method
                return registry.build(self._entry, self._options, method)
        self.check()
        self.close()
        made = process(self._entry.target, self._options, self._terms, world=self._world)
        self.isolation = "confined" if made.hides_rows else "open"
        self._last = made
        return made

    def check(self) -> None:
        """Raise where a process did not last.

        Raises:
            InvalidPolicy: it ended, hung, or sent what is no answer; its rows are the reference's.
        """
        if self._last is not None and self._last.faults:
            raise InvalidPolicy(f"{self._entry.target} broke off at {self._last.faults[0]}")

    def close(self) -> None:
        if self._last is not None:
            self._last.close()
        self._last = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self.check()
        finally:
            self.close()


def check(entry: registry.Entry, terms: Terms, world: World = "window") -> None:
    """Import a user's module and build its policy, in a process that ends with this call.

    Raises:
        InvalidPolicy: that fails.
    """
    if entry.is_own:
        _check_trust(entry, terms)
        hide = not terms.in_process
        process(entry.target, entry.options, terms, hide=hide, world=world).close()


def _check_trust(entry: registry.Entry, terms: Terms) -> None:
    if entry.holds_pickles and not terms.trust:
        raise InvalidPolicy(
            f"{entry.name} holds pickles, which run whatever they say as they are read; it runs in a "
            "process of its own all the same. Say --trust if you know who made it"
        )


def process(
    target: str,
    options: Mapping[str, Any],
    terms: Terms,
    *,
    hide: bool = True,
    world: World = "window",
) -> PolicyProcess:
    """A policy in a process of its own for rows in simulated time: one that ends or hangs is not
    started again.

    Raises:
        InvalidPolicy: it cannot be loaded or built.
    """
    kind = ServeProcess if world == "serving" else PolicyProcess
    return kind(
        target,
        options,
        deadline_ms=1000 * HANG_S,
        restarts=0,
        patience_rows=1,
        memory_bytes=MEMORY_BYTES,
        hide=hide,
        folders=terms.folders,
        hidden=terms.hidden,
        reads=(*terms.reads, *([options["path"]] if "path" in options else [])),
    )


def made(
    entry: registry.Entry, options: Mapping[str, Any], terms: Terms, world: World = "window"
) -> Foreign:
    """As `Foreign`, of any policy: those of rapgym's run where rows are played."""
    trusted = Terms(in_process=True)
    return Foreign(entry, options, terms if entry.is_own else trusted, world)


@contextmanager
def looked_for_in(folders: tuple[str, ...]) -> Iterator[None]:
    """While this lasts, modules are looked for in these folders first."""
    before = list(sys.path)
    sys.path[:0] = [folder for folder in folders if folder not in before]
    try:
        yield
    finally:
        sys.path[:] = before
