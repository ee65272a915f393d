"""A table's file: the same table gives the same bytes, and damage is never anything but InvalidTable."""

import gzip
import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from toy_table import toy_header, toy_rows

from rapgym.errors import DataUnavailable, InvalidTable
from rapgym.files import limits
from rapgym.quality import file as table_file
from rapgym.quality.file import TableFile

INT4 = {
    "weights": "int4",
    "kv": "bf16",
    "sample": "test",
    "nll": [0.2, 0.1, -0.03],
    "nll_se": [0.01, 0.01, 0.02],
    "kl": [0.2, 0.1, 0.1],
    "top1": [0.9, 0.8, 0.9],
    "nll_p95": 0.3,
}
CONTENT = table_file.packed(toy_header(), toy_rows())
TEXT = gzip.decompress(CONTENT)


def with_header(**entries: Any) -> bytes:
    """The toy table's bytes with some entries of its header replaced."""
    first, rest = TEXT.split(b"\n", 1)
    described = json.loads(first[2:]) | entries
    return gzip.compress(b"# " + json.dumps(described).encode() + b"\n" + rest)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    rows = toy_rows()
    rows.kl[3, 1] = np.nan
    path = tmp_path / "toy.csv.gz"
    sha256 = table_file.write(path, toy_header(), rows)
    found = table_file.read(path)
    assert found.header == toy_header()
    assert found.sha256 == sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (found.rows.sample, found.rows.design) == (rows.sample, rows.design)
    for name in ("kept", "tokens", "nll", "nll_se", "kl", "top1", "nll_p95"):
        np.testing.assert_allclose(getattr(found.rows, name), getattr(rows, name), atol=5e-7)
    assert [entry.name for entry in tmp_path.iterdir()] == ["toy.csv.gz"]


def test_the_same_table_gives_the_same_bytes() -> None:
    read = table_file.unpacked(CONTENT, "toy")
    assert table_file.packed(toy_header(), toy_rows()) == CONTENT
    assert table_file.packed(read.header, read.rows) == CONTENT, "reading and writing again"
    assert CONTENT[4:8] == b"\0" * 4, "no time of writing in it"


def test_formats_and_block_influence_are_read_back_and_older_tables_have_none() -> None:
    header = table_file.unpacked(with_header(formats=[INT4], block_influence=[0.5, 0.25, 0]), "toy")
    assert [asdict(entry) for entry in header.header.formats] == [
        {name: tuple(v) if isinstance(v, list) else v for name, v in INT4.items()}
    ]
    assert header.header.block_influence == (0.5, 0.25, 0.0)
    content = table_file.packed(header.header, header.rows)
    assert table_file.unpacked(content, "toy").header == header.header
    first, rest = TEXT.split(b"\n", 1)
    described = json.loads(first[2:])
    del described["formats"], described["block_influence"]
    older = gzip.compress(b"# " + json.dumps(described).encode() + b"\n" + rest)
    assert table_file.unpacked(older, "toy").header == toy_header()


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataUnavailable, match="tables list"):
        table_file.read(tmp_path / "none.csv.gz")


def try_to_read(content: bytes) -> TableFile | None:
    try:
        return table_file.unpacked(content, "damaged")
    except InvalidTable:
        return None


@given(st.integers(0, len(CONTENT) - 1), st.integers(1, 255))
def test_a_flipped_byte_of_the_file_changes_nothing_or_is_refused(place: int, change: int) -> None:
    damaged = bytearray(CONTENT)
    damaged[place] ^= change
    found = try_to_read(bytes(damaged))
    if found is not None:  # gzip's own header has bytes without a meaning for the content
        np.testing.assert_array_equal(found.rows.nll, table_file.unpacked(CONTENT, "toy").rows.nll)


@given(st.integers(0, len(CONTENT) - 1))
def test_a_file_cut_short_is_refused(length: int) -> None:
    assert try_to_read(CONTENT[:length]) is None
    assert try_to_read(CONTENT + CONTENT[: length + 1]) is None


