"""`rapgym/studies/predictors/study.py`: kinds find what is planted, on sets that no fit was given."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import shaped_table

from rapgym.arrays import BoolArray, FloatArray
from rapgym.files import places
from rapgym.model import blocks
from rapgym.quality.predictor import Sets
from rapgym.scenarios import catalogue, tables
from rapgym.studies.predictors import kinds, page, study
from rapgym.studies.predictors.kinds import processes

FOUND = places.RESULTS / "predictors.json"
Truth = Callable[[FloatArray], FloatArray]


@pytest.fixture(scope="module")
def sets() -> Sets:
    """The shaped table's sets above its floor, a third of its grid alone, and more drawn ones."""
    found = shaped_table.table().calibration().fitted_sets()[0]
    on_grid = np.flatnonzero(of_grid(found.kept))
    found = found.part(np.setdiff1d(np.arange(len(found.nll)), [*on_grid[1::3], *on_grid[2::3]]))
    rng, above = np.random.default_rng(4), list(shaped_table.orders().joint)
    more = np.ones((160, shaped_table.N), dtype=bool)
    more[:, above] = rng.random((160, len(above))) > rng.uniform(0.1, 0.6, (160, 1))
    kept = np.unique(np.concatenate([found.kept, more]), axis=0)
    return Sets(kept, shaped_table.nll(kept), np.full(len(kept), 0.01), np.zeros(len(kept), int))


def of_grid(kept: BoolArray) -> BoolArray:
    """Sets that drop several blocks, a prefix of each order."""
    orders, gone = shaped_table.orders(), ~kept
    prefix = [
        (np.diff(gone[:, list(order)].astype(int), axis=1) <= 0).all(axis=1)
        for order in (orders.attention, orders.ffn)
    ]
    found: BoolArray = prefix[0] & prefix[1] & (gone.sum(axis=1) > 1)
    return found


def designs(sets: Sets) -> list[str]:
    """As a table would name them; here every set off the grid was drawn."""
    several = (~sets.kept).sum(axis=1) > 1
    return np.where(of_grid(sets.kept), "grid", np.where(several, "random", "single")).tolist()


def errors(sets: Sets, truth: Truth, names: list[str]) -> dict[str, float]:
    """Mean absolute error of each kind on drawn sets whose nll is `truth` of the dropped blocks."""
    planted = replace(sets, nll=truth((~sets.kept).astype(float)))
    asked = {name: kinds.KINDS[name] for name in names}
    found = study.compared(planted, designs(sets), asked, repeats=1, folds=3)["kinds"]
    return {
        name: next(
            e["mean_abs"][0]
            for e in kind["held_out"]
            if (e["design"], e["part"]) == ("random", "all")
        )
        for name, kind in found.items()
    }


SINGLE = shaped_table.single()
FACTOR = np.where(np.arange(shaped_table.N) % 3, 0.15, -0.15)


def a_sum(gone: FloatArray) -> FloatArray:
    return gone @ SINGLE


def a_bent_sum(gone: FloatArray) -> FloatArray:
    found: FloatArray = 2 * np.expm1(gone @ SINGLE / 2)
    return found


def a_factor(gone: FloatArray) -> FloatArray:
    """Every pair matters, through one factor."""
    scores = gone @ FACTOR
    found: FloatArray = gone @ SINGLE + 0.5 * (scores**2 - gone @ FACTOR**2)
    return found


def near_pairs(gone: FloatArray) -> FloatArray:
    """Blocks two layers apart or less cost more together."""
    pairs = [(gone[:, k:] * gone[:, :-k]).sum(axis=1) for k in range(1, 5)]
    return gone @ SINGLE + 0.15 * np.sum(pairs, axis=0)


def a_jump(gone: FloatArray) -> FloatArray:
    """One block costs a nat more once many are gone."""
    block = shaped_table.orders().joint[3]
    return gone @ SINGLE + gone[:, block] * (gone.sum(axis=1) >= 7)


