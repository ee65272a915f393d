"""A four-way choice of the true continuation: quality beyond perplexity. Ours, no public benchmark.

An item is 64 tokens of test text and four continuations of 16 tokens: the true one, and three that
continue other such stretches of the same document. Chosen is the one with the highest summed
log-likelihood. One sequence holds an item: the context once, behind it the four continuations, each
of which sees the context and itself: P = 64 + 4 * 16 tokens.
"""

import hashlib
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rapgym.arrays import BoolArray, IntArray
from rapgym.errors import InvalidSpec
from rapgym.jobs.progress import Progress
from rapgym.model import blocks
from rapgym.model.shapes import BF16, Format
from rapgym.quality import texts
from rapgym.runtime import rounding
from rapgym.runtime.measure.forward import PrefixForward, prefix_order
from rapgym.runtime.measure.ledger import PLAIN, Ledger, form_name
from rapgym.runtime.measure.loss import token_loss
from rapgym.runtime.model import LoadedModel

CONTEXT, CONTINUATION, CHOICES = 64, 16, 4  # tokens, tokens, continuations
WINDOW = CONTEXT + CONTINUATION
ITEMS = 100  # of a domain
GROUP = 12  # items run together

# Where one document ends and the next begins. Between two empty lines, specs may hold less than a
# document, never parts of two.
BOUNDARIES = {
    "books": re.compile(r"\n\n"),
    "specs": re.compile(r"\n\n\n+"),
    "wiki": re.compile(r"^(?= = [^=\n]+ = $)", re.MULTILINE),
}


@dataclass(frozen=True, slots=True)
class Choices:
    """What one kept set in one format chose, item by item."""

    key: str
    right: str  # "1" where the true continuation was the most likely of the four, else "0"
    blocks_run: int
    seconds: float
    form: str = PLAIN

    @property
    def place(self) -> tuple[str, str]:
        """Key, format."""
        return self.key, self.form


def documents(text: str, domain: str) -> list[str]:
    """The documents of a domain's text, in order; specs: stretches of them."""
    return [document for document in BOUNDARIES[domain].split(text) if document.strip()]


