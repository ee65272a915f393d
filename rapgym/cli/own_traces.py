"""Scenarios that are changed on the command line: `--trace` and its options, and `--served`."""

import argparse

OWN_BASE = "laptop"  # whose card and story stand where only a trace is named


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
