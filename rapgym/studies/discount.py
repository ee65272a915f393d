"""Which discount and which normalisation suit a learner of others: `results/discount.json`.

`python -m rapgym.studies.discount` trains Stable-Baselines3's PPO, as it comes, on learn rows of
RAP-Counts-v0 and takes its likeliest actions on check rows; both are parts of train.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

from rapgym import heldout
from rapgym.files import places, writing
from rapgym.jobs import parallel
from rapgym.jobs.progress import Progress
from rapgym.rollout import rollout

OUT = places.RESULTS / "discount.json"
SCENARIOS = ("laptop", "chat-bursty-8bit")
GAMMAS = (0.0, 0.5, 0.9, 0.99)
# Each discount with both normalised, and each normalisation at one discount.
NORMALS = {"none": (False, False), "observations": (True, False), "both": (True, True)}
CASES = [(gamma, "both") for gamma in GAMMAS] + [(0.0, "none"), (0.0, "observations")]
SEEDS, STEPS, LANES = 3, 60_000, 64
BESIDE = ("keep-all", "frontier")  # what costs nothing to learn
DECIMALS = 6


def trained(scenario: str, gamma: float, normal: str, seed: int) -> float:
    """Cost on check rows after a training, nats an output token."""
    from rapgym.learning.sb3 import plain

    observations, reward = NORMALS[normal]
    with heldout.only("train", "learn", "check"):
        policy = plain.ppo(
            scenario, STEPS, lanes=LANES, gamma=gamma, observations=observations, reward=reward, seed=seed
        )  # fmt: skip
        log = rollout.run_policy(policy, scenario, "check", seed=seed)
    return round(log.mean_cost, DECIMALS)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT, metavar="FILE")
    parser.add_argument("--jobs", type=int, default=parallel.processors(), metavar="N")
    arguments = parser.parse_args()
    asked = [
        (scenario, gamma, normal, seed)
        for scenario in SCENARIOS
        for gamma, normal in CASES
        for seed in range(SEEDS)
    ]
    costs: dict[int, float] = {}
    with Progress("discount", len(asked)) as progress:
        for place, cost in parallel.results(
            [partial(trained, *case) for case in asked], arguments.jobs
        ):
            costs[place] = cost
            progress.advance(note=f"{asked[place][0]}, gamma {asked[place][1]:g}")
    found: dict[str, Any] = {
        scenario: {
            "beside": {
                name: round(rollout.run_policy(name, scenario, "check").mean_cost, DECIMALS)
                for name in BESIDE
            },
            "trained": [
                {"gamma": gamma, "normalised": normal,
                 "costs": [costs[asked.index((scenario, gamma, normal, seed))] for seed in range(SEEDS)]}
                for gamma, normal in CASES
            ],
        }
        for scenario in SCENARIOS
    }  # fmt: skip
    held = {"steps": STEPS, "lanes": LANES, "scenarios": found}
    with writing.written_aside(arguments.out) as file:
        file.write((json.dumps(held, indent=1) + "\n").encode())
    for scenario, each in found.items():
        print(scenario, each["beside"])
        for case in each["trained"]:
            print(f"  gamma {case['gamma']:<5g} {case['normalised']:<13} {case['costs']}")


if __name__ == "__main__":
    main()