@pytest.mark.parametrize(
    ("truth", "right", "wrong", "times"),
    [
        (a_sum, "sum of singles", "nearest", 50),
        (a_sum, "fitted sum", "nearest", 20),
        (a_bent_sum, "fitted sum + link", "fitted sum", 5),
        (a_factor, "low rank", "fitted sum", 5),
        (near_pairs, "pairs + link", "fitted sum", 3),
        (a_jump, "boosted trees", "pairs + link", 1.2),
        (a_factor, "network", "fitted sum", 2),
        (near_pairs, "shipped", "fitted sum", 3),
        (near_pairs, "shipped", "low rank", 1.5),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_the_kind_that_can_say_it_finds_what_is_planted(
    sets: Sets, truth: Truth, right: str, wrong: str, times: float
) -> None:
    found = errors(sets, truth, [right, wrong])
    assert found[right] * times < found[wrong]


def test_no_held_out_set_is_among_the_fitting_rows(sets: Sets) -> None:
    """Nor does any held-out set go unasked, or is asked twice by one repeat."""
    asked_of: list[tuple[set[bytes], set[bytes]]] = []

    def names(kept: BoolArray) -> set[bytes]:
        return {*blocks.raw_keys(kept)}

    def spy(given: Sets, rng: np.random.Generator) -> Callable[[BoolArray], FloatArray]:
        asked: set[bytes] = set()
        asked_of.append((names(given.kept), asked))

        def fit(kept: BoolArray) -> FloatArray:
            asked.update(names(kept))
            return np.asarray((~kept).sum(axis=1) + kept[:, 0] / 3, dtype=np.float64)

        return fit

    named = designs(sets)
    study.compared(sets, named, {"spy": spy, "shipped": spy}, 2, 3, shares=(0.3,))
    assert all(asked and not given & asked for given, asked in asked_of)
    held_out = [asked for _, asked in asked_of[: 2 * 3 * 2 : 2]]
    for repeat in (held_out[:3], held_out[3:]):
        assert sum(map(len, repeat)) == len(set.union(*repeat))
        assert set.union(*repeat) == names(sets.kept[[d != "single" for d in named]])


def test_a_set_held_out_is_unknown_in_the_columns_that_a_fit_starts_from(sets: Sets) -> None:
    """What those columns say of it changes nothing; what they say of others does."""
    given, rng = sets.part(np.arange(0, len(sets.nll), 2)), np.random.default_rng(0)
    asked = sets.kept[1::2]

    def said(known: FloatArray) -> FloatArray:
        kind = processes.starting_from(replace(sets, nll=known), sets.kept)
        found: FloatArray = kind(given, rng)(asked)
        return found

    other, everywhere = sets.nll.copy(), sets.nll + 0.1 * (~sets.kept).sum(axis=1)
    other[1::2] += 5
    assert (said(sets.nll) == said(other)).all()
    assert not (said(sets.nll) == said(everywhere)).all()


@pytest.mark.parametrize("name", ["network", "boosted trees"])
def test_a_seed_fixes_what_is_drawn(sets: Sets, name: str) -> None:
    first, second = (kinds.KINDS[name](sets, np.random.default_rng(3))(sets.kept) for _ in range(2))
    assert (first == second).all()


def test_resampled_errors_are_those_of_the_drawn_sets() -> None:
    from rapgym.studies.predictors import scores

    rng = np.random.default_rng(5)
    nll, said = rng.random(17), rng.random((2, 17))
    counts = scores.counts_of(17, rng)[:20]
    found = scores.resampled(nll, said, counts)
    assert len(counts) == 20

    def mid_ranks(values: FloatArray) -> FloatArray:
        below = (values[:, None] > values).sum(axis=1)
        return below + ((values[:, None] == values).sum(axis=1) + 1) / 2

    for i, count in enumerate(counts):
        drawn = np.repeat(np.arange(17), count)
        error = np.abs(said - nll)[:, drawn]
        ranks = [np.corrcoef(mid_ranks(nll[drawn]), mid_ranks(s[drawn]))[0, 1] for s in said]
        assert found["median_abs"][i] == pytest.approx(np.median(error, axis=1).mean())
        assert found["mean_abs"][i] == pytest.approx(error.mean())
        assert found["spearman"][i] == pytest.approx(np.mean(ranks))


def test_what_is_committed_is_of_the_table_here() -> None:
    found: dict[str, Any] = json.loads(FOUND.read_text())
    table = tables.table(catalogue.scenario("chat-beside-code"))
    assert found["table"] == {"name": table.name, "sha256": table.sha256}
    named = [*kinds.KINDS, study.MEAN]
    assert {*found["splits"]["calib"]["kinds"]} == {*named}
    assert {*found["splits"]["test"]["kinds"]} == {*named, study.FROM_CALIBRATION}
    told = page.section(found)
    assert all(told.count(f"\n| {name} |") == 4 for name in named)
