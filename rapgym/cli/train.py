"""`rapgym train`: train a policy that learns, with several seeds, on a scenario's train part."""

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rapgym.cli import COMMANDS, Subparsers, at_least, own_traces, workers
from rapgym.policies.policy import FITS, Told

if TYPE_CHECKING:
    from rapgym.jobs.progress import Progress
    from rapgym.learning.runs import Done, Run

DEFAULT_OUT = Path("runs")
PARTS_OF: tuple[Told, ...] = ("train", *FITS)


def add(subparsers: Subparsers) -> None:
    """Register `train`."""
    command = subparsers.add_parser(
        "train",
        help=COMMANDS["train"],
        description="Trains a method with several seeds, on rows of a scenario's train part alone: "
        "with every seed told of all of it, for test; and told of it without each of its thirds, for the "
        "cross-validation by which champions are chosen. A run that was stopped goes on where it stopped, one that has finished is not run again.",
        epilog="example: rapgym train dqn --scenario laptop --seeds 1 --set steps=2000; on your own "
        "recording, from a published policy: rapgym train dqn --trace memory.csv.gz --card 24 --from "
        "dqn/laptop-v0/train-0",
    )
    command.add_argument("method", metavar="METHOD", help="dqn, maskable_ppo, ppo_counts, ...")
    command.add_argument(
        "--scenario",
        action="append",
        metavar="NAME",
        help="or a .toml file; all but those of days unless named",
    )
    command.add_argument(
        "--seeds", type=at_least(1, 1000), default=5, metavar="N", help="seeds 0 to N - 1 (5)"
    )
    command.add_argument(
        "--told",
        action="append",
        choices=PARTS_OF,
        help="of which rows it may know, with every seed: train before test, fit-k before "
        "validation-k (train with every seed, and the folds with --fold-seeds)",
    )
    command.add_argument(
        "--fold-seeds",
        type=at_least(0, 1000),
        default=1,
        metavar="N",
        help="seeds 0 to N - 1 for each fold of cross-validation (1)",
    )
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="another value of one of the method's settings",
    )
    command.add_argument(
        "--minutes",
        type=float,
        metavar="M",
        help="stop each run then; such a run cannot be repeated exactly",
    )
    command.add_argument(
        "--from",
        dest="start",
        default="",
        metavar="POLICY",
        help="begin with the weights of this policy: METHOD/SCENARIO/TOLD-SEED, or an .npz file",
    )
    command.add_argument(
        "--trace",
        "--memory",
        dest="trace",
        metavar="FILE",
        help="a recording of memory (see rapgym record): it takes the tenant's place in the scenarios "
        "named, laptop unless named",
    )
    command.add_argument(
        "--requests", metavar="FILE", help="with --trace: serve these requests, all of them"
    )
    command.add_argument(
        "--card", type=float, metavar="GIB", help="with --trace: all memory there is, GiB"
    )
    own_traces.add_pairing(command)
    command.add_argument(
        "--every", type=at_least(1), metavar="K", help="with --trace: every K-th request only"
    )
    command.add_argument(
        "--out", type=Path, default=DEFAULT_OUT, metavar="DIR", help=f"default: {DEFAULT_OUT}"
    )
    command.add_argument(
        "--publish",
        action="store_true",
        help="copy the policies to where rapgym bench finds them: into this clone, or into the cache "
        "for scenarios on your own traces",
    )
    command.add_argument(
        "--force", action="store_true", help="overwrite policies of other runs that are there"
    )
    workers.add_options(command)
    command.add_argument("--json", action="store_true", help="print the runs as JSON")
    command.add_argument("--quiet", action="store_true", help="no progress line")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from rapgym.cli import require
    from rapgym.jobs import parallel

    require("train", "torch", "stable_baselines3", "sb3_contrib")
    from rapgym.errors import InvalidSpec
    from rapgym.jobs.progress import Progress
    from rapgym.learning import runs
    from rapgym.scenarios import catalogue

    settings = runs.settings_of(arguments.method, _stated(arguments.set))
    work = [
        runs.Run(arguments.method, story, told, seed, settings, arguments.out.absolute(),
                 arguments.start, arguments.minutes)
        for story in own_traces.tried(catalogue.named(own_traces.names(arguments)))
        for told in dict.fromkeys(arguments.told or PARTS_OF)
        for seed in range(
            arguments.seeds if arguments.told or told == "train" else arguments.fold_seeds
        )
    ]  # fmt: skip
    if not arguments.force:
        for one in work:
            if (taken := one.in_the_way(publish=arguments.publish)) is not None:
                raise InvalidSpec(
                    f"{taken} is there already, of a run with other settings, rows or weights to begin "
                    "with: name another folder with --out, or add --force to overwrite it"
                )
    jobs, ray = workers.chosen(arguments)
    if importlib.util.find_spec("tensorboard") is None and not arguments.quiet:
        print(
            "curves go to curve.csv alone: pip install tensorboard draws them too", file=sys.stderr
        )
    done: list[runs.Done] = []
    with Progress(arguments.method, len(work), quiet=arguments.quiet) as progress:
        watches = jobs == 1 and ray is None  # other processes cannot draw here
        calls = [_Call(one, _watch(progress) if watches else None) for one in work]
        for _, found in parallel.results(calls, jobs, ray=ray):
            left = 0.0 if watches and not found.was_there else 1.0
            progress.advance(left, skipped=found.was_there, note=f"{found.run.story.name}")
            done.append(found)
    done.sort(key=lambda one: work.index(one.run))
    places = [one.run.publish() if arguments.publish else one.run.path for one in done]
    print(_json(done, places) if arguments.json else _table(done, places))
    return 0


