"""Traces: bad values cannot exist, files read back exactly, and a wrong file is refused."""

import gzip
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapgym.errors import DataUnavailable, InvalidTrace
from rapgym.files import limits
from rapgym.workload.trace import (
    MemoryTrace,
    RequestTrace,
    read_memory,
    read_requests,
    write_memory,
    write_requests,
)

GOOD = "arrival_s,prompt_tokens,output_tokens\n0.0,5,7\n0.25,9,0\n0.25,0,3\n1e+3,2147483648,1\n"
TIMES = st.floats(0, 1e10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("traces")


@st.composite
def request_traces(draw: st.DrawFn) -> RequestTrace:
    arrival_s = sorted(draw(st.lists(TIMES, min_size=1, max_size=20)))
    tokens = st.lists(
        st.integers(0, 1 << 31), min_size=len(arrival_s), max_size=len(arrival_s)
    )  # fmt: skip
    prompt, output = np.array(draw(tokens)), np.array(draw(tokens))
    wall_s = draw(st.just(math.nan) | st.floats(-1e10, 1e10))
    return RequestTrace(
        "drawn", np.array(arrival_s), np.maximum(prompt, output == 0), output, wall_s
    )


def requests(**changed: Any) -> RequestTrace:
    good: dict[str, Any] = {
        "arrival_s": np.array([0.0, 1.0, 1.0]),
        "prompt_tokens": np.array([3, 0, 2]),
        "output_tokens": np.array([0, 4, 2]),
    }
    return RequestTrace("t", **good | changed)


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"arrival_s": np.array([0.0, 2.0, 1.0])}, "unsorted, it falls in row 3"),
        ({"arrival_s": np.array([-1.0, 0.0, 1.0])}, "negative in row 1"),
        ({"arrival_s": np.array([0.0, math.nan, 1.0])}, "not finite"),
        ({"arrival_s": np.array([0.0, 1.0, math.inf])}, "not finite"),
        ({"arrival_s": np.array([0.0, 1.0, 1e300])}, "no time of a trace"),
        ({"arrival_s": np.array([0, 1, 2])}, "float64 array"),
        ({"arrival_s": np.zeros((3, 1))}, "one axis"),
        ({"arrival_s": [0.0, 1.0, 2.0]}, "float64 array"),
        ({"prompt_tokens": np.array([3, -1, 2])}, "prompt_tokens is negative in row 2"),
        ({"output_tokens": np.array([0, 4, 1 << 40])}, "output_tokens reaches"),
        ({"prompt_tokens": np.array([3.0, 0.0, 2.0])}, "int64 array"),
        ({"prompt_tokens": np.array([3, 2])}, "prompt_tokens has 2 rows, arrival_s has 3"),
        ({"prompt_tokens": np.array([0, 0, 2])}, "request 1 has neither"),
        ({"start_wall_s": math.inf}, "no point in time"),
        (dict.fromkeys(("prompt_tokens", "output_tokens"), np.array([], np.int64))
         | {"arrival_s": np.array([])}, "no rows"),
    ],
)  # fmt: skip
def test_bad_requests_cannot_exist(changed: dict[str, Any], fault: str) -> None:
    with pytest.raises(InvalidTrace, match=fault) as error:
        requests(**changed)
    assert str(error.value).startswith("t"), "the message names the trace"


@pytest.mark.parametrize(
    ("t_s", "used_bytes", "fault"),
    [
        ([0.0, 0.0], [1, 1], "one instant twice"),
        ([1.0, 0.0], [1, 1], "unsorted"),
        ([0.0, 1.0], [1, -1], "negative in row 2"),
        ([0.0, 1.0], [1, 1 << 60], "reaches"),
        ([0.0, math.nan], [1, 1], "not finite"),
        ([0.0], [1, 1], "has 2 rows"),
    ],
)
def test_bad_memory_cannot_exist(t_s: list[float], used_bytes: list[int], fault: str) -> None:
    with pytest.raises(InvalidTrace, match=fault):
        MemoryTrace("m", np.array(t_s), np.array(used_bytes))


