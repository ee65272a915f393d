"""`rapgym texts`: on what quality is measured, and how it gets onto this machine."""

import argparse
import json
from typing import TYPE_CHECKING, Any

from rapgym.cli import COMMANDS, Subparsers
from rapgym.quality import texts as quality_texts

if TYPE_CHECKING:
    from rapgym.quality.texts import Text


def add(subparsers: Subparsers) -> None:
    """Register `texts list` and `texts pull`."""
    command = subparsers.add_parser(
        "texts",
        help=COMMANDS["texts"],
        description="Texts that rapgym measure and rapgym validate need: calibration text, and disjoint test "
        "text. WikiText-2 has a public source. Books and specs were put together from many: a mirror alone has "
        "them (RAPGYM_DATA), and without it both commands work on wiki alone.",
        epilog="example: rapgym texts pull",
    )
    actions = command.add_subparsers(metavar="ACTION", required=True)
    listing = actions.add_parser(
        "list", help="what there is", epilog="example: rapgym texts list --json"
    )
    listing.set_defaults(run=_list)
    pull = actions.add_parser(
        "pull",
        help="download a domain's texts (1.2 MB each), once, and check them",
        description="Fetches what has a public source; a download that broke off goes on where it was.",
        epilog="example: rapgym texts pull wiki",
    )
    pull.add_argument(
        "domain", nargs="?", choices=quality_texts.DOMAINS, metavar="DOMAIN",
        help=f"of {', '.join(quality_texts.DOMAINS)}; all with a public source unless named ({', '.join(quality_texts.PULLED)})",
    )  # fmt: skip
    pull.set_defaults(run=_pull)
    for action in (listing, pull):
        action.add_argument("--json", action="store_true", help="print JSON")


def _told(text: "Text") -> dict[str, Any]:
    from rapgym.errors import DataUnavailable, WrongChecksum

    file, state = None, "can be pulled" if text.url else "only a mirror has it"
    try:
        file, state = str(quality_texts.path_of(text)), "here"
    except WrongChecksum:
        state = "damaged"
    except DataUnavailable:
        pass
    return {
        "name": text.name, "licence": text.licence, "file": file, "state": state, "url": text.url or None,
        "sha256": text.sha256, "content_sha256": text.content_sha256 or None,
    }  # fmt: skip


def _list(arguments: argparse.Namespace) -> int:
    rows = [_told(text) for text in quality_texts.TEXTS]
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return 0
    for row in rows:
        print(f"{row['name']:<12} {row['licence']:<23} {row['file'] or row['state']}")
    return 0


def _pull(arguments: argparse.Namespace) -> int:
    wanted = [arguments.domain] if arguments.domain else list(quality_texts.PULLED)
    found = {
        text.name: str(quality_texts.pull(text))
        for text in quality_texts.TEXTS
        if text.domain in wanted
    }
    if arguments.json:
        print(json.dumps(found, indent=2))
        return 0
    for path in found.values():
        print(path)
    return 0
