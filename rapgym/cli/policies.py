"""`rapgym policies`: methods to compare, and the tuning of their free parameters on train."""

import argparse
import json

from rapgym.cli import Subparsers


def add(subparsers: Subparsers) -> None:
    """Register `policies list` and `policies tune`."""
    command = subparsers.add_parser(
        "policies",
        help="methods to compare; tune their free parameters",
        description="The methods that bench runs. Your own is named as module:Class; see the "
        "README for its two methods.",
        epilog="example: rapgym policies list",
    )
    actions = command.add_subparsers(metavar="ACTION", required=True)
    listing = actions.add_parser(
        "list", help="what there is", epilog="example: rapgym policies list --json"
    )
    listing.add_argument("--json", action="store_true", help="print JSON")
    listing.set_defaults(run=_list)
    tune = actions.add_parser(
        "tune",
        help="find free parameters on the train split",
        description="Tunes on the train split with calibration columns, and writes the settings "
        "that bench uses into the package: run it in a clone, and commit what changed.",
        epilog="example: rapgym policies tune frontier-margin --scenario chat-beside-code",
    )
    tune.add_argument(
        "name", nargs="*", metavar="NAME", help="all with free parameters unless named"
    )
    tune.add_argument("--scenario", action="append", metavar="NAME", help="all unless named")
    tune.set_defaults(run=_tune)


def _list(arguments: argparse.Namespace) -> int:
    from rapgym.policies import registry

    if arguments.json:
        rows = [
            {"name": e.name, "kind": e.kind, "target": e.target, "summary": e.summary}
            for e in registry.POLICIES
        ]
        print(json.dumps(rows, indent=2))
        return 0
    for entry in registry.POLICIES:
        print(f"{entry.name:<16} {entry.kind:<10} {entry.summary}")
    return 0


def _tune(arguments: argparse.Namespace) -> int:
    from rapgym.policies import registry, tuning
    from rapgym.scenario import SCENARIOS, scenario

    stories = [scenario(name) for name in arguments.scenario or [s.name for s in SCENARIOS]]
    entries = [registry.entry(name) for name in arguments.name] or [
        entry for entry in registry.POLICIES if entry.tune
    ]
    for found in tuning.tune(entries, stories):
        print(f"{found.policy:<16} {found.scenario:<24} {found.settings}")
    return 0