def items(tokenizer: Any, domain: str, count: int, seed: int = 0) -> IntArray:
    """Items of one domain's test text, int64 [count, P]: context, truth, three distractors.

    Documents are cut into stretches of 80 tokens; the items are spread evenly over those of all
    documents that have four different continuations.

    Raises:
        InvalidSpec: the text is too short.
    """
    found: list[tuple[IntArray, int]] = []  # a document's stretches, and the one that asks
    for document in documents(texts.read(domain, "test"), domain):
        ids = np.asarray(tokenizer(document, add_special_tokens=False)["input_ids"], dtype=np.int64)
        windows = ids[: len(ids) // WINDOW * WINDOW].reshape(-1, WINDOW)
        if len(np.unique(windows[:, CONTEXT:], axis=0)) >= CHOICES:
            found += [(windows, index) for index in range(len(windows))]
    if len(found) < count:
        raise InvalidSpec(f"{domain}: its test text has {len(found)} stretches for {count} items")
    rng, packed = np.random.default_rng(seed), []
    for place in (np.arange(count) * len(found)) // count:
        windows, index = found[place]
        continuations = windows[:, CONTEXT:]
        chosen = [continuations[index]]
        for other in rng.permutation(len(windows)):
            if len(chosen) < CHOICES and not any((continuations[other] == c).all() for c in chosen):
                chosen.append(continuations[other])
        packed.append(np.concatenate([windows[index, :CONTEXT], *chosen]))
    return np.stack(packed)


def layout() -> tuple[IntArray, BoolArray]:
    """Positions of a packed item's P tokens, int64 [P], and who sees whom, bool [P, P]."""
    branch = np.concatenate([np.full(CONTEXT, -1), np.repeat(np.arange(CHOICES), CONTINUATION)])
    tail = np.tile(CONTEXT + np.arange(CONTINUATION), CHOICES)
    positions = np.concatenate([np.arange(CONTEXT), tail])
    same = (branch[None] == branch[:, None]) | (branch[None] == -1)
    return positions, same & (positions[None] <= positions[:, None])


def packed_forward(network: Any, packed: torch.Tensor) -> PrefixForward:
    """The forward pass of items, int64 [items, P]."""
    positions, attends = (torch.from_numpy(part).to(packed.device) for part in layout())
    return PrefixForward(network, packed, positions, attends)


def log_likelihoods(
    network: Any, forward: PrefixForward, packed: torch.Tensor, kept: BoolArray
) -> torch.Tensor:
    """Summed log-likelihood of each continuation after the context, nats, [items, CHOICES]."""
    # Each continuation as a sequence of its own, led by the context's last token, which predicts
    # its first.
    tails = CONTEXT + torch.arange(CHOICES * CONTINUATION).view(CHOICES, CONTINUATION)
    lead = torch.full((CHOICES, 1), CONTEXT - 1)
    index = torch.cat([lead, tails], dim=1).to(packed.device)
    normed = forward.normed(kept)[:, index].flatten(0, 1)
    nll = token_loss(network.lm_head, normed, packed[:, index].flatten(0, 1)).nll
    return -nll.sum(-1).view(-1, CHOICES)


class ChoiceMeter:
    """Lets kept sets of a model choose, each once, in an order that shares prefixes."""

    def __init__(self, model: LoadedModel, ledger: Ledger[Choices], packed: IntArray) -> None:
        """`packed`: the items, as `all_items` gives them."""
        self.model, self.ledger, self._packed = model, ledger, packed

    def measure(
        self,
        sets: Sequence[BoolArray],
        form: Format = BF16,
        progress: Progress | None = None,
    ) -> list[Choices]:
        """What each kept set chooses in a format; measured unless the ledger has it already."""
        name = form_name(form)
        missing = [kept for kept in sets if (blocks.key(kept), name) not in self.ledger.found]
        if progress and len(missing) < len(sets):
            progress.advance(len(sets) - len(missing), skipped=True)
        if missing:
            network, begun_s = self.model.network, time.perf_counter()
            with torch.inference_mode(), rounding.rounded(network, form):
                groups = torch.from_numpy(self._packed).to(network.device).split(GROUP)
                forwards = [packed_forward(network, group) for group in groups]
                for index in prefix_order(missing):
                    row = self._choose(missing[index], forwards, groups)
                    now_s = time.perf_counter()
                    seconds, begun_s = round(now_s - begun_s, 3), now_s
                    self.ledger.add(replace(row, form=name, seconds=seconds))
                    if progress:
                        progress.advance(note="choices")
        return [self.ledger.found[blocks.key(kept), name] for kept in sets]

    def _choose(
        self, kept: BoolArray, forwards: Sequence[PrefixForward], groups: Sequence[torch.Tensor]
    ) -> Choices:
        right, before = [], sum(forward.blocks_run for forward in forwards)
        for forward, group in zip(forwards, groups, strict=True):
            scores = log_likelihoods(self.model.network, forward, group, kept)
            right += (scores[:, 0] > scores[:, 1:].amax(dim=1)).int().tolist()  # a tie is no choice
        run = sum(forward.blocks_run for forward in forwards) - before
        return Choices(blocks.key(kept), "".join(map(str, right)), run, 0.0)


def all_items(tokenizer: Any, domains: Sequence[str] = texts.DOMAINS) -> IntArray:
    """Items of every domain one after the other, int64 [domains * ITEMS, P]."""
    return np.concatenate([items(tokenizer, domain, ITEMS) for domain in domains])


def open_meter(
    model: LoadedModel, path: Path, *, dtype: str, domains: Sequence[str] = texts.DOMAINS
) -> ChoiceMeter:
    """A meter of choices whose ledger at `path` is started or resumed."""
    packed = all_items(model.tokenizer, domains)
    origin = {
        "choices": 1,
        "model": model.name,
        "weights_sha256": model.weights_sha256,
        "tokenizer_sha256": model.tokenizer_sha256,
        "blocks": model.blocks,
        "texts": {f"{d}.test": texts.text_of(d, "test").sha256 for d in domains},
        "domains": list(domains),  # as many items each, in this order
        "items": len(packed),
        "items_sha256": hashlib.sha256(packed.astype("<i8").tobytes()).hexdigest(),
        "context_tokens": CONTEXT,
        "continuation_tokens": CONTINUATION,
        "dtype": dtype,
        "attention_implementation": model.network.config._attn_implementation,
        "device_kind": model.network.device.type,
    }
    return ChoiceMeter(model, Ledger(path, origin, Choices), packed)
