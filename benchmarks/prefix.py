"""What sharing prefixes saves: the same kept sets measured in prefix order and from their first block.

    python benchmarks/prefix.py [--out baselines/results/prefix.json]

On SmolLM2-135M and a sequence of calibration text, both ways in turns, for the designs of a table
of its own orders. A measurement is the forward pass and the loss of each token; the head and the
loss run for every set either way, so the blocks alone gain more than the whole.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rapgym.arrays import BoolArray
from rapgym.quality.table import QualityTable
from rapgym.runtime import model, samples
from rapgym.runtime.measure import designs, origins
from rapgym.runtime.measure.forward import PrefixForward, prefix_order
from rapgym.runtime.measure.loss import token_loss

MODEL, LENGTH, ROUNDS, GREEDY_STEP = "smollm2-135m", 512, 3, 8
Seconds = tuple[float, float]  # of blocks, of head and loss


def designs_of(table: QualityTable) -> dict[str, list[BoolArray]]:
    """Kept sets of several designs, as `rapgym measure` asks for them."""
    n, orders = table.blocks, table.header.orders[0]
    gone, left = list(orders.joint[:GREEDY_STEP]), sorted(orders.joint[GREEDY_STEP:])
    return {
        "grid": designs.grid(n, list(orders.attention), list(orders.ffn))[:: 3],
        "joint-order": [designs.without(n, [*gone, block]) for block in left],
        "single": designs.singles(n),
        "random": designs.random_sets(n, sorted(orders.joint), 40, seed=0),
    }  # fmt: skip


def timed(network: Any, tokens: torch.Tensor, sets: Sequence[BoolArray], share: bool) -> Seconds:
    """Seconds that measuring the sets takes, blocks and losses apart."""
    forward, blocks_s, loss_s = PrefixForward(network, tokens), 0.0, 0.0
    for kept in sets:
        begun_s = time.perf_counter()
        if not share:
            forward = PrefixForward(network, tokens)
        normed = forward.normed(kept)
        passed_s = time.perf_counter()
        token_loss(network.lm_head, normed, tokens)
        blocks_s, loss_s = blocks_s + passed_s - begun_s, loss_s + time.perf_counter() - passed_s
    return blocks_s, loss_s


def compared(network: Any, tokens: torch.Tensor, sets: list[BoolArray]) -> dict[str, Any]:
    """Both ways in turns; ratios are medians over the rounds."""
    sets = [sets[index] for index in prefix_order(sets)]
    rounds = [
        [timed(network, tokens, sets, share) for share in (True, False)] for _ in range(ROUNDS)
    ]
    shared, alone = np.array(rounds).transpose(1, 0, 2)  # each [rounds, blocks and loss]
    whole = alone.sum(axis=1) / shared.sum(axis=1)
    return {
        "sets": len(sets),
        "shared_s": np.round(shared.sum(axis=1), 2).tolist(),
        "alone_s": np.round(alone.sum(axis=1), 2).tolist(),
        "times_as_fast": round(float(np.median(whole)), 2),
        "blocks_times_as_fast": round(float(np.median(alone[:, 0] / shared[:, 0])), 2),
        "share_of_loss": round(float(np.median(shared[:, 1] / shared.sum(axis=1))), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    loaded, table = model.load(MODEL), QualityTable.load(MODEL)
    ids = samples.token_ids(loaded.tokenizer, "wiki", "calib")
    tokens = torch.from_numpy(samples.sequences(ids, samples.SAMPLES["order-0"], LENGTH))
    found: dict[str, Any] = {}
    with torch.inference_mode():
        timed(loaded.network, tokens, designs.singles(table.blocks)[:2], share=False)  # warm up
        for name, sets in designs_of(table).items():
            found[name] = compared(loaded.network, tokens, sets)
            print(name, found[name], flush=True)
    if arguments.out:
        told = {
            "model": MODEL,
            "table_sha256": table.sha256,
            "tokens": LENGTH,
            "dtype": str(loaded.network.dtype).removeprefix("torch."),
            "rounds": ROUNDS,
            "surroundings": origins.surroundings(loaded.network.device),
            "designs": found,
        }
        arguments.out.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
