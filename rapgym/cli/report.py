"""`rapgym report`: results, an audit log or serving as one HTML file that opens anywhere, offline."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rapgym.cli import COMMANDS, Subparsers, require
from rapgym.files.shown import shown

if TYPE_CHECKING:
    from rapgym.bench.results import Results
    from rapgym.report.page import Page

ENDING = ".html"
RULE = "lookup"  # of --serve, unless named
KINDS = {"results": "a results file", "log": "an audit log", "serve": "a scenario of --serve"}
# Of which kinds of reports an option speaks.
FOR = {
    "scenario": ("results",),
    "policy": ("results", "serve"),
    "map": ("results",),
    "since": ("log",),
    "until": ("log",),
}


def add(subparsers: Subparsers) -> None:
    """Register `report`."""
    command = subparsers.add_parser(
        "report",
        help=COMMANDS["report"],
        description="Writes one HTML file that works offline: of a results file the answer in three "
        "sentences and the figures it rests on, of an audit log who decided when and why. With --serve it plays a "
        "serving scenario and shows the stretch of test that asked most of its card, second by second.",
        epilog="example: rapgym report results/bench.csv.gz --out bench.html; of a log: rapgym report "
        "decisions.jsonl; of serving: rapgym report --serve serve-chat-gqa",
    )
    command.add_argument(
        "file", type=Path, nargs="?", metavar="FILE", help="of rapgym bench, or an audit log"
    )
    command.add_argument(
        "--serve",
        metavar="SCENARIO",
        help="in FILE's place: a serving scenario, by name or .toml file",
    )
    command.add_argument(
        "--map", type=Path, metavar="MAP.json",
        help="of a results file: also show what rapgym map --json printed into this file",
    )  # fmt: skip
    command.add_argument(
        "--out",
        type=Path,
        metavar="FILE.html",
        help="default: the name of FILE, in this folder, with .html",
    )
    command.add_argument("--force", action="store_true", help="overwrite the file of --out")
    command.add_argument(
        "--scenario",
        metavar="NAME",
        help="of a results file: whose hour is filmed; where most is at stake unless named",
    )
    command.add_argument(
        "--policy",
        metavar="NAME",
        help="of a results file: who is filmed; the champion unless named. With --serve: the rule, one of "
        "rapgym.policies.serve_rules (lookup)",
    )
    command.add_argument(
        "--since",
        metavar="TIME",
        help="of a log: decisions from then on: 2026-11-25 or 2026-11-25T10:30:00, UTC",
    )
    command.add_argument("--until", metavar="TIME", help="of a log: decisions before then")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from rapgym.audit import replay as audit_replay
    from rapgym.errors import InvalidSpec
    from rapgym.report import page as report_page

    if (arguments.file is None) == (arguments.serve is None):
        raise InvalidSpec(
            "name a results file or an audit log, or a scenario with --serve: one of both"
        )
    if arguments.serve is not None:
        kind, what, makes = "serve", "--serve", _serve_page
        default = Path(Path(arguments.serve).stem + ENDING)
    else:
        is_log = audit_replay.is_log(arguments.file)
        kind, what = ("log" if is_log else "results"), str(arguments.file)
        makes = _log_page if is_log else _bench_page
        default = default_out(arguments.file)
    for name, kinds in FOR.items():
        if getattr(arguments, name) is not None and kind not in kinds:
            meant = " or ".join(KINDS[each] for each in kinds)
            raise InvalidSpec(f"--{name} is for {meant}, and {what} is none")
    out = checked_out(arguments.out or default, force=arguments.force)
    page = makes(arguments)
    size = report_page.written(page, out)
    if arguments.json:
        print(json.dumps({"file": str(out), "bytes": size}))
    else:
        say(out, size)
    return 0


def default_out(path: Path) -> Path:
    """bench.html of results/bench.csv.xz."""
    return Path((path.name.partition(".")[0] or "report") + ENDING)


def checked_out(out: Path, option: str = "--out", *, force: bool = False) -> Path:
    """Where a report goes, once it can be made and written.

    Raises:
        MissingExtra: the extra `report` is not installed.
        InvalidSpec: it is there already, or not called .html.
    """
    from rapgym.errors import InvalidSpec
    from rapgym.files import writing

    require("report", "jinja2", "plotly")
    if out.suffix != ENDING:
        raise InvalidSpec(f"{out} is no name of an HTML page: let {option} end in {ENDING}")
    writing.refuse_existing(out, option, force=force)
    return out


def of_results(found: "Results", path: Path, out: Path, *, told: bool) -> None:
    """Write the report of results that lie at `path`; print where it is where it is `told`."""
    from rapgym.report import bench_page
    from rapgym.report import page as report_page

    size = report_page.written(bench_page.page(found, path), out)
    if told:
        say(out, size)


def say(out: Path, size: int) -> None:
    print(f"wrote {out} ({size / 1e6:.1f} MB): open it in a browser")


def _bench_page(arguments: argparse.Namespace) -> "Page":
    from rapgym.bench import results
    from rapgym.report import bench_page, map_section

    mapped = map_section.section(arguments.map) if arguments.map else None
    found = results.read(arguments.file)
    return bench_page.page(found, arguments.file, arguments.scenario, arguments.policy, mapped)


def _serve_page(arguments: argparse.Namespace) -> "Page":
    from rapgym.report import serve_page

    rule = arguments.policy or RULE
    if not arguments.json:
        print(
            f"playing {shown(arguments.serve)} under {shown(rule)}, tuned on train first: about a minute",
            file=sys.stderr,
        )
    return serve_page.page(arguments.serve, rule)


def _log_page(arguments: argparse.Namespace) -> "Page":
    from rapgym.audit import summary as audit_summary
    from rapgym.audit.summary import Chosen, Log
    from rapgym.report import audit_page

    since, until = (None if text is None else audit_summary.moment_us(text) for text in (arguments.since, arguments.until))  # fmt: skip
    return audit_page.page(Log(arguments.file), Chosen(since, until))
