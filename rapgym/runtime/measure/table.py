"""From a finished measurement to a quality table: orders, unigram model, predictor, provenance."""

import datetime
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rapgym.arrays import FloatArray, IntArray
from rapgym.errors import InvalidTable
from rapgym.files import provenance
from rapgym.model import blocks, pretrained
from rapgym.model.shapes import BF16
from rapgym.quality import file as table_file
from rapgym.quality import predictor_tuning
from rapgym.quality.file import Rows
from rapgym.quality.header import FormatQuality, Header, Orders, Sample
from rapgym.quality.predictor import Sets, Settings
from rapgym.quality.table import QualityTable
from rapgym.runtime import samples
from rapgym.runtime.measure import campaign, designs, flops, origins
from rapgym.runtime.measure.forward import PrefixForward
from rapgym.runtime.measure.ledger import PLAIN, Measurement, form_name, form_of
from rapgym.runtime.measure.loss import token_loss
from rapgym.runtime.measure.meter import GROUP, Meter

ROUNDED = (
    "of the dense model: weights of the blocks' linear layers and KV, rounded in the forward pass"
)
THROUGH_4_BITS = (
    "; the weights of this checkpoint have been through four bits before, so its int4 rows are a "
    "lower bound on what int4 costs"
)

# Leaving rows out takes the inverse of a matrix of all of them: more are as many as tell the error.
MOST_HELD_OUT = 4000


def build(meter: Meter, orders: campaign.Orders | None, out: Path) -> QualityTable:
    """Write the table of everything that the meter's ledger holds in the meter's own format.

    Costs one dense forward pass over the samples' text, and a minute of fitting.

    Args:
        orders: the table's orders, of the first draw of calibration text or of another table;
            found again among the measurements where None.
        out: its file, `NAME.csv.gz`.

    Raises:
        InvalidTable: a design is missing; the message names it.
    """
    everything = list(meter.ledger.found.values())
    own = form_name(meter.form)
    found = [row for row in everything if row.form == own]
    draws = _draws(found, meter.model.blocks, orders)
    unigram = Unigram(meter)
    texts = [
        _sample(meter, unigram, name)
        for name in samples.SAMPLES
        if any(row.sample == name for row in everything) or name == draws[0].sample
    ]
    origin = origins.origin(
        meter.model,
        length=meter.length,
        domains=meter.domains,
        dtype=str(meter.model.network.dtype).removeprefix("torch."),
        texts=meter.texts,
        form=meter.form,
        chosen=meter.samples,
    )
    told: dict[str, Any] = {}
    if orders is not None and orders.found_in:
        told["orders_from"] = dict(orders.found_in)
    if reached := flops.achieved(found):
        told["flops"] = reached
    if meter.form != BF16:
        told["dense"] = f"nll is the difference from the dense model in {own}, not from bf16"
    header = Header(
        model=meter.model.name,
        blocks=meter.model.blocks,
        sequence_tokens=meter.length,
        weights=meter.form.weights,
        kv=meter.form.kv,
        domains=meter.domains,
        samples=tuple(texts),
        orders=draws,
        formats=formats(everything, meter.model.blocks) if meter.form == BF16 else (),
        block_influence=next((r.block_influence for r in found if r.block_influence), ()),
        provenance={
            "metric": "nats a token above dense, mean over predicted tokens; kl and top1 from dense",
            "origin": origin,
            "surroundings": origins.surroundings(meter.model.network.device),
            "formats": ROUNDED + (THROUGH_4_BITS if _is_4_bit(meter.model.name) else ""),
            **told,
            "spent": spent(everything, meter.model.blocks),
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "commit": provenance.commit(),
        },
    )
    rows = _rows(found, meter.model.blocks)
    header = with_predictors(header, rows)
    table_file.write(out, header, rows)
    return QualityTable.load(out)


