"""Policies that try to win dishonestly; run in processes of their own by tests/bench/test_cheats.py.

`Tries` tells by what it proposes whether an attempt succeeded: nothing where it did, all where not.
"""

import atexit
import ctypes
import gc
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rapgym.arrays import FloatArray
from rapgym.policies.policy import Briefing

LIBC = ctypes.CDLL(None, use_errno=True)
PTRACE_SEIZE, IPC_CREAT, KEYCTL_NEW_RING = 0x4206, 0o1000, 1


class Tries:
    """Makes one attempt a row."""

    def __init__(self, **told: Any) -> None:
        self.told = told

    def reset(self, batch: int, briefing: Briefing) -> None:
        self.briefing, self.left = briefing, list(ATTEMPTS.values())

    def propose(self, observation: FloatArray, rng: np.random.Generator) -> Any:
        won = False
        if self.left:
            try:
                won = bool(self.left.pop(0)(self))
            except BaseException:
                won = False
        return np.full((len(observation), self.briefing.train.blocks), not won)


def _reads(path: str) -> bool:
    with Path(path).open("rb") as file:
        return len(file.read(8)) == 8


def scoring_world(policy: Tries) -> object:
    from rapgym.scenarios import catalogue, worlds

    return worlds.scoring_world(catalogue.scenario("laptop"))


def rows_of_test(policy: Tries) -> object:
    from rapgym.scenarios import catalogue, worlds

    return worlds.world(catalogue.scenario("laptop"), "test")


def quality_table(policy: Tries) -> object:
    from rapgym.scenarios import catalogue, tables

    return tables.table(catalogue.scenario("laptop"))


def worlds_in_memory(policy: Tries) -> bool:
    from rapgym.world.records import World

    known = id(policy.briefing.train)
    return any(isinstance(each, World) and id(each) != known for each in gc.get_objects())


def frames(policy: Tries) -> bool:
    """A world other than that of the briefing in the locals of any caller."""
    from rapgym.world.records import World

    frame = sys._getframe()
    while frame is not None:
        for value in frame.f_locals.values():
            found = getattr(value, "world", None)
            if isinstance(found, World) and found is not policy.briefing.train:
                return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def series_file(policy: Tries) -> bool:
    return _reads(policy.told["series"])


def table_file(policy: Tries) -> bool:
    return _reads(policy.told["table"])


def results_file(policy: Tries) -> bool:
    return _reads(policy.told["results"])


def data_beside_the_module(policy: Tries) -> bool:
    return _reads(policy.told["beside"])


def through_proc(policy: Tries) -> bool:
    return _reads("/proc/self/root" + policy.told["series"])


def through_libc(policy: Tries) -> bool:
    return bool(LIBC.open(policy.told["series"].encode(), os.O_RDONLY) >= 0)


def in_another_program(policy: Tries) -> bool:
    told = subprocess.run(["/bin/cat", policy.told["series"]], capture_output=True, check=False)
    return len(told.stdout) > 8


def in_a_fork(policy: Tries) -> bool:
    pid = os.fork()
    if not pid:
        try:
            os._exit(0 if _reads(policy.told["series"]) else 1)
        finally:
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


def in_a_thread(policy: Tries) -> bool:
    won: list[bool] = []

    def read() -> None:
        try:
            won.append(_reads(policy.told["series"]))
        except OSError:
            won.append(False)

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    return won[0]


def through_a_link(policy: Tries) -> bool:
    link = Path(policy.told["free"], "link")
    link.symlink_to(policy.told["series"])
    return _reads(str(link))


def written_results(policy: Tries) -> bool:
    with Path(policy.told["results"]).open("ab") as file:
        return file.write(b" ") == 1


def deleted_parts(policy: Tries) -> bool:
    shutil.rmtree(policy.told["parts"])
    return True


def kept_file(policy: Tries) -> bool:
    """What one episode would leave for the next."""
    return Path(policy.told["free"], "kept").write_text("future") > 0


def variables(policy: Tries) -> bool:
    return any(name.startswith("RAPGYM") for name in os.environ)


def parents_memory(policy: Tries) -> bool:
    with Path(f"/proc/{os.getppid()}/mem").open("rb"):
        return True


def traced_parent(policy: Tries) -> bool:
    return bool(LIBC.ptrace(PTRACE_SEIZE, os.getppid(), None, None) == 0)


def signalled_parent(policy: Tries) -> bool:
    os.kill(os.getppid(), 0)
    return True


def tcp(policy: Tries) -> bool:
    with socket.create_connection(("127.0.0.1", policy.told["port"]), timeout=2):
        return True


def udp(policy: Tries) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sent:
        return sent.sendto(b"rows", ("127.0.0.1", policy.told["port"])) == 4


def local_socket(policy: Tries) -> bool:
    with socket.socket(socket.AF_UNIX):
        return True


def shared_memory(policy: Tries) -> bool:
    """It would outlive the process."""
    made = LIBC.shmget(0, 64, IPC_CREAT | 0o600)
    if made >= 0:
        LIBC.shmctl(made, 0, None)
    return bool(made >= 0)


def group_of_its_own(policy: Tries) -> bool:
    """A process that would not end with the others."""
    pid = os.fork()
    if not pid:
        try:
            os.setsid()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


