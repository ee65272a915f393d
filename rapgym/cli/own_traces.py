"""Scenarios that are changed on the command line: traces, model, card and link of the user's own."""

import argparse
import sys
from typing import TYPE_CHECKING

from rapgym.cli import at_least
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


# Of a deployment: what is said of it on the command line, by what a scenario's name calls it.
DEPLOYED = {
    "requests": "requests", "card": "card", "every": "every", "served": "served", "format": "format",
    "restore_s": "restore", "link": "link", "reaction_s": "reaction", "window": "window",
    "tenant_gib": "tenant", "profile": "profile",
}  # fmt: skip


def add_deployment(command: argparse.ArgumentParser) -> None:
    """Add all that says of a deployment what a scenario would: model, card, link, traffic, who else."""
    command.add_argument(
        "--served", metavar="MODEL",
        help="serve another model: a shape by name or the path of a config.json",
    )  # fmt: skip
    command.add_argument(
        "--format", metavar="WEIGHTS/KV",
        help="in which it lies on the card: bf16/bf16, int8/bf16, int4/bf16, bf16/int8, int8/int8, int4/int8",
    )  # fmt: skip
    command.add_argument(
        "--card", type=positive_number, metavar="GIB", help="all memory there is, GiB"
    )
    link = command.add_mutually_exclusive_group()
    link.add_argument(
        "--restore-s", type=positive_number, metavar="S",
        help="seconds that the host link takes to bring every block back",
    )  # fmt: skip
    link.add_argument(
        "--link",
        type=positive_number,
        metavar="GB/S",
        help="instead: what the host link brings a second",
    )
    command.add_argument(
        "--reaction-s", type=float, metavar="S",
        help="seconds for which serving pauses while blocks leave after memory was taken",
    )  # fmt: skip
    command.add_argument(
        "--window", type=at_least(1, 999), metavar="S",
        help="seconds of a row; how long a request stays, weighted by its tokens, unless stated",
    )  # fmt: skip
    command.add_argument(
        "--profile", metavar="NAME", help="what a device adds: a device profile by name or file"
    )
    command.add_argument(
        "--trace", "--memory", dest="trace", metavar="FILE",
        help="a recording of memory (see rapgym record), or what nvidia-smi or DCGM wrote: it takes the "
        f"tenant's place in the scenarios named, {OWN_BASE} unless named",
    )  # fmt: skip
    command.add_argument(
        "--tenant-gib", metavar="GIB",
        help="instead: GiB that others hold all the time, or none",
    )  # fmt: skip
    command.add_argument(
        "--requests", metavar="FILE",
        help="with --trace or --tenant-gib: serve these requests, all of them, instead of the scenario's; a "
        "trace, or a log as rapgym record --access-log reads them",
    )  # fmt: skip
    command.add_argument(
        "--every", type=at_least(1), metavar="K",
        help="with --trace or --tenant-gib: every K-th request only",
    )  # fmt: skip
    add_pairing(command)


def positive_number(text: str) -> float:
    """An argparse type: a number above 0."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def told(arguments: argparse.Namespace) -> dict[str, str]:
    """What the options of `add_deployment`, as far as a command has them, say of a scenario.

    Raises:
        InvalidSpec: two of them contradict each other, or a unit or a zone is none.
    """
    from rapgym.errors import InvalidSpec

    values = {key: getattr(arguments, name, None) for name, key in DEPLOYED.items()}
    found = {
        key: repr(value).removesuffix(".0") if isinstance(value, float) else str(value)
        for key, value in values.items()
        if value is not None
    }
    if (memory := getattr(arguments, "trace", None)) is not None:
        if "tenant" in found:
            raise InvalidSpec(
                "--tenant-gib says what others hold all the time, --trace what they held: leave one of them out"
            )
        found = {"memory": memory} | found
    return found | how(arguments).told


def names(arguments: argparse.Namespace, *, maps: bool = False) -> list[str] | None:
    """The names of the scenarios that are asked for, None for all; on own traces, what they are called.

    Args:
        maps: for `rapgym map`: a card may stand alone, and requests without a word on who else is on the
            card have it for themselves.

    Raises:
        InvalidSpec: an option has no trace to go with, or a path cannot be in a name.
    """
    from rapgym.errors import InvalidSpec
    from rapgym.scenarios import catalogue, changed
    from rapgym.workload.inputs import how as inputs_how

    found, others = told(arguments), {"memory", "tenant"}
    if maps and "requests" in found and not others & {*found}:
        found["tenant"] = changed.ALONE
    if not others & {*found}:
        traffic = [key for key in found if key in {*changed.OF_TRAFFIC, *inputs_how.OPTIONS}]
        alone = ["card"] if [*found] == ["card"] and not maps else []
        if needing := [*traffic, *alone]:
            raise InvalidSpec(
                f"--{needing[0]} needs --trace, a recording of memory, or --tenant-gib none where nobody else "
                "is on the card"
            )
    stated: list[str] | None = arguments.scenario
    if not found:
        return stated
    if not stated and not maps and not others & {*found}:
        stated = [story.name for story in catalogue.by_default()]
    return [changed.name_of(base, found) for base in stated or [OWN_BASE]]


def tried(stories: "list[Scenario]") -> "list[Scenario]":
    """The scenarios, once the user's traces are read: how each was, and how they are paired, is said.

    Raises:
        DataUnavailable, InvalidTrace: one cannot be read, or they are no world together.
    """
    from rapgym.scenarios import worlds
    from rapgym.scenarios.story import Recorded
    from rapgym.workload import names, own
    from rapgym.workload.inputs.how import How

    said = set[str]()
    for story in stories:
        if not names.is_own(story.workload):
            continue
        reading = How.of(story.reading)
        lines = own.told_of_requests(story.trace, reading)
        if isinstance(story.tenant, Recorded):
            lines += own.told_of_memory(story.tenant.recording, reading)
        made = worlds.workload(story)
        if pairing := made.origin.get("pairing"):
            lines.append(f"requests and memory are paired: {pairing}")
        suits_s = None
        if names.is_path(story.trace):
            suits_s = own.window_s(story.trace, story.every, reading)
        lines.append(own.told_of_rows(made, suits_s, story.splits))
        for line in lines:
            if line not in said:
                print(shown(line), file=sys.stderr)
            said.add(line)
    return stories
