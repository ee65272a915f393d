"""Loaders: what the raw files say, to the digit; and a wrong file is refused in one sentence."""

import csv
import gzip
from collections.abc import Callable
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rapgym.errors import DataUnavailable, InvalidSpec, InvalidTrace, RapgymError
from rapgym.workload import loaders, names, servegen, sources
from rapgym.workload.trace import RequestTrace, write_requests

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04.0319601,3180,8
2023-11-16 19:14:19.9280160,549,173
"""
MOONCAKE = """timestamp_ms,input_length,output_length,hash_ids
0,6758,500,0 1
0,7322,490,
0,7236,794,3
2999,10,1,4
5999,10,1,5
5999,11,2,6
"""
CLIENTS = """workload,client,t_s,rate_rps,iat_cv,pattern,arg1,arg2
w/a,10,0,0.5,1.1,Gamma,0.8,2.5
w/a,2,600,0.25,3,Weibull,0.4,1.0
w/a,2,1800,0.3,1,Gamma,1,3.3
"""
LENGTHS = """workload,client,t_s,in_mean,in_p50,in_p90,in_p99,out_mean,out_p50,out_p90,out_p99
w/a,2,0,427.5,275,380,4826,147.5,73,196,1857
w/a,10,0,10,9,20,30,5,4,8,9
"""
VLLM = "run_scale,t_s,kvcache_usage_pct\n100,0.0,0.5\n100,0.5,19.2\n200,0.0,0.0\n"

LOADERS: dict[str, tuple[Callable[[], Any], str]] = {
    "azure": (lambda: loaders.azure("azure-conv"), AZURE),
    "mooncake": (loaders.mooncake, MOONCAKE),
    "clients": (lambda: servegen.servegen_clients("w/a"), CLIENTS),
    "lengths": (lambda: servegen.servegen_lengths("w/a"), LENGTHS),
    "vllm": (lambda: loaders.vllm_kvcache(100), VLLM),
}

Load = Callable[..., Any]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Load:
    """Run a loader on a text of the test's own in place of the raw file."""
    monkeypatch.setattr(sources, "path_of", lambda _: tmp_path / "raw.csv")

    def loaded(name: str, text: str | bytes | None = None) -> Any:
        loader, good = LOADERS[name]
        content = good if text is None else text
        (tmp_path / "raw.csv").write_bytes(
            content if isinstance(content, bytes) else content.encode()
        )
        return loader()

    return loaded


def test_azure_keeps_every_digit(load: Load) -> None:
    trace = load("azure")
    assert trace.start_wall_s == datetime(2023, 11, 16, 18, 17, 3, tzinfo=UTC).timestamp()
    assert trace.arrival_s.tolist() == pytest.approx([0.97996, 1.0319601, 3436.928016], abs=1e-9)
    assert trace.prompt_tokens.tolist() == [4808, 3180, 549]
    assert trace.output_tokens.tolist() == [10, 8, 173]


def test_mooncake_bunches_are_spread_to_the_next_grid_point(load: Load) -> None:
    trace = load("mooncake")
    wanted = [0, 2.999 / 3, 2 * 2.999 / 3, 2.999, 5.999, 7.499]
    assert trace.arrival_s.tolist() == pytest.approx(wanted)
    assert trace.prompt_tokens.tolist() == [6758, 7322, 7236, 10, 10, 11]


def test_servegen_columns(load: Load) -> None:
    clients = load("clients")
    assert clients.client.tolist() == [2, 2, 10], "sorted by number, not by text"
    assert clients.t_s.tolist() == [600, 1800, 0]
    assert clients.weibull.tolist() == [True, False, False]
    lengths = load("lengths")
    assert lengths.prompt.tolist() == [[427.5, 275, 380, 4826], [10, 9, 20, 30]]
    assert lengths.output[1].tolist() == [5, 4, 8, 9]


def test_shares_become_bytes(load: Load) -> None:
    assert load("vllm").of(1000, base_bytes=7).used_bytes.tolist() == [12, 199]
    assert load("vllm").of(1 << 30).t_s.tolist() == [0, 0.5]


FAULTS = [
    ("azure", "ContextTokens", "Context", "no column 'ContextTokens'"),
    ("azure", "18:17:04.0319601", "18:17:01.0319601", "unsorted"),
    ("azure", "18:17:04.0319601", "18:17:04", "point in time"),
    ("azure", "2023-11-16 18:17:04", "2023-13-16 18:17:04", "point in time"),
    ("azure", "3180,8", "0,0", "neither prompt nor output"),
    ("azure", "3180,8", "31.8,8", "whole number"),
    ("mooncake", "2999,10", "9999,10", "unsorted"),
    ("mooncake", "2999,10", "-1,10", "unsorted"),
    ("mooncake", "0,7322,490,", "0,7322,490", "3 fields"),
    ("clients", "0.25,3", "0,3", "not positive"),
    ("clients", "0.25,3", "nan,3", "not a number"),
    ("clients", "Weibull", "Pareto", "neither Gamma nor Weibull"),
    ("clients", "2,1800", "2,600", "named twice"),
    ("clients", "w/a", "w/b", "no workload 'w/a'; there are w/b"),
    ("lengths", "275,380", "381,380", "do not ascend"),
    ("vllm", "100,0.5,19.2", "100,0.5,192", "not a share"),
    ("vllm", "100,0.5,19.2", "100,0.0,19.2", "named twice"),
    ("vllm", "100,", "300,", "no run at scale 100; there are 200, 300"),
]


