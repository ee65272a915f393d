"""The other program on the device: a process that takes and returns real bytes as it is told."""

import contextlib
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

from rapgym.errors import InvalidSpec, RapgymError
from rapgym.files.closing import Closing
from rapgym.runtime import probe
from rapgym.runtime.device import tenant_process

ANSWER_S = 120.0
MIB = 2**20


class Tenant(Closing):
    """Holds exactly as many bytes as it was told last; ends with the process that started it.

    A lean Python process of its own, without torch or NumPy. On a host it holds anonymous pages that
    can be neither compressed nor merged, on a GPU memory of CUDA's driver (not tried on a GPU).
    """

    def __init__(self, device: str = "cpu", *, spared: bool = False) -> None:
        """Start the process; it holds nothing yet.

        Args:
            device: `cpu` or `cuda:INDEX`, as torch counts.
            spared: where memory runs out, the kernel shall end others first; without the right to
                ask for that, nothing is changed.

        Raises:
            RapgymError: it did not start; what it said is on standard error.
        """
        isolated = ["-I", "-S"] if device == "cpu" else ["-P"]
        self._device = device
        self._process = subprocess.Popen(
            [sys.executable, *isolated, tenant_process.__file__, device, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self._held = 0
        try:
            self._answer("start")
        except BaseException:
            self.close()
            raise
        if spared:
            with contextlib.suppress(OSError):
                Path(f"/proc/{self.pid}/oom_score_adj").write_text("-1000")

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def held_bytes(self) -> int:
        """What was held, as measured, when the last order was carried out."""
        return self._held

    def hold(self, count: int) -> int:
        """Hold exactly so many bytes, rounded up to pages; return once they are resident, or gone.

        Where it raises without being killed, it may hold a part of them; another order is lawful.

        Returns:
            Bytes that are held, measured: page by page on a host, as granted on a GPU.

        Raises:
            InvalidSpec: the count is negative.
            RapgymError: it was killed, perhaps for want of memory, or could not take them.
        """
        if count < 0:
            raise InvalidSpec(f"a tenant holds at least 0 bytes, not {count}")
        wish = f"hold {count / MIB:.1f} MiB"
        more = count - self._held
        if self._device == "cpu" and more > 0 and (free := probe.available_bytes()) < more:
            # The kernel would end some process, not necessarily this one.
            raise RapgymError(
                f"the tenant is to {wish}, {more / MIB:.1f} more than now, but this machine has only "
                f"{free / MIB:.1f} MiB: end other programs, or replay with smaller numbers"
            )
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{count}\n".encode())
        except OSError as error:
            raise self._lost(wish) from error
        self._held = self._answer(wish)
        if self._held < count:
            raise RapgymError(
                f"the tenant was to {wish}, but {self._held / MIB:.1f} are resident: the system "
                "swaps; turn swap off, or replay with smaller numbers"
            )
        return self._held

    def measured_bytes(self) -> int:
        """Anonymous memory of the process, by another way than its own word, interpreter included.

        Raises:
            DataUnavailable: it has ended, or this is no Linux.
        """
        return probe.anonymous_bytes(self.pid)

    def _answer(self, wish: str) -> int:
        answers = self._process.stdout
        assert answers is not None
        if not select.select([answers], [], [], ANSWER_S)[0]:
            self._process.kill()
            raise RapgymError(f"the tenant was to {wish} and did not answer for {ANSWER_S:g} s")
        word, _, said = answers.readline().decode().strip().partition(" ")
        if word == "held":
            return int(said)
        if word == "failed":
            raise RapgymError(
                f"the tenant could not {wish} ({said}): make room on the device, or replay with "
                "smaller numbers"
            )
        raise self._lost(wish)

    def _lost(self, wish: str) -> RapgymError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        code = self._process.poll()
        how = f"ended with code {code}"
        if code == -signal.SIGKILL:
            how = "was killed, most likely by the kernel for want of memory"
        elif code is not None and code < 0:
            how = f"was ended by {signal.Signals(-code).name}"
        return RapgymError(f"the tenant {how} when it was to {wish}: start another")

    def close(self) -> None:
        """End the process; its bytes are gone when this returns."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