class Unigram:
    """Add-one smoothed token frequencies of the calibration text, of each domain and of all."""

    def __init__(self, meter: Meter) -> None:
        vocabulary = int(meter.model.network.config.vocab_size)
        counts = [
            np.bincount(
                samples.token_ids(meter.model.tokenizer, domain, "calib", meter.texts),
                minlength=vocabulary,
            )
            for domain in meter.domains
        ]
        self._nll = [unigram_nll(own) for own in counts]
        self._pooled_nll = unigram_nll(np.sum(counts, axis=0))

    def nll(self, tokens: Sequence[IntArray]) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Nats a predicted token of each domain's sequences, int64 [sequences, length].

        Returns:
            With counts of the domain itself, and with counts of all domains.
        """
        predicted = [
            ids[:, 1:] for ids in tokens
        ]  # the first of a sequence is given, not predicted
        own = [nll[ids].mean() for nll, ids in zip(self._nll, predicted, strict=True)]
        return _six(own), _six(self._pooled_nll[ids].mean() for ids in predicted)


def unigram_nll(counts: IntArray) -> FloatArray:
    """Nats of each token of the vocabulary under its add-one smoothed frequency, [vocabulary]."""
    nll: FloatArray = np.log(counts.sum() + len(counts)) - np.log(counts + 1.0)
    return nll


def dense_nll(meter: Meter, tokens: Sequence[torch.Tensor]) -> tuple[float, ...]:
    """Nats a predicted token of the dense model, of each domain's sequences."""
    network, losses = meter.model.network, []
    with torch.inference_mode():
        for group in torch.cat(list(tokens)).to(network.device).split(GROUP):
            normed = PrefixForward(network, group).normed(designs.dense(meter.model.blocks))
            losses.append(token_loss(network.lm_head, normed, group).nll.double().cpu())
    return _six(part.mean() for part in torch.cat(losses).split([len(ids) for ids in tokens]))


def _sample(meter: Meter, unigram: Unigram, name: str) -> Sample:
    tokens = meter.tokens(name)
    own, pooled = unigram.nll([ids.numpy() for ids in tokens])
    return Sample(
        name=name,
        split=meter.samples[name].split,
        tokens=tuple(ids[:, 1:].numel() for ids in tokens),
        dense_nll=dense_nll(meter, tokens),
        unigram_nll=own,
        unigram_nll_pooled=pooled,
    )


def _is_4_bit(name: str) -> bool:
    known = pretrained.known(name)
    return known is not None and ".Q4" in known.member


def formats(found: Sequence[Measurement], n: int) -> tuple[FormatQuality, ...]:
    """What the dense model loses in each other format, on samples with KL and top-1 agreement."""
    place = {name: index for index, name in enumerate(samples.SAMPLES)}
    dense, records = blocks.key(designs.dense(n)), []
    for row in sorted(found, key=lambda row: (place[row.sample], row.form)):
        if row.form == PLAIN or row.key != dense or row.kl is None or row.top1 is None:
            continue
        form = form_of(row.form)
        records.append(
            FormatQuality(
                weights=form.weights,
                kv=form.kv,
                sample=row.sample,
                nll=row.nll,
                nll_se=row.nll_se,
                kl=row.kl,
                top1=row.top1,
                nll_p95=round(float(np.percentile(row.sequences, 95)), 6),
            )
        )
    return tuple(records)


def _six(values: Any) -> tuple[float, ...]:
    return tuple(round(float(value), 6) for value in values)


def _draws(found: list[Measurement], n: int, orders: campaign.Orders | None) -> tuple[Orders, ...]:
    first, *others = campaign.ORDER_DRAWS
    form = found[0].form if found else PLAIN
    if orders is None:
        main = found_orders(found, n, first, form=form)
    else:
        main = Orders(orders.sample, orders.attention, orders.ffn, orders.joint)
        if orders.found_in:  # nothing was searched for here
            return (main,)
    draws = [main]
    for draw in others:
        try:
            again = found_orders(found, n, draw, (len(main.attention), len(main.ffn)), form)
        except InvalidTable:
            continue  # not measured, or not to its end
        draws.append(again)
    return tuple(draws)


def found_orders(
    found: Sequence[Measurement],
    n: int,
    draw: str,
    drops: tuple[int, int] | None = None,
    form: str = PLAIN,
) -> Orders:
    """The greedy orders that the measurements of one draw in one format contain.

    Args:
        drops: how far the attention and FFN orders go; as far as measured where None.

    Raises:
        InvalidTable: an order is missing or unfinished.
    """
    nll = {row.key: row.mean_nll for row in found if (row.sample, row.form) == (draw, form)}
    kinds = []
    for kind in range(2):
        most = n // 2 - 1 if drops is None else drops[kind]
        kinds.append(_greedy(nll, n, list(range(kind, n, 2)), most))
    attention, ffn = kinds
    joint = _greedy(nll, n, sorted(attention + ffn), len(attention + ffn))
    whole = drops is None or (len(attention), len(ffn)) == drops
    if not joint or len(joint) < len(attention + ffn) or not whole:
        raise InvalidTable(
            f"the greedy orders on {draw} are not measured to their end ({len(attention)} attention "
            f"and {len(ffn)} FFN blocks, {len(joint)} of both): go on with `rapgym measure`"
        )
    return Orders(draw, tuple(attention), tuple(ffn), tuple(joint))