@pytest.mark.parametrize(("name", "old", "new", "fault"), FAULTS)
def test_a_wrong_file_is_refused_in_one_sentence(
    load: Load, name: str, old: str, new: str, fault: str
) -> None:
    with pytest.raises((InvalidTrace, InvalidSpec), match=fault) as error:
        load(name, LOADERS[name][1].replace(old, new))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", LOADERS)
def test_zero_rows_and_no_file_are_refused(load: Load, name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidTrace, match="no rows"):
        load(name, LOADERS[name][1].partition("\n")[0] + "\n")
    (tmp_path / "raw.csv").unlink()
    with pytest.raises(DataUnavailable, match="cannot be read"):
        LOADERS[name][0]()


# The fixture only puts a file in the loader's way; every example writes its own.
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), name=st.sampled_from(list(LOADERS)))
def test_any_mutation_is_refused_or_read_as_written(
    load: Load, data: st.DataObject, name: str
) -> None:
    content = bytearray(LOADERS[name][1].encode())
    at = data.draw(st.integers(0, len(content)))
    until = data.draw(st.just(len(content)) | st.integers(at, min(at + 3, len(content))))
    content[at:until] = data.draw(
        st.sampled_from([b"", b",", b"\n", b"-", b'"', b"nan", b"inf", b"\0"])
        | st.binary(max_size=3)
    )
    try:
        record = load(name, bytes(content))
    except RapgymError:
        return
    for field in record.__slots__:
        value = getattr(record, field)
        if isinstance(value, np.ndarray):
            assert len(value) >= 1
            assert np.isfinite(value).all()
            assert (value >= 0).all()
        if field == "arrival_s" or (field == "t_s" and not hasattr(record, "client")):
            assert (np.diff(value) >= 0).all()


def test_load_requests_takes_names_and_paths(tmp_path: Path) -> None:
    trace = RequestTrace("mine", np.array([0.5]), np.array([1]), np.array([2]))
    write_requests(trace, tmp_path / "mine.csv.gz")
    loaded = loaders.load_requests(str(tmp_path / "mine.csv.gz"))
    assert (loaded.name, loaded.arrival_s.tolist()) == ("mine.csv.gz", [0.5])
    with pytest.raises(DataUnavailable, match="there are azure-conv"):
        loaders.load_requests("azure")


def test_what_is_named_as_a_trace_of_requests_has_a_loader() -> None:
    assert {*loaders._REQUESTS} == {*names.REQUESTS}


@pytest.mark.parametrize("name", names.REQUESTS)
def test_every_raw_trace_of_requests_is_loaded_by_its_name(raw_data: Path, name: str) -> None:
    assert len(loaders.load_requests(name)) > 1000


@pytest.mark.parametrize(("name", "rows"), [("azure-conv", 19366), ("azure-code", 8819)])
def test_azure_equals_the_raw_file(raw_data: Path, name: str, rows: int) -> None:
    trace = loaders.load_requests(name)
    assert len(trace) == rows
    with gzip.open(raw_data / sources.source_of(name).path, "rt") as file:
        for row, line in enumerate(csv.DictReader(file)):
            stamp, fraction = line["TIMESTAMP"].split(".")
            whole_s = datetime.fromisoformat(stamp).replace(tzinfo=UTC).timestamp()
            exact_s = Fraction(whole_s - trace.start_wall_s) + Fraction(int(fraction), 10**7)
            assert abs(exact_s - Fraction(float(trace.arrival_s[row]))) < 1e-9
            assert trace.prompt_tokens[row] == int(line["ContextTokens"])
            assert trace.output_tokens[row] == int(line["GeneratedTokens"])


def test_the_other_raw_files(raw_data: Path) -> None:
    mooncake = loaders.load_requests("mooncake-conversation")
    assert (len(mooncake), int(mooncake.prompt_tokens.sum())) == (12031, 144_793_823)
    assert np.diff(mooncake.arrival_s).max() < 3.01, "no bunch is left on the grid"
    assert loaders.vllm_kvcache(100).share.max() == pytest.approx(0.1925197)
    clients = servegen.servegen_clients("language/m-large")
    lengths = servegen.servegen_lengths("language/m-large")
    assert (len(clients.t_s), len(lengths.t_s)) == (99839, 3948)
