"""Measure kept sets of a live model: nats a token above dense, on calibration and on test text."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rapgym import blocks, corpus
from rapgym.progress import Progress
from rapgym.runtime import samples
from rapgym.runtime.forward import PrefixForward, prefix_order
from rapgym.runtime.ledger import Ledger, Measurement
from rapgym.runtime.loss import DenseReference, TokenLoss, dense_reference, token_loss
from rapgym.runtime.model import LoadedModel
from rapgym.specs import BoolArray, FloatArray

SEGMENTS = 8  # a sequence is cut into this many stretches whose means are taken as independent
GROUP = 3  # sequences run together: enough rows to fill two cores, few enough to stay in cache


@dataclass(slots=True)
class _Group:
    """Some sequences of a sample, their cached prefix, and the dense model's view of them."""

    forward: PrefixForward
    tokens: torch.Tensor
    dense_nll: torch.Tensor
    dense: DenseReference | None


class Meter:
    """Measures kept sets on named samples, each once, in an order that shares prefixes."""

    def __init__(
        self,
        model: LoadedModel,
        ledger: Ledger,
        *,
        length: int = 512,
        domains: Sequence[str] = corpus.DOMAINS,
    ) -> None:
        self.model, self.ledger, self.length, self.domains = model, ledger, length, tuple(domains)
        self._ids: dict[tuple[str, str], Any] = {}
        self._groups: dict[str, list[_Group]] = {}

    def tokens(self, sample: str) -> list[torch.Tensor]:
        """The sample's token sequences, domain by domain, each int64 [sequences, length]."""
        chosen, found = samples.SAMPLES[sample], []
        for domain in self.domains:
            place = (domain, chosen.split)
            if place not in self._ids:
                self._ids[place] = samples.token_ids(self.model.tokenizer, *place)
            found.append(torch.from_numpy(samples.sequences(self._ids[place], chosen, self.length)))
        return found

    def _prepare(self, sample: str) -> list[_Group]:
        if sample not in self._groups:
            self._groups.clear()  # one sample's dense probabilities at a time: they take gigabytes
            network, dense = self.model.network, np.ones(self.model.blocks, dtype=bool)
            groups = []
            for tokens in torch.cat(self.tokens(sample)).to(network.device).split(GROUP):
                forward = PrefixForward(network, tokens)
                normed = forward.normed(dense)
                reference = None
                if samples.SAMPLES[sample].divergence:
                    reference = dense_reference(network.lm_head, normed)
                nll = token_loss(network.lm_head, normed, tokens).nll
                groups.append(_Group(forward, tokens, nll, reference))
            self._groups[sample] = groups
        return self._groups[sample]

    def dense_nll(self, sample: str) -> list[FloatArray]:
        """Nats a token of the dense model, domain by domain, float32 [sequences, length - 1]."""
        with torch.inference_mode():
            nll = torch.cat([group.dense_nll for group in self._prepare(sample)])
        per_domain = len(samples.SAMPLES[sample].slots)
        return [part.cpu().numpy() for part in nll.split(per_domain)]

    def measure(
        self, sets: Iterable[BoolArray], sample: str, design: str, progress: Progress | None = None
    ) -> dict[str, Measurement]:
        """Measure each kept set on `sample` unless the ledger has it already.

        Returns:
            Key -> measurement, for all of `sets`.
        """
        wanted = {blocks.key(kept): kept for kept in sets}
        missing = []
        for key, kept in wanted.items():
            if (sample, key) in self.ledger.found:
                if progress:
                    progress.advance(self.weight(sample), skipped=True)
            else:
                missing.append(kept)
        for index in prefix_order(missing):
            self.ledger.add(self._measure_one(missing[index], sample, design))
            if progress:
                progress.advance(self.weight(sample), note=f"{design} on {sample}")
        return {key: self.ledger.found[sample, key] for key in wanted}

    def weight(self, sample: str) -> float:
        """Sequences run for one kept set: the unit in which progress is counted."""
        return float(len(samples.SAMPLES[sample].slots) * len(self.domains))

    def _measure_one(self, kept: BoolArray, sample: str, design: str) -> Measurement:
        start_s, run, losses, dense = time.perf_counter(), 0, [], []
        with torch.inference_mode():
            for group in self._prepare(sample):
                before = group.forward.blocks_run
                normed = group.forward.normed(kept)
                run += group.forward.blocks_run - before
                head = self.model.network.lm_head
                losses.append(token_loss(head, normed, group.tokens, group.dense))
                dense.append(group.dense_nll)
        difference = (torch.cat([loss.nll for loss in losses]) - torch.cat(dense)).double()
        parts = difference.split(len(samples.SAMPLES[sample].slots))
        return Measurement(
            sample=sample,
            design=design,
            key=blocks.key(kept),
            domains=self.domains,
            tokens=tuple(part.numel() for part in parts),
            nll=_rounded(part.mean() for part in parts),
            nll_se=_rounded(standard_error(part.cpu().numpy()) for part in parts),
            kl=_means([loss.kl for loss in losses], len(parts)),
            top1=_means([loss.agrees for loss in losses], len(parts)),
            sequences=_rounded(difference.mean(1)),
            blocks_run=run,
            seconds=round(time.perf_counter() - start_s, 3),
        )


def standard_error(difference: FloatArray) -> float:
    """Standard error of the mean of per-token differences, [sequences, tokens] -> nats.

    Neighbouring tokens share their context, so the means of stretches of a sequence, not tokens,
    are taken as independent (method of batch means).
    """
    means = np.array([part.mean() for row in difference for part in np.array_split(row, SEGMENTS)])
    return float(means.std(ddof=1) / np.sqrt(len(means)))


def _means(batches: list[torch.Tensor | None], domains: int) -> tuple[float, ...] | None:
    if any(batch is None for batch in batches):
        return None
    rows = torch.cat([batch for batch in batches if batch is not None]).double()
    return _rounded(part.mean() for part in rows.chunk(domains))


def _rounded(values: Iterable[Any]) -> tuple[float, ...]:
    return tuple(round(float(value), 6) for value in values)


__all__ = ["Meter", "TokenLoss", "standard_error"]
