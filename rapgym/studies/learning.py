"""What a learned policy is made of, and how far it carries: ablations, transfer, fine-tuning.

    python -m rapgym.studies.learning ablations transfer finetune --jobs 2

Each experiment trains what it needs under `runs/` (what is there is not trained again) and replaces
its own part of results/learning.json. Costs on test are with test columns, as `rapgym bench` scores.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rapgym.bench import cells, results, score
from rapgym.files import places, writing
from rapgym.jobs import parallel
from rapgym.policies import registry, trained
from rapgym.policies.policy import Told, briefing, held_out
from rapgym.rollout import rollout
from rapgym.scenarios import catalogue

METHOD = "hindsight"
OUT, BENCH = places.RESULTS / "learning.json", places.RESULTS / "bench.csv.xz"
RUNS = Path("runs")
ABLATIONS = {
    "whole": {},
    "without history": {"history": "false"},
    "without the limit's recent seconds": {"recent_seconds": "false"},
    "without KV share and demand": {"kv_share": "false"},
    "myopic": {"continuation": "false"},
}
ABLATED = ("chat-beside-code", "chat-mixed-8bit", "code-8bit")
SEEDS = 3  # of ablations and of fine-tuning
FIT: Told = "fit-3"  # told of the first two thirds of train
FROM, TUNED_ON = "chat-beside-code", "laptop"  # where fine-tuning begins, and what it is for
TRANSFER_SEEDS = 1


@dataclass(frozen=True)
class Judged:
    """One trained policy on one scenario."""

    scenario: str
    variant: str
    seed: int
    validation_cost: float | None  # calibration columns; None where it has seen these rows
    test_cost: float  # test columns
    seconds: float  # that training took, an earlier part it began from left out

    def record(self) -> dict[str, Any]:
        return {"scenario": self.scenario, "variant": self.variant, "seed": self.seed,
                "validation_cost": self.validation_cost, "test_cost": self.test_cost,
                "seconds": self.seconds}  # fmt: skip


def judged(name: str, variant: str, file: str) -> Judged:
    """A policy's file on a scenario's validation and test rows."""
    story, run = catalogue.scenario(name), trained.load(file)
    run.check_held_out()
    entry = registry.entry(run.method)
    make = partial(registry.build, entry, {"file": file})
    log = rollout.run(make, story, "test", briefing(story), run.seed)
    cell = cells.scored(story, cells.described(story, entry.name, entry.kind), log)
    cost = score.mean_cost(np.round(cell.test_cost, results.DECIMALS), cell.log.output_tokens)
    validation = None
    if run.told != "train":
        told = briefing(story, run.told)
        validation = rollout.run(make, story, held_out(run.told), told, run.seed).mean_cost
    return Judged(name, variant, run.seed, validation, cost, float(run.training["seconds"]))


def trained_then_judged(
    name: str, variant: str, seed: int, told: Told, texts: dict[str, str], start: str
) -> Judged:
    """The same of a policy that is trained first, unless it has been."""
    from rapgym.learning import runs

    settings, story = runs.settings_of(METHOD, texts), catalogue.scenario(name)
    folder = (RUNS / variant.replace(" ", "-")).absolute()
    run = runs.Run(METHOD, story, told, seed, settings, folder, start)
    run.do()
    return judged(name, variant, str(run.path))


def shipped(name: str, told: Told, seed: int) -> str:
    """The name of a run that rapgym ships."""
    return trained.place(METHOD, catalogue.scenario(name), told, seed)


def plain(name: str, variant: str, seed: int) -> Callable[[], Judged]:
    """The method as it is, told of `FIT`: as rapgym ships it, and where that seed is not shipped, trained here."""
    if seed in trained.seeds(METHOD, catalogue.scenario(name), FIT):
        return partial(judged, name, variant, shipped(name, FIT, seed))
    return partial(trained_then_judged, name, variant, seed, FIT, {}, "")


def ablations() -> list[Callable[[], Judged]]:
    """Each switch turned off, a few seeds each: told of two thirds of train, so that the last can judge it too."""
    return [
        partial(trained_then_judged, name, variant, seed, FIT, texts, "")
        if texts
        else plain(name, variant, seed)
        for name in ABLATED
        for variant, texts in ABLATIONS.items()
        for seed in range(SEEDS)
    ]


def transfer() -> list[Callable[[], Judged]]:
    """What was trained on one scenario, tested on each: variant says on which."""
    names = [story.name for story in catalogue.by_default()]
    return [
        partial(judged, tested, learned, shipped(learned, "train", seed))
        for learned in names
        for tested in names
        for seed in range(TRANSFER_SEEDS)
    ]


def finetune() -> list[Callable[[], Judged]]:
    """Before, after and against training anew, on a recording of one's own: all begin with one policy."""
    start = shipped(FROM, FIT, 0)
    found: list[Callable[[], Judged]] = [partial(judged, TUNED_ON, "before", start)]
    for seed in range(SEEDS):
        found += [
            partial(trained_then_judged, TUNED_ON, "after", seed, FIT, {}, start),
            plain(TUNED_ON, "anew", seed),
        ]
    return found


EXPERIMENTS: dict[str, Callable[[], list[Callable[[], Judged]]]] = {
    "ablations": ablations, "transfer": transfer, "finetune": finetune,
}  # fmt: skip


def ends() -> dict[str, dict[str, float]]:
    """Of each scenario the costs on test that foresight is measured between, from the bench."""
    wanted = ("frontier", "bound")
    found: dict[str, dict[str, float]] = {}
    for entry in results.read(BENCH).scores:
        if entry.policy in wanted:
            name = entry.scenario.rpartition("-v")[0]
            found.setdefault(name, {})[entry.policy] = entry.cost
    return found


def write(parts: dict[str, Any]) -> None:
    """Replace these parts of the results file."""
    before = json.loads(OUT.read_text()) if OUT.is_file() else {}
    with writing.written_aside(OUT) as file:
        file.write((json.dumps({**before, **parts}, indent=1, sort_keys=True) + "\n").encode())


def main(argv: Sequence[str] | None = None) -> None:
    """Run the experiments that are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiments", nargs="+", choices=EXPERIMENTS)
    parser.add_argument("--jobs", type=int, default=parallel.processors())
    arguments = parser.parse_args(argv)
    for name in arguments.experiments:
        calls = EXPERIMENTS[name]()
        found: list[Judged | None] = [None] * len(calls)
        for place, one in parallel.results(calls, arguments.jobs):
            found[place] = one
            print(
                f"{name} {sum(each is not None for each in found)}/{len(calls)} {one}", flush=True
            )
        write({name: [each.record() for each in found if each], "method": METHOD, "ends": ends()})


if __name__ == "__main__":
    main()
