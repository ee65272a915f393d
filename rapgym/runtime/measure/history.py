"""What an answer costs whose context was computed under another kept set.

A sequence is cut in two: a context, whose keys and values stay, and an answer behind it. Blocks are
dropped in the context alone, in the answer alone, or throughout. Attention that was dropped in the
context has left no keys and values there: an answer that has the block back sees its own alone.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from rapgym.arrays import BoolArray
from rapgym.jobs.progress import Progress
from rapgym.quality import texts as quality_texts
from rapgym.quality.history import Share
from rapgym.runtime import samples
from rapgym.runtime.layers import layers_of
from rapgym.runtime.measure.designs import without
from rapgym.runtime.measure.forward import PrefixForward
from rapgym.runtime.measure.ledger import Ledger
from rapgym.runtime.measure.loss import token_loss
from rapgym.runtime.measure.meter import standard_error
from rapgym.runtime.measure.origins import origin
from rapgym.runtime.model import LoadedModel

When = Literal["context", "answer", "throughout"]
WHENS: tuple[When, ...] = ("context", "answer", "throughout")
COUNTS: Mapping[str, tuple[int, ...]] = {"ffn": (1, 2, 4, 8, 12), "attention": (2, 8, 20)}
SAMPLE = "calib-large"
GROUP = 3  # sequences run together


@dataclass(frozen=True, slots=True)
class History:
    """Nats of the answer's tokens above dense, one value a domain."""

    kind: str  # "attention" or "ffn"; of the dense model ""
    count: int  # blocks dropped, along the order of their kind
    when: str
    tokens: int  # of the answers of a domain
    nll: tuple[float, ...]
    nll_se: tuple[float, ...]
    seconds: float

    @property
    def place(self) -> tuple[str, ...]:
        """Kind, count, when."""
        return self.kind, str(self.count), self.when

    @property
    def mean_nll(self) -> float:
        """Mean over domains, each counting the same."""
        return float(np.mean(self.nll))

    @property
    def mean_se(self) -> float:
        """Standard error of that mean."""
        return float(np.sqrt(np.sum(np.square(self.nll_se))) / len(self.nll_se))


def answer_nll(
    network: Any,
    tokens: torch.Tensor,
    context_tokens: int,
    in_context: BoolArray,
    in_answer: BoolArray,
) -> torch.Tensor:
    """Nats of each token of the answer but its first, float32 [sequences, length - context - 1].

    Args:
        tokens: int64 [sequences, length], no padding.
        in_context, in_answer: kept sets, bool [N].
    """
    forward, layers = PrefixForward(network, tokens), layers_of(network)
    place = torch.arange(tokens.shape[1], device=tokens.device)
    causal = place[None] <= place[:, None]
    alone = causal & ~((place[:, None] >= context_tokens) & (place[None] < context_tokens))
    (stream,) = forward.streams(in_context[:0])
    for block, (then, now) in enumerate(zip(in_context.tolist(), in_answer.tolist(), strict=True)):
        if not (then or now):
            continue
        if block % 2 == 0 and not then:
            added = layers[block // 2].attention(
                stream, position_embeddings=forward.rotary, attention_mask=alone[None, None]
            )
        else:
            added = forward.block(block, stream)
        if not then:
            added[:, :context_tokens] = 0
        if not now:
            added[:, context_tokens:] = 0
        stream = stream + added
    normed = network.model.norm(stream)[:, context_tokens:]
    return token_loss(network.lm_head, normed, tokens[:, context_tokens:]).nll


class HistoryMeter:
    """Measures each case once; what its ledger has is not measured again."""

    def __init__(self, model: LoadedModel, ledger: Ledger[History], length: int) -> None:
        self.model, self.ledger, self.length = model, ledger, length
        self._groups: list[torch.Tensor] = []
        self._dense: list[torch.Tensor] = []

    def measure(
        self, orders: Mapping[str, Sequence[int]], progress: Progress | None = None
    ) -> list[History]:
        """Every count of `COUNTS` that an order reaches, in the context, in the answer, throughout.

        Args:
            orders: blocks of each kind, the first to go first.
        """
        cases = [
            (kind, count, when)
            for kind, counts in COUNTS.items()
            for count in counts
            if count <= len(orders[kind])
            for when in WHENS
        ]
        for kind, count, when in cases:
            done = (kind, str(count), when) in self.ledger.found
            if not done:
                self._measure(kind, count, when, orders[kind][:count])
            if progress:
                progress.advance(skipped=done, note=f"{count} {kind} in {when}")
        return [self.ledger.found[kind, str(count), when] for kind, count, when in cases]

    def _measure(self, kind: str, count: int, when: When, gone: Sequence[int]) -> None:
        begun_s, n = time.perf_counter(), self.model.blocks
        part, dense = without(n, list(gone)), np.ones(n, dtype=bool)
        in_context = dense if when == "answer" else part
        in_answer = dense if when == "context" else part
        with torch.inference_mode():
            if not self._groups:
                self._groups = list(self._tokens().split(GROUP))
                self._dense = [self._nll(group, dense, dense) for group in self._groups]
            found = [
                self._nll(group, in_context, in_answer) - known
                for group, known in zip(self._groups, self._dense, strict=True)
            ]
        domains = torch.cat(found).double().cpu().chunk(len(quality_texts.DOMAINS))
        self.ledger.add(
            History(
                kind, count, when,
                tokens=domains[0].numel(),
                nll=tuple(round(float(each.mean()), 6) for each in domains),
                nll_se=tuple(round(standard_error(each.numpy()), 6) for each in domains),
                seconds=round(time.perf_counter() - begun_s, 3),
            )
        )  # fmt: skip

    def _nll(self, group: torch.Tensor, then: BoolArray, now: BoolArray) -> torch.Tensor:
        return answer_nll(self.model.network, group, self.length // 2, then, now)

    def _tokens(self) -> torch.Tensor:
        sample = samples.SAMPLES[SAMPLE]
        return torch.cat([
            torch.from_numpy(samples.sequences(
                samples.token_ids(self.model.tokenizer, domain, sample.split), sample, self.length))
            for domain in quality_texts.DOMAINS
        ]).to(self.model.network.device)  # fmt: skip


def shares(rows: Sequence[History]) -> list[Share]:
    """Of each kind and count: the damage throughout, and what part of it stays of the context alone."""
    found = []
    by_place = {row.place: row for row in rows}
    for row in rows:
        if row.when != "context":
            continue
        whole = by_place[row.kind, str(row.count), "throughout"]
        share = row.mean_nll / whole.mean_nll
        error = np.hypot(row.mean_se, share * whole.mean_se) / abs(whole.mean_nll)
        answer = by_place[row.kind, str(row.count), "answer"].mean_nll
        found.append(
            Share(row.kind, row.count, whole.mean_nll, row.mean_nll, answer, share, float(error))
        )
    return found


def open_meter(model: LoadedModel, path: Path, *, dtype: str, length: int) -> HistoryMeter:
    """A meter whose ledger at `path` is started or resumed."""
    chosen = {SAMPLE: samples.SAMPLES[SAMPLE]}
    told = origin(model, length=length, domains=quality_texts.DOMAINS, dtype=dtype, chosen=chosen)
    return HistoryMeter(model, Ledger(path, told | {"history": 1}, History), length)
