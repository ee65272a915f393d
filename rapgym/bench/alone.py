"""A user's cell in a process that runs nothing else, for policies that asked for no isolation.

    python -m rapgym.bench.alone ORDER OUT

The process writes a results file of one cell, or why there is none; nothing of it is unpickled here,
and what it says that its rows cost is not taken: they are played again from its proposals.
"""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rapgym.errors import InvalidPolicy, InvalidResult, RapgymError
from rapgym.files.shown import shown
from rapgym.guard.foreign import looked_for_in
from rapgym.guard.guard import told_of

Told = TypeVar("Told")
LONGEST_FAULT = 2000  # characters


@dataclass(frozen=True, slots=True)
class Order:
    """One cell to run."""

    name: str  # of the policy
    folders: tuple[str, ...]  # where its module is looked for first
    write: Callable[[Path], None]  # runs it, and writes a results file of one cell; can be pickled


def run(order: Order, read: Callable[[Path], Told]) -> Told:
    """The cell as its process tells it.

    Args:
        read: gives the cell of such a file.

    Raises:
        InvalidPolicy: the policy cannot begin, or its process ended without a cell.
    """
    name = order.name
    with tempfile.TemporaryDirectory() as folder:
        asked, out = Path(folder, "order"), Path(folder, "cell.csv.gz")
        asked.write_bytes(pickle.dumps(order))
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "rapgym.bench.alone", str(asked), str(out)],
            stdin=subprocess.PIPE,  # its end tells the process that this one has gone
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(each or "." for each in sys.path)},
            start_new_session=True,
        )
        try:
            code = process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if process.stdin is not None:
                process.stdin.close()
        fault = _fault(out.with_suffix(".fault"))
        if fault is None and out.is_file():
            try:
                return read(out)
            except (InvalidResult, ValueError) as error:
                raise InvalidPolicy(f"{name} left no cell that can be read: {error}") from error
    how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
    raise InvalidPolicy(fault or f"the process of {name} ended {how}, without a cell")


def _fault(path: Path) -> str | None:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return shown(file.read(LONGEST_FAULT))
    except OSError:
        return None


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


def main() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    asked, out = map(Path, sys.argv[1:])
    order: Order = pickle.loads(asked.read_bytes())
    try:
        with looked_for_in(order.folders):
            order.write(out)
    except BaseException as error:
        text = str(error) if isinstance(error, RapgymError) else f"raises {told_of(error)}"
        named = text if order.name in text else f"{order.name}: {text}"
        out.with_suffix(".fault").write_text(named, encoding="utf-8", errors="replace")
        os._exit(1)
    os._exit(0)  # threads of the policy's may live on


if __name__ == "__main__":
    main()
