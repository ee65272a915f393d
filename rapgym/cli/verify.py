"""`rapgym verify`: replay and re-score a results file."""

import argparse
import json
from pathlib import Path

from rapgym.cli import Subparsers


def add(subparsers: Subparsers) -> None:
    """Register `verify`."""
    command = subparsers.add_parser(
        "verify",
        help="replay and re-score a results file",
        description="Serves every row of a results file again and computes every score anew. "
        "Exit code 1, and the lines that differ, where it does not hold.",
        epilog="example: rapgym verify results/bench.csv.gz",
    )
    command.add_argument("file", type=Path, metavar="FILE")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from rapgym import results, verify

    found = results.read(arguments.file)
    differing = list(verify.differences(found))
    rows = sum(cell.log.row.size for cell in found.cells)
    if arguments.json:
        print(json.dumps({"rows": rows, "cells": len(found.cells), "differences": differing}))
    else:
        print(
            "\n".join(differing) or f"{rows} rows in {len(found.cells)} cells replay, scores hold"
        )
    return 1 if differing else 0
