"""Model cards of the trained policies that rapgym ships, from their files and the bench: `make readme`."""

import importlib
from collections.abc import Sequence
from statistics import median

import numpy as np

from rapgym.bench.records import Score
from rapgym.bench.results import Results
from rapgym.policies import registry, trained
from rapgym.policies.policy import KNOWN
from rapgym.policies.registry import Entry
from rapgym.policies.trained import TrainedPolicy
from rapgym.report.bench import interval, interval_of, rests_on
from rapgym.report.markdown import table
from rapgym.scenarios import catalogue


def cards(found: Results) -> dict[str, str]:
    """The card of each method that has trained policies, by the name of its file."""
    made = {}
    for entry in registry.POLICIES:
        runs = shipped(entry)
        if runs:
            made[f"{entry.name}.md"] = card(entry, runs, found.scores)
    return made


def shipped(entry: Entry) -> list[tuple[str, TrainedPolicy]]:
    """Scenario and run of everything that is shipped of a method, in the order of scenarios."""
    if not entry.train:
        return []
    return [
        (story.name, trained.load(trained.place(entry.name, story, told, seed)))
        for story in catalogue.by_default()
        for told in KNOWN
        for seed in trained.seeds(entry.name, story, told)
    ]


def card(entry: Entry, runs: Sequence[tuple[str, TrainedPolicy]], entries: Sequence[Score]) -> str:
    """One method's card, in Markdown."""
    module = importlib.import_module(entry.train.partition(":")[0])
    every = [run for _, run in runs]
    seconds = [float(run.training["seconds"]) for run in every]
    first = every[0].training
    numbers = sorted({sum(array.size for array in run.arrays.values()) for run in every})
    told = sorted({run.told for run in every})
    packages = ", ".join(f"{name} {version}" for name, version in sorted(first["packages"].items()))
    judged = {e.scenario: e for e in entries if e.policy == entry.name}
    parts = [
        f"# {entry.name}",
        f"{entry.summary[0].upper()}{entry.summary[1:]}.",
        (module.__doc__ or "").strip(),
        "## What it is for",
        "Comparison in rapgym's scenarios. It knows one quality table and the traffic of one scenario: "
        "on other models or other traffic retrain it, or read in "
        "[RESULTS.md](../../baselines/results/RESULTS.md) how far it carries over. Whatever it proposes, the "
        "shield executes only what fits.",
        "## What it was trained on",
        f"{len(runs)} runs: {len({name for name, _ in runs})} scenarios, seeds "
        f"{', '.join(map(str, sorted({run.seed for run in every})))}, told of {' and of '.join(told)}. Rows and "
        "calibration columns that training may not open raise an error there; what each run did open "
        "stands in its file. No test row and no test column was opened.",
        "Settings: " + ", ".join(f"{k} {v}" for k, v in first["settings"].items()) + ".",
        "## What it cost",
        f"Seconds a run: median {median(seconds):.0f}, longest {max(seconds):.0f}; all of them together "
        f"{sum(seconds) / 3600:.1f} hours of one core, on {first.get('machine', 'a CPU')}, with other work "
        f"beside it. Packages: {packages}.",
        f"Numbers in a file: {numbers[0]:,}" + (f" to {numbers[-1]:,}." if numbers[1:] else "."),
        "## How it does",
        results_of(judged),
    ]
    return "\n\n".join(parts) + "\n"


def results_of(judged: dict[str, Score]) -> str:
    """Scores on test, scenario by scenario, and how far seeds lie apart."""
    rows = []
    for name, e in judged.items():
        costs = np.array(e.seed_costs)
        rows.append(
            [
                f"`{name}`",
                f"{e.cost:.4f}",
                f"{costs.min():.4f} to {costs.max():.4f}",
                interval(e.gain, e.gain_low, e.gain_high),
                "-" if e.foresight is None else f"{e.foresight:.1f}",
                interval_of(e.low, e.high),
                e.verdict or "-",
                rests_on(e),
                f"{e.decision_us_p50:.0f}",
            ]
        )
    heads = ("scenario", "cost", "of its seeds", "gain [95 %]", "foresight",
             "from lookup [95 %]", "verdict", "rests on", "us, p50")  # fmt: skip
    return (
        "Nats an output token above the full model on test text; the mean of the seeds, "
        "and the least and the most of them. Intervals are of rows and of seeds.\n\n"
        + table(heads, rows)
    )
