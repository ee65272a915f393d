"""The parent's end of a policy process: starting it, asking, listening without trust, and ending it."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Collection
from pathlib import Path

from rapgym.errors import RapgymError
from rapgym.files import checked, places
from rapgym.guard import child as policy_child
from rapgym.guard import landlock
from rapgym.guard.child import HEAD
from rapgym.guard.landlock import Readable

_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


class PolicyGone(RapgymError):
    """A policy process has ended, or sent what is no answer; inside a rollout the row falls back."""


class LateAnswer(RapgymError, TimeoutError):
    """A policy process has not answered in time; inside a rollout the row falls back."""


class Child:
    """One process and the channel to it."""

    def __init__(self, order_file: int) -> None:
        ours, theirs = socket.socketpair()
        lifeline, held = os.pipe()  # its end tells the process that this one has gone
        files = (theirs.fileno(), order_file, lifeline)
        self._process = subprocess.Popen(
            # -P: not even the folder where the command is typed is looked in before it is confined.
            [sys.executable, "-P", "-m", "rapgym.guard.child", *map(str, files)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=files,
            env=_environment(),
            start_new_session=True,
        )
        theirs.close()
        os.close(lifeline)
        self._channel, self._received = ours, bytearray()
        self.began_s, self.ready = time.monotonic(), False
        self.owes, self.owed_rows = 0, 0  # number of the question, 0 for none
        self.kill = weakref.finalize(self, _end, self._process, ours, held)

    def send(self, kind: bytes, number: int, content: bytes, until_s: float) -> None:
        """Raises PolicyGone where it does not take what is sent in time."""
        self._channel.settimeout(max(until_s - time.monotonic(), 1e-3))
        try:
            policy_child.written(self._channel, kind, number, content)
        except OSError as error:
            raise PolicyGone(f"takes no question: {error or type(error).__name__}") from None

    def receive(self, longest: int, until_s: float) -> tuple[bytes, int, bytes] | None:
        """The next thing it says, or None where it says nothing in time.

        Raises:
            PolicyGone: it has ended, or says more than `longest` bytes.
        """
        while True:
            if len(self._received) >= HEAD.size:
                kind, number, size = HEAD.unpack_from(self._received)
                if size > longest:
                    raise PolicyGone("sends what is no answer")
                if len(self._received) >= HEAD.size + size:
                    content = bytes(self._received[HEAD.size : HEAD.size + size])
                    del self._received[: HEAD.size + size]
                    return kind, number, content
            # At least a glance, also where no time is left.
            self._channel.settimeout(max(until_s - time.monotonic(), 1e-4))
            try:
                part = self._channel.recv(1 << 16)
            except TimeoutError:
                return None
            except OSError:
                part = b""
            if not part:
                raise PolicyGone(f"has ended{self._how()}")
            self._received += part

    def _how(self) -> str:
        """How the process ended, where that is known."""
        try:
            code = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return ""
        return f" by signal {-code}" if code < 0 else f" with exit code {code}"


def _end(process: "subprocess.Popen[bytes]", channel: socket.socket, lifeline: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    channel.close()
    os.close(lifeline)


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAPGYM")}
    path = os.pathsep.join(str(Path(entry or ".").resolve()) for entry in sys.path)
    return kept | dict.fromkeys(_THREADS, "1") | {"PYTHONPATH": path}


def hidden_paths() -> set[Path]:
    """Where rows and columns lie that a policy must not see, resolved."""
    found = {
        places.TRACES,
        places.TABLES,
        places.RESULTS,
        places.LEADERBOARD,
        checked.cache_folder(),
        checked.mirror_folder(),
    }
    return {path.resolve() for path in found if path is not None}


def readable_paths(
    folders: Collection[str] = (), hidden: Collection[str] = (), reads: Collection[str] = ()
) -> list[Readable]:
    """What a policy process needs: Python, the system's libraries, and modules, less what is hidden.

    Args:
        folders: a user's own, of which modules and packages alone may be read: data and results lie
            beside them.
        hidden: what must not be read, beside `hidden_paths`.
        reads: what else may be read, less what is hidden.
    """
    never = hidden_paths() | {Path(each).resolve() for each in hidden}
    system = ("/usr", "/lib", "/lib64", "/etc", "/opt", "/dev/urandom")
    found: list[Readable] = []
    roots: list[str | Path] = [sys.prefix, sys.base_prefix, places.PACKAGE, places.BASELINES]
    for whole in map(Path, (*system, *roots, *reads)):
        found += landlock.without(whole, never)
    own = {Path(each).resolve() for each in folders}
    for root in own | {Path(entry or ".").resolve() for entry in sys.path}:
        holds = root in own or any(each.is_relative_to(root) for each in never)
        if holds and root.is_dir():
            found.append(Readable(root, content=False))
            for entry in filter(_is_module, root.iterdir()):
                found += landlock.without(entry, never)
        else:
            found += landlock.without(root, never)
    return [*dict.fromkeys(found)]


def _is_module(path: Path) -> bool:
    """Of a folder that also holds what is hidden modules alone may be read: results lie there too."""
    return path.suffix in (".py", ".so") or (path / "__init__.py").is_file()
