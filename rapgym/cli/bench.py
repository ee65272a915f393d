"""`rapgym bench`: every policy on every scenario's test split."""

import argparse
import json
import sys
from pathlib import Path

from rapgym.cli import Subparsers, at_least

DEFAULT_OUT = Path("results/bench.csv.gz")


def add(subparsers: Subparsers) -> None:
    """Register `bench`."""
    command = subparsers.add_parser(
        "bench",
        help="run policies on scenarios and print their scores",
        description="Runs policies on the test splits of scenarios, prints scores with intervals, "
        "and writes a results file that can be run again. A run that was stopped goes on where it "
        "stopped.",
        epilog="example: rapgym bench --scenario chat-beside-code --policy frontier-margin; your "
        "own: rapgym bench --policy my_module:MyPolicy",
    )
    command.add_argument("--scenario", action="append", metavar="NAME", help="all unless named")
    command.add_argument(
        "--policy",
        action="append",
        metavar="NAME",
        help="of a policy or a rival, or module:Class; all unless named",
    )
    command.add_argument(
        "--seeds", type=at_least(1, 1000), default=1, metavar="N", help="seeds 0 to N - 1 (1)"
    )
    command.add_argument(
        "--out", type=Path, default=DEFAULT_OUT, metavar="FILE", help=f"default: {DEFAULT_OUT}"
    )
    command.add_argument(
        "--jobs",
        type=at_least(1, 1024),
        metavar="N",
        help="processes side by side (one a processor)",
    )
    command.add_argument("--json", action="store_true", help="print the entries as JSON")
    command.add_argument("--quiet", action="store_true", help="no progress line")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from rapgym import bench, parallel, report, rivals, scoreboard
    from rapgym.policies import registry
    from rapgym.scenario import SCENARIOS, scenario

    if any(":" in name for name in arguments.policy or []):
        sys.path.insert(0, "")  # a user's module lies in the folder where the command is typed
    stories = [scenario(name) for name in arguments.scenario or [s.name for s in SCENARIOS]]
    names = arguments.policy or [
        *(entry.name for entry in registry.POLICIES),
        *(rival.name for rival in rivals.RIVALS),
    ]
    seeds = range(arguments.seeds)
    found = bench.run(
        stories,
        names,
        arguments.out,
        seeds=seeds,
        jobs=arguments.jobs or parallel.processors(),
        summary=scoreboard.summary,
        quiet=arguments.quiet,
    )
    entries, rankings = found.header["entries"], found.header["rankings"]
    if arguments.json:
        print(json.dumps(entries, indent=2))
        return 0
    if warning := report.warnings(entries):
        print(warning, file=sys.stderr)
    print(report.table(entries))
    print()
    print(report.ranking_lines(rankings))
    print(f"\nwrote {arguments.out}; check it with: rapgym verify {arguments.out}")
    return 0
