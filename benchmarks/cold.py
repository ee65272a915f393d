"""CPU seconds of fresh processes: what importing, a first environment and the help take, side by side.

    python benchmarks/cold.py [--rounds 21]

In every round each process runs once, so that what else the machine does meets all alike; medians are told.
Byte code is at hand, as after a first run.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys

FIRST = "import {0}; gymnasium.make({1!r}, disable_env_checker=True).reset(seed=0)"
PROCESSES = {
    "python": ["-c", "pass"],
    "import gymnasium": ["-c", "import gymnasium"],
    "import rapgym": ["-c", "import rapgym"],
    "make and reset CartPole-v1": ["-c", FIRST.format("gymnasium", "CartPole-v1")],
    "make and reset RAP-v0": ["-c", FIRST.format("gymnasium, rapgym", "RAP-v0")],
    "rapgym --help": ["-m", "rapgym", "--help"],
}


def spent_s(arguments: list[str]) -> float:
    """CPU seconds of one process, the system's among them."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {
        name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
    }
    command = [sys.executable, *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=21)
    rounds = parser.parse_args().rounds
    taken = {name: list[float]() for name in PROCESSES}
    for turn in range(rounds + 1):
        for name, arguments in PROCESSES.items():
            seconds = spent_s(arguments)
            if turn:  # the first one may have to write byte code
                taken[name].append(seconds)
    told = {name: statistics.median(each) for name, each in taken.items()}
    for name, seconds in told.items():
        print(
            f"{name:<28}{seconds:7.3f} s {seconds / told['import gymnasium']:6.2f} of import gymnasium "
            f"{seconds / told['python']:6.1f} of python"
        )


if __name__ == "__main__":
    main()
