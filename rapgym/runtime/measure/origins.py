"""What decides a measurement's numbers, and on what machine and with which packages it was made."""

import importlib.metadata
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rapgym.model.shapes import BF16, Format
from rapgym.quality import texts as quality_texts
from rapgym.runtime import samples
from rapgym.runtime.measure.ledger import form_name
from rapgym.runtime.model import LoadedModel


def origin(
    model: LoadedModel,
    *,
    length: int,
    domains: tuple[str, ...],
    dtype: str,
    texts: quality_texts.Texts = quality_texts.SHIPPED,
    form: Format = BF16,
    chosen: Mapping[str, samples.Sample] = samples.SAMPLES,
) -> dict[str, Any]:
    """What decides the numbers of a ledger: measurements of two origins never mix."""
    rounded = {} if form == BF16 else {"format": form_name(form)}
    return rounded | {
        "ledger": 1,
        "model": model.name,
        "weights_sha256": model.weights_sha256,
        "tokenizer_sha256": model.tokenizer_sha256,
        "blocks": model.blocks,
        "sequence_tokens": length,
        "texts": {
            f"{domain}.{split}": texts.sha256(domain, split)
            for domain in domains
            for split in quality_texts.SPLITS
        },
        "samples": {name: list(sample.slots) for name, sample in chosen.items()},
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
