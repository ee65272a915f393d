"""Logs of requests: an example of every format, every wrapping, and what is left out, counted and said."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rapgym import cli
from rapgym.errors import DataUnavailable, InvalidTrace, MissingExtra, RapgymError
from rapgym.files import incoming
from rapgym.studies.pages import inputs
from rapgym.workload.inputs import formats, requests
from rapgym.workload.inputs.how import (
    EMPTY,
    FAILED,
    LATER,
    SUMS,
    UNANSWERED,
    UNREADABLE,
    How,
)
from rapgym.workload.inputs.requests import Found

EPOCH_S = 1_790_000_000
ISO = "2026-09-21T14:13:20Z"  # the same


def parse(text: str, **how: Any) -> Found:
    return requests.parse([text], "log", How(**how))


def lines(*entries: dict[str, Any]) -> str:
    return "".join(json.dumps(each) + "\n" for each in entries)


def rows(found: Found) -> list[tuple[float, int, int]]:
    trace = found.requests
    columns = (trace.arrival_s, trace.prompt_tokens, trace.output_tokens)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def usage(**told: Any) -> str:
    return lines({"created": EPOCH_S, "usage": told})


def span(
    key: str = "gen_ai.usage.input_tokens", operation: str = "chat", **more: Any
) -> dict[str, Any]:
    told = {key: 30, "gen_ai.usage.output_tokens": 4, "gen_ai.operation.name": operation}
    return {"startTimeUnixNano": f"{EPOCH_S}250000000", "attributes": told} | more


def otlp(attributes: dict[str, Any]) -> list[dict[str, Any]]:
    kind = {int: "intValue", str: "stringValue"}
    return [
        {"key": key, "value": {kind[type(value)]: str(value)}} for key, value in attributes.items()
    ]


LENGTHS = {"timestamp": 2000, "input_length": 30, "output_length": 4}
# Of each format: a file of it, its rows, and the wall clock of its second 0 (None: not known).
EXAMPLES: dict[str, tuple[str, list[tuple[float, int, int]], float | None]] = {
    "rapgym's own": ("arrival_s,prompt_tokens,output_tokens\n2.5,30,4\n", [(2.5, 30, 4)], None),
    "vllm bench serve": (
        json.dumps({"start_times": [71.5, 73.0, 74], "input_lens": [30, 8, 9], "output_lens": [4, 0, 2],
                    "errors": ["", "Connection reset", ""], "itls": [[0.1, 0.2], [], [0.1]]}),
        [(0.5, 30, 4), (3.0, 9, 2)], None),
    "AIPerf": (
        lines({"metadata": {"request_start_ns": EPOCH_S * 10**9 + 250_000_000, "was_cancelled": False},
               "metrics": {"input_sequence_length": {"value": 30, "unit": "tokens"},
                           "output_sequence_length": {"value": 4, "unit": "tokens"}}, "error": None}),
        [(0.25, 30, 4)], EPOCH_S),
    "OTel GenAI spans": (
        json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [
            span() | {"attributes": otlp(span()["attributes"])}]}]}]}),
        [(0.25, 30, 4)], EPOCH_S),
    "Langfuse": (
        json.dumps({"data": [{"startTime": ISO, "level": "DEFAULT",
                              "usageDetails": {"input": 20, "input_cached_tokens": 10, "output": 3,
                                               "output_reasoning_tokens": 1, "total": 34}}]}),
        [(0.0, 30, 4)], EPOCH_S),
    "LLMServingSim": (
        lines({"arrival_time_ns": 2_500_000_000, "input_toks": 30, "output_toks": 4}),
        [(0.5, 30, 4)], None),
    "Bailian": (lines(LENGTHS | {"chat_id": 7, "timestamp": 2.5}), [(0.5, 30, 4)], None),
    "Mooncake": (lines(LENGTHS | {"hash_ids": [0]}, LENGTHS | {"hash_ids": [], "timestamp": 29_500}),
                 [(0.0, 30, 4), (27.5, 30, 4)], None),
    "Azure": (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2026-09-21 14:13:20.2500000,30,4\n"
        "2026-09-21 14:13:21+00:00,31,5\n", [(0.25, 30, 4), (1.0, 31, 5)], EPOCH_S),
    "BurstGPT": (
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "5,GPT-4,30,4,34,API log\n9,GPT-4,30,0,30,API log\n", [(0.0, 30, 4)], None),
    "LiteLLM": (
        lines({"startTime": EPOCH_S + 0.25, "endTime": EPOCH_S + 3.0, "status": "success",
               "prompt_tokens": 30, "completion_tokens": 4, "total_tokens": 34}),
        [(0.25, 30, 4)], EPOCH_S),
    "Gemini": (
        lines({"timestamp": ISO, "usageMetadata": {"promptTokenCount": 25, "toolUsePromptTokenCount": 5,
               "candidatesTokenCount": 3, "thoughtsTokenCount": 1, "totalTokenCount": 34}}),
        [(0.0, 30, 4)], EPOCH_S),
    "Responses API": (
        lines({"object": "response", "created_at": EPOCH_S, "status": "completed", "error": None,
               "usage": {"input_tokens": 30, "input_tokens_details": {"cached_tokens": 20},
                         "output_tokens": 4, "output_tokens_details": {"reasoning_tokens": 3}}}),
        [(0.0, 30, 4)], EPOCH_S),
    "Anthropic": (
        lines({"timestamp": ISO, "response": {"type": "message", "usage": {
            "input_tokens": 5, "cache_read_input_tokens": 15, "cache_creation_input_tokens": 10,
            "output_tokens": 4}}}), [(0.0, 30, 4)], EPOCH_S),
    "OpenAI": (usage(prompt_tokens=30, completion_tokens=4, total_tokens=34), [(0.0, 30, 4)], EPOCH_S),
    "JSON lines or CSV": (f"Time;Input Tokens;Output Tokens\n{ISO};30;4\n", [(0.0, 30, 4)], EPOCH_S),
    "vLLM's log": (
        "INFO 06-15 15:06:00 [logger.py:42] Received request a: prompt_token_ids: [1, 2, 3].\n"
        "INFO 06-15 15:06:01 [logger.py:42] Received request b: prompt_token_ids: [1].\n"
        "INFO 06-15 15:06:02 [logger.py:42] Generated response a: output_token_ids: [4, 5]\n"
        "INFO 06-15 15:06:03 [async_llm.py:9] Generated response b: output_token_ids: [4]\n"
        "INFO 06-15 15:06:03 [async_llm.py:9] Request b aborted.\n", [(0.0, 3, 2)], None),
    "SGLang's log": (
        "[2026-09-21 14:13:21] Finish: obj=GenerateReqInput(), out={'meta_info': {'prompt_tokens': 30, "
        "'completion_tokens': 4, 'e2e_latency': 0.75}}\n", [(0.25, 30, 4)], EPOCH_S),
}  # fmt: skip


def test_every_format_has_an_example() -> None:
    assert {*EXAMPLES} == {each.name for each in formats.REQUESTS}


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_format_is_read_and_named(name: str, tmp_path: Path) -> None:
    text, wanted, wall_s = EXAMPLES[name]
    (tmp_path / "log").write_text(text)
    found = requests.read(tmp_path / "log", How(timezone="UTC"))
    assert rows(found) == wanted
    assert [*found.report.formats] == [name]
    assert sum(found.report.formats.values()) == len(wanted)
    assert found.requests.start_wall_s == wall_s or wall_s is None
    assert (wall_s is None) == (found.requests.start_wall_s != found.requests.start_wall_s)


@pytest.mark.parametrize("name", ["vllm bench serve", "BurstGPT", "vLLM's log"])
def test_what_failed_in_an_example_is_counted(name: str) -> None:
    assert parse(EXAMPLES[name][0]).report.left_out == {FAILED: 1}


def test_help_and_page_know_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["record", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    page = inputs.page()
    for kind in formats.KINDS.values():
        for each in kind:
            assert each.name in told
            assert f"| {each.name} | {each.told_by} |" in page
    written = (Path(__file__).parents[2] / "docs" / "own-traces.md").read_text()
    assert f"<!-- begin:inputs -->\n{page}\n<!-- end:inputs -->" in written


TWO = [{"timestamp": EPOCH_S + i, "prompt_tokens": 3 + i, "completion_tokens": 4} for i in range(2)]
PLAIN = "timestamp,prompt_tokens,completion_tokens\n" + "".join(
    f"{each['timestamp']},{each['prompt_tokens']},4\n" for each in TWO
)
DOCKER = "".join(
    json.dumps({"log": part, "stream": "stdout", "time": "2026-09-21T15:00:00Z"}) + "\n"
    for each in TWO
    for part in (json.dumps(each)[:20], json.dumps(each)[20:] + "\n")
)
LAYOUTS = {
    "lines": lines(*TWO),
    "lines with CRLF": lines(*TWO).replace("\n", "\r\n"),
    "array": json.dumps(TWO),
    "array over lines": json.dumps(TWO, indent=2),
    "an array's lines": "[\n" + ",\n".join(map(json.dumps, TWO)) + "\n]\n",
    "objects over lines": "\n".join(json.dumps(each, indent=1) for each in TWO),
    "list in an object": json.dumps({"data": TWO}),
    "list in an object over lines": json.dumps({"requests": TWO}, indent=1),
    "numbers as text": lines(*({name: str(value) for name, value in each.items()} for each in TWO)),
    "Docker": DOCKER,
    "Kubernetes": "".join(f"2026-09-21T15:00:00Z stdout F {json.dumps(each)}\n" for each in TWO),
    "CSV": PLAIN,
    "CSV with CRLF": PLAIN.replace("\n", "\r\n"),
    "CSV with semicolons": PLAIN.replace(",", ";"),
    "CSV with tabs": PLAIN.replace(",", "\t"),
    "CSV with quotes": PLAIN.replace("3", '"3"').replace(f"{EPOCH_S}", f'"{EPOCH_S}"'),
    "CSV with other columns": "user,timestamp,prompt_tokens,answer,completion_tokens\n" + "".join(
        f'me,{each["timestamp"]},{each["prompt_tokens"]},"a, ""b""\nc",4\n' for each in TWO),
    "raw answers": lines(*({"t": 1, "response": {"body": {"created": each["timestamp"], "usage": {
        "prompt_tokens": each["prompt_tokens"], "completion_tokens": 4}}}} for each in TWO)),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_however_it_is_laid_out(layout: str) -> None:
    found = parse(LAYOUTS[layout])
    assert (rows(found), found.requests.start_wall_s) == ([(0.0, 3, 4), (1.0, 4, 4)], EPOCH_S)
    assert found.report.left_out == {}


@pytest.mark.parametrize("layout", ["lines", "array over lines", "CSV", "Docker"])
@pytest.mark.parametrize("size", [1, 7, 100])
def test_whatever_pieces_it_comes_in(layout: str, size: int) -> None:
    text = LAYOUTS[layout]
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    assert rows(requests.parse(pieces, "log")) == [(0.0, 3, 4), (1.0, 4, 4)]


WRAPPINGS: dict[str, Callable[[str], bytes]] = {
    "plain": lambda text: text.encode(),
    "UTF-8 with a mark": lambda text: text.encode("utf-8-sig"),
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-16 without a mark": lambda text: text.encode("utf-16-le"),
    "UTF-16, big end first": lambda text: "\ufeff".encode("utf-16-be") + text.encode("utf-16-be"),
    "gzip": lambda text: gzip.compress(text.encode()),
    "gzip in two": lambda text: gzip.compress(text[:9].encode()) + gzip.compress(text[9:].encode()),
    "bz2": lambda text: bz2.compress(text.encode()),
    "xz": lambda text: lzma.compress(text.encode()),
    "gzip of UTF-16": lambda text: gzip.compress(text.encode("utf-16")),
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("text", [LAYOUTS["lines"], LAYOUTS["CSV"]], ids=["lines", "CSV"])
def test_however_it_is_packed_and_encoded(wrapping: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "any-name"
    path.write_bytes(WRAPPINGS[wrapping](text))
    assert rows(requests.read(path)) == [(0.0, 3, 4), (1.0, 4, 4)]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_packed_file_that_is_cut_is_refused(pack: Any, tmp_path: Path) -> None:
    path = tmp_path / "cut.log"
    path.write_bytes(pack(LAYOUTS["lines"].encode())[:-12])
    with pytest.raises(DataUnavailable, match=r"cut short|damaged"):
        requests.read(path)


def test_zstd_is_read_where_python_can_and_refused_with_a_remedy_where_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log.zst"
    # A frame by hand: magic, no size told, a window of 1 KiB, one raw block that is the last.
    text = LAYOUTS["lines"].encode()
    block = (1 | len(text) << 3).to_bytes(3, "little") + text
    path.write_bytes(incoming.ZSTD_MAGIC + b"\0\0" + block)
    if incoming._zstd() is not None:
        assert rows(requests.read(path)) == [(0.0, 3, 4), (1.0, 4, 4)]
    monkeypatch.setattr(incoming, "_zstd", lambda: None)
    requests._once.cache_clear()
    with pytest.raises(MissingExtra, match=r"pip install backports\.zstd"):
        requests.read(path)


@pytest.mark.parametrize(
    ("told", "wanted", "exact"),
    [
        # What stands inside a total, and what beside it.
        ({"prompt_tokens": 30, "completion_tokens": 4}, (30, 4), True),
        ({"prompt_tokens": 30, "completion_tokens": 4,
          "prompt_tokens_details": {"cached_tokens": 20}}, (30, 4), True),
        ({"prompt_tokens": 7, "completion_tokens": 4, "cache_read_input_tokens": 20}, (27, 4), True),
        ({"prompt_tokens": 27, "completion_tokens": 4, "cache_read_input_tokens": 20}, (27, 4), True),
        ({"input_tokens": 7, "output_tokens": 4, "cache_read_input_tokens": 5}, (12, 4), True),
        ({"input_tokens": 7, "output_tokens": 4, "cache_read_input_tokens": 5, "total_tokens": 11},
         (7, 4), True),
        ({"prompt_tokens": 21, "completion_tokens": 0, "total_tokens": 81,
          "completion_tokens_details": {"reasoning_tokens": 60}}, (21, 60), True),
        ({"prompt_tokens": 21, "completion_tokens": 9,
          "completion_tokens_details": {"reasoning_tokens": 60}}, (21, 69), True),
        ({"prompt_tokens": 21, "completion_tokens": 70, "total_tokens": 91,
          "completion_tokens_details": {"reasoning_tokens": 60}}, (21, 70), True),
        ({"prompt_tokens": 21, "completion_tokens": 70, "total_tokens": 151,
          "completion_tokens_details": {"reasoning_tokens": 60}}, (21, 130), True),
        ({"prompt_tokens": 21, "total_tokens": 21}, (21, 0), True),
        # Nothing adds up: what the total has more is output.
        ({"prompt_tokens": 21, "completion_tokens": 5, "total_tokens": 40}, (21, 19), False),
        ({"prompt_tokens": 21, "completion_tokens": 5, "total_tokens": 10}, (21, 5), False),
    ],
)  # fmt: skip
def test_totals_and_their_parts(told: dict[str, Any], wanted: tuple[int, int], exact: bool) -> None:
    found = parse(usage(**told))
    assert rows(found) == [(0.0, *wanted)]
    assert found.report.estimated == (not exact)
    assert ("estimate" in " ".join(found.report.sentences())) is not exact


def test_langfuse_tables_hold_objects_in_cells() -> None:
    cell = '"{""input"": 20, ""input_cached_tokens"": 10, ""output"": 4}"'
    found = parse(
        f"id,startTime,usageDetails,level\na,{ISO},{cell},DEFAULT\nb,{ISO},{cell},ERROR\n"
    )
    assert (rows(found), found.report.format) == ([(0.0, 30, 4)], "Langfuse")
    assert found.report.left_out == {FAILED: 1}


def test_attributes_of_spans_may_be_nested_or_flat() -> None:
    nested = span() | {
        "attributes": {"gen_ai": {"usage": {"input_tokens": 30, "output_tokens": 4}}}
    }
    flat = {"timestamp": ISO, "gen_ai.usage.input_tokens": "30", "gen_ai.usage.output_tokens": "4"}
    for entry in (nested, flat):
        assert [row[1:] for row in rows(parse(lines(entry)))] == [(30, 4)]


@pytest.mark.parametrize(
    ("details", "wanted"),
    [
        ({"input": 412, "output": 87, "total": 499}, (412, 87)),
        ({"input": 412, "input_cached_tokens": 100, "output": 87, "total": 499}, (412, 87)),
        ({"input": 312, "cache_read_input_tokens": 100, "output": 87}, (412, 87)),
        ({"input": 412, "output": 80, "output_reasoning_tokens": 7}, (412, 87)),
        ({"promptTokens": 412, "completionTokens": 87}, (412, 87)),
    ],
)
def test_langfuse_parts(details: dict[str, int], wanted: tuple[int, int]) -> None:
    found = parse(lines({"startTime": ISO, "usageDetails": details}))
    assert rows(found) == [(0.0, *wanted)]


OK = {"timestamp": EPOCH_S, "prompt_tokens": 3, "completion_tokens": 4}


@pytest.mark.parametrize(
    "how",
    [{"status": 500}, {"status": "429"}, {"status_code": 499}, {"status": "failure"}, {"status": "Cancelled"},
     {"finish_reason": "abort"}, {"error": "timeout"}, {"error": {"code": 500}}, {"success": False},
     {"status": {"code": 2}}, {"status": {"status_code": "ERROR"}}, {"level": "ERROR"}, {"aborted": True}, {"choices": [{"finish_reason": "abort"}]}, {"usage": "n/a", "status": 500}],
    ids=str,
)  # fmt: skip
def test_what_failed_is_left_out_and_counted(how: dict[str, Any]) -> None:
    found = parse(lines(OK, OK | how))
    assert rows(found) == [(0.0, 3, 4)]
    assert found.report.left_out == {FAILED: 1}
    assert f"left out: 1 {FAILED}" in found.report.sentences()


@pytest.mark.parametrize(
    "how",
    [{"status": 200}, {"status": "success"}, {"status": "incomplete"}, {"finish_reason": "length"},
     {"error": None}, {"error": False}, {"error": ""}, {"success": True}, {"status": {"code": 1}}],
    ids=str,
)  # fmt: skip
def test_what_was_served_is_not(how: dict[str, Any]) -> None:
    assert len(parse(lines(OK, OK | how)).requests) == 2


def test_failures_in_a_table() -> None:
    text = "timestamp,prompt_tokens,completion_tokens,status\n" + "".join(
        f"{EPOCH_S},3,4,{status}\n" for status in ("200", "503", "failed", "")
    )
    found = parse(text)
    assert (len(found.requests), found.report.left_out) == (2, {FAILED: 2})
    text = "timestamp,prompt_tokens,completion_tokens,aborted,error\n" + "".join(
        f"{EPOCH_S},3,4,{flag},{error}\n"
        for flag, error in (("False", ""), ("True", ""), ("", "OOM"), ("", "None"))
    )
    found = parse(text)
    assert (len(found.requests), found.report.left_out) == (2, {FAILED: 2})


def test_what_is_no_single_request_is_left_out_and_counted() -> None:
    agent = span(operation="invoke_agent")
    assert parse(lines(span(), agent)).report.left_out == {SUMS: 1}
    session = {"session_id": "s", "arrival_time_ns": 5, "sub_requests": [
        {"input_toks": 30, "output_toks": 4, "tool_duration_ns": 9}, {"input_toks": 1, "output_toks": 1}]}  # fmt: skip
    found = parse(lines(session))
    assert (rows(found), found.report.left_out) == ([(0.0, 30, 4)], {LATER: 1})
    empty = OK | {"prompt_tokens": 0, "completion_tokens": 0}
    assert parse(lines(OK, empty)).report.left_out == {EMPTY: 1}
    unanswered = {"created": EPOCH_S, "usage": {"prompt_tokens": None}}
    assert parse(lines(OK, unanswered)).report.left_out == {UNANSWERED: 1}


def test_damaged_values_cost_no_others() -> None:
    text = PLAIN + f"yesterday,3,4\n{EPOCH_S},x,4\n{EPOCH_S},,4\n"
    found = parse(text)
    assert len(found.requests) == 2
    assert found.report.left_out == {UNREADABLE: 2, UNANSWERED: 1}
    assert found.report.first_fault.startswith("row 3: 'yesterday' is no time")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (PLAIN.replace(",", ";").replace(";4\n", ";4,5\n"), "'4,5' holds a comma"),
        (PLAIN.replace(",4\n", ",4,5\n"), "a decimal comma makes two fields"),
        (lines(OK | {"completion_tokens": "1,5"}), "'1,5' holds a comma"),
        ("timestamp, memory.used [MiB]\n2026/07/21 12:00:00, 1000 MiB\n", "memory in use .nvidia-smi.*--memory-log"),
        (lines({"timestamp": EPOCH_S, "input_length": 3}), "nearest format: (Bailian|Mooncake) without"),
        ("Timestamp,Model,Request tokens\n1,a,3\n", "found: model, request_tokens, timestamp; nearest format: BurstGPT without Response tokens"),
        (json.dumps({"input_lens": [3], "output_lens": [4]}), "--save-detailed"),
        (json.dumps({"start_times": [1], "input_lens": [3, 4], "output_lens": [4]}), "differ in length"),
        ("127.0.0.1 - - [21/Sep/2026] GET / 200\n", "record with --proxy"),
        ("", "no request"),
        ("[]", "no request"),
        ('[{"a": 1}, {"a"', "no whole JSON"),
    ],
)  # fmt: skip
def test_a_refusal_says_what_was_found_and_what_to_do(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "log").write_text(text)
    with pytest.raises(RapgymError, match=says) as error:
        requests.read(tmp_path / "log")
    assert "\n" not in str(error.value)


def test_the_nearest_format_is_asked_by_plain_names() -> None:
    assert formats.nearest({"input_lens", "completed"}, "requests").startswith(
        "vllm bench serve without"
    )
    assert formats.nearest({"nothing"}, "requests") == formats.PLAIN
    with pytest.raises(InvalidTrace):
        parse("a,b\n1,2\n")
