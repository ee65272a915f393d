"""`rapgym map`: over cards and loads, what is cheapest, and whether run-time pruning is worth it."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rapgym.cli import COMMANDS, Subparsers, own_traces, workers
from rapgym.cli import report as cli_report
from rapgym.files.shown import shown

if TYPE_CHECKING:
    from rapgym.worth.axes import Axis, Story


def add(subparsers: Subparsers) -> None:
    """Register `map`."""
    command = subparsers.add_parser(
        "map",
        help=COMMANDS["map"],
        description="Plays everything that could be done on a card, over cards and loads around a scenario, or over "
        "how fast blocks come back and the format on the card: "
        "not pruning in each format, one smaller set of blocks for good, and blocks dropped at run time in 16, 8 "
        "and 4 bits. Of a serving scenario: the engine of today, counts for good, and rules that drop blocks, tuned "
        "on train at each point, which takes minutes. Says who is cheapest, by how much, and whether held-out rows "
        "show it. A run that was stopped goes on where it stopped.",
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
        "--over", type=_two, default="card,load", metavar="A,B",
        help="two of card, load, restore (seconds until all blocks are back) and format (the only one on the "
        "card), from left to right and line by line (card,load)",
    )  # fmt: skip
    command.add_argument(
        "--cards", type=_numbers, metavar="GIB,GIB,...", help="7 from half the card to twice it unless stated; of a serving scenario 5"
    )  # fmt: skip
    command.add_argument(
        "--loads", type=_numbers, metavar="X,X,...",
        help="times the requests there are; 8 from 0.25 to 3 unless stated; of a serving scenario as one of 1, 2, "
        "3 replicas",
    )  # fmt: skip
    command.add_argument(
        "--restores", type=_numbers, metavar="S,S,...", help="5 from a tenth of the scenario's to ten times it"
    )  # fmt: skip
    command.add_argument(
        "--formats", type=_names, metavar="NAME,NAME,...",
        help="bf16, int8-int8-kv and int4-int8-kv unless stated; also int8, int4, int8-kv",
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


def _names(text: str) -> list[str]:
    """An argparse type: words with commas between."""
    return [part.strip() for part in text.split(",")]


def _two(text: str) -> list[str]:
    """An argparse type: two different axes."""
    names = _names(text)
    if len(names) != 2 or names[0] == names[1] or {*names} - {*VALUES}:
        raise argparse.ArgumentTypeError(
            f"{text!r} names no two different of {', '.join(VALUES)}, such as card,restore"
        )
    return names


# By axis: the option that states its values.
VALUES = {"card": "cards", "load": "loads", "restore": "restores", "format": "formats"}


def _axes(arguments: argparse.Namespace, story: "Story") -> "list[Axis]":
    """The two axes that are asked for.

    Raises:
        InvalidSpec: values are stated of another axis, or cannot be.
    """
    from rapgym.errors import InvalidSpec
    from rapgym.worth import axes

    for name, option in VALUES.items():
        if getattr(arguments, option) and name not in arguments.over:
            raise InvalidSpec(
                f"--{option} states values of an axis that the map is not over: add --over {name},"
                f"{'load' if name == 'card' else 'card'}"
            )
    return [axes.axis(story, name, getattr(arguments, VALUES[name])) for name in arguments.over]


def _story(arguments: argparse.Namespace) -> "Story":
    """The scenario that is asked for; on own traces, tried."""
    from rapgym.errors import InvalidSpec
    from rapgym.scenarios import catalogue, serving

    if arguments.scenario and serving.is_named(arguments.scenario):
        if own_traces.told(arguments):
            raise InvalidSpec(
                f"{arguments.scenario} is a serving scenario: state what is other in a file with base = a scenario "
                "of windows (see docs/serving.md)"
            )
        return serving.story_of(arguments.scenario)
    arguments.scenario = [arguments.scenario] if arguments.scenario else None
    names = own_traces.names(arguments, maps=True)
    (story,) = own_traces.tried(catalogue.named(names or [own_traces.OWN_BASE]))
    return story


def run(arguments: argparse.Namespace) -> int:
    from rapgym.report import worth as worth_report
    from rapgym.worth import sweep as worth_sweep

    if arguments.out:
        cli_report.checked_out(arguments.out, force=arguments.force)
    story = _story(arguments)
    x, y = _axes(arguments, story)
    if not arguments.json:
        changed = "[" in story.name  # whose name is long, and says what the story says
        title = story.story if changed else f"{story.id}: {story.story}"
        said = [title, worth_report.about(story)]
        print(worth_report.wrapped([shown(line) for line in said]))
    jobs, ray = workers.chosen(arguments)
    found = worth_sweep.sweep(
        story,
        x,
        y,
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
