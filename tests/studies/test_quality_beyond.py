"""`rapgym/studies/quality.py`: errors of accuracies, and results that need no model."""

import gzip
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import toy_table

from rapgym.errors import UnmeasuredSet
from rapgym.model import shapes
from rapgym.quality import file as table_file
from rapgym.quality import harm
from rapgym.quality.header import FormatQuality
from rapgym.quality.table import QualityTable
from rapgym.studies import quality as study

ORIGIN = {
    "domains": ["books", "specs", "wiki"],
    "items": 12,
    "items_sha256": "s",
    "context_tokens": 64,
    "continuation_tokens": 16,
    "device_kind": "cpu",
    "dtype": "bfloat16",
}


@pytest.fixture
def quality(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(harm, "SAMPLE", "test")
    monkeypatch.setattr(harm, "COUNTS", ((0, 0), (1, 0), (1, 1)))
    monkeypatch.setattr(harm, "FORMATS", shapes.FORMATS[1:2])
    return study


def toy() -> QualityTable:
    int4 = FormatQuality("int4", "bf16", "test", (0.2, 0.5, 0.2), (0.03,) * 3, (0.1,) * 3,
                         (0.9,) * 3, 0.7)  # fmt: skip
    header = replace(toy_table.toy_header(), formats=(int4,), provenance={"formats": "rounded"})
    content = table_file.packed(header, toy_table.toy_rows())
    return QualityTable("toy", table_file.unpacked(content, "toy"))


def ledger(path: Path, rows: list[dict[str, str]]) -> Path:
    text = "\n".join(json.dumps(row) for row in [ORIGIN, *rows])
    path.write_bytes(gzip.compress(text.encode()))
    return path


ROWS = [
    {"key": "fc", "right": "1111" "1110" "1100"},
    {"key": "dc", "right": "1110" "1110" "1000"},
    {"key": "f0", "right": "0000" "1110" "1111"},
    {"key": "fc", "right": "1111" "1110" "1100", "form": "int4/bf16"},
]  # fmt: skip


def test_each_main_set_with_its_nll_tail_and_choices(quality: ModuleType, tmp_path: Path) -> None:
    found = quality.judged(toy(), ledger(tmp_path / "c.jsonl.gz", ROWS))
    dense, one, both, int4 = found["sets"]
    assert [e["key"] for e in found["sets"]] == ["fc", "dc", "f0", "fc"]
    assert (dense["nll"], dense["accuracy_difference"], dense["accuracy_difference_se"]) == (
        0,
        0,
        0,
    )
    assert one["nll"] == pytest.approx(0.12)
    assert (one["worst_domain"], one["worst_nll"]) == ("books", pytest.approx(0.15))
    assert one["nll_p95"] == pytest.approx(0.15)
    assert both["name"] == "drop 1 attention, 1 FFN"
    assert one["accuracy"] == pytest.approx((3 / 4 + 3 / 4 + 1 / 4) / 3, abs=1e-6)
    assert one["accuracy_by_domain"] == {"books": 0.75, "specs": 0.75, "wiki": 0.25}
    assert one["accuracy_difference"] == pytest.approx((-0.25 + 0 - 0.25) / 3, abs=1e-6)
    # Of four items one differs, in two domains: variance 1/4 of each, a quarter of it of a mean.
    assert one["accuracy_difference_se"] == pytest.approx(np.sqrt(2 / 16) / 3, abs=1e-6)
    assert (int4["weights"], int4["worst_domain"], int4["nll"]) == ("int4", "specs", 0.3)
    assert int4["nll_se"] == pytest.approx(0.03 / np.sqrt(3), abs=1e-6)
    assert json.loads(json.dumps(found)) == found
    assert len(quality.lines(found)) == 2 + 4 + 1


def test_what_is_missing_is_named_with_what_to_run(
    quality: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnmeasuredSet, match="--design choice --kept dc"):
        quality.judged(toy(), ledger(tmp_path / "c.jsonl.gz", [ROWS[0], *ROWS[2:]]))
    whole = ledger(tmp_path / "c.jsonl.gz", ROWS)
    with pytest.raises(UnmeasuredSet, match="--design formats"):
        quality.judged(toy_table.toy_table(), whole)
    monkeypatch.setattr(harm, "SAMPLE", "test-large")
    with pytest.raises(UnmeasuredSet, match="--kept fc --sample test-large"):
        quality.judged(toy(), whole)


def test_errors_of_accuracies_cover_the_truth(quality: ModuleType) -> None:
    rng, worlds = np.random.default_rng(0), 500
    chance = np.array([0.9, 0.7, 0.5])[:, None]
    held = 0
    for _ in range(worlds):
        right = (rng.random((3, 100)) < chance).astype(float)
        found = quality.choice_quality(right, right, ("a", "b", "c"))
        held += abs(found["accuracy"] - 0.7) < 1.96 * found["accuracy_se"]
    assert 0.92 < held / worlds < 0.98
