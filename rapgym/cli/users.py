"""Options of commands that run a user's `module:Class`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rapgym.guard.foreign import Terms


def add_options(command: argparse.ArgumentParser, *, watched: bool = True) -> None:
    """Add them to a command.

    Args:
        watched: deadline and watchdog too.
    """
    command.add_argument(
        "--in-process",
        action="store_true",
        help="run a module:Class where its rows are played, not in a process of its own that cannot "
        "read rows, columns and results; every output says so",
    )
    command.add_argument(
        "--policy-reads",
        action="append",
        type=Path,
        metavar="PATH",
        help="a file or folder that a module:Class may read beside modules, such as its weights",
    )
    command.add_argument(
        "--trust",
        action="store_true",
        help="read a sb3:FILE.zip, which holds pickles: they run whatever they say",
    )
    if watched:
        command.add_argument(
            "--deadline-ms",
            type=above_zero,
            metavar="MS",
            help="of a module:Class: a later answer is replaced by the reference policy's proposal",
        )
        command.add_argument(
            "--watchdog",
            action="store_true",
            help="of a module:Class: the watchdog stands above it",
        )


def terms(arguments: argparse.Namespace) -> "Terms":
    """On which terms a user's policy is run.

    Raises:
        InvalidSpec: a path that it shall read is not there.
    """
    from rapgym.errors import InvalidSpec
    from rapgym.guard.foreign import Terms

    reads = arguments.policy_reads or []
    for path in reads:
        if not path.exists():
            raise InvalidSpec(f"--policy-reads {path}: there is no such file or folder")
    return Terms(
        in_process=arguments.in_process,
        deadline_ms=getattr(arguments, "deadline_ms", None),
        watchdog=getattr(arguments, "watchdog", False),
        # A user's module lies in the folder where the command is typed.
        folders=(str(Path.cwd()),),
        reads=tuple(str(path.absolute()) for path in reads),
        trust=arguments.trust,
    )


def above_zero(text: str) -> float:
    """An argparse type: a finite number above 0."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no number above 0")
    return number
