"""`rapgym verify`: replay and re-score a results file, a submission or an audit log."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from rapgym.cli import COMMANDS, Subparsers, at_least, serving
from rapgym.files.shown import shown, shown_lines

if TYPE_CHECKING:
    from rapgym.bench.results import Results


def add(subparsers: Subparsers) -> None:
    """Register `verify`."""
    command = subparsers.add_parser(
        "verify",
        help=COMMANDS["verify"],
        description="Serves every row of a results file again from its proposals, and computes "
        "every score again; of a submission (a zip or its folder), checks every file first, and with "
        "--again runs its policy from these alone; of an audit log, takes every decision again from the log alone and follows "
        "its chain (rapgym audit LOG --verify --head says more). Exit code 1, and what differs, where "
        "it does not hold.",
        epilog="example: rapgym verify results/bench.csv.gz",
    )
    command.add_argument("file", type=Path, metavar="FILE")
    command.add_argument(
        "--again",
        action="store_true",
        help="let rapgym's policies decide again too: that they made these proposals, and their "
        "validation costs, cannot be known otherwise; takes as long as the bench. Proposals of "
        "your own policies are taken as they are, but for those of a submission",
    )
    command.add_argument(
        "--jobs",
        type=at_least(1, 1024),
        metavar="N",
        help="processes for --again (one a processor)",
    )
    command.add_argument(
        "--against",
        type=Path,
        metavar="OTHER",
        help="compare with another results file instead, row by row: decisions must be the same, "
        "bytes and nats within tolerances; for a device's rows against simulated ones",
    )
    command.add_argument(
        "--bytes-tolerance", type=float, default=0.02, metavar="SHARE", help="for --against (0.02)"
    )
    command.add_argument(
        "--nats-tolerance", type=float, default=0.02, metavar="NATS", help="for --against (0.02)"
    )
    command.add_argument(
        "--trust",
        action="store_true",
        help="with --again: read a submission's sb3:FILE.zip, which holds pickles: they run whatever "
        "they say",
    )
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from rapgym.audit import replay as audit_replay
    from rapgym.bench import results, verify
    from rapgym.bench.serving import results as serving_results
    from rapgym.jobs import parallel
    from rapgym.submissions import stored

    if stored.is_stored(arguments.file):
        return _submission(arguments)
    if audit_replay.is_log(arguments.file):
        proven = audit_replay.verified(arguments.file)
        print(
            json.dumps(proven.as_json())
            if arguments.json
            else shown_lines(audit_replay.told(proven))
        )
        return 0 if proven.holds else 1
    if serving_results.is_serving(arguments.file):
        return serving.verify(arguments)
    found = results.read(arguments.file)
    if arguments.against:
        return _compare(found, arguments)
    jobs = arguments.jobs or parallel.processors()
    differing = list(verify.differences(found, again=arguments.again, jobs=jobs))
    rows = sum(cell.log.row.size for cell in found.cells)
    left = verify.unchecked(found, again=arguments.again)
    if arguments.json:
        told = {"rows": rows, "cells": len(found.cells), "differences": differing}
        print(json.dumps(told | {"unchecked": left}))
    elif differing:
        print("\n".join(map(shown, differing)))
    else:
        print(f"{rows} rows in {len(found.cells)} cells replay, scores hold")
        decided = ", what policies decide again" if arguments.again else ""
        print(
            "checked: rows and their order, bytes, kept sets, costs, the reference policy's proposals "
            f"where it stands in, what describes cells, scores, rankings{decided}"
        )
        print("\n".join(f"not checked: {shown(each)}" for each in left))
    return 1 if differing else 0


def _submission(arguments: argparse.Namespace) -> int:
    from rapgym.jobs import parallel
    from rapgym.submissions import check, submission

    sent = submission.read(arguments.file)
    differing = check.differences(
        sent,
        again=arguments.again,
        jobs=arguments.jobs or parallel.processors(),
        trust=arguments.trust,
        hidden=[arguments.file],
    )
    rows = sum(cell.log.row.size for cell in sent.rows.cells)
    left = check.unchecked(sent, again=arguments.again)
    if arguments.json:
        told = {"rows": rows, "cells": len(sent.rows.cells), "differences": differing}
        print(json.dumps(told | {"unchecked": left}))
    elif differing:
        print("\n".join(map(shown, differing)))
    else:
        print(f"{sent.name}: {rows} rows in {len(sent.rows.cells)} cells replay, scores hold")
        decided = ", what the packed policy decides again in isolation" if arguments.again else ""
        print(f"checked: every file, scenarios, tables, workloads, rows, costs, scores{decided}")
        print("\n".join(f"not checked: {shown(each)}" for each in left))
    return 1 if differing else 0


def _compare(found: "Results", arguments: argparse.Namespace) -> int:
    from rapgym.bench import against, results

    within = against.Tolerances(arguments.bytes_tolerance, arguments.nats_tolerance)
    comparison = against.compared(found, results.read(arguments.against), within)
    if arguments.json:
        print(json.dumps({"rows": comparison.rows, "differences": comparison.differences}))
    else:
        said = map(shown, comparison.differences)
        print("\n".join(said) or f"{comparison.rows} rows agree")
    return 1 if comparison.differences else 0
