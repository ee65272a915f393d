"""`rapgym scenarios`: the stories, their numbers, their load, and the series made from raw traces."""

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

from rapgym.cli import COMMANDS, Subparsers, own_traces
from rapgym.files import places
from rapgym.files.shown import shown_lines

LIKE = "chat-beside-code"  # what a new file starts from


def add(subparsers: Subparsers) -> None:
    """Register `scenarios list | show | new | check | load | build`."""
    command = subparsers.add_parser(
        "scenarios",
        help=COMMANDS["scenarios"],
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
    show.add_argument("name", metavar="NAME", help="of a scenario, or the path of a .toml file")
    show.add_argument(
        "--served", metavar="MODEL", help="another model served: a shape, or a config.json"
    )
    show.add_argument("--json", action="store_true", help="print JSON")
    show.set_defaults(run=_show)
    new = actions.add_parser(
        "new",
        help="write a file of your own",
        description="Writes the numbers of a scenario with what each means, to be changed. Whatever takes "
        "the name of a scenario takes the file. What is said of a deployment stands in it.",
        epilog="example: rapgym scenarios new my.toml --like chat-beside-code; your own: rapgym scenarios "
        "new my.toml --requests log.jsonl --memory smi.csv --served config.json --card 40",
    )
    new.add_argument("file", type=Path, metavar="FILE", help="its name ends in .toml")
    new.add_argument(
        "--like",
        metavar="NAME",
        help=f"start from this one ({LIKE}; for a deployment of your own {own_traces.OWN_BASE}, as rapgym map does)",
    )
    own_traces.add_deployment(new)
    new.add_argument("--force", action="store_true", help="overwrite a file that is there")
    new.set_defaults(run=_new)
    check = actions.add_parser(
        "check",
        help="refuse one that is too easy or too hard, by its train split",
        epilog="example: rapgym scenarios check chat-beside-code",
    )
    check.add_argument("name", nargs="*", metavar="NAME", help="all but those of days unless named")
    check.set_defaults(run=_check)
    load = actions.add_parser(
        "load",
        help="how train and test differ in load",
        description="For readers: it looks at test, so nothing may be chosen by it.",
        epilog="example: rapgym scenarios load chat-beside-code",
    )
    load.add_argument("name", nargs="*", metavar="NAME", help="all but those of days unless named")
    load.add_argument("--json", action="store_true", help="print JSON")
    load.set_defaults(run=_load)
    build = actions.add_parser(
        "build",
        help="make the series under traces/ from raw traces, or draw a long one",
        description="Series of an hour need the raw traces: see rapgym traces. Long ones are drawn into "
        "the cache from statistics that come with rapgym; the sha256 that the scenario should state is printed.",
        epilog="example: RAPGYM_DATA=/path/to/mirror rapgym scenarios build chat-beside-code",
    )
    build.add_argument("name", nargs="*", metavar="NAME", help="all series of an hour unless named")
    build.add_argument(
        "--statistics",
        action="store_true",
        help="instead, the statistics from which long series are drawn",
    )
    build.add_argument(
        "--variants",
        action="store_true",
        help="instead, the series of the sensitivity table, cut into other windows",
    )
    build.set_defaults(run=_build)


SERVING = "serving"  # the group of scenarios that RAP-Serve-v0 plays
GROUP_TITLES = {
    "8-bit": "8-bit: what one would deploy first; the headline",
    "16-bit": "16-bit: the paper's setting",
    "days": "days: long ones",
    "own": "own",
    SERVING: "serving: a queue and continuous batching, for RAP-Serve-v0",
}


def _list(arguments: argparse.Namespace) -> int:
    from rapgym.scenarios import serving
    from rapgym.scenarios.catalogue import shipped

    if arguments.json:
        keys = ("id", "claims", "story")
        told = [{"group": s.group} | {k: getattr(s, k) for k in keys} for s in shipped()]
        told += [{"group": SERVING} | {k: getattr(s, k) for k in keys} for s in serving.shipped()]
        print(json.dumps(told, indent=2))
        return 0
    names = [story.name for story in shipped()] + [story.name for story in serving.shipped()]
    width = max(map(len, names))
    group = None
    for story in shipped():
        if story.group != group:
            group = story.group
            print(f"{GROUP_TITLES[group]}")
        print(f"  {story.name:<{width}} {story.story}")
    print(GROUP_TITLES[SERVING])
    for each in serving.shipped():
        print(f"  {each.name:<{width}} {each.story}")
    return 0


def _new(arguments: argparse.Namespace) -> int:
    from rapgym.errors import InvalidSpec
    from rapgym.files import writing
    from rapgym.scenarios import file
    from rapgym.scenarios.catalogue import scenario
    from rapgym.scenarios.story import FILE_SUFFIX

    path: Path = arguments.file
    if path.suffix != FILE_SUFFIX:
        raise InvalidSpec(f"{path}: the name of a scenario's file ends in {FILE_SUFFIX}")
    if path.exists() and not arguments.force:
        raise InvalidSpec(f"{path} is there already: name another file, or add --force")
    arguments.scenario = [arguments.like] if arguments.like else None
    (name,) = own_traces.names(arguments, maps=True) or [LIKE]
    text = file.written(scenario(name), path.parent)
    with writing.written_aside(path) as aside:
        aside.write(text.encode())
    print(f"wrote {path}; check it with: rapgym scenarios check {shlex.quote(str(path))}")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from rapgym.bench.suitability import numbers, serving_numbers
    from rapgym.errors import InvalidSpec
    from rapgym.scenarios import serving
    from rapgym.scenarios.catalogue import scenario
    from rapgym.scenarios.changed import name_of

    name = arguments.name
    if serving.is_named(name):
        if arguments.served is not None:
            raise InvalidSpec("--served changes scenarios of windows; state another base in a file")
        each = serving.story_of(name)
        return _shown(each.id, each.story, serving_numbers(each), arguments)
    if arguments.served is not None:
        name = name_of(name, {"served": arguments.served})
    story = scenario(name)
    return _shown(story.id, story.story, numbers(story), arguments)


def _shown(name: str, story: str, found: dict[str, Any], arguments: argparse.Namespace) -> int:
    if arguments.json:
        print(json.dumps(found, indent=2))
        return 0
    print(shown_lines(f"{name}: {story}"))
    for key, value in found.items():
        shown = value
        if isinstance(value, float):
            shown = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
        print(f"  {key.replace('_', ' '):<34} {shown}")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from rapgym.bench.suitability import check
    from rapgym.scenarios.catalogue import by_default, scenario

    for name in arguments.name or [story.name for story in by_default()]:
        print(f"{name}: {check(scenario(name))}")
    return 0


LOAD_COLUMNS = (
    "scenario", "split", "rows", "req/row", "tokens", "p95", "left", "p5", "falls", "by", "p95",
    "dense", "floor",
)  # fmt: skip
LOAD_LEGEND = """\
tokens: in flight, prompt and reserved output of a row, of the served model, mean and 95th percentile;
left: share of the card that the tenant leaves, mean and 5th percentile over seconds; falls: share of
rows in which the limit falls below that of their first second, and by which share of the card, mean and
95th percentile of those rows; dense, floor: share of rows in which they fit in every second."""


def _load(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    from rapgym.bench.suitability import load
    from rapgym.scenarios import catalogue

    stories = catalogue.named(arguments.name)
    found = {story.name: load(story) for story in stories}
    if arguments.json:
        each = {name: {s: asdict(part) for s, part in both.items()} for name, both in found.items()}
        print(json.dumps(each, indent=2))
        return 0
    rows: list[tuple[str, ...]] = [LOAD_COLUMNS]
    for name, both in found.items():
        for split, part in both.items():
            counts = (f"{part.rows}", f"{part.requests:.1f}")
            tokens = (f"{part.tokens:.0f}", f"{part.tokens_p95:.0f}")
            shares = (part.left, part.left_p5, part.falling_rows, part.fall, part.fall_p95,
                      part.dense_fits, part.floor_fits)  # fmt: skip
            rows.append((name, split, *counts, *tokens, *(f"{share:.1%}" for share in shares)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(LOAD_COLUMNS))]
    for row in rows:
        aligned = (
            cell.ljust(w) if i < 2 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join(aligned))
    print(LOAD_LEGEND)
    return 0


def _build(arguments: argparse.Namespace) -> int:
    from dataclasses import replace

    import numpy as np

    from rapgym.bench import sensitivity
    from rapgym.errors import InvalidSpec
    from rapgym.files import checked
    from rapgym.scenarios import build as workloads
    from rapgym.scenarios import catalogue, worlds
    from rapgym.workload import series, servegen

    if arguments.statistics:
        servegen.write_statistics()
        print(servegen.STATISTICS.name)
        return 0
    if arguments.variants:
        stories = sensitivity.window_stories(arguments.name or sensitivity.SCENARIOS)
    else:
        stories = catalogue.named(arguments.name)
    if own := [story.name for story in stories if story.is_own]:
        raise InvalidSpec(
            f"{own[0]} needs no build: the series of your own is made at its first use"
        )
    for story in {story.workload: story for story in stories}.values():
        if story.is_drawn:
            path = worlds.workload_file(replace(story, series_sha256=""))
            print(path, checked.sha256_once(path))
            continue
        path = places.TRACES / f"{story.workload}.csv.gz"
        made = workloads.build(story)
        if arguments.variants:  # no rival is run on them, so that single requests are not needed
            made = made.without_requests(np.arange(len(made)))
        series.write(made, path)
        print(path.name)
    return 0
