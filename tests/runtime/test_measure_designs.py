"""`rapgym measure --design`: one design alone, printed, and taken into the next table."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import tiny_llama
import toy_table

from rapgym.cli import main, tables
from rapgym.quality import file as table_file
from rapgym.quality import texts
from rapgym.quality.header import FormatQuality, Orders
from rapgym.quality.table import QualityTable
from rapgym.runtime.measure import choice

FORMS = ["int8/bf16", "int4/bf16", "bf16/int8", "int8/int8", "int4/int8"]


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words of a `measure` command on a tiny model, its texts and folders."""
    monkeypatch.setattr(texts, "read", tiny_llama.text)
    monkeypatch.setattr(choice, "ITEMS", 4)
    monkeypatch.setenv("RAPGYM_CACHE", str(tmp_path / "cache"))
    folder = tiny_llama.save(tmp_path / "tiny")
    return ["measure", str(folder), "--seq", "32", "--dtype", "float32", "--quiet"]


def test_formats_and_influence_of_the_dense_model_go_into_the_ledger(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*tiny, "--design", "formats", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    samples = ("calib", "test", "test-large")
    assert [(r["sample"], r["form"]) for r in rows] == [(s, f) for s in samples for f in FORMS]
    assert {r["key"] for r in rows} == {"fc"}
    assert main([*tiny, "--design", "influence"]) == 0
    said, values = capsys.readouterr().out.splitlines()
    assert said == "block influence of each layer on order-0"
    work = (tmp_path / "cache" / "measure" / "tiny.work.jsonl").read_text()
    lines = [json.loads(line) for line in work.splitlines()[1:]]
    assert [f"{v:.4f}" for v in lines[-1]["block_influence"]] == values.split()
    assert len(lines) == len(rows) + 1
    assert main([*tiny, "--design", "formats"]) == 0
    first, *shown = capsys.readouterr().out.splitlines()
    assert first == "weights/KV, nats a token above dense bf16"
    assert [line.split()[:2] for line in shown] == [[f, s] for s in samples for f in FORMS]
    assert (tmp_path / "cache" / "measure" / "tiny.work.jsonl").read_text() == work


def test_choices_of_dense_its_formats_and_the_sets_that_are_named(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*tiny, "--design", "choice", "--kept", "7c"]) == 0
    first, *shown = capsys.readouterr().out.splitlines()
    assert "most likely of four" in first
    places = [line.split()[:2] for line in shown]
    assert places == [["fc", "bf16/bf16"], ["7c", "bf16/bf16"], *(["fc", f] for f in FORMS)]
    lines = (tmp_path / "cache" / "measure" / "tiny.choices.jsonl").read_text().splitlines()
    origin, *rows = [json.loads(line) for line in lines]
    assert origin["items"] == 12
    for row, line in zip(sorted(rows, key=lambda r: "form" in r), shown, strict=True):
        assert f"{row['right'].count('1') / 12:.4f}" == line.split()[2]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--design", "formats", "--kept", "fc"], "leave --kept away"),
        (["--design", "choice", "--kept", "fc", "--sample", "test"], "not with --design"),
    ],
)
def test_designs_that_do_not_go_together_are_refused(
    tiny: list[str], capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert main([*tiny, *more]) == 2
    assert message in capsys.readouterr().err


def test_tables_show_prints_spread_influence_and_formats(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "not measured: rapgym measure toy --design formats" in shown(tmp_path, capsys)
    header = toy_table.toy_header()
    again = Orders("order-1", (4, 2), (3, 5), (3, 4, 2, 5))
    text = shown(
        tmp_path,
        capsys,
        samples=(*header.samples, replace(header.samples[0], name="order-1")),
        orders=(*header.orders, again),
        block_influence=(0.5, 0.125, 0.25),
        formats=(
            FormatQuality("int4", "int8", "test", (0.2, 0.1, -0.03), (0.01,) * 3, (0.1,) * 3,
                          (0.9, 0.8, 0.7), 0.4),
        ),
        provenance={"formats": "by rounding"},
    )  # fmt: skip
    assert "attention  order-0, order-1: 0 of the first 1, 2 of 2, tau -1.00" in text
    assert "1 (0.125) 2 (0.250) 0 (0.500)" in text
    assert "nats above dense bf16 (by rounding)" in text
    assert "int4 weights, int8 KV  test        +0.2000 (se 0.0100)  +0.1000" in text
    assert "p95 +0.4000  top-1 0.8000" in text


def shown(folder: Path, capsys: pytest.CaptureFixture[str], **changes: object) -> str:
    """What `tables show` prints of the toy table with some entries of its header replaced."""
    path = folder / "toy.csv.gz"
    table_file.write(
        path, replace(toy_table.toy_header(), **changes), toy_table.toy_rows()  # type: ignore[arg-type]
    )  # fmt: skip
    assert main(["tables", "show", str(path)]) == 0
    printed = capsys.readouterr().out
    assert main(["tables", "show", str(path), "--json"]) == 0
    as_json = json.loads(capsys.readouterr().out)
    assert as_json == json.loads(json.dumps(tables.summary(QualityTable.load(path))))
    return printed
