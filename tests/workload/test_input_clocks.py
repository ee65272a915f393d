"""Clocks of logs: unit, origin and zone are checked; what cannot be known is asked for or said."""

import json
import math
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapgym.errors import InvalidSpec, InvalidTrace
from rapgym.workload.inputs import clock, memory, requests
from rapgym.workload.inputs.how import OTHER_CLOCK, How
from rapgym.workload.inputs.requests import Found

EPOCH_S = 1_790_000_000
BERLIN = (
    "Europe/Berlin"  # puts its clocks back on 25 October 2026 at 01:00 UTC, forward on 29 March
)


pytestmark = pytest.mark.usefixtures("in_utc")


def read(times: list[Any], key: str = "timestamp", **how: Any) -> Found:
    entries = [{key: value, "prompt_tokens": 3, "completion_tokens": 4} for value in times]
    return requests.parse(["".join(json.dumps(each) + "\n" for each in entries)], "log", How(**how))


def arrivals(found: Found) -> list[float]:
    return found.requests.arrival_s.tolist()


@pytest.mark.parametrize("a_second", [1, 10**3, 10**6, 10**9])
def test_points_in_time_are_told_by_their_size(a_second: int) -> None:
    found = read([EPOCH_S * a_second, (EPOCH_S + 27) * a_second])
    assert (arrivals(found), found.requests.start_wall_s) == ([0, 27], EPOCH_S)
    told = " ".join(found.report.sentences())
    assert ("since 1970, by their size" in told) == (a_second > 1), "what was concluded is said"


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_times_from_a_start_need_their_unit(unit: str) -> None:
    a_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    times = [0, 3 * a_second, 27 * a_second]
    with pytest.raises(InvalidTrace, match=r"in a unit that is not stated: add --unit"):
        read(times)
    found = read(times, units=(unit,))
    assert arrivals(found) == [0, 3, 27]
    assert math.isnan(found.requests.start_wall_s)
    assert arrivals(read(times, key=f"arrival_{unit}")) == [0, 3, 27], "the key's name says it"


def test_a_stated_unit_overrides_what_a_format_has() -> None:
    entries: list[dict[str, Any]] = [
        {"timestamp": t, "input_length": 3, "output_length": 4, "hash_ids": []} for t in (0, 27)
    ]
    text = "".join(json.dumps(each) + "\n" for each in entries)
    assert arrivals(requests.parse([text], "log")) == [0, 0.027]
    assert arrivals(requests.parse([text], "log", How(("s",)))) == [0, 27]


def test_a_start_that_is_not_known_is_shifted_and_said() -> None:
    found = read([353_399.5, 353_402.0], units=("s",))
    assert arrivals(found) == [0.5, 3.0]
    assert any("shifted by 353399 s" in line for line in found.report.sentences())


def test_a_zero_among_points_in_time_is_left_out() -> None:
    found = read([EPOCH_S, 0, EPOCH_S + 3, 0, 0])
    assert (arrivals(found), found.report.left_out) == ([0, 3], {OTHER_CLOCK: 3})


def test_two_clocks_in_one_file_are_refused_unless_one_is_a_stray() -> None:
    with pytest.raises(
        InvalidTrace, match=r"has two clocks: 3 of its times are points in time, 2 "
    ):
        read([EPOCH_S, EPOCH_S + 1, EPOCH_S + 2, 5, 6])
    found = read([*range(EPOCH_S, EPOCH_S + 20), 5])
    assert (len(found.requests), found.report.left_out) == (20, {OTHER_CLOCK: 1})


def test_times_without_a_zone_are_this_machines_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = ["2026-09-21 14:13:20", "2026/09/21 14:13:23.250"]
    found = read(shown)
    assert (arrivals(found), found.requests.start_wall_s) == ([0, 3.25], EPOCH_S)
    assert any("this machine's zone (UTC); --utc or" in line for line in found.report.sentences())
    assert read(shown, timezone=BERLIN).requests.start_wall_s == EPOCH_S - 7200
    monkeypatch.setenv("TZ", BERLIN)
    time.tzset()
    assert read(shown).requests.start_wall_s == EPOCH_S - 7200
    assert read(shown, timezone="UTC").requests.start_wall_s == EPOCH_S
    assert (
        read([f"{each.replace('/', '-')}+00:00" for each in shown]).requests.start_wall_s == EPOCH_S
    )


