"""Policies that do what a policy must not, each in its own way; run in processes of their own."""

import ctypes
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from rapgym.arrays import FloatArray
from rapgym.policies.policy import Briefing


class Dense:
    """Proposes everything, until it is time to misbehave."""

    def __init__(self, row: int = 3, **told: Any) -> None:
        self._from, self._told = row, told

    def reset(self, batch: int, briefing: Briefing) -> None:
        self._rows, self._blocks = 0, briefing.train.blocks

    def propose(self, observation: FloatArray, rng: np.random.Generator) -> Any:
        self._rows += 1
        if self._rows == self._from:
            return self.stray(len(observation))
        return np.ones((len(observation), self._blocks), dtype=bool)

    def stray(self, lanes: int) -> Any:
        return np.ones((lanes, self._blocks), dtype=bool)


class AsksForImportance(Dense):
    """Reads what its briefing says of the next block to go, as it may."""

    def reset(self, batch: int, briefing: Briefing) -> None:
        super().reset(batch, briefing)
        self._rises = briefing.quality.increments.of(np.zeros(self._blocks, dtype=bool))

    def stray(self, lanes: int) -> Any:
        return np.tile(self._rises < np.median(self._rises), (lanes, 1))


class Exits(Dense):
    def stray(self, lanes: int) -> Any:
        os._exit(0)


class Crashes(Dense):
    def stray(self, lanes: int) -> Any:
        ctypes.string_at(0)


class Hangs(Dense):
    def stray(self, lanes: int) -> Any:
        time.sleep(1e6)


class Naps(Dense):
    """Answers after a second, and proposes to drop everything."""

    def stray(self, lanes: int) -> Any:
        time.sleep(1.0)
        return np.zeros((lanes, self._blocks), dtype=bool)


class HangsDeaf(Dense):
    """Not even its other threads run: the call holds the interpreter's lock."""

    def stray(self, lanes: int) -> Any:
        ctypes.PyDLL(None).pause()


class Prints(Dense):
    def stray(self, lanes: int) -> Any:
        print("spoils what the parent prints")
        os.write(1, b"so does this\n")
        os.write(2, b"and this\n")
        return super().stray(lanes)


class Gluttonous(Dense):
    def stray(self, lanes: int) -> Any:
        return np.ones(1 << 36, dtype=np.uint8)


class SomeLanes(Dense):
    def stray(self, lanes: int) -> Any:
        return [[True] * self._blocks, *["?"] * (lanes - 1)]


class Forges(Dense):
    """Writes into its own channel."""

    def stray(self, lanes: int) -> Any:
        channel = socket.socket(fileno=int(sys.argv[1]))
        channel.sendall(self._told["forged"])
        channel.detach()
        return super().stray(lanes)


class LeavesChildren(Dense):
    """Starts a process that would go on for ever, and tells its number by what it proposes."""

    def stray(self, lanes: int) -> Any:
        pid = subprocess.Popen(["/bin/sleep", "1000"]).pid
        bits = [pid >> bit & 1 for bit in range(lanes * self._blocks)]
        return np.array(bits, dtype=bool).reshape(lanes, self._blocks)


class Peeks(Dense):
    """Tells by the first bits of its proposal which of some files it can read, which it can write."""

    def stray(self, lanes: int) -> Any:
        can = [_can(path, "rb") for path in self._told["read"]]
        can += [_can(path, "ab") for path in self._told["write"]]
        can.append(any(name.startswith("RAPGYM") for name in os.environ))
        can.append(_can(f"/proc/{os.getppid()}/mem", "rb"))
        bits = np.zeros(lanes * self._blocks, dtype=bool)
        bits[: len(can)] = can
        return bits.reshape(lanes, self._blocks)


def _can(path: str, mode: str) -> bool:
    try:
        with Path(path).open(mode):
            return True
    except OSError:
        return False


class FailsToReset(Dense):
    def reset(self, batch: int, briefing: Briefing) -> None:
        raise RuntimeError("no such weights\x1b[2J")


class FailsToBuild(Dense):
    def __init__(self) -> None:
        raise RuntimeError("needs an argument")


class Strict(Dense):
    on_misfit = "refuse"
