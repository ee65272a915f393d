"""`rapgym map`: over cards and loads, what is cheapest, and whether run-time pruning is worth it."""

import argparse
import json
import os
import sys
from pathlib import Path

from rapgym.cli import Subparsers, own_traces, workers
from rapgym.cli import report as cli_report
from rapgym.files.shown import shown


def add(subparsers: Subparsers) -> None:
    """Register `map`."""
    command = subparsers.add_parser(
        "map",
        help="is it worth it: what is cheapest on which card, under which load",
        description="Plays everything that could be done on a card, over cards and loads around a scenario: "
        "not pruning in each format, one smaller set of blocks for good, and blocks dropped at run time in 16, 8 "
        "and 4 bits. Says who is cheapest, by how much, and whether held-out rows show it. A run that was "
        "stopped goes on where it stopped.",
        epilog="example: rapgym map chat; your own: rapgym map --requests log.jsonl --memory smi.csv "
        "--served llama3-8b --card 40 --out map.html",
    )
    command.add_argument(
        "scenario", nargs="?", metavar="SCENARIO",
        help="a name, or the path of a .toml file; with traces of your own what stands where they say nothing "
        f"({own_traces.OWN_BASE})",
    )  # fmt: skip
    own_traces.add_deployment(command)
    command.add_argument(
        "--cards", type=_numbers, metavar="GIB,GIB,...", help="7 from half the card to twice it unless stated"
    )  # fmt: skip
    command.add_argument(
        "--loads", type=_numbers, metavar="X,X,...",
        help="times the requests there are; 8 from 0.25 to 3 unless stated",
    )  # fmt: skip
    command.add_argument(
        "--train-only", action="store_true", help="open no held-out row: costs on train, and no verdicts"
    )  # fmt: skip
    command.add_argument("--out", type=Path, metavar="FILE.html", help="write the map as a page")
    command.add_argument("--force", action="store_true", help="overwrite the file of --out")
    workers.add_options(command)
    command.add_argument("--json", action="store_true", help="print JSON")
    command.add_argument("--quiet", action="store_true", help="no progress line")
    command.set_defaults(run=run)


def _numbers(text: str) -> list[float]:
    """An argparse type: numbers above 0, with commas between."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(0 < each < float("inf") for each in found):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no list of numbers above 0, such as 24,40,80"
        )
    return found


def run(arguments: argparse.Namespace) -> int:
    from rapgym.report import worth as worth_report
    from rapgym.scenarios import catalogue
    from rapgym.worth import sweep as worth_sweep

    if arguments.out:
        cli_report.checked_out(arguments.out, force=arguments.force)
    arguments.scenario = [arguments.scenario] if arguments.scenario else None
    names = own_traces.names(arguments, maps=True)
    (story,) = own_traces.tried(catalogue.named(names or [own_traces.OWN_BASE]))
    if not arguments.json:
        said = [f"{story.id}: {story.story}", worth_report.about(story)]
        print(worth_report.wrapped([shown(line) for line in said]))
    jobs, ray = workers.chosen(arguments)
    found = worth_sweep.sweep(
        story,
        arguments.cards,
        arguments.loads,
        held_out=not arguments.train_only,
        jobs=jobs,
        ray=ray,
        quiet=arguments.quiet,
    )
    if arguments.json:
        print(
            json.dumps(found.as_json() | {"verdict": worth_report.sentences(found.own)}, indent=1)
        )
    else:
        colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        print()
        print(worth_report.text(found, colour=colour))
    if arguments.out:
        from rapgym.report import page as report_page
        from rapgym.report import worth_page

        size = report_page.written(worth_page.page(found), arguments.out)
        if not arguments.json:
            cli_report.say(arguments.out, size)
    return 0
