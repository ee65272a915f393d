"""What commands share that speak of recorded runs of a serving engine."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from rapgym.cli import require

if TYPE_CHECKING:
    from rapgym.jobs.progress import Progress


def add_options(command: argparse.ArgumentParser) -> None:
    """Options of `validate` that replay a recorded run."""
    command.add_argument(
        "--recorded",
        type=Path,
        metavar="RUN",
        help="replay a recorded run of a serving engine (see docs/serving.md) in the simulated one",
    )
    command.add_argument(
        "--serving-profile",
        type=Path,
        metavar="FILE",
        help="with --recorded: of rapgym profile fit (fitted to the first half of the run)",
    )
    add_run_options(command, "with --recorded: ")


def add_run_options(command: argparse.ArgumentParser, when: str = "") -> None:
    """What a run's folder may leave open."""
    command.add_argument(
        "--served",
        metavar="NAME",
        help=f"{when}the model that was served, a preset or a config.json; a profile that is to be "
        "used for worlds needs it",
    )
    command.add_argument(
        "--shared",
        type=Path,
        metavar="FILE",
        help=f"{when}which prompts begin alike (RUN/shared_prefix.json, where it is there)",
    )


def validate(arguments: argparse.Namespace) -> int:
    """Print a recorded run beside its simulation."""
    from rapgym.report import fidelity as report
    from rapgym.serving import profile, validation

    known = profile.read(arguments.serving_profile) if arguments.serving_profile else None
    if known is None:
        require("fit", "scipy")
    with progress(arguments.quiet or known is not None) as fitted:
        found = validation.validated(
            arguments.recorded,
            known,
            served=arguments.served,
            shared=arguments.shared,
            watch=fitted.advance,
        )
    print(json.dumps(found, indent=1) if arguments.json else report.text(found))
    return 0


def progress(quiet: bool) -> "Progress":
    """The progress of a fit, which takes one step a simulation."""
    from rapgym.jobs.progress import Progress
    from rapgym.serving import fitting

    return Progress("fit", len(fitting.STARTS) * fitting.EVALUATIONS, quiet=quiet)
