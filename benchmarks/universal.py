"""Trains one `hindsight` network on several scenarios, for `learning.py universal`.

Of fixed length: nothing stops it early. It opens the rows of `fit` of each scenario, none later.
"""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rapgym import heldout
from rapgym.baselines.hindsight import Settings, kept_sets
from rapgym.policies import trained
from rapgym.policies.policy import briefing
from rapgym.policies.trained import TrainedPolicy
from rapgym.scenarios import catalogue
from rapgym.scenarios.lanes import TOKEN_SCALES

SETTINGS = Settings(seconds=1500, pairs=24_000, batch=520)  # less of each scenario, for memory


def train(names: Sequence[str], seed: int, path: Path) -> None:
    """Train on these scenarios, told of train, and write the policy to `path`, unless it is there."""
    import torch

    from rapgym.learning.hindsight.counterfactual import Recorded
    from rapgym.learning.hindsight.features import Inputs
    from rapgym.learning.pooled import Pool

    if path.is_file():
        return
    torch.set_num_threads(1)
    began, records = time.monotonic(), []
    with heldout.only("fit") as opened:
        for name in names:
            told = briefing(catalogue.scenario(name), "fit")
            seconds = min(SETTINGS.seconds, told.train.rows.limit_bytes.size)
            recorded = Recorded.of(
                told.train, told.layout, kept_sets(told)[0], seconds=seconds,
                demands=SETTINGS.pairs // SETTINGS.seconds, scales=TOKEN_SCALES,
                rng=np.random.default_rng([seed, 2]),
            )  # fmt: skip
            records.append((recorded, Inputs(told.layout)))
        blind = np.zeros(len(records[0][1].group), dtype=bool)
        pool = Pool(records, blind, SETTINGS, seed)
        for round in range(SETTINGS.rounds):
            pool.learn(int(np.random.SeedSequence([seed, round]).generate_state(1)[0]), round)
        story = catalogue.scenario(names[0])
        whole = trained.observation_of(records[0][0].layout)
        training = {
            "opened": sorted(opened), "scenarios": list(names), "learned_on": "fit",
            "settings": dataclasses.asdict(SETTINGS), "seconds": round_s(began),
        }  # fmt: skip
        policy = TrainedPolicy(
            method="hindsight", scenario=story.id, told="train", seed=seed,
            observation={name: whole[name] for name in ("schema", "blocks")}, training=training,
            arrays=pool.arrays(), **trained.basis(story),
        )  # fmt: skip
    trained.write(path, policy)


def round_s(began: float) -> float:
    """Seconds since then."""
    return round(time.monotonic() - began, 1)
