"""Scenarios that are changed on the command line: `--trace` and its options, and `--served`."""

import argparse
import sys
from typing import TYPE_CHECKING

from rapgym.files.shown import shown

if TYPE_CHECKING:
    from rapgym.scenarios.story import Scenario
    from rapgym.workload.inputs.how import How

OWN_BASE = "laptop"  # whose card and story stand where only a trace is named


def add_pairing(command: argparse.ArgumentParser) -> None:
    """Add all that says how traces are read which are replayed as they are."""
    add_reading(command, "with --trace")
    command.add_argument("--gpu", metavar="I", help="with --trace: which of a file's GPUs")
    command.add_argument(
        "--pair", choices=("start",),
        help="with --trace: requests and memory begin together, whatever their clocks say",
    )  # fmt: skip


def add_reading(command: argparse.ArgumentParser, where: str) -> None:
    """Add the options that say of a file what it does not say itself."""
    command.add_argument(
        "--unit", action="append", metavar="UNIT",
        help=f"{where}: of its times that are numbers (s, ms, us, ns), or of its memory (B, KiB, MiB, GiB), "
        "where the file does not say it; once for each",
    )  # fmt: skip
    zone = command.add_mutually_exclusive_group()
    zone.add_argument(
        "--utc", action="store_const", dest="timezone", const="UTC", help=f"{where}: times without a zone are UTC"
    )  # fmt: skip
    zone.add_argument(
        "--timezone", metavar="NAME",
        help=f"{where}: the zone of times without one, such as Europe/Berlin (this machine's)",
    )  # fmt: skip


def how(arguments: argparse.Namespace) -> "How":
    """What the options of `add_reading`, `--gpu` and `--pair` say.

    Raises:
        InvalidSpec: a unit or a zone is none.
    """
    from rapgym.workload.inputs.how import How

    return How(
        tuple(dict.fromkeys(arguments.unit or ())),
        arguments.timezone or "",
        getattr(arguments, "gpu", None) or "",
        getattr(arguments, "pair", None) or "",
    )


def names(arguments: argparse.Namespace) -> list[str] | None:
    """The names of the scenarios that are asked for, None for all; on own traces, what they are called.

    Raises:
        InvalidSpec: an option has no trace to go with, or a path cannot be in a name.
    """
    from rapgym.errors import InvalidSpec
    from rapgym.scenarios import catalogue

    stated = {
        name: getattr(arguments, name, None) for name in ("requests", "card", "every", "served")
    }
    told = {name: f"{value:g}" if name == "card" else str(value) for name, value in stated.items()
            if value is not None}  # fmt: skip
    told |= how(arguments).told
    if arguments.trace is not None:
        options = {"memory": arguments.trace, **told}
        return [catalogue.name_of(base, options) for base in arguments.scenario or [OWN_BASE]]
    if "served" in told:
        if alone := sorted(told.keys() & catalogue.OF_MEMORY):
            raise InvalidSpec(f"--{alone[0]} needs --trace, a recording of memory")
        return [
            catalogue.name_of(base, told)
            for base in arguments.scenario or [story.name for story in catalogue.by_default()]
        ]
    if told:
        raise InvalidSpec(f"--{next(iter(told))} needs --trace, a recording of memory")
    named: list[str] | None = arguments.scenario
    return named


def tried(stories: "list[Scenario]") -> "list[Scenario]":
    """The scenarios, once the user's traces are read: how each was, and how they are paired, is said.

    Raises:
        DataUnavailable, InvalidTrace: one cannot be read, or they are no world together.
    """
    from rapgym.scenarios import worlds
    from rapgym.scenarios.story import Recorded
    from rapgym.workload import own
    from rapgym.workload.inputs.how import How

    said = set[str]()
    for story in stories:
        if not own.is_own(story.workload):
            continue
        reading = How.of(story.reading)
        lines = own.told_of_requests(story.trace, reading)
        if isinstance(story.tenant, Recorded):
            lines += own.told_of_memory(story.tenant.recording, reading)
        if pairing := worlds.workload(story).origin.get("pairing"):
            lines.append(f"requests and memory are paired: {pairing}")
        for line in lines:
            if line not in said:
                print(shown(line), file=sys.stderr)
            said.add(line)
    return stories