def test_arrays_are_read_only_copies() -> None:
    arrival_s = np.array([0.0, 1.0, 2.0])
    trace = requests(arrival_s=arrival_s)
    with pytest.raises(ValueError, match="read-only"):
        trace.arrival_s[0] = 1
    arrival_s[0] = 9
    assert trace.arrival_s[0] == 0


@given(request_traces(), st.integers(1, 25))
def test_every_kth_request_is_one_replicas_part(trace: RequestTrace, k: int) -> None:
    part = trace.every(k)
    wanted = [row for row in range(len(trace)) if row % k == 0]
    assert part.arrival_s.tolist() == [trace.arrival_s[row] for row in wanted]
    assert part.output_tokens.tolist() == [trace.output_tokens[row] for row in wanted]
    np.testing.assert_equal(part.start_wall_s, trace.start_wall_s)


@given(request_traces(), st.tuples(TIMES, TIMES).map(sorted))
def test_between_takes_what_arrives_in_the_span(trace: RequestTrace, span: list[float]) -> None:
    start_s, stop_s = span
    wanted = [t_s for t_s in trace.arrival_s.tolist() if start_s <= t_s < stop_s]
    if wanted:
        assert trace.between(start_s, stop_s).arrival_s.tolist() == wanted
    else:
        with pytest.raises(InvalidTrace, match="no rows"):
            trace.between(start_s, stop_s)


def test_memory_between_starts_with_what_holds_there() -> None:
    trace = MemoryTrace("m", np.array([0.0, 10.0, 20.0]), np.array([1, 2, 3]))
    assert trace.between(12, 20).used_bytes.tolist() == [2]
    assert trace.between(10, 20.5).used_bytes.tolist() == [2, 3]


def test_every_needs_a_replica() -> None:
    with pytest.raises(InvalidTrace, match="k >= 1"):
        requests().every(0)


@given(request_traces(), st.sampled_from(["a.csv", "a.csv.gz"]))
def test_requests_read_back_exactly(folder: Path, trace: RequestTrace, name: str) -> None:
    write_requests(trace, folder / name)
    back = read_requests(folder / name, "drawn")
    for column in ("arrival_s", "prompt_tokens", "output_tokens", "start_wall_s"):
        np.testing.assert_array_equal(getattr(back, column), getattr(trace, column))
    first = (folder / name).read_bytes()
    write_requests(back, folder / name)
    assert (folder / name).read_bytes() == first, "the same trace gives the same bytes"
    if name.endswith(".gz"):
        assert first[3:8] == bytes(5), "neither a file name nor the time of writing is packed"


