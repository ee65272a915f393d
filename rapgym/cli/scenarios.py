"""`rapgym scenarios`: the stories, their numbers, and the series made from raw traces."""

import argparse
import json
from typing import Any

from rapgym.cli import Subparsers


def add(subparsers: Subparsers) -> None:
    """Register `scenarios list | show | check | build`."""
    command = subparsers.add_parser(
        "scenarios",
        help="physical stories and their numbers",
        description="What is served on which card beside whom, and the numbers that follow.",
        epilog="example: rapgym scenarios show chat-beside-code",
    )
    actions = command.add_subparsers(metavar="ACTION", required=True)
    listing = actions.add_parser(
        "list", help="what there is", epilog="example: rapgym scenarios list --json"
    )
    listing.add_argument("--json", action="store_true", help="print JSON")
    listing.set_defaults(run=_list)
    show = actions.add_parser(
        "show", help="one in full", epilog="example: rapgym scenarios show chat-beside-code"
    )
    show.add_argument("name", metavar="NAME")
    show.add_argument("--json", action="store_true", help="print JSON")
    show.set_defaults(run=_show)
    check = actions.add_parser(
        "check",
        help="refuse one that is too easy or too hard, by its train split",
        epilog="example: rapgym scenarios check chat-beside-code",
    )
    check.add_argument("name", nargs="*", metavar="NAME", help="all unless named")
    check.set_defaults(run=_check)
    build = actions.add_parser(
        "build",
        help="make the series under traces/ from raw traces",
        description="Needs the raw traces: see rapgym traces.",
        epilog="example: RAPGYM_DATA=/path/to/mirror rapgym scenarios build chat-beside-code",
    )
    build.add_argument("name", nargs="*", metavar="NAME", help="all unless named")
    build.set_defaults(run=_build)


def _list(arguments: argparse.Namespace) -> int:
    from rapgym.scenario import SCENARIOS

    if arguments.json:
        print(json.dumps([{"id": s.id, "story": s.story} for s in SCENARIOS], indent=2))
        return 0
    for story in SCENARIOS:
        print(f"{story.name:<20} {story.story}")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from rapgym.scenario import scenario
    from rapgym.suitability import numbers

    story = scenario(arguments.name)
    found: dict[str, Any] = numbers(story)
    if arguments.json:
        print(json.dumps(found, indent=2))
        return 0
    print(f"{story.id}: {story.story}")
    for name, value in found.items():
        print(f"  {name.replace('_', ' '):<34} {value}")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from rapgym.scenario import SCENARIOS, scenario
    from rapgym.suitability import check

    for name in arguments.name or [story.name for story in SCENARIOS]:
        print(f"{name}: {check(scenario(name))}")
    return 0


def _build(arguments: argparse.Namespace) -> int:
    from rapgym import series, workloads
    from rapgym.scenario import SCENARIOS, scenario

    stories = [scenario(name) for name in arguments.name] or list(SCENARIOS)
    for story in {story.workload: story for story in stories}.values():
        path = series.FOLDER / f"{story.workload}.csv.gz"
        series.write(workloads.build(story), path)
        print(path.name)
    return 0
