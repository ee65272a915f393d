"""What dropping blocks does to text of each kind: a dozen sets of the grid and the formats, on test text.

The sets were chosen by their counts before any of them was judged.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rapgym.errors import UnmeasuredSet
from rapgym.model import blocks
from rapgym.model.shapes import BF16, FORMATS, Format
from rapgym.quality.table import QualityTable

SAMPLE = "test-large"
# Dropped (attention, FFN) blocks: each kind alone to its end, then both.
COUNTS = (
    (0, 0), (2, 0), (4, 0), (8, 0), (14, 0), (20, 0),
    (0, 2), (0, 4), (0, 8), (0, 12),
    (4, 2), (8, 4), (12, 6), (20, 12),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Main:
    """One set or format that is judged."""

    name: str
    counts: tuple[int, int]
    key: str
    form: Format = BF16


def main_sets(table: QualityTable) -> list[Main]:
    """The grid's sets at those of `COUNTS` that it has, then the dense set in each format."""
    grid = table.calibration().grid_kept
    most = grid.shape[:2]
    found = [
        Main(_name(a, f), (a, f), blocks.key(grid[a, f]))
        for a, f in COUNTS
        if a < most[0] and f < most[1]
    ]
    dense = found[0].key
    return found + [Main(_format_name(form), (0, 0), dense, form) for form in FORMATS]


def _name(a: int, f: int) -> str:
    return f"drop {a} attention, {f} FFN" if a or f else "dense"


def _format_name(form: Format) -> str:
    return f"{form.weights} weights, {form.kv} KV"


def text_quality(table: QualityTable, main: Main) -> dict[str, Any]:
    """Nats above dense on `SAMPLE`, its worst domain and tail over sequences, top-1, KL.

    Raises:
        UnmeasuredSet: the table has no such row.
    """
    header, rows = table.header, table.file.rows
    if main.form != BF16:
        of_form = [f for f in header.formats if Format(f.weights, f.kv) == main.form]
        places = [f for f in of_form if f.sample == SAMPLE]
        how = "--design formats"
        values = [(f.nll, f.nll_se, f.kl, f.top1, f.nll_p95) for f in places]
    else:
        keep = rows.kept == blocks.kept_of(main.key, table.blocks)
        at = [i for i in np.flatnonzero(keep.all(axis=1)) if rows.sample[i] == SAMPLE]
        how = f"--kept {main.key} --sample {SAMPLE}"
        values = [
            (
                tuple(rows.nll[i].tolist()),
                tuple(rows.nll_se[i].tolist()),
                tuple(rows.kl[i].tolist()),
                tuple(rows.top1[i].tolist()),
                float(rows.nll_p95[i]),
            )
            for i in at
        ]
    if not values:
        raise UnmeasuredSet(
            f"{main.name} is not measured on {SAMPLE}: rapgym measure {table.model} {how}"
        )
    nll, nll_se, kl, top1, p95 = values[0]
    worst = int(np.argmax(nll))
    return {
        "nll": mean(nll),
        "nll_se": round(float(np.sqrt(np.sum(np.square(nll_se)))) / len(nll_se), 6),
        "nll_by_domain": dict(zip(header.domains, nll, strict=True)),
        "worst_domain": header.domains[worst],
        "worst_nll": nll[worst],
        "nll_p95": p95,
        "top1": mean(top1),
        "kl": mean(kl),
    }


def mean(values: Sequence[float]) -> float:
    """To six digits."""
    return round(float(np.mean(values)), 6)