@given(st.lists(TIMES, min_size=1, unique=True).map(sorted), st.integers(0, 1 << 53))
def test_memory_reads_back_exactly(folder: Path, t_s: list[float], used: int) -> None:
    trace = MemoryTrace("m", np.array(t_s), np.full(len(t_s), used))
    write_memory(trace, folder / "m.csv.gz")
    back = read_memory(folder / "m.csv.gz", "m")
    assert back.t_s.tolist() == t_s
    assert back.used_bytes.tolist() == trace.used_bytes.tolist()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "no column 'arrival_s'"),
        (GOOD.replace("prompt_tokens", "prompt"), "no column 'prompt_tokens'"),
        (GOOD.replace("prompt_tokens", "arrival_s"), "two columns 'arrival_s'"),
        (GOOD.partition("\n")[0] + "\n", "no rows"),
        (GOOD.replace("9,0", "nine,0"), "row 2 of column 'prompt_tokens' is not a whole number"),
        (GOOD.replace("9,0", "9.5,0"), "not a whole number"),
        (GOOD.replace("9,0", "9_0,0"), "not a whole number"),
        (GOOD.replace("9,0", "٩,0"), "not a whole number"),
        (GOOD.replace("9,0", "nan,0"), "not a whole number"),
        (GOOD.replace("9,0", "99999999999999999999,0"), "not a whole number"),
        (GOOD.replace("0.25,9", "nan,9"), "not a number"),
        (GOOD.replace("0.25,9", "1e999,9"), "too large"),
        (GOOD.replace("0.25,9", ",9"), "not a number"),
        (GOOD.replace("0.25,9", "-0.25,9"), "unsorted, it falls in row 2"),
        (GOOD.replace("0.0,5", "-0.5,5"), "negative in row 1"),
        (GOOD.replace("9,0", "9,0,1"), "row 2 has 4 fields, its header 3"),
        (GOOD.replace("9,0", "9"), "row 2 has 2 fields"),
        (GOOD + "\n\n", "0 fields"),
        (GOOD.replace("9,0", '"9,0'), "not a CSV file"),
        ("# start=3\n" + GOOD, "first line"),
        ("# start_wall_s=nan\n" + GOOD, "first line"),
    ],
)
def test_a_wrong_file_is_refused_in_one_sentence(folder: Path, text: str, fault: str) -> None:
    (folder / "wrong.csv").write_text(text)
    with pytest.raises(InvalidTrace, match=fault) as error:
        read_requests(folder / "wrong.csv", "mine")
    assert str(error.value).startswith("mine")
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_read_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "latin.csv").write_bytes(GOOD.encode() + b"\xe9")
    (folder / "big.csv").write_text(GOOD)
    (folder / "plain.csv.gz").write_bytes(b"\x1f\x8b" + GOOD.encode())
    with pytest.raises(InvalidTrace, match="not UTF-8"):
        read_requests(folder / "latin.csv", "mine")
    with pytest.raises(InvalidTrace, match="damaged gzip"):
        read_requests(folder / "plain.csv.gz", "mine")
    for path in (folder / "absent.csv", folder, Path("a\0b.csv")):
        with pytest.raises(DataUnavailable, match="cannot be read"):
            read_requests(path, "mine")
    monkeypatch.setattr(limits, "CSV", len(GOOD) - 1)
    with pytest.raises(InvalidTrace, match="more than"):
        read_requests(folder / "big.csv", "mine")


@st.composite
def mutations(draw: st.DrawFn, good: bytes) -> bytes:
    """`good` with a few bytes replaced, removed or put in, or cut short."""
    content = bytearray(good)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(content)))
        until = draw(st.just(len(content)) | st.integers(at, min(at + 3, len(content))))
        content[at:until] = draw(st.sampled_from([b"", b",", b"\n", b"-", b'"', b"nan", b"\0"])
                                 | st.binary(max_size=3))  # fmt: skip
    return bytes(content)


@given(mutations(GOOD.encode()))
def test_a_mutated_file_is_refused_or_means_what_it_says(folder: Path, content: bytes) -> None:
    (folder / "mutated.csv").write_bytes(content)
    try:
        trace = read_requests(folder / "mutated.csv", "mine")
    except InvalidTrace:
        return
    lines = content.decode().replace('"', "").splitlines()
    names = next(line for line in lines if not line.startswith("#")).split(",")
    at = names.index("arrival_s")
    rows = [
        line.split(",")
        for line in lines
        if line and line[0] not in "#" and line.split(",") != names
    ]
    assert trace.arrival_s.tolist() == [float(row[at]) for row in rows]


@given(mutations(gzip.compress(GOOD.encode(), mtime=0)))
def test_a_mutated_gzip_is_refused_or_holds_the_same(folder: Path, content: bytes) -> None:
    (folder / "good.csv").write_text(GOOD)
    (folder / "mutated.csv.gz").write_bytes(content)
    try:
        trace = read_requests(folder / "mutated.csv.gz", "mine")
    except InvalidTrace:
        return
    good = read_requests(folder / "good.csv", "good")
    np.testing.assert_array_equal(trace.arrival_s, good.arrival_s)
    np.testing.assert_array_equal(trace.prompt_tokens, good.prompt_tokens)