def test_times_of_azure_are_utc_wherever_they_are_read() -> None:
    text = "TIMESTAMP,ContextTokens,GeneratedTokens\n2026-09-21 14:13:20.2500000,30,4\n"
    for zone in ("", BERLIN):
        assert requests.parse([text], "log", How(timezone=zone)).requests.start_wall_s == EPOCH_S


BACK = ["2026-10-25T01:59:50", "2026-10-25T02:30:00", "2026-10-25T02:59:50", "2026-10-25T02:00:00",
        "2026-10-25T02:40:00", "2026-10-25T03:00:00"]  # fmt: skip


def test_an_hour_that_passes_twice_is_told_apart_by_the_order() -> None:
    found = read(BACK, timezone=BERLIN)
    assert arrivals(found) == [0, 1810, 3600, 3610, 6010, 7210]
    assert any("2 rows are of the second time" in line for line in found.report.sentences())
    alone = read(BACK[1:2], timezone=BERLIN)
    assert alone.requests.start_wall_s == datetime(2026, 10, 25, 0, 30, tzinfo=UTC).timestamp()
    assert any("has twice: read as its first" in line for line in alone.report.sentences())


def test_an_hour_that_was_skipped_is_refused() -> None:
    assert len(read(["2026-03-29T02:30:00"]).requests) == 1, "not in UTC"
    with pytest.raises(
        InvalidTrace, match=r"row 1 shows 2026-03-29 02:30:00, which Europe/Berlin skipped"
    ):
        read(["2026-03-29T02:30:00"], timezone=BERLIN)


def test_requests_that_fall_back_by_an_hour_ask_for_their_zone() -> None:
    with pytest.raises(InvalidTrace, match=r"fall back by an hour in row 4.*state --timezone"):
        read(BACK)
    assert len(read(BACK[::-1]).requests) == 6, "the newest first: nothing falls back"
    found = read(BACK[::-1], timezone=BERLIN)
    assert arrivals(found) == [0, 1810, 3600, 3610, 6010, 7210]


def test_samples_that_fall_back_by_an_hour_ask_for_their_zone() -> None:
    text = "timestamp, memory.used [MiB]\n" + "".join(f"{each}, 5000 MiB\n" for each in BACK)
    with pytest.raises(InvalidTrace, match=r"fall back by an hour in row 4.*state --timezone"):
        memory.parse([text], "smi")
    stated = memory.parse([text], "smi", How(timezone="UTC")).report
    assert any("is it the right zone?" in line for line in stated.sentences())
    found = memory.parse([text], "smi", How(timezone=BERLIN))
    assert found.memory.t_s.tolist() == [0, 1810, 3600, 3610, 6010, 7210]


@given(
    st.lists(st.integers(0, 3 * 86400), min_size=1),
    st.sampled_from(["UTC", BERLIN, "America/New_York"]),
)
def test_what_a_wall_shows_is_read_back(seconds: list[int], zone: str) -> None:
    """Far from where clocks are changed, in whatever order."""
    from zoneinfo import ZoneInfo

    shown = [
        datetime.fromtimestamp(EPOCH_S + each, ZoneInfo(zone)).strftime("%Y-%m-%dT%H:%M:%S")
        for each in seconds
    ]
    found = read(shown, timezone=zone)
    assert found.requests.start_wall_s == EPOCH_S + min(seconds)
    assert arrivals(found) == sorted(each - min(seconds) for each in seconds)


@pytest.mark.parametrize(
    "key", ["startTimeUnixNano", "start_time_ns", "ts_ms", "timestamp_us", "arrival_s"]
)
def test_names_tell_units(key: str) -> None:
    assert (
        clock.unit_of(key)
        == {"o": "ns", "n": "ns", "m": "ms", "u": "us", "_": "s"}[
            "o" if key.endswith("Nano") else key[-2]
        ]
    )
    assert clock.unit_of("attempts") == clock.unit_of("ts") == clock.unit_of("timestamp") == ""


@pytest.mark.parametrize(
    "wrong",
    [{"units": ("hours",)}, {"units": ("s", "ms")}, {"timezone": "Mars/Base"}, {"pair": "end"}],
    ids=str,
)
def test_what_cannot_be_stated_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidSpec):
        How(**wrong)


def test_how_reads_back() -> None:
    how = How(("ms", "MiB"), BERLIN, "0:3", "start")
    text = ";".join(f"{name}={value}" for name, value in how.told.items())
    assert How.of(text) == how
    assert How.of("") == How()
    with pytest.raises(InvalidSpec, match="no 'zone'"):
        How.of("zone=UTC")
