"""Tables of their own for weight and KV formats, on orders that another table found."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import tiny_llama

from rapgym.cli import main
from rapgym.errors import InvalidSpec
from rapgym.files import places
from rapgym.model import blocks
from rapgym.model.shapes import BF16, FORMATS, Format
from rapgym.quality import texts
from rapgym.quality.table import QualityTable
from rapgym.runtime import rounding, samples
from rapgym.runtime.measure import campaign, designs, origins
from rapgym.runtime.measure.ledger import Ledger, Measurement, form_name
from rapgym.runtime.measure.meter import Meter
from rapgym.scenarios import tables

N = 2 * tiny_llama.LAYERS
LENGTH = 48
COMMITTED = places.RESULTS / "measurements"


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words of a `measure` command on a tiny model; its files land in `tmp_path`."""
    monkeypatch.setattr(texts, "read", tiny_llama.text)
    monkeypatch.setenv("RAPGYM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    folder = tiny_llama.save(tmp_path / "tiny")
    few = ["--random", "3", "--near", "2"]
    return ["measure", str(folder), "--seq", "32", "--dtype", "float32", "--quiet", *few]


def opened(folder: Path, form: Format) -> Meter:
    return campaign.open_meter(
        tiny_llama.loaded(),
        folder / f"{form_name(form).replace('/', '-')}.jsonl",
        length=LENGTH,
        dtype="float32",
        domains=texts.DOMAINS,
        form=form,
    )


@pytest.mark.parametrize("form", FORMATS, ids=form_name)
def test_in_a_format_of_its_own_dense_costs_nothing_and_the_rest_adds_up(
    form: Format, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cost above dense bf16 = cost in the format's world + what the format costs dense."""
    monkeypatch.setattr(texts, "read", tiny_llama.text)
    sets = [designs.dense(N), designs.without(N, [1, 2])]
    plain = opened(tmp_path, BF16)
    with plain.ledger:
        above_bf16 = plain.measure(sets, "test", "formats", form=form)
        bf16 = [part.mean() for part in plain.dense_nll("test")]
    own = opened(tmp_path, form)
    with own.ledger, rounding.rounded(own.model.network, form):
        found = own.measure(sets, "test", "grid")
        offset = np.array([part.mean() for part in own.dense_nll("test")]) - bf16
    dense, dropped = (found[blocks.key(kept)] for kept in sets)
    assert dense.nll == (0.0, 0.0, 0.0)
    assert dropped.form == form_name(form)
    for kept in sets:
        key = blocks.key(kept)
        np.testing.assert_allclose(above_bf16[key].nll, found[key].nll + offset, atol=3e-6)
    assert np.abs(offset).max() > 1e-5, "the format costs something, or this would say nothing"


def test_a_format_is_not_rounded_on_top_of_another(tmp_path: Path) -> None:
    own = opened(tmp_path, Format("int8", "int8"))
    with own.ledger, pytest.raises(InvalidSpec, match="in int8/int8 already"):
        own.measure([designs.dense(N)], "test", "formats", form=Format("int4"))
    assert not own.ledger.found


def test_a_whole_table_of_a_format_takes_no_orders_from_elsewhere(tiny: list[str]) -> None:
    """All its designs but the formats, which are compared with bf16."""
    words = [*tiny, "--attention-drops", "2", "--ffn-drops", "2", "--format", "int8/int8"]
    assert main(words) == 0
    header = QualityTable.load(Path("tiny-int8-int8kv.csv.gz")).header
    assert (header.weights, header.kv, header.formats) == ("int8", "int8", ())
    assert len(header.block_influence) == tiny_llama.LAYERS
    assert len(header.orders[0].joint) == 4


def test_the_origin_of_a_bf16_ledger_is_what_it_was_and_a_format_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The committed ledger goes on being valid: its first line is made of the same entries."""
    import gzip

    with gzip.open(COMMITTED / "smollm2-135m.work.jsonl.gz", "rt") as file:
        committed = json.loads(next(file))
    model = replace(
        tiny_llama.loaded(),
        name=committed["model"],
        weights_sha256=committed["weights_sha256"],
        tokenizer_sha256=committed["tokenizer_sha256"],
    )
    told = {"length": 512, "domains": texts.DOMAINS, "dtype": "bfloat16"}
    plain = origins.origin(model, **told) | {"blocks": 60}  # type: ignore[arg-type]
    assert json.dumps(plain, sort_keys=True) == json.dumps(committed, sort_keys=True)
    judging = origins.origin(model, chosen=samples.judging(2), **told)  # type: ignore[arg-type]
    assert judging == origins.origin(model, **told)  # type: ignore[arg-type]
    other = origins.origin(model, form=Format("int4"), **told)  # type: ignore[arg-type]
    assert other.pop("format") == "int4/bf16"
    assert other == origins.origin(model, **told)  # type: ignore[arg-type]


def test_each_format_has_files_of_its_own() -> None:
    suffixes = [tables.table_name("", form) for form in (BF16, *FORMATS)]
    assert suffixes == ["", "-int8", "-int4", "-int8kv", "-int8-int8kv", "-int4-int8kv"]


def test_a_format_table_takes_its_orders_from_another_table(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*tiny, "--attention-drops", "2", "--ffn-drops", "3"]) == 0
    plain = QualityTable.load(tmp_path / "tiny.csv.gz")
    command = [*tiny, "--format", "int4/int8", "--orders-of", str(tmp_path / "tiny.csv.gz")]
    assert main([*command, "--grid-step", "2"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "tiny-int4-int8kv.csv.gz"
    table = QualityTable.load(tmp_path / "tiny-int4-int8kv.csv.gz")
    assert (table.header.weights, table.header.kv) == ("int4", "int8")
    assert table.header.orders == plain.header.orders
    told = table.header.provenance["orders_from"]
    assert (told["table"], told["sha256"], told["format"]) == ("tiny", plain.sha256, "bf16/bf16")
    assert table.header.provenance["origin"]["format"] == "int4/int8"
    assert not table.header.formats
    assert not table.header.block_influence
    view, floor = table.calibration(), plain.floor
    assert (view.floor == floor).all()
    # Every second count of 0..2 and 0..3, full counts included, has a row.
    assert view.grid_measured[np.ix_([0, 2], [0, 2, 3])].all()
    assert (table.test().nll(view.grid_kept)[0][0, 0]) == 0
    sample = table.header.sample("test").dense_nll, plain.header.sample("test").dense_nll
    assert np.mean(sample[0]) != np.mean(sample[1]), "dense is dense in the format"
    ledger = tmp_path / "cache" / "measure" / "tiny-int4-int8kv.work.jsonl"
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert {line["form"] for line in lines[1:]} == {"int4/int8"}
    assert not {line["design"] for line in lines[1:]} & {"attention-order", "ffn-order"}


def test_a_ledger_of_one_format_is_refused_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "read", tiny_llama.text)
    path = tmp_path / "int4-bf16.jsonl"
    with opened(tmp_path, Format("int4")).ledger:
        pass
    described = origins.origin(
        tiny_llama.loaded(), length=LENGTH, domains=texts.DOMAINS, dtype="float32"
    )

    with pytest.raises(ValueError, match=r"another origin \(format differ\)"):
        Ledger(path, described, Measurement)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--format", "int2/bf16"], "there are bf16/bf16, int8/bf16, int4/bf16"),
        (["--format", "int4/bf16", "--design", "formats"], "leave --format away"),
        (["--orders-of", "smollm2-135m"], "it is of smollm2-135m with 60 blocks"),
    ],
)
def test_formats_and_orders_that_do_not_fit_are_refused(
    tiny: list[str], capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert main([*tiny, *more]) == 2
    assert message in capsys.readouterr().err
