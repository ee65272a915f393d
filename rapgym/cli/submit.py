"""`rapgym submit`: pack a policy and its rows for the leaderboard."""

import argparse
from pathlib import Path

from rapgym.cli import COMMANDS, Subparsers, at_least
from rapgym.files.shown import shown


def add(subparsers: Subparsers) -> None:
    """Register `submit`."""
    command = subparsers.add_parser(
        "submit",
        help=COMMANDS["submit"],
        description="Packs what is needed to run a policy again into one zip: its files, its rows, "
        "and what you state of it. Before it is written, its rows are replayed and the policy decides "
        "again from the packed files alone. docs/submit.md has the rules.",
        epilog="example: rapgym submit results/bench.csv.gz --policy my_module:MyPolicy --name "
        "my-policy --author 'A. Body' --link https://example.org/my-policy --licence MIT --out "
        "my-policy.zip",
    )
    command.add_argument("results", type=Path, metavar="RESULTS", help="of rapgym bench")
    command.add_argument(
        "--policy",
        required=True,
        metavar="NAME",
        help="module:Class, FILE.npz or sb3:FILE.zip, as bench was given it",
    )
    command.add_argument(
        "--name", required=True, metavar="NAME", help="of the entry: lower case, digits, dashes"
    )
    command.add_argument(
        "--author", required=True, action="append", metavar="NAME", help="as often as there are"
    )
    command.add_argument(
        "--link", required=True, metavar="URL", help="https, of a page that describes the policy"
    )
    command.add_argument(
        "--licence", required=True, metavar="SPDX", help="of all files that are packed"
    )
    command.add_argument("--note", default="", metavar="TEXT", help="one line for the page")
    command.add_argument(
        "--training-hours",
        type=at_least_0,
        default=0.0,
        metavar="H",
        help="of all training and tuning that led to it (0)",
    )
    command.add_argument(
        "--machine", default="", metavar="TEXT", help="that it was trained on, such as '1 H200'"
    )
    command.add_argument(
        "--calibration-passes",
        type=at_least_0,
        default=0.0,
        metavar="N",
        help="passes over 512-token sequences beyond those of rapgym's quality tables (0)",
    )
    command.add_argument(
        "--include",
        action="append",
        type=Path,
        default=[],
        metavar="PATH",
        help="a file or folder that the policy opens beside its module, or imports",
    )
    command.add_argument(
        "--out", type=Path, metavar="FILE.zip", help="default: NAME.zip, of the entry's name"
    )
    command.add_argument("--force", action="store_true", help="overwrite the file of --out")
    command.add_argument(
        "--quick",
        action="store_true",
        help="do not let the policy decide again before it is packed",
    )
    command.add_argument(
        "--trust",
        action="store_true",
        help="read a sb3:FILE.zip, which holds pickles: they run whatever they say",
    )
    command.add_argument(
        "--jobs", type=at_least(1, 1024), default=1, metavar="N", help="processes (1)"
    )
    command.set_defaults(run=run)


def at_least_0(text: str) -> float:
    """An argparse type: a finite number of 0 or more."""
    number = float(text)
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no number of 0 or more")
    return number


def run(arguments: argparse.Namespace) -> int:
    from rapgym.bench import results
    from rapgym.errors import InvalidResult
    from rapgym.files import writing
    from rapgym.submissions import check, pack
    from rapgym.submissions.header import Stated

    out = arguments.out or Path(f"{arguments.name}.zip")
    writing.refuse_existing(out, "--out", force=arguments.force)
    stated = Stated(
        name=arguments.name,
        authors=tuple(arguments.author),
        link=arguments.link,
        licence=arguments.licence,
        note=arguments.note,
        training_hours=arguments.training_hours,
        machine=arguments.machine,
        calibration_passes=arguments.calibration_passes,
    )
    found = results.read(arguments.results)
    made = pack.made(found, arguments.policy, stated, Path.cwd(), arguments.include)
    content = made.packed()
    differing = check.differences(
        made,
        again=not arguments.quick,
        jobs=arguments.jobs,
        trust=arguments.trust,
        hidden=[arguments.results],
    )
    if differing:
        raise InvalidResult(f"this would be refused: {'; '.join(differing)}")
    with writing.written_aside(out) as file:
        file.write(content)
    for stand in made.header.scores:
        print(f"{stand.scenario}: {stand.cost:.4f} nats, {stand.verdict or '-'} beside the lookup")
    for each in check.unchecked(made, again=not arguments.quick):
        print(f"not checked: {shown(each)}")
    print(f"wrote {out}, {len(content):,} bytes; check it with: rapgym verify {out} --again")
    return 0
