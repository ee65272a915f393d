"""`rapgym models`: pretrained models with a short name, and their weights on this machine."""

import argparse
import json

from rapgym.cli import COMMANDS, Subparsers
from rapgym.errors import InvalidSpec
from rapgym.model import pretrained


def add(subparsers: Subparsers) -> None:
    """Register `models list` and `models pull`."""
    command = subparsers.add_parser(
        "models",
        help=COMMANDS["models"],
        description="Known models, and whether their weights are on this machine. Any other "
        "decoder-only model is measured by its hub id or folder: see rapgym measure.",
        epilog="example: rapgym models pull smollm2-135m",
    )
    actions = command.add_subparsers(metavar="ACTION", required=True)
    listing = actions.add_parser(
        "list", help="what there is", epilog="example: rapgym models list --json"
    )
    listing.add_argument("--json", action="store_true", help="print JSON")
    listing.set_defaults(run=_list)
    pull = actions.add_parser(
        "pull",
        help="download weights, once, and check them",
        epilog="example: rapgym models pull smollm2-135m",
    )
    pull.add_argument("name", metavar="NAME", help="a name that `rapgym models list` prints")
    pull.set_defaults(run=_pull)


def _list(arguments: argparse.Namespace) -> int:
    rows = [
        {
            "name": model.name,
            "hub_id": model.hub_id,
            "licence": model.licence,
            "source": model.requirement,
            "sha256": model.sha256,
            "file": str(model.file) if model.file.is_file() else None,
        }
        for model in pretrained.KNOWN_MODELS
    ]
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return 0
    for row in rows:
        where = row["file"] or f"not here; run: rapgym models pull {row['name']}"
        print(f"{row['name']:<16} {row['hub_id']}  {row['licence']}  {where}")
    return 0


def _pull(arguments: argparse.Namespace) -> int:
    model = pretrained.known(arguments.name)
    if model is None:
        names = ", ".join(known.name for known in pretrained.KNOWN_MODELS)
        raise InvalidSpec(f"no model is called {arguments.name!r}; known models: {names}")
    print(pretrained.pull(model))
    return 0
