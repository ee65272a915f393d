"""The predictor's answers by compiled code: those of the reference but for the last digits."""

import numpy as np
import pytest
import shaped_table
from shaped_table import columns_of

from rapgym.quality import quick
from rapgym.quality.table import QualityTable


@pytest.mark.parametrize("source", ["shaped", "laptop"])
def test_answers_are_those_of_the_reference(source: str) -> None:
    columns, rng = columns_of(source), np.random.default_rng(0)
    chance = rng.uniform(0.3, 1.0, (400, 1))
    kept = (rng.random((400, len(columns.floor))) < chance) | columns.floor
    kept[0], kept[1] = True, columns.floor
    found = quick.nll(quick.parts_of(columns.fitted), kept)
    wanted = columns.fitted.nll(kept)
    assert np.abs(found - wanted).max() < 1e-10
    assert (columns.answered(kept, found) == columns.predicted_nll(kept)).all()
    assert np.ptp(wanted) > 0.1


def test_answers_do_not_depend_on_what_else_is_asked() -> None:
    columns = columns_of("shaped")
    parts, rng = quick.parts_of(columns.fitted), np.random.default_rng(1)
    kept = rng.random((9, len(columns.floor))) < 0.7
    together = quick.nll(parts, kept)
    assert [quick.nll(parts, each[None])[0] for each in kept] == together.tolist()
    assert len(quick.nll(parts, kept[:0])) == 0


def test_a_fit_with_a_mean_function_is_refused() -> None:
    table: QualityTable = shaped_table.table()
    with pytest.raises(AssertionError, match="mean function"):
        quick.parts_of(table.test().fitted)