@dataclass(frozen=True)
class _Call:
    """One run, for this process or another."""

    run: "Run"
    watch: Callable[[float, str], None] | None

    def __call__(self) -> "Done":
        return self.run.do(self.watch) if self.watch else self.run.do()


def _watch(progress: "Progress") -> Callable[[float, str], None]:
    """Draws a run's own share: what a run adds up to is 1, also where it stops early."""
    before = 0.0

    def watch(share: float, note: str) -> None:
        nonlocal before
        progress.advance(max(share - before, 0.0), note=note)
        before = share if share < 1 else 0.0

    return watch


def _stated(texts: list[str]) -> dict[str, str]:
    """Settings as `--set` states them."""
    from rapgym.errors import InvalidPolicy

    for text in texts:
        if "=" not in text:
            raise InvalidPolicy(f"--set {text} is not NAME=VALUE")
    return dict(text.split("=", 1) for text in texts)


def _table(done: "list[Done]", places: list[Path]) -> str:
    """What became of each run, the best seed of a scenario marked."""
    best = {
        key: min(one.check_cost for one in done if _key(one) == key)
        for key in {_key(one) for one in done}
    }
    width = max(len(one.run.story.name) for one in done)
    lines = [f"{'scenario':{width}}  told   seed  check cost  seconds  policy"]
    for one, place in zip(done, places, strict=True):
        mark = "*" if one.check_cost == best[_key(one)] else " "
        again = "  (was there)" if one.was_there else ""
        lines.append(
            f"{one.run.story.name:{width}}  {one.run.told:5}  {one.run.seed:4}  "
            f"{one.check_cost:9.4f}{mark}  {one.seconds:7.1f}  {place}{again}"
        )
    curves = done[0].run.out / done[0].run.method
    lines.append(
        "check cost: nats an output token above dense, on the rows it stops by; * the least\n"
        f"curves: {curves}/*/*/curve.csv; tensorboard --logdir {curves}"
    )
    return "\n".join(lines)


def _key(one: "Done") -> tuple[str, str]:
    return one.run.story.name, one.run.told


def _json(done: "list[Done]", places: list[Path]) -> str:
    found: list[dict[str, Any]] = [
        {
            "method": one.run.method,
            "scenario": one.run.story.id,
            "told": one.run.told,
            "seed": one.run.seed,
            "check_cost": one.check_cost,
            "seconds": one.seconds,
            "was_there": one.was_there,
            "folder": str(one.run.folder),
            "policy": str(place),
        }
        for one, place in zip(done, places, strict=True)
    ]
    return json.dumps(found, indent=2)
