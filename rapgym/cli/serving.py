"""What commands do for the serving world: bench and verify of its results, and replay of recorded runs."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from rapgym.cli import own_traces, require, users, workers
from rapgym.errors import InvalidSpec
from rapgym.files.shown import shown, shown_lines

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


def asked_for(arguments: argparse.Namespace) -> bool:
    """Whether `--scenario` names serving scenarios.

    Raises:
        InvalidSpec: it names some of both worlds.
    """
    from rapgym.scenarios import serving

    named = [serving.is_named(name) for name in arguments.scenario or ()]
    if any(named) and not all(named):
        raise InvalidSpec(
            "these scenarios are of two worlds, whose results are kept apart: run those that are served "
            "second by second (serve-...) by themselves"
        )
    return any(named)


def bench(arguments: argparse.Namespace, out: Path) -> int:
    """`rapgym bench` of serving scenarios."""
    from rapgym.bench.serving import run as bench_run
    from rapgym.report import serving as report
    from rapgym.scenarios import serving

    if own_traces.told(arguments):
        raise InvalidSpec(
            "a serving scenario takes its card and traces from its own file: write one with base = and "
            "card_gib = (docs/scenarios.md), and name it with --scenario"
        )
    if arguments.report:
        raise InvalidSpec(
            "--report draws results of windows alone; leave it out for a serving world"
        )
    stories = [serving.story_of(name) for name in dict.fromkeys(arguments.scenario)]
    jobs, ray = workers.chosen(arguments)
    found = bench_run.run(
        stories,
        arguments.policy,
        out,
        seeds=range(arguments.seeds),
        jobs=jobs,
        ray=ray,
        quiet=arguments.quiet,
        terms=users.terms(arguments),
        searches=not arguments.no_search,
    )
    if arguments.json:
        print(json.dumps([score.as_json() for score in found.scores], indent=2))
    else:
        print(report.table(found.scores, wide=arguments.wide))
        print(f"\nwrote {out}; check it with: rapgym verify {out}")
    bench_run.check(found)
    return 0


def verify(arguments: argparse.Namespace) -> int:
    """`rapgym verify` of results of the serving world."""
    from rapgym.bench.serving import results
    from rapgym.bench.serving import verify as serving_verify
    from rapgym.jobs import parallel

    if arguments.against:
        raise InvalidSpec("--against compares results of windows alone")
    found = results.read(arguments.file)
    jobs = arguments.jobs or parallel.processors()
    differing = list(serving_verify.differences(found, again=arguments.again, jobs=jobs))
    seconds = sum(course.seconds for cell in found.cells for course in cell.courses)
    left = serving_verify.unchecked(found, again=arguments.again)
    if arguments.json:
        told = {"seconds": seconds, "cells": len(found.cells), "differences": differing}
        print(json.dumps(told | {"unchecked": left}))
    elif differing:
        print("\n".join(map(shown, differing)))
    else:
        decided = ", what rules and searches decide again" if arguments.again else ""
        print(
            f"{seconds} seconds in {len(found.cells)} cells replay, scores hold\n"
            "checked: parts of the split, tokens, preemptions, sheds, costs and percentiles to the last "
            f"digit, the lookup's decisions where it stands in, what describes cells, scores{decided}"
        )
        print(shown_lines("\n".join(f"not checked: {each}" for each in left)))
    return 1 if differing else 0