# In the order of rows. Each is tried once more where nothing is hidden, to see that it can succeed.
ATTEMPTS: dict[str, Callable[[Tries], object]] = {
    each.__name__: each
    for each in (
        scoring_world, rows_of_test, quality_table, worlds_in_memory, frames, series_file,
        table_file, results_file, data_beside_the_module, through_proc, through_libc,
        in_another_program, in_a_fork, in_a_thread, through_a_link, written_results, kept_file,
        variables, parents_memory, traced_parent, signalled_parent, tcp, udp, local_socket,
        shared_memory, group_of_its_own, deleted_parts,
    )
}  # fmt: skip
# What cannot succeed in a process of its own, whatever is hidden.
ELSEWHERE = ("worlds_in_memory", "frames", "variables")


class Vandal:
    """Changes all that it can reach, then proposes everything."""

    def reset(self, batch: int, briefing: Briefing) -> None:
        self.blocks = briefing.train.blocks
        for change in CHANGES.values():
            change(briefing)

    def propose(self, observation: FloatArray, rng: np.random.Generator) -> Any:
        observation[:] = 0
        rng.bit_generator.state = np.random.default_rng(1).bit_generator.state
        return np.ones((len(observation), self.blocks), dtype=bool)


def _nothing(*given: Any, **named: Any) -> float:
    return 0.0


def _reference(briefing: Briefing) -> None:
    from rapgym.policies.reference import FrontierLookup

    setattr(FrontierLookup, "propose", lambda self, seen, rng: np.zeros((len(seen), 6), bool))  # noqa: B010


def _reward(briefing: Briefing) -> None:
    from rapgym.world import reward

    reward.token_loss = _nothing  # type: ignore[assignment]


def _simulator(briefing: Briefing) -> None:
    from rapgym.world import simulator

    simulator.step = _nothing  # type: ignore[assignment]


def _shield(briefing: Briefing) -> None:
    from rapgym.world import shield

    shield.decide = _nothing  # type: ignore[assignment]


def _scorer(briefing: Briefing) -> None:
    from rapgym.bench import cells

    cells.scored = _nothing  # type: ignore[assignment]


def _thawed(briefing: Briefing) -> None:
    for array in (
        briefing.rows.limit_bytes,
        briefing.rows.output_tokens,
        briefing.quality.grid_nll,
    ):
        ctypes.memset(array.ctypes.data, 0, array.nbytes)  # it is frozen against all else


def _modules(briefing: Briefing) -> None:
    for name in [each for each in sys.modules if each.startswith("rapgym.world")]:
        sys.modules[name] = sys


def _global_rng(briefing: Briefing) -> None:
    np.random.seed(1)
    random.seed(1)


def _environment(briefing: Briefing) -> None:
    os.environ["RAPGYM_DATA"] = "/nowhere"
    os.chdir("/")


def _at_exit(briefing: Briefing) -> None:
    atexit.register(os.write, 1, b"at exit")


def _signals(briefing: Briefing) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


CHANGES: dict[str, Callable[[Briefing], None]] = {
    "reference": _reference, "reward": _reward, "simulator": _simulator, "shield": _shield,
    "scorer": _scorer, "thawed": _thawed, "modules": _modules, "global rng": _global_rng,
    "environment": _environment, "at exit": _at_exit, "signals": _signals,
}  # fmt: skip


class Evil(np.ndarray):
    """An array whose every operation lies."""

    def __array_finalize__(self, other: Any) -> None:
        raise RuntimeError("no copy")

    @property  # type: ignore[misc]
    def shape(self) -> Any:
        raise SystemExit(0)


class Converts:
    def __len__(self) -> int:
        return 1

    def __array__(self, *given: Any) -> Any:
        os.write(1, b"converted")
        raise KeyboardInterrupt


class Unpickles:
    def __reduce__(self) -> Any:
        return os._exit, (3,)


class Endless:
    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Any:
        while True:
            yield None


def _raises() -> Any:
    raise SystemExit(0)


# What is no proposal of 6 blocks in one lane; each is answered in a row of its own.
NO_ANSWERS: dict[str, Callable[[], Any]] = {
    "NaN": lambda: np.full((1, 6), np.nan),
    "halves": lambda: np.full((1, 6), 0.5),
    "another shape": lambda: np.ones((6, 1), bool),
    "huge": lambda: np.ones((1, 1 << 26), bool),
    "too huge": lambda: np.ones(1 << 50, bool),
    "a subclass": lambda: np.ones((1, 6), bool).view(Evil),
    "__array__": Converts,
    "a pickle": Unpickles,
    "endless": Endless,
    "objects": lambda: np.array([[Unpickles()] * 6], dtype=object),
    "nothing": lambda: None,
    "text": lambda: "111111",
    "exit": _raises,
}


class Answers:
    """Gives another thing in each row."""

    def reset(self, batch: int, briefing: Briefing) -> None:
        self.left = list(NO_ANSWERS.values())

    def propose(self, observation: FloatArray, rng: np.random.Generator) -> Any:
        return self.left.pop(0)() if self.left else np.ones((1, 6), bool)