@given(st.integers(0, len(TEXT) - 1), st.binary(max_size=6), st.integers(0, 6))
@example(0, b"", 2)
def test_mutated_text_never_raises_anything_else(place: int, put: bytes, taken: int) -> None:
    found = try_to_read(gzip.compress(TEXT[:place] + put + TEXT[place + taken :]))
    if found is not None:
        assert np.isfinite(found.rows.nll).all()
        assert (found.rows.tokens >= 1).all()


@given(st.sampled_from(sorted(json.loads(TEXT.split(b"\n")[0][2:]))),
       st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
                    lambda inner: st.lists(inner, max_size=3)
                    | st.dictionaries(st.text(max_size=3), inner, max_size=3)))  # fmt: skip
def test_any_json_as_a_header_entry_is_read_or_refused(name: str, value: Any) -> None:
    try_to_read(with_header(**{name: value}))


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({"schema": 2}, "schema 2"),
        ({"blocks": 10}, "key"),
        ({"blocks": 7}, "odd"),
        ({"orders": []}, "no greedy order"),
        ({"domains": ["books", "books", "wiki"]}, "domains"),
        ({"orders": [{"sample": "order-0", "attention": [2], "ffn": [3], "joint": [2, 5]}]}, "joint"),
        ({"orders": [{"sample": "order-0", "attention": [0, 2, 4], "ffn": [3], "joint": [0, 2, 4, 3]}]},
         "no attention block"),
        ({"orders": [{"sample": "order-0", "attention": [3], "ffn": [3], "joint": [3, 3]}]}, "kind"),
        ({"provenance": []}, "provenance"),
        ({"formats": [{}]}, "no sample"),
        ({"formats": [{"sample": "test", "weights": "int3", "kv": "bf16"}]}, "int3"),
        ({"formats": [INT4 | {"nll": [0.1]}]}, "nll needs 3"),
        ({"formats": [INT4 | {"nll_se": [-0.1] * 3}]}, "nll_se"),
        ({"formats": [INT4, INT4]}, "two records"),
        ({"block_influence": [0.1, 0.2]}, "block_influence needs 3"),
        ({"block_influence": 3}, "no list"),
    ],
)  # fmt: skip
def test_a_header_that_contradicts_itself_is_refused(entries: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidTable, match=says):
        table_file.unpacked(with_header(**entries), "toy")


@pytest.mark.parametrize("cell", ["nan", "inf", "1e9", "x", "0x1", ""])
def test_a_cell_without_a_plausible_number_is_refused(cell: str) -> None:
    lines = TEXT.decode().split("\n")
    cells = lines[5].split(",")
    cells[5] = cell  # nll of the first domain
    lines[5] = ",".join(cells)
    assert try_to_read(gzip.compress("\n".join(lines).encode())) is None


def test_a_set_with_two_rows_on_one_sample_is_refused() -> None:
    lines = TEXT.decode().split("\n")
    with pytest.raises(InvalidTable, match="two rows"):
        table_file.unpacked(gzip.compress("\n".join([*lines[:3], *lines[2:]]).encode()), "toy")


def test_a_bomb_is_refused_before_it_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TABLE", len(TEXT) - 1)
    with pytest.raises(InvalidTable, match="too large"):
        table_file.unpacked(CONTENT, "bomb")
    monkeypatch.setattr(limits, "PACKED", 10)
    with pytest.raises(InvalidTable, match="larger"):
        table_file.unpacked(CONTENT, "bomb")


def test_contradictions_are_refused_when_writing_too(tmp_path: Path) -> None:
    rows = toy_rows()
    with pytest.raises(InvalidTable):
        table_file.write(tmp_path / "toy.csv.gz", replace(toy_header(), samples=()), rows)
    rows.nll[0, 0] = np.nan
    with pytest.raises(InvalidTable):
        table_file.write(tmp_path / "toy.csv.gz", toy_header(), rows)
    assert not list(tmp_path.iterdir())
