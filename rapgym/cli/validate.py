"""`rapgym validate`: rows of a scenario on a live model, predicted against measured."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rapgym.cli import COMMANDS, Subparsers, at_least, require, serving, users
from rapgym.files.shown import shown_lines

if TYPE_CHECKING:
    from rapgym.runtime.validate.validate import Settings
    from rapgym.scenarios.story import Scenario
from rapgym.report.validation import text

DEFAULT_OUT = Path("results/validate.json")


def add(subparsers: Subparsers) -> None:
    """Register `validate`."""
    command = subparsers.add_parser(
        "validate",
        help=COMMANDS["validate"],
        description="Serves rows of a scenario on a live model on this machine: blocks really leave "
        "and return, another process takes the tenant's bytes, and the memory limit is enforced. "
        "Prints bytes, nats and seconds as the simulator predicts and as they are measured. Texts "
        "are those that rapgym texts list shows; where those of books and specs are not here, rows are of wiki "
        "alone, predicted and measured. A run that was stopped goes on where it "
        "stopped. With --recorded, a run of a serving engine that was recorded elsewhere is simulated "
        "instead: no model is needed.",
        epilog="example: rapgym validate --scenario chat-beside-code --rows 8 --length-share 0.2",
    )
    command.add_argument("--scenario", default="chat-beside-code", metavar="NAME")
    command.add_argument("--split", choices=("test", "check"), default="test")
    command.add_argument(
        "--rows", type=at_least(1, 10000), default=10, metavar="N", help="rows to replay (10)"
    )
    command.add_argument(
        "--policies", nargs="+", metavar="NAME", help="whose decisions are replayed (seven)"
    )
    users.add_options(command, watched=False)
    command.add_argument(
        "--length-share",
        type=float,
        default=1.0,
        metavar="SHARE",
        help="of every length, and of what the card holds above the dense weights, so that a row "
        "takes seconds (1)",
    )
    command.add_argument(
        "--device-profile", metavar="NAME", help="that predicts, by name or file (the ideal one)"
    )
    command.add_argument(
        "--fit-profile",
        metavar="NAME",
        help="fit a profile of this device on rows of the train split, write it to NAME.json, and "
        "replay nothing else",
    )
    command.add_argument("--device", default="cpu", help="where torch runs (cpu)")
    command.add_argument("--threads", type=at_least(1), default=1, metavar="N", help="of torch (1)")
    command.add_argument(
        "--chunk", type=at_least(1), default=128, metavar="TOKENS", help="of a prefill chunk (128)"
    )
    command.add_argument(
        "--no-limit", action="store_true", help="measure alone: enforce no memory limit"
    )
    command.add_argument(
        "--work", type=Path, metavar="FOLDER", help="finished rows (in the cache folder)"
    )
    command.add_argument(
        "--out", type=Path, default=DEFAULT_OUT, metavar="FILE", help=f"default: {DEFAULT_OUT}"
    )
    command.add_argument("--force", action="store_true", help="overwrite the file of --out")
    serving.add_options(command)
    command.add_argument("--json", action="store_true", help="print the report as JSON")
    command.add_argument("--quiet", action="store_true", help="no progress line")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Fit a profile, or replay rows and write a report; or replay a recorded run of an engine."""
    if arguments.recorded:
        return serving.validate(arguments)
    require("device", "torch", "transformers")
    from rapgym.files import checked, writing
    from rapgym.runtime.validate.validate import Settings
    from rapgym.scenarios import catalogue

    if not arguments.fit_profile:
        writing.refuse_existing(arguments.out, "--out", force=arguments.force)
    settings = Settings(
        arguments.device, arguments.threads, arguments.chunk, not arguments.no_limit
    )
    story = catalogue.story_of(
        arguments.scenario, arguments.length_share, arguments.device_profile, stand_in=True
    )
    story = _of_texts_here(story)
    work = arguments.work or checked.cache_folder() / "validate"
    if arguments.fit_profile:
        return _fit(arguments, story, settings, work)
    return _validate(arguments, story, settings, work)


def _of_texts_here(story: "Scenario") -> "Scenario":
    """The scenario on the texts that are on this machine, each of them checked: before a model is loaded.

    Raises:
        DataUnavailable, WrongChecksum: one of its domain is missing or damaged.
    """
    from dataclasses import replace

    from rapgym.quality import texts

    if story.domain:
        for split in texts.SPLITS:
            texts.read(story.domain, split)
        return story
    here = texts.here()
    if here == texts.DOMAINS:
        return story
    print(
        f"rows are of {here[0]} alone: the texts of other domains are not on this machine (rapgym texts list)",
        file=sys.stderr,
    )
    return replace(story, domain=here[0])


def _fit(arguments: argparse.Namespace, story: "Scenario", settings: "Settings", work: Path) -> int:
    from rapgym.jobs.progress import Progress
    from rapgym.model import profiles
    from rapgym.runtime.validate import calibration

    total = len(calibration.fit_plan(story))
    with Progress("calibration rows", total, quiet=arguments.quiet) as progress:
        found = calibration.fit(
            arguments.fit_profile, story, settings, work,
            lambda skipped: progress.advance(skipped=skipped),
        )  # fmt: skip
    path = calibration.profile_file(arguments.fit_profile)
    profiles.write(found, path)
    if arguments.json:
        print(path.read_text(), end="")
    else:
        profile, fit = found.profile, found.provenance["fit"]
        print(
            f"{profile.context_bytes / 1e6:.1f} MB of context, "
            f"{profile.activation_bytes_per_token / 1e3:.1f} kB a prompt token, margin "
            f"{profile.margin_bytes / 1e6:.1f} MB; peaks within {fit['peak_relative']:.1%} on "
            f"{fit['rows']} calibration rows"
        )
        print(f"wrote {path}; use it with: --device-profile {path}")
    return 0


def _validate(
    arguments: argparse.Namespace, story: "Scenario", settings: "Settings", work: Path
) -> int:
    from rapgym.guard import foreign
    from rapgym.jobs.progress import Progress
    from rapgym.policies import registry
    from rapgym.runtime.validate import validate

    terms = users.terms(arguments).hiding([arguments.out, work], story)
    for entry in map(registry.entry, arguments.policies or []):
        foreign.check(entry, terms)
    names = arguments.policies or list(validate.POLICIES)
    planned = validate.plan(story, arguments.split, names, arguments.rows, terms)
    total = len(planned.measured) + len(planned.unshielded)
    if not arguments.quiet:
        print(
            f"{story.id} at {story.length_share:g} of its lengths: {len(planned.rows)} rows, "
            f"{len(names)} policies, {len(planned.measured)} distinct trials",
            file=sys.stderr,
        )
    with Progress("rows", total, quiet=arguments.quiet) as progress:
        report = validate.run(
            planned, settings, work, lambda skipped: progress.advance(skipped=skipped)
        )
    validate.write(report, arguments.out)
    if arguments.json:
        print(json.dumps(report, indent=1))
    else:
        print(shown_lines(text(report)))
        if planned.in_process:
            names = ", ".join(planned.in_process)
            print(f"by --in-process, nothing vouches for the decisions of: {shown_lines(names)}")
        print(f"\nwrote {arguments.out}")
    return 0
