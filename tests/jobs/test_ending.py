"""Ctrl-C and SIGTERM end a command at once, whatever its workers do."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from rapgym.jobs import ending

# A command whose calls would take a minute each, in C where no signal is seen; it tells once all have begun.
COMMAND = """
import functools, os, sys, time
from pathlib import Path
from rapgym import cli
from rapgym.cli import doctor
from rapgym.jobs import parallel

def call(folder, i):
    Path(folder, f"{i}-{os.getpid()}").touch()
    time.sleep(60)

def run(arguments):
    jobs = int(sys.argv[2])
    for _ in parallel.results([functools.partial(call, sys.argv[1], i) for i in range(2)], jobs):
        pass

doctor.run = run
if __name__ == "__main__":
    sys.exit(cli.main(["doctor"]))
"""


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        (signal.SIGINT, 130, "rapgym: interrupted\n"),
        (signal.SIGTERM, 143, "rapgym: ended by SIGTERM\n"),
    ],
)
def test_a_command_ends_within_two_seconds_in_one_line(
    tmp_path: Path, jobs: int, number: signal.Signals, code: int, words: str
) -> None:
    program, folder = tmp_path / "command.py", tmp_path / "begun"
    program.write_text(textwrap.dedent(COMMAND))
    folder.mkdir()
    with subprocess.Popen(
        [sys.executable, str(program), str(folder), str(jobs)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    ) as process:
        until_s = time.monotonic() + 60
        while len(list(folder.iterdir())) < jobs and time.monotonic() < until_s:
            time.sleep(0.05)
        assert len(list(folder.iterdir())) == jobs
        # A terminal sends Ctrl-C to every process of the command; whoever ends one sends SIGTERM to it.
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
        begun_s = time.monotonic()
        _, told = process.communicate(timeout=30)
        spent_s = time.monotonic() - begun_s
    assert (process.returncode, told) == (code, words)
    assert spent_s < 2
    for begun in folder.iterdir():
        with pytest.raises(ProcessLookupError):
            os.kill(int(begun.name.partition("-")[2]), 0)


def test_a_handler_that_somebody_set_before_stays() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with ending.told():
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with pytest.raises(ending.Terminated), ending.told():
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)
