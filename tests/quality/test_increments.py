"""Importance that changes as blocks go: a quadratic form fitted to measured sets."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import rapgym
from rapgym.arrays import BoolArray
from rapgym.errors import InvalidTable
from rapgym.quality import increments
from rapgym.quality.predictor import Sets
from rapgym.scenarios import lanes
from rapgym.scenarios.story import Scenario

N = 6


def world_of_pairs() -> tuple[Sets, np.ndarray, np.ndarray]:
    """Every kept set of six blocks, whose nll is a sum over dropped blocks and pairs of them."""
    rng = np.random.default_rng(0)
    block = rng.uniform(0.05, 0.4, N)
    pair = np.triu(rng.uniform(-0.02, 0.2, (N, N)), 1)
    kept = ((np.arange(2**N)[:, None] >> np.arange(N)) & 1).astype(bool)
    gone = (~kept).astype(float)
    nll = gone @ block + np.einsum("jb,jc,bc->j", gone, gone, pair)
    text = np.zeros(len(kept), dtype=np.int64)
    return Sets(kept, nll, np.full(len(kept), 1e-6), text), block, pair + pair.T


def test_a_sum_over_pairs_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(increments, "NUGGET", 1e-5)
    sets, block, pair = world_of_pairs()
    found = increments.fit(sets)
    for gone in (np.zeros(N, bool), np.array([1, 0, 0, 1, 1, 0], bool)):
        left = ~gone
        expected = block + pair @ gone
        assert found.of(gone)[left] == pytest.approx(expected[left], abs=2e-3)
    assert found.of(~sets.kept).shape == sets.kept.shape


def steps_of(sets: Sets) -> list[tuple[BoolArray, int, float]]:
    """Pairs of measured sets that differ by one block: what is gone, which goes, what it costs."""
    place = {kept.tobytes(): row for row, kept in enumerate(sets.kept)}
    found = []
    for row, kept in enumerate(sets.kept):
        for block in np.flatnonzero(kept):
            less = kept.copy()
            less[block] = False
            other = place.get(less.tobytes())
            if other is not None and (~kept).sum() >= 3:
                found.append((~kept, int(block), float(sets.nll[other] - sets.nll[row])))
    return found


def test_it_says_more_of_steps_that_it_did_not_see_than_the_fixed_order() -> None:
    """Fitted to every fourth set, judged on steps between two of the others."""
    columns = rapgym.load_table("smollm2-135m").calibration()
    sets = columns.fitted_sets()[0]
    sets = sets.part(np.flatnonzero(sets.text == 0))
    alone = (~sets.kept).sum(axis=1) == 1
    some = np.arange(len(sets.kept)) % 4 == 0
    found = increments.fit(sets.part(np.flatnonzero(alone | some)))
    steps = [
        (gone, block, cost)
        for gone, block, cost in steps_of(sets.part(np.flatnonzero(~some | alone)))
        if cost < 2
    ]
    assert len(steps) > 20
    actual = [cost for _, _, cost in steps]
    fitted = [found.of(gone)[block] for gone, block, _ in steps]
    fixed = [columns.importance[block] for _, block, _ in steps]
    assert np.corrcoef(fitted, actual)[0, 1] > np.corrcoef(fixed, actual)[0, 1]


def test_what_is_seen_is_a_share_of_a_refused_token(toy_story: Scenario) -> None:
    world = rapgym.make_world(toy_story, "learn")
    so_far = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 0, 1, 0, 1]], dtype=bool)
    seen = lanes.importance(world, so_far)
    assert ((seen >= 0) & (seen <= 1)).all()
    assert (seen[:, world.floor] == 1).all()
    assert (seen[~so_far] == 0).all()
    rises = world.quality.increments.of(~so_far)
    some = so_far & ~world.floor & (rises > 0) & (rises < world.ceiling)
    assert some.any()
    assert seen[some] == pytest.approx(rises[some] / world.ceiling)
    assert (seen[0] != seen[1])[so_far.all(axis=0) & ~world.floor].any(), "it moves as blocks go"


def test_a_kept_fit_is_taken_and_another_table_or_rule_is_fitted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sets = rapgym.make_world("chat").quality.fitted_sets()[0]
    fitted = []
    monkeypatch.setattr(increments, "fit", lambda sets: fitted.append(sets))
    kept = increments.of_sets(sets)
    assert not fitted
    assert kept.pair.shape == (sets.kept.shape[1],) * 2
    for part in ("nll", "nll_se"):
        values = getattr(sets, part).copy()
        values[3] = np.nextafter(values[3], 1.0)
        increments.of_sets(replace(sets, **{part: values}))
    monkeypatch.setattr(increments, "PAIRS", increments.PAIRS * 2)
    increments.of_sets(sets)
    assert len(fitted) == 3


@pytest.mark.parametrize(
    "content", [None, b"", b"no array", b"\x93NUMPY\x01\x00v\x00{'descr': '<f8'}"]
)
def test_a_damaged_file_of_fits_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    path = tmp_path / "increments.npy"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr(increments, "STORED", path)
    monkeypatch.setattr(increments, "_stored", increments._stored.__wrapped__)
    with pytest.raises(InvalidTable, match="install rapgym anew"):
        increments.of_sets(world_of_pairs()[0])
