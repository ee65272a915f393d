"""Fits of importance that are kept."""

import numpy as np
import pytest

from rapgym.quality import increments
from rapgym.studies import increments as study


def test_what_is_kept_is_what_a_fit_gives() -> None:
    assert study.missing() == []


def test_a_fit_that_is_missing_or_other_or_of_no_scenario_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = np.load(increments.STORED)
    kept["block"][0] *= 1 + 1e-6
    kept["sets"][1] = b"\x01" * 32
    monkeypatch.setattr(np, "load", lambda path: kept)
    told = " ".join(study.missing())
    assert (
        told.count("kept otherwise") == told.count("is not kept") == told.count("no scenario") == 1
    )
