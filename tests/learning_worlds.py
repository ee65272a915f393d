"""Small training runs on the toy scenario, and networks in torch to compare shipped ones with."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rapgym.learning import runs
from rapgym.scenarios.story import Scenario

METHODS = ("dqn", "maskable_ppo", "ppo_counts")
# A few hundred steps: enough to change weights, to fill buffers and to end episodes.
SMALL: dict[str, dict[str, str]] = {
    "dqn": {"steps": "600", "rounds": "3", "lanes": "4", "buffer": "400", "batch": "16",
            "parameters": "2000", "explore": "0.6", "row_discount": "0.5"},
    "maskable_ppo": {"steps": "480", "rounds": "3", "lanes": "4", "rollout": "40", "batch": "40",
                     "width": "8"},
    "ppo_counts": {"steps": "480", "rounds": "3", "lanes": "4", "rollout": "40", "batch": "40",
                   "width": "8"},
}  # fmt: skip


def small_run(method: str, story: Scenario, out: Path, seed: int = 0, **settings: str) -> runs.Run:
    found = runs.settings_of(method, SMALL[method] | settings)
    return runs.Run(method, story, "train", seed, found, out)


def arrays_of(run: runs.Run) -> dict[str, np.ndarray]:
    found = run.finished()
    assert found is not None
    return found.arrays


def torch_network(arrays: dict[str, np.ndarray], prefix: str) -> Callable[[Any], np.ndarray]:
    """The network that the arrays are of, as torch computes it from whole observations."""
    layers: list[nn.Module] = []
    for i in range(3):
        weight = torch.from_numpy(arrays[f"{prefix}{i}_weight"].astype(np.float32))
        layer = nn.Linear(*weight.shape)
        layer.weight.data = weight.T.contiguous()
        layer.bias.data = torch.from_numpy(arrays[f"{prefix}{i}_bias"].astype(np.float32))
        layers += [layer, nn.ReLU()]
    network = nn.Sequential(*layers[:-1])
    mean, scale = torch.from_numpy(arrays["mean"]), torch.from_numpy(arrays["scale"])

    def values(observation: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            found: np.ndarray = network((torch.from_numpy(observation) - mean) * scale).numpy()
        return found

    return values


@contextmanager
def toy_alone(folder: Path) -> Iterator[Scenario]:
    """The toy scenario in a process of its own, as the fixture `toy_story` gives it to a test."""
    import conftest
    import toy_table
    import toy_world

    from rapgym.model import shapes
    from rapgym.scenarios import catalogue

    story = replace(toy_world.STORY, workload=str(folder / "toy"))
    listed = tuple(sorted((*catalogue.shipped(), story), key=catalogue.place))
    with conftest._tables(toy=toy_table.toy_table()) as patch:
        patch.setattr(shapes, "MODELS", (*shapes.MODELS, toy_world.MODEL))
        patch.setattr(catalogue, "shipped", lambda: listed)
        yield story


def main() -> None:
    """Train METHOD in OUT on the toy workload of FOLDER, and die once more than SHARE is done."""
    import os
    import signal

    method, folder, out, share = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]

    def watch(done: float, note: str) -> None:
        if done > float(share):
            os.kill(os.getpid(), signal.SIGKILL)

    with toy_alone(folder) as story:
        small_run(method, story, out).do(watch, checkpoint_s=0.0)


if __name__ == "__main__":
    main()
