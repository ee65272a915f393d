"""The measured kept sets of one split and domain, one row each, and what follows from them alone."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rapgym.arrays import BoolArray, FloatArray, IntArray, freeze
from rapgym.errors import InvalidTable
from rapgym.model import blocks
from rapgym.quality.file import TableFile
from rapgym.quality.header import Header, Sample


@dataclass(frozen=True, eq=False)
class MeasuredSets:
    """K kept sets, each with its row on the sample that has the most tokens, in descending key order.

    All nll are differences from dense, nats a token. The dense set is among them: its difference
    is zero by definition.
    """

    kept: BoolArray  # [K, N]
    nll: FloatArray  # [K]
    nll_se: FloatArray  # [K]
    kl: FloatArray  # NaN where not measured, [K]
    top1: FloatArray  # NaN where not measured, [K]
    sample: tuple[str, ...]  # which text each row is from, [K]
    design: tuple[str, ...]  # what each row was first measured for, [K]
    judged: BoolArray  # whether the row is from text on which no order was found, [K]

    def __post_init__(self) -> None:
        freeze(self)

    def __len__(self) -> int:
        return len(self.kept)

    @cached_property
    def index(self) -> dict[bytes, int]:
        """`blocks.raw_keys` -> row."""
        return {name: row for row, name in enumerate(blocks.raw_keys(self.kept))}

    def rows(self, kept: BoolArray) -> IntArray:
        """The row of each kept set, bool [..., N] -> int64 [...]; -1 where it has none."""
        found = [self.index.get(name, -1) for name in blocks.raw_keys(kept)]
        return np.array(found, dtype=np.int64).reshape(kept.shape[:-1])


def samples_of(header: Header, split: str) -> list[Sample]:
    """The samples of a split that its columns are made of, the one with the most tokens first.

    Further draws, on which the orders were found once more, show how far orders agree: columns do
    not hold their rows.
    """
    further = {orders.sample for orders in header.orders[1:]}
    chosen = [s for s in header.samples if s.split == split and s.name not in further]
    return sorted(chosen, key=lambda sample: (-sum(sample.tokens), sample.name))


def of_split(file: TableFile, split: str, domain: str | None) -> MeasuredSets:
    """Rows of one split and nothing else, for one domain or the mean of all.

    Raises:
        InvalidTable: there is no such domain, or no row of this split.
    """
    sets = of_samples(file, samples_of(file.header, split), domain)
    if len(sets) < 2:
        raise InvalidTable(f"no kept set is measured on {split} text: run `rapgym measure` further")
    return sets


def of_samples(file: TableFile, samples: list[Sample], domain: str | None) -> MeasuredSets:
    """Rows of the given samples and nothing else; where a set has several, the first sample's."""
    header, rows = file.header, file.rows
    if domain is not None and domain not in header.domains:
        raise InvalidTable(f"no domain {domain!r}; the table has {', '.join(header.domains)}")
    rank = {sample.name: place for place, sample in enumerate(samples)}
    ordered_on = {orders.sample for orders in header.orders}
    dense = np.ones((1, header.blocks), dtype=bool)
    names = blocks.raw_keys(rows.kept)
    chosen: dict[bytes, int] = {}
    candidates = [row for row in range(len(rows)) if rows.sample[row] in rank]
    for row in sorted(candidates, key=lambda row: rank[rows.sample[row]]):
        chosen.setdefault(names[row], row)
    chosen.pop(blocks.raw_keys(dense)[0], None)
    take: list[int] = [chosen[name] for name in sorted(chosen, reverse=True)]
    part = slice(None) if domain is None else [header.domains.index(domain)]

    def column(values: FloatArray, dense: float) -> FloatArray:
        return np.concatenate([[dense], np.round(values[take][:, part].mean(axis=1), 6)])

    se = np.sqrt((rows.nll_se[take][:, part] ** 2).sum(axis=1)) / rows.nll_se[:, part].shape[1]
    sample = tuple(rows.sample[row] for row in take)
    return MeasuredSets(
        kept=np.concatenate([dense, rows.kept[take]]),
        nll=column(rows.nll, 0.0),
        nll_se=np.concatenate([[0.0], se]),
        kl=column(rows.kl, 0.0),
        top1=column(rows.top1, 1.0),
        sample=(samples[0].name, *sample),
        design=("dense", *(rows.design[row] for row in take)),
        judged=np.array([True, *(name not in ordered_on for name in sample)]),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Lattice:
    """Which of K kept sets lie above the floor, and how many blocks of each kind they drop."""

    shape: tuple[int, int]  # (A + 1, F + 1)
    above: IntArray  # their rows, [J]
    attention: IntArray  # dropped, [J]
    ffn: IntArray  # dropped, [J]


def lattice(sets: MeasuredSets, floor: BoolArray) -> Lattice:
    """Where the kept sets above the floor stand among the counts of dropped blocks."""
    most = blocks.dropped_counts(floor)
    above = np.flatnonzero(sets.kept[:, floor].all(axis=1))
    counts = blocks.dropped_counts(sets.kept[above])
    return Lattice((int(most[0]) + 1, int(most[1]) + 1), above, counts[:, 0], counts[:, 1])


def best_at_counts(sets: MeasuredSets, floor: BoolArray) -> FloatArray:
    """M(counts) of DESIGN.md section 3, [A + 1, F + 1].

    The best measured nll of a set that drops just so many blocks; where none is measured, the
    largest M among measured counts that drop no more of either kind.
    """
    at = lattice(sets, floor)
    best = np.full(at.shape, np.inf)
    np.minimum.at(best, (at.attention, at.ffn), sets.nll[at.above])
    largest = np.where(np.isinf(best), -np.inf, best)
    for axis in range(2):
        largest = np.maximum.accumulate(largest, axis=axis)
    return np.where(np.isinf(best), largest, best)


def best_sets(
    sets: MeasuredSets, floor: BoolArray, attention_order: IntArray, ffn_order: IntArray
) -> BoolArray:
    """The best set found for each pair of counts, bool [A + 1, F + 1, N].

    Sets that were judged on text of their own go before sets whose only row is from the text on
    which an order was found: there, many were tried, and the luckiest looks best. Where no set has
    these counts, the crossing of the orders' prefixes.
    """
    at = lattice(sets, floor)
    chosen = crossing(attention_order, ffn_order, len(floor))
    # The best of each pair of counts is written last.
    worst_first = np.lexsort((-at.above, -sets.nll[at.above], sets.judged[at.above]))
    for j in worst_first:
        chosen[at.attention[j], at.ffn[j]] = sets.kept[at.above[j]]
    return chosen


def crossing(attention_order: IntArray, ffn_order: IntArray, n: int) -> BoolArray:
    """The kept sets that lack a prefix of each order, bool [A + 1, F + 1, n]."""
    attention, ffn = prefixes(attention_order, n), prefixes(ffn_order, n)
    return attention[:, None] & ffn[None]


def prefixes(order: IntArray, n: int) -> BoolArray:
    """The kept sets on the way down an order: dense first, bool [len(order) + 1, n]."""
    kept = np.ones((len(order) + 1, n), dtype=bool)
    for k, block in enumerate(order):
        kept[k + 1 :, block] = False
    return kept
