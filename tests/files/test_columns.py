"""Blocks of numbers between commas, and columns of CSV text: read at once, refused in a sentence."""

import re
import warnings
from typing import Any

import numpy as np
import pytest

from rapgym.errors import InvalidSpec, InvalidTrace
from rapgym.files import columns
from rapgym.model import blocks


def test_floats_are_read_at_once_and_empty_cells_are_nan() -> None:
    found = columns.floats(["0.1,,,2e-3", "-1,,7,", ",,,", "5,6,7,8"], 4)
    nan = np.nan
    wanted = [[0.1, nan, nan, 0.002], [-1, nan, 7, nan], [nan] * 4, [5, 6, 7, 8]]
    np.testing.assert_array_equal(found, wanted)
    assert columns.floats([], 3).shape == (0, 3)


def test_floats_are_to_the_last_bit_what_python_reads() -> None:
    rng = np.random.default_rng(0)
    cells = [[f"{value:.6f}".rstrip("0") for value in row] for row in rng.normal(size=(200, 5))]
    found = columns.floats([",".join(row) for row in cells], 5)
    assert found.tolist() == [[float(cell) for cell in row] for row in cells]


def test_integers_are_read_to_the_last_digit() -> None:
    found = columns.integers(["9007199254740993,-1", "0,9223372036854775807"], 2)
    assert found.dtype == np.int64
    assert found.tolist() == [[9007199254740993, -1], [0, 9223372036854775807]]
    assert columns.integers([], 2).shape == (0, 2)


@pytest.mark.parametrize("cell", ["x", "0x1", "1_0", "1;2", '"1"', "1,2", "1\r2", "#"])
def test_what_is_no_number_is_refused(cell: str) -> None:
    for read in (columns.floats, columns.integers):
        with pytest.raises(ValueError, match=r".") as refused:
            read(["1,2", f"{cell},2"], 2)
        assert len(str(refused.value)) <= 120


@pytest.mark.parametrize("cell", ["0.5", "1e3", "nan", "inf", "", "9223372036854775808"])
def test_what_is_no_whole_number_is_refused_whatever_warnings_are_shown(cell: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=r"."):
            columns.integers(["1,2", f"{cell},2"], 2)


def test_what_an_older_numpy_takes_with_a_warning_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def loadtxt(lines: list[str], *_: object, **__: object) -> np.ndarray[Any, Any]:
        warnings.warn("parsing an integer via a float", DeprecationWarning, stacklevel=1)
        return np.zeros((len(lines), 2), dtype=np.int64)

    monkeypatch.setattr(np, "loadtxt", loadtxt)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="via a float"):
            columns.integers(["0.5,2"], 2)


def test_an_empty_line_is_not_passed_over() -> None:
    for read in (columns.floats, columns.integers):
        with pytest.raises(ValueError, match="another number of cells than 1"):
            read(["1", "", "2"], 1)


def test_the_first_bad_cell_of_a_column_is_named() -> None:
    text = "a,b\n1,2.5\n2,-3e2\n3.5,1\nx,1\n"
    with pytest.raises(
        InvalidTrace, match=re.escape("row 3 of column 'a' is not a whole number: '3.5'")
    ):
        columns.parse([text.splitlines()], "toy", {"a": "int", "b": "float"})
    found = columns.parse([text.splitlines()], "toy", {"b": "float", "a": "text"})
    assert found["b"].tolist() == [2.5, -300.0, 1.0, 1.0]
    assert found["a"].tolist() == ["1", "2", "3.5", "x"]
    with pytest.raises(InvalidTrace, match="too large to represent"):
        columns.parse([["a", "1e999"]], "toy", {"a": "float"})


@pytest.mark.parametrize("n", [2, 4, 6, 60, 62, 64])
def test_keys_are_read_at_once_as_one_by_one(n: int) -> None:
    kept = np.random.default_rng(n).random((20, n)) < 0.5
    keys = [blocks.key(row) for row in kept]
    assert (blocks.kept_sets_of(keys, n) == kept).all()
    assert all((blocks.kept_of(key, n) == row).all() for key, row in zip(keys, kept, strict=True))
    assert (blocks.kept_sets_of([key.upper() for key in keys], n) == kept).all()
    assert blocks.kept_sets_of([], n).shape == (0, n)


@pytest.mark.parametrize("key", ["", "f", "fff", "g0", "f1", " f", "é0"])
def test_a_key_of_another_model_is_refused_among_good_ones(key: str) -> None:
    with pytest.raises(InvalidSpec, match="is no key of 6 blocks: it needs 2 hex digits"):
        blocks.kept_sets_of(["fc", key], 6)
