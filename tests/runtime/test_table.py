"""From measurements to a table: orders, unigram model, what was spent; on paper and on a tiny model."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rapgym.arrays import BoolArray, IntArray
from rapgym.errors import InvalidTable
from rapgym.model import blocks
from rapgym.model.shapes import FORMATS, Format

pytest.importorskip("torch")
pytest.importorskip("transformers")

import tiny_llama

from rapgym.quality import texts as quality_texts
from rapgym.quality.header import Orders
from rapgym.runtime import samples
from rapgym.runtime.measure import campaign, designs, table
from rapgym.runtime.measure.ledger import PLAIN, Measurement
from rapgym.runtime.measure.meter import Meter

N = 6


def row(
    kept: BoolArray, nll: float, sample: str = "order-0", design: str = "d", form: str = PLAIN
) -> Measurement:
    return Measurement(
        form=form,
        sample=sample,
        design=design,
        key=blocks.key(kept),
        domains=("books",),
        tokens=(10,),
        nll=(nll,),
        nll_se=(0.1,),
        kl=None,
        top1=None,
        sequences=(nll,),
        blocks_run=3,
        seconds=0.5,
    )


def on_paper() -> list[Measurement]:
    """All that the three greedy searches of a three-layer model measure; two drops, then one."""
    single = [9.0, 8.0, 0.1, 0.3, 0.2, 0.6]
    sets = [[b] for b in range(N)] + [[2, 0], [2, 4], [2, 3], [2, 4, 3]]
    return [row(designs.without(N, gone), sum(single[b] for b in gone)) for gone in sets]


def test_orders_are_found_again_among_the_measurements() -> None:
    found = table.found_orders(on_paper(), N, "order-0", (2, 1))
    assert found == Orders("order-0", (2, 4), (3,), (2, 4, 3))


def test_an_order_that_is_cut_short_is_no_order() -> None:
    with pytest.raises(InvalidTable, match="rapgym measure"):
        table.found_orders(on_paper()[:-1], N, "order-0", (2, 1))
    with pytest.raises(InvalidTable, match="order-1"):
        table.found_orders(on_paper(), N, "order-1")


def test_rows_of_other_formats_say_nothing_of_orders() -> None:
    spoiled = [row(designs.without(N, b), -9.0, form="int4/bf16") for b in range(N)]
    assert table.found_orders(on_paper() + spoiled, N, "order-0", (2, 1)).joint == (2, 4, 3)


def test_add_one_smoothing_by_hand() -> None:
    nll = table.unigram_nll(np.array([3, 0, 1]))  # 4 tokens, 3 words: 4/7, 1/7, 2/7
    assert nll == pytest.approx([-math.log(4 / 7), math.log(7), -math.log(2 / 7)])


def test_passes_count_blocks_that_were_computed() -> None:
    rows = [row(designs.without(N, b), 0.0, design="single") for b in range(4)]
    (entry,) = table.spent(rows, N)
    assert entry == {
        "sample": "order-0",
        "design": "single",
        "rows": 4,
        "passes": 2.0,
        "seconds": 2.0,
    }


@pytest.fixture
def meter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Meter]:
    monkeypatch.setattr(quality_texts, "read", tiny_llama.text)
    model = tiny_llama.loaded()
    made = campaign.open_meter(
        model, tmp_path / "w.jsonl", length=32, dtype="float32", domains=quality_texts.DOMAINS
    )
    with made.ledger:
        yield made


def test_a_tiny_model_becomes_a_table_that_agrees_with_its_ledger(
    meter: Meter, tmp_path: Path
) -> None:
    plan = designs.Plan(attention_drops=2, ffn_drops=1, random=3, near=0)
    orders = campaign.run(meter, plan, quiet=True)
    built = table.build(meter, orders, tmp_path / "tiny.csv.gz")
    plain = [row for row in meter.ledger.found.values() if row.form == PLAIN]
    assert len(built.file.rows) == len(plain)
    for split, view in (("calib", built.calibration()), ("test", built.test())):
        compared = 0
        for measured in plain:
            kept = blocks.kept_of(measured.key, N)
            if measured.sample == split and kept[built.floor].all() and not kept.all():
                nll, known = view.nll(kept)
                assert known
                assert nll == pytest.approx(measured.mean_nll, abs=2e-6)
                compared += 1
        assert compared > 3
    for text in built.header.samples:
        whole = [float(part.mean()) for part in meter.dense_nll(text.name)]
        assert text.dense_nll == pytest.approx(whole, abs=1e-5)
    assert len(built.header.formats) == len(FORMATS) * len(campaign.FORMATS_ON)
    int4 = meter.ledger.found["test-large", blocks.key(designs.dense(N)), "int4/bf16"]
    assert built.format_nll(Format("int4"), "test") == pytest.approx(int4.mean_nll, abs=1e-9)
    assert built.format_nll(Format("int4"), "test", "wiki") == int4.nll[2]
    influence = meter.influence("order-0").block_influence
    assert built.header.block_influence == influence
    assert built.header.provenance["origin"]["weights_sha256"] == "w"
    assert "four bits" not in built.header.provenance["formats"], "nothing is known of this model"
    assert {entry["design"] for entry in built.header.provenance["spent"]} >= {
        "grid",
        "single",
        "formats",
    }
    (spent,) = (e for e in built.header.provenance["spent"] if e["design"] == "influence")
    assert (spent["sample"], spent["rows"], spent["passes"]) == ("order-0", 1, 1.0)
    again = table.build(meter, None, tmp_path / "again.csv.gz")
    assert again.header.orders == built.header.orders, "the orders are in the ledger too"
    assert again.sha256 == built.sha256


def test_the_unigram_model_scores_predicted_tokens_of_the_text_it_is_told(meter: Meter) -> None:
    tokens = [ids.numpy() for ids in meter.tokens("calib")]
    own, pooled = table.Unigram(meter).nll(tokens)
    texts = [
        samples.token_ids(meter.model.tokenizer, domain, "calib")
        for domain in quality_texts.DOMAINS
    ]

    def by_hand(counted: IntArray) -> float:
        counts = np.bincount(counted, minlength=tiny_llama.VOCABULARY)
        total = len(counted) + tiny_llama.VOCABULARY
        predicted = [token for sequence in tokens[0] for token in sequence[1:]]
        return float(np.mean([-math.log((counts[token] + 1) / total) for token in predicted]))

    assert own[0] == pytest.approx(by_hand(texts[0]), abs=1e-6)
    assert pooled[0] == pytest.approx(by_hand(np.concatenate(texts)), abs=1e-6)
