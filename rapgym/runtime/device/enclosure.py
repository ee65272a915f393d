"""A limit of memory that is real: who goes over it is refused memory or killed, and that is counted."""

import contextlib
import errno
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Self

from rapgym.errors import InvalidSpec
from rapgym.files.closing import Closing
from rapgym.runtime.device.enclosure_forms import DataForm, Form, GroupForm

# Strictest first. A GPU's is `Enclosure(AllocatorForm(limit_bytes, TorchAllocator(device)))`.
KINDS: Mapping[str, Callable[[int], Form]] = MappingProxyType(
    {
        "cgroup-v2": partial(GroupForm, 2),
        "cgroup-v1": partial(GroupForm, 1),
        "rlimit-data": DataForm,
    }
)


class Enclosure(Closing):
    """Processes that together get no more than a limit. Close it, or use it as a context."""

    def __init__(self, form: Form) -> None:
        self.form = form

    @classmethod
    def open(cls, limit_bytes: int, *, kinds: Sequence[str] = tuple(KINDS)) -> Self:
        """The first of these kinds that this system allows; nobody is in it yet.

        Raises:
            InvalidSpec: none is allowed; the message says why.
        """
        reasons = []
        for name in kinds:
            try:
                return cls(KINDS[name](limit_bytes))
            except (OSError, InvalidSpec) as error:
                reasons.append(f"{name}: {error}")
        raise InvalidSpec(
            f"no limit of memory can be enforced here ({'; '.join(reasons)}): run on Linux, as a "
            "user who may make memory groups, or do without enforcing"
        )

    @property
    def kind(self) -> str:
        """How the limit is enforced, in words."""
        return self.form.kind

    def add(self, pid: int) -> int:
        """Enclose a process; what it starts from now on is enclosed in a memory group alone.

        Returns:
            Bytes that it held before, measured. A group is not charged for them, the other kinds
            count them: add a process before it takes much.

        Raises:
            InvalidSpec: this process cannot be enclosed, or is gone.
        """
        return self.form.add(pid)

    def limit(self, limit_bytes: int) -> None:
        """Move the limit. Who is over it at once is killed (groups), or refused all further memory.

        Raises:
            InvalidSpec: there is no such limit.
            RapgymError: the system does not do it.
        """
        self.form.limit(limit_bytes)

    def exceeded(self) -> int:
        """How often memory was refused, or a process killed for it; readable after closing."""
        return self.form.exceeded()

    def note(self, error: BaseException) -> bool:
        """Hear of an error in an enclosed process, for kinds whose refusals nobody else counts.

        Returns:
            Whether it says that memory was refused.
        """
        refused = out_of_memory(error)
        if refused:
            self.form.note_refusal()
        return refused

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Note what is raised here, and raise it again; not to be nested."""
        try:
            yield
        except BaseException as error:
            self.note(error)
            raise

    def close(self) -> None:
        """Let go of the processes; nothing of the limit is left. Twice is lawful.

        Raises:
            RapgymError: the system does not let it.
        """
        self.form.close()


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was refused: Python's, the system's or torch's."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    said = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in said or "out of memory" in said
    )
