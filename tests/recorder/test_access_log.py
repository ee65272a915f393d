"""Requests out of a server's log: every form by hand, damaged lines counted, no text kept."""

import gzip
import json
import math
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapgym import cli
from rapgym.errors import DataUnavailable, InvalidTrace
from rapgym.workload.inputs import requests
from rapgym.workload.inputs.how import FAILED, UNANSWERED, UNREADABLE
from rapgym.workload.inputs.requests import Found
from rapgym.workload.trace import RequestTrace, read_memory, read_requests

EPOCH_S = 1_750_000_000


pytestmark = pytest.mark.usefixtures("in_utc")


def line(timestamp: Any, prompt: Any = 3, output: Any = 4, **more: Any) -> str:
    entry = {"timestamp": timestamp, "prompt_tokens": prompt, "completion_tokens": output}
    return json.dumps(entry | more)


def parsed(lines: list[str], name: str = "log") -> Found:
    return requests.parse(["\n".join(lines)], name)


def requests_of(trace: RequestTrace) -> list[tuple[float, int, int]]:
    columns = (trace.arrival_s, trace.prompt_tokens, trace.output_tokens)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def test_json_lines_by_hand() -> None:
    found = parsed(
        [line(EPOCH_S + 2.25, 10, 0), line(EPOCH_S + 0.5, 7, 8), line(EPOCH_S + 9, 0, 1)], "log"
    )
    assert requests_of(found.requests) == [(0.5, 7, 8), (2.25, 10, 0), (9.0, 0, 1)]
    assert found.requests.start_wall_s == EPOCH_S
    assert (found.report.left_out, found.report.first_fault) == ({}, "")


ISO = datetime.fromtimestamp(EPOCH_S, UTC).isoformat()


@pytest.mark.parametrize(
    "timestamp",
    [EPOCH_S, str(EPOCH_S), EPOCH_S * 1000, EPOCH_S * 10**6, EPOCH_S * 10**9, ISO,
     ISO.replace("+00:00", "Z"), ISO.replace("+00:00", "").replace("T", " ")],
)  # fmt: skip
def test_a_time_reads_the_same_in_every_form(timestamp: Any) -> None:
    found = parsed([line(timestamp)], "log").requests
    assert (found.start_wall_s, found.arrival_s[0]) == (EPOCH_S, 0)


@pytest.mark.parametrize(
    "entry",
    [
        {"created": EPOCH_S, "usage": {"prompt_tokens": 5, "completion_tokens": 6}},
        {"time": EPOCH_S, "input_tokens": 5, "output_tokens": 6, "status": 200},
        {"timestamp": EPOCH_S, "ContextTokens": 5.0, "GeneratedTokens": 6},
    ],
)
def test_other_names_in_use_are_known(entry: dict[str, Any]) -> None:
    assert requests_of(parsed([json.dumps(entry)], "log").requests) == [(0.0, 5, 6)]


@pytest.mark.parametrize("status", [400, 503, "429"])
def test_refused_requests_are_left_out(status: Any) -> None:
    lines = [line(EPOCH_S), line(EPOCH_S + 1, status=status), line(EPOCH_S + 2, status=200)]
    found = parsed(lines, "log")
    assert requests_of(found.requests) == [(0.0, 3, 4), (2.0, 3, 4)]
    assert found.report.left_out == {FAILED: 1}, "nothing is wrong with it"


DAMAGED = [
    '{"timestamp": 1750000000, "prompt_tok',
    '{"timestamp": 1750000000, "prompt_tokens": 3}',
    '{"prompt_tokens": 3, "completion_tokens": 4}',
    line("yesterday"),
    line(-5.0),
    line(math.inf),
    line(True),
    line(EPOCH_S, -1),
    line(EPOCH_S, 2.5),
    line(EPOCH_S, "many"),
    line(EPOCH_S, 1 << 40),
    line(EPOCH_S, True),
    "{" * 5000,
    '{"a":' * 100_000,
    line(1e300),
    "[2025-06-15 15:06:40] Finish: obj=GenerateReqInput(), out={'meta_info': {}}",
]


