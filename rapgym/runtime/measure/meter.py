"""Measure kept sets of a live model: nats a token above dense, on calibration and on test text."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.errors import InvalidSpec
from rapgym.jobs.progress import Progress
from rapgym.model import blocks
from rapgym.model.shapes import BF16, Format
from rapgym.quality import texts as quality_texts
from rapgym.runtime import rounding, samples
from rapgym.runtime.measure import flops
from rapgym.runtime.measure.forward import PrefixForward, prefix_order
from rapgym.runtime.measure.forward_batch import BatchForward, sets_at_once
from rapgym.runtime.measure.ledger import Ledger, Measurement, form_name
from rapgym.runtime.measure.loss import DenseReference, TokenLoss, dense_reference, token_loss
from rapgym.runtime.model import LoadedModel

SEGMENTS = 8  # a sequence is cut into this many stretches whose means are taken as independent
GROUP = 3  # sequences run together: enough rows to fill two cores, few enough to stay in cache


class OutOfTime(Exception):
    """The time that a measurement was given is over; what it found is in its ledger."""

    def __init__(self, share: float, left_s: float) -> None:
        self.share, self.left_s = share, left_s  # done of all; seconds left at the speed so far
        super().__init__(f"{share:.1%} done")


@dataclass(slots=True)
class _Group:
    """Some sequences of a sample, their cached prefix, and the dense model's view of them."""

    forward: BatchForward
    tokens: torch.Tensor
    dense_nll: torch.Tensor
    dense: DenseReference | None


