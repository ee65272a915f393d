"""A synthetic quality table of the reference model's shape: numbers by a formula, no measurement.

Sixty blocks. Dropping block b costs `single(b)`: the first two layers and the last cost nats, most
others hundredths, and sets cost the sum plus a little for each pair of neighbours. 20 attention and
12 FFN blocks may be dropped. In another format dense costs `FORMAT_NLL` more than in bf16, and on top of
that each dropped block a tenth more than there.
"""

import numpy as np

from rapgym.arrays import BoolArray, FloatArray
from rapgym.model.shapes import BF16, FORMATS, Format
from rapgym.quality import file as table_file
from rapgym.quality.columns import QualityColumns
from rapgym.quality.file import Rows
from rapgym.quality.header import FormatQuality, Header, Orders, Sample
from rapgym.quality.table import QualityTable
from rapgym.scenarios import tables, worlds
from rapgym.scenarios.catalogue import story_of

N = 60
DOMAINS = ("books", "specs", "wiki")
MORE = {"books": 0.002, "specs": -0.001, "wiki": 0.0}  # for each dropped block
TEST_MORE = 0.003
FORMAT_NLL = dict(zip(FORMATS, (0.01, 0.3, 0.004, 0.015, 0.31), strict=True)) | {BF16: 0.0}
FORMAT_TEST_MORE = 0.02  # what dense loses more in each of these on test text


def single() -> FloatArray:
    """Nats that each block costs alone, [N]."""
    drawn = np.random.default_rng(7)
    cost = drawn.gamma(2.0, 0.02, N)
    cost[1::2] *= 2.5  # FFN blocks cost more
    cost[:4] += np.array([3.0, 2.0, 1.0, 0.8])
    cost[-1] += 0.9
    return np.round(cost, 4)


def nll(kept: BoolArray) -> FloatArray:
    """Nats above dense on calibration text, mean of the domains: bool [..., N] -> [...]."""
    gone = ~kept
    pairs = (gone[..., :-1] & gone[..., 1:]).sum(axis=-1)
    found: FloatArray = gone @ single() + 0.015 * pairs
    return found


def orders() -> Orders:
    cost = single()
    cheapest = np.argsort(cost, kind="stable")
    attention = [int(b) for b in cheapest if b % 2 == 0][:20]
    ffn = [int(b) for b in cheapest if b % 2 == 1][:12]
    joint = sorted([*attention, *ffn], key=lambda b: cost[b])
    return Orders("order-0", tuple(attention), tuple(ffn), tuple(joint))


def kept_sets() -> BoolArray:
    """Singles, the grid, prefixes of the joint order, and sets drawn above the floor, [K, N]."""
    found = orders()
    sets = [~np.eye(N, dtype=bool)[b] for b in range(N)]
    grid = [[*found.attention[:a], *found.ffn[:f]] for a in range(21) for f in range(13)]
    prefixes = [[*found.joint[:k]] for k in range(33)]
    drawn = np.random.default_rng(8)
    random = [
        [*drawn.choice(found.attention, drawn.integers(1, 12), replace=False),
         *drawn.choice(found.ffn, drawn.integers(1, 8), replace=False)]
        for _ in range(60)
    ]  # fmt: skip
    for dropped in [*grid, *prefixes, *random]:
        kept = np.ones(N, dtype=bool)
        kept[dropped] = False
        sets.append(kept)
    return np.unique(np.array(sets), axis=0)


def format_nll(form: Format, split: str, domain: str) -> float:
    """Nats that a format costs dense on one domain's text of a split."""
    if form == BF16:
        return 0.0
    more = FORMAT_TEST_MORE if split == "test" else 0.0
    return round(FORMAT_NLL[form] + more + MORE[domain], 6)


def format_qualities() -> tuple[FormatQuality, ...]:
    """What the table in bf16 says of every format."""
    return tuple(
        FormatQuality(
            form.weights,
            form.kv,
            sample,
            nll=tuple(format_nll(form, sample, domain) for domain in DOMAINS),
            nll_se=(0.003,) * 3,
            kl=(0.01,) * 3,
            top1=(0.98,) * 3,
            nll_p95=0.5,
        )
        for form in FORMATS
        for sample in ("calib", "test")
    )


def table(form: Format = BF16) -> QualityTable:
    """Singles on calibration text alone, everything else on test text too."""
    worse = 1.0 if form == BF16 else 1.1

    def sample(name: str, split: str, tokens: int) -> Sample:
        dense = zip((3.2, 3.0, 3.4), DOMAINS, strict=True)
        lost = tuple(round(nll + format_nll(form, split, domain), 6) for nll, domain in dense)
        return Sample(name, split, (tokens,) * 3, lost, (7.1, 6.9, 7.3), (7.2, 7.0, 7.4))  # type: ignore[arg-type]

    kept = kept_sets()
    several = np.count_nonzero(~kept, axis=1) > 1
    parts = [("calib", kept, 0.0), ("test", kept[several], TEST_MORE)]
    bits = np.concatenate([part for _, part, _ in parts])
    dropped = np.count_nonzero(~bits, axis=1)
    more = np.concatenate([np.full(len(part), extra) for _, part, extra in parts])
    values = worse * np.stack([nll(bits) + dropped * (more + MORE[d]) for d in DOMAINS], axis=1)
    rows = Rows(
        kept=bits,
        sample=tuple(name for name, part, _ in parts for _ in range(len(part))),
        design=("synthetic",) * len(bits),
        nll_p95=values.max(axis=1),
        tokens=np.full(values.shape, 1000),
        nll=values,
        nll_se=np.full(values.shape, 0.01),
        kl=np.maximum(values, 0.0),
        top1=np.clip(1 - values / 10, 0, 1),
    )
    header = Header(
        model="smollm2-135m",
        blocks=N,
        sequence_tokens=512,
        weights=form.weights,
        kv=form.kv,
        domains=DOMAINS,
        samples=(sample("order-0", "calib", 500), sample("calib", "calib", 1000),
                 sample("test", "test", 1000)),
        orders=(orders(),),
        formats=format_qualities() if form == BF16 else (),
        provenance={"note": "numbers by a formula, for tests"},
    )  # fmt: skip
    content = table_file.packed(header, rows)
    name = tables.table_name("smollm2-135m", form)
    return QualityTable(name, table_file.unpacked(content, "synthetic"))


def columns_of(source: str) -> QualityColumns:
    """Calibration columns of this table ("shaped"), or those that a scenario's train part is told of."""
    if source == "shaped":
        return table().calibration()
    return worlds.world(story_of(source), "train").quality