@pytest.mark.parametrize("damaged", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_line_is_counted_and_costs_no_other(damaged: str) -> None:
    found = parsed([line(EPOCH_S), damaged, line(EPOCH_S + 1)], "log")
    assert requests_of(found.requests) == [(0.0, 3, 4), (1.0, 3, 4)]
    assert found.report.left_out == {UNREADABLE: 1}
    assert found.report.first_fault.startswith("line 2: ")


@given(st.lists(st.text()))
def test_no_line_is_fatal(lines: list[str]) -> None:
    found = parsed([line(EPOCH_S + 1), *lines, line(EPOCH_S)], "log")
    assert (EPOCH_S, 3, 4) in [
        (at_s + found.requests.start_wall_s, *counts)
        for at_s, *counts in requests_of(found.requests)
    ]


def test_lines_of_other_things_are_no_faults() -> None:
    others = ["", "INFO:     127.0.0.1:4 - POST /v1/completions HTTP/1.1 200 OK", "Traceback"]
    found = parsed([*others, line(EPOCH_S)], "log")
    assert (found.report.left_out, len(found.requests)) == ({}, 1)


@pytest.mark.parametrize("lines", [[], ["127.0.0.1 - - GET / 200"], [line(EPOCH_S, 0, 0)]])
def test_a_log_without_lengths_says_so(lines: list[str]) -> None:
    with pytest.raises(InvalidTrace, match=r"no request"):
        parsed(lines, "web.log")


def vllm(second: int, what: str, month: str = "06-15") -> str:
    return f"INFO {month} 15:06:{second:02d} [logger.py:42] {what}"


def test_vllm_counts_token_ids_and_only_those() -> None:
    lines = [
        # What a user wrote may look like what is counted: the last list counts.
        vllm(0, "Received request cmpl-a1: prompt: 'prompt_token_ids: [1, 2, 3, 4, 5]', params: "
                "SamplingParams(n=1), prompt_token_ids: [11, 12, 13], lora_request: None."),
        vllm(1, "Received request chat-b: prompt: '', prompt_token_ids: [7], lora_request: None."),
        vllm(2, "Generated response chat-b: output: 'hi', output_token_ids: [1, 2], finish_reason: stop"),
        vllm(4, "Generated response cmpl-a1 (streaming delta): output: 'x', output_token_ids: [1]"),
        vllm(5, "Generated response cmpl-a1 (streaming delta): output: 'y', output_token_ids: [2, 3]"),
        vllm(6, "Received request never: prompt: '', prompt_token_ids: [1, 2], lora_request: None."),
    ]  # fmt: skip
    found = parsed(lines, "vllm.log")
    assert requests_of(found.requests) == [(0.0, 3, 3), (1.0, 1, 2)]
    assert found.report.left_out == {UNANSWERED: 1}
    assert math.isnan(found.requests.start_wall_s), "its times have no year"


def test_vllm_logs_go_on_in_january() -> None:
    lines = []
    for name, month in (("late", "12-31"), ("early", "01-01")):
        lines += [
            vllm(0, f"Received request {name}: prompt_token_ids: [1]", month),
            vllm(1, f"Generated response {name}: output_token_ids: [1]", month),
        ]
    found = parsed(lines, "vllm.log").requests
    assert found.arrival_s.tolist() == [0.0, 86400.0]


def test_sglang_arrives_before_it_finishes() -> None:
    text = (
        "[2025-06-15 15:06:40] Finish: obj=GenerateReqInput(text='prompt_tokens: 99'), "
        "out={'text': 'x', 'meta_info': {'prompt_tokens': 12, 'completion_tokens': 5, "
        "'e2e_latency': 1.5}}"
    )
    found = parsed([text], "sglang.log").requests
    arrival_s = datetime(2025, 6, 15, 15, 6, 38, 500_000, tzinfo=UTC).timestamp()
    assert found.start_wall_s + found.arrival_s[0] == arrival_s
    assert (found.prompt_tokens[0], found.output_tokens[0]) == (12, 5)


def test_the_command_makes_a_trace_and_says_what_it_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, out = tmp_path / "server.log.gz", tmp_path / "requests.csv.gz"
    with gzip.open(log, "wt") as file:
        file.write("\n".join([line(EPOCH_S), DAMAGED[0], line(EPOCH_S + 1, prompt=6)]))
    command = ["record", "--access-log", str(log), "--out", str(out), "--json"]
    assert cli.main(command) == 0
    printed = capsys.readouterr()
    summary = json.loads(printed.out)
    assert (summary["rows"], summary["damaged_rows"], summary["prompt_tokens"]) == (2, 1, 9)
    assert "1 lines that cannot be read, the first at line 2" in printed.err
    assert summary["format"] == "JSON lines or CSV"
    assert requests_of(read_requests(out, "")) == [(0.0, 3, 4), (1.0, 6, 4)]
    assert cli.main(command) == 2, "nothing is overwritten"
    assert "is there already" in capsys.readouterr().err


def test_a_log_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cut.gz").write_bytes(gzip.compress(os.urandom(1000))[:100])
    for name in ("absent.log", "cut.gz"):
        with pytest.raises(DataUnavailable, match=name):
            requests.read(tmp_path / name)


SMI = (
    "timestamp, index, memory.used [MiB]\n"
    "2026/09/21 14:13:20.5, 0, 1000 MiB\n2026/09/21 14:13:20.5, 1, 7000 MiB\n"
    "2026/09/21 14:13:21.5, 0, [N/A]\n2026/09/21 14:13:21.5, 1, 7001 MiB\n"
    "2026/09/21 14:13:22.5, 0, 1002 MiB\n2026/09/21 14:13:22.5, 1, [N/A]\n"
)


def test_the_command_makes_a_trace_of_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, out = tmp_path / "smi.csv", tmp_path / "memory.csv.gz"
    log.write_text(SMI)
    command = [
        "record",
        "--memory-log",
        str(log),
        "--out",
        str(out),
        "--json",
        "--timezone",
        "Europe/Berlin",
    ]
    assert cli.main(command) == 2
    assert "holds 2 GPUs: choose one with --gpu" in capsys.readouterr().err
    assert not out.exists()
    assert cli.main([*command, "--gpu", "1"]) == 0
    printed = capsys.readouterr()
    summary = json.loads(printed.out)
    assert (summary["rows"], summary["max_bytes"], summary["format"]) == (
        2,
        7001 << 20,
        "nvidia-smi",
    )
    assert summary["left_out"] == {"samples without a value": 1}
    assert summary["start_wall_s"] == datetime(2026, 9, 21, 12, 13, 20, tzinfo=UTC).timestamp()
    assert "left out: 1 samples without a value" in printed.err
    found = read_memory(out, "")
    assert (found.t_s.tolist(), found.used_bytes.tolist()) == ([0.5, 1.5], [7000 << 20, 7001 << 20])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--unit", "ms"], "are for --access-log and --memory-log"),
        (["--gpu", "GPU-a"], "no GPU's number"),
        (["--gpu", "0", "--access-log", "x"], "--gpu is for memory"),
        (["--memory-log", "absent.csv"], "absent.csv cannot be read"),
        (["--access-log", "absent.csv", "--unit", "h"], "--unit 'h' is none"),
        (["--access-log", "absent.csv", "--less", "1"], "--less is for memory"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["record", "--out", str(tmp_path / "o.csv"), *arguments]) == 2
    assert says in capsys.readouterr().err