class Meter:
    """Measures kept sets on named samples, each once, in an order that shares prefixes."""

    def __init__(
        self,
        model: LoadedModel,
        ledger: Ledger[Measurement],
        *,
        length: int = 512,
        domains: Sequence[str] = quality_texts.DOMAINS,
        texts: quality_texts.Texts = quality_texts.SHIPPED,
        form: Format = BF16,
        chosen: Mapping[str, samples.Sample] = samples.SAMPLES,
        together: int | None = None,
    ) -> None:
        """A meter of the network as it stands.

        Args:
            length: tokens of a sequence.
            texts: where the domains' text comes from.
            form: the format to which the network's weights and KV are rounded while this meter is
                used (`rounding.rounded`): what is dense then is dense in this format.
            chosen: the samples that it measures on, by name.
            together: kept sets that run in one forward pass; as the device suits where None.
        """
        self.model, self.ledger, self.length, self.domains = model, ledger, length, tuple(domains)
        self.texts, self.form, self.samples = texts, form, dict(chosen)
        self.together = together or sets_at_once(model.network, GROUP, length)
        self.deadline_s: float | None = None  # time.monotonic() at which to stop; None: never
        self._ids: dict[tuple[str, str], Any] = {}
        self._groups: dict[str, list[_Group]] = {}

    def tokens(self, sample: str) -> list[torch.Tensor]:
        """The sample's token sequences, domain by domain, each int64 [sequences, length]."""
        chosen, found = self.samples[sample], []
        for domain in self.domains:
            place = (domain, chosen.split)
            if place not in self._ids:
                self._ids[place] = samples.token_ids(
                    self.model.tokenizer, domain, chosen.split, self.texts
                )
            found.append(torch.from_numpy(samples.sequences(self._ids[place], chosen, self.length)))
        return found

    def _prepare(self, sample: str) -> list[_Group]:
        if sample not in self._groups:
            self._groups.clear()  # one sample's dense probabilities at a time: they take gigabytes
            network, dense = self.model.network, np.ones(self.model.blocks, dtype=bool)
            groups = []
            for tokens in torch.cat(self.tokens(sample)).to(network.device).split(GROUP):
                forward = BatchForward(network, tokens)
                normed = forward.normed([dense])[0][0]
                reference = None
                if self.samples[sample].divergence:
                    reference = dense_reference(network.lm_head, normed)
                nll = token_loss(network.lm_head, normed, tokens).nll
                groups.append(_Group(forward, tokens, nll, reference))
            self._groups[sample] = groups
        return self._groups[sample]

    def dense_nll(self, sample: str) -> list[FloatArray]:
        """Nats a token of the dense model, domain by domain, float32 [sequences, length - 1]."""
        with torch.inference_mode():
            nll = torch.cat([group.dense_nll for group in self._prepare(sample)])
        per_domain = len(self.samples[sample].slots)
        return [part.cpu().numpy() for part in nll.split(per_domain)]

    def measure(
        self,
        sets: Iterable[BoolArray],
        sample: str,
        design: str,
        progress: Progress | None = None,
        form: Format | None = None,
    ) -> dict[str, Measurement]:
        """Measure each kept set on `sample` unless the ledger has it already.

        Args:
            form: a format to round to, where the meter's own is bf16; the meter's where None.
                Differences are from dense in the meter's own format.

        Returns:
            Key -> measurement, for all of `sets`.

        Raises:
            InvalidSpec: `form` is neither the meter's own nor is that bf16: it would be rounded twice.
            OutOfTime: `deadline_s` passed and something is left; at least one set, or one batch of
                them, was measured.
        """
        form = form or self.form
        if form != self.form and self.form != BF16:
            raise InvalidSpec(
                f"{form_name(form)} is measured from bf16, and this model is in "
                f"{form_name(self.form)} already"
            )
        wanted, name = {blocks.key(kept): kept for kept in sets}, form_name(form)
        missing = []
        for key, kept in wanted.items():
            if (sample, key, name) in self.ledger.found:
                if progress:
                    progress.advance(self.weight(sample), skipped=True)
            else:
                missing.append(kept)
        if missing:
            self._measure_missing(missing, sample, design, progress, form)
        return {key: self.ledger.found[sample, key, name] for key in wanted}

    def _measure_missing(
        self,
        sets: list[BoolArray],
        sample: str,
        design: str,
        progress: Progress | None,
        form: Format,
    ) -> None:
        network = self.model.network
        product_per_s = flops.product_per_s(network.device, network.dtype)
        begun_s = time.perf_counter()
        in_order = [sets[index] for index in prefix_order(sets)]
        with torch.inference_mode():
            groups = self._prepare(sample)
            if form != self.form:  # the groups stay of the meter's format: differences are from it
                groups = [
                    replace(group, forward=BatchForward(network, group.tokens)) for group in groups
                ]
            with rounding.rounded(network, form if form != self.form else BF16):
                for start in range(0, len(in_order), self.together):
                    if start:
                        self._check_time(progress)
                    batch = in_order[start : start + self.together]
                    rows = self._measure_batch(batch, sample, groups)
                    now_s = time.perf_counter()
                    seconds, begun_s = round((now_s - begun_s) / len(batch), 3), now_s
                    for row in rows:
                        self.ledger.add(
                            replace(
                                row,
                                design=design,
                                form=form_name(form),
                                seconds=seconds,
                                product_per_s=float(round(product_per_s)),
                            )
                        )
                        if progress:
                            progress.advance(self.weight(sample), note=f"{design} on {sample}")
        self._check_time(progress)

    def _check_time(self, progress: Progress | None) -> None:
        if self.deadline_s is None or time.monotonic() < self.deadline_s:
            return
        share, left_s = 0.0, float("nan")
        if progress:
            share, worked = progress.done / progress.total, progress.done - progress.skipped
            spent_s = time.monotonic() - progress.start_s
            left_s = (progress.total - progress.done) * spent_s / worked if worked else left_s
        raise OutOfTime(share, left_s)

    def influence(self, sample: str, progress: Progress | None = None) -> Measurement:
        """Block influence of each layer of the dense model, unless the ledger has it already.

        It is one less the cosine of the angle by which a layer turns a token's residual stream,
        mean over tokens: layers that turn it least are the ones that ShortGPT drops.

        Source: arXiv:2403.03853, equation 1.
        """
        dense = np.ones(self.model.blocks, dtype=bool)
        key, form = blocks.key(dense), form_name(self.form)
        found = self.ledger.found.get((sample, key, form))
        done = found is not None and found.block_influence is not None
        if not done:
            begun_s, turned, run = time.perf_counter(), [], 0
            with torch.inference_mode():
                tokens = torch.cat(self.tokens(sample)).to(self.model.network.device)
                for group in tokens.split(GROUP):
                    forward = PrefixForward(self.model.network, group)
                    turned.append(_turned(forward.streams(dense)))
                    run += forward.blocks_run
            sequences, domains = len(tokens), len(self.domains)
            predicted = (sequences // domains) * (self.length - 1)
            row = Measurement(
                sample=sample,
                design="influence",
                key=key,
                domains=self.domains,
                tokens=(predicted,) * domains,
                nll=(0.0,) * domains,
                nll_se=(0.0,) * domains,
                kl=None,
                top1=None,
                sequences=(0.0,) * sequences,
                blocks_run=run,
                seconds=round(time.perf_counter() - begun_s, 3),
                form=form,
                block_influence=_rounded(torch.cat(turned, dim=1).mean(dim=(1, 2))),
            )
            self.ledger.add(row)
        if progress:
            progress.advance(self.weight(sample), skipped=done, note=f"influence on {sample}")
        return self.ledger.found[sample, key, form]

    def weight(self, sample: str) -> float:
        """Sequences run for one kept set: the unit in which progress is counted."""
        return float(len(self.samples[sample].slots) * len(self.domains))

    def _measure_batch(
        self, sets: list[BoolArray], sample: str, groups: list[_Group]
    ) -> list[Measurement]:
        """The measurements of some kept sets; design, format and seconds left open."""
        network, head = self.model.network, self.model.network.lm_head
        ran, flop = np.zeros((len(sets), 2), dtype=np.int64), np.zeros(len(sets), dtype=np.int64)
        losses: list[list[TokenLoss]] = [[] for _ in sets]
        for group in groups:
            normed, of_group = group.forward.normed(sets)
            ran += of_group
            flop += of_group @ flops.block_flop(network, *group.tokens.shape)
            flop += flops.head_flop(network, *group.tokens.shape)
            for index, own in enumerate(normed):
                losses[index].append(token_loss(head, own, group.tokens, group.dense))
        dense = torch.cat([group.dense_nll for group in groups])
        return [
            self._row(kept, sample, losses[index], dense, ran[index], int(flop[index]))
            for index, kept in enumerate(sets)
        ]

    def _row(
        self,
        kept: BoolArray,
        sample: str,
        losses: list[TokenLoss],
        dense: torch.Tensor,
        ran: IntArray,
        flop: int,
    ) -> Measurement:
        difference = (torch.cat([loss.nll for loss in losses]) - dense).double().cpu()
        parts = difference.split(len(self.samples[sample].slots))
        return Measurement(
            sample=sample,
            design="",
            key=blocks.key(kept),
            domains=self.domains,
            tokens=tuple(part.numel() for part in parts),
            nll=_rounded(part.mean() for part in parts),
            nll_se=_rounded(standard_error(part.numpy()) for part in parts),
            kl=_means([loss.kl for loss in losses], len(parts)),
            top1=_means([loss.agrees for loss in losses], len(parts)),
            sequences=_rounded(difference.mean(1)),
            blocks_run=int(ran.sum()),
            seconds=0.0,
            flop=flop,
        )


def _turned(streams: list[torch.Tensor]) -> torch.Tensor:
    """One less the cosine between each layer's input and output, [L, sequences, length]."""
    depths = [stream.float() for stream in streams[::2]]
    cosines = [
        torch.nn.functional.cosine_similarity(before, after, dim=-1)
        for before, after in pairwise(depths)
    ]
    return 1 - torch.stack(cosines)


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
    rows = torch.cat([batch for batch in batches if batch is not None]).double().cpu()
    return _rounded(part.mean() for part in rows.chunk(domains))


def _rounded(values: Iterable[Any]) -> tuple[float, ...]:
    return tuple(round(float(value), 6) for value in values)
