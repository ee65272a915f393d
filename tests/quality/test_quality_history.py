"""What stays of an FFN drop's damage: kept beside a table, and used where it is."""

import gzip
import json
from pathlib import Path

import pytest

from rapgym.errors import InvalidTable
from rapgym.files import places
from rapgym.quality import history
from rapgym.quality.history import Share

MEASURED = (
    Share("ffn", 2, 0.2, 0.04, 0.16, 0.2, 0.03),
    Share("attention", 2, 0.1, 0.09, 0.07, 0.9, 0.1),
    Share("ffn", 4, 0.4, 0.04, 0.36, 0.1, 0.02),
)


def test_shares_survive_their_file(tmp_path: Path) -> None:
    history.write(tmp_path / "mine.history.json", MEASURED, {"model": "mine"})
    assert history.read(tmp_path / "mine.history.json") == MEASURED


def test_between_counts_a_share_lies_on_a_line_and_beyond_them_it_is_level() -> None:
    assert history.ffn_share(MEASURED) == pytest.approx((0.2, 0.2, 0.2, 0.15, 0.1))


def test_a_share_above_all_of_the_damage_is_all_of_it() -> None:
    assert history.ffn_share((Share("ffn", 1, 0.1, 0.2, 0.1, 2.0, 0.1),)) == (1.0, 1.0)


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"schema": 2, "shares": []}', '{"schema": 1, "shares": []}', '{"schema": 1}',
     '{"schema": 1, "shares": [{"kind": "ffn"}]}'],
)  # fmt: skip
def test_what_holds_no_shares_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.history.json"
    path.write_text(text)
    with pytest.raises(InvalidTable, match=r"mine\.history\.json holds no measured shares"):
        history.read(path)


def test_the_shipped_shares_are_those_of_the_published_measurements() -> None:
    shares = history.read(history.path_of("smollm2-135m"))
    ledger = places.RESULTS / "measurements" / "smollm2-135m.history.jsonl.gz"
    if not ledger.exists():
        pytest.skip("results are not in a wheel")
    lines = gzip.decompress(ledger.read_bytes()).decode().splitlines()[1:]
    rows = {(row["kind"], row["count"], row["when"]): row["nll"] for row in map(json.loads, lines)}
    for share in shares:
        context, whole = (rows[share.kind, share.count, when] for when in ("context", "throughout"))
        assert share.share == pytest.approx(sum(context) / sum(whole), abs=1e-6)
    assert len(shares) == len(rows) / 3
