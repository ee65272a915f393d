"""`rapgym policies`: methods to compare, and the tuning of their free parameters on train."""

import argparse
import json
import sys

from rapgym.cli import COMMANDS, Subparsers, workers


def add(subparsers: Subparsers) -> None:
    """Register `policies list` and `policies tune`."""
    command = subparsers.add_parser(
        "policies",
        help=COMMANDS["policies"],
        description="The methods that bench runs. Name your own as module:Class; docs/policies.md "
        "says which two methods it has.",
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
        description="Tunes with calibration columns, on the whole train split for test, and on its "
        "parts for cross-validation. The settings go into the package, where bench reads them: run "
        "it in a clone, and commit what changed. What was tuned with the same table and workload "
        "is left as it is.",
        epilog="example: rapgym policies tune frontier-margin --scenario chat-beside-code",
    )
    tune.add_argument(
        "name", nargs="*", metavar="NAME", help="all with free parameters unless named"
    )
    tune.add_argument(
        "--scenario",
        action="append",
        metavar="NAME",
        help="or a .toml file; all but those of days unless named",
    )
    tune.add_argument("--again", action="store_true", help="also what is tuned already")
    workers.add_options(tune)
    tune.add_argument("--quiet", action="store_true", help="no progress line")
    tune.set_defaults(run=_tune)


def _list(arguments: argparse.Namespace) -> int:
    from rapgym.bench import entrants

    rows = [
        {"name": e.name, "kind": e.kind, "target": e.target, "summary": e.summary}
        for e in entrants.every()
    ]
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return 0
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        print(f"{row['name']:<{width}} {row['kind']:<10} {row['summary']}")
    return 0


def _tune(arguments: argparse.Namespace) -> int:
    from rapgym.jobs.progress import Progress
    from rapgym.policies import registry, tuning
    from rapgym.scenarios import catalogue

    stories = catalogue.named(arguments.scenario)
    entries = [registry.entry(name) for name in arguments.name] or list(registry.POLICIES)
    work = tuning.tasks(entries, stories, again=arguments.again)
    jobs, ray = workers.chosen(arguments)
    faults = 0
    efforts = tuning.efforts(work)
    with Progress("tune", sum(efforts.values()), quiet=arguments.quiet) as progress:
        for found in tuning.tune(work, jobs=jobs, ray=ray):
            where = f"{found.policy:<20} {found.scenario:<26}"
            faults += bool(found.fault)
            print(
                f"{where} {found.fault or json.dumps(found.settings)}",
                file=sys.stderr if found.fault else sys.stdout,
                flush=True,
            )
            progress.advance(
                efforts[found.policy, found.scenario], note=f"{found.policy} on {found.scenario}"
            )
    if not work:
        print("nothing to tune; --again does it once more")
    return 2 if faults else 0
