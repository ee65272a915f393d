"""A fit opened into tables answers what columns do, for rows and for sets without one."""

import numpy as np
import pytest
import shaped_table
from shaped_table import columns_of
from toy_table import toy_columns

from rapgym.arrays import BoolArray
from rapgym.quality import opened
from rapgym.quality.columns import QualityColumns
from rapgym.world import stride, stride_kernel


def answered(columns: QualityColumns, kept: BoolArray) -> list[tuple[float, bool]]:
    answers = stride.answers_of(columns)
    return [stride_kernel.answer(answers, key) for key in stride.words_of(kept)]


@pytest.mark.parametrize("source", ["shaped", "laptop"])
def test_answers_are_those_of_the_columns(source: str) -> None:
    columns, rng = columns_of(source), np.random.default_rng(0)
    chance = rng.uniform(0.2, 1.0, (600, 1))
    kept = (rng.random((600, len(columns.floor))) < chance) | columns.floor
    kept[0], kept[1] = True, columns.floor
    rows = columns.sets.kept
    kept = np.concatenate([kept, rows[rows[:, columns.floor].all(axis=1)]])
    nll, measured = columns.nll(kept)
    assert measured.any()
    if source == "laptop":
        assert not measured.all()
    for _ in range(2):  # as they are predicted, and as they are remembered
        found = answered(columns, kept)
        assert [each for each, _ in found] == nll.tolist()
        assert [each for _, each in found] == measured.tolist()


def test_sums_are_those_of_the_fit_to_the_last_digits() -> None:
    columns, rng = columns_of("laptop"), np.random.default_rng(2)
    kept = (rng.random((300, len(columns.floor))) < 0.5) | columns.floor
    a = stride.answers_of(columns)
    gone = ~stride.words_of(kept) & a.words[stride_kernel.DROPPABLE]
    found = [stride_kernel.predicted(each, a.squeezed, a.widths, a.mask, a.value, a.tabled, a.groups)
             for each in gone]  # fmt: skip
    assert np.abs(np.array(found) - columns.fitted.nll(kept)).max() < 1e-11


def test_what_cannot_be_opened_is_told() -> None:
    assert opened.is_opened(toy_columns())
    test = shaped_table.table().test()
    assert test.mean is not None
    assert not opened.is_opened(test)
    with pytest.raises(AssertionError, match="mean function"):
        opened.opened(test)
