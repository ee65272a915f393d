"""One resumable measurement of a model: every design of a plan, in the order of their use."""

import importlib.metadata
import platform
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rapgym import blocks, corpus
from rapgym.progress import Progress
from rapgym.runtime import designs, samples
from rapgym.runtime.ledger import Ledger, Measurement
from rapgym.runtime.measure import Meter
from rapgym.runtime.model import LoadedModel
from rapgym.specs import FORMATS, BoolArray

ORDER_DRAWS = ("order-0", "order-1", "order-2")
JUDGED_ON = ("calib", "test")
FORMATS_ON = ("calib", "test", "test-large")


def origin(
    model: LoadedModel, *, length: int, domains: tuple[str, ...], dtype: str
) -> dict[str, Any]:
    """What decides the numbers of a ledger: measurements of two origins never mix."""
    return {
        "ledger": 1,
        "model": model.name,
        "weights_sha256": model.weights_sha256,
        "tokenizer_sha256": model.tokenizer_sha256,
        "blocks": model.blocks,
        "sequence_tokens": length,
        "texts": {
            f"{domain}.{split}": corpus.text_of(domain, split).sha256
            for domain in domains
            for split in ("calib", "test")
        },
        "samples": {name: list(sample.slots) for name, sample in samples.SAMPLES.items()},
        "dtype": dtype,
        "attention_implementation": model.network.config._attn_implementation,
        "device_kind": model.network.device.type,
    }


def surroundings(device: torch.device) -> dict[str, Any]:
    """Versions and machine, for the provenance of a table."""
    packages = ("torch", "transformers", "tokenizers", "numpy", "gguf")
    found = {
        "packages": {name: importlib.metadata.version(name) for name in packages},
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        return found | {
            "device": torch.cuda.get_device_name(device),
            "cuda": torch.version.cuda,
            "driver": _driver_version(),
        }
    return found | {"device": _processor_name(), "driver": None}


def _processor_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return f"CPU, {line.partition(':')[2].strip()}"
    return f"CPU, {platform.processor() or platform.machine()}"


def _driver_version() -> str:
    done = subprocess.run(
        ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


@dataclass(frozen=True, slots=True)
class Orders:
    """Blocks in the order in which greedy search drops them, cheapest first."""

    attention: tuple[int, ...]
    ffn: tuple[int, ...]
    joint: tuple[int, ...]


def find_orders(
    meter: Meter, plan: designs.Plan, sample: str, progress: Progress | None = None
) -> Orders:
    """The three greedy orders on one draw of calibration text."""
    n = meter.model.blocks
    found: list[list[int]] = []
    for kind, drops in enumerate((plan.attention_drops, plan.ffn_drops)):
        design, candidates = f"{blocks.KINDS[kind]}-order", list(range(kind, n, 2))
        found.append(designs.greedy_order(meter, sample, design, candidates, drops, progress))
    both = sorted(found[0] + found[1])
    joint = designs.greedy_order(meter, sample, "joint-order", both, len(both), progress)
    return Orders(tuple(found[0]), tuple(found[1]), tuple(joint))


def measure_formats(
    meter: Meter, on: Sequence[str] = FORMATS_ON, progress: Progress | None = None
) -> list[Measurement]:
    """What each format of weights and KV costs the dense model, on each sample."""
    dense = [designs.dense(meter.model.blocks)]
    return [
        row
        for sample in on
        for form in FORMATS
        for row in meter.measure(dense, sample, "formats", progress, form).values()
    ]


def run(meter: Meter, plan: designs.Plan, *, draws: int = 1, quiet: bool = False) -> Orders:
    """Measure everything that `plan` names; what the ledger has is not measured again.

    Args:
        draws: on how many draws of calibration text the orders are found; the first one's count.
    """
    n = meter.model.blocks
    per_draw = sum(plan.evaluations(n).values())
    judged = n + (plan.attention_drops + 1) * (plan.ffn_drops + 1) + plan.random + plan.near
    judged += plan.attention_drops + plan.ffn_drops
    total = (per_draw * draws + 1) * meter.weight("order-0")
    total += sum(judged * meter.weight(sample) for sample in JUDGED_ON)
    total += sum(len(FORMATS) * meter.weight(sample) for sample in FORMATS_ON)
    with Progress(f"measure {meter.model.name}", total, quiet=quiet) as progress:

        def judge(sets: Callable[[], list[BoolArray]], design: str) -> None:
            for sample in JUDGED_ON:
                meter.measure(sets(), sample, design, progress)

        meter.influence(ORDER_DRAWS[0], progress)
        meter.measure(designs.singles(n), ORDER_DRAWS[0], "single", progress)
        orders = find_orders(meter, plan, ORDER_DRAWS[0], progress)
        attention, ffn, joint = (list(o) for o in (orders.attention, orders.ffn, orders.joint))
        droppable = sorted(joint)
        judge(lambda: [designs.dense(n)], "dense")
        judge(lambda: designs.grid(n, attention, ffn, step=2), "grid")
        judge(lambda: [designs.without(n, joint[:k]) for k in range(1, len(joint))], "joint-order")
        judge(lambda: designs.singles(n), "single")
        judge(lambda: designs.random_sets(n, droppable, plan.random, plan.seed), "random")
        judge(lambda: designs.grid(n, attention, ffn), "grid")
        judge(lambda: designs.near_sets(n, attention, ffn, plan.near, plan.seed), "near")
        for sample in ORDER_DRAWS[1:draws]:
            meter.measure(designs.singles(n), sample, "single", progress)
            find_orders(meter, plan, sample, progress)
        measure_formats(meter, FORMATS_ON, progress)
    return orders


def open_meter(
    model: LoadedModel, path: Path, *, length: int, dtype: str, domains: tuple[str, ...]
) -> Meter:
    """A meter whose ledger at `path` is started or resumed."""
    described = origin(model, length=length, domains=domains, dtype=dtype)
    return Meter(model, Ledger(path, described, Measurement), length=length, domains=domains)
