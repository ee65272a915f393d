"""`rapgym profile`: what a card and its engine take for a step, fitted to a recorded run."""

import argparse
from pathlib import Path

from rapgym.cli import COMMANDS, Subparsers, require, serving


def add(subparsers: Subparsers) -> None:
    """Register `profile`."""
    command = subparsers.add_parser(
        "profile",
        help=COMMANDS["profile"],
        description="A serving profile holds what a step of a serving engine takes on a card.",
        epilog="example: rapgym profile fit runs/RTX4090-Llama-3.1-8B --served llama3-8b",
    )
    actions = command.add_subparsers(metavar="ACTION", required=True, title="actions")
    fit = actions.add_parser(
        "fit",
        help="fit one to the first half of a recorded run",
        description="Simulates the run with constants that it searches for, from several starts; "
        "what the run cannot tell stays near them. The second half is held out, and its error is "
        "stored. What a run's folder holds: docs/serving.md.",
        epilog="example: rapgym profile fit runs/RTX4090-Llama-3.1-8B --served llama3-8b",
    )
    fit.add_argument(
        "run_folder", type=Path, metavar="RUN", help="a folder, or vLLM's results file"
    )
    fit.add_argument("--out", type=Path, metavar="FILE", help="the profile (RUN.profile.json)")
    fit.add_argument("--force", action="store_true", help="overwrite the file of --out")
    serving.add_run_options(fit)
    fit.add_argument("--quiet", action="store_true", help="no progress line")
    fit.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Fit, write, and say how well the profile does."""
    require("fit", "scipy")
    from rapgym.files import writing
    from rapgym.report import fidelity as report
    from rapgym.serving import fitting, profile, recorded, validation

    folder = arguments.run_folder
    name = folder.resolve().name if folder.is_dir() else folder.stem
    out = arguments.out or Path(f"{name}.profile.json")
    writing.refuse_existing(out, "--out", force=arguments.force)
    recording, where = recorded.read(folder, arguments.shared), validation.shape(arguments.served)
    with serving.progress(arguments.quiet) as progress:
        found = fitting.fit(recording, where, progress.advance)
    profile.write(found.profile, out)
    told = validation.compared(recording, found.profile, where) | {"fitted_here": True}
    print(report.text(told))
    print(
        f"\ntimes of the first half within {found.fitted_s:.3f} s (root mean square), of the second, "
        f"which the fit did not see, within {found.held_out_s:.3f} s\nwrote {out}"
    )
    return 0
