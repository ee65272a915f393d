"""The command line: arguments in, one call, exit code out.

Each command is a module of this package with `add(subparsers)`, which registers its parser and sets
`run`, a function of the parsed arguments that returns the exit code. Importing a command's module
loads nothing heavy: what a command works with is imported inside `run`.

Exit codes: 0 done; 1 a result that does not hold; 2 wrong use, or something is missing that the
message names; 130 interrupted, by Ctrl-C; 141 nobody reads the output any more; 143 ended by SIGTERM.
"""

import argparse
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Collection, Sequence
from typing import TypeAlias

from rapgym.errors import InvalidResult, MissingExtra, RapgymError
from rapgym.files.shown import shown_lines
from rapgym.jobs import ending

# What each does, in the order of `rapgym --help`. A command is added here and in a module of the same name.
COMMANDS = {
    "bench": "run policies on scenarios and print their scores",
    "map": "is it worth it: what is cheapest on which card, under which load",
    "scenarios": "physical stories and their numbers",
    "policies": "methods to compare; tune their free parameters",
    "tables": "measured quality tables",
    "traces": "recorded workloads; download them",
    "record": "record memory in use, or requests, into a trace of your own",
    "models": "known models; download their weights",
    "texts": "texts to measure quality on; download them",
    "measure": "measure a model's quality table",
    "train": "train a policy that learns",
    "validate": "replay rows on a live model: predicted against measured",
    "profile": "fit a serving profile to a recorded run",
    "verify": "replay and re-score a results file or a submission, or replay an audit log",
    "submit": "pack a policy of yours and its rows for the leaderboard",
    "report": "one HTML page of a results file, an audit log, or a stretch of serving",
    "audit": "explain and verify the log of every decision",
    "doctor": "check this installation",
}

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def parser(asked: Collection[str] = tuple(COMMANDS)) -> argparse.ArgumentParser:
    """The parser of the command line.

    Args:
        asked: commands whose arguments it knows; of all others it knows the name and what they do.
    """
    from rapgym import __version__

    whole = argparse.ArgumentParser(
        prog="rapgym",
        description="Which blocks of a language model stay in memory, decided at run time: "
        "replay real workloads against measured quality tables.",
    )
    whole.add_argument("--version", action="version", version=f"rapgym {__version__}")
    subparsers = whole.add_subparsers(metavar="COMMAND", required=True, title="commands")
    for command, does in COMMANDS.items():
        if command in asked:
            importlib.import_module(f"rapgym.cli.{command}").add(subparsers)
        else:
            subparsers.add_parser(command, help=does)
    return whole


def require(extra: str, *modules: str) -> None:
    """Check that the modules of an optional dependency can be found, without importing them.

    Raises:
        MissingExtra: one cannot; the message says what to install.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise MissingExtra(f"{module} is not installed; run: pip install 'rapgym[{extra}]'")


def at_least(floor: int, most: int = sys.maxsize) -> Callable[[str], int]:
    """An argparse type: a whole number from `floor` to `most`."""

    def count(text: str) -> int:
        number = int(text)
        if number < floor:
            raise argparse.ArgumentTypeError(f"{number} is less than {floor}")
        if number > most:
            raise argparse.ArgumentTypeError(f"{number} is more than {most}")
        return number

    return count


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; argparse itself exits with 2 on wrong arguments."""
    try:
        with ending.told():
            words = sys.argv[1:] if argv is None else argv
            arguments = parser(words[:1]).parse_args(words)
            code: int = arguments.run(arguments)
            sys.stdout.flush()
    except RapgymError as error:
        print(f"rapgym: {shown_lines(error)}", file=sys.stderr)
        return 1 if isinstance(error, InvalidResult) else 2
    except BrokenPipeError:
        # The reader of our output left, as `| head` does. Python flushes stdout once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        print(f"rapgym: {shown_lines(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        ended = isinstance(stop, ending.Terminated)
        print(f"rapgym: {'ended by SIGTERM' if ended else 'interrupted'}", file=sys.stderr)
        return 143 if ended else 130
    return code
