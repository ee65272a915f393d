"""Which token sequences a kept set is measured on: spread over the text, disjoint between purposes."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rapgym.arrays import IntArray
from rapgym.errors import InvalidSpec
from rapgym.quality import texts as quality_texts

SLOTS = 8  # every text is cut into this many stretches; a sample takes one sequence from some


@dataclass(frozen=True, slots=True)
class Sample:
    """Sequences of one split: one from each named stretch of each domain's text."""

    name: str
    split: quality_texts.Split
    slots: tuple[int, ...]
    divergence: bool = True  # measure KL and top-1 agreement too (a third more time)


# The orders are found on one draw and judged on others: what was chosen because it looked good on
# a text looks worse on the next.
SAMPLES = {
    sample.name: sample
    for sample in (
        Sample("order-0", "calib", (1,), divergence=False),
        Sample("order-1", "calib", (4,), divergence=False),
        Sample("order-2", "calib", (6,), divergence=False),
        Sample("calib", "calib", (2, 5)),
        Sample("calib-large", "calib", (0, 2, 3, 5, 7)),
        Sample("test", "test", (2, 5)),
        Sample("test-large", "test", tuple(range(SLOTS))),
    )
}


# Stretches on which no order is found, in the order in which a judging sample takes them.
JUDGING_SLOTS = (2, 5, 0, 3, 7)


def judging(sequences: int, divergence: bool = True) -> dict[str, Sample]:
    """All samples, with so many sequences of each domain in `calib` and `test` (2 as shipped).

    Args:
        divergence: whether samples that measure KL and top-1 agreement go on to do so.
    """
    slots = tuple(sorted(JUDGING_SLOTS[:sequences]))
    chosen = SAMPLES | {name: replace(SAMPLES[name], slots=slots) for name in ("calib", "test")}
    return {
        name: replace(sample, divergence=sample.divergence and divergence)
        for name, sample in chosen.items()
    }


def token_ids(
    tokenizer: Any,
    domain: str,
    split: quality_texts.Split,
    texts: quality_texts.Texts = quality_texts.SHIPPED,
) -> IntArray:
    """The whole text as token ids, without any added special token; int64 [tokens]."""
    text = texts.read(domain, split)
    return np.asarray(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int64)


def sequences(ids: IntArray, sample: Sample, length: int) -> IntArray:
    """int64 [len(sample.slots), length]: a sequence from the middle of each stretch.

    Raises:
        InvalidSpec: the text is too short for disjoint stretches.
    """
    whole = len(ids) // length
    if whole < SLOTS:
        raise InvalidSpec(
            f"a {sample.split} text of {len(ids)} tokens is too short for {SLOTS} sequences of "
            f"{length}: measure at fewer tokens a sequence (--seq), or give a longer text (--text)"
        )
    starts = [int((slot + 0.5) / SLOTS * whole) * length for slot in sample.slots]
    return np.stack([ids[start : start + length] for start in starts])