def _greedy(nll: dict[str, float], n: int, candidates: list[int], most: int) -> list[int]:
    """Follow the choices of `designs.greedy_order` as far as every candidate was measured."""
    order: list[int] = []
    while len(order) < most:
        left = [block for block in candidates if block not in order]
        keys = [blocks.key(designs.without(n, [*order, block])) for block in left]
        if not all(key in nll for key in keys):
            break
        order.append(left[int(np.argmin([nll[key] for key in keys]))])
    return order


def _rows(found: Sequence[Measurement], n: int) -> Rows:
    place = {name: index for index, name in enumerate(samples.SAMPLES)}
    # Descending keys: neighbours share their first blocks, which packs better.
    found = sorted(found, key=lambda row: row.key, reverse=True)
    found = sorted(found, key=lambda row: place[row.sample])
    missing = (np.nan,) * len(found[0].domains)
    return Rows(
        kept=np.array([blocks.kept_of(row.key, n) for row in found]),
        sample=tuple(row.sample for row in found),
        design=tuple(row.design for row in found),
        nll_p95=np.array([np.percentile(row.sequences, 95) for row in found]),
        tokens=np.array([row.tokens for row in found], dtype=np.int64),
        nll=np.array([row.nll for row in found]),
        nll_se=np.array([row.nll_se for row in found]),
        kl=np.array([row.kl or missing for row in found]),
        top1=np.array([row.top1 or missing for row in found]),
    )


def spent(found: Sequence[Measurement], n: int) -> list[dict[str, Any]]:
    """What each design cost on each sample: rows, forward passes, seconds.

    A pass is one of the dense model over the sample's text, counted in blocks that were computed,
    so that what was reused costs nothing.
    """
    designs_of = sorted({(row.sample, row.design) for row in found})
    entries = []
    for sample, design in designs_of:
        rows = [row for row in found if (row.sample, row.design) == (sample, design)]
        batches = -(-len(rows[0].sequences) // GROUP)
        passes = sum(row.blocks_run for row in rows) / (n * batches)
        entries.append(
            {
                "sample": sample,
                "design": design,
                "rows": len(rows),
                "passes": round(passes, 2),
                "seconds": round(sum(row.seconds for row in rows), 1),
            }
        )
    return entries


def _spread(sets: Sets, of_design: tuple[str, ...]) -> tuple[Sets, tuple[str, ...]]:
    """At most `MOST_HELD_OUT` rows, evenly spread over the descending order of their keys."""
    if len(sets.nll) <= MOST_HELD_OUT:
        return sets, of_design
    rows = np.linspace(0, len(sets.nll) - 1, MOST_HELD_OUT).astype(np.int64)
    return sets.part(rows), tuple(of_design[row] for row in rows)


def with_predictors(header: Header, rows: Rows) -> Header:
    """The header with the predictors' settings and their held-out errors, domain by domain.

    The scales are tuned on the mean of the domains and serve each domain.
    """
    blind: dict[str | None, dict[bytes, float]] = {}
    partial = np.count_nonzero(~rows.kept, axis=1) > 0
    measured = {name for name, some in zip(rows.sample, partial, strict=True) if some}
    for split in ("calib", "test"):
        if not any(header.sample(name).split == split for name in measured):
            continue
        content = table_file.packed(header, rows)
        table = QualityTable("the new table", table_file.unpacked(content, "the new table"))
        view = table.calibration if split == "calib" else table.test
        settings, errors = None, {}
        for domain in (None, *header.domains):
            columns = view(domain)
            sets, of_design = _spread(*columns.fitted_sets())
            settings = settings or predictor_tuning.tune(sets, columns.known_nll)
            names = blocks.raw_keys(sets.kept)
            # A set without a row has none on calibration text either: the mean must not see it.
            unseen = np.array([blind.get(domain, {}).get(name, np.nan) for name in names])
            said = predictor_tuning.left_out(sets, of_design, settings, columns.known_nll, unseen)
            blind[domain] = dict(zip(names, said.tolist(), strict=True))
            errors[domain or "mean"] = predictor_tuning.held_out(sets, of_design, said)
        found: dict[str, Any] = {"settings": asdict(settings or Settings()), "held_out": errors}
        if len(columns.fitted_sets()[0].nll) > MOST_HELD_OUT:
            found["of_rows"] = MOST_HELD_OUT  # the errors are those of a fit to so many
        header = replace(header, predictors=header.predictors | {split: found})
    return header
