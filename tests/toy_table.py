"""A table of a three-layer model with all 64 kept sets measured, small enough to check by hand.

Blocks are attn0 ffn0 attn1 ffn1 attn2 ffn2 = 0 ... 5. The floor is attn0 and ffn0. Nats above dense
on calibration text, mean of the three domains: the sum over dropped blocks

    attn0 3.0   ffn0 2.0   attn1 0.10   ffn1 0.20   attn2 0.30   ffn2 0.40

and 0.05 more where attn1 and ffn1 are both dropped, 0.40 less where attn2 and ffn2 both are: a
layer that goes as a whole leaves a cleaner stream, so the best pair is in no greedy prefix, and the
fourth drop is free. Above the floor, by what is dropped:

    a1 .10   a2 .30   a1a2 .40   f1 .20   f2 .40   f1f2 .60   a1f1 .35   a1f2 .50   a2f1 .50
    a2f2 .30   a1a2f1 .65   a1a2f2 .40   a1f1f2 .75   a2f1f2 .50   all .65

Orders: attention a1 a2; FFN f1 f2; joint a1 f1 a2 f2. In books each dropped block costs 0.03 more
than that, in specs 0.03 less; on test text 0.02 more in every domain. Dense loses 3.0, a unigram
model 7.0 nats a token: C = 4 (in a single domain, its own counts: 3.5).
"""

from collections.abc import Callable, Container
from itertools import product

import numpy as np

from rapgym.arrays import BoolArray
from rapgym.model import blocks
from rapgym.quality import file as table_file
from rapgym.quality.columns import QualityColumns
from rapgym.quality.file import Rows
from rapgym.quality.header import Header, Orders, Sample
from rapgym.quality.table import QualityTable

SINGLE = (3.0, 2.0, 0.10, 0.20, 0.30, 0.40)
PAIRS = {(2, 3): 0.05, (4, 5): -0.40}
DOMAINS = {"books": 0.03, "specs": -0.03, "wiki": 0.0}  # more for each dropped block
TEST_MORE = 0.02  # for each dropped block
ALL_SETS = tuple(np.array(bits, dtype=bool) for bits in product((True, False), repeat=6))
FLOOR = np.array([True, True, False, False, False, False])
CEILING = 4.0


def toy_nll(kept: BoolArray) -> float:
    """Nats above dense on calibration text, mean of the domains."""
    gone = np.flatnonzero(~kept).tolist()
    return sum(SINGLE[block] for block in gone) + sum(
        more for pair, more in PAIRS.items() if {*pair} <= {*gone}
    )


def kept_without(*dropped: int) -> BoolArray:
    """The toy model's kept set that lacks just these blocks."""
    kept = np.ones(6, dtype=bool)
    kept[list(dropped)] = False
    return kept


def toy_header() -> Header:
    def sample(name: str, split: str, tokens: int) -> Sample:
        return Sample(name, split, (tokens,) * 3, (3.0, 3.5, 2.5), (6.5, 7.0, 6.0), (7.0, 7.5, 6.5))  # type: ignore[arg-type]

    return Header(
        model="toy",
        blocks=6,
        sequence_tokens=64,
        weights="bf16",
        kv="bf16",
        domains=tuple(DOMAINS),
        samples=(
            sample("order-0", "calib", 100),
            sample("calib", "calib", 200),
            sample("test", "test", 200),
        ),
        orders=(Orders("order-0", (2, 4), (3, 5), (2, 3, 4, 5)),),
        provenance={"note": "numbers by a formula, for tests"},
    )


def toy_rows(lacks: Callable[[str, str], bool] = lambda sample, key: False) -> Rows:
    """Every kept set on `calib` and `test`, but for those that `lacks(sample, key)` names."""
    kept, sample, nll = [], [], []
    for where, more in (("calib", 0.0), ("test", TEST_MORE)):
        for bits in ALL_SETS:
            if lacks(where, blocks.key(bits)):
                continue
            dropped = np.count_nonzero(~bits)
            kept.append(bits)
            sample.append(where)
            nll.append([toy_nll(bits) + dropped * (more + extra) for extra in DOMAINS.values()])
    values = np.array(nll)
    return Rows(
        kept=np.array(kept),
        sample=tuple(sample),
        design=("toy",) * len(kept),
        nll_p95=values.max(axis=1),
        tokens=np.full(values.shape, 200),
        nll=values,
        nll_se=np.full(values.shape, 0.01),
        kl=np.maximum(values, 0),
        top1=1 - np.maximum(values, 0) / 10,
    )


def toy_table(lacking: Container[str] = (), *, split: str | None = None) -> QualityTable:
    """The toy table, less the rows of the keys in `lacking` (on one split, or on both)."""
    rows = toy_rows(lambda sample, key: key in lacking and split in (None, sample))
    content = table_file.packed(toy_header(), rows)
    return QualityTable("toy", table_file.unpacked(content, "toy"))


def toy_columns(split: str = "calib", domain: str | None = None) -> QualityColumns:
    """The toy table's columns, calibration unless `split` is "test"."""
    table = toy_table()
    return table.calibration(domain) if split == "calib" else table.test(domain)
