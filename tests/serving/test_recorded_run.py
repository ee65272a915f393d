"""Recorded runs of a serving engine: what their folders may hold, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rapgym.errors import DataUnavailable, InvalidTrace
from rapgym.serving import recorded

ROWS: list[dict[str, Any]] = [
    {"request_id": "r-0", "input_toks": 20, "output_toks": 11, "queued_ts": 100.0,
     "first_token_ts": 101.0, "last_token_ts": 111.0},
    {"request_id": "r-1", "input_toks": 40, "output_toks": 6, "queued_ts": 102.5,
     "first_token_ts": 104.0, "last_token_ts": 109.0},
]  # fmt: skip
META = {
    "model": "some/model",
    "engine_kwargs": {"max_num_seqs": 7, "max_num_batched_tokens": 512},
    "kv_cache": {"num_gpu_blocks": 99, "block_size": 8, "enable_prefix_caching": True},
}


def folder(path: Path, rows: list[dict[str, Any]] = ROWS, **files: Any) -> Path:
    path.mkdir(exist_ok=True)
    (path / "requests.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, content in files.items():
        end = ".csv" if name == "timeseries" else ".json"
        text = content if isinstance(content, str) else json.dumps(content)
        (path / f"{name}{end}").write_text(text)
    return path


def test_the_requests_alone_are_a_run(tmp_path: Path) -> None:
    """In any order; the clock begins with the first arrival."""
    run = recorded.read(folder(tmp_path / "alone", ROWS[::-1]))
    assert run.requests.arrival_s.tolist() == [0.0, 2.5]
    assert run.requests.prompt_tokens.tolist() == [20, 40]
    assert run.first_s.tolist() == [1.0, 4.0]
    assert run.last_s.tolist() == [11.0, 9.0]
    assert run.half_s == 5.5
    assert (run.step_tokens, run.max_sequences, run.page_tokens) == (2048, 256, 16)
    assert run.pages is None
    assert "as many as the requests ask for" in run.pages_from


def test_what_the_engine_was_is_read_where_it_is_told(tmp_path: Path) -> None:
    run = recorded.read(folder(tmp_path / "told", meta=META))
    assert (run.step_tokens, run.max_sequences, run.page_tokens) == (512, 7, 8)
    assert (run.pages, run.pages_from, run.prefix_cache) == (99, "meta.json", True)
    assert run.engine["model"] == "some/model"


def test_prompts_that_begin_alike_are_named_by_their_ids(tmp_path: Path) -> None:
    pairs = {"pairs": [[1, 0, 2], [0, 1, 2], [5, 0, 1]]}
    run = recorded.read(folder(tmp_path / "shared", shared_prefix=pairs))
    assert run.requests.begins_like.tolist() == [-1, 0], "an earlier one alone, and known ones"
    assert run.requests.shared_pages.tolist() == [0, 2]
    assert run.requests.page(1, 1) == (0, 1)
    assert run.requests.page(1, 2) == (1, 2)
    assert run.prefix_cache


def test_the_number_of_pages_follows_from_the_share_in_use(tmp_path: Path) -> None:
    """At 5 s after the start 24 + 42 tokens are held, at 7 s 26 + 44: 2 + 3 pages of 16."""
    lines = ["t,running,waiting,kv_cache_pct", "1,1,0,2.0", "5,2,0,50.0", "7,2,0,50.0"]
    run = recorded.read(folder(tmp_path / "share", timeseries="\n".join(lines)))
    assert run.pages == 10
    assert run.pages_from == "timeseries.csv"


def test_a_column_that_is_not_filled_tells_nothing(tmp_path: Path) -> None:
    lines = ["t,running,waiting,kv_cache_pct", "1,1,0,0.0", "5,2,0,0.0"]
    run = recorded.read(folder(tmp_path / "empty", timeseries="\n".join(lines)))
    assert run.ticks is not None
    assert run.ticks.kv_share is None
    assert run.pages is None


def test_the_ticks_are_put_on_the_requests_clock(tmp_path: Path) -> None:
    """They say when the second request came and when each left, 0.7 s late."""
    at_s = np.arange(0, 13, 0.25)
    there = (at_s >= 0).astype(int) + (at_s >= 2.5) - (at_s >= 9) - (at_s >= 11)
    lines = [f"{at + 0.7},{count},0,0.0" for at, count in zip(at_s, there, strict=True)]
    text = "\n".join(["t,running,waiting,kv_cache_pct", *lines])
    run = recorded.read(folder(tmp_path / "late", timeseries=text))
    assert run.ticks is not None
    assert run.ticks.at_s[0] == pytest.approx(0.0, abs=0.13)


def test_results_of_vllms_own_benchmark_are_a_run(tmp_path: Path) -> None:
    told = {
        "model_id": "some/model",
        "input_lens": [40, 20, 9],
        "output_lens": [3, 2, 0],
        "start_times": [12.5, 10.0, 11.0],
        "ttfts": [1.5, 1.0, 0.0],
        "itls": [[0.5, 0.25], [2.0], []],
    }
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(told))
    run = recorded.read(path)
    assert run.requests.arrival_s.tolist() == [0.0, 2.5], "the one that failed is left out"
    assert run.requests.output_tokens.tolist() == [2, 3]
    assert run.first_s.tolist() == [1.0, 4.0]
    assert run.last_s.tolist() == [3.0, 4.75]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no request"),
        ("{}\n", "line 1: a request has input_toks"),
        ("[1]\n", "line 1: a request has"),
        (json.dumps(ROWS[0]) + "\nnonsense\n", "line 2: a request has"),
        (json.dumps(ROWS[0] | {"input_toks": 0}), "tokens whole and above 0"),
        (json.dumps(ROWS[0] | {"output_toks": 2.5}), "tokens whole and above 0"),
        (json.dumps(ROWS[0] | {"queued_ts": "now"}), "times in seconds"),
        (json.dumps(ROWS[0]).replace("101.0", "NaN"), "line 1: a request has"),
        (json.dumps(ROWS[0] | {"first_token_ts": 99.0}), "is queued, then answered"),
        ("[" * 100_000 + "\n", "requests.jsonl"),
    ],
)
def test_requests_that_are_none_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "requests.jsonl").write_text(text)
    with pytest.raises(InvalidTrace, match=message):
        recorded.read(tmp_path)


def test_files_that_are_not_there_or_no_json_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataUnavailable, match=r"requests\.jsonl"):
        recorded.read(tmp_path)
    path = folder(tmp_path / "one", meta="nonsense")
    with pytest.raises(InvalidTrace, match=r"meta\.json is no JSON"):
        recorded.read(path)
    path = folder(tmp_path / "two", shared_prefix={"pairs": [[1, "0", 2]]})
    with pytest.raises(InvalidTrace, match="a pair is"):
        recorded.read(path)
    with pytest.raises(DataUnavailable, match=r"nowhere\.json is not there"):
        recorded.read(folder(tmp_path / "three"), tmp_path / "nowhere.json")
    (tmp_path / "bench.json").write_text(json.dumps({"input_lens": [1]}))
    with pytest.raises(InvalidTrace, match="--save-detailed"):
        recorded.read(tmp_path / "bench.json")
