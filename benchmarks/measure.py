"""What `rapgym measure` saves over a plain transformers loop, design by design, and on what share of the machine.

    python benchmarks/measure.py [--out baselines/results/measuring.json]

On SmolLM2-135M and a sequence of calibration text of each domain, one thread. The plain loop calls the
network for each kept set, dropped blocks adding nothing, and takes losses, divergence and agreement from
whole logits; it runs sequences one by one or together, whichever is faster here. From each design of a
table some sets are drawn; each is measured both ways in turn, ours right after its neighbour in the whole
design's order, so that it shares what it would share there. The whole is the mean over all measurements of a
table, each design by its number.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rapgym.arrays import BoolArray
from rapgym.files import provenance, writing
from rapgym.model import blocks
from rapgym.quality import texts as quality_texts
from rapgym.quality.table import QualityTable
from rapgym.runtime import model, samples
from rapgym.runtime.layers import layers_of
from rapgym.runtime.measure import campaign, designs, flops, origins
from rapgym.runtime.measure.forward import prefix_order
from rapgym.runtime.model import LoadedModel

MODEL, LENGTH, SETS, STEP, SLOT = "smollm2-135m", 512, 6, 8, 2
AGREE = 0.05  # nats a token by which both ways may differ: bfloat16 rounds in another order


@dataclass(frozen=True, slots=True)
class Design:
    """Kept sets as one call measures them, and how many measurements of a table are like them."""

    sets: list[BoolArray]
    weight: int  # sequences of each domain, over all its sets
    divergence: bool


class Nothing(nn.Module):
    """Stands for a dropped block."""

    def __init__(self, attention: bool) -> None:
        super().__init__()
        self._attention = attention

    def forward(self, *args: torch.Tensor, **named: Any) -> Any:
        stream = args[0] if args else named["hidden_states"]
        return (torch.zeros_like(stream), None) if self._attention else torch.zeros_like(stream)


@contextmanager
def only(network: Any, kept: BoolArray) -> Iterator[None]:
    """The network without the blocks that are dropped."""
    layers, own = layers_of(network), {}
    for block in np.flatnonzero(~kept):
        layer, kind = layers[block // 2], int(block % 2)
        own[block] = layer.block(kind)
        layer.put(kind, Nothing(attention=kind == 0))
    try:
        yield
    finally:
        for block, module in own.items():
            layers[block // 2].put(int(block % 2), module)


class Plain:
    """A loop as one writes it: the network, its logits, and what they say."""

    def __init__(self, network: Any, tokens: torch.Tensor, divergence: bool, together: int) -> None:
        self._network, self._parts, self._divergence = network, tokens.split(together), divergence
        self._dense = [self._told(part) for part in self._parts]
        self._nll = torch.cat(
            [self._loss(p, own) for p, own in zip(self._parts, self._dense, strict=True)]
        )

    def _told(self, tokens: torch.Tensor) -> torch.Tensor:
        logits = self._network(tokens, use_cache=False).logits
        return torch.log_softmax(logits[:, :-1].float(), -1)

    @staticmethod
    def _loss(tokens: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        return -told.gather(-1, tokens[:, 1:, None])[..., 0]

    def measured(self, kept: BoolArray) -> tuple[float, float | None, float | None]:
        """Nats a token above dense, divergence from it, and how often both say the same."""
        losses, divergences, agrees = [], [], []
        with only(self._network, kept):
            for tokens, dense in zip(self._parts, self._dense, strict=True):
                told = self._told(tokens)
                losses.append(self._loss(tokens, told))
                if self._divergence:
                    divergences.append((dense.exp() * (dense - told)).sum(-1))
                    agrees.append((told.argmax(-1) == dense.argmax(-1)).float())
        nll = float((torch.cat(losses) - self._nll).mean())
        if not self._divergence:
            return nll, None, None
        return nll, float(torch.cat(divergences).mean()), float(torch.cat(agrees).mean())


def tokens_of(loaded: LoadedModel, domains: Sequence[str]) -> torch.Tensor:
    """A sequence of calibration text of each domain, int64 [domains, length]."""
    sample = samples.Sample("drawn", "calib", (SLOT,))
    ids = (samples.token_ids(loaded.tokenizer, domain, "calib") for domain in domains)
    return torch.from_numpy(
        np.concatenate([samples.sequences(each, sample, LENGTH) for each in ids])
    )


def quicker(network: Any, tokens: torch.Tensor) -> int:
    """Sequences that a plain pass takes at once, so that the loop is fastest."""
    took: dict[int, float] = {}
    for together in (1, len(tokens), 1, len(tokens)):  # the first of each warms up
        plain = Plain(network, tokens, divergence=True, together=together)
        begun_s = time.perf_counter()
        plain.measured(designs.dense(2 * len(layers_of(network))))
        took[together] = time.perf_counter() - begun_s
    return min(took, key=lambda together: took[together])


def designs_of(table: QualityTable) -> dict[str, Design]:
    """The designs of a whole table on a CPU, as `rapgym measure` asks for them by default."""
    n, orders = table.blocks, table.header.orders[0]
    attention, ffn, joint = list(orders.attention), list(orders.ffn), list(orders.joint)
    plan = designs.Plan(len(attention), len(ffn))
    per_draw = plan.evaluations(n)
    judged = sum(len(samples.SAMPLES[name].slots) for name in campaign.JUDGED_ON)
    found = {"single": Design(designs.singles(n), per_draw["single"], False)}
    for name, order, candidates in (
        ("attention-order", attention, range(0, n, 2)),
        ("ffn-order", ffn, range(1, n, 2)),
        ("joint-order", joint, joint),
    ):
        gone = order[: min(STEP, len(order) // 2)]
        tried = [designs.without(n, [*gone, b]) for b in sorted(candidates) if b not in gone]
        found[name] = Design(tried, per_draw[name], False)
    for name, sets in (
        ("grid", designs.grid(n, attention, ffn)),
        ("random", designs.random_sets(n, sorted(joint), plan.random, plan.seed)),
        ("near", designs.near_sets(n, attention, ffn, plan.near, plan.seed)),
    ):
        found[name] = Design(sets, len(sets) * judged, True)
    return found


def drawn(count: int, among: int) -> list[int]:
    """Places spread over an order of at least twice as many, each with a neighbour before it not among them."""
    return sorted({int(place) for place in np.linspace(1, among - 1, count)})


def compared(
    loaded: LoadedModel, design: Design, domains: Sequence[str], together: int
) -> dict[str, Any]:
    """Seconds a set that both ways take, one in turn with the other."""
    sample = samples.Sample("drawn", "calib", (SLOT,), design.divergence)
    in_order = [design.sets[index] for index in prefix_order(design.sets)]
    ours, theirs, apart = list[float](), list[float](), list[float]()
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        meter = campaign.open_meter(
            loaded, Path(folder) / "ledger.jsonl", length=LENGTH, dtype="bf16",
            domains=tuple(domains), chosen={sample.name: sample},
        )  # fmt: skip
        with meter.ledger:
            plain = Plain(loaded.network, tokens_of(loaded, domains), design.divergence, together)
            for place in drawn(SETS, len(in_order)):
                meter.measure([in_order[place - 1]], sample.name, "before")
                kept = in_order[place]
                begun_s = time.perf_counter()
                row = meter.measure([kept], sample.name, "timed")[blocks.key(kept)]
                ours.append(time.perf_counter() - begun_s)
                begun_s = time.perf_counter()
                nll, _, _ = plain.measured(kept)
                theirs.append(time.perf_counter() - begun_s)
                apart.append(abs(nll - row.mean_nll))
            timed = [row for row in meter.ledger.found.values() if row.design == "timed"]
    if max(apart) > AGREE:
        raise SystemExit(f"the two ways differ by {max(apart):.3f} nats a token: one is wrong")
    return {
        "sets": len(design.sets),
        "measurements": design.weight,
        "ours_s": round(float(np.mean(ours)), 3),
        "plain_s": round(float(np.mean(theirs)), 3),
        "times_as_fast": round(sum(theirs) / sum(ours), 2),
        "share_of_product": flops.achieved(timed)["share"],
        "apart_nats": round(max(apart), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    loaded, table, domains = model.load(MODEL), QualityTable.load(MODEL), quality_texts.here()
    with torch.inference_mode():
        together = quicker(loaded.network, tokens_of(loaded, domains))
    print(f"a plain pass takes {together} sequences at once")
    found: dict[str, Any] = {}
    for name, design in designs_of(table).items():
        found[name] = compared(loaded, design, domains, together)
        print(name, found[name], flush=True)
    weights = [each["measurements"] for each in found.values()]
    plain, ours = (
        float(np.dot(weights, [each[way] for each in found.values()]))
        for way in ("plain_s", "ours_s")
    )
    print(f"a whole table: {plain / ours:.2f} times as fast")
    if asked.out:
        told = {
            "command": "python benchmarks/measure.py",
            "model": MODEL, "table_sha256": table.sha256, "tokens": LENGTH, "domains": list(domains),
            "dtype": str(loaded.network.dtype).removeprefix("torch."),
            "plain_sequences_at_once": together,
            "surroundings": origins.surroundings(loaded.network.device),
            "designs": found,
            "whole_times_as_fast": round(plain / ours, 2),
            "commit": provenance.commit(),
        }  # fmt: skip
        with writing.written_aside(asked.out) as file:
            file.write((json.dumps(told, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
