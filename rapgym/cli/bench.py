"""`rapgym bench`: every policy on every scenario's test split."""

import argparse
import json
import os
import sys
from itertools import count
from pathlib import Path

from rapgym.cli import COMMANDS, Subparsers, at_least, own_traces, serving, users, workers
from rapgym.cli import report as cli_report
from rapgym.errors import InvalidSpec
from rapgym.files.shown import shown, shown_lines

DEFAULT_OUT = Path("results/bench.csv.gz")


def add(subparsers: Subparsers) -> None:
    """Register `bench`."""
    command = subparsers.add_parser(
        "bench",
        help=COMMANDS["bench"],
        description="Runs policies on the test splits of scenarios, prints scores with intervals, "
        "and writes a results file that can be run again. A run that was stopped goes on where it "
        "stopped.",
        epilog="example: rapgym bench --scenario chat-beside-code --policy frontier-margin; your "
        "own: rapgym bench --policy my_module:MyPolicy; your own scenario: rapgym bench --scenario "
        "my.toml; your own traces: rapgym bench --trace "
        "memory.csv.gz --requests requests.csv.gz --card 80 --policy frontier-margin",
    )
    command.add_argument(
        "--scenario",
        action="append",
        metavar="NAME",
        help="of a scenario, or the path of a .toml file (see rapgym scenarios new); all but those of days "
        "unless named. Those of the serving engine (serve-...) are run by themselves",
    )
    own_traces.add_deployment(command)
    command.add_argument(
        "--policy",
        action="append",
        metavar="NAME",
        help="of a policy or a rival, or module:Class, or sb3:FILE.zip of Stable-Baselines3 (see --trust); all unless named",
    )
    command.add_argument(
        "--seeds", type=at_least(1, 1000), default=1, metavar="N", help="seeds 0 to N - 1 (1)"
    )
    command.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help=f"default: {DEFAULT_OUT}, or the next of {_numbered(1).name}, {_numbered(2).name}, ... "
        "that is free",
    )
    command.add_argument(
        "--force", action="store_true", help="overwrite the files of --out and --report"
    )
    command.add_argument(
        "--report", type=Path, metavar="FILE.html", help="write the report of rapgym report too"
    )
    command.add_argument(
        "--no-search",
        action="store_true",
        help="of serving scenarios (serve-...): leave out the searches that know the future, which take "
        "longest; there is no gain and no foresight then",
    )
    users.add_options(command)
    workers.add_options(command)
    command.add_argument(
        "--wide",
        action="store_true",
        help="print every column and the rankings at other values of C; of serving scenarios percentiles of TTFT, "
        "TPOT and end to end, and service levels",
    )
    command.add_argument(
        "--top", type=at_least(1), metavar="N", help="print the N of each scenario that cost least"
    )
    command.add_argument("--json", action="store_true", help="print the entries as JSON")
    command.add_argument("--quiet", action="store_true", help="no progress line")
    command.set_defaults(run=run)


def _numbered(number: int) -> Path:
    """The default file, numbered from the second on."""
    stem, dot, ending = DEFAULT_OUT.name.partition(".")
    return DEFAULT_OUT.with_name(f"{stem}-{number}{dot}{ending}") if number else DEFAULT_OUT


def _out(arguments: argparse.Namespace) -> Path:
    """Where results go: nothing that is there is overwritten unasked."""
    from rapgym.files import writing

    if arguments.out is None:
        return next(path for path in map(_numbered, count()) if not os.path.lexists(path))
    writing.refuse_existing(arguments.out, "--out", force=arguments.force)
    return Path(arguments.out)


def run(arguments: argparse.Namespace) -> int:
    from rapgym.bench import run as bench_run
    from rapgym.bench import scoreboard
    from rapgym.report import bench as bench_report
    from rapgym.report import terminal
    from rapgym.report import worth as worth_report
    from rapgym.scenarios import catalogue
    from rapgym.worth import point as worth_point

    out = _out(arguments)
    if serving.asked_for(arguments):
        return serving.bench(arguments, out)
    if arguments.no_search:
        raise InvalidSpec("--no-search is of serving scenarios alone")
    if arguments.report:
        cli_report.checked_out(arguments.report, "--report", force=arguments.force)
    terms = users.terms(arguments)
    stories = catalogue.named(own_traces.names(arguments))
    own_traces.tried(stories)
    deployed = [story for story in stories if story.is_own and not story.is_drawn]
    if not arguments.json:
        for line in dict.fromkeys(map(worth_report.about, deployed)):
            print(shown(line))
    names, untrained = bench_run.runnable(stories, arguments.policy)
    if untrained:
        print(
            f"left out, for no trained policies of theirs are here: {', '.join(untrained)} (see rapgym "
            "train)",
            file=sys.stderr,
        )
    seeds = range(arguments.seeds)
    jobs, ray = workers.chosen(arguments)
    found = bench_run.run(
        stories,
        names,
        out,
        seeds=seeds,
        jobs=jobs,
        ray=ray,
        summary=scoreboard.summed_up,
        quiet=arguments.quiet,
        terms=terms,
    )
    if warning := bench_report.warnings(found.scores):
        print(shown_lines(warning), file=sys.stderr)
    if arguments.json:
        print(json.dumps([entry.as_json() for entry in found.scores], indent=2))
    else:
        print(
            terminal.table(
                found.scores,
                wide=arguments.wide,
                top=arguments.top,
                colour=terminal.is_coloured(),
            )
        )
        if arguments.wide:
            print()
            print(shown_lines(bench_report.ranking_lines(found.header["rankings"])))
        for story in deployed:
            print(f"\n{shown(story.name)}: is run-time pruning worth it?")
            print(worth_report.wrapped(worth_report.sentences(worth_point.played(story))))
        print(f"\nwrote {out}; check it with: rapgym verify {out}")
    if arguments.report:
        cli_report.of_results(found, out, arguments.report, told=not arguments.json)
    if not arguments.json:
        print(f"\n{terminal.sentences(found.scores)}")
    bench_run.check(found)
    return 0
