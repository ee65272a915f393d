"""A decoder-only transformers model as a row of N blocks on a residual stream."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from rapgym.errors import InvalidSpec
from rapgym.files import checked
from rapgym.model import pretrained
from rapgym.runtime.layers import BLOCKS, NORMS, layers_of


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to run, with what its tables say of its origin."""

    name: str
    network: Any  # a transformers ...ForCausalLM
    tokenizer: Any
    weights_sha256: str
    tokenizer_sha256: str

    @property
    def layers(self) -> int:
        return len(layers_of(self.network))

    @property
    def blocks(self) -> int:
        return 2 * self.layers


def load(name: str, *, dtype: str = "bfloat16", device: str = "cpu") -> LoadedModel:
    """Load a known model (after `rapgym models pull`), a folder, or a hub id.

    Raises:
        DataUnavailable: a known model that was not pulled.
        InvalidSpec: its layers are not attention and FFN on one residual stream, or differ in size.
    """
    options: dict[str, Any] = {}
    if model := pretrained.known(name):
        path = checked.checked(model.file, model.sha256, f"run: rapgym models pull {model.name}")
        source, options["gguf_file"] = str(path.parent), path.name
        weights_sha256 = model.sha256
    else:
        source, weights_sha256 = name, _weights_sha256(Path(name))
    transformers.utils.logging.disable_progress_bar()
    network = transformers.AutoModelForCausalLM.from_pretrained(
        source, dtype=getattr(torch, dtype), attn_implementation="sdpa", **options
    )
    network.requires_grad_(False).eval().to(device)
    check_layers(name, network)
    tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
    described = tokenizer.backend_tokenizer.to_str().encode()
    tokenizer_sha256 = hashlib.sha256(described).hexdigest()
    return LoadedModel(name, network, tokenizer, weights_sha256, tokenizer_sha256)


def check_layers(name: str, network: Any) -> None:
    """Refuse a network whose layers cannot be dropped block by block.

    Raises:
        InvalidSpec: a layer lacks a part, or blocks of one kind differ in size.
    """
    layers = layers_of(network)
    # In the order in which they work.
    parts = [part for pair in zip(NORMS, BLOCKS, strict=True) for part in pair]
    if not layers or not all(hasattr(view.layer, part) for view in layers for part in parts):
        raise InvalidSpec(
            f"{name}: its decoder layers are not pre-norm attention and FFN on one residual "
            f"stream (wanted {', '.join(parts)}); Llama, Qwen and SmolLM2 families are"
        )
    for kind, part in enumerate(BLOCKS):
        sizes = {sum(p.numel() for p in view.block(kind).parameters()) for view in layers}
        if len(sizes) != 1:
            raise InvalidSpec(f"{name}: {part} blocks differ in size ({sorted(sizes)} weights)")


def _weights_sha256(folder: Path) -> str:
    """Hash of all weight files of a folder in name order; empty for a hub id."""
    if not folder.is_dir():
        return ""
    digest = hashlib.sha256()
    for file in sorted([*folder.glob("*.safetensors"), *folder.glob("*.gguf")]):
        digest.update(bytes.fromhex(checked.sha256_of(file)))
    return digest.hexdigest()
